"""The pictures that README.md and docs/ show: a row for each, of which run it is and what makes it.

What makes a picture is a command of predict.py, or the function behind a figure of an evaluation or of an experiment:
nothing is drawn here. Importing this loads nothing heavy.
"""

import importlib.util
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from experiments.results import REDUCED, read_rows
from utils import load_json

PICTURES = REDUCED / "pictures"
SLICE = Path("test", "DEPR", "274804_91.png")  # of the real slices: the one that is completed and asked about
LESIONS = ("dark_sharp_12", "bright_smooth_12")
WAYS = ("no_sharpen", "plain", "temperature=0.9", "guidance=2")


class Row(NamedTuple):
    """Pictures that one call makes.

    Attributes:
        names: of the files in ReducedResults/pictures/.
        make: called with the run's folder, the folder of real slices, or None, and an empty folder to work in;
            returns the paths of the pictures in the order of ``names``.
        run: whose they are, "brains" or "demo"; None for what is of no run.
        needs_slices: whether real slices are needed.
        needs: modules and programs beyond those of requirements.txt.
    """

    names: tuple
    make: Callable
    run: str | None = None
    needs_slices: bool = False
    needs: tuple = ()

    def lacking(self, data):
        """Why it cannot be made here, or None.

        Args:
            data: the folder of real slices, or None.
        """
        if self.needs_slices and not data:
            return "it needs real slices: --data"
        absent = [name for name in self.needs if not (shutil.which(name) or importlib.util.find_spec(name))]
        return f"it needs {' and '.join(absent)}" if absent else None


# ---- what makes them ----------------------------------------------------------------------------


def predicted(words, found, run, data, work):
    """Call predict.py with some words, and take some files of the folder that it writes.

    Args:
        words: str, in which {data} and {slice} are the folder of real slices, and one of them.
        found: names of the files.
        run, data, work: as in Row.
    """
    import predict

    given = [word.format(data=data, slice=data and Path(data, SLICE)) for word in words.split()]
    predict.main([*given, "--run", f"{run}", "--out", f"{work / 'made'}"])
    return [work / "made" / name for name in found]


def null_bands(run, data, work):
    """The figure of an evaluation that sets its numbers beside what a perfect prior scores."""
    from report.figures import null_figure

    null_figure(work / "null_bands.png", load_json(run / "metrics.json"))
    return [work / "null_bands.png"]


def samples_and_slices(run, data, work):
    """The figure of an evaluation that has its samples above slices of test people."""
    from metrics.measured import as_samples
    from metrics.parts import Cache, load_part, sample_codes
    from report.figures import side_by_side_figure
    from sampling.run import Run

    run = Run(run, data=data)
    kept = Cache(run, folder=work)
    part = load_part(run, kept, "test", decoded=False)
    slices = part.image_set(part.crops)
    codes = sample_codes(run, kept, *part.columns.values(), len(slices.images))
    samples = as_samples(slices, run.sharpened(run.decode_crops(codes, "samples")))
    both = SimpleNamespace(shown=samples, originals=slices, labels=run.labels)
    side_by_side_figure(work / "samples_and_slices.png", both)
    return [work / "samples_and_slices.png"]


def healed(run, data, work):
    """What ``predict.py score --heal`` makes of LESIONS in one slice."""
    import predict
    from experiments.lesions import write_examples
    from sampling.run import Run

    label, position = write_examples(work / "lesions", Run(run, data=data), SLICE, LESIONS)
    told = ("--label", label, "--position", f"{position}")
    given = ("--run", f"{run}", "--data", f"{data}", "--out", f"{work / 'made'}")
    predict.main(["score", f"{work / 'lesions'}", "--heal", *told, *given])
    return [next((work / "made").glob(f"*_{name}_map.png")) for name in LESIONS]


def ways_to_draw(run, data, work):
    """The sheet of experiments/draws.py."""
    from experiments.draws import draw_sheet, way
    from sampling.run import Run

    draw_sheet(work / "draws.png", Run(run, data=data), [way(text) for text in WAYS])
    return [work / "draws.png"]


def page(run, data, work):
    """The page of ``predict.py explore`` in a browser, by experiments/screenshot.py."""
    from experiments import screenshot

    given = ("--run", f"{run}", "--data", f"{data}", "--slice", f"{Path(data, SLICE)}")
    screenshot.main([*given, "--out", f"{work}"])
    return [work / "explore.png", work / "explore_slice.png"]


def people_trained_on(run, data, work):
    """The figure of experiments/study.py."""
    from experiments.study import people_figure

    people_figure(work / "people_trained_on.png", read_rows(REDUCED / "study.csv"))
    return [work / "people_trained_on.png"]


def benchmark(run, data, work):
    """The figure of experiments/benchmark.py."""
    from experiments.benchmark import draw
    from experiments.filled.files import Files

    draw(Files().benchmark, work / "benchmark.png")
    return [work / "benchmark.png"]


BY_HAND = ("architecture.svg", "study.png")
ROWS = (
    Row(
        ("people.png", "people_views.png"),
        partial(predicted, "people --num-people 3", ("contact_sheet.png", "contact_sheet_views.png")),
        "brains",
    ),
    Row(("samples.png",), partial(predicted, "sample --num-images 32", ("sheet.png",)), "brains"),
    Row(("samples_and_slices.png",), samples_and_slices, "brains", needs_slices=True),
    Row(("null_bands.png",), null_bands, "brains"),
    Row(
        ("reconstructions.png",),
        partial(predicted, "reconstruct {data}/test", ("sheet.png",)),
        "brains",
        needs_slices=True,
    ),
    Row(("demo_labels.png",), partial(predicted, "vary label --position 12", ("sheet.png",)), "demo"),
    Row(
        ("temperatures.png",), partial(predicted, "vary temperature --label NC --position 12", ("sheet.png",)), "brains"
    ),
    Row(("interpolation.png",), partial(predicted, "interpolate --label NC --position 12", ("sheet.png",)), "brains"),
    Row(("positions.gif",), partial(predicted, "vary position", ("sweep.gif",)), "brains"),
    Row(
        ("completions.png",),
        partial(predicted, "complete {slice} --keep top --num-images 5 --data {data}", ("alternatives.png",)),
        "brains",
        needs_slices=True,
    ),
    Row(("healed_dark.png", "healed_bright.png"), healed, "brains", needs_slices=True),
    Row(("draws.png",), ways_to_draw, "brains", needs_slices=True),
    Row(("gallery.png",), partial(predicted, "gallery --data {data}", ("gallery.png",)), "brains", needs_slices=True),
    Row(
        ("explore.png", "explore_slice.png"),
        page,
        "brains",
        needs_slices=True,
        needs=("chromium", "streamlit", "playwright"),
    ),
    Row(("people_trained_on.png",), people_trained_on),
    Row(("benchmark.png",), benchmark),
)
