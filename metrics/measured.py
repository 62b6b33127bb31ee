"""Sets of images, and what is measured on every slice whatever it is compared with."""

from dataclasses import dataclass, fields, replace

import numpy as np
from scipy import ndimage

from metrics.anatomy import anatomy
from metrics.images import half_size, ring_sums
from slices.frame import as_grey, brain_mask, eroded, to_bytes
from slices.processes import parallel

BANDS = 16  # of radial power
LEVELS = 4  # of the Laplacian pyramid whose moments describe the texture
DETAIL = BANDS + 1  # the column of the texture with the strength of fine detail: the deviation of the finest level
PATCH, PATCH_LEVELS, PATCHES = 7, 3, 16  # side in pixels, levels of the pyramid, patches per image and level
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
class MeasuredSet(ImageSet):
    """An ImageSet with what is measured on each of its slices by itself.

    Attributes:
        images: (N, H / 2, W / 2) uint8, at half size: hundreds of sets are drawn from one.
        texture: (N, BANDS + 4 LEVELS) log radial power, and moments in the brain of four Laplacian levels.
        anatomy: (N, 6) of ANATOMY; NaN where there is no brain.
        patches: (N, PATCH_LEVELS, PATCHES, PATCH²) float32, drawn in the brain; NaN where there is no room.
        noise: (N,) strength of the finest detail where the tissue is flat, grey levels in [0, 1]; NaN without a brain.
    """

    texture: np.ndarray
    anatomy: np.ndarray
    patches: np.ndarray
    noise: np.ndarray


def measure_slices(images, track=iter):
    """An ImageSet as a MeasuredSet."""
    measured = parallel(describe_slice, images.images, track)
    small, *columns = (np.stack(column) for column in zip(*measured, strict=True))
    plain = {field.name: getattr(images, field.name) for field in fields(ImageSet)} | {"images": small}
    return MeasuredSet(**plain, **dict(zip(("texture", "anatomy", "patches", "noise"), columns, strict=True)))


def describe_slice(image):
    """A slice (H, W) uint8 at half size, and its texture, anatomy, patches and noise."""
    mask, grey = brain_mask(image), as_grey(image)
    bands, masks = laplacian_pyramid(grey, mask, LEVELS)
    return (
        to_bytes(half_size(grey[None].astype(np.float32))[0]),
        texture(grey, bands, masks),
        anatomy(image, mask),
        draw_patches(bands, masks),
        noise_of(grey, bands[0], mask),
    )


def slice_noise(image):
    """``noise_of`` a slice (H, W) uint8."""
    mask, grey = brain_mask(image), as_grey(image)
    return noise_of(grey, laplacian_pyramid(grey, mask, 1)[0][0], mask)


def noise_of(image, finest, mask):
    """How strong the finest detail is in flat tissue: its median absolute deviation, scaled to a standard deviation.

    Flat are the FLAT pixels of the brain, its border left out, where the smoothed slice is least steep.

    Args:
        image: (H, W) float in [0, 1].
        finest: (H, W), the finest level of its Laplacian pyramid.
        mask: (H, W) bool, its brain.
    """
    inside = eroded(mask, 3)
    if not inside.any():
        return np.nan
    steepness = ndimage.gaussian_gradient_magnitude(image, 2)[inside]
    flat = finest[inside][steepness <= np.quantile(steepness, FLAT)]
    return float(1.4826 * np.median(np.abs(flat - np.median(flat))))


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
        scaled = (values - mean) / deviation
        squares = scaled * scaled  # powers by ** take ten times as long
        moments += [mean, deviation, (squares * scaled).mean(), (squares * squares).mean()]
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
        rows, columns = np.nonzero(eroded(inside, half - 1))
        if len(rows):
            chosen = (np.arange(PATCHES) + 0.5) * len(rows) / PATCHES
            windows = np.lib.stride_tricks.sliding_window_view(band, (PATCH, PATCH))
            places = rows[chosen.astype(int)] - half, columns[chosen.astype(int)] - half
            patches[level] = windows[places].reshape(PATCHES, -1)
    return patches
