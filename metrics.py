"""How good images and codes are: the brain mask, per-image metrics, code use, and how far sets lie apart."""

from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd
from scipy import ndimage

from utils import progress, to_bytes

BRAIN_THRESHOLD = 0.05  # of full white: above the noise that JPEG leaves in the black
BLOCK = 32  # images per call of a model
UNIGRAM_SLICES = 2000  # training slices that the code frequencies are counted on, evenly spaced
MS_SSIM_WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])  # finest scale first (Wang et al. 2003)
COMPONENTS = 32  # of the principal components that describe a slice; the Fréchet distance takes the first 16
FRECHET_COMPONENTS = 16
BANDS = 16  # of radial power
LEVELS = 4  # of the Laplacian pyramid whose moments describe the texture
PATCH, PATCH_LEVELS, PATCHES = 7, 3, 16  # side in pixels, levels of the pyramid, patches per image and level
NEAR = 2  # positions apart, for slices of different people to be compared code by code
LEAST_DEVIATION = 1.0  # bits: the black around the brain has none, and half a bit more there means nothing
PAIRS = 300  # of images that diversity is measured on
ANATOMY = ("brain_area", "csf_fraction", "grey_fraction", "white_fraction", "ventricle_area", "asymmetry")


def brain_mask(image):
    """Where the brain is in a slice on black: the pixels that count in brain-only measures.

    The rule: pixels brighter than BRAIN_THRESHOLD; opened by a 3 × 3 cross, which drops specks and
    threads; of these the largest component (4-connected); its holes filled, so dark ventricles count.
    What is not stripped from the image (skull, scalp) belongs to the mask.

    Args:
        image: (H, W) or (H, W, 1), float in [0, 1] or uint8.

    Returns:
        (H, W) bool; all False for a black image.
    """
    image = image[..., 0] if image.ndim == 3 else image
    threshold = BRAIN_THRESHOLD * 255 if image.dtype == np.uint8 else BRAIN_THRESHOLD
    components, count = ndimage.label(ndimage.binary_opening(image > threshold))
    if count == 0:
        return np.zeros(image.shape, bool)
    sizes = np.bincount(components.ravel())[1:]  # component 0 is the background
    return ndimage.binary_fill_holes(components == 1 + sizes.argmax())


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
    from skimage.metrics import structural_similarity

    mask = brain_mask(original)  # (H, W)
    original, reconstruction = as_grey(original), as_grey(reconstruction)
    if min(original.shape) < 11:
        raise ValueError(f"SSIM needs images of 11x11 pixels or more, not {original.shape}")
    ssim, ssim_map = structural_similarity(original, reconstruction, data_range=1.0, gaussian_weights=True,
                                           sigma=1.5, use_sample_covariance=False, full=True)
    difference = original - reconstruction
    metrics = {"ssim": float(ssim), "psnr": psnr(difference), "mae": float(np.abs(difference).mean())}
    if mask.any():
        inside = difference[mask]
        return metrics | {"ssim_brain": float(ssim_map[mask].mean()), "psnr_brain": psnr(inside),
                          "mae_brain": float(np.abs(inside).mean())}
    return metrics | dict.fromkeys(("ssim_brain", "psnr_brain", "mae_brain"), float("nan"))


def psnr(difference):
    """Peak signal-to-noise ratio in dB of a difference of images in [0, 1]; 100 at the most."""
    return float(-10 * np.log10(max(np.mean(difference**2), 1e-10)))


def as_grey(image):
    """(H, W) or (H, W, 1), uint8 or float in [0, 1] -> (H, W) float64 in [0, 1]."""
    image = np.asarray(image)
    image = image[..., 0] if image.ndim == 3 else image
    return image / 255.0 if image.dtype == np.uint8 else image.astype(np.float64)


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
    return metrics | {"spectrum_gap": spectrum_gap(*spectra, noise), "frc_resolution": frc_resolution(*spectra),
                      "tissue_dice": float(np.nanmean(overlaps)), "ventricle_dice": overlaps[3]}


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
    def blur(images):
        return ndimage.gaussian_filter(images, (0, 1.5, 1.5), truncate=3.5)  # an 11×11 window

    mean_1, mean_2 = blur(first), blur(second)
    variances = blur(first**2) - mean_1**2 + blur(second**2) - mean_2**2
    covariance = blur(first * second) - mean_1 * mean_2
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
    soft = ndimage.gaussian_filter(ndimage.binary_erosion(mask, iterations=4).astype(float), 2)
    if not soft.any():
        soft = mask.astype(float)
    means = (images * soft).sum(axis=(1, 2), keepdims=True) / soft.sum()
    return np.fft.fft2((images - means) * soft), soft


