"""What the chapter stacks of metrics.json says: whole people that a run drew."""

from experiments.filled.words import metric, null, number, table, verdict
from report.numbers import REFERENCES, value_of

PEOPLE = {  # key of stacks → its name
    "ssim_1": "SSIM, 1 slice apart",
    **{f"ssim_{apart}": f"{apart} apart" for apart in (2, 5, 10)},
    "information_1": "mutual information, 1 apart",
    "information_10": "10 apart",
    "overlap_1": "overlap of outlines, 1 apart",
    "overlap_10": "10 apart",
    "ventricle_change_1": "change of ventricle area, 1 apart",
    "ventricle_change_10": "10 apart",
    "coronal_roughness": "roughness of the coronal view",
    "outline_jags": "jags of the outline",
    "brain_volume": "brain volume",
    "ventricle_volume": "ventricle volume",
    "drift_ventricles": "drift of ventricles, lowest to highest five",
    "drift_detail": "drift of detail",
}


def bits(files, run):
    """What the slices of a person cost, told the others of that person or of another one, a sentence."""
    bits = files.metrics(run)["stacks"]["bits_per_code"]
    told, alone, shuffled = (metric(bits[key], 2) for key in ("told", "alone", "shuffled"))
    return (
        f"A code costs **{told} bits** where the prior is told the slices below, {alone} where it is not, and "
        f"{shuffled} where it is told those of another person."
    )


def told(files, run):
    """How many numbers of whole people are told apart, a sentence."""
    stacks = files.metrics(run)["stacks"]
    real, decoded = (stacks[name] for name in REFERENCES)
    independent = len(real["told_apart_independent"])
    return (
        f"{stacks['people']} sampled people and as many test people: against real stacks "
        f"**{len(real['told_apart'])} of {real['tests']} numbers** are told apart, against reconstructions "
        f"**{len(decoded['told_apart'])}**, and of independent slices {independent}."
    )


def against_people(files, run):
    """Whole people against real ones: a table."""
    real, decoded = (files.metrics(run)["stacks"][name] for name in REFERENCES)
    rows = []
    for key, name in PEOPLE.items():
        effect = f"{key}_effect"
        ends = real[f"{effect}_null"]
        rows.append(
            [
                name,
                number(real[effect], 2),
                f"[{number(ends['low'], 2)}, {number(ends['high'], 2)}]",
                verdict(real[f"{effect}_verdict"]),
                verdict(decoded[f"{effect}_verdict"]),
                number(real[f"{effect}_independent"], 2),
            ]
        )
    head = ["", "sampled − real", "other real people", "against real stacks", "against reconstructions"]
    return table([*head, "independent − real"], rows)


def means(files, run):
    """What some numbers of whole people are in the mean: a table."""
    means = files.metrics(run)["stacks"]["against_real"]["means"]
    sides = {"people": "sampled people", "reference": "test people", "independent": "independent slices"}
    keys = ("ssim_1", "ssim_5", "coronal_roughness")
    rows = [[PEOPLE.get(key, key), *(number(means[side][key], 2) for side in sides)] for key in keys]
    rows[1][0] = "SSIM, 5 slices apart"
    return table(["means", *sides.values()], rows)


def copies(files, run):
    """Whether a stack is a copy of a training person, a sentence."""
    found = files.metrics(run)["stacks"]["copies"]
    return (
        f"{number(found['copied_people'], 0)} of {found['people']} stacks are copies of a training person: the largest "
        f"share of one person's slices among the nearest ones is {number(value_of(found['one_person_share']), 2)} "
        f"(people {null(found['one_person_share_null'], 2)})"
    )
