"""The blocks of the pages that are filled in from files.

A block stands between `<!-- filled: NAME -->` and `<!-- end -->`, which GitHub does not show. Where the first is a line
of its own the block is lines, such as a table; else it is a part of a line, and does not begin it: a line that
begins with such a mark is one of HTML, in which Markdown is not read.
"""

import re

from experiments.filled import evaluation, front, reliability, results, settings, speed
from experiments.results import REPOSITORY
from utils import UserError

PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((REPOSITORY / "docs").glob("*.md"))))
BLOCK = re.compile(r"<!-- filled: (\S+) -->(\n?)(.*?)(\n?)<!-- end -->", re.DOTALL)
TEXTS = front.TEXTS | results.TEXTS | evaluation.TEXTS | settings.TEXTS | speed.TEXTS | reliability.TEXTS


def page_texts():
    """Name of a page, such as "docs/speed.md" → its text."""
    return {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in PAGES}


def blocks(text):
    """The names of the blocks of a page's text, in their order."""
    return [name for name, *_ in BLOCK.findall(text)]


def filled(text, files, texts=None):
    """A page's text with its blocks as the files say.

    Args:
        text: str.
        files: experiments.filled.files.Files.
        texts: name of a block → what makes its text of the files (default: TEXTS).

    Raises:
        UserError: a block has a name that is none, or its marks are not as they must be.
    """
    texts = TEXTS if texts is None else texts

    def fill(found):
        (name, first, old, last), before = found.groups(), text[: found.start()].rpartition("\n")[2]
        if name not in texts:
            raise UserError(f"nothing fills in the block {name}: mend its name, or add it to experiments/filled/")
        if (first != last and old) or (before.strip() == "") != bool(first):
            raise UserError(f"the marks of the block {name} must stand alone on their lines, or within a line")
        return f"<!-- filled: {name} -->{first}{texts[name](files)}{first}<!-- end -->"

    if len(BLOCK.findall(text)) != text.count("<!-- filled:") or text.count("<!-- filled:") != text.count("<!-- end"):
        raise UserError("a mark `<!-- filled: NAME -->` or `<!-- end -->` stands without the other")
    return BLOCK.sub(fill, text)


def stale(files):
    """The blocks that are not what the files say: pairs of a page's name and the block's."""
    found = []
    for page, text in page_texts().items():
        pairs = zip(BLOCK.finditer(text), BLOCK.finditer(filled(text, files)), strict=True)
        found += [(page, now[1]) for now, then in pairs if now[0] != then[0]]
    return found
