"""The numbers of docs/settings.md."""

from experiments.filled import study
from experiments.filled.words import number, table

COLUMNS = ("AUC", "of shape", "of texture", "of fine detail", "missing power", "noise", "patches", "recall", "coverage")
CALLED = {
    "other slices": "slices of other people",
    "no_sharpen": "as decoded",
    "refined": "sharpened and refined",
    "plain": "*sharpened, refined, equalised, temperature 1*",
}


def draws(files):
    """Ways to draw samples, and what tells these from slices: a table."""
    newest = {row["draw"]: row for row in files.rows("draws.csv") if row["run"] == "brains"}
    columns = (*COLUMNS, "diversity")
    rows = [
        [CALLED.get(draw, draw.replace("=", " ").replace("_", "-")), *(number(row[column], 2) for column in columns)]
        for draw, row in newest.items()
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