def ring_numbers(shape, bands):
    """(H, W) int: the ring of every frequency, 0 … bands − 1 up to the Nyquist frequency, ``bands`` beyond."""
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    return np.minimum((radius * 2 * bands).astype(int), bands)


def ring_sums(values, bands):
    """Sums of values (H, W) over each of the rings, (bands,)."""
    return np.bincount(ring_numbers(values.shape, bands).ravel(), values.ravel(), bands + 1)[:bands]


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


def segment(image, mask):
    """Three tissue classes of a T1-weighted slice by Otsu's method, and its lateral ventricles.

    The ventricles are dark bodies a quarter of the greatest depth below the surface of the brain whose
    centre lies in the middle of its bounding box.

    Args:
        image: (H, W) float in [0, 1].
        mask: (H, W) bool, the brain.

    Returns:
        tissues (H, W) int: 0 outside, 1 CSF, 2 grey matter, 3 white matter; ventricles (H, W) bool.
    """
    from skimage.filters import threshold_multiotsu

    image = ndimage.gaussian_filter(image, 0.7)
    inside = image[mask]
    if len(inside) == 0 or len(np.unique(inside)) < 4:
        return 2 * mask.astype(int), np.zeros_like(mask)
    csf, white = threshold_multiotsu(inside, 3)
    tissues = np.where(mask, 1 + (image > csf).astype(int) + (image > white), 0)
    depth = ndimage.distance_transform_edt(mask)
    dark = (image < 0.8 * csf) & (depth > 0.25 * depth.max())
    bodies, count = ndimage.label(ndimage.binary_opening(dark))
    rows, columns = np.nonzero(mask)
    ventricles = np.zeros_like(mask)
    for body in range(1, count + 1):
        here = bodies == body
        y, x = (places.mean() for places in np.nonzero(here))
        height = (y - rows.min()) / max(np.ptp(rows), 1)  # 0 at the front, 1 at the back
        aside = abs((x - columns.min()) / max(np.ptp(columns), 1) - 0.5)
        if here.sum() >= 0.001 * mask.sum() and 0.25 < height < 0.65 and aside < 0.2:
            ventricles |= here
    return tissues, ndimage.binary_dilation(ventricles, mask=tissues == 1)  # out to the edge that 0.8 left out


def dice(first, second):
    """Overlap of two masks, 2 |A ∩ B| / (|A| + |B|); NaN where both are empty."""
    total = first.sum() + second.sum()
    return float(2 * (first & second).sum() / total) if total else float("nan")


def anatomy(image):
    """What ANATOMY names, of one slice (H, W) uint8: (6,) float, NaN where there is no brain.

    Brain area is a share of the frame; ventricle area and tissues are shares of the brain; the asymmetry is
    the mean absolute difference from the mirror image about the middle of the brain, over the mean grey.
    """
    mask = brain_mask(image)
    if not mask.any():
        return np.full(len(ANATOMY), np.nan)
    image = as_grey(image)
    tissues, ventricles = segment(image, mask)
    area = mask.sum()
    columns = np.flatnonzero(mask.any(axis=0))
    brain = ndimage.gaussian_filter(image * mask, 2)[:, columns[0]: columns[-1] + 1]
    asymmetry = np.abs(brain - brain[:, ::-1]).mean() / max(brain.mean(), 1e-9)
    return np.array([mask.mean(), *((tissues == tissue).sum() / area for tissue in (1, 2, 3)),
                     ventricles.sum() / area, asymmetry])


