"""The search for copies: of whole slices, of windows of codes; and copies planted for it to find."""

import numpy as np
from scipy import ndimage

from metrics.array_file import array_like
from metrics.images import half_size
from metrics.measured import ImageSet
from slices.frame import brain_mask, to_bytes
from slices.processes import parallel
from utils import progress, random_generator

TRAINING_BLOCK, QUERY_BLOCK = 512, 32  # slices at a time, of those that are searched in and of those searched for
GRID_BLOCK = 4096  # grids of codes


class CopySearch:
    """Finds the training image nearest to a query: all slices, mirror images, shifts of up to 3 pixels.

    The distance is 1 − the correlation, inside the brain of the query, of what is finer than 1/32 of the
    height: every brain has the coarse part in common. A gain does not change it. A coarse search on
    quarter-size images, at shifts of 2 pixels, picks 20 candidates, which are then compared at full size.
    What there is of every training image lies in files and is read block by block.

    Args:
        training: ImageSet, whose images may be an ArrayFile.
    """

    CANDIDATES, SHIFT, COARSEST = 20, 3, 1 / 32

    def __init__(self, training):
        self.training, images = training, training.images
        self.details = array_like(images, images.shape, np.int8)
        pixels = (images.shape[1] // 4) * (images.shape[2] // 4)
        self.coarse_training = array_like(images, (len(images), 2, pixels), np.float32)  # as they are, and mirrored
        starts = range(0, len(images), TRAINING_BLOCK)
        for start in progress(starts, desc="preparing the search", unit=" blocks", leave=False):
            found = parallel(self.prepare, images[start : start + TRAINING_BLOCK])
            for file, values in zip((self.details, self.coarse_training), zip(*found, strict=True), strict=True):
                file.append(np.stack(values))

    def prepare(self, image):
        """Detail (H, W) of an image, and the coarse vectors (2, H W / 16) of it and of its mirror image."""
        detail = self.detail(image)
        return detail, self.coarse(np.stack([detail, detail[:, ::-1]]))

    def detail(self, image):
        """(H, W) uint8 → int8: the image without what is coarser than COARSEST, clipped to ± 127."""
        image = image.astype(np.float32)
        coarse = ndimage.gaussian_filter(image, self.COARSEST * len(image))
        return np.clip(image - coarse, -127, 127).astype(np.int8)

    @staticmethod
    def coarse(details):
        """(N, H, W) int8 → (N, H W / 16) float32 of mean 0 and length 1."""
        vectors = half_size(half_size(details.astype(np.float32))).reshape(len(details), -1)
        vectors -= vectors.mean(axis=1, keepdims=True)
        return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-6)

    def nearest(self, queries, what):
        """Distance (N,) float and training row (N,) int of the nearest image; never one of the same person."""
        blocks = [slice(start, start + QUERY_BLOCK) for start in range(0, len(queries.images), QUERY_BLOCK)]

        def search(block):
            details = [self.detail(image) for image in queries.images[block]]
            candidates = self.candidates(details, queries.person[block])
            masks = map(brain_mask, queries.images[block])
            return [self.refine(*query) for query in zip(details, masks, candidates, strict=True)]

        def track(found):
            return progress(found, total=len(blocks), desc=f"searching {what}", unit=" blocks")

        distances, rows = zip(*(one for block in parallel(search, blocks, track) for one in block), strict=True)
        return np.array(distances), np.array(rows)

    def candidates(self, details, person):
        """The CANDIDATES likeliest training images of each of Q queries: a list of (C,) int.

        Training row r is 2 r as it is, and 2 r + 1 mirrored.

        Args:
            details: list of (H, W) int8.
            person: (Q,) of str, whose training images are none.
        """
        shifts = [(2 * y - 2, 2 * x - 2) for y, x in np.ndindex(3, 3)]
        shifted = [np.roll(detail, shift, (0, 1)) for shift in shifts for detail in details]
        wanted = self.coarse(np.stack(shifted))  # (9 Q, pixels)
        numbers = np.zeros((len(details), 0), int)
        likeness = np.zeros((len(details), 0), np.float32)
        for start in range(0, len(self.training.person), TRAINING_BLOCK):
            block = self.coarse_training[start : start + TRAINING_BLOCK]
            vectors = block.reshape(-1, block.shape[-1])
            found = (wanted @ vectors.T).reshape(len(shifts), len(details), -1).max(axis=0)
            own = self.training.person[start : start + TRAINING_BLOCK] == person[:, None]  # (Q, B)
            found[np.repeat(own, 2, axis=1)] = -2
            numbered = np.broadcast_to(2 * start + np.arange(len(vectors)), found.shape)
            likeness, numbers = np.hstack([likeness, found]), np.hstack([numbers, numbered])
            kept = min(self.CANDIDATES, likeness.shape[1])
            best = np.argpartition(-likeness, kept - 1, axis=1)[:, :kept]
            likeness, numbers = (np.take_along_axis(values, best, axis=1) for values in (likeness, numbers))
        return [row[alike > -2] for row, alike in zip(numbers, likeness, strict=True)]

    def refine(self, query, mask, candidates):
        """Distance to, and row of, the best of some candidates at any shift, inside the mask of the query.

        Args:
            query: (H, W) int8, its detail.
            mask: (H, W) bool.
            candidates: (C,) int, as ``candidates`` numbers them.
        """
        reach = self.SHIFT
        mask = mask if mask.any() else np.ones_like(mask)
        rows, columns = (slice(places.min(), places.max() + 1) for places in np.nonzero(mask))
        mask, query = mask[rows, columns], query[rows, columns].astype(np.float32)
        query = np.where(mask, query - query[mask].mean(), 0)
        images = [self.details[number // 2][:, :: -1 if number % 2 else 1] for number in candidates]
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
        return max(float(1 - correlation[best]), 0.0), int(candidates[best] // 2)  # a copy's rounds to below 0


def nearest_windows(queries, training, own=None, window=10):
    """The share of agreeing codes in the best window of each query (N, h, w) with any training grid.

    Args:
        own: (N, M) function of a row to the training rows to leave out, or None.
        window: side in codes, the grid's where that is smaller; at most 15.
    """
    height, width = (min(window, side) for side in training.shape[1:])
    best = np.zeros(len(queries), int)
    for start in range(0, len(training), GRID_BLOCK):
        grids = np.ascontiguousarray(training[start : start + GRID_BLOCK].transpose(1, 2, 0))  # (h, w, M): fast sums

        def agreeing(i, start=start, grids=grids):
            agree = (grids == queries[i][..., None]).view(np.uint8)
            found = window_sums(window_sums(agree, height).swapaxes(0, 1), width).max(axis=(0, 1))  # (M,)
            if own is not None:
                rows = np.asarray(own(i)) - start
                found[rows[(rows >= 0) & (rows < len(found))]] = 0
            return found.max()

        def track(found):
            return progress(found, total=len(queries), desc="searching windows", unit=" slices", leave=False)

        best = np.maximum(best, parallel(agreeing, range(len(queries)), track))
    return best / (height * width)


def window_sums(values, length):
    """(n, …) uint8 → (n − length + 1, …): the sums of ``length`` along the first axis, none of them over 255."""
    sums = np.empty((len(values) - length + 1, *values.shape[1:]), np.uint8)
    values[:length].sum(axis=0, out=sums[0], dtype=np.uint8)
    for i in range(1, len(sums)):
        np.subtract(sums[i - 1], values[i - 1], out=sums[i])
        sums[i] += values[i + length - 1]
    return sums


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
    uniforms = random.random((len(rows), *run.prior.uniforms_shape), np.float32)
    codes = cache.kept(
        "planted",
        training.fingerprint,
        lambda: np.array(
            run.prior.sample(
                uniforms,
                columns["label"],
                columns["position"],
                known=training.codes[rows],
                mask=~redrawn,
                scored=slice(0),
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
