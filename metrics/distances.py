"""How far apart two sets of images lie, and how varied they are."""

import os

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from metrics.anatomy import anatomy_metrics
from metrics.images import ms_ssim
from slices.processes import parallel
from utils import evenly

FRECHET_COMPONENTS = 16  # of those that describe a slice
PAIRS = 300  # of images that diversity is measured on
BLOCK = 32  # pairs at a time


def set_statistics(samples, reference, originals, shape_rms, reference_variety):
    """Everything that is measured on samples against a reference of the same size, a flat dict.

    Args:
        samples, reference, originals: DescribedSets with the same labels and positions in the same order;
            ``originals`` are those whose reconstructions the reference shows.
        shape_rms: (C,) of ``Yardstick``.
        reference_variety: ``variety(reference)``.

    Returns:
        dict of float, or None where a number does not exist for these sets.
    """
    people = len(set(reference.person))
    k = min(3 if people < 50 else 5, people - 1)
    places = reference.person  # whose place a sample takes: with groups of one, its radii would be smaller
    own_variety = variety(samples)
    return {
        **set_distances(samples, reference, originals, shape_rms),
        "c2st": two_sample_auc(reference, samples),
        **manifold_metrics(reference.shape, samples.shape, reference.person, places, k),
        "diversity": None if own_variety is None or not reference_variety else own_variety / reference_variety,
        **anatomy_metrics(samples, reference),
    }


def set_distances(samples, reference, originals, shape_rms):
    """Those statistics of samples against a reference that are cheap enough for a jackknife: a dict."""
    leading = [side.shape[:, :FRECHET_COMPONENTS] for side in (samples, reference, originals)]
    return {
        "frechet": frechet_distance(leading[0], leading[1]),
        "frechet_real": frechet_distance(leading[0], leading[2]),
        "kid": kernel_distance(
            samples.shape / shape_rms, reference.shape / shape_rms, samples.person, reference.person
        ),
        "patches": patch_distance(samples.patches, reference.patches),
    }


def frechet_distance(first, second):
    """Squared Fréchet distance of Gaussians fitted to two sets of features (N, C), (M, C): 0 or more.

    Covariances shrunk by Ledoit & Wolf (2004), for N may be little above C.
    """
    covariances = [LedoitWolf().fit(features).covariance_ for features in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances[1] @ root), 0)).sum()
    distance = float(
        ((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum()
        + np.trace(covariances[0])
        + np.trace(covariances[1])
        - 2 * cross
    )
    return max(distance, 0.0)  # rounding leaves less where both are the same


def kernel_distance(first, second, first_person, second_person):
    """Unbiased squared maximum mean discrepancy, kernel (x·y / C + 1)³ (Bińkowski et al. 2018, KID).

    Pairs of slices of one person are left out. Features (N, C), (M, C), divided by their RMS. As an unbiased estimate
    of what may be 0, it is below 0 as often as not where the sets are alike. None where a set has one person.
    """
    if min(len(np.unique(person)) for person in (first_person, second_person)) < 2:
        return None

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(features, person):
        others = person[:, None] != person[None]
        return (kernel(features, features) * others).sum() / max(others.sum(), 1)

    return float(within(first, first_person) + within(second, second_person) - 2 * kernel(first, second).mean())


def patch_distance(first, second, projections=64):
    """Sliced Wasserstein distance of patches, the mean over the levels; (N, levels, PATCHES, PATCH²) each."""
    for library in ("PYTORCH", "JAX", "TENSORFLOW"):  # or POT loads whichever there are, for seconds
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{library}", "1")
    import ot

    distances = []
    for level in range(first.shape[1]):
        sides = [patches[:, level].reshape(-1, patches.shape[-1]) for patches in (first, second)]
        sides = [side[np.isfinite(side[:, 0])].astype(np.float64) for side in sides]
        if min(map(len, sides)) > 0:
            distances.append(ot.sliced_wasserstein_distance(*sides, n_projections=projections, seed=0))
    return float(np.mean(distances)) if distances else None


def two_sample_auc(first, second, seed=0):
    """How well a classifier tells two DescribedSets apart: the largest AUC of three RBF-SVMs (C2ST).

    After Lopez-Paz & Oquab 2017. The classifiers see the shape, the texture, or both; all slices of a
    person are in one fold. 0.5 is chance.
    """
    side = np.repeat([0, 1], [len(first.images), len(second.images)])
    groups = np.concatenate([np.char.add("a", first.person.astype(str)), np.char.add("b", second.person.astype(str))])
    folds = min(5, len(set(first.person)), len(set(second.person)))
    if folds < 2:
        return None
    shape, texture = (np.concatenate([getattr(first, name), getattr(second, name)]) for name in ("shape", "texture"))
    splits = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(shape, side, groups))
    classifier = make_pipeline(StandardScaler(), SVC())
    return max(
        float(roc_auc_score(side, cross_val_predict(classifier, features, side, cv=splits, method="decision_function")))
        for features in (shape, texture, np.hstack([shape, texture]))
    )


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
    """Mean (1 − MS-SSIM) over pairs of different people with one label and position, or None without a pair.

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
    blocks = [slice(start, start + BLOCK) for start in range(0, len(first), BLOCK)]
    similarity = parallel(
        lambda block: ms_ssim(images.images[first[block]] / 255, images.images[second[block]] / 255), blocks
    )
    return float(1 - np.concatenate(similarity).mean())
