"""Names, labels and tables made up: nothing crashes, and no one's slices are in two splits."""

import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from slices.index import find_slices
from slices.names import NO_SLICES, SPLIT_FOLDERS, ids_of
from slices.overview import reading
from slices.splits import split_by_subject
from slices.tables import SEPARATORS, read_search
from utils import UserError

QUICK, LONG = settings(max_examples=60, deadline=None), settings(max_examples=700, deadline=None)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252")
LETTERS = st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp"), exclude_characters="/")
WORDS = st.sampled_from(
    ["NA", "None", "null", "nan", "$x$", "a,b", 'q"t', "Démence", "De\u0301mence", "-x", "=1+1", "0", "12", "AD",
     "none", "sub-acute", "P01", "image", "Very mild", "x;y", "I13722", "unlabelled", "#N/A"]
)  # fmt: skip
LABELS = (WORDS | st.text(LETTERS, min_size=1, max_size=12)).filter(
    lambda text: (
        text.isprintable()
        and text.strip(". ") == text
        and text.casefold() not in SPLIT_FOLDERS
        and not NO_SLICES.fullmatch(text.casefold())
        and not ids_of(f"{text}/x")
    )
)
STYLES = {  # where a slice of a person's visit lies below its label
    "adni": "ADNI_{person:03}_S_{person:04}_MR_MPR_S1{person}_I{image}_{slice}.png",
    "clinica": "sub-ADNI{person:03}S{person:04}_ses-M{visit:02}_T1w_{slice}.png",
    "oasis1": "OAS1_{person:04}_MR{visit}_mpr-1_{slice}.jpg",
    "oasis3": "OAS3{person:04}_MR_d{visit:04}_{slice}.png",
    "bids": "sub-{person:02}/ses-{visit}/anat/sub-{person:02}_ses-{visit}_slice-{slice:03}_T1w.png",
    "bids folders": "sub-{person:02}/ses-{visit}/slice_{slice:03}.jpeg",
    "folders": "P{person:02}/img_{slice:03}{visit}.png",
    "visits": "P{person:02}/visit{visit}/{slice:03}.png",
    "table": "{image:06}_{slice}.png",
    "table of adni": "scan_I{image}_{slice}.png",
}


