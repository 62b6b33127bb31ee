"""Scans in: left stays left whatever the orientation, people stay apart, and what is broken is told."""

import itertools
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

import dataset
from slices import cutting, scans, skull, volumes
from slices.cutting import cut
from slices.index import find_slices
from slices.processes import held
from slices.scans import find_scans
from slices.splits import split_by_subject
from utils import Interrupted, Terminated, UserError

ROOT = Path(__file__).parents[1]
SMALL = dict(slices=5, spacing=2.0, depth=18.0, image_size=(64, 64))
FLAGS = ["--slices", "5", "--spacing", "2", "--depth", "18", "--image-size", "64", "64", "--workers", "1"]
AXES = ["".join(axes) for order in itertools.permutations(("LR", "PA", "IS")) for axes in itertools.product(*order)]


@pytest.fixture(autouse=True)
def small_brains(monkeypatch):
    """Let brains of 20 ml pass: they are quick to resample."""
    monkeypatch.setattr(cutting, "SMALLEST_BRAIN", 20)


def phantom(affine=None, shape=(52, 62, 48)):
    """A brain around (0, 0, 0) mm that is bright at its left, dark at its front and has a spot at its lower right."""
    affine = np.diag([1.0, 1, 1, 1]) if affine is None else affine
    affine = affine.copy()
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)  # the middle of the grid is at 0 mm
    x, y, z = np.einsum("ij,j...->i...", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]
    tissue = 100 + 80 * ball(x + 9, y, z, 7) - 60 * ball(x, y - 13, z, 7) + 80 * ball(x - 9, y + 8, z + 9, 5)
    voxels = tissue * (np.sqrt((x / 20) ** 2 + (y / 25) ** 2 + (z / 18) ** 2) < 1)
    return nibabel.Nifti1Image(voxels.astype(np.float32), affine)


def ball(x, y, z, radius):
    return np.clip(radius - np.sqrt(x * x + y * y + z * z) + 0.5, 0, 1)


def turned(image, axes):
    """The same head in the same place, its voxels stored along other axes."""
    now, then = nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(axes)
    return image.as_reoriented(nibabel.orientations.ornt_transform(now, then))


def shifted(image):
    affine = image.affine.copy()
    affine[:3, 3] += (130.3, -71.9, 400.4)
    return nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), affine)


