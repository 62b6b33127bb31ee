"""The numbers of docs/settings.md."""

from experiments.filled import study
from experiments.filled.words import number, table

COLUMNS = ("AUC", "of shape", "of texture", "of fine detail", "missing power", "noise", "patches", "recall", "coverage")
CALLED = {
    ("brains", "other slices"): "slices of other people",
    ("brains", "no_sharpen"): "as decoded",
    ("brains, no refiner", "plain"): "sharpened",
    ("brains", "plain"): "*sharpened and refined, temperature 1*",
}


def draws(files):
    """Ways to draw samples, and what tells these from slices: a table."""
    newest = {(row["run"], row["draw"]): row for row in files.rows("draws.csv")}
    columns = (*COLUMNS, "diversity")
    rows = [
        [CALLED.get(key, key[1].replace("=", " ").replace("_", "-")), *(number(row[column], 2) for column in columns)]
        for key, row in newest.items()
    ]
    return table(["", *columns], rows)


TEXTS = {
    "study.stage1": study.stage_1,
    "study.stage2": study.stage_2,
    "study.whole": study.whole,
    "study.nulls": study.nulls,
    "study.sampling": study.sampling,
    "study.people": study.people,
    "draws.table": draws,
}
