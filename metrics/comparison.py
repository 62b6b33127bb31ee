"""Evaluated runs side by side, and paired by person."""

import pandas as pd

from metrics.people import t_margin
from report.numbers import REFERENCES, band_of, lookup, value_of
from training.folder import run_folder
from utils import UserError, load_json, shell

OF_REFERENCE = (
    "two_sample_auc",
    "two_sample_auc_shape",
    "two_sample_auc_texture",
    "detail_auc",
    "spectrum_gap",
    "noise_ratio",
    "frechet",
    "kid",
    "patches",
    "diversity",
)
OF_SAMPLES = (
    *(f"samples.{reference}.{key}" for reference in REFERENCES for key in OF_REFERENCE),
    "memorisation.nn_ratio",
    "memorisation.copies_fraction",
)
COMPARED = (
    "rate.bits_per_image",
    "reconstruction.ssim_brain",
    "reconstruction.psnr_brain",
    "reconstruction.frc_resolution",
    "reconstruction.tissue_dice",
    "prior.bits_per_code_{split}",
    "rate.bits_per_image_prior",
    *OF_SAMPLES,
)


def read_evaluations(names):
    """The metrics.json of runs that were evaluated on the same split: dict of folder → dict.

    Args:
        names: list of str, two or more, under runs/ or paths.

    Raises:
        UserError: they cannot be compared.
    """
    if len(names) < 2:
        raise UserError("compare needs two runs or more")
    runs = {}
    for name in names:
        folder, again = run_folder(name), shell("python", "evaluate.py", "--run", name)
        if not (folder / "metrics.json").is_file():
            raise UserError(f"the run {folder} has no metrics.json: run {again} first")
        metrics = load_json(folder / "metrics.json")
        if metrics.get("split") == "folder":
            raise UserError(f"{folder} holds the evaluation of a folder of images: only runs can be compared")
        if not {"samples", "rate"} <= set(metrics) or not (folder / "people.csv").is_file():
            raise UserError(f"the evaluation in {folder} is incomplete: run {again} again")
        if not isinstance(metrics["samples"].get("against_real"), dict):
            raise UserError(f"the evaluation in {folder} is of an older form, without real slices: run {again} again")
        runs[folder.resolve()] = metrics
    if len(runs) < len(names):
        raise UserError("compare names one run twice: give different ones")
    if len(splits := {metrics["split"] for metrics in runs.values()}) > 1:
        raise UserError(
            f"the runs were evaluated on different splits ({', '.join(sorted(splits))}): evaluate them on one"
        )
    first = next(iter(runs))
    people = set(read_people(first).index)
    for folder in runs:
        if not set(read_people(folder).index) & people:
            raise UserError(
                f"{first} and {folder} were evaluated on people of whom they share none, so nothing compares: each "
                "--seed draws its own validation people, so evaluate both with --split test, or train with one seed"
            )
    return runs


def read_people(folder):
    """The people.csv of an evaluation, by subject."""
    return pd.read_csv(folder / "people.csv", converters={"subject": str}).set_index("subject")


def circumstances(runs):
    """What an evaluation hangs on: a DataFrame with a row for each of the runs.

    Columns are ``data`` (the start of the fingerprint of the run's slices), ``frame`` (width×height of the slices),
    ``seed`` of the evaluation, ``slices_per_set``, ``people``, and ``people_shared`` with the first run.
    """
    rows, first = [], None
    for folder, metrics in runs.items():
        config, people = load_json(folder / "config.json"), set(read_people(folder).index)
        first = people if first is None else first
        rows.append(
            {
                "run": folder.name,
                "data": config["data_fingerprint"][:16],
                "frame": "×".join(map(str, reversed(config["frame"]))),
                "seed": metrics["seed"],
                "slices_per_set": metrics["samples"]["slices_per_set"],
                "people": len(people),
                "people_shared": len(people & first),
            }
        )
    return pd.DataFrame(rows).set_index("run")


def differences(table):
    """What the runs of a table of ``circumstances`` differ in, a sentence each."""
    words = {
        "data": "the runs learnt from different data",
        "frame": "the slices of the runs have different frames, so bits per image and distances do not compare",
        "seed": "the evaluations have different seeds",
        "slices_per_set": "sets of different sizes were compared",
    }
    found = [
        f"{sentence}: {', '.join(f'{value} in {run}' for run, value in table[name].items())}"
        for name, sentence in words.items()
        if table[name].nunique() > 1
    ]
    people = table["people"].iloc[0]
    if (table["people_shared"] < people).any() or (table["people"] > people).any():
        counts = zip(table.index[1:], table["people_shared"][1:], table["people"][1:], strict=True)
        shared = ", ".join(f"{run} shares {shared} of its {count}" for run, shared, count in counts)
        found.append(f"the people differ: of the {people} people of {table.index[0]}, {shared}")
    return found


def side_by_side(runs):
    """A DataFrame with a row for each of the runs: ``circumstances``, and each of COMPARED.

    Beside a number of samples are a perfect prior's band (``_null_low``, ``_null_high``) and its ``_verdict``.
    """
    rows = circumstances(runs).reset_index().to_dict("records")
    for row, metrics in zip(rows, runs.values(), strict=True):
        for name in COMPARED:
            section, key = name.removeprefix("samples.").split(".")
            value, null, verdict = (lookup(metrics, section, f"{key}{ending}") for ending in ("", "_null", "_verdict"))
            name = name.removesuffix("_{split}")
            row[name] = value_of(value)
            if band := band_of(null):
                row |= {f"{name}_null_low": band[1], f"{name}_null_high": band[2]}
            if verdict:
                row[f"{name}_verdict"] = verdict
    return pd.DataFrame(rows).set_index("run")


def pair_people(folders):
    """Differences of every other run from the first, by person: a DataFrame with a row per run and metric."""
    people = [read_people(folder) for folder in folders]
    rows = []
    for folder, other in zip(folders[1:], people[1:], strict=True):
        shared = people[0].index.intersection(other.index)
        for name in ("ssim_brain", "psnr_brain", "mae_brain", "bits_per_code"):
            differences = (other.loc[shared, name] - people[0].loc[shared, name]).dropna()
            row = {"run": folder.name, "metric": name, "people": len(differences), "difference": differences.mean()}
            if len(differences) > 1:
                margin = t_margin(differences.sem(), len(differences) - 1)
                row |= {"low": row["difference"] - margin, "high": row["difference"] + margin}
            rows.append(row)
    return pd.DataFrame(rows).set_index(["run", "metric"])
