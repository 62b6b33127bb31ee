"""Who is who, from real projects' names and folders; what is no slice; and the tables that people bring."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import dataset
from slices.index import find_slices
from slices.names import find_subject
from slices.overview import reading
from slices.splits import split_by_subject
from slices.tables import match_ids, read_search
from utils import UserError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def people_of(slices):
    """{person: number of slices}."""
    return slices.groupby("subject").size().to_dict()


# ---- ids anywhere in the path -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "person", "number"),
    [
        ("ADNI_002_S_0295_MR_MPR__GradWarp__N3_Br_2007_S13408_I13722_96.png", "002_S_0295", 96),
        ("002_S_0295_I13722_slice_7.jpeg", "002_S_0295", 7),
        ("002_S_0295.png", "002_S_0295", 0),
        ("OAS1_0028_MR1_mpr-1_100.jpg", "OAS1_0028", 100),
        ("OAS2_0001_MR2_slice_30.png", "OAS2_0001", 30),
        ("OAS30001_MR_d0129_12.png", "OAS30001", 12),
        ("sub-OAS30001_ses-d0129_run-01_T1w_12.png", "OAS30001", 12),
        ("sub-ADNI002S0295_ses-M00_T1w_12.png", "002_S_0295", 12),
        ("sub-01_ses-a_slice-080_T1w.png", "sub-01", 80),
        ("sub-anna_ses-1_4.png", "sub-anna", 4),
        ("study2_sub-07_12.png", "sub-07", 12),
    ],
)
def test_subject_ids_of_adni_oasis_and_bids_are_found_anywhere_in_a_name(tmp_path, name, person, number):
    slices = find_slices(touch(tmp_path, f"AD/{name}"))
    assert slices[["subject", "slice", "label"]].values.tolist() == [[person, number, "AD"]]


@pytest.mark.parametrize(
    "name", ["12_70", "case_001_slice_0", "TCGA_CS_4941_3", "mysub-01_2", "1002_S_02956_1", "Tr-gl_1"]
)
def test_other_names_hold_no_subject_id(name):
    assert find_subject(name) == (None, 0)


def test_repeats_and_visits_are_one_person_with_scans_of_its_own(tmp_path):
    names = [f"OAS1_0001_MR{visit}_mpr-{mpr}_{k}.jpg" for visit in (1, 2) for mpr in (1, 2) for k in (100, 101, 102)]
    slices = find_slices(touch(tmp_path, *names))
    assert people_of(slices) == {"OAS1_0001": 12}
    assert slices["position"].value_counts().to_dict() == {0: 4, 1: 4, 2: 4}


def test_ids_that_differ_in_letter_case_only_are_one_person(tmp_path):
    slices = find_slices(touch(tmp_path, "train/case_1_2.png", "test/CASE_1_2.png"))
    with pytest.raises(UserError, match="share 1 person"):
        split_by_subject(slices, 0)


# ---- folders that are people --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folders", "file"),
    [
        (("{label}/002_S_{i:04}",), "slice_{k:03}.png"),
        (("{label}/P{i:02}",), "P{i:02}_slice_{k:03}.png"),
        (("{label}/P{i:02}",), "{k:03}.png"),
        (("train/{label}/sub-{i:02}",), "axial_{k:03}.png"),
        (("archive/slices/{label}/{i:03}",), "IM{k:04}.png"),
        (("{label}/patient{i:02}/visit1", "{label}/patient{i:02}/visit2"), "slice_{k:03}.png"),
        (("{label}/sub-{i:02}/ses-1/anat", "{label}/sub-{i:02}/ses-2/anat"), "img_{k}.png"),
    ],
)
def test_a_folder_of_one_stack_is_a_person_and_the_one_above_the_label(tmp_path, folders, file, capsys):
    for i in range(12):
        for folder in folders:
            folder = folder.format(label=("AD", "CN")[i % 2], i=i)
            touch(tmp_path, *(f"{folder}/{file.format(i=i, k=k)}" for k in (9, 10, 100)))
    slices = find_slices(tmp_path)
    assert list(people_of(slices).values()) == [3 * len(folders)] * 12
    assert slices.drop_duplicates("subject")["label"].value_counts().to_dict() == {"AD": 6, "CN": 6}
    assert slices.sort_values("path")["position"].value_counts().to_dict() == {i: 12 * len(folders) for i in range(3)}
    assert slices["slice"].isin([9, 10, 100]).all() and capsys.readouterr().err == ""


def test_folders_of_people_without_a_label(tmp_path):
    slices = find_slices(touch(tmp_path, *(f"case{i:02}/slice_{k}.png" for i in range(4) for k in range(3))))
    assert people_of(slices) == {f"case{i:02}": 3 for i in range(4)} and set(slices["label"]) == {"unlabelled"}


def test_folders_of_one_name_under_two_labels_are_one_person_and_it_is_said(tmp_path, capsys):
    slices = find_slices(
        touch(tmp_path, *(f"{label}/{i:02}/slice_{k}.png" for label in "AB" for i in range(11) for k in range(2)))
    )
    assert set(people_of(slices).values()) == {4} and "(11, such as 00)" in capsys.readouterr().err


@pytest.mark.parametrize("above", ["", "archive/data/", "0/"])
def test_a_folder_of_each_label_stays_one_whatever_lies_above(tmp_path, above):
    names = [f"{above}{label}/{label[:2]}_{n:04}.jpg" for label in ("glioma", "notumor", "pituitary") for n in range(9)]
    assert set(find_slices(touch(tmp_path, *names))["label"]) == {"glioma", "notumor", "pituitary"}


@pytest.mark.parametrize(
    ("names", "word"),
    [
        ([f"{label}/{word}_{k}.png" for label in ("yes", "no") for k in range(3)], word)
        for word in ("slice", "axial", "img", "IM", "image", "T1w", "IM-0001")
    ]
    + [([f"Training/{label}/Tr-{label[:2]}_{k}.jpg" for label in ("glioma", "notumor") for k in range(3)], "Tr-gl")],
)
def test_a_word_that_is_no_persons_is_warned_of(tmp_path, names, word, capsys):
    find_slices(touch(tmp_path, *names))
    said = capsys.readouterr().err
    assert f"{len(names)} names, such as" in said and f"such as {word}," in said and "--subject-pattern" in said


def test_a_pattern_sees_the_path_and_one_for_names_works_as_before(tmp_path):
    touch(tmp_path, *(f"{label}/{i}/img_{k}.png" for label in ("yes", "no") for i in "ab" for k in range(2)))
    slices = find_slices(tmp_path, r"(?P<subject>[^/]+/[^/]+)/img_(?P<slice>\d+)")
    assert people_of(slices) == {"yes/a": 2, "yes/b": 2, "no/a": 2, "no/b": 2}
    named = find_slices(tmp_path, r"^(?P<subject>img)_(?P<slice>\d+)\.png$")
    assert people_of(named) == {"img": 8}
    assert people_of(find_slices(tmp_path, r"^(?P<subject>[^/]+)_(?P<slice>\d+)\.png$")) == {"img": 8}
    touch(tmp_path, "1_2/scout.png")  # a pattern that fits names is not looked for elsewhere
    assert people_of(find_slices(tmp_path, r"(?P<subject>img|\d+)_(?P<slice>\d+)")) == {"img": 8}
    assert people_of(find_slices(tmp_path, r"^(?P<subject>yes|no)\W.*_(?P<slice>\d+)")) == {"yes": 4, "no": 4}


# ---- what is no slice ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["masks/12_80.png", "AD/seg/12_80.png", "Segmentations/12_80.png", "seg_maps/12_80.png", "label/12_80.png",
     "LABELS/12_80.png", "AD/12_80_mask.png", "AD/12_80_Seg.png", "AD/sub-01_dseg_080.png", "AD/12_mask_80.png",
     "AD/12_80_labels.png", "AD/mask_12.png", "AD/sub-01_bet_mask_slice_3.png", "@eaDir/12_80.png/SYNO_M.png",
     "__MACOSX/AD/12_80.png"],
)  # fmt: skip
def test_masks_label_maps_and_clutter_are_left_out_aloud(tmp_path, name, capsys):
    touch(tmp_path, name)
    with pytest.raises(UserError, match="all images under"):
        find_slices(tmp_path)
    touch(tmp_path, "AD/11_80.png", "AD/12_80.png")
    assert find_slices(tmp_path)["path"].tolist() == ["AD/11_80.png", "AD/12_80.png"]
    assert f"1 image left out, such as {name}: " in capsys.readouterr().err


@pytest.mark.parametrize("copy", ["AD/11_80 (1).png", "AD/11_80(2).png", "AD/11_80 - Copy.png", "AD/11_80 copy.png"])
def test_a_copy_beside_its_original_is_left_out_aloud_and_one_alone_is_a_slice(tmp_path, copy, capsys):
    touch(tmp_path, copy, "NC/12_80.png")
    assert len(find_slices(tmp_path)) == 2 and "left out" not in capsys.readouterr().err
    touch(tmp_path, "AD/11_80.png")
    assert find_slices(tmp_path)["path"].tolist() == ["AD/11_80.png", "NC/12_80.png"]
    assert f"1 image left out, such as {copy}: copies, by their names" in capsys.readouterr().err


def test_names_that_only_resemble_masks_are_slices(tmp_path, capsys):
    names = ["AD/masked_1.png", "AD/segal_2.png", "label-test/3_1.png", "masks-off/4_1.png", "AD/unlabelled_5.png"]
    assert len(find_slices(touch(tmp_path, *names))) == len(names)


# ---- ids in two splits --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("train/AD/002_S_0295_I10000_1.png", "test/AD/002_S_0295_I10001_1.png"),
        ("train/AD/x_I13722_1.png", "test/AD/y_I13722_1.png"),
        ("train/OAS1_0001_MR1_1.png", "test/OAS1_0001_MR2_1.png"),
        ("train/AD/I13722/slice_1.png", "test/AD/I13722/slice_2.png"),
    ],
)
@pytest.mark.parametrize("pattern", [None, r"^(?P<subject>.*)_(?P<slice>\d+)\."])
def test_an_id_in_two_splits_is_refused_whatever_the_grouping(tmp_path, names, pattern, capsys):
    touch(tmp_path, *names, "train/AD/zz_5.png")
    slices = find_slices(tmp_path, pattern)
    with pytest.raises(UserError, match="--allow-overlap goes on all the same"):
        split_by_subject(slices, 0)
    split_by_subject(slices, 0, allow_overlap=True)
    assert "held-out measures will be too good" in capsys.readouterr().err


def test_ids_that_a_pattern_or_a_table_tears_apart_are_refused_after_carving(tmp_path):
    names = [f"AD/002_S_0295_I{10000 + i}_{k}.png" for i in range(30) for k in range(2)]
    slices = find_slices(touch(tmp_path / "data", *names), r"(?P<subject>I\d+)_(?P<slice>\d+)")
    with pytest.raises(UserError, match="1 id found in several splits.*002_S_0295"):
        split_by_subject(slices, 0)
    rows = "".join(f"I{10000 + i},person {i}\n" for i in range(30))
    (tmp_path / "t.csv").write_text(f"Image Data ID,Subject\n{rows}")
    with pytest.raises(UserError, match="1 id found in several splits.*002_S_0295"):
        split_by_subject(find_slices(tmp_path / "data", metadata=tmp_path / "t.csv"), 0)


def test_a_label_called_none_is_refused_and_others_like_it_are_kept(tmp_path):
    touch(tmp_path / "a", *(f"none/{i}_1.png" for i in range(4)))
    with pytest.raises(UserError, match="a label is called none"):
        split_by_subject(find_slices(tmp_path / "a"), 0)
    labels = ["None", "NA", "nan", "null", "$x$", "a,b", 'q"t', "Démence légère", "=1+1", "-x", "0"]
    touch(tmp_path / "b", *(f"{label}/{n}{i}_1.png" for n, label in enumerate(labels) for i in range(2)))
    assert sorted(set(split_by_subject(find_slices(tmp_path / "b"), 0)["label"])) == sorted(labels)


def test_a_label_whose_accents_are_stored_in_two_ways_is_one(tmp_path):
    touch(tmp_path, "train/De\u0301mence/1_1.png", "test/D\u00e9mence/2_1.png")
    assert find_slices(tmp_path)["label"].nunique() == 1


# ---- tables -------------------------------------------------------------------------------------

TABLE = "Image Data ID;Subject;Group\nI00123;002_S_0001;Démence\nI45678;003_S_0002;CN\n"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_tables_of_any_separator_and_encoding_are_read(tmp_path, separator, encoding, ending):
    path = tmp_path / "t.csv"
    path.write_bytes(TABLE.replace(";", separator).replace("\n", ending).encode(encoding))
    table = read_search(path)
    assert list(table.columns) == ["image data id", "subject", "group"]
    assert table.values.tolist() == [["I00123", "002_S_0001", "Démence"], ["I45678", "003_S_0002", "CN"]]


def test_values_of_a_table_are_kept_as_they_are(tmp_path):
    (tmp_path / "t.csv").write_text('sep=,\nsubject,group,\n"NA","a,b",\nNone,null,\n\n007,"q""t"\n')
    assert read_search(tmp_path / "t.csv").values.tolist() == [["NA", "a,b"], ["None", "null"], ["007", 'q"t']]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK\x03\x04rest", "is a workbook"),
        (b"\xd0\xcf\x11\xe0rest", "is a workbook"),
        (b"", "is empty"),
        (b"a,A\n1,2\n", "two columns called a"),
        (b"a,b\n1,2,3\n", "row 2 .* has 3 values for 2 columns"),
        (b'a,b\n"1,2\n', "cannot be read"),
        (b"a,b\n\x81\x8d,2\n", "no text"),
    ],
)
def test_what_is_no_table_is_told_in_a_sentence(tmp_path, content, sentence):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_search(tmp_path / "t.csv")


def test_zeros_that_a_spreadsheet_ate_are_found_again(tmp_path, capsys):
    assert match_ids(["007", "12", "0012"], ["7", "12"], "t") == {"007": "7", "12": "12", "0012": "12"}
    assert "2 ids, such as 007" in capsys.readouterr().err
    assert match_ids(["007"], ["07", "0007"], "t") == {}  # which of the two cannot be told
    with pytest.raises(UserError, match="1.37E\\+04"):
        match_ids(["13722"], ["1.37E+04"], "t")
    touch(tmp_path / "data", "AD/0012_1.png", "AD/0013_1.png", "AD/14_1.png")
    (tmp_path / "t.csv").write_text("Image Data ID;Subject\n12;P1\n13;P1\n14.0;P2\n")
    assert people_of(find_slices(tmp_path / "data", metadata=tmp_path / "t.csv")) == {"P1": 2, "P2": 1}


def test_a_table_is_joined_by_the_last_image_id_of_a_name_or_else_by_subject(tmp_path, capsys):
    touch(
        tmp_path / "data",
        "AD/ADNI_002_S_0001_MR_S99999_I13722_96.png",
        "AD/scan_I20000_96.png",
        "AD/003_S_0002_I77777_96.png",
        "AD/5_96.png",
    )
    (tmp_path / "t.csv").write_text("Image ID,PTID\nI13722,002_S_0001\nI20000,002_S_0001\n88888,003_S_0002\n")
    slices = find_slices(tmp_path / "data", metadata=tmp_path / "t.csv")
    assert people_of(slices) == {"002_S_0001": 2, "003_S_0002": 1, "5": 1}
    assert "1 of 4 image ids are not in" in capsys.readouterr().err


# ---- in words -----------------------------------------------------------------------------------


def test_check_says_how_it_read_the_names(tmp_path, capsys):
    from conftest import make_slices

    data = make_slices(tmp_path / "data")
    dataset.main(["check", "--data", str(data), "--out", str(tmp_path / "sheet.png")])
    said = capsys.readouterr().out
    assert "test/AD/106_70.png: person 106 (the name before the slice number), slice 70, label AD" in said
    assert said.count(": person ") == 3 and "people: 8 have 4 slices" in said


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("AD/ADNI_002_S_0295_MR_5.png", "person 002_S_0295 (the subject id in its name), slice 5, label AD"),
        ("sub-01/slice_5.png", "person sub-01 (the subject id in its folder), slice 5, no label"),
        ("AD/picture.png", "person AD/picture (the image alone, for its name tells none), slice 0, label AD"),
    ],
)
def test_every_way_to_find_a_person_has_its_words(tmp_path, path, words):
    assert words in reading(find_slices(touch(tmp_path, path)))


def test_people_are_counted_by_their_slices(tmp_path):
    index = pd.DataFrame({"subject": list("aaabbbcde"), "path": list("123456789"), "slice": 0, "label": "x"})
    assert reading(index).endswith("people: 3 have 1, 2 have 3 slices")


# ---- labels, everywhere -------------------------------------------------------------------------

LABELS = ["None", "NA", "null", "$x$", "a,b", 'q"t', "Démence", "a|b"]


def test_labels_are_read_back_as_they_are(tmp_path):
    from metrics.folders import load_folder
    from slices.index import read_slices
    from utils import write_csv

    slices = pd.DataFrame(
        {"path": [f"{i}.png" for i in range(len(LABELS))], "subject": LABELS, "slice": 0, "position": 0}
    ).assign(label=LABELS, split="train")
    slices.to_csv(tmp_path / "slices.csv", index=False)
    back = read_slices(tmp_path)
    assert back["label"].tolist() == back["subject"].tolist() == LABELS
    for i in range(len(LABELS)):
        Image.fromarray(np.full((40, 48), 100, np.uint8)).save(tmp_path / f"{i}.png")
    write_csv(tmp_path / "samples.csv", [{"file": f"{i}.png", "label": x, "position": 0} for i, x in enumerate(LABELS)])
    assert load_folder(tmp_path, generated=True)["slices"]["label"].tolist() == LABELS


def test_runs_are_compared_by_people_whose_ids_look_like_nothing(tmp_path):
    from metrics.comparison import pair_people

    folders = [tmp_path / "a", tmp_path / "b"]
    for shift, folder in enumerate(folders):
        folder.mkdir()
        rows = "".join(f"{subject},{i + shift},1,1,\n" for i, subject in enumerate(("NA", "007", "null")))
        (folder / "people.csv").write_text(f"subject,ssim_brain,psnr_brain,mae_brain,bits_per_code\n{rows}")
    paired = pair_people(folders).reset_index().set_index("metric")
    assert paired.loc["ssim_brain", ["people", "difference"]].tolist() == [3, 1.0]
    assert paired.loc["bits_per_code", "people"] == 0  # an empty cell is still a missing number


def test_a_label_in_a_figure_is_no_formula(tmp_path):
    import matplotlib

    from report.figures import plot
    from slices.sheets import image_sheet

    image_sheet(tmp_path / "s.png", np.zeros((1, 8, 8, 1)), 1, ["$\\frac{$"], ["$x_$"], title="$\\nonsense$ $")
    plot(tmp_path / "p.png", lambda axes: axes.set_title("$\\nonsense$"))
    assert matplotlib.rcParams["text.parse_math"]  # a notebook's own figures stay as they are


def test_the_label_of_a_flag_may_store_its_accents_apart():
    from sampling.draws import wanted_conditions

    assert wanted_conditions(["AD", "D\u00e9mence", "None"], 3, "De\u0301mence") == (2, None)
    assert wanted_conditions(["AD", "None"], 3, "none") == (0, None)
    assert wanted_conditions(["AD", "None"], 3, "None") == (2, None)
    with pytest.raises(UserError, match="unknown --label NA"):
        wanted_conditions(["AD"], 3, "NA")


def test_labels_of_scans_are_found_though_a_spreadsheet_ate_zeros(tmp_path, capsys):
    from slices.scans import _labels

    (tmp_path / "t.csv").write_text("participant_id;group\n1;AD\n2;NC\n012;MCI\n12;AD\n")
    label_of = _labels(tmp_path, tmp_path / "t.csv", None)
    assert [label_of(f"sub-{i}", "") for i in ("01", "002", "012", "12", "0012", "3")] == [
        "AD", "NC", "MCI", "AD", "unlabelled", "unlabelled"
    ]  # fmt: skip
    assert capsys.readouterr().err.count("leading zeros") == 1


def test_folders_that_share_an_image_id_are_refused_and_samples_need_no_names(tmp_path, capsys):
    from metrics.folders import load_folders

    def save(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
            Image.fromarray(np.full((40, 48), 100, np.uint8)).save(tmp_path / name)

    save("real/x_I13722_1.png", "real/y_I55555_1.png", "train/a_I13722_1.png", "train/b_I66666_1.png", "made/img_1.png")
    with pytest.raises(UserError, match="share 1 person, such as I13722"):
        load_folders(tmp_path / "real", tmp_path / "made", tmp_path / "train")
    assert "img" not in capsys.readouterr().err


@pytest.mark.parametrize(("people", "are"), [(["12", "13"], True), (["I12"], True), (["sub-01", "P02"], False)])
def test_people_are_called_image_ids_where_they_are(people, are):
    from slices.names import are_image_ids

    assert are_image_ids(pd.Series(people)) is are
