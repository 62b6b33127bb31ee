"""The page of a reader study: it shows images one by one and asks of each whether it is real."""

import base64
import hashlib
import html
import io

from slices.images import save_png
from utils import whole_file

MARK = "contains participants' images: do not share"
SIMULATED = "the real slices are those of simulated people"
STUDY_PAGE = """<!doctype html>
<html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width, initial-scale=1">
<title>Reader study</title><style>
:root{color-scheme:dark}
body{font:18px/1.5 system-ui,sans-serif;background:#000;color:#d8dde2;margin:0 auto;max-width:48rem;padding:1rem;
text-align:center}
.mark{background:#fff3cd;color:#20252b;padding:.4rem .8rem;font-weight:600}
img{display:none;margin:1rem auto;width:min(92vw,60vh);image-rendering:auto}
img.now{display:block}
button,input{font:inherit;padding:.5rem 1.2rem;margin:.3rem;background:#20252b;color:inherit;border:1px solid #56606a;
border-radius:.3rem}
button:focus-visible{outline:3px solid #2b8cd6}
kbd{color:#8b96a0;font-size:.8em}
[hidden]{display:none}
</style></head><body>
@MARK@
<h1>Real, or made by a model?</h1>
<noscript>This page needs JavaScript; it loads nothing and sends nothing.</noscript>
<section id=start><p>@COUNT@ slices of brain MRI, one after the other. Some are real, some are made by a model. Answer
each as best you can; there is no going back. Nothing leaves this page: at the end it gives you a file of your
answers.</p>
<p><label>Your initials or number: <input id=reader maxlength=40></label> <button id=begin>Begin</button></p></section>
<section id=asking hidden><p id=place></p>
@IMAGES@
<p><button data-answer=real>Real <kbd>R</kbd></button><button data-answer=sampled>Made by a model <kbd>M</kbd></button>
</p></section>
<section id=end hidden><p>Thank you. Save your answers, and hand the file back.</p>
<p><a id=save download=answers.csv><button>Save answers.csv</button></a></p></section>
<script>
const study = "@STUDY@", images = [...document.querySelectorAll("img")], answers = [];
const part = id => document.getElementById(id);
let shown = 0, saved = false;
function show() {
  images.forEach((image, i) => image.classList.toggle("now", i === answers.length));
  part("place").textContent = `${answers.length + 1} of ${images.length}`;
  shown = performance.now();
}
function answer(word) {
  answers.push([word, ((performance.now() - shown) / 1000).toFixed(2)]);
  if (answers.length < images.length) return show();
  const reader = part("reader").value.replace(/[^\\p{L}\\p{N} ._-]/gu, "");
  const rows = answers.map(([word, seconds], i) => [study, reader, i + 1, word, seconds].join(","));
  const file = new Blob([["study,reader,image,answer,seconds", ...rows, ""].join("\\n")], {type: "text/csv"});
  part("save").href = URL.createObjectURL(file);
  part("asking").hidden = true;
  part("end").hidden = false;
}
part("begin").onclick = () => { part("start").hidden = true; part("asking").hidden = false; show(); };
part("save").onclick = () => { saved = true; };
document.querySelectorAll("[data-answer]").forEach(button => { button.onclick = () => answer(button.dataset.answer); });
addEventListener("keydown", event => {
  const word = {r: "real", m: "sampled"}[event.key.toLowerCase()];
  if (word && !event.repeat && !part("asking").hidden) answer(word);
});
addEventListener("beforeunload", event => { if (answers.length && !saved) event.preventDefault(); });
</script></body></html>
"""


def write_reader_study(path, images, mark=None):
    """One HTML file that shows images one by one, asks of each whether it is real, and gives a CSV of the answers.

    It holds the images, their order and nothing else: all are stored alike, as PNG without metadata.

    Args:
        images: (N, H, W, 1) uint8, in the order in which they are shown.
        mark: words at the top of the page, or None.

    Returns:
        The study's name, which a file of answers carries: 12 hexadecimal digits.
    """
    files = []
    for image in images:
        with io.BytesIO() as buffer:
            save_png(buffer, image)
            files.append(buffer.getvalue())
    study = hashlib.sha256(b"".join(files)).hexdigest()[:12]
    tags = [
        f'<img alt="slice {i}" src="data:image/png;base64,{base64.b64encode(file).decode()}">'
        for i, file in enumerate(files, 1)
    ]
    page = STUDY_PAGE
    for word, text in (
        ("STUDY", study),
        ("COUNT", str(len(images))),
        ("IMAGES", "\n".join(tags)),
        ("MARK", f"<p class=mark>{html.escape(mark)}</p>" if mark else ""),
    ):
        page = page.replace(f"@{word}@", text)
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return study
