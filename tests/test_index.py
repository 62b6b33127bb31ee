"""The index from names alone, and the splits by person, on empty files made here."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from slices.index import COLUMNS, find_slices, read_slices, scan_of
from slices.splits import split_by_subject
from utils import UserError

SEED = 3


def touch(root, *names):
    """Empty files: finding reads names only."""
    for name in names:
        (Path(root) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(root) / name).touch()
    return root


def an_index(people, per_person=3, split="", label=None):
    """An index of made-up people: A and B by turns, unless ``label`` says otherwise."""
    rows = [
        (f"{person}_{i}.png", str(person), str(person), i, i, label or "AB"[person % 2], split)
        for person in range(people)
        for i in range(per_person)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def people_of(slices, split):
    return set(slices["subject"][slices["split"] == split])


# ---- finding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("above", ["", "AD_NC/", "course/AD_NC/"])
def test_adni_layout_in_any_letter_case(tmp_path, above):
    touch(tmp_path, f"{above}train/AD/12_70.png", f"{above}train/NC/13_70.JPEG", f"{above}TEST/ad/14_71.Jpg")
    slices = find_slices(tmp_path)
    assert list(slices.columns) == COLUMNS
    assert slices.drop(columns="position").values.tolist() == [
        [f"{above}TEST/ad/14_71.Jpg", "14", "14", 71, "AD", "test"],
        [f"{above}train/AD/12_70.png", "12", "12", 70, "AD", "train"],
        [f"{above}train/NC/13_70.JPEG", "13", "13", 70, "NC", "train"],
    ]
    assert slices["slice"].dtype == slices["position"].dtype == np.int64


@pytest.mark.parametrize(
    ("path", "number", "scan"),
    [
        ("train/AD/100_045.png", 45, "train/AD/100_.png"),
        ("train/AD/45_45.png", 45, "train/AD/45_.png"),
        ("a/I7/slice_3_of_20.png", 3, "a/I7/slice__of_20.png"),
        ("a/no_number.png", 3, "a/no_number.png"),
    ],
)
def test_an_index_without_scans_reads_them_from_the_paths(path, number, scan, tmp_path):
    assert scan_of(path, number) == scan
    slices = pd.DataFrame([(path, "45", number, 0, "AD", "train")], columns=[c for c in COLUMNS if c != "scan"])
    slices.to_csv(tmp_path / "slices.csv", index=False)
    read = read_slices(tmp_path)
    assert list(read.columns) == COLUMNS and read["scan"].tolist() == [scan]


def test_the_scans_of_a_person_are_told_apart_and_written_with_the_index(tmp_path):
    names = [f"ADNI_002_S_0295_MR_I{scan}_{number}.png" for scan in (45109, 118671) for number in (9, 10)]
    slices = find_slices(touch(tmp_path, *names))
    assert (
        slices["subject"].tolist() == ["002_S_0295"] * 4
        and slices.groupby("scan")["slice"].apply(set).tolist() == [{9, 10}] * 2
    )
    slices.assign(split="train").to_csv(tmp_path / "slices.csv", index=False)
    assert read_slices(tmp_path)["scan"].tolist() == slices["scan"].tolist()


def test_oasis_layout_leaves_out_segmentation_maps(tmp_path, capsys):
    above = "keras_png_slices_data/keras_png_slices"
    touch(
        tmp_path,
        f"{above}_train/case_001_slice_0.nii.png",
        f"{above}_train/case_001_slice_12.nii.png",
        f"{above}_validate/case_402_slice_0.nii.png",
        f"{above}_TEST/CASE_441_SLICE_3.NII.PNG",
        f"{above}_seg_train/seg_001_slice_0.nii.png",
    )
    slices = find_slices(tmp_path)
    assert slices[["subject", "slice", "label", "split"]].values.tolist() == [
        ["CASE_441", 3, "unlabelled", "test"],
        ["case_001", 0, "unlabelled", "train"],
        ["case_001", 12, "unlabelled", "train"],
        ["case_402", 0, "unlabelled", "validation"],
    ]
    assert "1 image left out, such as keras_png_slices_data" in capsys.readouterr().err


def test_flat_folder_and_folder_per_class(tmp_path):
    touch(tmp_path / "flat", "5_2.png", "5_10.png")
    touch(tmp_path / "classes", "sick/5_2.png", "well/6_2.png")
    flat, classes = find_slices(tmp_path / "flat"), find_slices(tmp_path / "classes")
    assert flat[["slice", "label", "split"]].values.tolist() == [[2, "unlabelled", ""], [10, "unlabelled", ""]]
    assert classes[["subject", "label", "split"]].values.tolist() == [["5", "sick", ""], ["6", "well", ""]]


def test_names_that_tell_nothing_are_a_person_each(tmp_path, capsys):
    touch(tmp_path, "a/1.png", "b/1.png")
    assert find_slices(tmp_path)["subject"].tolist() == ["a/1", "b/1"]
    assert "2 of 2 file names" in capsys.readouterr().err


def test_other_files_hidden_files_and_folders_named_like_images_are_no_slices(tmp_path):
    touch(tmp_path, "1_1.png", "._1_1.png", ".cache/2_1.png", "notes.txt", "3_1.png/readme.txt")
    assert find_slices(tmp_path)["path"].tolist() == ["1_1.png"]


def test_links_are_followed_but_never_twice(tmp_path):
    touch(tmp_path / "data", "train/AD/1_1.png")
    touch(tmp_path / "elsewhere", "2_1.png")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data" / "train")
    (tmp_path / "data" / "train" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "self").symlink_to(tmp_path / "data" / "self")
    (tmp_path / "data" / "train" / "NC").symlink_to(tmp_path / "elsewhere")
    assert find_slices(tmp_path / "data")["path"].tolist() == ["train/AD/1_1.png", "train/NC/2_1.png"]


def test_position_is_the_rank_and_not_the_number(tmp_path):
    touch(
        tmp_path,
        *(f"1_{number}.png" for number in (68, 9, 100, 70)),
        *(f"2_{number}.png" for number in range(4)),
        *(f"3_{number}.png" for number in range(8)),
        "4_500.png",
        "4_600.png",
    )
    slices = find_slices(tmp_path).set_index(["subject", "slice"])["position"]
    assert slices["1"].to_dict() == {9: 0, 68: 1, 70: 2, 100: 3}
    assert slices["3"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]  # P = 4, the commonest number of slices
    assert slices["4"].tolist() == [0, 2]


def test_metadata_groups_scans_by_person_and_ranks_within_each_scan(tmp_path, capsys):
    touch(
        tmp_path / "data",
        *(
            f"{scan}_{number}.png"
            for scan, first in ((11, 70), (12, 90), (13, 1))
            for number in range(first, first + 3)
        ),
    )
    csv = tmp_path / "adni.csv"
    csv.write_text('"Image Data ID","Subject","Group"\n"I11","002_S_1","AD"\n"I12","002_S_1","AD"\n')
    slices = find_slices(tmp_path / "data", metadata=csv)
    assert slices.groupby("subject")["position"].apply(list).to_dict() == {"002_S_1": [0, 1, 2] * 2, "13": [0, 1, 2]}
    assert "1 of 3 image ids are not in" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", "Image Data ID,Subject\nI99,x\n", "", None, "Image Data ID,Subject\nI1,x\nI1,y\n"]
)
def test_metadata_that_does_not_fit_is_refused(tmp_path, text):
    touch(tmp_path / "data", "1_1.png")
    if text is not None:
        (tmp_path / "adni.csv").write_text(text)
    with pytest.raises(UserError, match="adni.csv"):
        find_slices(tmp_path / "data", metadata=tmp_path / "adni.csv")


def test_subject_pattern_overrides_and_leaves_out_what_it_does_not_match(tmp_path, capsys):
    touch(tmp_path, "z9-of-anna.png", "z10-of-anna.png", "scout.png")
    slices = find_slices(tmp_path, subject_pattern=r"z(?P<slice>\d+)-of-(?P<subject>\w+)\.")
    assert slices[["subject", "slice", "position"]].values.tolist() == [["anna", 9, 0], ["anna", 10, 1]]
    assert "scout.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        r"(?P<subject>\d+)",
        r"(?P<subject>q)(?P<slice>q)",
        r"(?P<subject>\d+)_(?P<slice>\w+)",
        r"(?P<slice>\d+)_(?P<subject>x)",
    ],
)
def test_subject_pattern_that_does_not_fit_is_refused(tmp_path, pattern):
    touch(tmp_path, "12_3x.png", "9" * 30 + "_x.png")
    with pytest.raises(UserError, match="--subject-pattern"):
        find_slices(tmp_path, subject_pattern=pattern)


@pytest.mark.parametrize("name", ["missing", "empty", "file.png"])
def test_a_folder_without_images_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.png").touch()
    with pytest.raises(UserError, match=name):
        find_slices(tmp_path / name)


# ---- splitting --------------------------------------------------------------------------------


def test_carved_splits_share_nobody_and_are_stratified():
    slices = split_by_subject(an_index(40), SEED)
    assert slices.groupby("subject")["split"].nunique().eq(1).all()
    counts = slices.drop_duplicates("subject").groupby(["label", "split"]).size()
    assert counts.to_dict() == {
        (label, split): count for label in "AB" for split, count in (("test", 4), ("train", 14), ("validation", 2))
    }


def test_splits_depend_on_the_seed_and_not_on_the_order_of_the_rows():
    slices = an_index(40)
    split = split_by_subject(slices, SEED)
    shuffled = split_by_subject(slices.sample(frac=1, random_state=1), SEED)
    assert shuffled.sort_index().equals(split)
    assert people_of(split_by_subject(slices, SEED + 1), "test") != people_of(split, "test")
    assert (slices["split"] == "").all()  # the argument is left alone


def test_splits_of_the_folders_stay():
    slices = pd.concat([an_index(10, split="train"), an_index(14, split="test").iloc[30:]], ignore_index=True)
    split = split_by_subject(slices, SEED)
    assert people_of(split, "test") == {"10", "11", "12", "13"}
    assert len(people_of(split, "validation")) == 2  # one of five for each label

    slices.loc[slices["subject"] == "0", "split"] = "validation"  # as OASIS has it
    assert people_of(split_by_subject(slices, SEED), "validation") == {"0"}


def test_a_label_with_a_single_person_stays_in_train(capsys):
    slices = pd.concat([an_index(6, label="A"), an_index(7, label="B").iloc[18:]], ignore_index=True)
    assert "6" in people_of(split_by_subject(slices, SEED), "train")
    assert "the label B has a single person" in capsys.readouterr().err


def test_two_people_give_one_to_validation():
    split = split_by_subject(an_index(2, label="A"), SEED)
    assert len(people_of(split, "train")) == len(people_of(split, "validation")) == 1


def test_a_person_with_two_labels_is_in_one_split():
    slices = an_index(20, per_person=4)
    slices.loc[slices["slice"] == 0, "label"] = "C"
    assert split_by_subject(slices, SEED).groupby("subject")["split"].nunique().eq(1).all()


def test_folders_that_share_people_are_refused_unless_allowed(capsys):
    slices = pd.concat([an_index(6, split="train"), an_index(2, split="test")], ignore_index=True)
    with pytest.raises(UserError, match=r"share 2 people between splits \(2 in test, 6 in train\)"):
        split_by_subject(slices, SEED)
    assert people_of(split_by_subject(slices, SEED, allow_overlap=True), "test") == {"0", "1"}
    assert "share 2 people" in capsys.readouterr().err
