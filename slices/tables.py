"""Tables that people bring: of any separator and encoding, read as text; and ids in them as names spell them."""

import csv
import io
import re
from pathlib import Path

import pandas as pd

from utils import UserError, warn

WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx, .ods, .numbers; .xls
SEPARATORS = (",", ";", "\t", "|")
IMAGE_COLUMNS = ("image data id", "image id", "imageid", "image uid", "imageuid", "loniuid")
SUBJECT_COLUMNS = ("subject", "subject id", "ptid", "participant id")
NO_VALUE = ("", "#n/a", "n/a", "na", "<na>", "nan", "none", "null")
SHORT_FORM = r"\d(?:[.,]\d+)?E\+\d+"  # 1.37E+04, as a spreadsheet shows long numbers


def read_search(path):
    """The CSV of an ADNI search, or another table, as a DataFrame of str; its columns' names in lower case.

    The separator is whichever of comma, semicolon, tab and | is commonest in the first line; the encoding is
    UTF-8, UTF-16, or else Windows' cp1252. Every value is kept as it is; what is missing is "".

    Raises:
        UserError: it cannot be read, is a workbook, or a row or a column does not fit.
    """
    text = _text_of(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(SEPARATORS, key=first.count) if not first.startswith("sep=") else first[4:5] or ","
    if first.startswith("sep="):  # a line for Excel alone
        text = text.replace(first, "", 1)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True))
    except (csv.Error, TypeError) as error:
        raise UserError(f"the table {path} cannot be read ({error}): save it as CSV anew") from None
    return _frame_of(path, [row for row in rows if any(value.strip() for value in row)])


def _text_of(path):
    """The characters of a table, whichever way they are stored."""
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"the table {path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if content.startswith(WORKBOOKS):
        raise UserError(f"{path} is a workbook of a spreadsheet program, not a table of text: save it as CSV (UTF-8)")
    try:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            return content.decode("utf-16")
        if content[1:2] == b"\0" or content[:1] == b"\0":
            return content.decode("utf-16-le" if content[1:2] == b"\0" else "utf-16-be")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        raise UserError(f"the table {path} is no text in UTF-8, UTF-16 or cp1252: save it as CSV (UTF-8)") from None
    warn(f"the table {path} is not UTF-8 and is read as cp1252, as Windows writes it")
    return text


def _frame_of(path, rows):
    """Rows, lists of str with the names of the columns first, as a DataFrame."""
    if not rows:
        raise UserError(f"the table {path} is empty")
    columns = [name.strip().casefold() for name in rows[0]]
    while columns and not columns[-1]:  # separators at the end of each line
        columns.pop()
    twice = {name for name in columns if columns.count(name) > 1 and name}
    if twice:
        raise UserError(f"the table {path} has two columns called {min(twice)}: remove one")
    for number, row in enumerate(rows[1:], 2):
        if any(value.strip() for value in row[len(columns) :]):
            raise UserError(
                f"row {number} of the table {path} has {len(row)} values for {len(columns)} columns: put quotes "
                "around values that hold the separator"
            )
    columns = [name or f"column {i + 1}" for i, name in enumerate(columns)]
    cells = [[*row[: len(columns)], *[""] * (len(columns) - len(row))] for row in rows[1:]]
    return pd.DataFrame(cells, columns=columns, dtype=str)


def column_of(table, names):
    """The first of the names that is a column of the table, spaces and underscores alike; None without one."""
    spelling = {re.sub(r"[\s_]+", " ", column): column for column in reversed(table.columns)}
    return next((spelling[name] for name in names if name in spelling), None)


def with_ids(table):
    """The table with its columns of image ids and of subjects called image data id and subject, if there."""
    names = {column_of(table, IMAGE_COLUMNS): "image data id", column_of(table, SUBJECT_COLUMNS): "subject"}
    names = {old: new for old, new in names.items() if old and new not in table}
    table = table.rename(columns=names)
    return table.assign(subject=table["subject"].str.strip()) if "subject" in table else table


def without_missing(table, keep=()):
    """The table with a missing value wherever a cell says that there is none, but in the columns ``keep``."""
    others = [column for column in table.columns if column not in keep]
    missing = table[others].apply(lambda column: column.str.strip().str.casefold().isin(NO_VALUE))
    return table.assign(**table[others].mask(missing)) if others else table


def match_ids(wanted, known, table):
    """Which id of a table each wanted id is: as it is spelt, else without the zeros that a spreadsheet ate.

    Args:
        wanted, known: lists of str.
        table: its name, for the sentences.

    Returns:
        dict of wanted -> known, without those that are not there.

    Raises:
        UserError: nothing is found, and the ids are numbers in a spreadsheet's short form.
    """
    exact = set(known)
    short = {}
    for name in exact:
        short.setdefault(_without_zeros(name), set()).add(name)
    found = {name: name for name in wanted if name in exact}
    eaten = [name for name in wanted if name not in exact and len(short.get(_without_zeros(name), ())) == 1]
    found.update({name: next(iter(short[_without_zeros(name)])) for name in eaten})
    if eaten:
        warn(f"{len(eaten)} ids, such as {eaten[0]}, are in {table} without their leading zeros: they are taken as one")
    if not found:
        for name in exact:
            if re.fullmatch(SHORT_FORM, name, re.IGNORECASE):
                raise UserError(f"{table} has ids cut short by a spreadsheet ({name}): store that column as text")
    return found


def finder(values, table):
    """A function of (id, default) that finds a value by its id as ``match_ids`` does, and says so at the first time.

    Args:
        values: dict of id -> value.
        table: its name, for the sentence.
    """
    short, told = {}, []
    for name in values:
        short.setdefault(_without_zeros(name), []).append(name)

    def find(name, default=None):
        alike = short.get(_without_zeros(name), ())
        if name in values or len(alike) != 1:
            return values.get(name, default)
        if not told:
            warn(f"ids such as {name} are in {table} without their leading zeros: they are taken as one")
        told.append(name)
        return values[alike[0]]

    return find


def _without_zeros(text):
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)
