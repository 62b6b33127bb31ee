"""Scans in: NIfTI volumes and DICOM series to axial slices in the layout of the ADNI course data.

A volume is turned and resampled to the axes of the patient at 1 mm, its brain is found, its intensities are
windowed, and slices are cut at fixed distances below the top of the brain. Nothing is registered or warped.
"""

import csv
import hashlib
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from cohort import start_worker
from dataset import (
    ADNI_SUBJECT,
    BIDS_SUBJECT,
    NAMES_SHOWN,
    SPLIT_FOLDERS,
    UNLABELLED,
    bare_ids,
    person_of,
    read_search,
    warn,
)
from utils import Interrupted, UserError, image_sheet, load_json, progress, save_json, save_png, whole_file, write_csv

PERCENTILES = (0.5, 99.5)  # of the brain's voxels become black and white
FAINT = 0.02  # of the brightness of the brightest: less is background
LARGEST_BRAIN = 2500  # ml; a brighter body than that has its skull on: a head has 3000 and more
SMALLEST_BRAIN = 200  # ml
OPENING = 8  # mm; bridges narrower than twice that are cut between brain and scalp
SIDES = (30, 700)  # mm that a volume can measure
LABEL_COLUMNS = ("group", "research group", "diagnosis", "dx", "label")
COPIES = {"derivatives", "sourcedata"}  # folders of a BIDS tree that hold its scans once more
VIEW = (240, 256)  # pixels of a picture on the contact sheet
SIDES_OF_VIEW = (256, 256, 240)  # mm of the head, along x, y, z, that the pictures show
SCANS_PER_SHEET = 40
SECONDS_BETWEEN_SAVES = 10
DONE, FAILED = "done", "failed"
FACTS = ("orientation", "voxel_mm", "not_finite", "brain", "brain_ml", "black", "white", "first_slice", "last_slice")


class Scan(NamedTuple):
    """One volume to read: a NIfTI file, or the files of a DICOM series."""

    source: str  # path of the file, or of the folder of the series, relative to the root
    files: tuple  # names of the series' files in that folder; empty for NIfTI
    subject: str
    name: str  # what its slices are called before their number: the subject, and the scan where there are several
    label: str


# ---- finding: names → scans -------------------------------------------------------------------


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
        parts = _series(Path(root, folder), names)
        subject, detail = _who(folder if folder != "." else Path(root).resolve().name)
        for number, files in parts.items():
            found.append((folder, files, subject, f"{detail}-{number}" if len(parts) > 1 else detail))
    if not found:
        raise UserError(f"there is no NIfTI file and no DICOM series under {root}")
    scans = _named(found, label_of)
    unknown = sum(scan.label == UNLABELLED for scan in scans)
    if unknown:
        warn(f"{unknown} of {len(scans)} scans have no label and go to {UNLABELLED} (--metadata gives the table)")
    return scans


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


def _series(folder, names):
    """The DICOM files of a folder by series: {number of the series: names}."""
    import pydicom

    series = {}
    for name in names:
        try:
            header = pydicom.dcmread(folder / name, stop_before_pixels=True,
                                     specific_tags=["SeriesInstanceUID", "SeriesNumber"])
            key = str(header.get("SeriesInstanceUID", "")), str(header.get("SeriesNumber", ""))
        except Exception:  # whatever pydicom makes of broken bytes; converting says what
            key = "", "unreadable"
        series.setdefault(key, []).append(name)
    return {f"{number}" if list(zip(*series, strict=True))[1].count(number) == 1 else f"{number}.{i}": tuple(files)
            for i, ((_, number), files) in enumerate(series.items())}


def _bare(path):
    return re.sub(r"\.nii(\.gz)?$", "", path, flags=re.IGNORECASE)


