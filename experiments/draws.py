"""How a finished run's samples change with how they are drawn, against real slices of validation people; run by hand.

    python experiments/draws.py --run brains --draw no_sharpen sharpened refined plain temperature=0.9 guidance=2

A row for each way to draw: as many samples as there are validation slices, with their labels and positions, seed 0.
The row `other slices` is what a perfect prior might score: slices of the half of the training people on whom nothing is
fitted, one for each of the same label and position.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

from experiments.results import REDUCED, read_rows, write_rows
from metrics.distances import set_statistics
from metrics.measured import ImageSet, as_samples
from metrics.nulls import halve
from metrics.sets import Yardstick
from sampling.draws import check_draw, draw_codes
from sampling.run import Run
from slices.frame import crop
from slices.index import condition_ids
from slices.sheets import image_sheet
from utils import Parser, random_generator, run_script

COLUMNS = {  # of the table → key of metrics.distances.set_statistics
    "AUC": "two_sample_auc",
    "of shape": "two_sample_auc_shape",
    "of texture": "two_sample_auc_texture",
    "of fine detail": "detail_auc",
    "missing power": "spectrum_gap",
    "noise": "noise_ratio",
    "patches": "patches",
    "Fréchet": "frechet",
    "recall": "recall",
    "coverage": "coverage",
    "diversity": "diversity",
    "asymmetry": "anatomy.asymmetry_effect",
}
EARLY = ("no_sharpen", "sharpened", "refined")  # ways that stop before all is done to what is decoded
SHOWN = 6  # samples of each way in the sheet


def main(argv):
    """Measure the samples of a run, drawn in several ways."""
    parser = Parser(prog="experiments/draws.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", required=True, metavar="NAME", help="name under runs/, or a path")
    parser.add_argument("--data", metavar="DIR", help="where the run's slices are now")
    parser.add_argument(
        "--draw",
        nargs="+",
        type=way,
        default=[way("plain")],
        metavar="WAY",
        help="plain, no_sharpen, sharpened, refined, or NAME=NUMBER,…",
    )
    parser.add_argument("--out", type=Path, default=REDUCED / "draws.csv", metavar="FILE", help="rows are added to it")
    measure_draws(**vars(parser.parse_args(argv)))


def way(text):
    """ "temperature=0.9,guidance=2" -> its text, and {"temperature": 0.9, "guidance": 2.0} to draw with."""
    given = dict(part.partition("=")[::2] for part in text.split(",") if part not in ("plain", *EARLY))
    return text, {name: int(value) if name == "top_k" else float(value) for name, value in given.items()}


def measure_draws(run, draw, data=None, out=REDUCED / "draws.csv"):
    """Add a row for each way to draw to a CSV.

    Args:
        run: str.
        draw: list of pairs as ``way`` gives them.
        data: where the run's slices are.
        out: Path of the CSV.

    Raises:
        UserError: there is no such run, or its slices are not there.
    """
    run = Run(run, data=data)
    run.needs_data()
    for _, how in draw:
        check_draw(**how)
    reference, (fitted, others) = slices_of(run, "validation"), halves(slices_of(run, "train"))
    yardstick = Yardstick(fitted)
    real, rows = yardstick.describe(reference), read_rows(out)

    def measured(name, images, seconds=0):
        described = yardstick.describe(as_samples(reference, images))
        found = set_statistics(described, real, real.person, yardstick.shape_rms)
        row = {"run": run.name, "draw": name} | {column: f"{found[key]:.3f}" for column, key in COLUMNS.items()}
        print(", ".join(f"{column} {value}" for column, value in row.items()), flush=True)
        return row | {"slices/s": f"{len(images) / seconds:.1f}" if seconds else ""}

    rows.append(measured("other slices", others.images[same_place(reference, others)]))
    for name, how in draw:
        start = time.perf_counter()
        rows.append(measured(name, drawn(run, reference, name, how), time.perf_counter() - start))
    write_rows(out, rows, ["run", "draw", *COLUMNS, "slices/s"])


def drawn(run, reference, name, how):
    """Samples (N, H, W) uint8 with the labels and positions of an ImageSet, drawn in one of the ways of ``way``."""
    blocks = draw_codes(run.prior, reference.label, reference.position + 1, 0, scored=False, **how)
    crops = run.decode_crops(np.concatenate([codes for _, codes, _ in blocks])[: len(reference.images)])
    if "no_sharpen" in name:
        return crops
    if "sharpened" in name:
        return run.sharpening.sharpen(crops)
    if "refined" in name:
        return run.refined(run.sharpening.sharpen(crops))
    return run.sharpened(crops)


def draw_sheet(path, run, draw):
    """Write SHOWN slices of validation people, from the lowest to the highest, and below them samples of each way."""
    reference = shown_slices(run)
    images = {"validation\npeople": reference.images}
    images |= {name.replace("=", "\n"): drawn(run, reference, name, how) for name, how in draw}
    image_sheet(path, np.concatenate(list(images.values()))[..., None], SHOWN, list(images))


def shown_slices(run):
    """SHOWN slices of validation people, from the lowest to the highest: an ImageSet."""
    reference = slices_of(run, "validation")
    return reference.take(np.linspace(0, len(reference.images) - 1, SHOWN).astype(int))


def slices_of(run, split):
    """The slices of a split in the run's crop box, an ImageSet in the order of their positions."""
    rows = run.slices[run.slices["split"] == split].sort_values(["position", "path"], ignore_index=True)
    loaded = run.load(run.data, rows["path"])
    rows = rows[loaded.usable]
    crops, ids = crop(loaded.images, run.box)[..., 0], condition_ids(rows, run.labels)
    return ImageSet(crops, ids["label"], ids["position"] - 1, rows["subject"].to_numpy().astype(str))


def halves(training):
    """The slices of two halves of the people of an ImageSet."""
    return [training.take(half) for half in halve(training.person, training.label, 0)]


def same_place(reference, others):
    """For each slice of an ImageSet a row of another one, of its label and position where there is any: (N,) int."""
    random, rows = random_generator(0, "other slices"), []
    for label, position in zip(reference.label, reference.position, strict=True):
        here = others.position == position
        both = here & (others.label == label)
        rows.append(random.choice(np.flatnonzero(both if both.any() else here if here.any() else others.label >= 0)))
    return np.array(rows)


if __name__ == "__main__":
    run_script(main)