@pytest.fixture(scope="module")
def upright():
    """The slices of the phantom as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "SMALLEST_BRAIN", 20)
        return cut(phantom(), **SMALL)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


def reasons(out):
    table = pd.read_csv(out / "manifest.csv", keep_default_na=False)
    return dict(zip(table["source"], table["reason"], strict=True))


# ---- left and right -------------------------------------------------------------------------


def test_a_slice_shows_the_front_at_the_top_and_the_left_at_the_left(upright):
    images, heights, views, facts = upright
    assert images.shape == (5, 64, 64) and images.dtype == np.uint8
    assert heights.tolist() == [heights[0] + 2 * i for i in range(5)] and facts["brain"] == "already stripped"
    middle = images[2].astype(float)
    rows, columns = np.indices(middle.shape)
    bright, dark = middle > 200, (middle > 0) & (middle < 90)
    assert columns[bright].mean() < 26 and 27 < rows[bright].mean() < 36
    assert rows[dark].mean() < 24 and 27 < columns[dark].mean() < 36
    spots = (images[:, 38:, 38:] > 200).sum((1, 2))
    assert spots[0] > 0 and spots[-1] == 0  # the lowest slice comes first
    assert not images[:, 0].any() and views.shape == (3, 240, 256)


@pytest.mark.parametrize("axes", AXES)
def test_the_slices_are_the_same_in_every_orientation(axes, upright):
    assert len(set(AXES)) == 48
    images, heights, _, facts = cut(shifted(turned(phantom(), axes)), **SMALL)
    assert facts["orientation"] == axes
    assert np.abs(images.astype(int) - upright[0]).max() <= 1 and heights.tolist() == upright[1].tolist()


@pytest.mark.parametrize("axes", ["RAS", "LPS", "AIR", "SLP"])
def test_oblique_heads_with_oblong_voxels_keep_their_left(axes, upright):
    tilt, turn = np.radians(12), np.radians(17)
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([1.2, 0.8, 1.5])
    images = cut(shifted(turned(phantom(affine, (52, 90, 42)), axes)), **SMALL)[0]
    assert np.abs(landmarks(images) - landmarks(upright[0])).max() < 2
    for mirrored in (images[:, :, ::-1], images[:, ::-1], images[:, ::-1, ::-1]):
        assert np.abs(landmarks(mirrored) - landmarks(upright[0])).max() > 10


def landmarks(images):
    """Row and column of what is bright, and of what is dark inside the brain, in the middle slice: (2, 2)."""
    middle = images[2]
    dark = ndimage.binary_erosion(ndimage.binary_fill_holes(middle > 0), iterations=5) & (middle < 90)
    return np.array([ndimage.center_of_mass(middle > 200), ndimage.center_of_mass(dark)])


@pytest.mark.parametrize(("axes", "backwards"), [("LPS", False), ("LPS", True), ("LIP", False), ("PIL", True)])
def test_dicom_series_of_any_plane_give_the_slices_of_the_volume(axes, backwards, tmp_path, upright):
    pytest.importorskip("dicom2nifti")
    write_dicom(tmp_path / "scans/sub-7/dicom", turned(phantom(), axes), backwards)
    dataset.main(["cut", "--volumes", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), *FLAGS])
    made = find_slices(tmp_path / "out")
    assert set(made["subject"]) == {"sub-7"} and len(made) == 5
    for path, expected in zip(made["path"], upright[0], strict=True):
        assert np.abs(np.asarray(Image.open(tmp_path / "out" / path)).astype(int) - expected).max() <= 2


def write_dicom(folder, image, backwards=False):
    """A volume as a DICOM series, a file for each plane of its last axis."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir(parents=True)
    to_lps = np.diag([-1, -1, 1, 1]) @ image.affine
    series, study = generate_uid(), generate_uid()
    sizes = nibabel.affines.voxel_sizes(image.affine)
    voxels = np.rint(image.get_fdata()).astype(np.uint16)
    for k in range(voxels.shape[2]):
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = pydicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        file.SOPClassUID, file.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        file.SeriesInstanceUID, file.StudyInstanceUID, file.Modality = series, study, "MR"
        file.SeriesNumber, file.InstanceNumber = 3, voxels.shape[2] - k if backwards else k + 1
        file.ImagePositionPatient = (to_lps @ [0, 0, k, 1])[:3].tolist()
        file.ImageOrientationPatient = [*(to_lps[:3, 0] / sizes[0]).tolist(), *(to_lps[:3, 1] / sizes[1]).tolist()]
        file.PixelSpacing, file.SliceThickness = [sizes[1], sizes[0]], sizes[2]
        file.Rows, file.Columns, file.SamplesPerPixel = voxels.shape[1], voxels.shape[0], 1
        file.PhotometricInterpretation, file.PixelRepresentation = "MONOCHROME2", 0
        file.BitsAllocated, file.BitsStored, file.HighBit = 16, 16, 15
        file.PixelData = voxels[:, :, k].T.tobytes()
        file.save_as(folder / f"{k:03d}.dcm", enforce_file_format=True)


# ---- what cannot be used --------------------------------------------------------------------


def without_affine():
    image = phantom()
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    return image


def with_two_affines():
    image = phantom()
    image.set_qform(np.diag([-1, 1, 1, 1]) @ image.affine, 1)
    return image


def constant():
    return nibabel.Nifti1Image(np.ones((50, 50, 50), np.float32), np.eye(4))


def empty_frame():
    voxels = np.zeros((60, 60, 60), np.float32)
    voxels[30, 30, 30] = 1.5
    return nibabel.Nifti1Image(voxels, np.eye(4))


