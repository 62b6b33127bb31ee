"""Which choices make better brains? One factor at a time from a base, on validation people; run by hand.

    python tests/study.py --data ../shared/data/brains

Every variant is trained for the same time at 128x120 pixels on the slices of --data, or with --datasets on the
demo cohort: the base for --seconds, a variant for the base's steps times the ratio of their seconds per step,
measured in turns, for a machine's speed varies more than that from minute to minute; any number of people takes
the base's steps, on the data set that its rows are for. Each is trained in a process of its own and measured on
validation people by evaluate.py's own functions. Its row goes to --out at once, and is committed there with
--commit; rows that are there already are skipped, so a study that was stopped goes on where it was. Variants of
the prior start from copies of the base's VQ-VAE. A variant that lost and needed code of its own is not here any
more: its row names the commit that holds it.
"""

import argparse
import csv
import datetime
import json
import subprocess
import sys
from collections import namedtuple
from functools import partial
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent.parent))

import train
from utils import Team, open_run, save_json, start_tensorflow, whole_file

REPOSITORY = Path(__file__).parent.parent
SECOND = dict(image_size=(120, 128), num_codes=512, code_dim=16, vqvae_width=64, residual_blocks=2, prior_layers=10,
              prior_width=96, batch_size=8, evaluations=3, slice_limit=None, demo_people=100, detail_weight=0.5,
              precision="float32")  # the vertical stack as wide, and as_the_second_was()
BASES = {  # the first trained on slices sampled bilinearly and did not compare the strength of bands
    "second": SECOND,
    "third": SECOND | dict(prior_vertical_width=48, detail_weight=1.0)}  # as the presets are, for so short a time
Key = namedtuple("Key", ("base", "data", "seed", "stage", "factor", "variant"))
COLUMNS = (*Key._fields, "commit", "date", "precision", "parameters", "steps",
           "seconds", "bits_per_image", "ssim_brain", "psnr_brain", "spectrum_gap", "frc_resolution", "tissue_dice",
           "used_fraction", "unigram_bits", "bits_train", "bits_validation", "brain_over_positional", "frechet",
           "frechet_null", "c2st", "c2st_null", "kid", "kid_null", "patches", "patches_null", "diversity",
           "diversity_null")


# ---- what is tried ------------------------------------------------------------------------------


def as_the_second_was():
    """Patch: the second base had no floor, but what the root needs, and its stage 1 saw slices rotated and scaled."""
    import dataset
    import modules

    modules.STRENGTH_FLOOR = 1e-5
    dataset.in_whole_pixels = lambda parameters, box: parameters


def only_people(count):
    """Patch: train on ``count`` people, evenly drawn, and judge on the same 9 (real) or 20 (simulated) ever."""
    import numpy as np

    import dataset

    def split(slices, seed, **options):
        slices = plain(slices, seed, **options)
        for part, most in (("train", count), ("validation", 20)):
            people = slices[slices["split"] == part].sort_values("label")["subject"].unique()
            kept = people[np.linspace(0, len(people) - 1, min(most, len(people))).round().astype(int)]
            slices = slices[(slices["split"] != part) | slices["subject"].isin(kept)]
        return slices.reset_index(drop=True)

    plain, dataset.split_by_subject = dataset.split_by_subject, split


