"""How far apart two sets of images lie, and how varied they are."""

import numpy as np
import pandas as pd
from scipy import linalg
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from metrics.anatomy import anatomy_effects
from metrics.images import ms_ssim
from metrics.measured import BANDS, DETAIL
from metrics.people import group_people, jackknife, t_margin
from utils import evenly, finite

FRECHET_COMPONENTS = 16  # of those that describe a slice
PAIRS = 100  # of images that diversity is measured on
AUC_SLICES = 250  # of a set that the classifiers see, evenly spaced: more take long, and tell more
SPECTRUM = 8  # bands of the spectrum that are told apart
FEATURES = {"": ("shape", "texture"), "_shape": ("shape",), "_texture": ("texture",)}  # of the three classifiers


def set_statistics(samples, reference, places, shape_rms):
    """Everything that is measured on samples against a reference, a flat dict; names of parts are dotted.

    Args:
        samples, reference: DescribedSets.
        places: (N,) of str, whose places samples take in radii by person: each its own person, theirs were smaller.
        shape_rms: (C,) of ``Yardstick``.

    Returns:
        dict of float, or None where a number does not exist for these sets.
    """
    people = len(set(reference.person))
    k = min(3 if people < 50 else 5, people - 1)
    own_variety, variety_of_reference = variety(samples), variety(reference)
    ratio = own_variety / variety_of_reference if own_variety is not None and variety_of_reference else None
    found = {
        "frechet": jackknife(frechet_distance, [frechet_side(side) for side in (samples, reference)])[0],
        "kid": kernel_distance(samples, reference, shape_rms),
        **two_sample_aucs(samples, reference),
        "patches": patch_distance(samples, reference),
        **manifold_metrics(reference.shape, samples.shape, reference.person, places, k),
        "diversity": ratio,
        **spectrum_metrics(samples, reference),
        "detail_auc": detail_auc(samples, reference),
        "noise_ratio": noise_ratio(samples, reference),
        **{f"anatomy.{name}": value for name, value in anatomy_effects(samples, reference).items()},
    }
    return {name: None if value is None else finite(value) for name, value in found.items()}


def distance_intervals(samples, reference, shape_rms):
    """Distances with their 95 % intervals, a dict of {"value", "low", "high"}; or plain values of too few people."""
    statistics = {
        "frechet": frechet_distance,
        "kid": lambda *sides: kernel_distance(*sides, shape_rms),
        "patches": patch_distance,
    }
    result = {}
    for name, statistic in statistics.items():
        sides = [frechet_side(side) for side in (samples, reference)] if name == "frechet" else [samples, reference]
        if statistic(*sides) is not None:
            result[name] = t_interval(*jackknife(statistic, sides))
    return result


def t_interval(value, error, freedom):
    """{"value", "low", "high"}: a value ± the 95 % t margin of its standard error; the value where that is None."""
    if error is None or not np.isfinite([value, error]).all():
        return finite(value)
    margin = t_margin(error, freedom)
    return {"value": value, "low": value - margin, "high": value + margin}


# ---- distances ----------------------------------------------------------------------------------


def frechet_side(images):
    """A DescribedSet with nothing but what the Fréchet distance takes, for a jackknife copies it often."""
    return Features(images.shape[:, :FRECHET_COMPONENTS], images.person)


class Features:
    """Features (N, C) of slices, and whose they are."""

    def __init__(self, values, person):
        self.values, self.person = values, person

    def take(self, rows):
        """Those of these rows, an index or a mask."""
        return Features(self.values[rows], self.person[rows])