BROKEN = {
    "it has 4 dimensions": lambda: nibabel.Nifti1Image(np.random.default_rng(0).random((40, 40, 40, 2)), np.eye(4)),
    "it has no affine": without_affine,
    "two affines disagree": with_two_affines,
    "all its voxels are the same": constant,
    "it measures 8x8x8 mm": lambda: nibabel.Nifti1Image(np.ones((8, 8, 8), np.float32), np.eye(4)),
    "no brain is found": empty_frame,
    "not NIfTI": lambda: nibabel.MGHImage(np.ones((40, 40, 40), np.float32), np.eye(4)),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_volume_that_cannot_be_used_says_why(reason):
    with pytest.raises(UserError, match=reason):
        cut(BROKEN[reason](), **SMALL)


def test_slices_that_do_not_fit_are_told():
    with pytest.raises(UserError, match="its brain is 3. mm high"):
        cut(phantom(), **SMALL | dict(depth=60))
    with pytest.raises(UserError, match="does not fit into --image-size 32 32"):
        cut(phantom(), **SMALL | dict(image_size=(32, 32)))


def test_voxels_that_are_not_finite_are_background_and_counted(upright):
    image = phantom()
    voxels = image.get_fdata(dtype=np.float32)
    outside = voxels == 0
    images, _, _, facts = cut(nibabel.Nifti1Image(np.where(outside, np.nan, voxels), image.affine), **SMALL)
    assert facts["not_finite"] == outside.sum() and np.array_equal(images, upright[0])


def test_one_broken_volume_does_not_stop_the_others_and_is_tried_again(tmp_path, capsys):
    scans, out = tmp_path / "scans", tmp_path / "out"
    save(scans / "good.nii.gz", phantom())
    whole = (scans / "good.nii.gz").read_bytes()
    (scans / "fake.nii").write_bytes(b"not a volume" * 90)
    (scans / "cut.nii.gz").write_bytes(whole[:2000])
    argv = ["cut", "--volumes", str(scans), "--out", str(out), *FLAGS]
    dataset.main(argv)
    said = capsys.readouterr()
    assert "1 of 3 scans of 1 people" in said.out and "2 of 3 scans cannot be used" in said.err
    assert [bool(reason) for _, reason in sorted(reasons(out).items())] == [True, True, False]
    (scans / "fake.nii").unlink()
    save(scans / "fake.nii", phantom())
    (scans / "cut.nii.gz").write_bytes(whole)
    dataset.main(argv)
    assert not any(reasons(out).values()) and "1 of 3 scans were done before" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds finished slices"):
        dataset.main(argv)


def test_where_nothing_can_be_used_nothing_is_left(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="does not exist"):
        dataset.main(["cut", "--volumes", str(tmp_path / "nowhere"), "--out", str(out)])
    (tmp_path / "scans/dicom").mkdir(parents=True)
    with pytest.raises(UserError, match="no NIfTI file and no DICOM series"):
        dataset.main(["cut", "--volumes", str(tmp_path / "scans"), "--out", str(out)])
    (tmp_path / "scans/fake.nii").write_bytes(b"no volume")
    with pytest.raises(UserError, match=r"none of the 1 scans .*\n  fake.nii: it cannot be read"):
        dataset.main(["cut", "--volumes", str(tmp_path / "scans"), "--out", str(out), *FLAGS])
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").touch()
    with pytest.raises(UserError, match="something other"):
        dataset.main(["cut", "--volumes", str(tmp_path / "scans"), "--out", str(out), *FLAGS])
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


# ---- stopping and resuming ------------------------------------------------------------------


def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(tmp_path, monkeypatch):
    scans = tmp_path / "scans"
    for i in range(3):
        save(scans / f"{i}.nii.gz", turned(phantom(), AXES[i]))
    count = []

    def interrupt(*args, **options):
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        return cut(*args, **options)

    argv = ["cut", "--volumes", str(scans), "--out", str(tmp_path / "out"), *FLAGS]
    monkeypatch.setattr(volumes, "cut", interrupt)
    with pytest.raises(Interrupted, match="goes on from there"):
        dataset.main(argv)
    with pytest.raises(UserError, match="unfinished slices with --depth 18.0"):
        dataset.main([*argv, "--depth", "19"])
    dataset.main(argv)
    assert len(count) == 2 + 2  # the first is not cut again
    dataset.main(["cut", "--volumes", str(scans), "--out", str(tmp_path / "straight"), *FLAGS])
    for path in (tmp_path / "straight").rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "out" / path.relative_to(tmp_path / "straight")).read_bytes(), path