def variants():
    """(base, stage, factor, variant, changes of the base's config, patch) in the order in which they are tried."""
    def on(base, stage):
        return lambda factor, variant, patch=None, **changes: (base, stage, factor, variant, changes, patch)

    def people(data, counts, **changes):
        return [on("second", f"both, {data}")("people", f"{count} people", partial(only_people, count), **changes)
                for count in counts]

    vqvae, prior = on("second", "vqvae"), on("second", "prior")
    second = [
        vqvae("base", "base"),
        *[vqvae("augmentation", f"{share:.0%}", augment=share) for share in (0.0, 0.5)],
        prior("base", "base"),
        prior("batch size", "4", batch_size=4),
        prior("batch size", "16", batch_size=16),
        *[prior("width", f"{width} channels", prior_width=width) for width in (64, 144)],
        *[prior("vertical stack", f"{width // 2} channels, horizontal {width}", prior_width=width,
                prior_vertical_width=width // 2) for width in (96, 64)],
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
    return second + [
        vqvae("base", "base"),
        prior("base", "base"),
        vqvae("detail weight", "4.0", detail_weight=4.0),
        *[prior("depth", f"{count} layers", prior_layers=count) for count in (6, 14)],
        *[sampling("temperature", f"{value}", temperature=value) for value in (0.9, 1.05)],
        *[sampling("top-k", f"{value}", top_k=value) for value in (16, 64)],
        sampling("top-p", "0.9", top_p=0.9),
    ]


# ---- one row ------------------------------------------------------------------------------------


def prepare(tf, key, flags, changes):
    """The config of one variant, its slices and parts, crop box, and models."""
    train.PRESETS["study"] = BASES[key.base] | {"vqvae_steps": 1, "prior_steps": 1} | changes
    config = train.COMMON | train.PRESETS["study"] | {
        "seed": key.seed, "preset": "study", "source": None, "data": None if key.data == "demo" else flags.data,
        "stages": dict.fromkeys(("vqvae", "prior"), "wanted"), "finished": False}
    if key.stage == "prior":
        base = key._replace(stage="vqvae", factor="base", variant="base")
        source, old = open_run(str(row_folder(base, flags)), stage="vqvae")
        config = old | train.PRESETS["study"] | {
            "source": str(source), "stages": {"vqvae": "finished", "prior": "wanted"}}
    config["image_size"] = list(config["image_size"])
    import dataset

    slices, parts = train.prepare_data(config)
    box = dataset.Box(*config["crop_box"])
    config["precision_resolved"] = train.choose_precision(tf, config, box)
    models = (train.build_vqvae(config, box, config["precision_resolved"]),
              train.build_prior(config, config["precision_resolved"]))
    return config, slices, parts, box, models


def base_rows(rows, base, data, seed):
    """Those of a base."""
    return [row for row in rows
            if (row["base"], row["data"], row["seed"], row["variant"]) == (base, data, str(seed), "base")]


def base_steps(flags, base, data, seed):
    """For each stage the steps that the base took."""
    rows = base_rows(read_rows(Path(flags.out).absolute()), base, data, seed)
    return {row["stage"]: int(row["steps"]) for row in rows}


def base_of(tf, key, flags):
    """The steps that the base took in the stage of a row, and a call that takes one of them; None without."""
    steps = base_steps(flags, key.base, key.data, key.seed)
    if key.variant == "base" or key.stage not in steps:
        return None
    config, _, _, box, models = prepare(tf, key, flags, {})
    call = train.stage_steps(tf, config, *models, box)[key.stage]
    call()  # traced now, before the patch of the variant
    return steps[key.stage], call


def steps_of(call, base, seconds):
    """The steps of a variant: what the base had in as long, or what the seconds hold."""
    call()
    if base is None:
        return round(seconds / train.time_steps(call, 4))
    pairs = [(train.time_steps(base[1], 1), train.time_steps(call, 1)) for _ in range(10)]
    return round(base[0] * min(first for first, _ in pairs) / min(second for _, second in pairs))


def train_variant(tf, key, flags, folder, changes, base):
    """Train one variant for the budget, by train.py's own functions; returns its config."""
    stages = ["vqvae", "prior"] if key.stage.startswith("both") else [key.stage]
    config, slices, parts, box, models = prepare(tf, key, flags, changes)
    train.describe(config, *models)
    calls = train.stage_steps(tf, config, *models, box)
    like = {"people": "brains", "base": key.data}.get(key.factor)  # more people or another split: no step is dearer
    known = base_steps(flags, key.base, like, 0)
    for name in stages:
        config[f"{name}_steps"] = known.get(name) or steps_of(calls[name], base, flags.seconds)
    folder.mkdir(parents=True)
    save_json(folder / "config.json", config)
    slices.to_csv(folder / "slices.csv", index=False)
    if stages == ["prior"]:
        (folder / "vqvae.keras").write_bytes((Path(config["source"]) / "vqvae.keras").read_bytes())
    team = Team(tf, tf.distribute.get_strategy())
    for name in stages:
        (train.train_vqvae if name == "vqvae" else train.train_prior)(team, config, folder, parts, box)
        config["stages"][name] = "finished"
        save_json(folder / "config.json", config)
    return config


def measure_vqvae(flags, folder):
    """Reconstructions of the validation people."""
    import evaluate
    from metrics import codebook_metrics, unigram_bits_per_code, value_of

    run = evaluate.Run(SimpleNamespace(run=str(folder), data=None, seed=0, split="validation"), prior=False)
    training, held_out = run.load("train"), run.load("validation", frames=True)
    summary = evaluate.measure_reconstruction(run, held_out, [])[1]
    names = ("ssim_brain", "psnr_brain", "spectrum_gap", "frc_resolution", "tissue_dice")
    return {name: value_of(summary[name]) for name in names} | {
        "used_fraction": codebook_metrics(held_out["codes"], run.num_codes)["used_fraction"],
        "unigram_bits": unigram_bits_per_code(training["codes"], held_out["codes"], run.num_codes)}


def measure_prior(flags, folder, **sampling):
    """Likelihood of the validation people's codes, and one set of samples beside their reconstructions.

    ``sampling`` is the temperature, top_k or top_p of the samples, 1 and none without.
    """
    import numpy as np

    import evaluate
    from metrics import value_of

    asked = SimpleNamespace(run=str(folder), data=None, seed=0, split="validation", quick=True)
    run = evaluate.Run(asked)
    if sampling:
        run.prior.sample = partial(run.prior.sample, **sampling)
        run.cached = lambda name, content, compute: compute()  # the cache knows temperature 1 only
    parts = {split: run.load(split, frames=split == "validation") for split in ("train", "validation")}
    baseline = evaluate.PositionalBaseline(parts["train"], parts["validation"], run.num_codes)
    prior = evaluate.measure_codes(run, parts, "validation", baseline)[3]
    sets = evaluate.gather_sets(run, asked, parts, np.arange(len(parts["validation"]["codes"])), baseline)
    samples = evaluate.measure_samples(sets, 0, [])[0]
    row = {"bits_train": value_of(prior["bits_per_code_train"]),
           "bits_validation": value_of(prior["bits_per_code_validation"]),
           "unigram_bits": prior["unigram_bits_per_code"],
           "brain_over_positional": value_of(prior["bits_per_code_validation_brain"])
           / prior["positional_bits_per_code_brain"]}
    for name in ("frechet", "c2st", "kid", "patches", "diversity"):
        row[name], row[f"{name}_null"] = value_of(samples[name]), value_of(samples[f"{name}_null"])
    return row


def make_row(key, flags):
    """Train and measure one row in this process."""
    stage = key.stage
    changes, patch = next(found[4:] for found in variants() if found[:4] == (key.base, *key[3:]))
    tf = start_tensorflow()
    remember_images()
    if key.base == "second":
        as_the_second_was()
    base = base_of(tf, key, flags)
    if patch:
        patch()
    folder = row_folder(key, flags)
    histories, measured = [], {}
    if stage == "sampling":
        folder, config = open_run(str(row_folder(key._replace(stage="prior", factor="base", variant="base"), flags)))
        measured = measure_prior(flags, folder, **changes)
    else:
        config = train_variant(tf, key, flags, folder, changes, base)
    for name, measure in (("vqvae", measure_vqvae), ("prior", measure_prior)):
        if stage == name or stage.startswith("both"):
            with open(folder / f"history_{name}.csv", encoding="utf-8") as file:
                histories.append(list(csv.DictReader(file))[-1])
            measured |= measure(flags, folder)
    row = key._asdict() | {
        "commit": code_commit(), "date": f"{datetime.date.today()}", "precision": config["precision_resolved"],
        "parameters": config.get(f"{stage}_parameters", ""),
        "steps": " + ".join(row["step"] for row in histories),
        "seconds": float(sum(float(row["seconds"]) for row in histories)),
        "bits_per_image": config["bits_per_image"]} | measured
    return {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in row.items()}


def remember_images():
    """Decode each list of slices once in this process."""
    import dataset

    plain, seen = dataset.load_images, {}

    def load_images(root, paths, image_size=None):
        key = (str(root), tuple(paths), tuple(image_size or ()))
        if key not in seen:
            seen[key] = plain(root, paths, image_size)
        return seen[key]

    dataset.load_images = load_images


def row_folder(key, flags):
    """Where a row's run is kept."""
    name = "-".join(str(part) for part in key)
    return Path(flags.runs) / "".join(letter if letter.isalnum() else "-" for letter in name)


def code_commit():
    """The last commit that touched the code, not the rows."""
    return subprocess.run(["git", "log", "-1", "--format=%h", "--", "*.py"], cwd=REPOSITORY, check=True,
                          capture_output=True, text=True).stdout.strip()


# ---- the script ---------------------------------------------------------------------------------


def people_figure(path, rows):
    """How the measures of validation people move with the number of people trained on."""
    import report

    def over(column, other):
        return lambda row: float(row[column]) / float(row[other])

    shown = {"SSIM in the brain": lambda row: float(row["ssim_brain"]),
             "validation / training bits": over("bits_validation", "bits_train"),
             "bits / positional baseline, brain": lambda row: float(row["brain_over_positional"]),
             "Fréchet distance / null": over("frechet", "frechet_null"),
             "two-sample AUC − null": lambda row: float(row["c2st"]) - float(row["c2st_null"]),
             "diversity / null": over("diversity", "diversity_null")}

    real_base = {}
    for row in base_rows(rows, "second", "brains", 0):
        real_base |= {name: value for name, value in row.items() if value}

    def draw(axes):
        for place, (title, value) in zip(axes.flat, shown.items(), strict=True):
            for data, color, marker, label in (("brains", report.REAL, "o", "real people"),
                                               ("demo", report.SAMPLES, "s", "warps of one template")):
                curve = [(int(row["variant"].split()[0]), value(row)) for row in rows
                         if row["factor"] == "people" and row["data"] == data]
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

    report.plot(path, draw, (10, 5), rows=2, columns=3)


def read_rows(path):
    """The rows that are there already."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def add_row(path, row, commit):
    """Append a row, and commit it."""
    rows = [*read_rows(path), row]
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if commit:
        message = f"Add the study's row {row['data']}, {row['stage']}, {row['factor']}: {row['variant']}"
        subprocess.run(["git", "add", path.name], cwd=path.parent, check=True)
        subprocess.run(["git", "commit", "--quiet", "--only", path.name, "-m", message], cwd=path.parent, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", default="../shared/data/brains", help="folder of real slices")
    parser.add_argument("--out", default=str(REPOSITORY / "ReducedResults" / "study.csv"))
    parser.add_argument("--runs", default="runs/study", help="where the trained variants are kept")
    parser.add_argument("--seconds", type=float, default=120, help="of training, a base and data set")
    parser.add_argument("--seeds", type=int, default=1, help="each with its own split of people")
    parser.add_argument("--only", nargs="+", help="the rows whose factor or variant has one of these names, and bases")
    parser.add_argument("--datasets", nargs="+", default=["brains"], choices=["brains", "demo"])
    parser.add_argument("--commit", action="store_true", help="commit each row")
    parser.add_argument("--figure", metavar="PNG", help="draw what the rows say of numbers of people, and stop")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.figure:
        people_figure(flags.figure, read_rows(Path(flags.out)))
        return
    if flags.row:
        key = Key(*json.loads(flags.row))
        print(json.dumps(make_row(key, flags)))
        return
    out = Path(flags.out).absolute()
    for base, stage, factor, variant, _, _ in variants():
        if flags.only and variant != "base" and not {factor, variant} & set(flags.only):
            continue
        for seed in range(flags.seeds):
            for data in stage.split(", ")[1:] or flags.datasets:
                key = Key(base, data, seed, stage, factor, variant)
                if any(tuple(row[name] for name in Key._fields) == tuple(map(str, key)) for row in read_rows(out)):
                    continue
                command = [sys.executable, __file__, *sys.argv[1:], "--row", json.dumps(key)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    print(f"{key} failed:\n{done.stderr[-3000:]}", flush=True)
                    continue
                row = json.loads(done.stdout.strip().splitlines()[-1])
                add_row(out, row, flags.commit)
                print(row, flush=True)


if __name__ == "__main__":
    main()
