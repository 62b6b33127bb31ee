"""One row of experiments/study.py: a variant trained for its share of the time, and measured on validation people."""

import datetime
import subprocess
from collections import namedtuple
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from experiments.results import REPOSITORY, read_rows
from training.folder import open_run
from training.options import preset_values, with_defaults
from utils import save_json

Key = namedtuple("Key", ("base", "data", "seed", "stage", "factor", "variant"))
AGAINST = ("real", "reconstructions")
JUDGED = ("frechet", "two_sample_auc", "two_sample_auc_shape", "two_sample_auc_texture", "recall", "diversity")
COLUMNS = (
    *Key._fields,
    "commit",
    "date",
    "precision",
    "parameters",
    "steps",
    "seconds",
    "bits_per_image",
    "ssim_brain",
    "psnr_brain",
    "spectrum_gap",
    "frc_resolution",
    "tissue_dice",
    "used_fraction",
    "unigram_bits",
    "bits_train",
    "bits_validation",
    "brain_over_positional",
    "frechet",
    "frechet_null",
    "c2st",
    "c2st_null",
    "kid",
    "kid_null",
    "patches",
    "patches_null",
    "diversity",
    "diversity_null",  # these of rows before the yardstick had two references
    *(f"{against}_{name}{end}" for against in AGAINST for name in JUDGED for end in ("", "_null")),
)


@dataclass(frozen=True)
class Study:
    """What all rows of a study share.

    Attributes:
        data: folder of the real slices.
        out: Path of the table, which is read for the steps of bases.
        runs: folder of the trained variants.
        seconds: of training, a base and data set.
    """

    data: str
    out: Path
    runs: str
    seconds: float

    def folder(self, key):
        """Where a row's run is kept."""
        name = "-".join(str(part) for part in key)
        return Path(self.runs) / "".join(letter if letter.isalnum() else "-" for letter in name)

    def base_folder(self, key, stage):
        """Where the run of the base is kept that a row goes with; the fifth has the VQ-VAE of the fourth."""
        base = "fourth" if (key.base, stage) == ("fifth", "vqvae") else key.base
        return self.folder(key._replace(base=base, stage=stage, factor="base", variant="base"))

    def base_steps(self, base, data, seed):
        """For each stage the steps that the base took."""
        return {row["stage"]: int(row["steps"]) for row in base_rows(read_rows(self.out), base, data, seed)}


def base_rows(rows, base, data, seed):
    """Those of a base."""
    return [
        row
        for row in rows
        if (row["base"], row["data"], row["seed"], row["variant"]) == (base, data, str(seed), "base")
    ]


def make_row(study, key, options, changes, patch_base=None, patch=None):
    """Train and measure one row in this process: a dict by COLUMNS.

    Args:
        study: Study.
        key: Key of the row.
        options: of the base, a dict.
        changes: of the variant: options, or how samples are drawn where the stage is "sampling".
        patch_base, patch: calls that change the code as the base and the variant need it.
    """
    from training.workers import start_tensorflow

    tf = start_tensorflow()
    remember_images()
    if patch_base:
        patch_base()
    base = base_of(tf, study, key, options)
    if patch:
        patch()
    if key.stage == "sampling":
        folder, config = open_run(study.base_folder(key, "prior"))
        histories, measured = [], measure_prior(folder, **changes)
    else:
        folder = study.folder(key)
        config = train_variant(tf, study, key, options | changes, base)
        stages = stages_of(key)
        histories = [read_rows(folder / f"history_{stage}.csv")[-1] for stage in stages]
        measured = {}
        for stage in stages:
            measured |= (measure_vqvae if stage == "vqvae" else measure_prior)(folder)
    row = (
        key._asdict()
        | {
            "commit": code_commit(),
            "date": f"{datetime.date.today()}",
            "precision": config["precision_resolved"],
            "parameters": config.get(f"{key.stage}_parameters", ""),
            "steps": " + ".join(history["step"] for history in histories),
            "seconds": float(sum(float(history["seconds"]) for history in histories)),
            "bits_per_image": config["bits_per_image"],
        }
        | measured
    )
    return {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in row.items()}


def stages_of(key):
    """The stages that are trained for a row."""
    return ["vqvae", "prior"] if key.stage.startswith("both") else [key.stage]


def remember_images():
    """Decode each list of slices once in this process."""
    from sampling import run
    from slices.images import load_images
    from training import data

    seen = {}

    def load_once(root, paths, image_size=None, *where, **how):
        key = (str(root), tuple(paths), tuple(image_size or ()))
        if key not in seen:
            seen[key] = load_images(root, paths, image_size, *where, **how)
        return seen[key]

    data.load_images = run.load_images = load_once