def _who(path):
    """The subject that a path without suffix tells, or "", and what tells the scan from the subject's others."""
    stem = path.rpartition("/")[2]
    adni = re.search(ADNI_SUBJECT, path)
    if adni:
        images = re.findall(r"(?<![A-Za-z0-9])I\d+(?![A-Za-z0-9])", path)
        return adni[0], images[-1] if images else stem
    bids = (re.match(rf"({BIDS_SUBJECT})(?:_(.*?))??(?:_T1w)?$", stem)
            or re.search(rf"(?:^|/)({BIDS_SUBJECT})(?:/(.*))?$", path))
    return (bids[1], bids[2] or "") if bids else ("", stem)


def _named(found, label_of):
    """Scans whose names tell person and scan apart, each name once, from (source, files, subject, detail)."""
    stems = Counter(detail for _, _, subject, detail in found if not subject)
    full = [(source, files, subject or (detail if stems[detail] == 1 else _bare(source)), detail)
            for source, files, subject, detail in found]
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


def _labels(root, metadata, label_column):
    """A function of (subject, image id) that gives the label, UNLABELLED where the table does not tell."""
    own = Path(root, "participants.tsv")
    path = metadata or (own if own.is_file() else None)
    if path is None:
        if label_column:
            raise UserError(f"--label-column {label_column} needs a table: give it with --metadata")
        return lambda subject, image: UNLABELLED
    table = read_search(path, keep_default_na=False)
    wanted = [label_column.strip().casefold()] if label_column else LABEL_COLUMNS
    column = next((name for name in wanted if name in table.columns), None)
    subjects = next((name for name in ("participant_id", "subject", "subject id") if name in table.columns), None)
    if column is None or subjects is None:
        lacks = f"a column {' or '.join(wanted)}" if subjects else "a column participant_id or Subject"
        raise UserError(f"{path} lacks {lacks}: it has {', '.join(table.columns)} (--label-column names the labels')")
    labels = table[column].map(_label)
    known = table.assign(who=table[subjects].str.strip().str.removeprefix("sub-"), is_=labels)[labels != UNLABELLED]
    sure = known.groupby("who")["is_"].agg(lambda values: values.iloc[0] if values.nunique() == 1 else UNLABELLED)
    images = (dict(zip(bare_ids(known["image data id"]), known["is_"], strict=True))
              if "image data id" in table.columns else {})
    return lambda subject, image: images.get(image.removeprefix("I"),
                                             sure.get(subject.removeprefix("sub-"), UNLABELLED))


def _label(text):
    """A label as the name of a folder."""
    name = re.sub(r"[^\w+-]+", "-", text.strip()).strip("-")
    if name.casefold() in ("", "n-a", "nan", "none"):
        return UNLABELLED
    return f"label-{name}" if name.casefold() in SPLIT_FOLDERS else name


# ---- reading: files → a volume ----------------------------------------------------------------


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


def check_volume(image):
    """The same image in three dimensions with float32 voxels, and how many of them were not finite (now 0).

    Raises:
        UserError: it is not one volume, or its header does not tell reliably where left is.
    """
    import nibabel

    if not isinstance(image, nibabel.Nifti1Pair):
        raise UserError(f"it is of the kind {type(image).__name__}, not NIfTI")
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise UserError(f"it has {len(shape)} dimensions ({'x'.join(map(str, shape))}), not 3: give one volume")
    (qform, qform_code), (sform, sform_code) = image.get_qform(coded=True), image.get_sform(coded=True)
    if not qform_code and not sform_code:
        raise UserError("it has no affine (qform and sform codes are 0), so nobody can tell left from right")
    codes = ["".join(map(str, nibabel.aff2axcodes(affine))) for affine in (qform, sform) if affine is not None]
    if len(set(codes)) > 1:
        raise UserError(f"its two affines disagree on where left is (qform {codes[0]}, sform {codes[1]})")
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine)) < 1e-6:
        raise UserError("its affine is singular")
    extent = np.array(shape) * nibabel.affines.voxel_sizes(image.affine)
    if extent.min() < SIDES[0] or extent.max() > SIDES[1]:
        raise UserError(f"it measures {'x'.join(f'{side:.0f}' for side in extent)} mm, which no scan of a head does")
    voxels = image.get_fdata(dtype=np.float32).reshape(shape)
    finite = np.isfinite(voxels)
    voxels = np.where(finite, voxels, 0)
    if np.ptp(voxels) == 0:
        raise UserError("all its voxels are the same")
    return nibabel.Nifti1Image(voxels, image.affine), int((~finite).sum())