def mean_by_person(rows, subjects):
    """Average per-slice metrics within each person first, then over people.

    Args:
        rows: list of dicts of floats, one a slice; NaN counts as absent.
        subjects: whose slice each row is.

    Returns:
        dict of metric -> {"value", "low", "high"}: mean over people and its 95 % t interval, or the plain
        value when there is one person.
    """
    from scipy import stats

    people = pd.DataFrame(rows).groupby(np.asarray(subjects)).mean()  # (people, metrics)
    summary = {}
    for name, values in people.items():
        values = values.dropna()
        mean = float(values.mean()) if len(values) else None
        if len(values) < 2:
            summary[name] = mean
            continue
        margin = float(stats.t.ppf(0.975, len(values) - 1) * values.std() / np.sqrt(len(values)))
        summary[name] = {"value": mean, "low": mean - margin, "high": mean + margin}
    return summary


def value_of(metric):
    """The number of a metric that may carry an interval."""
    return metric["value"] if isinstance(metric, dict) else metric


def codebook_metrics(codes, num_codes):
    """How evenly codes (N, h, w) int use a codebook, counted over all of them at once.

    Returns:
        dict of ``perplexity`` (1 … K), ``used_fraction`` and ``largest_share`` (both 0 … 1).
    """
    share = np.bincount(codes.ravel(), minlength=num_codes) / codes.size  # (K,)
    used = share[share > 0]
    return {"perplexity": float(2 ** -(used * np.log2(used)).sum()), "used_fraction": len(used) / num_codes,
            "largest_share": float(share.max())}


def unigram_bits_per_code(training_codes, codes, num_codes):
    """Cross-entropy in bits of codes under the add-one-smoothed frequencies of the training codes."""
    counts = np.bincount(training_codes.ravel(), minlength=num_codes) + 1.0
    return float(-np.log2(counts / counts.sum())[codes].mean())


def measure(models, training, held_out, box, split):
    """What a run scores on held-out people, unaugmented, conditions given.

    Args:
        models: [VQVAE] or [VQVAE, GatedPixelCNN].
        training, held_out: dicts of images uint8 (N, H, W, 1), slices (DataFrame) and columns of conditions.
        box: the run's crop box.
        split: the name of the held-out split.

    Returns:
        dict of ``split``, ``people``, ``slices``, ``reconstruction``, ``rate``, ``codebook`` and ``prior``,
        with the names of metrics.json.
    """
    import dataset

    vqvae, frame = models[0], held_out["images"].shape[1:3]
    num_codes, grid = vqvae.settings["num_codes"], vqvae.code_grid
    codes = encode_images(vqvae, held_out["images"], box)  # (N, h, w)
    rows = []
    for start in block_starts(len(codes), "measuring"):
        crops = to_bytes(np.asarray(vqvae.decode(codes[start: start + BLOCK])))[..., None]
        pasted = dataset.paste(crops, box, frame)
        rows += [image_metrics(*pair) for pair in zip(held_out["images"][start: start + BLOCK], pasted, strict=True)]
    subjects = held_out["slices"]["subject"].to_numpy()
    metrics = {"split": split, "people": len(set(subjects)), "slices": len(codes),
               "reconstruction": mean_by_person(rows, subjects),
               "rate": {"bits_per_image": float(grid[0] * grid[1] * np.log2(num_codes))},
               "codebook": codebook_metrics(codes, num_codes)}
    if len(models) == 2:
        few = evenly(np.arange(len(training["images"])), UNIGRAM_SLICES)
        training_codes = encode_images(vqvae, training["images"][few], box)
        bits = prior_bits(models[1], codes, held_out["columns"]).mean(axis=(1, 2))  # (N,) per code
        by_person = mean_by_person([{"bits": value} for value in bits], subjects)["bits"]
        metrics["prior"] = {f"bits_per_code_{split}": by_person,
                            "unigram_bits_per_code": unigram_bits_per_code(training_codes, codes, num_codes),
                            "uniform_bits_per_code": float(np.log2(num_codes))}
        metrics["rate"]["bits_per_image_prior"] = value_of(by_person) * grid[0] * grid[1]
    return metrics


def block_starts(count, what):
    """Where the blocks of ``count`` images begin, with a progress bar that goes away at the end."""
    return progress(range(0, count, BLOCK), desc=what, unit=" blocks", leave=False)


