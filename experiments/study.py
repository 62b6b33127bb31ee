"""Which choices make better brains? One factor at a time from a base, on validation people; run by hand.

    python experiments/study.py --data ../shared/data/brains

Every variant is trained for the same time on the slices of --data, or with --datasets on the demo cohort, at 128x120
pixels, on the fourth base as large as they are: the base for --seconds, a variant for the base's steps times the ratio
of their seconds per step, measured in turns, for a machine's speed varies more than that from minute to minute; any
number of people takes the base's steps, on the data set that its rows are for. Each is trained in a process of its
own and measured on validation people by evaluate.py's own functions. Its row goes to --out at once, and is committed
there with --commit; rows that are there already are skipped, so a study that was stopped goes on where it was.
Variants of the prior start from copies of the base's VQ-VAE. A variant that lost and needed code of its own is not
here any more: its row names the commit that holds it.
"""

import json
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.results import REDUCED, read_rows, write_rows
from experiments.study_rows import COLUMNS, Key, Study, base_rows, make_row
from utils import Parser, UserError, number, run_script

LABEL = 15  # letters in a line of a label, to the left of a row of the sheet
SECOND = dict(
    image_size=(120, 128),
    downsample=8,
    prior_patch=1,
    prior_augment=0.8,
    prior_levels=1,
    prior_slices_below=0,
    num_codes=512,
    code_dim=16,
    vqvae_width=64,
    residual_blocks=2,
    prior_layers=10,
    prior_width=96,
    prior_dropout=0.1,
    batch_size=8,
    evaluations=3,
    slice_limit=None,
    demo_people=100,
    detail_weight=0.5,
    precision="float32",
)  # the vertical stack as wide, and as_the_second_was()
BASES = {  # the first trained on slices sampled bilinearly and did not compare the strength of bands
    "second": SECOND,
    "third": SECOND | dict(prior_vertical_width=48, detail_weight=1.0),
    "fourth": dict(
        image_size=None,
        downsample=4,
        num_codes=256,
        detail_weight=0.0,
        prior_layers=12,
        prior_width=96,
        prior_vertical_width=48,
        prior_patch=2,
        prior_levels=2,
        prior_slices_below=2,
        prior_told=0.7,
        prior_augment=1.0,
        prior_dropout=0.2,
        evaluations=3,
        precision="mixed_bfloat16",
    ),  # whole slices
}  # as the presets are, for so short a time
BASES["fifth"] = BASES["fourth"] | dict(prior_told=0.4, prior_dropout=0.0)  # its VQ-VAE is that of the fourth


# ---- what is tried ------------------------------------------------------------------------------


def as_the_second_was():
    """Patch: the second base had no floor, but what the root needs, and its stage 1 saw slices rotated and scaled."""
    import dataset
    from training import losses

    plain = dataset.training_batches
    losses.STRENGTH_FLOOR = 1e-5
    dataset.training_batches = lambda *given, **named: plain(*given, **named | {"whole_pixels": False})


def only_people(count):
    """Patch: train on ``count`` people, evenly drawn, and judge on the same 9 (real) or 20 (simulated) ever."""
    from training import data
    from utils import evenly

    def split(slices, seed, **options):
        slices = plain(slices, seed, **options)
        for part, most in (("train", count), ("validation", 20)):
            people = slices[slices["split"] == part].sort_values("label")["subject"].unique()
            slices = slices[(slices["split"] != part) | slices["subject"].isin(evenly(people, most))]
        return slices.reset_index(drop=True)

    plain, data.split_by_subject = data.split_by_subject, split


