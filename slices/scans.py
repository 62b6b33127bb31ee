"""Scans under a folder: NIfTI files and DICOM series, whose they are, their labels; and reading one."""

import logging
import os
import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from slices.names import ADNI_SUBJECT, BIDS_SUBJECT, SPLIT_FOLDERS, UNLABELLED, bare_ids, person_of
from slices.tables import read_search
from utils import UserError, warn

LABEL_COLUMNS = ("group", "research group", "diagnosis", "dx", "label")
COPIES = {"derivatives", "sourcedata"}  # folders of a BIDS tree that hold its scans once more


class Scan(NamedTuple):
    """One volume to read: a NIfTI file, or the files of a DICOM series."""

    source: str  # path of the file, or of the folder of the series, relative to the root
    files: tuple  # names of the series' files in that folder; empty for NIfTI
    subject: str
    name: str  # what its slices are called before their number: the subject, and the scan where there are several
    label: str


def find_scans(root, metadata=None, label_column=None):
    """Every T1-weighted volume and DICOM series under ``root``, with its subject and label, sorted by name.

    Args:
        root: a BIDS tree, ADNI's download tree, or any folder.
        metadata: participants.tsv, or the CSV of an ADNI search (default: root/participants.tsv, if there).
        label_column: its column with the labels (default: the first of LABEL_COLUMNS).

    Returns:
        A list of Scan.

    Raises:
        UserError: there is none, there are DICOM files and no reader for them, or the table does not fit.
    """
    label_of = _labels(root, metadata, label_column)
    niftis, series, others = _volume_files(root)
    if others:
        warn(f"{len(others)} NIfTI files that BIDS names other than T1w, such as {others[0]}, are left out")
    if series and find_spec("dicom2nifti") is None:
        raise UserError(f"{root} holds DICOM files, which dicom2nifti reads: pip install dicom2nifti==2.6.2")
    found = [(path, (), *_who(_bare(path))) for path in niftis]
    for folder, names in series.items():
        found += _series_of(Path(root), folder, names)
    if not found:
        raise UserError(f"there is no NIfTI file and no DICOM series under {root}")
    scans = _named(found, label_of)
    unknown = sum(scan.label == UNLABELLED for scan in scans)
    if unknown:
        warn(f"{unknown} of {len(scans)} scans have no label and go to {UNLABELLED} (--metadata gives the table)")
    return scans


def read_scan(root, scan):
    """The nibabel image of a scan, whatever its dimensions and orientation."""
    import nibabel

    nibabel.imageglobals.logger.setLevel(logging.CRITICAL)
    path = Path(root, scan.source)
    if not scan.files:
        return nibabel.load(path)
    import pydicom
    from dicom2nifti.convert_dicom import dicom_array_to_nifti

    logging.getLogger("dicom2nifti").setLevel(logging.CRITICAL)
    slices = [pydicom.dcmread(path / name) for name in scan.files]
    return dicom_array_to_nifti(slices, None, reorient_nifti=False)["NII"]


# ---- files ------------------------------------------------------------------------------------


def _volume_files(root):
    """Relative paths: of NIfTI files; of DICOM files, by folder; and of NIfTI files of another kind than T1w."""
    niftis, series, others, seen = [], {}, [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name not in COPIES and not name.startswith("."))
        inside = Path(os.path.relpath(folder, root)).as_posix()
        dicoms = []
        for name in sorted(name for name in names if not name.startswith(".")):
            path = name if inside == "." else f"{inside}/{name}"
            if name.lower().endswith((".nii", ".nii.gz")):
                kind = re.match(rf"{BIDS_SUBJECT}(?:_.*)?_([A-Za-z0-9]+)\.nii", name)
                (others if kind and kind[1] != "T1w" else niftis).append(path)
            elif _is_dicom(os.path.join(folder, name)):
                dicoms.append(name)
        if dicoms:
            series[inside] = dicoms
    return niftis, series, others


def _is_dicom(path):
    """Whether the name may be one of a DICOM file and the bytes say that it is."""
    suffix = Path(path).suffix.lower()
    if suffix not in ("", ".dcm", ".ima") and not suffix[1:].isdigit() or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _series_of(root, folder, names):
    """The series among the DICOM files of a folder: a list of (folder, names, subject, detail)."""
    parts = _by_series(root / folder, names)
    subject, detail = _who(folder if folder != "." else root.resolve().name)
    return [
        (folder, files, subject, f"{detail}-{number}" if len(parts) > 1 else detail) for number, files in parts.items()
    ]


