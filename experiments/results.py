"""The files that experiments leave: rows of a CSV, sections of a JSON. Importing this loads nothing heavy."""

import csv
import json
from pathlib import Path

from utils import save_json, whole_file

REPOSITORY = Path(__file__).parent.parent
REDUCED = REPOSITORY / "ReducedResults"


def read_rows(path):
    """The rows of a CSV as a list of dicts of str; none where it is not there yet."""
    if not Path(path).exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows, columns):
    """Write a list of dicts as a CSV, whole or not at all; what a row lacks is left empty."""
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def replace_sections(path, sections):
    """Put the entries of a dict into a JSON file in place of those of the same names, and print them."""
    old = json.loads(Path(path).read_text(encoding="utf-8")) if Path(path).exists() else {}
    save_json(path, old | sections)
    print(json.dumps(sections, indent=1))
