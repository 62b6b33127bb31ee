"""README.md of a data set of sampled people."""

from utils import git_commit, whole_file


def write_cohort_page(out, run, settings, rows, told):
    """Write README.md into the folder of a data set.

    Args:
        out: Path.
        run: sampling.run.Run that drew it.
        settings: dict, what cohort.json says.
        rows: list of dicts, what people.csv says.
        told: whether the prior is told other slices of a person.
    """
    with whole_file(out / "README.md") as temporary:
        temporary.write_text("\n".join(readme_lines(run, settings, rows, told)), encoding="utf-8")


def readme_lines(run, settings, rows, told):
    """What README.md of a data set says: a list of lines; arguments as above."""
    counts = {key: sum((row["split"], row["label"]) == key for row in rows) for key in splits_and_labels(rows)}
    rejected = sum(int(row["rejected"]) for row in rows)
    copies = (
        f"- {rejected} people had a slice as near to a training slice as a planted copy, and were drawn anew"
        if settings["reject_copies"]
        else "- nobody was rejected for being a copy (`--reject-copies`)"
    )
    agreement = (
        "- each slice was drawn given those below it"
        if told
        else "- **each slice was drawn by itself: the slices of one person do not agree with each other**"
    )
    return [
        "# Sampled people",
        "",
        f"{len(rows)} people of {run.num_positions} axial brain slices each, drawn by the model `{run.name}`. **Nobody "
        "here was scanned.**",
        "",
        "| split | label | people |",
        "|---|---|---|",
        *(f"| {split} | {label} | {count} |" for (split, label), count in counts.items()),
        "",
        "- `{train,test}/<label>/<id>_<slice>.png`, the lowest slice first; `people.csv` has a row for each person",
        "- labels are as common as among the training people, and every fifth person is of test",
        agreement,
        copies,
        f"- seed {settings['seed']}, temperature {settings['temperature']:g}, commit {git_commit() or 'unknown'}; "
        "settings are in `cohort.json`",
        "- simulated people trained the model: nothing about disease follows from them"
        if run.config["simulated"]
        else "- slices of real people trained the model: this data set falls under the terms of their data",
        "- no substitute for data in a clinical question, and not anonymous for being sampled: `MODEL_CARD.md` has the "
        "limits",
        "",
    ]


def splits_and_labels(rows):
    """The pairs of split and label that there are, train first, each once."""
    return sorted({(row["split"], row["label"]) for row in rows}, key=lambda pair: (pair[0] != "train", pair[1]))
