"""DICOM as hospitals and old exports leave it: without preamble, with reports beside, with planes missing or tilted."""

import numpy as np
import pytest
from test_volumes import FLAGS, phantom, write_dicom

import dataset
from slices import cutting
from slices.dicom import is_dicom, read_series
from slices.index import find_slices
from slices.scans import find_scans
from utils import UserError

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("dicom2nifti")


@pytest.fixture(autouse=True)
def small_brains(monkeypatch):
    monkeypatch.setattr(cutting, "SMALLEST_BRAIN", 20)


def series(folder, change=None, **same):
    """The phantom as a DICOM series whose files have these tags (None: lack them); change(file, k) edits the k-th."""
    write_dicom(folder, phantom())
    paths = sorted(folder.iterdir())
    for k, path in enumerate(paths):
        file = pydicom.dcmread(path)
        for tag, value in same.items():
            if value is None:
                delattr(file, tag)
            else:
                setattr(file, tag, value)
        if change:
            change(file, k)
        file.save_as(path)
    return paths


def read(folder):
    return read_series(folder, sorted(path.name for path in folder.iterdir()))


def object_without_pixels(path, modality="SR", kind="1.2.840.10008.5.1.4.1.1.88.11"):
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, pydicom.uid.generate_uid()
    file = pydicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.Modality, file.SeriesInstanceUID = kind, modality, pydicom.uid.generate_uid()
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)


def cut_all(tmp_path):
    dataset.main(["cut", "--volumes", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), *FLAGS])
    return find_slices(tmp_path / "out")


# ---- which files ----------------------------------------------------------------------------


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_preamble_give_the_same_volume(implicit, tmp_path):
    for path in series(tmp_path / "old/sub-1"):
        file = pydicom.dcmread(path)
        pydicom.Dataset(file).save_as(path, implicit_vr=implicit, little_endian=True)
        assert path.read_bytes()[128:132] != b"DICM" and is_dicom(path)
    series(tmp_path / "new/sub-1")
    old, new = read(tmp_path / "old/sub-1"), read(tmp_path / "new/sub-1")
    assert np.array_equal(old.affine, new.affine) and np.array_equal(old.get_fdata(), new.get_fdata())
    assert [scan.subject for scan in find_scans(tmp_path / "old")] == ["sub-1"]


