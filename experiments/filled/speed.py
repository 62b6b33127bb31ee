"""The numbers of docs/speed.md: the tables of experiments/benchmark.py."""

from experiments.filled.words import significant, table
from experiments.results import read_rows

HEAD = ["against", "ours", "theirs", "times better", "at least"]
QUALITY = {"ssim_brain": "SSIM in the brain", "frc_resolution": "resolution", "codes_used": "codes in use"}
DOUBLED = {
    "image area or grid area": ("image area doubles", "grid area doubles"),
    "batch size or number of grids": ("batch size doubles", "number of grids doubles"),
    "number of codes": ("number of codes doubles",),
}


def benchmark_rows(files):
    """The rows of the benchmark, a list of dicts."""
    return read_rows(files.benchmark.with_name(f"{files.benchmark.name}.csv"))


def line(row):
    """A row of the benchmark as cells."""
    target = significant(row["target"], 3) if row["target"] else ""
    numbers = [significant(row[name], 3) for name in ("ours", "theirs", "ratio")]
    return [row["what"], row["against"], *numbers, target + (" – **missed**" if row["met"] == "False" else "")]


def is_of(row, *words):
    """Whether what a row is of begins with one of some words; memory and growth are told elsewhere."""
    return row["what"].startswith(words) and not any(word in row["what"] for word in ("memory", "growth"))


def training(files):
    """The speed of training: a table."""
    rows = [row for row in benchmark_rows(files) if is_of(row, "peak of", "stage 1 training", "stage 2 training")]
    return table(["training", *HEAD], [line(row) for row in rows])


def sampling(files):
    """The speed of sampling and of the start: a table; of --help and wrong flags the slowest is shown."""
    starts = [row for row in benchmark_rows(files) if row["what"].startswith("python ")]
    slowest = max(starts, key=lambda row: float(row["ours"]))
    others = [
        row for row in benchmark_rows(files) if is_of(row, "reconstructions", "sampling", "the first", "index of")
    ]
    memory = [row for row in benchmark_rows(files) if row["what"].startswith(("index of", "training, cache"))]
    called = slowest | {"what": f"the slowest of {len(starts)} `--help` and bad flags, s"}
    rows = [*others, *(row for row in memory if row not in others), called]
    return table(["sampling and start", *HEAD], [line(row) for row in rows])


def growth(files):
    """What it costs when something doubles: a table."""
    rows = []
    for name in ("stage 1", "stage 2", "sampling"):
        doubled = {
            row["what"].partition("growth when ")[2]: row["ours"]
            for row in benchmark_rows(files)
            if row["what"].startswith(name) and "growth when" in row["what"]
        }
        cells = [next(doubled[key] for key in keys if key in doubled) for keys in DOUBLED.values()]
        rows.append([name, *map(significant, cells)])
    return table(["times as long when one doubles", *DOUBLED], rows)


def quality(files):
    """When the quality of the peer is reached: a table."""
    rows = benchmark_rows(files)

    def cells(start, name):
        row = next(row for row in rows if row["what"].startswith(start))
        return [name, significant(row["ours"]), significant(row["theirs"])]

    measured = [cells(f"stage 1, {key} on validation people", name) for key, name in QUALITY.items()]
    time = cells("stage 1 time to the peer's quality", "the whole command, minutes (target: at most a third)")
    against = next(row["against"] for row in rows if row["what"].startswith("stage 1, ssim_brain"))
    return table(["stage 1, validation people, when the peer's quality is reached", "ours", against], [time, *measured])


TEXTS = {"speed.training": training, "speed.sampling": sampling, "speed.growth": growth, "speed.quality": quality}
