"""The tables of study.csv, whose rows experiments/study.py makes: lines of variants of a base, beside each other."""

from typing import NamedTuple

from experiments.filled.words import number, table

BASE = "base"
BASES = ("first", "second", "third")
STAGES = {"vqvae": "1", "prior": "2"}
JUDGED = {  # column → digits
    "real_two_sample_auc": 2,
    "real_two_sample_auc_shape": 2,
    "real_two_sample_auc_texture": 2,
    "real_frechet": 1,
    "real_recall": 2,
}
WHOLE = {"bits_per_image": 0, "ssim_brain": 3, "spectrum_gap": 2, "frc_resolution": 3, "bits_validation": 2} | JUDGED
NAMES = {"steps": "steps", "used_fraction": "% of codes in use", "bits_per_image": "bits"}


class Line(NamedTuple):
    """A line of a table: some rows of the study.

    Attributes:
        name: what varies.
        base: "first", "second" or "third".
        factor: of the rows.
        tried: how variants are called here → the row's variant; BASE is the base, in italics; of another factor it is
            (factor, variant).
        also: a column that the name tells, too.
        data: "brains" or "demo".
    """

    name: str
    base: str
    factor: str
    tried: dict
    also: str = ""
    data: str = "brains"


NO_AUGMENTATION = ("augmentation", "0%")
CODES = {"32": "K = 32", "128": "K = 128", "512": BASE, "2,048": "K = 2048"}
STAGE_1 = (
    Line("codes K", "first", "codebook size", CODES),
    Line("the same, demo cohort", "first", "codebook size", CODES, data="demo"),
    Line(
        "error",
        "first",
        "loss",
        {
            "squared": "squared",
            "absolute": "absolute",
            "+ bands": BASE,
            "absolute + 0.1 (1 − SSIM)": "absolute + 0.1 (1 - SSIM)",
            "bands + 0.1 focal frequency": "pyramid + 0.1 focal frequency",
        },
    ),
    Line(
        "strength of all bands",
        "first",
        "loss",
        {"0": BASE, "0.5": "pyramid + energy 0.5", "1.0": "pyramid + energy 1"},
    ),
    Line("augmented slices, %", "first", "augmentation", {"80": BASE, "50": "50%", "0": "0%"}),
    Line("the same", "second", "augmentation", {"80": BASE, "50": "50%", "0": "0%"}),
    Line(
        "strength of all bands, none augmented",
        "second",
        "strength of bands",
        {"0.5": NO_AUGMENTATION, "1.0": "weight 1.0, no slice augmented", "2.0": "weight 2.0, no slice augmented"},
    ),
    Line(
        "of the finest band, none augmented",
        "second",
        "strength of bands",
        {"0.5": NO_AUGMENTATION, "2.0": "weight 2.0 on the finest, no slice augmented"},
    ),
    Line("of the finest band", "second", "strength of bands", {"0.5": BASE, "2.0": "weight 2.0 on the finest"}),
    Line(
        "patch discriminator, none augmented",
        "second",
        "patch discriminator",
        {"without": NO_AUGMENTATION, "with": "10% of the gradient, no slice augmented"},
    ),
    Line("channels", "second", "width", {"48": "48 channels", "64": BASE, "96": "96 channels"}, "steps"),
    Line(
        "residual blocks", "second", "depth", {"1": "1 residual blocks", "2": BASE, "4": "4 residual blocks"}, "steps"
    ),
    Line("dimensions of a code", "second", "code dimension", {"8": "D = 8", "16": BASE, "64": "D = 64"}),
    Line("codes on the unit sphere", "second", "normalised codes", {"no": BASE, "yes": "D = 16"}),
    Line(
        "codebook by",
        "second",
        "codebook training",
        {"moving averages": BASE, "gradients": "gradients"},
        "used_fraction",
    ),
    Line("dead codes revived", "second", "revival", {"yes": BASE, "no": "off"}, "used_fraction"),
    Line(
        "pixels per code",
        "second",
        "downsample",
        {"4": "4 pixels per code", "4, K = 16": "4 pixels per code, K = 16", "8": BASE, "16": "16 pixels per code"},
        "bits_per_image",
    ),
    Line("strength of the finest band", "third", "detail weight", {"1": BASE, "4": "4.0"}),
    Line("unit sphere, dimensions", "third", "normalised codes", {"no, 16": BASE, "8": "D = 8", "64": "D = 64"}),
)
STAGE_2 = (
    Line(
        "augmented, %",
        "first",
        "augmentation",
        {"fixed codes": "none: fixed codes", "50": "50%", "80": BASE, "100": "100%"},
    ),
    Line("dropout, %", "first", "dropout", {"0": "0%", "10": BASE, "25": "25%"}),
    Line(
        "channels, vertical / horizontal",
        "second",
        "width",
        {
            "96 / 96": BASE,
            "48 / 96": ("vertical stack", "48 channels, horizontal 96"),
            "64 / 64": "64 channels",
            "32 / 64": ("vertical stack", "32 channels, horizontal 64"),
            "144 / 144": "144 channels",
        },
    ),
    Line(
        "layer",
        "second",
        "cheaper layer",
        {
            "published": BASE,
            "narrower link": "narrower link from the vertical stack",
            "and split kernel": "factorised vertical kernel",
            "narrower link, vertical 48": "vertical stack of half the width",
        },
    ),
    Line("batch", "second", "batch size", {"4": "4", "8": BASE, "16": "16"}),
    Line(
        "causal attention", "second", "attention", {"no": BASE, "one layer of 4 heads": "one causal layer of 4 heads"}
    ),
    Line("codes it sees replaced, %", "second", "code corruption", {"0": BASE, "5": "5 %"}),
    Line("layers", "third", "depth", {"6": "6 layers", "10": BASE, "14": "14 layers"}),
    Line(
        "6 layers, dilated",
        "third",
        "receptive field",
        {"yes": ("depth", "6 layers"), "no": "does not cover the grid: 6 layers, no dilation"},
    ),
    Line("kernels, vertical and horizontal", "third", "kernel", {"2×3, 2": BASE, "3×5, 3": "5 columns instead of 3"}),
    Line("label and position", "third", "conditions", {"yes": BASE, "no": "no label, no position"}),
    Line("learnt value for each cell", "third", "learnt positions", {"yes": BASE, "no": "none"}),
)
SAMPLING = (
    Line(
        "second base",
        "second",
        "temperature",
        {"T = 1": BASE, "0.9": "0.9", "0.95": "0.95", "top-p 0.97": ("top-p", "0.97"), "top-k 64": ("top-k", "64")},
    ),
    Line(
        "third base",
        "third",
        "temperature",
        {
            "T = 1": BASE,
            "0.9": "0.9",
            "1.05": "1.05",
            "top-p 0.9": ("top-p", "0.9"),
            "top-k 64": ("top-k", "64"),
            "top-k 16": ("top-k", "16"),
        },
    ),
)


