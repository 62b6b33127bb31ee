"""Evaluated runs side by side, and paired by person."""

import pandas as pd
from scipy import stats

from metrics.people import value_of
from training.folder import run_folder
from utils import UserError, load_json, shell

OF_SAMPLES = (
    "samples.frechet",
    "samples.kid",
    "samples.c2st",
    "samples.patches",
    "samples.diversity",
    "memorisation.nn_ratio",
    "memorisation.copies_fraction",
)
COMPARED = (
    "rate.bits_per_image",
    "reconstruction.ssim_brain",
    "reconstruction.psnr_brain",
    "reconstruction.frc_resolution",
    "reconstruction.tissue_dice",
    "prior.bits_per_code",
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
        runs[folder.resolve()] = metrics
    if len(runs) < len(names):
        raise UserError("compare names one run twice: give different ones")
    if len(splits := {metrics["split"] for metrics in runs.values()}) > 1:
        raise UserError(
            f"the runs were evaluated on different splits ({', '.join(sorted(splits))}): evaluate them on one"
        )
    return runs


def side_by_side(runs):
    """A DataFrame with a row for each of the runs and a column for each of COMPARED, with its null band."""
    rows = []
    for folder, metrics in runs.items():
        row = {"run": folder.name, "people": metrics["people"]}
        for name in COMPARED:
            section, key = name.split(".")
            key = f"{key}_{metrics['split']}" if name == "prior.bits_per_code" else key
            row[name] = value_of(metrics[section].get(key))
            null = metrics[section].get(f"{key}_null")
            if null:
                row |= {f"{name}_null_low": null["low"], f"{name}_null_high": null["high"]}
        rows.append(row)
    return pd.DataFrame(rows).set_index("run")


def pair_people(folders):
    """Differences of every other run from the first, by person: a DataFrame with a row per run and metric."""
    people = [
        pd.read_csv(folder / "people.csv", converters={"subject": str}).set_index("subject") for folder in folders
    ]
    rows = []
    for folder, other in zip(folders[1:], people[1:], strict=True):
        shared = people[0].index.intersection(other.index)
        for name in ("ssim_brain", "psnr_brain", "mae_brain", "bits_per_code"):
            differences = (other.loc[shared, name] - people[0].loc[shared, name]).dropna()
            row = {"run": folder.name, "metric": name, "people": len(differences), "difference": differences.mean()}
            if len(differences) > 1:
                margin = stats.t.ppf(0.975, len(differences) - 1) * differences.sem()
                row |= {"low": row["difference"] - margin, "high": row["difference"] + margin}
            rows.append(row)
    return pd.DataFrame(rows).set_index(["run", "metric"])
