"""People as the unit: means over them, intervals, and thinning by whole people."""

import numpy as np
import pandas as pd
from scipy import stats

from report.numbers import value_of as value_of
from utils import evenly

SET_SLICES = 1000  # of a split that sets are compared on; of training people, four times that
GROUPS = 20  # of people, at most, that a jackknife leaves out one at a time


def whole_people(subjects, limit):
    """(N,) bool: the slices of as many people, evenly spread over the list, as ``limit`` slices hold."""
    people = np.unique(subjects)
    kept = max(2, min(len(people), int(limit * len(people) / max(len(subjects), 1))))
    return np.isin(subjects, evenly(people, kept))


def for_sets(subjects):
    """(N,) bool: the slices of the people that sets are compared on."""
    return whole_people(subjects, SET_SLICES)


def for_nulls(subjects):
    """(N,) bool: the slices of training people that yardstick and nulls take; bits are counted on as many."""
    return whole_people(subjects, 4 * SET_SLICES)


def thinned(subjects, limit):
    """(N,) bool: at most ``limit`` slices of each person, evenly spread in the order that they have."""
    kept = np.zeros(len(subjects), bool)
    for rows in pd.Series(subjects).groupby(subjects).indices.values():
        kept[evenly(np.sort(rows), limit)] = True
    return kept


RANGES = {  # of what cannot leave them: an interval of few people would
    **dict.fromkeys(("ssim", "ssim_brain"), (-1.0, 1.0)),
    **dict.fromkeys(("ms_ssim", "tissue_dice", "ventricle_dice", "mae", "mae_brain"), (0.0, 1.0)),
    "frc_resolution": (0.0, 0.5),
    **dict.fromkeys(("psnr", "psnr_brain"), (-np.inf, 100.0)),
    **dict.fromkeys(("spectrum_gap", "bits"), (0.0, np.inf)),
}


def interval(name, value, margin):
    """{"value", "low", "high"}: value ± margin, which ends where ``name`` does by RANGES."""
    least, most = RANGES.get(name, (-np.inf, np.inf))
    return {"value": value, "low": max(float(value - margin), least), "high": min(float(value + margin), most)}


def t_margin(error, freedom):
    """Half the width of the 95 % t interval of a standard error."""
    return float(stats.t.ppf(0.975, freedom) * error)


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
        summary[name] = interval(name, mean, t_margin(values.sem(), len(values) - 1))
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


def jackknife(statistic, sets):
    """A statistic of sets with what few people add to it taken off, and its 95 % interval.

    A distance of two sets of one population is above 0 by about a / n of n people. The jackknife estimate
    n θ − (n − 1) mean(θ without one) is free of that (Quenouille 1956); its standard error is that of the same
    leave-outs (Tukey 1958), for a t interval. Groups of people are left out of all sets at once.

    Args:
        statistic: function of the sets to a float.
        sets: list of ImageSets, each with people of its own.

    Returns:
        estimate, standard error and degrees of freedom; the plain value, None and 0 where a set has fewer than three
        people.
    """
    groups = min(GROUPS, *(len(np.unique(one.person)) for one in sets))
    whole = statistic(*sets)
    if groups < 3:
        return whole, None, 0
    group_of = [group_people(one.person, groups) for one in sets]
    without = np.array(
        [
            statistic(*(one.take(group != left_out) for one, group in zip(sets, group_of, strict=True)))
            for left_out in range(groups)
        ]
    )
    error = np.sqrt((groups - 1) / groups * ((without - without.mean()) ** 2).sum())
    return float(groups * whole - (groups - 1) * without.mean()), float(error), groups - 1


def group_people(person, groups):
    """(N,) int: the group, 0 … groups − 1, of each slice's person; groups of as many people as possible alike."""
    people, which = np.unique(person, return_inverse=True)
    return np.arange(len(people))[which] % groups
