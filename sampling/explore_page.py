"""The page of ``python predict.py explore``: Streamlit runs this file anew at every click, once for each visitor."""

import sys
from base64 import b64encode
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import Lock

import streamlit as st

from report.marked import png_bytes
from sampling.completion import kept_pixels
from sampling.draws import BLOCK, NONE
from sampling.explore import archive, mark_of, painted_pixels, show_answer, show_completions, show_people, show_slices
from sampling.run import Run
from sampling.scoring import load_validation
from slices.uploads import LARGEST, in_frame, read_upload
from training.folder import white_of
from utils import UserError

MOST_PEOPLE = 8
HALVES = {  # what to complete: what of the frame is kept for that
    "what is painted": None,
    "lower half": "top",
    "upper half": "bottom",
    "right half": "left",
    "left half": "right",
}
PAINT_HTML = """
<div><canvas></canvas><canvas style="position: absolute; left: 0; top: 0; opacity: 0.6; cursor: crosshair;
touch-action: none"></canvas></div><label>brush <input type="range" min="2" max="40" value="8"></label>
<button>clear</button>
"""
PAINT_CSS = """
div { position: relative; line-height: 0; margin-bottom: 0.5em }
canvas { width: 384px; max-width: 100%; image-rendering: pixelated }
button { margin-left: 1em }
"""


def page(folder, data):
    """Show the page of a run.

    Args:
        folder: the run's.
        data: that of its slices, or "" where they were.
    """
    st.set_page_config(page_title=f"explore {Path(folder).name}", layout="wide")
    run, lock = opened(folder, data)
    st.title(f"Explore {run.name}")
    st.write(f"Every picture is **{mark_of(run)}**, and says so. What you give is kept nowhere.")
    drawing, asking = st.tabs(["Draw", "Ask about a slice"])
    with drawing:
        draw(run, lock)
    with asking:
        ask(run, lock)


@st.cache_resource(show_spinner="opening the run")
def opened(folder, data):
    """The Run, and a lock: one visitor's models work at a time."""
    return Run(Path(folder), data=data or None), Lock()


@st.cache_resource(show_spinner="reading the slices of validation people, once")
def validation_of(folder, data):
    """The Validation of the run, None where there are no such slices; and why."""
    try:
        return load_validation(opened(folder, data)[0]), None
    except UserError as error:
        return None, str(error)


# ---- draw -----------------------------------------------------------------------------------------


def draw(run, lock):
    """The tab of what the run draws."""
    settings, result = st.columns([1, 3])
    with settings, st.form("draw"):
        what = st.radio("what", ["slices", "people"], horizontal=True, disabled=run.num_positions < 2)
        count = st.number_input("how many", 1, BLOCK, 8, help=f"people: {MOST_PEOPLE} at most")
        label = choose("label", run.labels, "drawn from the training mix")
        position = choose("position", range(run.num_positions), "drawn with the label", "0 is the lowest; of slices")
        temperature = st.slider("temperature", 0.5, 1.5, 1.0, 0.05, help="lower is tamer")
        guidance = st.slider("guidance", 0.0, 5.0, 1.0, 0.25, help="more follows label and position more strongly")
        seed = st.number_input("seed", 0, 2**31 - 1, 0)
        asked = st.form_submit_button("Draw", type="primary")
    if asked:
        drawn = {"seed": seed, "temperature": temperature, "guidance": guidance}
        with result, told(), lock, st.spinner("drawing", show_time=True):
            if what == "people":
                st.session_state.drawn = show_people(run, min(count, MOST_PEOPLE), label, **drawn)
            else:
                st.session_state.drawn = show_slices(run, count, label, position, **drawn)
    with result:
        show(st.session_state.get("drawn", ()), "drawn")


def choose(what, values, without, help=None):
    """A label or a position of the run, None where it is to be drawn, or NONE."""
    words = {None: without, NONE: "none: the model without it"}
    return st.selectbox(what, [None, *values, NONE], format_func=lambda value: words.get(value, str(value)), help=help)


# ---- ask ------------------------------------------------------------------------------------------


def ask(run, lock):
    """The tab of a given slice."""
    settings, result = st.columns([1, 3])
    with settings:
        file = st.file_uploader(f"a slice: PNG, JPEG or NIfTI, {LARGEST} MB at most", max_upload_size=LARGEST)
        label = choose_known("its label", run.labels)
        position = choose_known("its position", range(run.num_positions))
        seed = st.number_input("seed of completions", 0, 2**31 - 1, 0)
        count = st.slider("completions", 2, 8, 4)
        image = uploaded(run, file) if file else None
    if image is None:
        return
    name = sha256(image.tobytes()).hexdigest()
    if st.session_state.get("slice") != name:  # what was shown is of another
        st.session_state.update({"slice": name, "answer": (), "completions": ()})
    with result:
        if st.button("Ask", type="primary"):
            with told(), lock, st.spinner("asking", show_time=True):
                validation, why_not = validation_of(*sys.argv[1:3])
                st.session_state.answer = [show_answer(run, image, label, position, validation)]
                st.session_state.note = why_not and f"There is no map of how unusual the codes are: {why_not}."
        show(st.session_state.answer, "answer", st.session_state.get("note"))
        where = st.radio(
            "complete",
            list(HALVES),
            horizontal=True,
            help="the lower half is drawn exactly and soon; all else is swept",
        )
        mask = paint(image, name)
        if st.button("Complete"):
            with told(), lock, st.spinner("completing", show_time=True):
                half = HALVES[where]
                painted = painted_pixels(run, mask) if half is None else ~kept_pixels(half, None, run.frame)
                completed = show_completions(run, image, painted, count, label, position, seed)
                st.session_state.completions = [completed]
        show(st.session_state.completions, "completions")


def choose_known(what, values):
    """A label or a position of the run, or None where it is not known."""
    return st.selectbox(what, [None, *values], format_func=lambda value: "not known" if value is None else str(value))


def uploaded(run, file):
    """The slice of a file that was given, (H, W) uint8 in the run's frame; None, and why is told."""
    with told():
        planes = read_upload(file.name, file.getvalue(), white_of(run.config))
        plane = st.slider("slice of the volume", 0, len(planes) - 1, len(planes) // 2) if len(planes) > 1 else 0
        return in_frame(planes[plane], run.frame)


def paint(image, name):
    """A slice to paint over; what was painted, as ``painted_pixels`` takes it."""
    canvas = st.components.v2.component(
        "paint", html=PAINT_HTML, css=PAINT_CSS, js=Path(__file__).with_name("paint.js").read_text(encoding="utf-8")
    )
    url = f"data:image/png;base64,{b64encode(png_bytes(image)).decode()}"
    data = {"name": name, "slice": url, "height": image.shape[0], "width": image.shape[1]}
    return canvas(key=f"paint {name}", data=data, on_mask_change=lambda: None).mask


# ---- show -----------------------------------------------------------------------------------------


@contextmanager
def told():
    """Tell a user's mistake in the block."""
    try:
        yield
    except UserError as error:
        st.error(f"{error}")


def show(pictures, key, note=None):
    """Pictures, a button that downloads their bytes, and a note."""
    if not pictures:
        return
    with st.container(horizontal=True):
        for one in pictures:
            st.image(one.png, width="content", output_format="PNG")  # or it would be a JPEG
    alone = len(pictures) == 1
    st.download_button(
        "Download what is shown",
        pictures[0].png if alone else archive(pictures),
        pictures[0].name if alone else "pictures.zip",
        key=f"download {key}",
        on_click="ignore",
    )
    if note:
        st.info(note)


if __name__ == "__main__":
    page(*sys.argv[1:3])