def encode_images(vqvae, images, box):
    """Whole frames uint8 (N, H, W, 1) -> codes (N, h, w) int32, block by block."""
    import dataset

    crops = (dataset.crop(images[start: start + BLOCK], box).astype(np.float32) / 255
             for start in block_starts(len(images), "encoding"))
    return np.concatenate([np.asarray(vqvae.encode(block)) for block in crops])


def prior_bits(prior, codes, columns):
    """−log2 p of every code given those before it, with label and position given: (N, h, w) float32."""
    import tensorflow as tf

    log_likelihood = tf.function(prior.log_likelihood)
    blocks = [log_likelihood(codes[start: start + BLOCK],
                             *(columns[name][start: start + BLOCK] for name in ("label", "position")))
              for start in block_starts(len(codes), "likelihood")]
    return -np.concatenate(blocks) / np.log(2)


def condition_ids(slices, labels):
    """The prior's conditions of each slice: label and position (N,) int32 from 1, 0 for an unknown label."""
    ids = {label: i + 1 for i, label in enumerate(labels)}
    return {"label": slices["label"].map(ids).fillna(0).to_numpy(np.int32),
            "position": slices["position"].to_numpy(np.int32) + 1}


def brain_cells(crops, grid):
    """(N, h, w) bool: the cells of the code grid (h, w) that touch the brain of the slices (N, H, W) uint8."""
    (h, w), (height, width) = grid, crops.shape[1:]

    def cells(crop):
        return brain_mask(crop).reshape(h, height // h, w, width // w).any(axis=(1, 3))

    return np.stack(parallel(cells, crops))


@dataclass
class UsualBits:
    """Bits of every code of slices that say what is usual, (M, h, w), with their positions and people.

    Positions (M,) are ids from 1, as the prior's conditions are.
    """

    bits: np.ndarray
    position: np.ndarray
    person: np.ndarray

    def compared(self, position, person):
        """(M,) bool: the slices of other people within NEAR positions; those at all positions where it is 0."""
        near = (position == 0) | (np.abs(self.position - position) <= NEAR)
        others = self.person != person
        return others & near if (others & near).any() else others

    def z_scores(self, bits, position, person):
        """How unusual the bits (h, w) of a slice are, each by those that other people have in its place.

        Two-sided: over 0 less likely than usual, under 0 more likely than usual. Medians and median absolute
        deviations take the place of means and deviations, and no deviation is less than LEAST_DEVIATION.
        """
        from scipy.stats import median_abs_deviation

        usual = self.bits[self.compared(position, person)]
        deviation = median_abs_deviation(usual, axis=0, scale="normal")
        return (bits - np.median(usual, axis=0)) / np.maximum(deviation, LEAST_DEVIATION)


def over_pixels(cells, shape, blurred=False):
    """Numbers of codes (N, h, w) as pictures (N, *shape): each over its patch, or blurred by half a patch."""
    patch = np.array(shape) // cells.shape[1:]
    pictures = np.kron(cells, np.ones((1, *patch)))
    return ndimage.gaussian_filter(pictures, (0, *patch / 2)) if blurred else pictures


def evenly(rows, limit):
    """At most ``limit`` of the rows, evenly spaced; all of them without a limit."""
    if limit is None or len(rows) <= limit:
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).round().astype(int)]


def print_measurement(metrics):
    """The closing lines of a training or an evaluation."""
    reconstruction, codebook = metrics["reconstruction"], metrics["codebook"]

    def shown(metric, digits):
        if isinstance(metric, dict):
            return f"{metric['value']:.{digits}f} [{metric['low']:.{digits}f}, {metric['high']:.{digits}f}]"
        return "unknown" if metric is None else f"{metric:.{digits}f}"

    print(f"{metrics['split']} people: {metrics['people']} ({metrics['slices']} slices); means over people, "
          "95 % intervals in brackets")
    print(f"  SSIM {shown(reconstruction['ssim'], 3)}, brain only {shown(reconstruction['ssim_brain'], 3)}; "
          f"PSNR {shown(reconstruction['psnr'], 2)} dB, brain only {shown(reconstruction['psnr_brain'], 2)} dB")
    print(f"  {metrics['rate']['bits_per_image']:.0f} bits per image; {100 * codebook['used_fraction']:.1f} % of the "
          f"codes in use, perplexity {codebook['perplexity']:.1f}")
    if "prior" in metrics:
        prior = metrics["prior"]
        bits, unigram = prior[f"bits_per_code_{metrics['split']}"], prior["unigram_bits_per_code"]
        print(f"  prior: {shown(bits, 3)} bits per code; unigram {unigram:.3f} "
              f"({100 * (1 - value_of(bits) / unigram):.1f} % below it), uniform {prior['uniform_bits_per_code']:.3f}")