def test_a_terminated_cut_goes_on_too_and_says_so_by_its_status(tmp_path, monkeypatch):
    save(tmp_path / "scans/a.nii.gz", phantom())

    def terminate(*args, **options):
        raise Terminated

    monkeypatch.setattr(volumes, "cut", terminate)
    with pytest.raises(Interrupted, match="goes on from there") as stop:
        dataset.main(["cut", "--volumes", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), *FLAGS])
    assert stop.value.status == 143


def test_a_second_cut_into_one_folder_is_refused_and_left_overs_of_a_dead_one_go(tmp_path):
    save(tmp_path / "scans/a.nii.gz", phantom())
    out = tmp_path / "out"
    argv = ["cut", "--volumes", str(tmp_path / "scans"), "--out", str(out), *FLAGS]
    out.mkdir()
    with held(out, "being filled"), pytest.raises(UserError, match="out is being filled by process"):
        dataset.main(argv)
    assert list(out.iterdir()) == []
    code = "import utils; print(utils.unfinished_prefix())"
    dead = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    (out / "lock").touch()  # of one that was killed before it began
    with pytest.raises(Interrupted), pytest.MonkeyPatch.context() as patch:
        patch.setattr(volumes, "cut", lambda *args, **options: stop())
        dataset.main(argv)
    label = out / "train" / "unlabelled"
    label.mkdir(parents=True)
    half = [folder / f"{dead.stdout.strip()}x.png" for folder in (out, out / ".views", label)]
    for path in half:
        path.touch()
    dataset.main(argv)
    assert not any(path.exists() for path in half) and not (out / "lock").exists()
    assert len(list(label.iterdir())) == int(FLAGS[FLAGS.index("--slices") + 1])


def stop():
    raise KeyboardInterrupt


def test_two_workers_make_the_bytes_of_one(tmp_path):
    affine = np.diag([3.0, 3, 3, 1])
    brain = phantom().get_fdata(dtype=np.float32)
    for i in range(2):
        save(tmp_path / f"scans/{i}.nii", nibabel.Nifti1Image(brain[8:44, 4:-4, 4:-4] * (i + 1), affine))
    for workers in ("1", "2"):
        dataset.main(
            [
                "cut",
                "--volumes",
                str(tmp_path / "scans"),
                "--out",
                str(tmp_path / workers),
                "--workers",
                workers,
                "--slices",
                "6",
                "--spacing",
                "4",
            ]
        )
    one = {path.name: path.read_bytes() for path in (tmp_path / "1").rglob("*.png")}
    assert one == {path.name: path.read_bytes() for path in (tmp_path / "2").rglob("*.png")} and len(one) == 15


# ---- who is who -----------------------------------------------------------------------------


def test_a_bids_tree_keeps_people_sessions_and_labels_apart(tmp_path, capsys):
    scans, out = tmp_path / "bids", tmp_path / "out"
    for name in (
        "sub-00/anat/sub-00_T1w",
        "sub-01/ses-a/anat/sub-01_ses-a_T1w",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w",
        "sub-02/anat/sub-02_T1w",
        "derivatives/sub-00/anat/sub-00_T1w",
    ):
        save(scans / f"{name}.nii.gz", phantom())
    save(scans / "sub-00/func/sub-00_task-rest_bold.nii.gz", phantom())
    (scans / "participants.tsv").write_text(
        "participant_id\tage\tgroup\nsub-00\t30\tdepr\nsub-01\t31\ttest\nsub-02\t32\tn/a\n"
    )
    dataset.main(["cut", "--volumes", str(scans), "--out", str(out), *FLAGS])
    assert "1 NIfTI files that BIDS names other than T1w" in capsys.readouterr().err
    made = find_slices(out)
    table = made.groupby(["subject", "label", "split"]).size().to_dict()
    assert table == {
        ("sub-00", "depr", "train"): 5,
        ("sub-01", "label-test", "train"): 10,
        ("sub-02", "unlabelled", "train"): 5,
    }
    assert made.groupby("subject")["position"].nunique().tolist() == [5, 5, 5]
    assert (out / "train/label-test").is_dir() and list((out / "train/label-test").glob("sub-01_ses-a_*.png"))
    split = split_by_subject(made, 0)
    assert split.groupby("subject")["split"].nunique().max() == 1