def found(files, line, stage, base_stage=None):
    """The rows of a Line, a list of dicts, the base's from ``base_stage``."""
    rows = []
    for variant in line.tried.values():
        factor, variant = variant if isinstance(variant, tuple) else (line.factor, variant)
        if variant == BASE:
            rows.append(row_of(files, line.base, base_stage or stage, BASE, BASE, line.data))
        else:
            rows.append(row_of(files, line.base, stage, factor, variant, line.data))
    return rows


def row_of(files, base, stage, factor, variant, data="brains", seed="0"):
    """One row of the study."""
    wanted = dict(base=base, stage=stage, factor=factor, variant=variant, data=data, seed=seed)
    return next(row for row in files.rows("study.csv") if all(row[key] == value for key, value in wanted.items()))


def beside(rows, column, digits, factor=1):
    """The numbers of a column beside each other; nothing where one row has none."""
    values = [row[column] for row in rows]
    return " · ".join(number(factor * float(value), digits) for value in values) if all(values) else ""


def called(line):
    """What was tried, the base in italics."""
    return " · ".join(f"*{name}*" if variant == BASE else name for name, variant in line.tried.items())


def stage_1(files):
    """Variants of the first stage: a table."""
    rows = []
    for line in STAGE_1:
        these = found(files, line, "vqvae")
        also = beside(these, line.also, 0, 100 if line.also == "used_fraction" else 1) if line.also else ""
        name = f"{line.name} ({also} {NAMES[line.also]})" if also else line.name
        rows.append([name, line.base, called(line), *measured(these, line.base)])
    seeds = [row_of(files, "third", "vqvae", BASE, BASE, seed=str(seed)) for seed in range(3)]
    rows.append(["seed: other people held out", "third", "*0* · 1 · 2", *measured(seeds, "third")])
    head = ["stage 1, real slices", "base", "tried", "SSIM in the brain", "missing power", "resolution"]
    return table([*head, "overlap of tissues"], rows)


