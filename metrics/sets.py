"""Sets of images, and what they are measured with: shape, texture, anatomy and patches of every slice."""

from dataclasses import dataclass, fields, replace

import numpy as np
from scipy import ndimage
from sklearn.decomposition import PCA

from metrics.anatomy import anatomy
from metrics.images import half_size, ring_sums
from slices.frame import as_grey, brain_mask, to_bytes
from slices.processes import parallel
from utils import random_generator

COMPONENTS = 32  # of the principal components that describe a slice; the Fréchet distance takes the first 16
BANDS = 16  # of radial power
LEVELS = 4  # of the Laplacian pyramid whose moments describe the texture
DETAIL = BANDS + 1  # the column of the texture with the strength of fine detail: the deviation of the finest level
PATCH, PATCH_LEVELS, PATCHES = 7, 3, 16  # side in pixels, levels of the pyramid, patches per image and level
DIRECTIONS, THRESHOLDS = 24, 24  # that patches are projected on, and counted below
FLAT = 0.25  # of the pixels of the brain, those where the slice changes least, tell the noise


@dataclass
class ImageSet:
    """N slices and whose they are.

    Attributes:
        images: (N, H, W) uint8, in the crop box.
        label, position: (N,) int.
        person: (N,) of str; every sample of a model is a person of its own.
    """

    images: np.ndarray
    label: np.ndarray
    position: np.ndarray
    person: np.ndarray

    def take(self, rows):
        """The set of these rows, an index or a mask."""
        return replace(self, **{name: value[rows] for name, value in vars(self).items()})


def replace_images(images, others):
    """The same ImageSet with other images."""
    return replace(images, images=others)


def join(*sets):
    """Several sets of one kind, ImageSets or DescribedSets, one after the other."""
    return replace(sets[0], **{name: np.concatenate([vars(one)[name] for one in sets]) for name in vars(sets[0])})


def as_samples(reference, images):
    """Images (N, H, W) that stand for the slices of the reference one by one, each a person of its own."""
    return replace(reference, images=images, person=sample_names(len(images)))


def sample_names(count):
    """(count,) of str: whose slices samples are, each one's own."""
    return np.char.add("sample ", np.arange(count).astype(str))


@dataclass
class DescribedSet(ImageSet):
    """An ImageSet with what ``Yardstick.describe`` measured on each slice.

    Attributes:
        images: (N, H / 2, W / 2) uint8, at half size: hundreds of sets are drawn from one.
        shape: (N, C) principal components of the half-size slice, the mean of its position removed.
        texture: (N, BANDS + 4 LEVELS) log radial power, and moments in the brain of four Laplacian levels.
        anatomy: (N, 6) z-scores among the training people at that position; NaN where there is no brain.
        patches: (N, PATCH_LEVELS · DIRECTIONS · THRESHOLDS) float32, the share of a slice's patches that fall below each
            threshold in each direction; NaN where none fits into the brain.
        noise: (N,) strength of the finest detail where the tissue is flat, in grey levels of [0, 1]; NaN without a brain.
    """

    shape: np.ndarray
    texture: np.ndarray
    anatomy: np.ndarray
    patches: np.ndarray
    noise: np.ndarray