# ---- cutting: a volume → slices ---------------------------------------------------------------


def cut(image, slices=20, spacing=1.0, depth=57.5, image_size=(240, 256)):
    """Axial slices of a head: rows from anterior to posterior, columns from the patient's left to right.

    Args:
        image: nibabel NIfTI image of one head, in any orientation, oblique or not, with voxels of any size.
        slices: int, how many (N).
        spacing: mm between them, at least 1; each is the nearest plane of 1 mm.
        depth: mm from the top of the brain down to the middle of the slices.
        image_size: (height, width) in pixels of 1 mm; the brain is centred in it.

    Returns:
        images: (N, H, W) uint8, 0 outside the brain, the lowest slice first.
        heights: (N,) int, mm of each above the lowest plane of the volume.
        views: (3, 240, 256) uint8: the middle slice; a coronal and a sagittal view of what was read, with the outline
            of the brain and the range of the slices.
        facts: dict, for the manifest.

    Raises:
        UserError: it holds no brain, or the slices do not fit into it or it into them.
    """
    import nibabel

    image, not_finite = check_volume(image)
    head = _at_one_millimetre(image, order=3)  # (X, Y, Z) float32: x to the right, y to anterior, z up
    body = _bright_body(image.get_fdata(dtype=np.float32))
    litres = body.sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1e6
    stripped = litres * 1000 <= LARGEST_BRAIN
    if stripped:
        body = nibabel.Nifti1Image(body.astype(np.float32), image.affine)
        brain = _at_one_millimetre(body, order=1) > 0.5
    else:
        brain = extract_brain(head)
    if brain.sum() < SMALLEST_BRAIN * 1000:
        raise UserError(f"no brain is found in it: what is bright measures {brain.sum() / 1000:.0f} ml")
    low, high = np.percentile(head[brain], PERCENTILES)
    grey = np.rint(255 * np.clip((head - low) / max(high - low, 1e-12), 0, 1)).astype(np.uint8)

    planes = np.flatnonzero(brain.any((0, 1)))
    heights = np.floor(planes[-1] - depth + spacing * (np.arange(slices) - (slices - 1) / 2) + 0.5).astype(int)
    if heights[0] < planes[0] or heights[-1] > planes[-1]:
        raise UserError(f"its brain is {planes[-1] - planes[0] + 1} mm high and the slices reach from "
                        f"{planes[-1] - heights[-1]} to {planes[-1] - heights[0]} mm below the top: choose another "
                        "--depth or fewer --slices")
    inside = brain[:, :, heights]
    images = _framed(np.where(inside, grey[:, :, heights], 0), inside, image_size)
    views = _views(grey, brain, heights)
    facts = {"orientation": "".join(nibabel.aff2axcodes(image.affine)),
             "voxel_mm": "x".join(f"{side:.3g}" for side in nibabel.affines.voxel_sizes(image.affine)),
             "not_finite": not_finite, "brain": "already stripped" if stripped else "extracted",
             "brain_ml": int(brain.sum() // 1000), "black": f"{low:.6g}", "white": f"{high:.6g}",
             "first_slice": int(heights[0]), "last_slice": int(heights[-1])}
    return images, heights, views, facts


def _at_one_millimetre(image, order):
    """The voxels of an image on the axes R, A, S of the patient, 1 mm apart: (X, Y, Z) float32."""
    from nibabel.processing import resample_to_output

    return resample_to_output(image, 1.0, order=order).get_fdata(dtype=np.float32)


def _bright_body(voxels):
    """The largest connected body that differs from the background, which is what the corners show: bool."""
    background = np.median(voxels[::voxels.shape[0] - 1, ::voxels.shape[1] - 1, ::voxels.shape[2] - 1])
    contrast = np.abs(voxels - background)
    return _largest(contrast > FAINT * np.percentile(contrast, 99.5))


def _largest(mask):
    """The largest connected body of a mask, its holes filled."""
    bodies, _ = ndimage.label(mask)
    sizes = np.bincount(bodies.ravel())
    sizes[0] = 0
    return ndimage.binary_fill_holes(bodies == sizes.argmax()) if sizes.any() else mask


def extract_brain(head):
    """The brain in a head with its skull on, (X, Y, Z) at 1 mm: a mask, by dipy and an opening.

    Skull and the fluid around the brain are dark in T1: Otsu's threshold leaves brain and scalp, joined by threads that
    the opening cuts. Some mm of cortex may go and some muscle stay; the contact sheet shows it.

    Raises:
        UserError: dipy is not installed.
    """
    if find_spec("dipy") is None:
        raise UserError("it has its skull on; taking it off needs dipy: pip install dipy==1.12.1")
    from dipy.segment.mask import median_otsu

    coarse = ndimage.zoom(head, 0.5, order=1, grid_mode=True, mode="nearest")  # (X / 2, Y / 2, Z / 2), 2 mm
    tissue = np.pad(median_otsu(coarse, median_radius=1, numpass=1)[1], OPENING)
    core = _largest(2 * ndimage.distance_transform_edt(tissue) > OPENING)
    brain = tissue & (2 * ndimage.distance_transform_edt(~core) <= OPENING)
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(brain, iterations=3))  # sulci and ventricles, too
    brain = brain[OPENING:-OPENING, OPENING:-OPENING, OPENING:-OPENING]
    return ndimage.zoom(brain.astype(np.float32), np.array(head.shape) / brain.shape, order=1, grid_mode=True,
                        mode="nearest") > 0.5


