"""The search for copies: of whole slices, of windows of codes; and copies planted for it to find."""

import numpy as np
from scipy import ndimage

from metrics.images import half_size
from metrics.sets import ImageSet
from slices.frame import brain_mask, to_bytes
from slices.processes import parallel
from utils import random_generator, tracker


class CopySearch:
    """Finds the training image nearest to a query: all slices, mirror images, shifts of up to 3 pixels.

    The distance is 1 − the correlation, inside the brain of the query, of what is finer than 1/32 of the
    height: every brain has the coarse part in common. A gain does not change it. A coarse search on
    quarter-size images, at shifts of 2 pixels, picks 20 candidates, which are then compared at full size.
    """

    CANDIDATES, SHIFT, COARSEST = 20, 3, 1 / 32

    def __init__(self, training):
        self.training = training
        self.details = self.detail(training.images)
        both = [self.coarse(self.details), self.coarse(self.details[..., ::-1])]
        self.coarse_training = np.concatenate(both)  # (2 N, pixels): as they are, then mirrored

    def detail(self, images):
        """(N, H, W) uint8 → int8: the images without what is coarser than COARSEST, clipped to ± 127."""

        def filtered(image):
            image = image.astype(np.float32)
            coarse = ndimage.gaussian_filter(image, self.COARSEST * len(image))
            return np.clip(image - coarse, -127, 127).astype(np.int8)

        return np.stack(parallel(filtered, images))

    @staticmethod
    def coarse(details):
        """(N, H, W) int8 → (N, H W / 16) float32 of mean 0 and length 1."""
        blocks = [
            half_size(half_size(details[start : start + 512].astype(np.float32)))
            for start in range(0, len(details), 512)
        ]
        vectors = np.concatenate(blocks).reshape(len(details), -1)
        vectors -= vectors.mean(axis=1, keepdims=True)
        return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-6)

    def nearest(self, queries, what):
        """Distance (N,) float and training row (N,) int of the nearest image; never one of the same person."""
        details, everyone = self.detail(queries.images), np.tile(self.training.person, 2)

        def search(i):
            shifted = [np.roll(details[i], (2 * y - 2, 2 * x - 2), (0, 1)) for y, x in np.ndindex(3, 3)]
            likeness = (self.coarse_training @ self.coarse(np.stack(shifted)).T).max(axis=1)
            likeness[everyone == queries.person[i]] = -2
            count = min(self.CANDIDATES, int((likeness > -2).sum()))
            candidates = np.argpartition(-likeness, count - 1)[:count]
            return self.refine(details[i], brain_mask(queries.images[i]), candidates)

        found = parallel(search, range(len(queries.images)), tracker(f"searching {what}", len(queries.images)))
        return np.array([distance for distance, _ in found]), np.array([row for _, row in found])

    def refine(self, query, mask, candidates):
        """Distance to, and row of, the best of some candidates at any shift, inside the mask of the query."""
        n, reach = len(self.details), self.SHIFT
        mask = mask if mask.any() else np.ones_like(mask)
        rows, columns = (slice(places.min(), places.max() + 1) for places in np.nonzero(mask))
        mask, query = mask[rows, columns], query[rows, columns].astype(np.float32)
        query = np.where(mask, query - query[mask].mean(), 0)
        images = [self.details[row % n][:, :: -1 if row >= n else 1] for row in candidates]
        padded = np.pad(np.stack(images), ((0, 0), (reach, reach), (reach, reach)))
        window = padded[:, rows.start : rows.stop + 2 * reach, columns.start : columns.stop + 2 * reach]
        flat = window.reshape(len(images), -1).astype(np.float32)  # (candidates, pixels)
        shape, steps = window.shape[1:], 2 * reach + 1
        queries, masks = np.zeros((2, steps * steps, *shape), np.float32)
        for shift in range(steps * steps):
            y, x = divmod(shift, steps)
            queries[shift, y : y + mask.shape[0], x : x + mask.shape[1]] = query
            masks[shift, y : y + mask.shape[0], x : x + mask.shape[1]] = mask
        queries, masks = queries.reshape(steps**2, -1), masks.reshape(steps**2, -1)
        area, sums = mask.sum(), masks @ flat.T  # (shifts, candidates)
        spread = np.sqrt(np.maximum(masks @ (flat**2).T - sums**2 / area, 1e-3))
        correlation = (queries @ flat.T / (spread * max(np.sqrt((query**2).sum()), 1e-3))).max(axis=0)
        best = correlation.argmax()
        return max(float(1 - correlation[best]), 0.0), int(candidates[best] % n)  # a copy's rounds to below 0


def nearest_windows(queries, training, own=None, window=10):
    """The share of agreeing codes in the best window of each query (N, h, w) with any training grid.

    Args:
        own: (N, M) function of a row to the training rows to leave out, or None.
        window: side in codes, the grid's where that is smaller.
    """
    height, width = (min(window, side) for side in training.shape[1:])

    def best(i):
        agree = training == queries[i]  # (M, h, w)
        sums = agree.cumsum(axis=1, dtype=np.int16).cumsum(axis=2, dtype=np.int16)
        sums = np.pad(sums, ((0, 0), (1, 0), (1, 0)))
        found = (
            sums[:, height:, width:]
            - sums[:, :-height, width:]
            - sums[:, height:, :-width]
            + sums[:, :-height, :-width]
        ).max(axis=(1, 2))
        if own is not None:
            found[own(i)] = 0
        return found.max() / (height * width)

    return np.array(parallel(best, range(len(queries)), tracker("searching windows", len(queries))))


def plant_copies(run, cache, training, seed, count=200):
    """Copies that a search must find: a tenth of the codes redrawn, shifted by up to 2 px, gain ± 5 %.

    The prior redraws them, each given the codes before it, as it would have sampled them.

    Args:
        run: sampling.run.Run.
        cache: metrics.parts.Cache of the run.
        training: Part of the training people.

    Returns:
        codes (N, h, w) int32 and an ImageSet.
    """
    random = random_generator(seed, "planted copies")
    rows = random.choice(len(training.codes), min(count, len(training.codes)), replace=False)
    columns = {name: column[rows] for name, column in training.columns.items()}
    redrawn = random.random((len(rows), *run.code_grid)) < 0.1
    uniforms = random.random(redrawn.shape, np.float32)
    codes = cache.kept(
        "planted",
        training.fingerprint,
        lambda: np.array(
            run.prior.sample(
                uniforms, columns["label"], columns["position"], known=training.codes[rows], mask=~redrawn
            )[0]
        ),
    )
    images = shift_and_gain(run.decode_crops(codes, "planted copies"), random)
    return codes, ImageSet(images, columns["label"], columns["position"] - 1, np.full(len(rows), "planted copy"))


def shift_and_gain(images, random):
    """Images (N, H, W) uint8, each shifted by up to 2 px either way and brightened or darkened by up to 5 %."""
    changed = []
    for image in images:
        y, x = random.integers(-2, 3, 2)
        shifted = np.pad(image, 2)[2 - y : image.shape[0] + 2 - y, 2 - x : image.shape[1] + 2 - x]
        changed.append(to_bytes(shifted / 255 * random.uniform(0.95, 1.05)))
    return np.stack(changed)