def test_adnis_download_tree_takes_labels_by_image_and_groups_by_person(tmp_path):
    scans = tmp_path / "ADNI"
    for name in (
        "002_S_0295/MPRAGE/2006-04-18/I13722/ADNI_002_S_0295_MR_MPRAGE_br_raw_S13408_I13722",
        "002_S_0295/MPRAGE/2007-05-25/I59720/ADNI_002_S_0295_MR_MPRAGE_br_raw_S32678_I59720",
        "003_S_1122/MPRAGE/2007-05-25/I7/ADNI_003_S_1122_MR_MPRAGE_I7",
    ):
        save(scans / f"{name}.nii", phantom())
    (tmp_path / "adni.csv").write_text(
        '"Image Data ID","Subject","Group","Sex"\n"I13722","002_S_0295","CN","M"\n'
        '"I59720","002_S_0295","MCI","M"\n"I7","003_S_1122","AD","F"\n'
    )
    found = find_scans(scans, tmp_path / "adni.csv")
    assert [(scan.subject, scan.name, scan.label) for scan in found] == [
        ("002_S_0295", "002_S_0295_I13722", "CN"),
        ("002_S_0295", "002_S_0295_I59720", "MCI"),
        ("003_S_1122", "003_S_1122", "AD"),
    ]
    assert {scan.label for scan in find_scans(scans, tmp_path / "adni.csv", "sex")} == {"M", "F"}
    with pytest.raises(UserError, match="lacks a column nonsense"):
        find_scans(scans, tmp_path / "adni.csv", "nonsense")
    dataset.main(
        [
            "cut",
            "--volumes",
            str(scans),
            "--out",
            str(tmp_path / "out"),
            "--metadata",
            str(tmp_path / "adni.csv"),
            *FLAGS,
        ]
    )
    for metadata in (None, tmp_path / "adni.csv"):
        people = find_slices(tmp_path / "out", metadata=metadata)["subject"]
        assert people.value_counts().to_dict() == {"002_S_0295": 10, "003_S_1122": 5}


def test_plain_folders_name_people_by_file_or_by_folder(tmp_path):
    for name in ("a/T1.nii.gz", "b/T1.nii", "c/I12.nii", "d/e f(1).nii.gz"):
        save(tmp_path / name, phantom())
    (tmp_path / "a/loop").symlink_to(tmp_path)
    assert [scan.name for scan in find_scans(tmp_path)] == ["I12", "a-T1", "b-T1", "e-f-1"]


def test_dicom_files_without_a_reader_are_told(tmp_path, monkeypatch):
    (tmp_path / "1.dcm").write_bytes(b"\0" * 128 + b"DICM")
    monkeypatch.setattr(scans, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install dicom2nifti"):
        find_scans(tmp_path)


# ---- heads that are not stripped ------------------------------------------------------------


def a_head():
    """A brain of 1.4 litres in fluid, skull and scalp, with noise: the head and the brain, 2 mm voxels."""
    axes = [np.arange(-side, side + 1) * 2.0 for side in (50, 58, 50)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    depth = 70 * (1 - np.sqrt((x / 68) ** 2 + (y / 80) ** 2 + (z / 62) ** 2))  # about mm below the brain's surface
    voxels = np.select([depth > 0, depth > -4, depth > -10, depth > -18], [100, 20, 8, 140], 2.0)
    voxels += np.abs(np.random.default_rng(0).normal(0, 3, voxels.shape))
    return nibabel.Nifti1Image(voxels.astype(np.float32), np.diag([2.0, 2, 2, 1])), depth > 0


def test_a_head_with_its_skull_on_needs_dipy(monkeypatch):
    monkeypatch.setattr(skull, "find_spec", lambda name: None)
    monkeypatch.setattr(cutting, "resample_to_output", lambda image, *voxels, **options: image)  # which takes long
    with pytest.raises(UserError, match="skull on.*pip install dipy"):
        cut(a_head()[0])


def test_the_skull_is_taken_off_and_the_brain_stays():
    pytest.importorskip("dipy")
    head, brain = a_head()
    images, _, _, facts = cut(head)
    assert facts["brain"] == "extracted" and abs(facts["brain_ml"] - brain.sum() * 8 / 1000) < 60
    assert images.shape == (20, 240, 256) and not images[:, :, :40].any()