def variants():
    """(base, stage, factor, variant, changes of the base's config, patch) in the order in which they are tried."""

    def on(base, stage):
        return lambda factor, variant, patch=None, **changes: (base, stage, factor, variant, changes, patch)

    def people(data, counts, **changes):
        return [
            on("second", f"both, {data}")("people", f"{count} people", partial(only_people, count), **changes)
            for count in counts
        ]

    vqvae, prior = on("second", "vqvae"), on("second", "prior")
    second = [
        vqvae("base", "base"),
        *[vqvae("augmentation", f"{share:.0%}", augment=share) for share in (0.0, 0.5)],
        prior("base", "base"),
        prior("batch size", "4", batch_size=4),
        prior("batch size", "16", batch_size=16),
        *[prior("width", f"{width} channels", prior_width=width) for width in (64, 144)],
        *[
            prior(
                "vertical stack",
                f"{width // 2} channels, horizontal {width}",
                prior_width=width,
                prior_vertical_width=width // 2,
            )
            for width in (96, 64)
        ],
        *[vqvae("downsample", f"{factor} pixels per code", downsample=factor) for factor in (4, 16)],
        vqvae("downsample", "4 pixels per code, K = 16", downsample=4, num_codes=16),
        *[vqvae("width", f"{width} channels", vqvae_width=width) for width in (48, 96)],
        *[vqvae("depth", f"{blocks} residual blocks", residual_blocks=blocks) for blocks in (1, 4)],
        *[vqvae("code dimension", f"D = {dim}", code_dim=dim) for dim in (8, 64)],
        vqvae("codebook training", "gradients", gradient_codebook=True),
        *people("brains", (10, 20, 40)),  # of 49, whom the base has
        *people("demo", (50, 200, 800), demo_people=1200),
    ]
    vqvae, prior, sampling = on("third", "vqvae"), on("third", "prior"), on("third", "sampling")
    third = [
        vqvae("base", "base"),
        prior("base", "base"),
        vqvae("detail weight", "4.0", detail_weight=4.0),
        *[prior("depth", f"{count} layers", prior_layers=count) for count in (6, 14)],
        *[sampling("temperature", f"{value}", temperature=value) for value in (0.9, 1.05)],
        *[sampling("top-k", f"{value}", top_k=value) for value in (16, 64)],
        sampling("top-p", "0.9", top_p=0.9),
        *[sampling("guidance", f"{value}", guidance=value) for value in (1.5, 2.0, 3.0)],
    ]
    vqvae, prior, later = on("fourth", "vqvae"), on("fourth", "prior"), on("fifth", "prior")
    return (
        second
        + third
        + [
            vqvae("base", "base"),
            prior("base", "base"),
            prior("other slices told", "none", prior_slices_below=0),
            prior("levels", "one", prior_levels=1),
            *[prior("other slices told", f"to {share:.0%}", prior_told=share) for share in (0.4, 0.6)],
            prior("dropout", "0%", prior_dropout=0.0),
            vqvae("codes", "2 times 128", num_codes=128, code_depth=2, detail_weight=4.0),
            vqvae("codes", "8 pixels, 4 times 256", downsample=8, code_depth=4, detail_weight=4.0, prior_patch=1),
            later("base", "base"),
            later("other slices told", "none", prior_slices_below=0),
        ]
    )


def find_variant(key):
    """The changes of the base's config and the patch of a row's variant."""
    return next(found[4:] for found in variants() if found[:4] == (key.base, *key[3:]))


def train_row(study, key):
    """Make a row, a dict, in this process."""
    changes, patch = find_variant(key)
    patch_base = as_the_second_was if key.base == "second" else None
    return make_row(study, key, BASES[key.base], changes, patch_base, patch)


# ---- the script ---------------------------------------------------------------------------------


def wanted_rows(only, seeds, datasets):
    """Yield the Keys of the rows whose factor or variant is in ``only`` (default: all), and of bases, in order."""
    for base, stage, factor, variant, _, _ in variants():
        if not only or variant == "base" or {factor, variant} & set(only):
            for seed in range(seeds):
                for data in stage.split(", ")[1:] or datasets:
                    yield Key(base, data, seed, stage, factor, variant)


