"""What is known of the participants: who is in which split, and the main numbers by sex and age."""

import pandas as pd

from slices.names import bare_ids
from slices.tables import read_search, with_ids, without_missing
from training.folder import find_beside
from utils import UserError, finite

MAIN = ("ssim_brain", "psnr_brain", "bits_per_code")


def read_metadata(path, run):
    """The rows of an ADNI search CSV that are about the run's people, with their split; None without a CSV.

    A run whose people are image ids is joined by these.

    Args:
        path: of the CSV, or None for the one that the run was trained with, which may be gone.
        run: sampling.run.Run.

    Raises:
        UserError: it cannot be read, or lists none of the run's people.
    """
    if path is None and run.config["metadata"]:
        given = find_beside(run.folder, run.config["metadata"])
        path = given if given.is_file() else None
    if path is None:
        return None
    table = without_missing(with_ids(read_search(path)), keep=("subject", "image data id"))
    if "subject" not in table:
        raise UserError(f"{path} lacks the column Subject of the ADNI search")
    split_of = run.slices.drop_duplicates("subject").set_index("subject")["split"]
    table["site"] = table["subject"].str.extract(r"^(\d+)_S_", expand=False)  # ADNI ids begin with the site
    if not table["subject"].isin(split_of.index).any() and "image data id" in table:
        person_of = dict(zip(bare_ids(split_of.index), split_of.index, strict=True))
        table["subject"] = bare_ids(table["image data id"]).map(person_of)
    table = table[table["subject"].isin(split_of.index)]
    if table.empty:
        raise UserError(f"{path} lists none of the run's people, such as {run.slices['subject'].iloc[0]}")
    return table.assign(split=table["subject"].map(split_of))


def measure_cohort(table, people):
    """The section cohort of metrics.json.

    Args:
        table: what ``read_metadata`` read.
        people: DataFrame of the measures of each person, by subject.
    """
    age = pd.to_numeric(table["age"], errors="coerce") if "age" in table else float("nan")
    table = table.assign(age=age)
    persons = table.drop_duplicates("subject").set_index("subject")
    known = people.join(persons[["age", *(["sex"] if "sex" in persons else [])]], how="inner")
    result = {
        "splits": {split: describe_split(rows) for split, rows in table.groupby("split")},
        "by_sex": by_group(known, known["sex"]) if "sex" in known else {},
        "by_age": {},
    }
    if known["age"].notna().sum() >= 6:
        result["by_age"] = by_group(known, pd.qcut(known["age"], 3, duplicates="drop"))
    return result


def describe_split(rows):
    """Who the people of some rows of the search are: their number, visits, age, sex, sites and field strength."""
    visit = next((name for name in ("visit", "acq date", "image data id") if name in rows), "subject")
    field = next((name for name in rows.columns if "field" in name or "imaging protocol" in name), None)
    persons = rows.drop_duplicates("subject")
    return {
        "people": len(persons),
        "visits": len(rows[["subject", visit]].drop_duplicates()),
        "age_mean": finite(persons["age"].mean()),
        "age_sd": finite(persons["age"].std()),
        "sex": persons["sex"].value_counts().to_dict() if "sex" in persons else {},
        "sites": int(persons["site"].nunique()),
        "field_strength": rows[field].value_counts().to_dict() if field else {},
    }


def by_group(people, groups):
    """The number of people and the means of MAIN in each group."""
    return {
        str(group): {"people": len(rows), **{name: finite(rows[name].mean()) for name in MAIN}}
        for group, rows in people.groupby(groups, observed=True)
    }
