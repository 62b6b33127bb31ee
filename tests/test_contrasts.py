"""Which volumes beside a T1 are scans: other contrasts, masks and copies are not, and are counted."""

import nibabel
import numpy as np
import pandas as pd
import pytest
from test_volumes import FLAGS, phantom, save

import dataset
from slices import cutting
from slices.contrasts import contrast_of, is_label_map
from slices.index import find_slices
from slices.scans import find_scans
from utils import UserError


@pytest.fixture(autouse=True)
def small_brains(monkeypatch):
    monkeypatch.setattr(cutting, "SMALLEST_BRAIN", 20)


def touch(root, *names):
    """Empty files: names are enough here."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def sources(root):
    return sorted(scan.source for scan in find_scans(root))


# ---- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("BraTS20_Training_001_t1", "T1"),
        ("BraTS20_Training_001_T1CE", "t1ce"),
        ("BraTS-GLI-00000-000-t1n", "T1"),
        ("BraTS-GLI-00000-000-t2f", "t2f"),
        ("x_FLAIR", "flair"),
        ("x_T1w_post", "t1 enhanced"),
        ("IXI002-Guys-0828-T2", "t2"),
        ("ADNI_002_S_0295_MR_MPRAGE_br_raw_20060418193713091_1_S13408_I13722", "T1"),
        ("ADNI_002_S_0295_MR_Axial_PD_T2_FSE__br_raw_2006_S13408_I13723", "t2"),
        ("ADNI_002_S_0295_MR_MT1__GradWarp__N3m_Br_2011_S1_I22", ""),
        ("ADNI_002_S_0295_MR_Resting_State_fMRI_br_raw_I5", "fmri"),
        ("t1_mprage_sag_p2_iso_1.0", "T1"),
        ("T1_to_T2", "T1"),
        ("T2_in_T1_space", "t2"),
        ("DTI_001_T1", "T1"),
        ("ep2d_diff_DWI_b1000", "dwi"),
        ("AAHScout_32ch", "aahscout"),
        ("T2D_patient_7", ""),  # a kind of diabetes
        ("patient_PD_007", ""),  # Parkinson's disease, or proton density
        ("17", ""),
        ("", ""),
    ],
)
def test_a_name_tells_its_contrast(name, contrast):
    assert contrast_of(name) == contrast


MASKS = """x_mask x_bet_mask x_MASK x_seg x_dseg x_labels x_label mask labels/x masks/x label/x seg/x Segmentations/x
seg_01/x labelsTr/x x_brain_segmentation x_seg_001 x_mask_2mm aseg aparc+aseg x_lesion x-seg x.mask a/b/masks/c/x"""
NO_MASKS = "x maskell_01 segovia/x labelled_01/x brainmask atlas_001_t1 seg_01_t1 AD/x"


@pytest.mark.parametrize("path", MASKS.split())
def test_masks_and_label_maps_are_told_by_name_or_folder(path):
    for suffix in (".nii", ".nii.gz", ".hdr", ".NII.GZ"):
        assert is_label_map(path + suffix)


@pytest.mark.parametrize("path", NO_MASKS.split())
def test_other_names_are_no_masks(path):
    assert not is_label_map(f"{path}.nii.gz")


# ---- folders --------------------------------------------------------------------------------


def test_what_lies_beside_a_t1_is_left_out_counted_and_said(tmp_path, capsys):
    for person in ("p1", "p2"):
        touch(tmp_path, *(f"{person}/{person}_{kind}.nii.gz" for kind in ("T1", "T2", "Flair", "t1ce", "pd", "seg")))
    touch(
        tmp_path, "masks/p1.nii.gz", "labels/p2.nii", "@eaDir/p1/p1_T1.nii.gz", "__MACOSX/p2/p2_T1.nii.gz", "p1/T1.mgz"
    )
    assert sources(tmp_path) == ["p1/p1_T1.nii.gz", "p2/p2_T1.nii.gz"]
    said = capsys.readouterr().err
    for told in (
        "1 of formats that are not read here (convert them to NIfTI), such as p1/T1.mgz",
        "2 in folders that the system made, such as @eaDir/p1/p1_T1.nii.gz",
        "4 masks or maps of labels, such as labels/p2.nii",
        "8 of other contrasts than T1, such as p1/p1_Flair.nii.gz",
    ):
        assert told in said
    assert said.count("left out are") == 1


def test_pd_may_be_a_disease_and_is_a_contrast_only_beside_its_t1(tmp_path):
    touch(tmp_path, "p1_PD.nii.gz", "p2_PD.nii.gz", "p3_HC.nii.gz")
    assert len(sources(tmp_path)) == 3
    touch(tmp_path, "p1_T1.nii.gz", "p2.nii.gz")
    assert sources(tmp_path) == ["p1_T1.nii.gz", "p2.nii.gz", "p3_HC.nii.gz"]


def test_folders_that_are_called_after_a_contrast_tell_it(tmp_path):
    touch(tmp_path, "p1/T1/scan.nii", "p1/T2/scan.nii", "p2/t1/scan.nii", "p2/FLAIR/scan.nii")
    assert sources(tmp_path) == ["p1/T1/scan.nii", "p2/t1/scan.nii"]


def test_a_folder_of_one_other_contrast_is_used_aloud_and_of_several_refused(tmp_path, capsys):
    touch(tmp_path / "one", "p1_flair.nii.gz", "p2_FLAIR.nii.gz", "p1_mask.nii.gz")
    assert len(find_scans(tmp_path / "one")) == 2
    assert "all 2 scans are named flair and none T1: they are cut as they are" in capsys.readouterr().err
    touch(tmp_path / "two", "p1_flair.nii.gz", "p2_t2.nii.gz")
    with pytest.raises(UserError, match="no DICOM series of a T1-weighted scan .* 2 of other contrasts than T1"):
        find_scans(tmp_path / "two")
    touch(tmp_path / "copies", "derivatives/sub-1/sub-1_T1w.nii")
    with pytest.raises(UserError, match="derivatives is passed over: give it as --volumes"):
        find_scans(tmp_path / "copies")


def test_bids_names_count_in_any_letter_case_and_contrast_agents_are_left_out(tmp_path, capsys):
    touch(tmp_path, "sub-1_T1W.nii.gz", "sub-2_t1w.nii", "sub-3_ce-gd_T1w.nii", "sub-4_bold.nii", "sub-5_T1.nii")
    assert sources(tmp_path) == ["sub-1_T1W.nii.gz", "sub-2_t1w.nii", "sub-5_T1.nii"]
    assert "2 NIfTI files that BIDS names other than T1w, such as sub-3_ce-gd_T1w.nii" in capsys.readouterr().err


def test_one_scan_in_two_formats_is_one_person_and_one_scan(tmp_path, capsys):
    save(tmp_path / "scans/a.nii", phantom())
    save(tmp_path / "scans/a.nii.gz", phantom())
    save(tmp_path / "scans/b.img", nibabel.Nifti1Pair(phantom().get_fdata(dtype=np.float32), phantom().affine))
    save(tmp_path / "scans/c.nii.gz", phantom())
    save(tmp_path / "scans/c.img", nibabel.Nifti1Pair(phantom().get_fdata(dtype=np.float32), phantom().affine))
    dataset.main(["cut", "--volumes", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), *FLAGS])
    assert "2 that are there in another format, too, such as a.nii" in capsys.readouterr().err
    assert find_slices(tmp_path / "out")["subject"].value_counts().to_dict() == {"a": 5, "b": 5, "c": 5}
    pictures = [sorted((tmp_path / "out/train").rglob(f"{name}_*.png")) for name in "ab"]
    assert [path.read_bytes() for path in pictures[0]] == [path.read_bytes() for path in pictures[1]]


def test_a_head_beside_its_stripped_brain_is_one_scan(tmp_path, capsys):
    touch(
        tmp_path, "p1.nii.gz", "p1_bet.nii.gz", "p1_bet_mask.nii.gz", "p2.nii.gz", "q/T1.nii", "q/brain.nii", "r/T1.nii"
    )
    assert sources(tmp_path) == ["p1_bet.nii.gz", "p2.nii.gz", "q/brain.nii", "r/T1.nii"]
    assert "2 with the skull on, beside their stripped brain, such as p1.nii.gz" in capsys.readouterr().err


def test_analyze_is_refused_because_it_does_not_tell_left_from_right(tmp_path):
    image = nibabel.AnalyzeImage(np.rint(phantom().get_fdata() * 20).astype(np.int16), phantom().affine)
    save(tmp_path / "scans/OAS1_0028_MR1_mpr-1_anon.img", image)
    with pytest.raises(UserError, match="it is ANALYZE, not NIfTI, and does not tell left from right"):
        dataset.main(["cut", "--volumes", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), *FLAGS])


def test_a_mask_with_a_name_that_tells_nothing_is_refused_by_its_voxels(tmp_path, capsys):
    save(tmp_path / "scans/a.nii.gz", phantom())
    mask = (phantom().get_fdata() > 0).astype(np.uint8)
    save(tmp_path / "scans/a_roughly.nii.gz", nibabel.Nifti1Image(mask, phantom().affine))
    dataset.main(["cut", "--volumes", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), *FLAGS])
    assert "a_roughly.nii.gz: it holds 2 whole numbers only (0, 1), as a mask" in capsys.readouterr().err
    assert set(find_slices(tmp_path / "out")["subject"]) == {"a"}


# ---- whose ----------------------------------------------------------------------------------


def test_oasis_ids_keep_the_scans_of_a_person_together(tmp_path):
    for name in ("OAS1_0028_MR1_mpr-1", "OAS1_0028_MR1_mpr-2", "OAS2_0001_MR1/RAW/mpr-1", "OAS2_0001_MR2/RAW/mpr-1"):
        save(tmp_path / f"scans/{name}.nii", phantom())
    dataset.main(["cut", "--volumes", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), *FLAGS])
    assert find_slices(tmp_path / "out")["subject"].value_counts().to_dict() == {"OAS1_0028": 10, "OAS2_0001": 10}
    assert pd.read_csv(tmp_path / "out/manifest.csv")["subject"].nunique() == 2


def test_a_bids_scan_that_is_there_twice_stays_its_persons(tmp_path):
    for site in ("siteA", "siteB"):
        save(tmp_path / f"scans/{site}/sub-01_T1w.nii", phantom())
    dataset.main(["cut", "--volumes", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), *FLAGS])
    assert find_slices(tmp_path / "out")["subject"].value_counts().to_dict() == {"sub-01": 10}


def test_visits_in_a_folder_are_one_persons(tmp_path):
    for name in ("p1/visit1", "p1/visit2", "p2/visit1", "p3/m00/T1", "p3/m12/T1", "AD/001", "AD/002", "NC/001"):
        save(tmp_path / f"scans/{name}.nii", phantom())
    dataset.main(["cut", "--volumes", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), *FLAGS])
    made = find_slices(tmp_path / "out")["subject"].value_counts().to_dict()
    assert made == {"sub-p1": 10, "p2-visit1": 5, "sub-p3": 10, "AD-001": 5, "002": 5, "NC-001": 5}


def test_words_that_are_no_names_get_the_folder_before_them(tmp_path):
    touch(tmp_path / "study", "a/T1.nii", "b/scan.nii", "c/anna.nii", "image.nii")
    assert [scan.name for scan in find_scans(tmp_path / "study")] == ["a-T1", "anna", "b-scan", "study-image"]


def test_names_that_differ_in_accents_only_stay_two_people(tmp_path):
    touch(tmp_path, "Müller.nii", "Möller.nii")
    assert sorted((scan.subject, scan.name) for scan in find_scans(tmp_path)) == [
        ("M-ller", "M-ller"),
        ("M-ller-again", "M-ller-again"),
    ]


def test_labels_that_folders_would_hide_get_a_prefix(tmp_path):
    touch(tmp_path, "sub-1_T1w.nii", "sub-2_T1w.nii", "sub-3_T1w.nii")
    (tmp_path / "participants.tsv").write_text("participant_id\tgroup\nsub-1\tmasks\nsub-2\ttrain\nsub-3\tAD\n")
    assert [scan.label for scan in find_scans(tmp_path)] == ["label-masks", "label-train", "AD"]


def test_a_link_to_contents_that_are_not_here_says_how_to_get_them(tmp_path, capsys):
    save(tmp_path / "scans/sub-1_T1w.nii", phantom())
    (tmp_path / "scans/sub-2_T1w.nii.gz").symlink_to(".git/annex/objects/nothing")
    dataset.main(["cut", "--volumes", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), *FLAGS])
    assert "it is a link to a file that is not here: fetch it, such as with datalad get" in capsys.readouterr().err
