"""What was set as a target for the run on real slices, beside what was measured."""

from experiments.filled.run import copies, strongest_attack
from experiments.filled.study import row_of
from experiments.filled.words import metric, number, table
from report.numbers import value_of

AGREEMENT = tuple(
    f"{name}_{apart}_effect"
    for name in ("ssim", "information", "overlap", "ventricle_change")
    for apart in (1, 2, 5, 10)
)
DRIFT = tuple(f"drift_{name}_effect" for name in ("grey", "detail", "brain", "ventricles"))


def targets(files, run):
    """Targets, what was measured, and which are met: a table."""
    metrics = files.metrics(run)
    return table(
        ["", "target", "measured", ""], [*of_slices(metrics), *of_people(metrics["stacks"]), single_slices(files)]
    )


def of_slices(metrics):
    """The rows of reconstructions and samples."""
    found, real = metrics["reconstruction"], metrics["samples"]["against_real"]
    attack = strongest_attack(metrics)
    return [
        at_least("SSIM of reconstructions, inside the brain", found["ssim_brain"], 0.93, 3),
        at_least("PSNR of reconstructions, inside the brain, dB", found["psnr_brain"], 28.5, 1),
        at_least("resolution, cycles/pixel", found["frc_resolution"], 0.38, 3),
        at_most("missing power of reconstructions", found["spectrum_gap"], 0.20, 2),
        at_most("missing power of what is drawn", real["spectrum_gap"], 0.10, 2),
        at_most("AUC of texture, minus that of a perfect prior", over_null(real, "two_sample_auc_texture"), 0.15, 2),
        at_most("AUC of shape, minus that of a perfect prior", over_null(real, "two_sample_auc_shape"), 0.10, 2),
        at_most("AUC of fine detail alone", real["detail_auc"], 0.65, 2),
        in_band("recall", real["recall"], real["recall_null"]["perfect_prior"][1:]),
        in_band("coverage", real["coverage"], real["coverage_null"]["perfect_prior"][1:]),
        lopsided(metrics["samples"]),
        at_most(
            "strongest attack on the weights, AUC",
            {"value": attack["auc"], "low": attack["low"], "high": attack["high"]},
            0.80,
            2,
        ),
        at_most("copies", copies(metrics["memorisation"]), 0, 0),
    ]


def of_people(stacks):
    """The rows of whole people."""
    real, share = stacks["against_real"], stacks["bits_per_code"]["told_over_alone"]
    return [
        at_most("bits of a person, over those of independent slices", share, 0.60, 2),
        within("agreement of slices 1, 2, 5 and 10 apart, within the band of people", real, AGREEMENT),
        within("drift from the lowest to the highest slices, within that band", real, DRIFT),
    ]


def single_slices(files):
    """The row of single slices, drawn by a prior that was told others in training and by one that never was."""
    rows = [row_of(files, "fourth", "prior", "other slices told", told) for told in ("to 60%", "none")]
    found = [[float(row[f"real_{name}"]) for name in ("frechet", "two_sample_auc_shape")] for row in rows]
    words = " / ".join(f"{number(told, 2)} ({number(alone, 2)})" for told, alone in zip(*found, strict=True))
    no_worse = all(told <= alone for told, alone in zip(*found, strict=True))
    return [
        "single slices of a prior that is told others (of one that never is): Fréchet distance / AUC of shape, "
        "[at equal time](settings.md#at-equal-time)",
        "no worse",
        words,
        met(no_worse),
    ]


def at_least(name, found, bound, digits):
    """A row of what should not be lower."""
    return [name, f"≥ {number(bound, 2 if bound < 1 else 1)}", metric(found, digits), met(value_of(found) >= bound)]


def at_most(name, found, bound, digits):
    """A row of what should not be higher."""
    return [name, f"≤ {number(bound, 2)}" if bound else "0", metric(found, digits), met(value_of(found) <= bound)]


def lopsided(samples):
    """The row of samples that differ more from their mirror image than slices; other people's slices do as well."""
    *row, is_met = at_most("share of samples more lopsided than 99 of 100 slices", samples["lopsided"], 0.04, 2)
    return [*row[:-1], f"{row[-1]} (other people's slices: {number(samples['lopsided_people'], 2)})", is_met]


def over_null(section, key):
    """A number less the median of what a perfect prior scores."""
    return value_of(section[key]) - section[f"{key}_null"]["perfect_prior"][0]


def in_band(name, found, ends):
    """A row of what should lie between two ends."""
    low, high = ends
    return [name, f"in [{number(low, 2)}, {number(high, 2)}]", metric(found, 2), met(low <= value_of(found) <= high)]


def within(name, section, keys):
    """A row of numbers that should all lie within their nulls."""
    inside = [section[f"{key}_null"]["low"] <= section[key] <= section[f"{key}_null"]["high"] for key in keys]
    return [name, f"{len(keys)} of {len(keys)}", f"{sum(inside)} of {len(keys)}", met(all(inside))]


def met(is_met):
    """The last cell of a row."""
    return "met" if is_met else "**missed**"
