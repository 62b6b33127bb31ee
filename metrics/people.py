"""People as the unit: means over them, intervals, and thinning by whole people."""

import numpy as np
import pandas as pd
from scipy import stats

from report.numbers import value_of as value_of

SET_SLICES = 2100  # of a split that sets are compared on; of training people that nulls are drawn from, twice that


def whole_people(subjects, limit):
    """(N,) bool: the slices of as many people, evenly spread over the list, as ``limit`` slices hold."""
    people = np.unique(subjects)
    kept = max(2, min(len(people), int(limit * len(people) / max(len(subjects), 1))))
    return np.isin(subjects, people[np.linspace(0, len(people) - 1, kept).round().astype(int)])


def for_sets(subjects):
    """(N,) bool: the slices of the people that sets are compared on."""
    return whole_people(subjects, SET_SLICES)


def for_nulls(subjects):
    """(N,) bool: the slices of the training people that nulls are drawn from; bits are counted on as many."""
    return whole_people(subjects, 2 * SET_SLICES)


RANGES = {  # of what cannot leave them: an interval of few people would
    **dict.fromkeys(("ssim", "ssim_brain"), (-1.0, 1.0)),
    **dict.fromkeys(("ms_ssim", "tissue_dice", "ventricle_dice", "mae", "mae_brain"), (0.0, 1.0)),
    "frc_resolution": (0.0, 0.5),
    **dict.fromkeys(("psnr", "psnr_brain"), (-np.inf, 100.0)),
    **dict.fromkeys(("spectrum_gap", "bits", "frechet", "frechet_real", "patches"), (0.0, np.inf)),
}


def interval(name, value, margin):
    """{"value", "low", "high"}: value ± margin, which ends where ``name`` does by RANGES."""
    least, most = RANGES.get(name, (-np.inf, np.inf))
    return {"value": value, "low": max(float(value - margin), least), "high": min(float(value + margin), most)}


def mean_by_person(rows, subjects):
    """Average per-slice metrics within each person first, then over people.

    Args:
        rows: list of dicts of floats, one a slice; NaN counts as absent.
        subjects: whose slice each row is.

    Returns:
        dict of metric -> {"value", "low", "high"}: mean over people and its 95 % t interval, as far as the metric
        reaches, or the plain value when there is one person.
    """
    people = pd.DataFrame(rows).groupby(np.asarray(subjects)).mean()  # (people, metrics)
    summary = {}
    for name, values in people.items():
        values = values.dropna()
        mean = float(values.mean()) if len(values) else None
        if len(values) < 2:
            summary[name] = mean
            continue
        margin = float(stats.t.ppf(0.975, len(values) - 1) * values.std() / np.sqrt(len(values)))
        summary[name] = interval(name, mean, margin)
    return summary


def auc_interval(positive, negative):
    """AUC of scores that should be higher for ``positive``, with the 95 % interval of Hanley & McNeil (1982)."""
    positive, negative = np.asarray(positive, float), np.asarray(negative, float)
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    auc, p, n = float(wins.mean()), len(positive), len(negative)
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (p - 1) * (q1 - auc**2) + (n - 1) * (q2 - auc**2)) / (p * n)
    margin = 1.96 * np.sqrt(max(variance, 0.25 / (p * n)))  # the formula gives 0 for an AUC of 1
    return {"value": auc, "low": max(float(auc - margin), 0.0), "high": min(float(auc + margin), 1.0)}


def jackknife(statistics, sets, person):
    """Statistics of sets with 95 % t intervals whose standard error leaves out one person at a time.

    Args:
        statistics: function of the sets to a dict of float or None.
        sets: list of ImageSets of N slices in one order: those that stand for the slices of a person, such as
            samples, are left out with them.
        person: (N,) of str.

    Returns:
        dict of name → {"value", "low", "high"}, or the plain value where there is no interval.
    """
    people = np.unique(person)
    left_out = [statistics(*(images.take(person != one) for images in sets)) for one in people if len(people) > 2]
    result = {}
    for name, value in statistics(*sets).items():
        estimates = np.array([row[name] for row in left_out if row[name] is not None])
        if value is None or len(estimates) < 2:
            result[name] = value
            continue
        n = len(estimates)
        margin = stats.t.ppf(0.975, n - 1) * np.sqrt((n - 1) / n * ((estimates - estimates.mean()) ** 2).sum())
        result[name] = interval(name, value, margin)
    return result