def _by_series(folder, names):
    """The DICOM files of a folder by series: {number of the series: names}."""
    import pydicom

    series = {}
    for name in names:
        try:
            header = pydicom.dcmread(
                folder / name, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "SeriesNumber"]
            )
            key = str(header.get("SeriesInstanceUID", "")), str(header.get("SeriesNumber", ""))
        except Exception:  # whatever pydicom makes of broken bytes; converting says what
            key = "", "unreadable"
        series.setdefault(key, []).append(name)
    numbers = Counter(number for _, number in series)
    return {
        number if numbers[number] == 1 else f"{number}.{i}": tuple(files)
        for i, ((_, number), files) in enumerate(series.items())
    }


# ---- whose ------------------------------------------------------------------------------------


def _bare(path):
    return re.sub(r"\.nii(\.gz)?$", "", path, flags=re.IGNORECASE)


def _who(path):
    """The subject that a path without suffix tells, or "", and what tells the scan from the subject's others."""
    stem = path.rpartition("/")[2]
    adni = re.search(ADNI_SUBJECT, path)
    if adni:
        images = re.findall(r"(?<![A-Za-z0-9])I\d+(?![A-Za-z0-9])", path)
        return adni[0], images[-1] if images else stem
    bids = re.match(rf"({BIDS_SUBJECT})(?:_(.*?))??(?:_T1w)?$", stem) or re.search(
        rf"(?:^|/)({BIDS_SUBJECT})(?:/(.*))?$", path
    )
    return (bids[1], bids[2] or "") if bids else ("", stem)


def _named(found, label_of):
    """Scans whose names tell person and scan apart, each name once, from (source, files, subject, detail)."""
    stems = Counter(detail for _, _, subject, detail in found if not subject)
    full = [
        (source, files, subject or (detail if stems[detail] == 1 else _bare(source)), detail)
        for source, files, subject, detail in found
    ]
    counts, taken, scans = Counter(subject for _, _, subject, _ in full), set(), []
    for source, files, subject, detail in sorted(full):
        label = label_of(subject, detail)
        subject = re.sub(r"[^A-Za-z0-9_-]+", "-", subject).strip("-_") or "scan"
        if counts[subject] > 1 and person_of(f"{subject}_") == f"{subject}_":  # so that its scans stay one person's
            subject = "sub-" + re.sub(r"[^A-Za-z0-9]", "", subject)
        name = f"{subject}_{detail}" if counts[subject] > 1 and detail else subject
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
        while name in taken:
            name += "-again"
        taken.add(name)
        scans.append(Scan(source, files, subject, name, label))
    return sorted(scans, key=lambda scan: scan.name)


# ---- labels -----------------------------------------------------------------------------------


def _labels(root, metadata, label_column):
    """A function of (subject, image id) that gives the label, UNLABELLED where the table does not tell."""
    own = Path(root, "participants.tsv")
    path = metadata or (own if own.is_file() else None)
    if path is None:
        if label_column:
            raise UserError(f"--label-column {label_column} needs a table: give it with --metadata")
        return lambda subject, image: UNLABELLED
    table = read_search(path)
    wanted = [label_column.strip().casefold()] if label_column else LABEL_COLUMNS
    column = next((name for name in wanted if name in table.columns), None)
    subjects = next((name for name in ("participant_id", "subject", "subject id") if name in table.columns), None)
    if column is None or subjects is None:
        lacks = f"a column {' or '.join(wanted)}" if subjects else "a column participant_id or Subject"
        raise UserError(f"{path} lacks {lacks}: it has {', '.join(table.columns)} (--label-column names the labels')")
    labels = table[column].map(_label)
    known = table.assign(who=table[subjects].str.strip().str.removeprefix("sub-"), is_=labels)[labels != UNLABELLED]
    sure = known.groupby("who")["is_"].agg(lambda values: values.iloc[0] if values.nunique() == 1 else UNLABELLED)
    images = (
        dict(zip(bare_ids(known["image data id"]), known["is_"], strict=True))
        if "image data id" in table.columns
        else {}
    )
    return lambda subject, image: images.get(
        image.removeprefix("I"), sure.get(subject.removeprefix("sub-"), UNLABELLED)
    )


def _label(text):
    """A label as the name of a folder."""
    name = re.sub(r"[^\w+-]+", "-", text.strip()).strip("-")
    if name.casefold() in ("", "n-a", "nan", "none"):
        return UNLABELLED
    return f"label-{name}" if name.casefold() in SPLIT_FOLDERS else name
