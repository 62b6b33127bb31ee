"""Sets of images, and what they are measured with: shape, texture, anatomy and patches of every slice."""

from dataclasses import dataclass, fields, replace

import numpy as np
from scipy import ndimage
from sklearn.decomposition import PCA

from metrics.anatomy import anatomy
from metrics.images import half_size, ring_sums
from slices.frame import as_grey, brain_mask
from slices.processes import parallel

COMPONENTS = 32  # of the principal components that describe a slice; the Fréchet distance takes the first 16
BANDS = 16  # of radial power
LEVELS = 4  # of the Laplacian pyramid whose moments describe the texture
PATCH, PATCH_LEVELS, PATCHES = 7, 3, 16  # side in pixels, levels of the pyramid, patches per image and level


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
        shape: (N, C) principal components of the half-size slice, the mean of its position removed.
        texture: (N, BANDS + 4 LEVELS) log radial power, and moments in the brain of four Laplacian levels.
        anatomy: (N, 6) z-scores among the training people at that position; NaN where there is no brain.
        patches: (N, PATCH_LEVELS, PATCHES, PATCH²) float32, drawn in the brain; NaN where there is no room.
    """

    shape: np.ndarray
    texture: np.ndarray
    anatomy: np.ndarray
    patches: np.ndarray


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

    def shape_of(self, images):
        """The principal components of an ImageSet, (N, C) float."""
        small = small_vectors(images.images)
        return self.pca.transform(small - self.position_means[images.position.clip(0, len(self.position_means) - 1)])

    def describe(self, images, track=iter):
        """An ImageSet as a DescribedSet."""
        place = images.position.clip(0, len(self.position_means) - 1)
        measured = parallel(describe_slice, images.images, track)
        texture, values, patches = (np.stack(column) for column in zip(*measured, strict=True))
        z_scores = (values - self.anatomy_means[place]) / self.anatomy_sds[place]
        plain = {field.name: getattr(images, field.name) for field in fields(ImageSet)}
        return DescribedSet(
            **plain, shape=self.shape_of(images), texture=texture, anatomy=z_scores, patches=patches / self.patch_rms[0]
        )


def small_vectors(images):
    """(N, H, W) uint8 → (N, H W / 4) float32 in [0, 1], at half size."""
    blocks = (images[start : start + 256] for start in range(0, max(len(images), 1), 256))
    small = np.concatenate([half_size(block / np.float32(255)) for block in blocks])
    return small.reshape(len(small), -1)


def describe_slice(image):
    """Texture, anatomy and patches of one slice (H, W) uint8."""
    mask = brain_mask(image)
    bands, masks = pyramid_of(image, mask)
    return texture(as_grey(image), bands, masks), anatomy(image, mask), draw_patches(bands, masks)


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