def run_row(study, key):
    """Make a row in a process of its own; None where that failed, which is told."""
    command = [
        sys.executable,
        __file__,
        "--data",
        study.data,
        "--out",
        study.out,
        "--runs",
        study.runs,
        "--seconds",
        str(study.seconds),
        "--row",
        json.dumps(key),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{key} failed:\n{done.stderr[-3000:]}", flush=True)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def add_row(path, row, commit):
    """Append a row, and commit it."""
    write_rows(path, [*read_rows(path), row], COLUMNS)
    if commit:
        message = f"Add the study's row {row['data']}, {row['stage']}, {row['factor']}: {row['variant']}"
        subprocess.run(["git", "add", path.name], cwd=path.parent, check=True)
        subprocess.run(["git", "commit", "--quiet", "--only", path.name, "-m", message], cwd=path.parent, check=True)


def main(argv):
    """Try what is not tried yet; see ``python experiments/study.py --help``."""
    parser = Parser(prog="experiments/study.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", default="../shared/data/brains", help="folder of real slices (default %(default)s)")
    parser.add_argument("--out", default=str(REDUCED / "study.csv"), metavar="CSV", help="(default %(default)s)")
    parser.add_argument(
        "--runs", default="runs/study", metavar="DIR", help="where the trained variants are kept (default %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=number(float, 0), default=120, help="of training, a base and data set (default %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=number(int, 1), default=1, metavar="N", help="each with its own split of people (default 1)"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="the rows whose factor or variant has one of these names, and bases"
    )
    parser.add_argument(
        "--datasets",
        nargs="+",
        default=["brains"],
        choices=["brains", "demo"],
        help="the slices of --data, or the demo cohort (default brains)",
    )
    parser.add_argument("--commit", action="store_true", help="commit each row")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="draw the variants of the last two bases, and stop")
    parser.add_argument("--row", type=json.loads, help="JSON: the one row to make and print, as the rest calls it")
    flags = parser.parse_args(argv)
    study = Study(flags.data, Path(flags.out).absolute(), flags.runs, flags.seconds)
    if flags.sheet:
        draw_sheet(flags.sheet, study)
    elif flags.row:
        print(json.dumps(train_row(study, Key(*flags.row))))
    else:
        for key in wanted_rows(flags.only, flags.seeds, flags.datasets):
            done = {tuple(row[name] for name in Key._fields) for row in read_rows(study.out)}
            row = None if tuple(map(str, key)) in done else run_row(study, key)
            if row:
                add_row(study.out, row, flags.commit)
                print(row, flush=True)


# ---- the figures --------------------------------------------------------------------------------


def draw_sheet(path, study):
    """Validation people's slices, and below them samples of each variant of the last two bases, the first of seed 0."""
    import numpy as np

    from experiments.draws import SHOWN, drawn, shown_slices
    from sampling.run import Run
    from slices.sheets import image_sheet

    images = {}
    for key in wanted_rows((), 1, ["brains"]):
        if key.base in ("fourth", "fifth") and key.stage == "prior" and study.folder(key).is_dir():
            run = Run(study.folder(key))
            reference = shown_slices(run)
            images.setdefault("validation\npeople", reference.images)
            name = [key.base + " base", *([] if key.variant == "base" else [f"{key.factor}:", key.variant])]
            name = "\n".join(line for part in name for line in textwrap.wrap(part, LABEL))
            images[name] = drawn(run, reference, key.variant, {})
    if not images:
        raise UserError(f"no variant of the fourth or fifth base is in {study.runs}: train them first, without --sheet")
    image_sheet(path, np.concatenate(list(images.values()))[..., None], SHOWN, list(images))


def people_measures():
    """Title -> what a row of the table says of it."""

    def over(column, other):
        return lambda row: float(row[column]) / float(row[other])

    return {
        "SSIM in the brain": lambda row: float(row["ssim_brain"]),
        "validation / training bits": over("bits_validation", "bits_train"),
        "bits / positional baseline, brain": lambda row: float(row["brain_over_positional"]),
        "Fréchet distance / null": over("frechet", "frechet_null"),
        "two-sample AUC − null": lambda row: float(row["c2st"] or "nan") - float(row["c2st_null"] or "nan"),
        "diversity / null": over("diversity", "diversity_null"),
    }


def people_figure(path, rows):
    """How the measures of validation people move with the number of people trained on."""
    from report.figures import REAL, SAMPLES, plot

    real_base = {}
    for row in base_rows(rows, "second", "brains", 0):
        real_base |= {name: value for name, value in row.items() if value}

    def draw(axes):
        for place, (title, value) in zip(axes.flat, people_measures().items(), strict=True):
            for data, color, marker, label in (
                ("brains", REAL, "o", "real people"),
                ("demo", SAMPLES, "s", "warps of one template"),
            ):
                curve = [
                    (int(row["variant"].split()[0]), value(row))
                    for row in rows
                    if row["factor"] == "people" and row["data"] == data
                ]
                if data == "brains":
                    curve.append((49, value(real_base)))
                place.plot(*zip(*sorted(curve), strict=True), color=color, marker=marker, label=label)
            place.set_xscale("log")
            place.set_xticks([10, 20, 50, 200, 800], ["10", "20", "50", "200", "800"])
            place.minorticks_off()
            place.set_title(title, fontsize=9, loc="left")
        axes[0, 0].legend()
        for place in axes[1]:
            place.set_xlabel("people trained on")

    plot(path, draw, (10, 5), rows=2, columns=3)


if __name__ == "__main__":
    run_script(main)