def _framed(planes, inside, size):
    """Planes (X, Y, N) as images (N, height, width), anterior at the top, left at the left, the brain centred."""
    (box,) = ndimage.find_objects(inside.any(2).astype(int))
    width, height = (side.stop - side.start for side in box)
    if height > size[0] or width > size[1]:
        raise UserError(f"its brain measures {height}x{width} mm and does not fit into --image-size {size[0]} "
                        f"{size[1]}, of 1 mm pixels (train.py --image-size makes them smaller)")
    images = np.zeros((planes.shape[2], *size), np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    images[:, top: top + height, left: left + width] = planes[box].transpose(2, 1, 0)[:, ::-1]
    return images


def _views(grey, brain, heights):
    """The middle slice, and a coronal and a sagittal plane with the outline of the brain and the range of the slices.

    The left is at the left of the first two, the front at the right of the third: (3, 240, 256) uint8.
    """
    outlined = np.where(brain & ~ndimage.binary_erosion(brain), 255, grey)
    centre = [int(place) for place in ndimage.center_of_mass(brain)]
    x, y, z = (slice(place + side // 2, place + side // 2 + side)  # of planes with a margin of ``side``
               for place, side in zip(centre, SIDES_OF_VIEW, strict=True))
    middle = heights[len(heights) // 2]
    axial = np.pad(np.where(brain[:, :, middle], grey[:, :, middle], 0), SIDES_OF_VIEW[0])[x, y]  # (256, 256)
    views = [axial.T[::-1][8:-8]]
    for plane, across in ((outlined[:, centre[1]], x), (outlined[centre[0]], y)):  # (X, Z) and (Y, Z)
        plane[::3, [heights[0], heights[-1]]] = 255
        views.append(np.pad(plane, [(SIDES_OF_VIEW[0],) * 2, (SIDES_OF_VIEW[2],) * 2])[across, z].T[::-1])
    return np.stack(views)


# ---- the job: a folder → a folder -------------------------------------------------------------


def make_slices(root, out, metadata=None, label_column=None, workers=None, **options):
    """Cut every scan under ``root`` into out/train/<label>/<subject>_<slice>.png, and say for each what was done.

    ``out`` gets manifest.csv, a row for each scan; contact_sheet.png, and more where there are many; and volumes.json,
    the settings. The same call goes on after an interruption, and tries again what failed.

    Args:
        metadata, label_column: as in ``find_scans``.
        workers: number of processes (default: one per core, at most 8).
        options: slices, spacing, depth and image_size, as in ``cut``.

    Returns:
        The rows of the manifest, a list of dicts.

    Raises:
        UserError: there is nothing to cut, or all of it fails, or ``out`` holds finished slices or something else.
        Interrupted: by Ctrl-C.
    """
    out = Path(out)
    _check_out(out)
    scans = find_scans(root, metadata, label_column)
    listed = "\n".join(f"{scan.source}\0{scan.name}\0{scan.label}" for scan in scans)
    settings = {"finished": False, **options, "scans": hashlib.sha256(listed.encode()).hexdigest()}
    rows = _rows_so_far(out, settings)
    try:
        (out / ".views").mkdir(parents=True, exist_ok=True)
        save_json(out / "volumes.json", settings)
        _convert_all(root, out, scans, rows, options, workers)
        failed = [row for row in rows.values() if row["status"] == FAILED]
        if len(failed) == len(scans):
            shutil.rmtree(out)  # it holds nothing but reasons
            raise UserError(f"none of the {len(scans)} scans under {root} can be used{_reasons(failed)}")
        _contact_sheets(out, [rows[scan.name] for scan in scans])
        save_json(out / "volumes.json", settings | {"finished": not failed})
    except OSError as error:
        raise UserError(f"{error.filename or out} cannot be written ({error.strerror or error}): choose another --out, "
                        "or free some space and go on with the same command") from None
    if failed:
        warn(f"{len(failed)} of {len(scans)} scans cannot be used; the same command tries them again{_reasons(failed)}")
    return [rows[scan.name] for scan in scans]


def _check_out(out):
    """Refuse a place that holds finished slices, or anything that is not ours."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: choose a new folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    settings = load_json(out / "volumes.json") if (out / "volumes.json").is_file() else None
    if not isinstance(settings, dict) or "finished" not in settings:
        raise UserError(f"--out {out} holds something other than slices of volumes: choose a new folder")
    if settings["finished"]:
        raise UserError(f"--out {out} holds finished slices and is left alone: choose another, or look at them with "
                        f"python dataset.py --data {out}")


def _rows_so_far(out, settings):
    """The rows of the scans that an earlier call with the same settings has done: {name: row}."""
    if not (out / "volumes.json").is_file():
        return {}
    earlier = load_json(out / "volumes.json")
    for name, value in json.loads(json.dumps(settings)).items():
        if earlier.get(name) != value:
            what = "of other scans or labels" if name == "scans" else f"with --{name.replace('_', '-')} {earlier[name]}"
            raise UserError(f"--out {out} holds unfinished slices {what}: give the same flags to go on, or another "
                            "--out")
    if not (out / "manifest.csv").is_file():
        return {}
    with open(out / "manifest.csv", newline="", encoding="utf-8") as file:
        return {row["scan"]: row for row in csv.DictReader(file) if row["status"] == DONE}


def _convert_all(root, out, scans, rows, options, workers):
    """Convert the scans that have no row yet, and save the rows now and then, and when interrupted."""
    pending = [scan for scan in scans if scan.name not in rows]
    if rows:
        print(f"{len(rows)} of {len(scans)} scans were done before")
    saved = time.monotonic()
    try:
        for row in progress(_converted(root, out, pending, options, workers), total=len(pending), desc="cutting",
                            unit=" scans"):
            rows[row["scan"]] = row
            if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                _save_rows(out, rows)
                saved = time.monotonic()
    except KeyboardInterrupt:
        raise Interrupted(signal.SIGINT, "stopped: the same command goes on from there") from None
    except BrokenProcessPool:
        raise UserError("a worker was killed, as the system does when memory is short: go on with the same command and "
                        "fewer --workers") from None
    finally:
        _save_rows(out, rows)


def _converted(root, out, scans, options, workers):
    """Yield the row of each scan as it is done."""
    workers = min(workers or min(os.cpu_count() or 1, 8), len(scans))
    if workers <= 1:
        yield from (_convert(root, out, options, scan) for scan in scans)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=start_worker)
    try:
        futures = [pool.submit(_convert, root, out, options, scan) for scan in scans]
        yield from (future.result() for future in as_completed(futures))
    finally:
        pool.shutdown(cancel_futures=True)


def _convert(root, out, options, scan):
    """Cut one scan and write its slices; its row of the manifest, which says why when it cannot be used."""
    row = {"scan": scan.name, "subject": scan.subject, "label": scan.label, "source": scan.source, "status": FAILED,
           "reason": "", **dict.fromkeys(FACTS, "")}
    try:
        images, heights, views, facts = cut(read_scan(root, scan), **options)
    except Exception as error:  # whatever a reader makes of broken bytes
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return row | {"reason": lines[0] if isinstance(error, UserError) else f"it cannot be read ({lines[0]})"}
    folder = out / "train" / scan.label
    folder.mkdir(parents=True, exist_ok=True)
    for image, height in zip(images, heights, strict=True):
        with whole_file(folder / f"{scan.name}_{height}.png") as temporary:
            save_png(temporary, image)
    with whole_file(out / ".views" / f"{scan.name}.png") as temporary:
        save_png(temporary, np.concatenate(views))
    return row | facts | {"status": DONE}


def _save_rows(out, rows):
    if rows:
        write_csv(out / "manifest.csv", [rows[name] for name in sorted(rows)])


def _reasons(failed):
    """The first scans that failed, a line each."""
    lines = [f"{row['source']}: {row['reason']}" for row in failed[:NAMES_SHOWN]]
    lines += [f"and {len(failed) - NAMES_SHOWN} more"] if len(failed) > NAMES_SHOWN else []
    return "".join(f"\n  {line}" for line in lines)


def _contact_sheets(out, rows):
    """Three pictures of every scan that was cut: contact_sheet.png, contact_sheet_2.png …"""
    rows = [row for row in rows if row["status"] == DONE]
    for start in range(0, len(rows), SCANS_PER_SHEET):
        some, views, captions = rows[start: start + SCANS_PER_SHEET], [], []
        for row in some:
            with Image.open(out / ".views" / f"{row['scan']}.png") as picture:
                views.append(np.asarray(picture).reshape(3, *VIEW, 1))
            captions += [row["scan"][-24:], row["label"][-24:], row["brain"]]
        page = start // SCANS_PER_SHEET + 1
        image_sheet(out / f"contact_sheet{'' if page == 1 else f'_{page}'}.png", np.concatenate(views),
                    6 if len(some) > 1 else 3, captions=captions,
                    title="middle slice and coronal view (left at the left), sagittal view (front at the right)")


def summary(rows, out):
    """What was made, and what to do next."""
    done = [row for row in rows if row["status"] == DONE]
    labels = Counter(row["label"] for row in done)
    brains = Counter(row["brain"] for row in done)
    return (f"{len(done)} of {len(rows)} scans of {len({row['subject'] for row in done})} people cut: "
            f"{', '.join(f'{count} {label}' for label, count in sorted(labels.items()))}; "
            f"brains: {', '.join(f'{count} {how}' for how, count in sorted(brains.items()))}\n"
            f"look at {Path(out) / 'contact_sheet.png'}, which shows where the brains were found; then "
            f"python train.py --data {out}")
