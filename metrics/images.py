"""How close an image is to another: pixels, structure, detail, tissue; and the spectra behind that."""

from functools import lru_cache

import numpy as np
from scipy import ndimage
from skimage.metrics import structural_similarity

from metrics.anatomy import dice, segment
from slices.frame import as_grey, brain_mask, eroded

MS_SSIM_WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])  # finest scale first (Wang et al. 2003)


def image_metrics(original, reconstruction):
    """How close one image is to another, over the whole image and inside the brain of the original.

    Args:
        original, reconstruction: (H, W) or (H, W, 1), uint8 or float in [0, 1].

    Returns:
        dict of floats: ``ssim`` (Wang et al. 2004, 11x11 Gaussian window of σ 1.5, population covariance,
        range 1), ``psnr`` (dB, 100 at the most) and ``mae`` (grey levels in [0, 1]) over the whole image;
        ``ssim_brain``, ``psnr_brain`` and ``mae_brain`` inside ``brain_mask(original)``, where the SSIM is
        the mean of its map; NaN where the original shows no brain.
    """
    mask = brain_mask(original)  # (H, W)
    original, reconstruction = as_grey(original), as_grey(reconstruction)
    if min(original.shape) < 11:
        raise ValueError(f"SSIM needs images of 11x11 pixels or more, not {original.shape}")
    ssim, ssim_map = structural_similarity(
        original,
        reconstruction,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    difference = original - reconstruction
    metrics = {"ssim": float(ssim), "psnr": psnr(difference), "mae": float(np.abs(difference).mean())}
    if mask.any():
        inside = difference[mask]
        return metrics | {
            "ssim_brain": float(ssim_map[mask].mean()),
            "psnr_brain": psnr(inside),
            "mae_brain": float(np.abs(inside).mean()),
        }
    return metrics | dict.fromkeys(("ssim_brain", "psnr_brain", "mae_brain"), float("nan"))


def psnr(difference):
    """Peak signal-to-noise ratio in dB of a difference of images in [0, 1]; 100 at the most."""
    return float(-10 * np.log10(max(np.mean(difference**2), 1e-10)))


def detail_metrics(original, reconstruction):
    """What ``image_metrics`` leaves out because training has no time for it.

    Args:
        original, reconstruction: (H, W) or (H, W, 1), uint8 or float in [0, 1].

    Returns:
        dict of floats, NaN where the original shows no brain: ``ms_ssim``; ``spectrum_gap``, the mean
        absolute log10 ratio of radial power over the upper half of frequencies; ``frc_resolution``, the
        frequency in cycles per pixel where the Fourier ring correlation falls to 0.5 (0.5 where it never
        does); ``tissue_dice``, the mean Dice overlap of CSF, grey matter, white matter and ventricles,
        segmented in both inside the mask of the original; ``ventricle_dice``, that of the ventricles.
    """
    mask = brain_mask(original)
    original, reconstruction = as_grey(original), as_grey(reconstruction)
    metrics = {"ms_ssim": float(ms_ssim(original[None], reconstruction[None])[0])}
    if not mask.any():
        return metrics | dict.fromkeys(("spectrum_gap", "frc_resolution", "tissue_dice", "ventricle_dice"), np.nan)
    spectra, soft_mask = masked_spectra(np.stack([original, reconstruction]), mask)
    noise = (1 / 255) ** 2 / 12 * (soft_mask**2).sum()  # the power that rounding to 8 bits adds
    tissues, ventricles = zip(*(segment(image, mask) for image in (original, reconstruction)), strict=True)
    overlaps = [dice(tissues[0] == tissue, tissues[1] == tissue) for tissue in (1, 2, 3)] + [dice(*ventricles)]
    return metrics | {
        "spectrum_gap": spectrum_gap(*spectra, noise),
        "frc_resolution": frc_resolution(*spectra),
        "tissue_dice": float(np.nanmean(overlaps)),
        "ventricle_dice": overlaps[3],
    }


def ms_ssim_scales(shape):
    """How many of the five scales an 11×11 window fits into."""
    return max(1, sum(min(shape) >> scale >= 11 for scale in range(len(MS_SSIM_WEIGHTS))))


def ms_ssim(first, second):
    """Multi-scale structural similarity (Wang, Simoncelli & Bovik 2003) of two stacks (N, H, W) in [0, 1].

    As many of the five scales as an 11×11 window fits into, their weights renormalised; negative terms
    count as 0. Returns (N,) float.
    """
    scales = ms_ssim_scales(first.shape[1:])
    weights = MS_SSIM_WEIGHTS[:scales] / MS_SSIM_WEIGHTS[:scales].sum()
    result = np.ones(len(first))
    for scale, weight in enumerate(weights):
        luminance, contrast = ssim_terms(first, second)
        term = luminance * contrast if scale == scales - 1 else contrast
        result *= np.maximum(term[:, 5:-5, 5:-5].mean(axis=(1, 2)), 0) ** weight
        first, second = half_size(first), half_size(second)
    return result


def ssim_terms(first, second):
    """The maps of luminance and of contrast times structure of two stacks (N, H, W) in [0, 1]."""
    mean_1, mean_2 = ssim_window(first), ssim_window(second)
    variances = ssim_window(first**2) - mean_1**2 + ssim_window(second**2) - mean_2**2
    return ssim_of_moments(mean_1, mean_2, variances, ssim_window(first * second) - mean_1 * mean_2)


def ssim_window(images):
    """The mean around every pixel of images (N, H, W), by the 11×11 Gaussian window of SSIM."""
    return ndimage.gaussian_filter(images, (0, 1.5, 1.5), truncate=3.5)


def ssim_of_moments(mean_1, mean_2, variances, covariance):
    """What ``ssim_terms`` gives, of the means, the sum of the variances and the covariance in the window."""
    luminance = (2 * mean_1 * mean_2 + 0.01**2) / (mean_1**2 + mean_2**2 + 0.01**2)
    return luminance, (2 * covariance + 0.03**2) / (variances + 0.03**2)


def half_size(images):
    """(N, H, W) → (N, H // 2, W // 2): the means of 2×2 blocks; an odd last row or column is left out."""
    count, height, width = images.shape
    images = images[:, : height // 2 * 2, : width // 2 * 2]
    return images.reshape(count, height // 2, 2, width // 2, 2).mean(axis=(2, 4))


def masked_spectra(images, mask):
    """The spectra (N, H, W) complex of images (N, H, W) under a soft mask, and the mask (H, W) in [0, 1].

    The mask is eroded and smoothed, so that the outline of the brain adds no frequencies of its own.
    """
    soft = ndimage.gaussian_filter(eroded(mask, 4).astype(float), 2)
    if not soft.any():
        soft = mask.astype(float)
    means = (images * soft).sum(axis=(1, 2), keepdims=True) / soft.sum()
    return np.fft.fft2((images - means) * soft), soft


@lru_cache(maxsize=8)  # they are the same for all slices of a run
def ring_numbers(shape, bands):
    """(H, W) int: the ring of every frequency, 0 … bands − 1 up to the Nyquist frequency, ``bands`` beyond."""
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    rings = np.minimum((radius * 2 * bands).astype(int), bands)
    rings.flags.writeable = False
    return rings


def ring_sums(values, bands):
    """Sums of values (H, W) over each of the rings, (bands,)."""
    return np.bincount(ring_numbers(values.shape, bands).ravel(), values.ravel(), bands + 1)[:bands]


def mean_spectrum(images, limit=200):
    """The radial power of the first ``limit`` images (N, H, W) uint8, a mean over them.

    Returns:
        frequencies in cycles per pixel and power, (bands,) float each.
    """
    shape, bands = images.shape[1:], min(images.shape[1:]) // 2
    sizes = ring_sums(np.ones(shape), bands)
    total = sum(ring_sums(np.abs(np.fft.fft2(image / 255)) ** 2, bands) for image in images[:limit])
    return (np.arange(bands) + 0.5) / (2 * bands), total / sizes / min(limit, len(images))


def spectrum_gap(original, reconstruction, noise):
    """Mean |log10 (power ratio)| over the rings of the upper half of frequencies that rise above the noise."""
    bands = min(original.shape) // 2
    sizes = np.maximum(ring_sums(np.ones(original.shape), bands), 1)
    powers = [ring_sums(np.abs(spectrum) ** 2, bands) / sizes for spectrum in (original, reconstruction)]
    counted = (np.arange(bands) >= bands // 2) & (powers[0] > noise)
    if not counted.any():
        return float("nan")
    return float(np.abs(np.log10(np.maximum(powers[1], noise * 1e-3) / np.maximum(powers[0], 1e-30)))[counted].mean())


def frc_resolution(original, reconstruction):
    """Cycles per pixel where the Fourier ring correlation (van Heel & Schatz 2005) first falls to 0.5."""
    bands = min(original.shape) // 2
    cross = ring_sums((original * reconstruction.conj()).real, bands)
    power = ring_sums(np.abs(original) ** 2, bands) * ring_sums(np.abs(reconstruction) ** 2, bands)
    correlation = cross / np.sqrt(np.maximum(power, 1e-30))
    below = np.flatnonzero(correlation[1:] < 0.5) + 1  # ring 0 is the mean, which the mask takes away
    if not len(below):
        return 0.5
    ring = below[0]
    high, low = max(correlation[ring - 1], 0.5), correlation[ring]
    return float((ring - 0.5 + (high - 0.5) / max(high - low, 1e-9)) / (2 * bands)) if ring > 1 else 1 / (2 * bands)
