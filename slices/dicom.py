"""DICOM series: which files are images, which belong together, and one series as a volume."""

import logging
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slices.contrasts import contrast_of
from utils import UserError

SUFFIXES = ("", ".dcm", ".dicom", ".dic", ".ima", ".img", ".mr")
NO_SCANS = {"SEG", "SR", "PR", "KO", "DOC", "RTSTRUCT", "RTDOSE", "RTPLAN"}  # modalities of what is no scan
NO_MR = {"CT", "PT", "NM", "US", "XA", "CR", "DX", "MG"}  # and of scans of another kind
SCREENSHOT = "1.2.840.10008.5.1.4.1.1.7"  # the beginning of the classes of secondary captures
TAGS = [
    "SeriesInstanceUID",
    "SeriesNumber",
    "StudyInstanceUID",
    "PatientID",
    "SOPClassUID",
    "Modality",
    "SeriesDescription",
    "ProtocolName",
    "ImageType",
    "Rows",
]
FEWEST = 4  # planes
TILT = 2.8  # degrees between the stack and the normal of its planes, from which they form no box
REASONS = {  # of dicom2nifti, where ``_check_planes`` has not found them before
    "SLICE_INCREMENT_INCONSISTENT": "its planes do not lie evenly: some are missing",
    "NON_CUBICAL_IMAGE/GANTRY_TILT": "its planes are tilted against their stack: straighten it first, as dcm2niix does",
    "IMAGE_ORIENTATION_INCONSISTENT": "its planes are not parallel: give one stack",
    "TOO_FEW_SLICES/LOCALIZER": "it has too few planes, as a localizer has",
    "NON_IMAGING_DICOM_FILES": "its files do not say how their planes lie (ImageOrientationPatient)",
}


class Series(NamedTuple):
    """The files of one series in one folder."""

    folder: str  # relative to the root
    files: tuple
    number: str  # of the series, unique in the folder
    person: tuple  # what its files say of the patient: (PatientID, StudyInstanceUID)
    contrast: str  # as ``contrast_of`` tells it


def is_dicom(path):
    """Whether the name may be one of a DICOM file and the bytes say that it is, with the preamble or without."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES and not suffix[1:].isdigit() or not Path(path).is_file():
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or _begins_with_an_element(head)


def _begins_with_an_element(head):
    """Whether bytes are the first elements of a data set: tag (0002,…) or (0008,…), then a type or a small length."""
    if len(head) < 132:
        return False
    for order in ("little", "big"):
        group, element = int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order)
        kind = head[4:6]
        known = kind.isalpha() and kind.isupper() or int.from_bytes(head[4:8], order) < 1024
        if group in (2, 8) and element <= 0x70 and known:
            return True
    return False


def series_of(root, folder, names, left):
    """The series among the DICOM files of a folder: a list of Series.

    Args:
        root: a Path.
        folder: str, relative to it.
        names: of the files in it.
        left: dict of lists, as in ``contrasts.scans_among``: gets the files that are no images of a scan.
    """
    headers, numbers, whose = {}, {}, {}
    for name in names:
        header = _header(root / folder / name)
        if header is not None and _is_no_scan(header):
            left.setdefault("DICOM files without a scan's pixels (index, report, screenshot)", []).append(
                name if folder == "." else f"{folder}/{name}"
            )
            continue
        key = ("", "unreadable")
        if header is not None:
            key = str(header.get("SeriesInstanceUID", "")), str(header.get("SeriesNumber", ""))
        headers.setdefault(key, header)
        numbers.setdefault(key, []).append(name)
    counts = Counter(number for _, number in numbers)
    for i, (key, files) in enumerate(numbers.items()):
        number = key[1] if counts[key[1]] == 1 else f"{key[1]}.{i}"
        whose[number] = Series(folder, tuple(files), number, _person(headers[key]), _contrast(headers[key]))
    return list(whose.values())


def _header(path):
    """What TAGS say of a file, or None where pydicom makes nothing of its bytes."""
    import pydicom

    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS, force=True)
    except Exception:  # whatever pydicom makes of broken bytes; converting says what
        return None


def _is_no_scan(header):
    """Whether it has no pixels, or those of a screenshot, or of something drawn."""
    return (
        "Rows" not in header
        or str(header.get("Modality", "")) in NO_SCANS
        or str(header.get("SOPClassUID", "")).startswith(SCREENSHOT)
    )


def _person(header):
    if header is None:
        return "", ""
    return str(header.get("PatientID", "") or "").strip(), str(header.get("StudyInstanceUID", "") or "")


def _contrast(header):
    """The contrast that its description tells, or the modality where that is not MR."""
    if header is None:
        return ""
    if "LOCALIZER" in (header.get("ImageType") or ()):
        return "localizer"
    modality = str(header.get("Modality", ""))
    texts = (str(header.get(tag, "") or "") for tag in ("SeriesDescription", "ProtocolName"))
    return modality.lower() if modality in NO_MR else next(filter(None, map(contrast_of, texts)), "")


# ---- a series as a volume ---------------------------------------------------------------------


def read_series(folder, names):
    """The nibabel image of the files of one series.

    Raises:
        UserError: they do not form one box of planes.
    """
    import pydicom
    from dicom2nifti.convert_dicom import dicom_array_to_nifti
    from dicom2nifti.exceptions import ConversionError, ConversionValidationError

    logging.getLogger("dicom2nifti").setLevel(logging.CRITICAL)
    slices = [_complete(pydicom.dcmread(Path(folder, name), force=True)) for name in names]
    if any("PerFrameFunctionalGroupsSequence" in file for file in slices):
        _check_frames(slices[0])
    else:
        slices = _check_planes(slices)
    try:
        return dicom_array_to_nifti(slices, None, reorient_nifti=False)["NII"]
    except (ConversionError, ConversionValidationError) as error:
        raise UserError(REASONS.get(str(error), f"it cannot be read ({error})")) from None


def _complete(file):
    """Name the encoding in a file without preamble, as the reader found it out."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in file.file_meta:
        implicit, little = file.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        file.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    if "MediaStorageSOPClassUID" not in file.file_meta and "SOPClassUID" in file:
        file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID
    if "Modality" not in file:
        file.Modality = "OT"  # dicom2nifti asks for it
    return file


