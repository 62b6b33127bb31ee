"""What a number is set against: the null band of real people, and a Gaussian for a generator."""

from dataclasses import replace

import numpy as np

from slices.frame import to_bytes
from utils import random_generator

NULL_DRAWS = 20


def draw_null(pool, reference, seed, draw):
    """Training slices that stand for those of the reference: same labels and positions, whole people.

    Every person of the reference is replaced by a training person of the same label, drawn without
    replacement as far as they last, and every slice by that person's slice at the nearest position.

    Args:
        pool: ImageSet of training people.
        reference: ImageSet.
        seed, draw: ints from 0, of the people who are drawn.

    Returns:
        ImageSet as long as the reference, and the rows of the pool that it consists of.
    """
    random = random_generator(seed, "null people", draw)
    label_of = dict(zip(pool.person, pool.label, strict=True))
    everyone = np.unique(pool.person)
    candidates, used, rows = {}, {}, np.zeros(len(reference.person), int)
    for person in np.unique(reference.person):
        slices = np.flatnonzero(reference.person == person)
        label = reference.label[slices[0]]
        if label not in candidates:
            same = [name for name in everyone if label_of[name] == label] or list(everyone)
            candidates[label], used[label] = random.permutation(same), 0
        chosen = np.flatnonzero(pool.person == candidates[label][used[label] % len(candidates[label])])
        used[label] += 1
        nearest = np.abs(pool.position[chosen][:, None] - reference.position[slices]).argmin(axis=0)
        rows[slices] = chosen[nearest]
    return replace(pool.take(rows), label=reference.label, position=reference.position), rows


def band(values):
    """Median, 5 % and 95 % of the values of a statistic, or None where it does not exist."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    low, median, high = np.percentile(values, [5, 50, 95])
    return {"value": float(median), "low": float(low), "high": float(high)}


def gaussian_images(training, position, seed):
    """Samples (N, H, W) uint8 of the Gaussian with the mean of each position and the covariance of train.

    A normal combination of the centred training images has exactly their covariance.

    Args:
        training: ImageSet.
        position: (N,) int, of the samples.
        seed: int from 0.
    """
    pixels = training.images.reshape(len(training.images), -1).astype(np.float32)
    pixels /= 255
    overall = pixels.mean(axis=0)
    means = {place: pixels[training.position == place].mean(axis=0) for place in np.unique(training.position)}
    for place, mean in means.items():
        pixels[training.position == place] -= mean
    weights = random_generator(seed, "gaussian samples").standard_normal((len(position), len(pixels)))
    weights = weights.astype(np.float32) / np.sqrt(len(pixels) - len(means) if len(pixels) > len(means) else 1)
    centres = [means.get(place, overall) for place in position]
    blocks = [
        to_bytes(weights[start : start + 256] @ pixels + centres[start : start + 256])
        for start in range(0, len(weights), 256)
    ]
    return np.concatenate(blocks).reshape(-1, *training.images.shape[1:])
