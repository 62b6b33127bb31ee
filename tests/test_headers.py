"""NIfTI headers that contradict themselves, other units, and voxels that are no grey values."""

import nibabel
import numpy as np
import pandas as pd
import pytest
from test_volumes import FLAGS, SMALL, phantom, save

import dataset
from slices import cutting
from slices.cutting import cut
from slices.headers import check_volume
from utils import UserError


@pytest.fixture(autouse=True)
def small_brains(monkeypatch):
    monkeypatch.setattr(cutting, "SMALLEST_BRAIN", 20)


def saved(path, qform=None, sform=None, codes=(1, 1), voxels=None, units=None):
    """The phantom, stored with these affines (default: its own) and read again."""
    image = phantom()
    voxels = image.get_fdata(dtype=np.float32) if voxels is None else voxels
    stored = nibabel.Nifti1Image(voxels, image.affine)
    stored.set_qform(image.affine if qform is None else qform, codes[0])
    stored.set_sform(image.affine if sform is None else sform, codes[1])
    if units:
        stored.header.set_xyzt_units(units)
    save(path, stored)
    return nibabel.load(path)


def turned_by(degrees):
    """The phantom's affine, turned about the patient's left-right axis."""
    angle, turn = np.radians(degrees), np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ phantom().affine


# ---- two affines ----------------------------------------------------------------------------


def test_affines_that_agree_are_not_spoken_of(tmp_path):
    moved = phantom().affine.copy()
    moved[:3, 3] += 1.1
    for qform, sform in ((None, None), (moved, None), (turned_by(1.5), None), (None, np.diag([1.01, 1, 1, 1]))):
        image = saved(tmp_path / "a.nii", qform, phantom().affine if sform is None else sform @ phantom().affine)
        checked, _, remarks = check_volume(image)
        assert remarks == [] and np.array_equal(checked.affine, image.affine)


def test_an_oblique_head_halfway_between_two_axes_agrees_with_itself(tmp_path):
    checked, _, remarks = check_volume(saved(tmp_path / "a.nii", turned_by(44.5), turned_by(45.5)))
    assert remarks == [] and np.allclose(checked.affine, turned_by(45.5))
    with pytest.raises(UserError, match="two affines disagree on where left is"):
        check_volume(saved(tmp_path / "a.nii", turned_by(30), turned_by(60)))


def test_affines_that_are_turned_or_stretched_against_each_other_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"qform and its sform differ by 20.0 degrees and 0 mm: find out"):
        check_volume(saved(tmp_path / "a.nii", sform=turned_by(20)))
    with pytest.raises(UserError, match=r"differ by 2.5 degrees"):
        check_volume(saved(tmp_path / "a.nii", sform=turned_by(2.5)))
    stretched = np.diag([1.12, 1, 1, 1]) @ phantom().affine
    with pytest.raises(UserError, match=r"pixdim differ by 12% in the size of the voxels \(1.12x1x1 and 1x1x1 mm\)"):
        check_volume(saved(tmp_path / "a.nii", sform=stretched))
    with pytest.raises(UserError, match="pixdim differ by 12%"):  # also where the sform is the only affine
        check_volume(saved(tmp_path / "a.nii", sform=stretched, codes=(0, 1)))


@pytest.mark.parametrize("code", [3, 4])
def test_a_way_to_a_template_gives_way_to_the_patients_own_space(code, tmp_path):
    stretched = np.diag([1.12, 1.12, 1.12, 1]) @ turned_by(8)
    checked, _, remarks = check_volume(saved(tmp_path / "a.nii", sform=stretched, codes=(1, code)))
    assert np.allclose(checked.affine, phantom().affine, atol=1e-4)
    assert remarks == ["its sform leads to a template, and its qform, the patient's own space, was used"]


def test_affines_that_are_only_moved_give_the_same_slices_and_a_word(tmp_path):
    moved = phantom().affine.copy()
    moved[:3, 3] += (0, 30, 40)
    images, _, _, facts = cut(saved(tmp_path / "a.nii", qform=moved), **SMALL)
    assert facts["reason"] == "its qform and sform are 50 mm apart, which moves the head and nothing else"
    assert np.array_equal(images, cut(phantom(), **SMALL)[0])


def test_an_empty_or_damaged_affine_gives_way_to_the_other(tmp_path):
    path = tmp_path / "a.nii"
    checked, _, remarks = check_volume(saved(path, sform=np.zeros((4, 4))))
    assert remarks == ["its sform is empty, and its qform was used"]
    assert np.allclose(checked.affine, phantom().affine, atol=1e-4)
    image = saved(path)
    image.header["quatern_b"] = 3.0  # no rotation has it
    checked, _, remarks = check_volume(nibabel.Nifti1Image(image.get_fdata(), None, image.header))
    assert remarks == ["its qform is damaged, and its sform was used"]
    with pytest.raises(UserError, match="its affine is singular"):
        check_volume(saved(path, sform=np.zeros((4, 4)), codes=(0, 1)))