# ---- sets of images ---------------------------------------------------------------------------


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
        from sklearn.decomposition import PCA

        small = small_vectors(training.images)
        positions = int(training.position.max()) + 1
        overall = small.mean(axis=0)
        self.position_means = np.stack([small[training.position == position].mean(axis=0)
                                        if (training.position == position).any() else overall
                                        for position in range(positions)])  # (P, pixels)
        degrees_of_freedom = len(small) - len(np.unique(training.position))
        components = max(1, min(COMPONENTS, degrees_of_freedom, small.shape[1]))
        self.pca = PCA(components, svd_solver="randomized", random_state=seed)
        self.pca.fit(small - self.position_means[training.position])
        values = np.stack(parallel(anatomy, training.images, track))  # (N, 6)
        self.anatomy_means, self.anatomy_sds = (np.stack([
            statistic(values[training.position == position] if (training.position == position).sum() > 2 else values,
                      axis=0) for position in range(positions)]) for statistic in (np.nanmean, np.nanstd))
        pooled = np.nanstd(values, axis=0)  # (6,); a floor where all of a position have none, such as ventricles
        self.anatomy_sds = np.maximum(self.anatomy_sds, np.where(pooled > 0, 0.1 * pooled, 1))
        self.shape_rms = np.sqrt((self.shape_of(training) ** 2).mean(axis=0)) + 1e-9  # (C,)
        patches = np.concatenate(parallel(draw_patches, training.images[:200], track)).reshape(
            -1, PATCH_LEVELS, PATCHES, PATCH**2)
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
        return DescribedSet(**plain, shape=self.shape_of(images), texture=texture, anatomy=z_scores,
                            patches=patches / self.patch_rms[0])


def small_vectors(images):
    """(N, H, W) uint8 → (N, H W / 4) float32 in [0, 1], at half size."""
    blocks = (images[start: start + 256] for start in range(0, max(len(images), 1), 256))
    small = np.concatenate([half_size(block / np.float32(255)) for block in blocks])
    return small.reshape(len(small), -1)


def parallel(function, images, track=iter):
    """``function`` of every image, in order, on all cores: a list."""
    from concurrent.futures import ThreadPoolExecutor
    from os import cpu_count

    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), ThreadPoolExecutor(cpu_count()) as pool:  # or the BLAS' threads get in the way
        return list(track(pool.map(function, images)))


def describe_slice(image):
    """Texture, anatomy and patches of one slice (H, W) uint8."""
    return texture(image), anatomy(image), draw_patches(image)


def texture(image):
    """Log10 radial power in BANDS rings, then mean, deviation, skewness and kurtosis of LEVELS in the brain."""
    mask, image = brain_mask(image), as_grey(image)
    power = np.abs(np.fft.fft2(image)) ** 2
    sizes = np.maximum(ring_sums(np.ones(image.shape), BANDS), 1)
    moments = []
    for band, inside in zip(*laplacian_pyramid(image, mask, LEVELS), strict=True):
        values = band[inside] if inside.sum() > 1 else np.zeros(2)
        mean, deviation = values.mean(), values.std() + 1e-6
        moments += [mean, deviation, *((((values - mean) / deviation) ** order).mean() for order in (3, 4))]
    return np.concatenate([np.log10(ring_sums(power, BANDS) / sizes + 1e-6), moments])


def laplacian_pyramid(image, mask, levels):
    """Bands of an image (Burt & Adelson 1983), finest first, and the mask at the size of each."""
    bands, masks = [], []
    for _ in range(levels):
        bands.append(image - ndimage.gaussian_filter(image, 1))
        masks.append(mask)
        image, mask = ndimage.gaussian_filter(image, 1)[::2, ::2], mask[::2, ::2]
    return bands, masks


