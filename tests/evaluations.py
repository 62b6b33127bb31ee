"""What metrics.json holds, made by hand: no model, no images."""

KEYS = (
    *("frechet", "kid", "two_sample_auc", "two_sample_auc_shape", "two_sample_auc_texture", "patches", "precision"),
    *("recall", "density", "coverage", "diversity", "spectrum_gap", "detail_auc", "noise_ratio"),
)
ANATOMY = ("brain_area", "csf_fraction", "grey_fraction", "white_fraction", "ventricle_area", "asymmetry")
BANDS = tuple(f"band_{i}" for i in range(1, 9))
INTERVAL = {"frechet", "kid", "patches"}  # those that carry one here


def judged_number(name, verdict, value=2.0):
    """One number with its siblings: its nulls reach from 0 to 1 and from −1 to 3."""
    return {
        name: {"value": value, "low": value - 0.5, "high": value + 0.5} if name in INTERVAL else value,
        f"{name}_null": {"perfect_prior": [0.5, 0.0, 1.0], "other_people": [1.0, -1.0, 3.0]},
        f"{name}_verdict": verdict,
        f"{name}_p": {"told apart": 0.0001, "cannot tell": 0.03, "consistent": 0.4}[verdict],
        f"{name}_positional": 5.0,
        f"{name}_gaussian": 50.0,
    }


def against(told_apart=(), cannot_tell=()):
    """A reference whose 28 numbers are consistent, but for those named by their dotted keys."""

    def group(names, prefix=""):
        values = {}
        for name in names:
            key = f"{prefix}{name}"
            verdict = "told apart" if key in told_apart else "cannot tell" if key in cannot_tell else "consistent"
            values |= judged_number(name, verdict)
        return values

    effects = [f"{name}_effect" for name in ANATOMY]
    return {
        **group(KEYS),
        "spectrum": group(BANDS, "spectrum."),
        "anatomy": group(effects, "anatomy.") | {f"{name}_wasserstein": 0.25 for name in ANATOMY},
        "tests": 28,
        "told_apart": list(told_apart),
    }


def without_null(reference, why="too few people"):
    """A reference in which nothing has a null, nor a verdict other than that none can be told."""
    for name in [name for name in reference if name.endswith("_verdict")]:
        key = name.removesuffix("_verdict")
        reference |= {f"{key}_null": None, f"{key}_null_why": why, f"{key}_p": None, f"{key}_p_why": why}
        reference[name] = "cannot tell"
    for group in ("spectrum", "anatomy"):
        if group in reference:
            without_null(reference[group], why)
    return reference


def attack(of, auc, meaning="what it tells"):
    """A membership attack whose interval is its AUC ± 0.05."""
    told = {"people": 60, "unseen": 40, "p": 0.001, "told": 0.25, "false_alarm": 0.024}
    return {"auc": auc, "low": auc - 0.05, "high": auc + 0.05, **told, "of": of, "meaning": meaning}


def evaluation(real=None, reconstructions=None, **others):
    """The metrics.json of a run, with what is shown of it."""
    return {
        "run": "x",
        "split": "validation",
        "people": 40,
        "slices": 800,
        "date": "today",
        "command": "c",
        "seed": 0,
        "commit": None,
        "notes": [],
        "reconstruction": {"ssim_brain": {"value": 0.875, "low": 0.85, "high": 0.9}},
        "rate": {"bits_per_image": 4096, "bits_per_image_prior": 2048.0},
        "prior": {"bits_per_code_validation": {"value": 3.125, "low": 3.0, "high": 3.25}},
        "samples": {
            "slices_per_set": 800,
            "people": 40,
            "level": 0.05,
            "against_real": against() if real is None else real,
            "against_reconstructions": against() if reconstructions is None else reconstructions,
            "label_effects": {"label_effect": "AD minus NC"},
            "lopsided": 0.25,
            "lopsided_people": 0.01,
        },
        "memorisation": {
            "verdict": "no copies found by a search that finds 95 % of planted copies; not a privacy guarantee",
            "nn_ratio": 0.5,
            "nn_ratio_null": {"value": 1.0, "low": 0.75, "high": 1.25},
            "copies_fraction": 0.0,
            "copies_fraction_null": {"value": 0.0, "low": 0.0, "high": 0.01},
            "flagged": False,
            "membership": {"likelihood": attack("weights", 0.75), "nearest_sample": attack("samples", 0.5)},
        },
        **others,
    }