class Yardstick:
    """What sets are measured with, fitted once on training people and then left alone.

    Args:
        training: ImageSet.
        seed: of the randomised principal components.
        track: wraps an iterable in a progress bar.
    """

    def __init__(self, training, seed=0, track=iter):
        self._fit_shape(training, seed)
        self._fit_anatomy(training, track)
        self._fit_patches(training.images[:200], track)

    def _fit_shape(self, training, seed):
        """Set the means of positions (P, pixels), the principal components, and their RMS (C,)."""
        small = small_vectors(training.images)
        overall = small.mean(axis=0)
        self.position_means = np.stack(
            [
                small[training.position == position].mean(axis=0) if (training.position == position).any() else overall
                for position in range(int(training.position.max()) + 1)
            ]
        )
        degrees_of_freedom = len(small) - len(np.unique(training.position))
        components = max(1, min(COMPONENTS, degrees_of_freedom, small.shape[1]))
        self.pca = PCA(components, svd_solver="randomized", random_state=seed)
        self.pca.fit(small - self.position_means[training.position])
        self.shape_rms = np.sqrt((self.shape_of(training) ** 2).mean(axis=0)) + 1e-9

    def _fit_anatomy(self, training, track):
        """Set the mean and the deviation of the anatomy at each position, (P, 6)."""
        values = np.stack(parallel(lambda image: anatomy(image, brain_mask(image)), training.images, track))  # (N, 6)
        at_positions = [training.position == position for position in range(len(self.position_means))]
        groups = [values[here] if here.sum() > 2 else values for here in at_positions]
        self.anatomy_means, deviations = (
            np.stack([statistic(group, axis=0) for group in groups]) for statistic in (np.nanmean, np.nanstd)
        )
        pooled = np.nanstd(values, axis=0)  # (6,); a floor where all of a position have none, such as ventricles
        self.anatomy_sds = np.maximum(deviations, np.where(pooled > 0, 0.1 * pooled, 1))

    def _fit_patches(self, images, track):
        """Set the RMS of the patches of each level, (1, PATCH_LEVELS, 1, 1)."""
        patches = np.stack(parallel(lambda image: draw_patches(*pyramid_of(image, brain_mask(image))), images, track))
        count = np.isfinite(patches).sum(axis=(0, 2, 3), keepdims=True)
        self.patch_rms = np.sqrt(np.nansum(patches**2, axis=(0, 2, 3), keepdims=True) / np.maximum(count, 1)) + 1e-9
        directions = random_generator(0, "patch directions").standard_normal((PATCH**2, DIRECTIONS))
        self.directions = (directions / np.linalg.norm(directions, axis=0)).astype(np.float32)
        projected = (patches / self.patch_rms) @ self.directions  # (N, PATCH_LEVELS, PATCHES, DIRECTIONS)
        ranks = (np.arange(THRESHOLDS) + 0.5) / THRESHOLDS
        missing = not np.isfinite(projected).any()
        pooled = np.zeros(1) if missing else projected[np.isfinite(projected)]
        self.thresholds = np.quantile(pooled, ranks).astype(np.float32)

    def patch_shares(self, patches):
        """Patches of a slice (PATCH_LEVELS, PATCHES, PATCH²) → the share below each threshold in each direction."""
        projected = (patches / self.patch_rms[0]) @ self.directions  # (PATCH_LEVELS, PATCHES, DIRECTIONS)
        shares = (projected[..., None] < self.thresholds).mean(axis=1, dtype=np.float32)
        shares[np.isnan(projected).any(axis=(1, 2))] = np.nan
        return shares.ravel()

    def shape_of(self, images):
        """The principal components of an ImageSet, (N, C) float."""
        small = small_vectors(images.images)
        return self.pca.transform(small - self.position_means[images.position.clip(0, len(self.position_means) - 1)])

    def describe(self, images, track=iter):
        """An ImageSet as a DescribedSet."""
        place = images.position.clip(0, len(self.position_means) - 1)

        def measure(image):
            texture, values, patches, noise = describe_slice(image)
            return texture, values, self.patch_shares(patches), noise

        measured = parallel(measure, images.images, track)
        texture, values, patches, noise = (np.stack(column) for column in zip(*measured, strict=True))
        z_scores = (values - self.anatomy_means[place]) / self.anatomy_sds[place]
        plain = {field.name: getattr(images, field.name) for field in fields(ImageSet)}
        plain["images"] = np.concatenate(
            [to_bytes(half_size(images.images[i : i + 256] / np.float32(255))) for i in range(0, len(images.images), 256)]
        )
        return DescribedSet(
            **plain, shape=self.shape_of(images), texture=texture, anatomy=z_scores, patches=patches, noise=noise
        )