def code_commit():
    """The last commit that touched the code, not the rows."""
    return subprocess.run(
        ["git", "log", "-1", "--format=%h", "--", "*.py"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout.strip()


# ---- training -----------------------------------------------------------------------------------


def prepare(tf, study, key, options):
    """The config of one variant, its slices and parts, crop box, and models."""
    from slices.frame import Box
    from training.data import prepare_data
    from training.optimisation import build_prior, build_vqvae
    from training.timing import choose_precision

    options = {"vqvae_steps": 1, "prior_steps": 1} | options
    config = (
        preset_values("default")
        | options
        | {
            "seed": key.seed,
            "preset": "study",
            "source": None,
            "data": None if key.data == "demo" else study.data,
            "stages": dict.fromkeys(("vqvae", "prior"), "wanted"),
            "finished": False,
        }
    )
    if key.stage == "prior":
        source, old = open_run(study.base_folder(key, "vqvae"), stage="vqvae")
        stages = {"vqvae": "finished", "prior": "wanted"}
        config = with_defaults(old) | options | {"source": str(source), "stages": stages}
    config["image_size"] = config["image_size"] and list(config["image_size"])
    slices, parts = prepare_data(config)
    box = Box(*config["crop_box"])
    config["precision_resolved"] = choose_precision(tf, config, box)
    models = (build_vqvae(config, box, config["precision_resolved"]), build_prior(config, config["precision_resolved"]))
    return config, slices, parts, box, models


def base_of(tf, study, key, options):
    """The steps that the base took in the stage of a row, and a call that takes one of them; None without."""
    from training.timing import stage_steps

    steps = study.base_steps(key.base, key.data, key.seed)
    if key.variant == "base" or key.stage not in steps:
        return None
    config, _, _, box, models = prepare(tf, study, key, options)
    call = stage_steps(tf, config, *models, box)[key.stage]
    call()  # traced now, before the patch of the variant
    return steps[key.stage], call


def steps_of(call, base, seconds):
    """The steps of a variant: what the base had in as long, or what the seconds hold."""
    from training.timing import time_steps

    call()
    if base is None:
        return max(1, round(seconds / time_steps(call, 4)))
    pairs = [(time_steps(base[1], 1), time_steps(call, 1)) for _ in range(10)]
    return max(1, round(base[0] * min(first for first, _ in pairs) / min(second for _, second in pairs)))


def train_variant(tf, study, key, options, base):
    """Train one variant for the budget, by train.py's own functions; returns its config."""
    from train import measure_sharpening, train_prior, train_vqvae
    from training.plan import describe
    from training.timing import stage_steps
    from training.workers import Team

    folder, stages = study.folder(key), stages_of(key)
    config, slices, parts, box, models = prepare(tf, study, key, options)
    describe(config, *models)
    calls = stage_steps(tf, config, *models, box)
    like = {"people": "brains", "base": key.data}.get(key.factor)  # more people or another split: no step is dearer
    known = study.base_steps(key.base, like, 0)
    for name in stages:
        config[f"{name}_steps"] = known.get(name) or steps_of(calls[name], base, study.seconds)
    folder.mkdir(parents=True)
    save_json(folder / "config.json", config)
    slices.to_csv(folder / "slices.csv", index=False)
    if stages == ["prior"]:
        for name in ("vqvae.keras", "sharpening.json"):
            (folder / name).write_bytes((Path(config["source"]) / name).read_bytes())
    team = Team(tf, tf.distribute.get_strategy())
    for name in stages:
        (train_vqvae if name == "vqvae" else train_prior)(team, config, folder, parts, box)
        if name == "vqvae":
            measure_sharpening(folder, parts["train"], box)
        config["stages"][name] = "finished"
        save_json(folder / "config.json", config)
    return config


# ---- measuring ----------------------------------------------------------------------------------


def measure_vqvae(folder):
    """Reconstructions of the validation people."""
    from metrics.codes import codebook_metrics, unigram_bits_per_code
    from metrics.parts import Cache, check_people, load_part
    from metrics.people import value_of
    from metrics.reconstruction import measure_reconstruction
    from sampling.run import Run

    run = Run(folder, stage="vqvae")
    check_people(run, "validation")
    cache, books = Cache(run), (run.config["num_codes"], run.depth)
    training, held_out = load_part(run, cache, "train"), load_part(run, cache, "validation", frames=True)
    summary = measure_reconstruction(held_out, run.box, [])[1]
    names = ("ssim_brain", "psnr_brain", "spectrum_gap", "frc_resolution", "tissue_dice")
    return {name: value_of(summary[name]) for name in names} | {
        "used_fraction": codebook_metrics(held_out.codes, *books)["used_fraction"],
        "unigram_bits": unigram_bits_per_code(training.codes, held_out.codes, *books),
    }


def measure_prior(folder, **sampling):
    """Likelihood of the validation people's codes, and one set of samples beside their reconstructions.

    ``sampling`` is the temperature, top_k, top_p or guidance of the samples: as in ``Run.sample``.
    """
    import numpy as np

    from metrics.codes import PositionalBaseline, measure_codes
    from metrics.parts import Cache, check_people, load_part
    from metrics.people import value_of
    from metrics.samples import gather_sets, measure_samples
    from sampling.run import Run

    run = Run(folder)
    check_people(run, "validation")
    cache = Cache(run)
    if sampling:
        cache.kept = lambda name, content, compute: compute()  # the cache knows temperature 1 only
    parts = {split: load_part(run, cache, split, frames=split == "validation") for split in ("train", "validation")}
    baseline = PositionalBaseline(parts["train"], parts["validation"], run.config["num_codes"], run.depth)
    prior = measure_codes(run, cache, parts, "validation", baseline)[3]
    rows = np.arange(len(parts["validation"].codes))
    sets = gather_sets(run, cache, parts, "validation", rows, baseline, quick=True, **sampling)
    samples = measure_samples(sets, 0, [])[0]
    row = {
        "bits_train": value_of(prior["bits_per_code_train"]),
        "bits_validation": value_of(prior["bits_per_code_validation"]),
        "unigram_bits": prior["unigram_bits_per_code"],
        "brain_over_positional": value_of(prior["bits_per_code_validation_brain"])
        / prior["positional_bits_per_code_brain"],
    }
    for against, name in product(AGAINST, JUDGED):
        section = samples[f"against_{against}"]
        null = section[f"{name}_null"]
        row[f"{against}_{name}"] = value_of(section[name])
        row[f"{against}_{name}_null"] = null and null["perfect_prior"][0]
    return row
