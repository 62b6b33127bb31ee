"""The numbers of README.md."""

from experiments.filled.peer import newest
from experiments.filled.run import auc_of, conditions, copies, strongest_attack, trained
from experiments.filled.words import metric, null, number, percent, table
from report.numbers import REFERENCES, TOLD_APART, value_of


def reconstructions(files):
    """Reconstructions of the run on real slices, and the peer's: a table."""
    metrics, theirs = files.metrics("brains"), newest(files, "time", "ema")
    found = metrics["reconstruction"]
    rows = [
        [
            "bits an image",
            number(metrics["rate"]["bits_per_image"], 0),
            number(theirs["ssim_brain"]["peer_bits_per_image"], 0),
        ]
    ]
    for name, key, digits, unit in (
        ("SSIM, inside the brain", "ssim_brain", 3, ""),
        ("PSNR, inside the brain", "psnr_brain", 1, " dB"),
        ("resolution: cycles a pixel up to which detail is right (0.5 is all)", "frc_resolution", 3, ""),
    ):
        ours, peer = metric(found[key], digits, unit), float(theirs[key]["peer"])
        ours = f"**{ours}**" if value_of(found[key]) > peer else ours
        rows.append([name, ours, f"{number(peer, digits)}{unit}"])
    return table([f"{metrics['people']} test people, {metrics['slices']} slices", "this model", "the peer"], rows)


def samples(files):
    """Samples of the run on real slices against both references, and what gives training people away: a table."""
    metrics = files.metrics("brains")
    sides = [metrics["samples"][name] for name in REFERENCES]
    means = metrics["stacks"]["against_real"]["means"]
    counts = [f"**{len(side['told_apart'])}**" for side in sides]
    copying = metrics["memorisation"]
    rows = [
        [f"numbers told apart, of {sides[0]['tests']}", *counts, "0"],
        judged("AUC of a classifier that tells them (0.5 is chance)", sides, "two_sample_auc"),
        judged("the same by shape alone", sides, "two_sample_auc_shape"),
        judged("missing power in fine detail (0 is best)", sides, "spectrum_gap"),
        [f"copies among {number(copying['searched_samples'], 0)} samples", number(copies(copying), 0), "", "0"],
        attacked("training people told from others by the weights", strongest_attack(metrics)),
        attacked("the same by the samples alone", strongest_attack(metrics, "samples")),
        [
            "SSIM of neighbouring slices of one person",
            f"{number(means['people']['ssim_1'], 2)}, people {number(means['reference']['ssim_1'], 2)}",
            "",
            f"slices of different people {number(means['independent']['ssim_1'], 2)}",
        ],
    ]
    head = ["what is drawn", "against real slices", "against reconstructions", "a perfect prior: against either"]
    return table(head, rows)


def judged(name, sides, key):
    """A row of a number of samples, with its verdicts and what a perfect prior scores against real slices."""
    cells = []
    for side in sides:
        value, verdict = number(value_of(side[key]), 2), side[f"{key}_verdict"]
        cells.append(f"{f'**{value}**' if verdict == TOLD_APART else value}, {verdict}")
    return [name, *cells, null(sides[0][f"{key}_null"], 2)]


def attacked(name, attack):
    """A row of an attack."""
    odds = f"one false alarm in {number(1 / attack['false_alarm'], 0)}"
    return [name, f"{percent(attack['told'])} at {odds}, AUC {auc_of(attack)}", "", percent(attack["false_alarm"])]


def kills(files):
    """How often trainings were killed."""
    return f"{files.json('reliability.json')['faults']['killed']['kills']} times"


TEXTS = {
    "front.trained": lambda files: trained(files, "brains"),
    "front.results": lambda files: f"{reconstructions(files)}\n\n{samples(files)}",
    "front.conditions": lambda files: conditions(files, "brains"),
    "front.kills": kills,
}
