"""A data set of sampled people: its layout, its parts, going on after a stop, and copies that are rejected."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import dataset
import sampling.cohort
from sampling.cohort import begin, draw_accepted, split_of, write_cohort
from sampling.run import Run
from utils import Interrupted, UserError

PEOPLE = 7


@pytest.fixture(scope="module")
def run(finished_run):
    return Run(finished_run)


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """A data set made in one go."""
    return write_cohort(run, tmp_path_factory.mktemp("people") / "set", PEOPLE, seed=4, block=4)


def files(folder):
    """{name: bytes} of everything in a folder but the parts, whose borders tell how it was made."""
    paths = (path for path in folder.rglob("*") if path.is_file() and ".parts" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_every_fifth_person_is_of_test_and_all_slices_are_those_of_the_run(whole, run):
    people, table = run.sample_people(PEOPLE, seed=4, block=4), pd.read_csv(whole / "people.csv")
    assert list(table["split"]) == [split_of(i) for i in range(PEOPLE)] == ["train"] * 4 + ["test"] + ["train"] * 2
    assert list(table["person"]) == list(people.table["person"]) and list(table["label"]) == list(people.table["label"])
    for row, stack in zip(table.itertuples(), people.images, strict=True):
        paths = sorted((whole / row.split / row.label).glob(f"{row.person}_*.png"))
        assert np.array_equal(np.stack([np.asarray(Image.open(path)) for path in paths]), stack)
    assert json.loads((whole / "cohort.json").read_text())["finished"]


def test_dataset_check_reads_it(whole, tmp_path, capsys):
    dataset.main(["check", "--data", str(whole), "--out", str(tmp_path / "sheet.png")])
    said = capsys.readouterr().out
    assert f"in all: {PEOPLE} people, {PEOPLE * 4} slices in 4 positions; 0 files cannot be used" in said
    assert "person sampled00004 (the name before the slice number), slice 0" in said


def test_it_says_what_it_is(whole, run):
    text = (whole / "README.md").read_text()
    for words in ("Nobody here was scanned", "each slice was drawn given those below it", "nobody was rejected"):
        assert words in text
    assert "do not agree" not in text
    table = pd.read_csv(whole / "people.csv").groupby(["split", "label"]).size()
    assert all(f"| {split} | {label} | {count} |" in text for (split, label), count in table.items())
    assert (whole / "MODEL_CARD.md").read_bytes() == (run.folder / "MODEL_CARD.md").read_bytes()
    assert (whole / "contact_sheet.png").is_file()


def test_it_says_where_slices_do_not_agree(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling.cohort, "is_told", lambda run: False)
    assert "do not agree with each other" in (write_cohort(run, tmp_path / "set", 1) / "README.md").read_text()


def test_parts_in_any_order_make_the_same_data_set(whole, run, tmp_path, capsys):
    out = tmp_path / "set"
    write_cohort(run, out, PEOPLE, seed=4, shard=(2, 2), block=4)
    assert "4 of 7 people are there" in capsys.readouterr().out and not (out / "README.md").exists()
    write_cohort(run, out, PEOPLE, seed=4, shard=(1, 2))
    assert files(out) == files(whole)


def test_it_goes_on_after_a_stop_with_what_is_missing(whole, run, tmp_path, monkeypatch):
    out, drawn = tmp_path / "set", []
    real = sampling.cohort.draw_people

    def stop_at_the_second(run, labels, numbers, *others, **draw):
        if drawn:
            raise KeyboardInterrupt
        drawn.append(numbers)
        return real(run, labels, numbers, *others, **draw)

    monkeypatch.setattr(sampling.cohort, "draw_people", stop_at_the_second)
    with pytest.raises(Interrupted, match="the same command goes on from there"):
        write_cohort(run, out, PEOPLE, seed=4, block=4)
    assert drawn == [range(4)] and not (out / "README.md").exists()
    monkeypatch.setattr(sampling.cohort, "draw_people", lambda *a, **b: drawn.append(a[2]) or real(*a, **b))
    with pytest.raises(UserError, match=r"begun with other flags or weights \(--seed 4\)"):
        write_cohort(run, out, PEOPLE, seed=3)
    with pytest.raises(UserError, match=r"begun with other flags or weights \(--no-sharpen False\)"):
        write_cohort(Run(run.folder, sharpen=False), out, PEOPLE, seed=4)
    with pytest.raises(UserError, match=r"begun with other flags or weights \(--block 4\)"):
        write_cohort(run, out, PEOPLE, seed=4, block=8)
    write_cohort(run, out, PEOPLE, seed=4)
    assert drawn == [range(4), range(4, 7)] and files(out) == files(whole)


def test_an_older_data_set_that_does_not_tell_goes_on_in_blocks_of_32(tmp_path):
    (tmp_path / "cohort.json").write_text(json.dumps({"seed": 2, "finished": False}))
    assert begin(tmp_path, {"seed": 2, "block": None}) == begin(tmp_path, {"seed": 2, "block": 32}) == 32
    with pytest.raises(UserError, match="--block 32"):
        begin(tmp_path, {"seed": 2, "block": 8})
    assert begin(tmp_path / "new", {"seed": 2, "block": None}) is None


def test_other_things_are_left_alone(whole, run, tmp_path):
    with pytest.raises(UserError, match="holds a finished data set and is left alone"):
        write_cohort(run, whole, PEOPLE, seed=4)
    (tmp_path / "mine.txt").write_text("keep me")
    for out in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(UserError, match="choose a new folder"):
            write_cohort(run, out, PEOPLE)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# ---- copies -----------------------------------------------------------------------------------


def test_whoever_has_a_copied_slice_is_drawn_anew(run):
    labels = np.ones(3, np.int32)
    people = run.sample_people(3, "AD")
    first, copied = people.images, run.decode(people.codes[1])[2]  # a slice of person 1, as the audit sees it

    def is_copy(images):
        return (images == copied).all(axis=(1, 2))

    people, rejected = draw_accepted(range(3), run, labels, 0, {}, is_copy)
    assert rejected == [0, 1, 0]
    assert np.array_equal(people.images[[0, 2]], first[[0, 2]]) and not is_copy(run.decode(people.codes[1])).any()
    assert np.array_equal(run.decode_person(people.codes[1]), people.images[1])
    assert not np.array_equal(people.images[1], first[1])
    assert float(people.rows[1]["log_likelihood_bits"]) == pytest.approx(people.bits[1].sum(), abs=1e-3)
    alone, _ = draw_accepted(range(1, 2), run, labels, 0, {}, is_copy)
    assert np.array_equal(alone.images[0], people.images[1])
    with pytest.raises(UserError, match="sampled00000 was a copy of a training slice 10 times"):
        draw_accepted(range(3), run, labels, 0, {}, lambda images: np.ones(len(images), bool))


def test_copies_are_those_of_the_audit_and_are_counted(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    with pytest.raises(UserError, match="--reject-copies needs the threshold of the audit: python evaluate.py --run"):
        write_cohort(Run(folder), tmp_path / "set", 2, reject_copies=True)
    assert not (tmp_path / "set").exists()
    out = audited_cohort(folder, tmp_path / "none", threshold=-1.0)  # distances reach from 0 to 2
    assert "0 people had a slice" in (out / "README.md").read_text()
    assert set(pd.read_csv(out / "people.csv")["rejected"]) == {0}
    with pytest.raises(UserError, match="copies too much for a data set without copies"):
        audited_cohort(folder, tmp_path / "all", threshold=3.0)
    assert not list((tmp_path / "all").rglob("*.png"))


def audited_cohort(folder, out, threshold):
    """A data set of two people of the run in a folder, as if its audit had found the threshold."""
    (folder / "metrics.json").write_text(json.dumps({"seed": 0, "memorisation": {"threshold": threshold}}))
    return write_cohort(Run(folder), out, 2, reject_copies=True)