def measured(rows, base):
    """What rows of the first stage measured; tissues were told otherwise when the first base was."""
    columns = {"ssim_brain": 3, "spectrum_gap": 2, "frc_resolution": 3, "tissue_dice": 3}
    return [
        "" if (base, column) == ("first", "tissue_dice") else beside(rows, column, columns[column])
        for column in columns
    ]


def stage_2(files):
    """Variants of the second stage: a table."""
    rows = []
    for line in STAGE_2:
        these = found(files, line, "prior")
        bits = [[number(row[f"bits_{people}"], 2) for people in ("validation", "train")] for row in these]
        rows.append(
            [
                line.name,
                line.base,
                called(line),
                beside(these, "steps", 0),
                " · ".join(f"{one} ({other})" for one, other in bits),
                *(
                    beside(these, column, digits)
                    for column, digits in (("brain_over_positional", 3), ("c2st", 2), ("diversity", 2))
                ),
            ]
        )
    head = ["stage 2, real slices", "base", "tried", "steps", "bits per code, validation (train)"]
    return table([*head, "of the positional baseline", "two-sample AUC", "diversity"], rows)


def whole(files):
    """Variants of the fourth and the fifth base, whole slices: a table of both stages."""
    rows = []
    for row in files.rows("study.csv"):
        if row["base"] in ("fourth", "fifth"):
            name = f"{row['factor']}: {row['variant']}" if row["variant"] != BASE else f"*the {row['base']} base*"
            cells = (number(float(row[key]), digits) if row[key] else "" for key, digits in WHOLE.items())
            rows.append([name, STAGES[row["stage"]], row["steps"], *cells])
    null = row_of(files, "fourth", "prior", BASE, BASE)
    nulls = (number(float(null[f"{key}_null"]), digits) if key in JUDGED else "" for key, digits in WHOLE.items())
    rows.append(["slices of other people", "", "", *nulls])
    heads = ["bits an image", "SSIM in the brain", "missing power", "resolution", "bits per code", "AUC", "of shape"]
    return table(["", "stage", "steps", *heads, "of texture", "Fréchet", "recall"], rows)


def nulls(files):
    """What a perfect prior scored on the three bases."""
    rows = [row_of(files, base, "prior", BASE, BASE) for base in BASES]
    auc, diversity = (beside(rows, f"{name}_null", 2) for name in ("c2st", "diversity"))
    return f"two-sample AUC {auc} on the three bases, diversity {diversity}"


def sampling(files):
    """Ways to draw from the prior of a base: a table."""
    rows, columns = [], (("kid", 3), ("frechet", 1), ("c2st", 2), ("diversity", 2))
    for line in SAMPLING:
        these = found(files, line, "sampling", "prior")
        null = ", ".join(beside(these[:1], f"{column}_null", digits - (column == "kid")) for column, digits in columns)
        rows.append([f"{line.name} (null {null})", called(line), *(beside(these, *column) for column in columns)])
    head = ["sampling a base's prior", "tried", "kernel distance", "Fréchet distance", "two-sample AUC", "diversity"]
    return table(head, rows)


def people(files):
    """What more people to train on bring: a table."""
    real = row_of(files, "second", "vqvae", BASE, BASE) | {
        key: value for key, value in row_of(files, "second", "prior", BASE, BASE).items() if value
    }
    rows = [(49, "real", real)]
    for row in files.rows("study.csv"):
        if row["factor"] == "people":
            rows.append((int(row["variant"].split()[0]), "real" if row["data"] == "brains" else "simulated", row))
    rows.sort(key=lambda entry: (entry[1], entry[0]))
    head = [
        "trained on (people), second base",
        "SSIM in the brain",
        "missing power",
        "bits per code, train / validation",
    ]
    head += ["of the positional baseline", "Fréchet (null)", "two-sample AUC (null)", "diversity (null)"]
    return table(head, [[f"{count} {kind}", *of_people(row)] for count, kind, row in rows])


def of_people(row):
    """What was measured with so many people: cells of the table."""
    cells = [number(row["ssim_brain"], 3), number(row["spectrum_gap"], 2)]
    cells.append(f"{number(row['bits_train'], 2)} / {number(row['bits_validation'], 2)}")
    cells.append(number(row["brain_over_positional"], 3))
    against_null = (("frechet", 1), ("c2st", 2), ("diversity", 2))
    return cells + [
        f"{number(row[key], digits)} ({number(row[f'{key}_null'], digits)})" for key, digits in against_null
    ]