@st.composite
def worlds(draw):
    """People with visits and slices: (style, files as {path: person}, whether someone is torn apart, table or None)."""
    style, labels = draw(st.sampled_from(sorted(STYLES))), draw(st.lists(LABELS, min_size=1, max_size=2, unique=True))
    splits = draw(st.sampled_from((("",), ("train/", "test/"), ("AD_NC/train/", "AD_NC/validation/", "AD_NC/test/"))))
    torn, files, rows = draw(st.booleans()) and len(splits) > 1, {}, []
    visits, slices, first = draw(st.integers(1, 3)), draw(st.integers(2, 3)), draw(st.integers(1, 5))
    for person in range(first, first + draw(st.integers(2 * len(labels) * len(splits), 12))):
        split, label = splits[person % len(splits)], labels[person // len(splits) % len(labels)]
        for visit in range(1, visits + 1):
            image = 12000 + 10 * person + visit
            if torn:
                split = splits[visit % len(splits)]
            rows.append((image, f"person {person}"))
            for number in range(8, 8 + slices):
                name = STYLES[style].format(person=person, visit=visit, image=image, slice=number)
                files[f"{split}{label}/{name}"] = person
    return style, files, torn and visits > 1, draw(tables(rows)) if style.startswith("table") else None


@st.composite
def tables(draw, rows):
    """An ADNI search of these (image, subject), as bytes."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=draw(st.sampled_from(SEPARATORS)), lineterminator=draw(st.sampled_from("\n\r")))
    writer.writerow(["Image Data ID", "Subject", "Description"])
    front = draw(st.sampled_from(("I", "", "D")))
    writer.writerows([(f"{front}{image}", subject, draw(WORDS)) for image, subject in rows])
    return text.getvalue().encode(draw(st.sampled_from(ENCODINGS)), "replace")


def nobody_is_in_two_splits(world, seed):
    style, files, torn, table = world
    noise = ["@eaDir/x_1.png/thumb.png", *(path.replace(".", "_mask.") for path in list(files)[:3]), "masks/1_2.png"]
    with tempfile.TemporaryDirectory() as folder:
        for path in (*files, *noise):
            Path(folder, "data", path).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, "data", path).touch()
        if table:
            Path(folder, "table.csv").write_bytes(table)
        slices = find_slices(Path(folder, "data"), metadata=Path(folder, "table.csv") if table else None)
    assert sorted(slices["path"]) == sorted(files)
    assert reading(slices, metadata="table.csv" if table else None)
    person = slices["path"].map(files)
    assert slices.groupby(person)["subject"].nunique().max() == slices.groupby("subject")["path"].apply(
        lambda paths: paths.map(files).nunique()
    ).max() == 1, style  # fmt: skip
    try:
        split = split_by_subject(slices, seed)
    except UserError as error:
        assert torn or "none" in set(slices["label"]), error
        return
    assert not torn and split.groupby(person)["split"].nunique().max() == 1


def no_name_crashes(paths, pattern, seed):
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            place = Path(folder, path)
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
            except OSError:  # a name that is a folder already, or too long a one
                continue
        try:
            slices = split_by_subject(find_slices(folder, pattern), seed)
        except UserError as error:
            assert str(error) and "\n" not in str(error)
            return
    assert slices["path"].is_unique and slices.groupby("subject")["split"].nunique().max() == 1
    found = slices.assign(id=slices["path"].map(ids_of)).explode("id").dropna(subset="id")
    assert found.empty or found.groupby("id")["split"].nunique().max() == 1
    assert (slices["position"] >= 0).all() and reading(slices, pattern)


def a_table_is_read_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "t.csv").write_bytes(content)
        try:
            table = read_search(Path(folder, "t.csv"))
        except UserError as error:
            assert "t.csv" in str(error)
            return
    assert table.columns.is_unique and not table.isna().any(axis=None)


def cells_are_kept(rows, separator, encoding):
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\r\n").writerows([("Subject", "Group", "Age"), *rows])
    try:
        content = text.getvalue().encode(encoding)
    except UnicodeEncodeError:
        assume(False)
    if encoding == "cp1252":
        assume(content.isascii() or content.decode("utf-8", "replace") != content.decode("utf-8", "ignore"))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "t.csv").write_bytes(content)
        found = read_search(Path(folder, "t.csv"))
    assert found.values.tolist() == [list(row) for row in rows if any(cell.strip() for cell in row)]


PARTS = st.sampled_from(
    ["train", "test", "AD", "masks", "sub-01", "sub-x", "002_S_0295", "OAS1_0001", "I13722", "P01", "P02", "slice",
     "img", "ses-1", "None", "12", "x_I13722", "keras_png_slices_train"]
) | LABELS  # fmt: skip
NAMES = st.builds(
    lambda front, separator, number, end: f"{front}{separator}{number}{end}",
    PARTS,
    st.sampled_from(("_", "-", "", "_slice_", " ")),
    st.integers(0, 10**10) | st.just(""),
    st.sampled_from((".png", ".JPG", ".nii.png", "_mask.png", "_T1w.jpeg", ".png.png")),
)
PATHS = st.lists(
    st.builds(lambda parts, name: "/".join((*parts, name)), st.lists(PARTS, max_size=3), NAMES), max_size=12
)
PATTERNS = st.sampled_from(
    [None] * 3 + [r"(?P<subject>.+?)_?(?P<slice>\d+)", r"(?P<subject>[^/]+)/[^/]*?(?P<slice>\d+)"]
)
CELLS = st.text(LETTERS, max_size=8).map(str.strip) | WORDS | st.sampled_from(("007", "1e5", "a\nb", " x".strip()))
ROWS = st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=6)
CONTENTS = st.binary(max_size=200) | st.builds(
    lambda text, encoding: text.encode(encoding, "replace"),
    st.text(st.sampled_from('ab,;\t|"\n\r\0 é,="'), max_size=80),
    st.sampled_from(ENCODINGS),
)
SEEDS = st.integers(0, 2**31 - 1)


@QUICK
@given(worlds(), SEEDS)
def test_nobody_is_in_two_splits_in_any_projects_names(world, seed):
    nobody_is_in_two_splits(world, seed)


@QUICK
@given(PATHS, PATTERNS, SEEDS)
def test_no_name_crashes(paths, pattern, seed):
    no_name_crashes(paths, pattern, seed)


@QUICK
@given(CONTENTS)
def test_any_bytes_are_read_as_a_table_or_refused(content):
    a_table_is_read_or_refused(content)


@QUICK
@given(ROWS, st.sampled_from(SEPARATORS), st.sampled_from(ENCODINGS))
def test_the_cells_of_a_table_are_kept(rows, separator, encoding):
    cells_are_kept(rows, separator, encoding)


@pytest.mark.slow
@LONG
@given(worlds(), SEEDS)
def test_nobody_is_in_two_splits_in_700_data_sets(world, seed):
    nobody_is_in_two_splits(world, seed)


@pytest.mark.slow
@LONG
@given(PATHS, PATTERNS, SEEDS)
def test_700_sets_of_names_do_not_crash(paths, pattern, seed):
    no_name_crashes(paths, pattern, seed)


@pytest.mark.slow
@LONG
@given(CONTENTS | ROWS.map(lambda rows: "\n".join(";".join(row) for row in rows).encode()))
def test_700_tables_are_read_or_refused(content):
    a_table_is_read_or_refused(content)
