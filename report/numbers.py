"""The numbers of metrics.json in words: which of them matter, what they mean, and which are worse than their null."""

from functools import partial

# section, key ("{split}" is filled in), name, digits, what it means; WORSE says on which side of the null is bad
SUMMARY = (
    (
        "reconstruction",
        "ssim_brain",
        "SSIM in the brain",
        3,
        "likeness of slices and their reconstructions, the black left out; 1 is the same image",
    ),
    (
        "reconstruction",
        "frc_resolution",
        "resolution (cycles/pixel)",
        3,
        "up to here the detail of a reconstruction is that of the slice; 0.5 is all of it",
    ),
    (
        "reconstruction",
        "tissue_dice",
        "tissue overlap (Dice)",
        3,
        "CSF, grey matter, white matter and ventricles segmented in both; 1 is the same place",
    ),
    ("rate", "bits_per_image_prior", "bits per image under the prior", 0, "what an unseen slice's codes cost"),
    ("prior", "bits_per_code_{split}", "bits per code", 3, "the prior's surprise at unseen people; less is better"),
    (
        "samples",
        "frechet",
        "Fréchet distance",
        2,
        "shape and pose of samples against reconstructions of unseen people; more than the null is too far",
    ),
    (
        "samples",
        "kid",
        "kernel distance",
        3,
        "the same with a kernel that sees more than means and covariances; an unbiased estimate, which may be below 0 "
        "where nothing differs",
    ),
    (
        "samples",
        "c2st",
        "two-sample AUC",
        3,
        "how well a classifier tells samples from reconstructions; 0.5 is not at all",
    ),
    (
        "samples",
        "patches",
        "patch distance",
        3,
        "texture of small patches of the brain, samples against reconstructions",
    ),
    (
        "samples",
        "diversity",
        "diversity",
        3,
        "differences among samples over differences among people; below the null "
        "they are too alike, above it wilder than people",
    ),
    (
        "samples",
        "anatomy.ventricle_area_effect",
        "ventricle area (effect size)",
        2,
        "samples minus real people, in units of the spread of real slices",
    ),
    (
        "memorisation",
        "nn_ratio",
        "nearest-neighbour ratio",
        3,
        "distance of samples to their nearest training slice over that of unseen people; below the null is copying",
    ),
    (
        "memorisation",
        "copies_fraction",
        "share of copies",
        3,
        "samples as near to a training slice as planted copies, less the share of unseen people's that are",
    ),
    (
        "memorisation",
        "membership_auc",
        "membership AUC",
        3,
        "how well the prior's surprise tells training people from unseen ones: a weak attack; 0.5 is not at all",
    ),
    (
        "usefulness",
        "auc_samples",
        "label AUC, trained on samples",
        3,
        "a small classifier of the label, trained on samples, tested on real unseen people",
    ),
)
MANIFOLD = tuple(
    ("samples", name, name, 3, "Naeem et al. 2020, radii by person")
    for name in ("precision", "recall", "density", "coverage")
)

WORSE = {
    **dict.fromkeys(("frechet", "kid", "patches", "spectrum_gap", "detail_auc", "copies_fraction"), "high"),
    **dict.fromkeys(("two_sample_auc", "two_sample_auc_shape", "two_sample_auc_texture"), "high"),
    **dict.fromkeys(("precision", "recall", "density", "coverage", "nn_ratio"), "low"),
}  # either side is for every other


def value_of(metric):
    """The number of a metric that may carry an interval."""
    return metric["value"] if isinstance(metric, dict) else metric


def lookup(metrics, section, key):
    """A metric by its section and (dotted) key, or None."""
    value = metrics.get(section)
    for part in key.format(split=metrics["split"]).split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def shown(metric, digits, unknown="–"):
    """A metric as text: a number, with its interval in brackets where it has one; ``unknown`` for None."""
    if metric is None:
        return unknown
    if isinstance(metric, dict):
        return f"{metric['value']:,.{digits}f} [{metric['low']:,.{digits}f}, {metric['high']:,.{digits}f}]"
    return f"{metric:,.{digits}f}"


def excess(key, value, null):
    """How far a metric lies beyond the bad side of its null band, in widths of the band; 0 inside it."""
    number, width = value_of(value), max(null["high"] - null["low"], 1e-3)
    above, below = (number - null["high"]) / width, (null["low"] - number) / width
    worse = WORSE.get(key.rpartition(".")[2])
    return max(0.0, above if worse != "low" else 0.0, below if worse != "high" else 0.0)


def summary_rows(metrics):
    """The rows of the summary: (name, value, null band, its excess over that or None, meaning)."""
    rows = []
    for section, key, name, digits, meaning in SUMMARY + (MANIFOLD if metrics["people"] >= 50 else ()):
        if section not in metrics:
            continue
        value, null = lookup(metrics, section, key), lookup(metrics, section, f"{key}_null")
        why = lookup(metrics, section, f"{key}_why")
        beyond = None if null is None or value is None else excess(key, value, null)
        rows.append((name, shown(value, digits), shown(null, digits), beyond, why or meaning))
    return rows


def print_summary(metrics):
    """The summary in the terminal."""
    print(f"{metrics['run']}: {metrics['split']}, {metrics['people']} people, {metrics['slices']} slices")
    for note in metrics["notes"]:
        print(f"  note: {note}")
    for name, value, null, beyond, _ in summary_rows(metrics):
        against = "" if null == "–" else f"  null {null}{'  worse' if beyond else ''}"
        print(f"  {name:32} {value:28}{against}")
    if "memorisation" in metrics:
        print(f"  {metrics['memorisation']['verdict']}")


def print_measurement(metrics):
    """The closing lines of a training."""
    reconstruction, codebook = metrics["reconstruction"], metrics["codebook"]
    told = partial(shown, unknown="unknown")
    print(
        f"{metrics['split']} people: {metrics['people']} ({metrics['slices']} slices); means over people, "
        "95 % intervals in brackets"
    )
    print(
        f"  SSIM {told(reconstruction['ssim'], 3)}, brain only {told(reconstruction['ssim_brain'], 3)}; "
        f"PSNR {told(reconstruction['psnr'], 2)} dB, brain only {told(reconstruction['psnr_brain'], 2)} dB"
    )
    print(
        f"  {metrics['rate']['bits_per_image']:.0f} bits per image; {100 * codebook['used_fraction']:.1f} % of the "
        f"codes in use, perplexity {codebook['perplexity']:.1f}"
    )
    if "prior" in metrics:
        prior = metrics["prior"]
        bits, unigram = prior[f"bits_per_code_{metrics['split']}"], prior["unigram_bits_per_code"]
        print(
            f"  prior: {told(bits, 3)} bits per code; unigram {unigram:.3f} "
            f"({set_against(value_of(bits), unigram)}), uniform {prior['uniform_bits_per_code']:.3f}"
        )


def set_against(number, other):
    """How far a number of 0 or more lies from another, in words: "43.0 % below it"."""
    if number <= other:
        return f"{100 * (1 - number / other):.1f} % below it" if other else "both are 0"
    if number <= 2 * other:
        return f"{100 * (number / other - 1):.1f} % above it: worse than counting codes"
    return "more than twice it: worse than counting codes"
