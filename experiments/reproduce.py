"""Every picture and every filled-in number of README.md and docs/, made anew from what lies in ReducedResults/.

    python experiments/reproduce.py --data BRAINS
    python experiments/reproduce.py --data BRAINS --check

The pictures are those of the rows of experiments/shown.py. The texts are the blocks of the pages that the functions in
experiments/filled/ make of metrics.json, of the tables of the other experiments, and of what else lies there. No
training is repeated. With --check nothing is written but what differs is told, and the exit status is 1 where anything
does. A picture may differ from the one there by BOUND grey levels in the mean: other processors round otherwise.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.results import REDUCED, REPOSITORY
from experiments.shown import BY_HAND, PICTURES, ROWS
from utils import Parser, UserError, check_folder, run_script, whole_file

BOUND = 2.0  # of 255
TEXT = "text"  # what --only calls the blocks of the pages
LINK = re.compile(r"\]\(([^)#\s]+\.(?:png|gif|svg))\)")


# ---- pictures -----------------------------------------------------------------------------------


def make_pictures(rows, runs, data, done):
    """Make the pictures of some rows, each in a temporary folder, and say which are skipped.

    Args:
        rows: list of shown.Row.
        runs: folder of the run folders.
        data: folder of real slices, or None.
        done: called with each picture's name and the path of the new file, before that is removed.
    """
    for row in rows:
        if reason := row.lacking(data):
            print(f"skipped: {', '.join(row.names)}: {reason}", flush=True)
            continue
        with tempfile.TemporaryDirectory() as work:
            made = row.make(row.run and (runs / row.run).absolute(), data and Path(data).absolute(), Path(work))
            for name, path in zip(row.names, made, strict=True):
                done(name, path)


def keep(name, path):
    """Put a new picture in the place of the one there."""
    PICTURES.mkdir(exist_ok=True)
    with whole_file(PICTURES / name) as temporary:
        shutil.copyfile(path, temporary)
    print(f"made: {PICTURES / name}", flush=True)


def difference(path, other):
    """How two pictures differ: 0.0 where their bytes are the same, else the mean difference of their pixels.

    Returns:
        float in grey levels of 255, over the three colours and all frames; 255.0 where they have other sizes.
    """
    import numpy as np
    from PIL import Image, ImageSequence

    if path.read_bytes() == other.read_bytes():
        return 0.0
    pixels = []
    for file in (path, other):
        with Image.open(file) as picture:
            frames = [np.asarray(frame.convert("RGB"), float) for frame in ImageSequence.Iterator(picture)]
        pixels.append(np.stack(frames))  # (F, H, W, 3)
    return float(np.abs(pixels[0] - pixels[1]).mean()) if pixels[0].shape == pixels[1].shape else 255.0


def compared(name, path):
    """What is wrong with the picture there beside a new one: a sentence, or None; what is within BOUND is printed."""
    if not (PICTURES / name).is_file():
        return f"{PICTURES / name} is not there"
    levels = difference(path, PICTURES / name)
    if levels > BOUND:
        return f"{PICTURES / name} is another: {levels:.1f} grey levels in the mean"
    print(f"the same: {name}" + (f", but for {levels:.2f} grey levels in the mean" if levels else ""), flush=True)
    return None


def unmatched(shown):
    """What is wrong with the list of pictures, beside the files that pages show (set of Paths): a list of sentences."""
    listed = {PICTURES / name for row in ROWS for name in row.names} | {PICTURES / name for name in BY_HAND}
    there = set(PICTURES.iterdir()) if PICTURES.is_dir() else set()
    return [
        *(f"{path} is shown, and experiments/shown.py has no row for it" for path in sorted(shown - listed)),
        *(f"{path} has a row in experiments/shown.py, and no page shows it" for path in sorted(listed - shown)),
        *(f"{path} lies there, and no page shows it" for path in sorted(there - listed - shown)),
    ]


def shown_files(texts):
    """The pictures that pages show or link to, a set of Paths; ``texts``: name of a page → its text."""
    return {(REPOSITORY / page).parent.joinpath(link).resolve() for page in texts for link in LINK.findall(texts[page])}


# ---- the script ---------------------------------------------------------------------------------


def reproduce(runs=REDUCED, data=None, only=(), check=False):
    """Make pictures and texts, or with ``check`` find what is not as they would be.

    Args:
        runs: folder of the run folders that the pictures are of.
        data: folder of real slices, or None: what needs them is skipped.
        only: names of pictures, without their endings, and "text"; all where there is none.

    Returns:
        list of sentences: what differs, and what is listed and not shown, or shown and not listed.

    Raises:
        UserError: there is no picture of such a name, or a run cannot be used.
    """
    from experiments.filled.files import Files
    from experiments.filled.pages import filled, page_texts, stale

    rows, with_text = chosen(only)
    wrong = unmatched(shown_files(page_texts()))

    def look(name, path):
        wrong.extend(filter(None, [compared(name, path)]))

    make_pictures(rows, Path(runs), data, look if check else keep)
    if with_text and check:
        wrong += [f"{page}: the block {name} is not what the files say" for page, name in stale(Files())]
    elif with_text:
        for page, text in page_texts().items():
            write_page(page, text, filled(text, Files()))
    return wrong


def chosen(only):
    """The rows that have a picture of these names, all for none, and whether texts are wanted."""
    names = {Path(name).stem: row for row in ROWS for name in row.names}
    for name in only:
        if name not in names and name != TEXT:
            raise UserError(f"there is no picture {name}: they are {', '.join(names)}; and {TEXT}")
    rows = [row for row in ROWS if not only or any(names.get(name) is row for name in only)]
    return rows, not only or TEXT in only


def write_page(page, old, new):
    """Write a page where its text is another, and say so."""
    if new != old:
        with whole_file(REPOSITORY / page) as temporary:
            temporary.write_text(new, encoding="utf-8")
        print(f"filled in: {page}", flush=True)


def main(argv):
    """Make, or check; see ``python experiments/reproduce.py --help``."""
    parser = Parser(prog="experiments/reproduce.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", metavar="DIR", help="the real slices (default: pictures that need them are skipped)")
    parser.add_argument(
        "--runs", default=f"{REDUCED}", metavar="DIR", help="where the runs brains and demo are (default %(default)s)"
    )
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="NAME", help=f"pictures without their endings, and {TEXT}"
    )
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs: then the status is 1")
    flags = parser.parse_args(argv)
    if flags.data:
        check_folder(flags.data)
    wrong = reproduce(**vars(flags))
    for sentence in wrong:
        print(sentence)
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
