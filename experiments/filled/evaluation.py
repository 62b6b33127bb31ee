"""The numbers of docs/evaluation.md."""

import re

from experiments.filled.words import number, percent, table
from report.numbers import plain_name

# ---- what an evaluation costs -------------------------------------------------------------------


def cost(files):
    """Minutes and memory of an evaluation, and how the memory grows with the training slices."""
    found = files.json("evaluation_cost.json")
    ((what, took),) = found["time"].items()
    slices, height, width, people = re.fullmatch(r"(\d+) slices of (\d+)x(\d+), (.*)", what).groups()
    fewer, more = sorted(int(name.split()[0]) for name in found["memory"] if name != "ratio of memory")
    return (
        f"{number(slices, 0)} slices of {width}×{height}, {people}: {number(took['minutes'], 1)} minutes and "
        f"{number(took['megabytes'] / 1000, 1)} GB on two cores. With {number(more / fewer, 0)} times the training "
        f"slices the peak of memory is {number(found['memory']['ratio of memory'], 2)} times as high"
    )


# ---- how often a perfect generator is told apart ------------------------------------------------


def calibration_setting(files):
    """How often a perfect generator was played, and with how many people."""
    found = files.json("calibration.json")
    return (
        f"{found['repetitions']} times: {found['training_people']} people to train on, {found['split_people']} in the "
        f"split, {found['tests']} numbers against real slices, an audit in the first {found['audits']}"
    )


def calibration(files):
    """How often verdicts are false and intervals right: a table."""
    found = files.json("calibration.json")
    covered, alarms = found["coverage"], found["audit_false_alarm"]
    flagged = f"{number(alarms['value'] * found['audits'], 0)} of {found['audits']}"
    rows = [
        share("any number told apart", found["false_red"], "5 % at most"),
        share("the interval of the Fréchet distance holds the truth, 0", covered["frechet"], "95 %"),
        share("that of the kernel distance", covered["kid"], "95 %"),
        share("that of the patch distance", covered["patches"], "95 %"),
        share("the audit flags copies", alarms, "5 % at most", flagged),
    ]
    return table(["a perfect generator", "is", "95 % interval", "promised"], rows)


def share(name, found, promised, told=None):
    """A row of a share {value, low, high}, with what is told in its place."""
    interval = f"{number(100 * found['low'], 1)}–{percent(found['high'], 1)}"
    return [name, told or percent(found["value"], 1), interval, promised]


def false_verdicts(files):
    """Which numbers were told apart of a perfect generator, and how often."""
    found = files.json("calibration.json")["told_apart"]
    return ", ".join(f"{plain_name(name)} ({count})" for name, count in found.items())


# ---- bad generators -----------------------------------------------------------------------------

CONTROL = "control: "
CAUGHT_BY = {
    "frechet": "Fréchet",
    "kid": "kernel",
    "two_sample_auc": "AUC",
    "two_sample_auc_shape": "AUC of shape",
    "two_sample_auc_texture": "AUC of texture",
    "patches": "patches",
    "spectrum_gap": "missing power",
    "detail_auc": "fine detail",
    "noise_ratio": "noise",
    "copies": "**copies**",
}


def cheats(files):
    """Bad generators and two perfect ones, and what tells them apart from either reference: a table."""
    by_name = {}
    for row in files.rows("cheats.csv"):
        by_name.setdefault(row["generator"], {})[row["against"]] = caught_by(row["caught_by"])
    rows = [
        [name.removeprefix(CONTROL) + (" (control)" if CONTROL in name else ""), *(sides[key] for key in AGAINST)]
        for name, sides in by_name.items()
    ]
    return table(["generator", "told apart from real slices by", "from reconstructions by"], rows)


AGAINST = ("real slices", "reconstructions")


def caught_by(keys):
    """ "kid, spectrum.band_1, spectrum.band_2" -> "kernel, 2 bands of power"."""
    found = keys.split(", ") if keys else []
    words = [CAUGHT_BY.get(key) or plain_name(key).replace(" (effect size)", "") for key in found if "band_" not in key]
    if bands := sum("band_" in key for key in found):
        words.insert(len(words) - ("**copies**" in words), f"{bands} band{'s' * (bands > 1)} of power")
    return ", ".join(words) or "nothing"