def draw_patches(image):
    """PATCHES patches inside the brain at each level of a Laplacian pyramid, at places evenly spread.

    Returns (PATCH_LEVELS, PATCHES, PATCH²) float32, NaN where no patch fits into the brain.
    """
    mask, image = brain_mask(image), as_grey(image)
    patches = np.full((PATCH_LEVELS, PATCHES, PATCH**2), np.nan, np.float32)
    half = PATCH // 2
    for level, (band, inside) in enumerate(zip(*laplacian_pyramid(image, mask, PATCH_LEVELS), strict=True)):
        inside = inside.copy()
        inside[:half], inside[-half:], inside[:, :half], inside[:, -half:] = False, False, False, False
        rows, columns = np.nonzero(ndimage.binary_erosion(inside, iterations=half - 1))
        if len(rows):
            chosen = (np.arange(PATCHES) + 0.5) * len(rows) / PATCHES
            windows = np.lib.stride_tricks.sliding_window_view(band, (PATCH, PATCH))
            places = rows[chosen.astype(int)] - half, columns[chosen.astype(int)] - half
            patches[level] = windows[places].reshape(PATCHES, -1)
    return patches


# ---- how far sets lie apart -------------------------------------------------------------------


def frechet_distance(first, second):
    """Squared Fréchet distance of Gaussians fitted to two sets of features (N, C), (M, C).

    Covariances shrunk by Ledoit & Wolf (2004), for N may be little above C.
    """
    from sklearn.covariance import LedoitWolf

    covariances = [LedoitWolf().fit(features).covariance_ for features in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances[1] @ root), 0)).sum()
    return float(((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum()
                 + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross)


def kernel_distance(first, second, first_person, second_person):
    """Unbiased squared maximum mean discrepancy, kernel (x·y / C + 1)³ (Bińkowski et al. 2018, KID).

    Pairs of slices of one person are left out. Features (N, C), (M, C), divided by their RMS.
    """
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(features, person):
        others = person[:, None] != person[None]
        return (kernel(features, features) * others).sum() / max(others.sum(), 1)

    return float(within(first, first_person) + within(second, second_person) - 2 * kernel(first, second).mean())


def patch_distance(first, second, projections=64):
    """Sliced Wasserstein distance of patches, the mean over the levels; (N, levels, PATCHES, PATCH²) each."""
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
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    side = np.repeat([0, 1], [len(first.images), len(second.images)])
    groups = np.concatenate([np.char.add("a", first.person.astype(str)), np.char.add("b", second.person.astype(str))])
    folds = min(5, len(set(first.person)), len(set(second.person)))
    if folds < 2:
        return None
    shape, texture = (np.concatenate([getattr(first, name), getattr(second, name)]) for name in ("shape", "texture"))
    splits = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(shape, side, groups))
    classifier = make_pipeline(StandardScaler(), SVC())
    return max(float(roc_auc_score(side, cross_val_predict(classifier, features, side, cv=splits,
                                                           method="decision_function")))
               for features in (shape, texture, np.hstack([shape, texture])))


def nearest_person_radii(features, person, k):
    """(N,) distance of each slice to the nearest slice of its k-th nearest other person."""
    from scipy.spatial.distance import cdist

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
    from scipy.spatial.distance import cdist

    distances = cdist(real, fake)  # (N, M)
    real_radii, fake_radii = nearest_person_radii(real, real_person, k), nearest_person_radii(fake, fake_person, k)
    inside = distances < real_radii[:, None]
    return {"precision": float(inside.any(axis=0).mean()),
            "recall": float((distances < fake_radii[None]).any(axis=1).mean()),
            "density": float(inside.sum(axis=0).mean() / k),
            "coverage": float((distances.min(axis=1) < real_radii).mean())}


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
    similarity = parallel(lambda block: ms_ssim(images.images[first[block]] / 255, images.images[second[block]] / 255),
                          blocks)
    return float(1 - np.concatenate(similarity).mean())


def anatomy_metrics(samples, real):
    """For each of ANATOMY: effect size and Wasserstein-1 distance, of z-scores, samples against real.

    The effect size is the difference of the means over people in units of the spread of the real slices.
    """
    from scipy.stats import wasserstein_distance

    result = {}
    for column, name in enumerate(ANATOMY):
        sides = [pd.Series(side.anatomy[:, column]).groupby(side.person) for side in (samples, real)]
        means = [side.mean().mean() for side in sides]
        slices = [side.anatomy[:, column][np.isfinite(side.anatomy[:, column])] for side in (samples, real)]
        if min(map(len, slices)) < 2:
            result |= {f"{name}_effect": None, f"{name}_wasserstein": None}
            continue
        spread = np.std(slices[1])
        result[f"{name}_effect"] = float((means[0] - means[1]) / spread) if spread > 1e-6 else None
        result[f"{name}_wasserstein"] = float(wasserstein_distance(*slices))
    return result


def set_distances(samples, reference, originals, shape_rms):
    """Those statistics of samples against a reference that are cheap enough for a jackknife: a dict."""
    leading = [side.shape[:, :FRECHET_COMPONENTS] for side in (samples, reference, originals)]
    return {"frechet": frechet_distance(leading[0], leading[1]),
            "frechet_real": frechet_distance(leading[0], leading[2]),
            "kid": kernel_distance(samples.shape / shape_rms, reference.shape / shape_rms,
                                   samples.person, reference.person),
            "patches": patch_distance(samples.patches, reference.patches)}


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
    return {**set_distances(samples, reference, originals, shape_rms),
            "c2st": two_sample_auc(reference, samples),
            **manifold_metrics(reference.shape, samples.shape, reference.person, places, k),
            "diversity": None if own_variety is None or not reference_variety else own_variety / reference_variety,
            **anatomy_metrics(samples, reference)}


def jackknife(samples, reference, originals, shape_rms):
    """Distances with 95 % t intervals whose standard error leaves out one person of the reference at a time.

    The samples that stand for the slices of that person are left out with them, so ``samples`` must be in
    the order of ``reference``.
    """
    from scipy import stats

    people = np.unique(reference.person)
    left_out = [set_distances(*(images.take(reference.person != person) for images in (samples, reference, originals)),
                              shape_rms) for person in people] if len(people) > 2 else []
    values, result = set_distances(samples, reference, originals, shape_rms), {}
    for name, value in values.items():
        estimates = np.array([row[name] for row in left_out if row[name] is not None])
        if value is None or len(estimates) < 2:
            result[name] = value
            continue
        n = len(estimates)
        margin = stats.t.ppf(0.975, n - 1) * np.sqrt((n - 1) / n * ((estimates - estimates.mean()) ** 2).sum())
        result[name] = {"value": value, "low": float(value - margin), "high": float(value + margin)}
    return result


def auc_interval(positive, negative):
    """AUC of scores that should be higher for ``positive``, with the 95 % interval of Hanley & McNeil (1982)."""
    positive, negative = np.asarray(positive, float), np.asarray(negative, float)
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    auc, p, n = float(wins.mean()), len(positive), len(negative)
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (p - 1) * (q1 - auc**2) + (n - 1) * (q2 - auc**2)) / (p * n)
    margin = 1.96 * np.sqrt(max(variance, 0.25 / (p * n)))  # the formula gives 0 for an AUC of 1
    return {"value": auc, "low": max(float(auc - margin), 0.0), "high": min(float(auc + margin), 1.0)}


def mean_difference(values, label, person):
    """Mean over people of the first label minus that of the second, with Welch's 95 % interval, or None.

    Labels are ids from 1; a person's slices are averaged first; NaN values are left out.
    """
    from scipy import stats

    people = pd.DataFrame({"value": values, "label": label}).groupby(person).agg({"value": "mean", "label": "first"})
    sides = [people["value"][people["label"] == which].dropna() for which in (1, 2)]
    if min(map(len, sides)) < 2 or all(side.var() == 0 for side in sides):
        return None
    interval = stats.ttest_ind(*sides, equal_var=False).confidence_interval(0.95)
    return {"value": float(sides[0].mean() - sides[1].mean()), "low": float(interval.low), "high": float(interval.high)}
