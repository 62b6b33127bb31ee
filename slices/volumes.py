"""A folder of scans in, a folder of slices out, in the layout of the ADNI course data; goes on where it was stopped."""

import csv
import hashlib
import json
import shutil
import signal
import time
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from slices.cutting import cut
from slices.images import first_of, save_png
from slices.processes import held, in_processes
from slices.scans import find_scans, read_scan
from slices.sheets import image_sheet
from utils import (
    Interrupted,
    Terminated,
    UserError,
    load_json,
    making_folder,
    progress,
    save_json,
    shell,
    sweep,
    warn,
    whole_file,
    write_csv,
)

SCANS_PER_SHEET = 40
SECONDS_BETWEEN_SAVES = 10
DONE, FAILED = "done", "failed"
FACTS = ("orientation", "voxel_mm", "not_finite", "brain", "brain_ml", "black", "white", "first_slice", "last_slice")


def make_slices(
    root, out, metadata=None, label_column=None, workers=None, slices=20, spacing=1.0, depth=57.5, image_size=(240, 256)
):
    """Cut every scan under ``root`` into out/train/<label>/<subject>_<slice>.png, and say for each what was done.

    ``out`` gets manifest.csv, a row for each scan; contact_sheet.png, and more where there are many; and volumes.json,
    the settings. The same call goes on after an interruption, and tries again what failed.

    Args:
        metadata, label_column: as in ``find_scans``.
        workers: number of processes (default: one per core, at most 8).
        slices, spacing, depth, image_size: as in ``cut``.

    Returns:
        The rows of the manifest, a list of dicts.

    Raises:
        UserError: there is nothing to cut, or all of it fails, or ``out`` holds finished slices or something else, or
            is being filled by another process.
        Interrupted: by Ctrl-C or SIGTERM.
    """
    out = Path(out)
    _check_out(out)
    scans = find_scans(root, metadata, label_column)
    options = {"slices": slices, "spacing": spacing, "depth": depth, "image_size": tuple(image_size)}
    listed = "\n".join(f"{scan.source}\0{scan.name}\0{scan.label}" for scan in scans)
    settings = {"finished": False, **options, "scans": hashlib.sha256(listed.encode()).hexdigest()}
    try:
        with making_folder(out), held(out, "being filled", needed=False):
            _check_out(out)  # again: another process may have been at it
            rows = _rows_so_far(out, settings)
            for folder in (out, out / ".views", *(out / "train").glob("*")):
                sweep(folder)
            (out / ".views").mkdir(exist_ok=True)
            save_json(out / "volumes.json", settings)
            _convert_all(root, out, scans, rows, options, workers)
            _finish(root, out, [rows[scan.name] for scan in scans], settings)
    except BrokenPipeError:
        raise  # whoever read the output is gone; the disk is not to blame
    except OSError as error:
        raise UserError(
            f"{error.filename or out} cannot be written ({error.strerror or error}): choose another --out, "
            "or free some space and go on with the same command"
        ) from None
    return [rows[scan.name] for scan in scans]


def _finish(root, out, rows, settings):
    """Write the contact sheets, and whether all is done; tell what was odd and what failed.

    Raises:
        UserError: everything failed.
    """
    failed = [row for row in rows if row["status"] == FAILED]
    reasons = _reasons(failed)
    if len(failed) == len(rows):
        shutil.rmtree(out)  # it holds nothing but reasons
        raise UserError(f"none of the {len(rows)} scans under {root} can be used{reasons}")
    odd = [row for row in rows if row["status"] == DONE and row["reason"]]
    if odd:
        warn(f"{len(odd)} of {len(rows)} scans are odd, and this was done about it{_reasons(odd)}")
    _contact_sheets(out, rows)
    save_json(out / "volumes.json", settings | {"finished": not failed})
    if failed:
        warn(f"{len(failed)} of {len(rows)} scans cannot be used; the same command tries them again{reasons}")


def _reasons(rows):
    return first_of([f"{row['source']}: {row['reason']}" for row in rows])