def frechet_distance(first, second):
    """Squared Fréchet distance of the Gaussians fitted to two sets of Features (N, C), (M, C).

    Above 0 for two sets of one population, by about their number of components over their number of people.
    """
    first, second = first.values, second.values
    covariances = [np.atleast_2d(np.cov(features, rowvar=False)) for features in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances[1] @ root), 0)).sum()
    means = ((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum()
    return float(means + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross)


def kernel_distance(samples, reference, shape_rms):
    """Unbiased squared maximum mean discrepancy, kernel (x·y / C + 1)³ (Bińkowski et al. 2018, KID).

    Pairs of slices of one person are left out. As an unbiased estimate of what may be 0, it is below 0 as often as not
    where the sets are alike. None where a set has one person.
    """

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    sides = [(side.shape / shape_rms, side.person) for side in (samples, reference)]
    within = [mean_of_pairs(kernel(features, features), person) for features, person in sides]
    if None in within:
        return None
    return float(sum(within) - 2 * kernel(sides[0][0], sides[1][0]).mean())


def mean_of_pairs(values, person):
    """Mean of values (N, N) over pairs of different people, or None where there is one person."""
    _, which = np.unique(person, return_inverse=True)
    others = which[:, None] != which[None]
    return (values * others).sum() / others.sum() if others.any() else None


def patch_distance(samples, reference):
    """Sliced Cramér distance of patches, unbiased, times 1,000; the mean over levels and directions.

    The squared difference of the shares below each threshold (Kolouri et al. 2020, *Sliced Cramér synaptic
    consolidation*, §3). Pairs of slices of one person are left out, so that it may be below 0 where nothing differs.
    None where no patch fits into any brain, or a set has one person.
    """
    distances = []
    for level in range(samples.patches.shape[1]):
        known = [np.isfinite(side.patches[:, level, 0]) for side in (samples, reference)]
        sides = [
            (side.patches[rows, level], side.person[rows])
            for side, rows in zip((samples, reference), known, strict=True)
        ]
        if min(len(set(person)) for _, person in sides) < 2:
            continue
        means = [shares.mean(axis=0, dtype=np.float64) for shares, _ in sides]
        squares = sum(square_between_people(*side) for side in sides) - 2 * means[0] @ means[1]
        distances.append(float(1000 * squares / len(means[0])))
    return float(np.mean(distances)) if distances else None


def square_between_people(features, person):
    """The mean product of features (N, C) over pairs of slices of different people, without the (N, N) products."""
    people, which = np.unique(person, return_inverse=True)
    order = np.argsort(which, kind="stable")
    counts = np.bincount(which)
    sums = np.add.reduceat(features[order], np.r_[0, counts.cumsum()[:-1]], axis=0, dtype=np.float64)  # (people, C)
    total = sums.sum(axis=0)
    return (total @ total - (sums**2).sum()) / (len(features) ** 2 - (counts.astype(float) ** 2).sum())


# ---- texture ------------------------------------------------------------------------------------


def spectrum_metrics(samples, reference):
    """Power of samples over that of the reference: log10 in SPECTRUM bands, and the mean gap in the upper half."""
    power = [(10 ** side.texture[:, :BANDS]).mean(axis=0) for side in (samples, reference)]  # (BANDS,) each
    ratio = np.log10(power[0] / power[1])
    coarse = [np.log10(one.reshape(SPECTRUM, -1).sum(axis=1)) for one in power]
    return {
        "spectrum_gap": float(np.abs(ratio[BANDS // 2 :]).mean()),
        **{f"spectrum.band_{band + 1}": float(coarse[0][band] - coarse[1][band]) for band in range(SPECTRUM)},
    }


def detail_auc(samples, reference):
    """How well the strength of fine detail in the brain alone tells samples from the reference: 0.5 to 1."""
    strength = np.concatenate([side.texture[:, DETAIL] for side in (samples, reference)])
    side = np.repeat([0, 1], [len(samples.texture), len(reference.texture)])
    return float(0.5 + abs(roc_auc_score(side, strength) - 0.5))


def noise_ratio(samples, reference):
    """The strength of noise in flat tissue, the median of samples over that of the reference; None without any."""
    medians = [np.nanmedian(side.noise) if np.isfinite(side.noise).any() else 0 for side in (samples, reference)]
    return float(medians[0] / medians[1]) if medians[1] > 0 else None


def two_sample_aucs(samples, reference):
    """How well classifiers tell two DescribedSets apart (C2ST, Lopez-Paz & Oquab 2017): a dict of AUC, 0.5 is chance.

    RBF machines that see shape, texture, or both; all slices of a person are in one fold.
    """
    sides = [side.take(np.array(evenly(np.arange(len(side.person)), AUC_SLICES))) for side in (samples, reference)]
    folds = min(5, *(len(set(one.person)) for one in sides))
    if folds < 2:
        return dict.fromkeys(f"two_sample_auc{name}" for name in FEATURES)
    side = np.repeat([0, 1], [len(one.person) for one in sides])
    fold = np.concatenate([group_people(one.person, folds) for one in sides])
    result = {}
    for name, kinds in FEATURES.items():
        features = np.concatenate([np.hstack([getattr(one, kind) for kind in kinds]) for one in sides])
        result[f"two_sample_auc{name}"] = float(roc_auc_score(side, held_out_scores(features, 2.0 * side - 1, fold)))
    return result


def held_out_scores(features, target, fold):
    """What least-squares support vector machines say of the people that they have not seen, (N,) float.

    Suykens & Vandewalle 1999: a regression on ± 1 with the RBF kernel of width the number of features and a ridge of 1,
    as ``sklearn.svm.SVC`` sets them. All folds come from one inverse (An et al. 2007), for there are hundreds of draws.

    Args:
        features: (N, C) float.
        target: (N,) of ± 1.
        fold: (N,) int, of which each is left out in turn.
    """
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9)
    kernel = np.exp(-cdist(features, features, "sqeuclidean") / features.shape[1])
    kernel[np.diag_indices_from(kernel)] += 1.0
    inverse = linalg.inv(kernel + 1.0, check_finite=False)  # a bias of variance 1 among the weights
    solution, scores = inverse @ target, np.empty(len(target))
    for left_out in np.unique(fold):
        rows = np.flatnonzero(fold == left_out)
        scores[rows] = target[rows] - np.linalg.solve(inverse[np.ix_(rows, rows)], solution[rows])
    return scores


# ---- coverage and variety -----------------------------------------------------------------------


def nearest_person_radii(features, person, k):
    """(N,) distance of each slice to the nearest slice of its k-th nearest other person."""
    people, which = np.unique(person, return_inverse=True)
    distances = cdist(features, features)  # (N, N)
    order = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[order], np.arange(len(people)))
    by_person = np.minimum.reduceat(distances[:, order], starts, axis=1)  # (N, people)
    by_person[np.arange(len(features)), which] = np.inf
    return np.sort(by_person, axis=1)[:, min(k, len(people) - 1) - 1]


def manifold_metrics(real, fake, real_person, fake_person, k):
    """Precision, recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Features (N, C) and (M, C). A radius reaches to the k-th nearest *person*, which is the k-th nearest
    slice where every slice is a person of its own.
    """
    distances = cdist(real, fake)  # (N, M)
    real_radii, fake_radii = nearest_person_radii(real, real_person, k), nearest_person_radii(fake, fake_person, k)
    inside = distances < real_radii[:, None]
    return {
        "precision": float(inside.any(axis=0).mean()),
        "recall": float((distances < fake_radii[None]).any(axis=1).mean()),
        "density": float(inside.sum(axis=0).mean() / k),
        "coverage": float((distances.min(axis=1) < real_radii).mean()),
    }


def variety(images):
    """Mean (1 − MS-SSIM) at half size over pairs of different people with one label and position, or None without one.

    Every slice is paired with the next one of its label and position; at most PAIRS pairs, evenly spread.
    """
    pairs = []
    cells = pd.DataFrame({"label": images.label, "position": images.position}).groupby(["label", "position"])
    for rows in cells.indices.values():
        others = np.roll(rows, -1)
        pairs += [pair for pair in zip(rows, others, strict=True) if images.person[pair[0]] != images.person[pair[1]]]
    if not pairs:
        return None
    first, second = np.array(evenly(np.array(pairs), PAIRS)).T
    return float(1 - ms_ssim(images.images[first] / 255, images.images[second] / 255).mean())