# ---- units ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "units"), [(0.001, "meter"), (1000, "micron"), (0.001, None), (1000, "mm")])
def test_metres_and_microns_become_millimetres_whatever_the_unit_is_called(factor, units, tmp_path):
    affine = np.diag([factor, factor, factor, 1]) @ phantom().affine
    checked, _, remarks = check_volume(saved(tmp_path / "a.nii", affine, affine, units=units))
    word = "metres" if factor < 1 else "microns"
    assert remarks == [f"its qform and its sform, in {word}, became mm"]
    assert np.allclose(checked.affine, phantom().affine, atol=1e-3)


def test_an_sform_in_metres_beside_a_qform_in_millimetres_agrees_with_it(tmp_path):
    affine = np.diag([0.001, 0.001, 0.001, 1]) @ phantom().affine
    checked, _, remarks = check_volume(saved(tmp_path / "a.nii", sform=affine))
    assert remarks == ["its sform, in metres, became mm"] and np.allclose(checked.affine, phantom().affine, atol=1e-4)


def test_millimetres_that_are_called_metres_stay_millimetres(tmp_path):
    checked, _, remarks = check_volume(saved(tmp_path / "a.nii", units="meter"))
    assert remarks == [] and np.allclose(checked.affine, phantom().affine)


# ---- voxels ---------------------------------------------------------------------------------


def colours():
    voxels = np.zeros((50, 50, 50), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    voxels["G"][20:30] = 9
    return voxels


def labels(count):
    """So many labels in slabs, and nothing around them."""
    voxels = np.zeros((50, 50, 50), np.int16)
    voxels[5:-5, 5:-5, 5:-5] = 1 + (np.arange(40) * count // 40)[:, None]
    return voxels


NO_GREYS = {
    "its voxels are colours": colours,
    "its voxels are complex": lambda: phantom().get_fdata() * np.complex64(1j),
    r"of its voxels are larger than 32-bit numbers can be \(up to 1.8e\+40": lambda: phantom().get_fdata() * 1e38,
    r"it holds 2 whole numbers only \(0, 1\), as a mask": lambda: (phantom().get_fdata() > 0).astype(np.uint8),
    r"it holds 4 whole numbers only \(0, 2, 4, 6\)": lambda: 2 * np.rint(phantom().get_fdata() / 60),
    r"it holds 41 whole numbers only \(0, 1, 2, 3, 4 …\)": lambda: labels(40),
}


@pytest.mark.parametrize("reason", NO_GREYS)
def test_voxels_that_are_no_greys_of_a_scan_say_why(reason):
    with pytest.raises(UserError, match=reason):
        check_volume(nibabel.Nifti1Image(NO_GREYS[reason](), np.eye(4)))


def test_a_scan_of_few_greys_is_no_label_map():
    voxels = np.rint(phantom().get_fdata() / 6 + np.random.default_rng(0).normal(0, 2, (52, 62, 48)))
    assert 20 < len(np.unique(voxels)) < 64
    check_volume(nibabel.Nifti1Image(np.where(phantom().get_fdata() > 0, voxels, 0).astype(np.int16), np.eye(4)))


def test_integers_and_scales_of_any_kind_give_the_same_slices(tmp_path):
    rounded = np.rint(phantom().get_fdata() * 20)  # many greys
    expected = cut(nibabel.Nifti1Image(rounded.astype(np.float32), phantom().affine), **SMALL)[0]
    for kind in (np.int16, np.int64, np.uint16, np.float64):
        image = nibabel.Nifti1Image(rounded.astype(kind), phantom().affine, dtype=kind)
        save(tmp_path / "a.nii", image)
        assert np.array_equal(cut(nibabel.load(tmp_path / "a.nii"), **SMALL)[0], expected), kind


def test_exchanged_black_and_white_is_told_once_for_all_scans(tmp_path, capsys):
    voxels = phantom().get_fdata(dtype=np.float32)
    for name in ("a", "b"):
        save(tmp_path / f"scans/{name}.nii", nibabel.Nifti1Image(-voxels, phantom().affine))
    save(tmp_path / "scans/c.nii", phantom())
    dataset.main(["cut", "--volumes", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), *FLAGS])
    said = capsys.readouterr().err
    assert "2 of 3 scans are odd, and this was done about it\n  a.nii: its brain is darker than what surrounds" in said
    table = pd.read_csv(tmp_path / "out/manifest.csv", keep_default_na=False)
    assert table["reason"].str.contains("black and white").tolist() == [True, True, False]
    assert set(table["status"]) == {"done"}