def _check_planes(slices):
    """The files of a series, one a plane, those that are there twice once, in their order.

    Raises:
        UserError: something lacks that tells where they lie, or they are not parallel, even, straight and complete.
    """
    slices = [file for file in slices if "PixelData" in file]
    _refuse_missing(slices)
    slices = _one_stack(slices)
    normal = _normal(slices[0].ImageOrientationPatient)
    places = np.array([file.ImagePositionPatient for file in slices], float)  # (N, 3) mm
    slices, places = _each_once(slices, places)
    heights = places @ normal
    order = np.argsort(heights)
    _refuse_gaps(heights[order])
    _refuse_tilt(places[order], normal)
    for number, i in enumerate(order):  # so that dicom2nifti sees one stack, whatever order they were numbered in
        slices[i].InstanceNumber = number + 1
    return slices


def _normal(turn):
    """The unit vector that stands on planes of an ImageOrientationPatient."""
    turn = np.array(turn, float)
    normal = np.cross(turn[:3], turn[3:])
    return normal / np.linalg.norm(normal)


def _check_frames(file):
    """Refuse a file of many frames whose planes are not even, straight and complete, as far as it says where they lie.

    Raises:
        UserError: as for ``_check_planes``.
    """
    frames = file.get("PerFrameFunctionalGroupsSequence") or []
    shared = file.get("SharedFunctionalGroupsSequence") or []
    turns = [group.PlaneOrientationSequence[0] for group in (*shared, *frames) if "PlaneOrientationSequence" in group]
    places = [frame.PlanePositionSequence[0] for frame in frames if "PlanePositionSequence" in frame]
    if not turns or len(places) < FEWEST:
        return  # dicom2nifti says what it lacks
    places = np.unique([place.ImagePositionPatient for place in places], axis=0)
    normal = _normal(turns[0].ImageOrientationPatient)
    order = np.argsort(places @ normal)
    if len(order) >= FEWEST:
        _refuse_gaps((places @ normal)[order])
        _refuse_tilt(places[order], normal)


