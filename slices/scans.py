"""Scans under a folder: NIfTI files and DICOM series, whose they are, their labels; and reading one."""

import logging
import os
import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from slices.contrasts import bare, contrast_of_path, in_system_folder, left_out, scans_among, t1_weighted, words_of
from slices.dicom import is_dicom, read_series, series_of
from slices.names import (
    ADNI_SUBJECT,
    BIDS_SUBJECT,
    NO_SLICES,
    NOBODY,
    SPLIT_FOLDERS,
    UNLABELLED,
    bare_ids,
    find_subject,
    person_of,
)
from slices.tables import finder, read_search
from utils import UserError, warn

LABEL_COLUMNS = ("group", "research group", "diagnosis", "dx", "label")
ANONYMOUS = {"", "anonymous", "anonymized", "anonymised", "anon", "unknown", "none", "na", "n/a", "0"}  # as PatientID
UNREAD = (".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".mnc", ".par")  # scans in other formats
VISIT = re.compile(  # words of a file or folder that tell when or how somebody was scanned, and not who it was
    r"(?:visit|ses|session|time|timepoint|tp|run|acq|month|year|week|day|fu|followup)\d*|bl|baseline|follow|up|anat"
    r"|m(?:00|0?3|0?6|12|18|24|36|48|60)|t1w?|mprage|mpr"
)
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
    sources = _sources(root)
    scans = _named(_whose(Path(root).resolve(), sources), label_of)
    unknown = sum(scan.label == UNLABELLED for scan in scans)
    if unknown:
        warn(f"{unknown} of {len(scans)} scans have no label and go to {UNLABELLED} (--metadata gives the table)")
    return scans


def _sources(root):
    """(path, files of a series or (), number of the series, its person, contrast) of every scan under ``root``.

    Tells what is left out.

    Raises:
        UserError: there is no scan, or no reader for DICOM.
    """
    left = {}
    paths, dicoms, passed = _volume_files(root, left)
    if dicoms and find_spec("dicom2nifti") is None:
        raise UserError(f"{root} holds DICOM files, which dicom2nifti reads: pip install dicom2nifti==2.6.2")
    sources = [(path, (), "", None, contrast_of_path(path)) for path in scans_among(paths, left)]
    for folder, names in dicoms.items():
        parts = series_of(Path(root), folder, names, left)
        for one in parts:
            number = one.number if len(parts) > 1 else ""
            sources.append((folder, one.files, number, one.person, one.contrast or contrast_of_path(folder)))
    sources = t1_weighted(sources, left)
    told = left_out(left)
    if not sources:
        hint = f"; {passed[0]} is passed over: give it as --volumes, if you mean it" if passed else ""
        raise UserError(
            f"there is no NIfTI file and no DICOM series of a T1-weighted scan under {root}"
            f"{hint}{f': left out are {told}' if told else ''}"
        )
    if told:
        warn(f"left out are {told}")
    return sources


def read_scan(root, scan):
    """The nibabel image of a scan, whatever its dimensions and orientation.

    Raises:
        UserError: the file is not here, or the files of a series do not form a volume.
    """
    import nibabel

    nibabel.imageglobals.logger.setLevel(logging.CRITICAL)
    path = Path(root, scan.source)
    if path.is_symlink() and not path.exists():
        raise UserError("it is a link to a file that is not here: fetch it, such as with datalad get")
    if not scan.files:
        return nibabel.load(path)
    return read_series(path, scan.files)


# ---- files ------------------------------------------------------------------------------------


def _volume_files(root, left):
    """What may be a scan under a folder, by names and first bytes.

    Args:
        root: folder.
        left: dict of lists, as in ``contrasts.scans_among``.

    Returns:
        Relative paths of NIfTI files; names of DICOM files by folder; and the folders of COPIES that were passed over.
    """
    paths, dicoms, passed, seen = [], {}, [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back
            folders.clear()
            continue
        seen.add(real)
        inside = Path(os.path.relpath(folder, root)).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        passed += [prefix + name for name in folders if name in COPIES]
        folders[:] = sorted(name for name in folders if name not in COPIES and not name.startswith("."))
        names = sorted(name for name in names if not name.startswith("."))
        lower = {name.lower() for name in names}
        for name in names:
            if _is_volume(name.lower(), lower):
                paths.append(prefix + name)
            elif name.lower().endswith(UNREAD):
                left.setdefault("of formats that are not read here (convert them to NIfTI)", []).append(prefix + name)
            elif not _is_half(name.lower(), lower) and is_dicom(os.path.join(folder, name)):
                if in_system_folder(prefix + name):
                    left.setdefault("in folders that the system made", []).append(prefix + name)
                else:
                    dicoms.setdefault(inside, []).append(name)
    return paths, dicoms, passed


def _is_volume(name, beside):
    """Whether it is a NIfTI file, or the header of one whose voxels lie beside it; all names in lower case."""
    return name.endswith((".nii", ".nii.gz")) or name.endswith(".hdr") and f"{name[:-4]}.img" in beside


def _is_half(name, beside):
    """Whether it is the voxels to such a header."""
    return name.endswith(".img") and f"{name[:-4]}.hdr" in beside


# ---- whose ------------------------------------------------------------------------------------


def _whose(root, sources):
    """(source, files, subject, detail) of each of the ``sources`` of ``find_scans``.

    A volume whose path tells no subject is a person of its own, called after its file, or its path where that is not
    enough. One person's are DICOM series of one study, or of one patient where there are several patients, and files
    that are called after visits in one folder.
    """
    patients = {person[0] for _, _, _, person, _ in sources if person}
    found, people = [], {}
    for source, files, number, person, _ in sources:
        subject, detail = _who(bare(source) if not files else source if source != "." else root.name)
        detail = f"{detail}-{number}" if number else detail
        if not subject and person:
            patient, study = person
            key = patient if len(patients) > 1 and patient.casefold() not in ANONYMOUS else study
            people.setdefault(key or len(found), []).append(len(found))
        elif not subject and (folder := _folder_of_visits(bare(source).split("/"))):
            people.setdefault(folder, []).append(len(found))
        found.append((source, files, subject, detail))
    _share_subjects(found, people, root.name)
    stems = Counter(detail for _, _, subject, detail in found if not subject)
    for row, (source, files, subject, detail) in enumerate(found):
        if not subject:
            clear = stems[detail] == 1 and not NOBODY.fullmatch(detail) and not _is_visit(detail)
            path = detail if clear else bare(source)
            found[row] = source, files, path if not NOBODY.fullmatch(path) else f"{root.name}-{path}", detail
    return found


def _folder_of_visits(parts):
    """The folder, a tuple, of whoever was scanned at several visits: patient01/visit1/T1 → patient01; else ()."""
    level = len(parts)
    while level and _is_visit(parts[level - 1]):
        level -= 1
    return tuple(parts[:level]) if level < len(parts) else ()


def _is_visit(name):
    words = words_of(name)
    return bool(words) and not words[0].isdigit() and all(word.isdigit() or VISIT.fullmatch(word) for word in words)


def _share_subjects(found, people, root_name):
    """Give the rows of ``found`` that are one person's, as ``people`` lists them, the name of their common folder."""
    common = {
        key: Path(os.path.commonpath([found[row][0] for row in rows])) for key, rows in people.items() if len(rows) > 1
    }
    twice = Counter(folder.name for folder in common.values())
    for place, (key, folder) in enumerate(sorted(common.items(), key=lambda item: people[item[0]])):
        alone = twice[folder.name] == 1
        name = (folder.name if alone else folder.as_posix()) or root_name
        same = sum(other == folder for other in common.values()) > 1
        for row in people[key]:
            source, files, _, detail = found[row]
            found[row] = source, files, f"{name}-{place + 1}" if same else name, detail


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
    if bids:
        return bids[1], bids[2] or ""
    parts = path.split("/")
    for level in reversed(range(len(parts))):
        subject, end = find_subject(parts[level], folder=level + 1 < len(parts))
        if subject:  # OASIS' ids and the like
            return subject, "/".join([parts[level][end:], *parts[level + 1 :]]).strip("/_-")
    return "", stem


def _named(found, label_of):
    """Scans whose names tell person and scan apart, each name once, from (source, files, subject, detail)."""
    counts, taken, scans = Counter(subject for _, _, subject, _ in found), set(), []
    for source, files, subject, detail in sorted(found):
        label = label_of(subject, detail)
        several = counts[subject] > 1
        subject = re.sub(r"[^A-Za-z0-9_-]+", "-", subject).strip("-_") or "scan"
        if several and person_of(f"{subject}_") == f"{subject}_":  # so that its scans stay one person's
            subject = "sub-" + re.sub(r"[^A-Za-z0-9]", "", subject)
        name = f"{subject}_{detail}" if several and detail else subject
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
        while name in taken:
            name += "_again" if several and name == subject else "-again"  # behind sub-01 it would be another person
        taken.add(name)
        scans.append(Scan(source, files, subject if several else name, name, label))
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
    by_image, by_subject = finder(images, path), finder(sure.to_dict(), path)
    return lambda subject, image: by_image(
        image.removeprefix("I"), by_subject(subject.removeprefix("sub-"), UNLABELLED)
    )


def _label(text):
    """A label as the name of a folder."""
    name = re.sub(r"[^\w+-]+", "-", text.strip()).strip("-")
    if name.casefold() in ("", "n-a", "nan", "none"):
        return UNLABELLED
    no_label = name.casefold() in SPLIT_FOLDERS or NO_SLICES.fullmatch(name)  # what such a folder would be taken for
    return f"label-{name}" if no_label else name
