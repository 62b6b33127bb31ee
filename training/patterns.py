"""The patterns of grey that the top codes of a two-level prior stand for: fitted before the prior is trained."""

import warnings

import numpy as np

from training.packing import rounded
from utils import digits_of

BLOCKS = 32768  # at most, that patterns are fitted to


def fit_patterns(prior, vqvae, images, size=32):
    """Set the greys of a TwoLevelPrior's codes, and its patterns: the centres of k-means over blocks of them.

    Args:
        prior: TwoLevelPrior.
        vqvae: VQVAE whose codes it learns.
        images: (N, H, W, 1) uint8, crops of training slices.
        size: how many are encoded together.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    starts = range(0, len(images), size)
    codes = np.concatenate(
        [np.asarray(vqvae.encode(images[i : i + size].astype("float32") / 255)) for i in starts]
    )  # (N, h, w)
    prior.greys.assign(stored(greys_of(codes, [np.asarray(vqvae.decode(codes[i : i + size])) for i in starts], prior)))
    blocks = np.concatenate([np.asarray(prior.blocks(codes[i : i + size])) for i in starts])  # (N, H, W, block²)
    blocks = blocks.reshape(-1, blocks.shape[-1])
    random = np.random.default_rng(prior.settings["seed"])
    blocks = blocks[np.sort(random.permutation(len(blocks))[:BLOCKS])]
    fit = KMeans(min(prior.top_codes, len(blocks)), n_init=1, max_iter=50, random_state=prior.settings["seed"])
    with threadpool_limits(1), warnings.catch_warnings():  # many threads add up in any order
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer blocks that differ than patterns: some are equal
        centres = fit.fit(blocks.astype(np.float64)).cluster_centers_  # (top codes, block²)
    prior.patterns.assign(stored(np.resize(centres, (prior.top_codes, blocks.shape[1]))).T)


def greys_of(codes, images, prior):
    """The mean grey of the pixels where each first digit stands, (K,) float64, 0 for one that is nowhere.

    Args:
        codes: (N, h, w) int.
        images: list of (n, H, W, 1) float32 in [0, 1], the decoded codes.
    """
    side = images[0].shape[1] // codes.shape[1]
    pixels = np.concatenate([x.reshape(len(x), *codes.shape[1:2], side, codes.shape[2], side) for x in images])
    means = pixels.mean(axis=(2, 4)).ravel()  # one for each code
    digits = digits_of(codes.ravel(), prior.num_codes, prior.depth)[0]
    count = np.bincount(digits, minlength=prior.num_codes)
    return np.bincount(digits, means, minlength=prior.num_codes) / np.maximum(count, 1)


def stored(values):
    """Values as a .keras file will hold them, float32: a top code must be the same before and after."""
    return rounded(values.astype(np.float32)).astype(np.float32)