def _refuse_missing(slices):
    """Refuse files that lack what tells where their pixels are."""
    if len(slices) < FEWEST:
        raise UserError(f"it has {len(slices)} planes only, as a localizer has, and {FEWEST} are the least")
    wanted = {"ImageOrientationPatient": 6, "ImagePositionPatient": 3, "PixelSpacing": 2}
    for tag, count in wanted.items():
        lacking = [file for file in slices if not _numbers(file, tag, count)]
        if lacking:
            what = "how large its pixels are" if tag == "PixelSpacing" else "where its planes lie"
            raise UserError(
                f"{len(lacking)} of its {len(slices)} files lack {tag}, so nobody can tell {what}: export it anew"
            )


def _numbers(file, tag, count):
    """Whether a tag holds so many numbers, and not zeros only; the size of pixels above 0."""
    value = file.get(tag)
    try:
        numbers = np.array(value, float)
    except (TypeError, ValueError):
        return False
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        return False
    return tag == "ImagePositionPatient" or numbers.any() and (tag != "PixelSpacing" or (numbers > 0).all())


def _one_stack(slices):
    """The planes of one size and direction, without the few others that localizers left among them.

    Raises:
        UserError: there are several stacks, or too few planes, or white is dark in them.
    """
    stacks = []  # [what its planes share, its planes]
    for file in slices:
        shared = [
            float(value) for value in (file.Rows, file.Columns, *file.PixelSpacing, *file.ImageOrientationPatient)
        ]
        stack = next((stack for stack in stacks if np.allclose(shared, stack[0], rtol=1e-3, atol=2e-3)), None)
        if stack is None:
            stacks.append(stack := [shared, []])
        stack[1].append(file)
    many = [files for _, files in stacks if len(files) >= FEWEST]
    if len(many) != 1:
        shown = ", ".join(f"{len(files)} of {w:g}x{h:g} pixels" for (h, w, *_), files in stacks[:4])
        raise UserError(f"its planes differ in size or direction ({shown}): give one stack of {FEWEST} or more")
    if any(str(file.get("PhotometricInterpretation", "")) == "MONOCHROME1" for file in many[0]):
        raise UserError("its pixels are negative (MONOCHROME1: the largest number is black): give it as MONOCHROME2")
    return many[0]


def _each_once(slices, places):
    """The slices and places without those that are there twice.

    Raises:
        UserError: two planes of one place differ.
    """
    seen, kept = {}, []
    for i, place in enumerate(map(tuple, places.round(3))):
        if place not in seen:
            seen[place] = i
            kept.append(i)
        elif not np.array_equal(slices[seen[place]].pixel_array, slices[i].pixel_array):
            times = max(Counter(map(tuple, places.round(3))).values())
            raise UserError(
                f"{len(slices)} files show {len(np.unique(places.round(3), axis=0))} places, some of them {times} "
                "times and differently, as of several volumes or echoes: give one volume"
            )
    return [slices[i] for i in kept], places[kept]


def _refuse_tilt(places, normal):
    """Refuse planes, from the lowest, that do not lie straight above each other."""
    stack = places[-1] - places[0]
    tilt = np.degrees(np.arccos(np.clip(stack @ normal / max(np.linalg.norm(stack), 1e-9), -1, 1)))
    if tilt > TILT:
        raise UserError(
            f"its planes are tilted by {tilt:.1f} degrees against their stack (gantry tilt): straighten it first, as "
            "dcm2niix does"
        )


def _refuse_gaps(heights):
    """Refuse planes whose heights (N,), in mm and sorted, are not even."""
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    if usual < 0.01:
        raise UserError(f"most of its {len(heights)} planes lie at one height: give a stack")
    wide = np.abs(gaps - usual) > 0.1 + 0.05 * usual
    if not wide.any():
        return
    missing = int(np.rint(gaps[wide] / usual - 1).sum())
    whole = np.abs(gaps / usual - np.rint(gaps / usual)).max() < 0.1
    if missing > 0 and whole:
        first = int(np.flatnonzero(wide)[0])
        raise UserError(
            f"{missing} of its planes {'is' if missing == 1 else 'are'} missing: there are {len(heights)}, "
            f"{usual:.3g} mm apart, and the first gap is of {gaps[first]:.3g} mm after the plane {first + 1}: get the "
            "missing files"
        )
    raise UserError(f"its planes lie {gaps.min():.3g} to {gaps.max():.3g} mm apart, not evenly: give an even stack")