def summary(rows, out):
    """What ``make_slices`` made, and what to do next: a str of two lines."""
    done = [row for row in rows if row["status"] == DONE]
    labels = Counter(row["label"] for row in done)
    brains = Counter(row["brain"] for row in done)
    return (
        f"{len(done)} of {len(rows)} scans of {len({row['subject'] for row in done})} people cut: "
        f"{', '.join(f'{count} {label}' for label, count in sorted(labels.items()))}; "
        f"brains: {', '.join(f'{count} {how}' for how, count in sorted(brains.items()))}\n"
        f"look at {Path(out) / 'contact_sheet.png'}, which shows where the brains were found; then "
        f"{shell('python', 'train.py', '--data', out)}"
    )


# ---- what an earlier call left ----------------------------------------------------------------


def _check_out(out):
    """Refuse a place that holds finished slices, or anything that is not ours."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: choose a new folder")
    if not out.is_dir() or all(path.name == "lock" for path in out.iterdir()):
        return
    settings = load_json(out / "volumes.json") if (out / "volumes.json").is_file() else None
    if not isinstance(settings, dict) or "finished" not in settings:
        raise UserError(f"--out {out} holds something other than slices of volumes: choose a new folder")
    if settings["finished"]:
        raise UserError(
            f"--out {out} holds finished slices and is left alone: choose another, or look at them with "
            f"{shell('python', 'dataset.py', 'check', '--data', out)}"
        )


def _rows_so_far(out, settings):
    """The rows of the scans that an earlier call with the same settings has done: {name: row}."""
    if not (out / "volumes.json").is_file():
        return {}
    earlier = load_json(out / "volumes.json")
    for name, value in json.loads(json.dumps(settings)).items():
        if earlier.get(name) != value:
            what = "of other scans or labels" if name == "scans" else f"with --{name.replace('_', '-')} {earlier[name]}"
            raise UserError(
                f"--out {out} holds unfinished slices {what}: give the same flags to go on, or another --out"
            )
    if not (out / "manifest.csv").is_file():
        return {}
    with open(out / "manifest.csv", newline="", encoding="utf-8") as file:
        return {row["scan"]: row for row in csv.DictReader(file) if row["status"] == DONE}


# ---- scan by scan -----------------------------------------------------------------------------


def _convert_all(root, out, scans, rows, options, workers):
    """Convert the scans that have no row yet, and save the rows now and then, and when interrupted."""
    pending = [scan for scan in scans if scan.name not in rows]
    if rows:
        print(f"{len(rows)} of {len(scans)} scans were done before")
    saved = time.monotonic()
    try:
        with closing(in_processes(_convert, [(root, out, options, scan) for scan in pending], workers)) as converted:
            for row in progress(converted, total=len(pending), desc="cutting", unit=" scans"):
                rows[row["scan"]] = row
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    _save_rows(out, rows)
                    saved = time.monotonic()
    except KeyboardInterrupt as stopped:
        number = signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT
        raise Interrupted(number, "stopped: the same command goes on from there") from None
    except BrokenProcessPool:
        raise UserError(
            "a worker was killed, as the system does when memory is short: go on with the same command and "
            "fewer --workers"
        ) from None
    finally:
        _save_rows(out, rows)


def _convert(root, out, options, scan):
    """Cut one scan and write its slices; its row of the manifest, which says why when it cannot be used."""
    row = {
        "scan": scan.name,
        "subject": scan.subject,
        "label": scan.label,
        "source": scan.source,
        "status": FAILED,
        "reason": "",
        **dict.fromkeys(FACTS, ""),
    }
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


def _contact_sheets(out, rows):
    """Three pictures of every scan that was cut: contact_sheet.png, contact_sheet_2.png …"""
    rows = [row for row in rows if row["status"] == DONE]
    for start in range(0, len(rows), SCANS_PER_SHEET):
        some, views, captions = rows[start : start + SCANS_PER_SHEET], [], []
        for row in some:
            with Image.open(out / ".views" / f"{row['scan']}.png") as picture:
                stacked = np.asarray(picture)  # one view below the other
            views.append(stacked.reshape(3, -1, stacked.shape[1], 1))
            captions += [row["scan"][-24:], row["label"][-24:], row["brain"]]
        page = start // SCANS_PER_SHEET + 1
        image_sheet(
            out / f"contact_sheet{'' if page == 1 else f'_{page}'}.png",
            np.concatenate(views),
            6 if len(some) > 1 else 3,
            captions=captions,
            title="middle slice and coronal view (left at the left), sagittal view (front at the right)",
        )
