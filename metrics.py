"""How good images and codes are: the brain mask, per-image metrics, code use, and a run's scores."""

import numpy as np
import pandas as pd
from scipy import ndimage

BRAIN_THRESHOLD = 0.05  # of full white: above the noise that JPEG leaves in the black
BLOCK = 32  # images per call of a model
UNIGRAM_SLICES = 2000  # training slices that the code frequencies are counted on, evenly spaced


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
    from utils import to_bytes

    vqvae, frame = models[0], held_out["images"].shape[1:3]
    num_codes, grid = vqvae.settings["num_codes"], vqvae.code_grid
    codes = encode_images(vqvae, held_out["images"], box)  # (N, h, w)
    rows = []
    for start in range(0, len(codes), BLOCK):
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
        bits = prior_bits_per_code(models[1], codes, held_out["columns"])
        by_person = mean_by_person([{"bits": value} for value in bits], subjects)["bits"]
        metrics["prior"] = {f"bits_per_code_{split}": by_person,
                            "unigram_bits_per_code": unigram_bits_per_code(training_codes, codes, num_codes),
                            "uniform_bits_per_code": float(np.log2(num_codes))}
        metrics["rate"]["bits_per_image_prior"] = value_of(by_person) * grid[0] * grid[1]
    return metrics


def encode_images(vqvae, images, box):
    """Whole frames uint8 (N, H, W, 1) -> codes (N, h, w) int32, block by block."""
    import dataset

    crops = (dataset.crop(images[start: start + BLOCK], box).astype(np.float32) / 255
             for start in range(0, len(images), BLOCK))
    return np.concatenate([np.asarray(vqvae.encode(block)) for block in crops])


def prior_bits_per_code(prior, codes, columns):
    """Mean −log2 p of each grid's codes, (N,) float32, with label and position given."""
    import tensorflow as tf

    bits_per_code = tf.function(prior.bits_per_code)
    return np.concatenate([bits_per_code(codes[start: start + BLOCK],
                                         *(columns[name][start: start + BLOCK] for name in ("label", "position")))
                           for start in range(0, len(codes), BLOCK)])


def condition_ids(slices, labels):
    """The prior's conditions of each slice: label and position (N,) int32 from 1, 0 for an unknown label."""
    ids = {label: i + 1 for i, label in enumerate(labels)}
    return {"label": slices["label"].map(ids).fillna(0).to_numpy(np.int32),
            "position": slices["position"].to_numpy(np.int32) + 1}


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