def test_other_files_are_no_dicom(tmp_path):
    contents = {"README": b"\x08 is a byte, and this a text" * 9, "1": b"\0" * 999, "2.dcm": b"\x08\0", "3": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert not is_dicom(tmp_path / name)


def test_index_reports_and_screenshots_are_left_out_with_one_warning(tmp_path, capsys):
    series(tmp_path / "scans/sub-1")
    object_without_pixels(tmp_path / "scans/DICOMDIR", "", pydicom.uid.MediaStorageDirectoryStorage)
    object_without_pixels(tmp_path / "scans/sub-1/REPORT")
    screenshot = pydicom.dcmread(tmp_path / "scans/sub-1/000.dcm")
    screenshot.SOPClassUID, screenshot.SeriesInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, "1.2.3"
    screenshot.save_as(tmp_path / "scans/sub-1/SCREEN")
    made = cut_all(tmp_path)
    assert made["subject"].value_counts().to_dict() == {"sub-1": 5}
    said = capsys.readouterr().err
    assert "3 DICOM files without a scan's pixels (index, report, screenshot), such as DICOMDIR" in said
    assert "cannot be used" not in said and said.count("left out are") == 1


def test_series_of_other_contrasts_and_localizers_are_left_out_beside_a_t1(tmp_path, capsys):
    series(tmp_path / "p/a", SeriesDescription="t1_mprage_sag")
    series(tmp_path / "p/b", SeriesDescription="t2_tse_tra")
    series(tmp_path / "p/c", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    series(tmp_path / "p/d", Modality="CT")
    assert [scan.source for scan in find_scans(tmp_path)] == ["p/a"]
    assert "left out are 3 of other contrasts than T1, such as p/b" in capsys.readouterr().err


# ---- whose ----------------------------------------------------------------------------------


def test_series_of_one_study_or_patient_are_one_persons(tmp_path):
    for name, patient, study in (
        ("A/s1", "x1", "1.1"),
        ("A/s2", "x1", "1.1"),
        ("A/s3", "x1", "1.2"),
        ("B/s4", "x2", "1.3"),
    ):
        series(tmp_path / f"scans/{name}", PatientID=patient, StudyInstanceUID=study)
    made = cut_all(tmp_path)
    assert made.groupby("subject").size().to_dict() == {"s4": 5, "sub-A": 15}
    assert made.groupby("subject")["position"].nunique().tolist() == [5, 5]


def test_what_anonymizers_write_makes_no_two_people_one(tmp_path):
    for name in ("A/1", "B/2", "C/3"):
        series(tmp_path / name, PatientID="anonymous")  # each has a study of its own
    series(tmp_path / "D/4", PatientID="", StudyInstanceUID=None)
    series(tmp_path / "E/5", PatientID="", StudyInstanceUID=None)
    assert len({scan.subject for scan in find_scans(tmp_path)}) == 5


# ---- stacks ---------------------------------------------------------------------------------


def test_missing_planes_are_counted_and_placed(tmp_path):
    for k in (20, 21, 30):
        series(tmp_path / "a")[k].unlink() if k == 20 else (tmp_path / f"a/{k:03d}.dcm").unlink()
    with pytest.raises(
        UserError, match="3 of its planes are missing: there are 45, 1 mm apart, and the first gap is of 3 mm"
    ):
        read(tmp_path / "a")


def shear(file, k):
    file.ImagePositionPatient[1] += 0.2126 * k  # tan 12 degrees


def uneven(file, k):
    file.ImagePositionPatient[2] += 0.4 * (k % 3 == 1)


def turned(file, k):
    if k % 2:
        file.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def cropped(file, k):
    if k % 2:
        file.Rows, file.PixelData = file.Rows - 2, file.PixelData[: -4 * file.Columns]


def two_echoes(file, k):
    file.ImagePositionPatient[2] -= k % 2
    if k % 2:
        file.PixelData = bytes(len(file.PixelData) - 1) + b"\1"


ODD_STACKS = {
    r"tilted by 12.0 degrees against their stack \(gantry tilt\)": dict(change=shear),
    "lie 0.6 to 1.4 mm apart, not evenly": dict(change=uneven),
    r"differ in size or direction \(24 of 52x62 pixels, 24 of 52x62": dict(change=turned),
    r"differ in size or direction \(24 of 52x62 pixels, 24 of 52x60": dict(change=cropped),
    "48 files show 24 places, some of them 2 times and differently": dict(change=two_echoes),
    "48 of its 48 files lack PixelSpacing, so nobody can tell how large its pixels are": dict(PixelSpacing=None),
    "48 files lack PixelSpacing": dict(PixelSpacing=[0, 0]),
    "lack ImagePositionPatient, so nobody can tell where its planes lie": dict(ImagePositionPatient=None),
    "lack ImageOrientationPatient": dict(ImageOrientationPatient=None),
    "lie at one height": dict(change=lambda file, k: setattr(file, "ImagePositionPatient", [k, 0, 0])),
    "its pixels are negative": dict(PhotometricInterpretation="MONOCHROME1"),
}


@pytest.mark.parametrize("reason", ODD_STACKS)
def test_planes_that_form_no_box_say_why_with_numbers(reason, tmp_path):
    series(tmp_path / "a", **ODD_STACKS[reason])
    with pytest.raises(UserError, match=reason):
        read(tmp_path / "a")


def test_a_few_planes_only_are_no_scan(tmp_path):
    for path in series(tmp_path / "a")[3:]:
        path.unlink()
    with pytest.raises(UserError, match="it has 3 planes only, as a localizer has, and 4 are the least"):
        read(tmp_path / "a")


def test_numbers_and_copies_of_planes_do_not_matter(tmp_path):
    series(tmp_path / "a")
    shuffled = np.random.default_rng(0).permutation(48)
    paths = series(tmp_path / "b", change=lambda file, k: setattr(file, "InstanceNumber", int(shuffled[k])))
    (tmp_path / "b/copy.dcm").write_bytes(paths[7].read_bytes())
    one = pydicom.dcmread(paths[0])
    for name in ("left.dcm", "front.dcm"):  # two planes of a localizer with the number of the series
        one.ImageOrientationPatient = [0, 1, 0, 0, 0, -1] if name == "left.dcm" else [1, 0, 0, 0, 0, -1]
        one.save_as(tmp_path / "b" / name)
    expected, found = read(tmp_path / "a"), read(tmp_path / "b")
    assert np.array_equal(found.affine, expected.affine) and np.array_equal(found.get_fdata(), expected.get_fdata())


def test_files_without_instance_numbers_or_modality_are_read(tmp_path):
    series(tmp_path / "a", InstanceNumber=None, Modality=None)
    assert read(tmp_path / "a").shape == (52, 62, 48)


def enhanced(path, drop=()):
    """The phantom in one file of many frames, as newer scanners write it."""
    paths = series(path.parent / "classic")
    planes = [pydicom.dcmread(path) for path in paths]
    file = planes[0]
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedMRImageStorage
    frames, shared = [], pydicom.Dataset()
    for plane in (plane for k, plane in enumerate(planes) if k not in drop):
        place, frame = pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = list(plane.ImagePositionPatient)
        frame.PlanePositionSequence = [place]
        frames.append((frame, plane.PixelData))
    turn, measures = pydicom.Dataset(), pydicom.Dataset()
    turn.ImageOrientationPatient, measures.PixelSpacing = list(file.ImageOrientationPatient), list(file.PixelSpacing)
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [turn], [measures]
    del file.ImagePositionPatient, file.ImageOrientationPatient, file.PixelSpacing
    file.SharedFunctionalGroupsSequence = [shared]
    file.PerFrameFunctionalGroupsSequence = [frame for frame, _ in frames]
    file.NumberOfFrames, file.PixelData = len(frames), b"".join(pixels for _, pixels in frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path)
    return [path.name]


def test_one_file_of_many_frames_is_read_and_its_missing_ones_told(tmp_path):
    whole = read_series(tmp_path / "a", enhanced(tmp_path / "a/1.dcm"))
    expected = read(tmp_path / "a/classic")
    assert np.allclose(whole.affine, expected.affine) and np.array_equal(whole.get_fdata(), expected.get_fdata())
    with pytest.raises(UserError, match="2 of its planes are missing: there are 46, 1 mm apart"):
        read_series(tmp_path / "b", enhanced(tmp_path / "b/1.dcm", drop=(5, 6)))