def cheats_summary(files):
    """How many bad generators pass, how many of them the Fréchet distance tells, and how many are called copies."""
    rows = [row for row in files.rows("cheats.csv") if CONTROL not in row["generator"]]
    sides = [[row for row in rows if row["against"] == against] for against in AGAINST]
    told = [sum(int(row["told_apart"]) > 0 for row in side) for side in sides]
    frechet = sum("frechet" in row["caught_by"].split(", ") for row in sides[0])
    copies = sum(row["copies_found"] == "True" for row in sides[0])
    count = len(sides[0])
    return (
        f"**{told[0]} of {count} bad generators are told apart from real slices, {told[1]} from reconstructions.** "
        f"The Fréchet distance, which most papers report, tells {frechet}. The audit calls {copies} of them copies."
    )


# ---- lesions ------------------------------------------------------------------------------------

KINDS = (("bright", "sharp"), ("bright", "smooth"), ("dark", "sharp"), ("dark", "smooth"))
MAPS = {  # of all lesions
    "reconstruction error": "error of the plain reconstruction",
    "reconstruction error, blurred": "the same, blurred to the size of the codes",
    "bits": "bits per code",
    "z": "z-scores",
    "z, blurred": "z-scores, blurred",
    "|z|": "z-scores, either side, as they are",
}
HEALED = {  # of those that were healed
    "reconstruction error, blurred": "error of the plain reconstruction, blurred",
    "z, blurred": "z-scores, blurred",
    "slice - healed, blurred": "slice − healed, blurred",
}


def lesion_rows(files, slices, name, sign="all", edge="all", radius="all"):
    """The row of lesions.csv of a map over all people."""
    wanted = dict(slices=slices, map=name, sign=sign, edge=edge, radius=radius, person="all")
    return next(row for row in files.rows("lesions.csv") if all(row[key] == value for key, value in wanted.items()))


def lesion_table(files, slices, maps, what):
    """AUCs of maps, the best of each kind of lesion in bold letters: head and rows of a table."""
    found = {name: [float(lesion_rows(files, slices, name, *kind)["auc"]) for kind in KINDS] for name in maps}
    best = [max(column) for column in zip(*found.values(), strict=True)]
    rows = [
        [
            words,
            *(
                f"**{number(auc, 2)}**" if number(auc, 2) == number(most, 2) else number(auc, 2)
                for auc, most in zip(found[name], best, strict=True)
            ),
        ]
        for name, words in maps.items()
    ]
    count = lesion_rows(files, slices, next(iter(maps)))["lesions"]
    return [f"AUC over the pixels of the brain, {count} {what}", *(", ".join(kind) for kind in KINDS)], rows


def lesions(files):
    """How well maps tell lesions: a table."""
    head, rows = lesion_table(files, "all", MAPS, "lesions")
    likelier = [float(lesion_rows(files, "all", "bits", *kind)["likelier"]) for kind in KINDS]
    likelier_row = ["lesions whose codes are *likelier* than the healthy ones", *(percent(each) for each in likelier)]
    return table(head, [*rows, likelier_row])


def healed(files):
    """How well healing tells lesions: a table."""
    return table(*lesion_table(files, "healed", HEALED, "lesions of 6 and 12 pixels, one slice of each person"))


def fooled(files):
    """The share of lesions whose codes are likelier than the healthy ones."""
    return percent(float(lesion_rows(files, "all", "bits")["likelier"]))


def without_lesion(files):
    """The least and the largest AUC of the z-scores in the same places without a lesion."""
    found = [float(lesion_rows(files, "all", "z", "none", "sharp", radius)["auc"]) for radius in ("3", "6", "12")]
    return f"{number(min(found), 2)} to {number(max(found), 2)}"


TEXTS = {
    "evaluation.cost": cost,
    "calibration.setting": calibration_setting,
    "calibration.table": calibration,
    "calibration.false": false_verdicts,
    "cheats.table": cheats,
    "cheats.summary": cheats_summary,
    "lesions.table": lesions,
    "lesions.healed": healed,
    "lesions.fooled": fooled,
    "lesions.none": without_lesion,
}