def small_vectors(images):
    """(N, H, W) uint8 → (N, H W / 4) float32 in [0, 1], at half size."""
    blocks = (images[start : start + 256] for start in range(0, max(len(images), 1), 256))
    small = np.concatenate([half_size(block / np.float32(255)) for block in blocks])
    return small.reshape(len(small), -1)


def describe_slice(image):
    """Texture, anatomy, patches and noise of one slice (H, W) uint8."""
    mask = brain_mask(image)
    bands, masks = pyramid_of(image, mask)
    grey = as_grey(image)
    return texture(grey, bands, masks), anatomy(image, mask), draw_patches(bands, masks), noise_of(grey, bands[0], mask)


def noise_of(image, finest, mask):
    """How strong the finest detail is in flat tissue: its median absolute deviation, scaled to a standard deviation.

    Flat are the FLAT pixels of the brain, its border left out, where the smoothed slice is least steep.

    Args:
        image: (H, W) float in [0, 1].
        finest: (H, W), the finest level of its Laplacian pyramid.
        mask: (H, W) bool, its brain.
    """
    inside = ndimage.binary_erosion(mask, iterations=3)
    if not inside.any():
        return np.nan
    steepness = ndimage.gaussian_gradient_magnitude(image, 2)[inside]
    flat = finest[inside][steepness <= np.quantile(steepness, FLAT)]
    return float(1.4826 * np.median(np.abs(flat - np.median(flat))))


def pyramid_of(image, mask):
    """The Laplacian pyramid of a slice (H, W) uint8 and its brain (H, W) bool: LEVELS bands and their masks."""
    return laplacian_pyramid(as_grey(image), mask, LEVELS)


def laplacian_pyramid(image, mask, levels):
    """Bands of an image (Burt & Adelson 1983), finest first, and the mask at the size of each."""
    bands, masks = [], []
    for _ in range(levels):
        coarse = ndimage.gaussian_filter(image, 1)
        bands.append(image - coarse)
        masks.append(mask)
        image, mask = coarse[::2, ::2], mask[::2, ::2]
    return bands, masks


def texture(image, bands, masks):
    """Log10 radial power in BANDS rings, then mean, deviation, skewness and kurtosis of LEVELS in the brain.

    Args:
        image: (H, W) float in [0, 1].
        bands, masks: its Laplacian pyramid.
    """
    power = np.abs(np.fft.fft2(image)) ** 2
    sizes = np.maximum(ring_sums(np.ones(image.shape), BANDS), 1)
    moments = []
    for band, inside in zip(bands, masks, strict=True):
        values = band[inside] if inside.sum() > 1 else np.zeros(2)
        mean, deviation = values.mean(), values.std() + 1e-6
        moments += [mean, deviation, *((((values - mean) / deviation) ** order).mean() for order in (3, 4))]
    return np.concatenate([np.log10(ring_sums(power, BANDS) / sizes + 1e-6), moments])


def draw_patches(bands, masks):
    """PATCHES patches inside the brain at the finest PATCH_LEVELS of a Laplacian pyramid, at places evenly spread.

    Returns (PATCH_LEVELS, PATCHES, PATCH²) float32, NaN where no patch fits into the brain.
    """
    patches = np.full((PATCH_LEVELS, PATCHES, PATCH**2), np.nan, np.float32)
    half = PATCH // 2
    for level, (band, inside) in enumerate(zip(bands[:PATCH_LEVELS], masks[:PATCH_LEVELS], strict=True)):
        inside = inside.copy()
        inside[:half], inside[-half:], inside[:, :half], inside[:, -half:] = False, False, False, False
        rows, columns = np.nonzero(ndimage.binary_erosion(inside, iterations=half - 1))
        if len(rows):
            chosen = (np.arange(PATCHES) + 0.5) * len(rows) / PATCHES
            windows = np.lib.stride_tricks.sliding_window_view(band, (PATCH, PATCH))
            places = rows[chosen.astype(int)] - half, columns[chosen.astype(int)] - half
            patches[level] = windows[places].reshape(PATCHES, -1)
    return patches
