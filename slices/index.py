"""The index of the slices: one row each, read from names alone; and the tables that go with it."""

import os
import re
import stat
from collections import deque
from pathlib import Path

import numpy as np
import pandas as pd

from slices.names import bare_ids, compile_pattern, copied_from, no_slice, one_spelling
from slices.people import read_paths
from slices.tables import match_ids, read_search, with_ids
from utils import UserError, check_folder, counted, warn

COLUMNS = ["path", "subject", "scan", "slice", "position", "label", "split"]
SUFFIXES = (".png", ".jpg", ".jpeg")
NUMBER = re.compile(r"\d+")


def find_slices(root, subject_pattern=None, metadata=None, say_whose=True):
    """The index of every PNG and JPEG under ``root``, read from names alone.

    Understood are [AD_NC/]{train,test}/<label>/<id>_<slice>.png, keras_png_slices_{train,validate,test}/
    case_001_slice_0.nii.png, a folder of images, a folder per label, and in it one per person, in any letter case;
    and the subject ids of ADNI, OASIS and BIDS anywhere in a path. Masks, label maps and copies are left out, aloud.

    Args:
        root: folder.
        subject_pattern: regular expression with the groups ``subject`` and ``slice``, searched in file names, and
            where it has a slash or matches none of them in their paths below ``root``.
        metadata: the table of an ADNI search; its columns Image Data ID and Subject tell which images are one person's.
        say_whose: warn of names that do not tell whose slices they are.

    Returns:
        DataFrame sorted by split, label, subject, slice: path (relative, with forward slashes), subject, scan (whose
        slices are one stack; a person may have several), slice (int, from the name), position (int, the bin of the
        slice's rank in its scan), label (UNLABELLED where the folders say none), split (train, validation, test, or ""
        where they do not say).

    Raises:
        UserError: there is no such folder, no image in it, or the pattern or metadata do not fit.
    """
    check_folder(root)
    compile_pattern(subject_pattern)  # a wrong one is told before a long walk
    slices = read_paths(_walk(root), subject_pattern, say_whose)
    slices["label"] = slices["label"].map(one_spelling(set(slices["label"])))
    positioned = slices[["scan", "slice", "path"]].rename(columns={"scan": "subject"}).astype({"subject": "category"})
    slices["position"] = positions(positioned)
    if metadata is not None:
        slices["subject"] = _people(slices, metadata)
    slices["subject"] = slices["subject"].map(one_spelling(set(slices["subject"])))
    slices = slices.astype({"subject": "category", "label": "category", "split": "category"})  # quick to sort
    slices = slices.sort_values(["split", "label", "subject", "slice", "path"], ignore_index=True)
    texts = {"subject": str, "scan": str, "label": str, "split": str}
    return slices.astype({**texts, "slice": int, "position": int})[COLUMNS]


def given_slices(images, subject_pattern=None, metadata=None):
    """The folder of the slices that a command is given, a Path, and their index: those under a folder, or one file.

    Args:
        images: the folder, or the file.
        subject_pattern, metadata: as in ``find_slices``; a file's person is told by its name.

    Raises:
        UserError: there is neither, or no image under the folder.
    """
    if not os.path.isfile(images):
        return Path(images), find_slices(images, subject_pattern, metadata)
    folder, name = os.path.split(images)
    return Path(folder), read_paths([((), (name,))], subject_pattern, say_whose=False)


def positions(slices):
    """The rank of each slice in its scan (``subject``), lowest first, in P bins: P is the commonest number of slices.

    Returns:
        Series of int from 0 to P - 1, with the index of ``slices``.
    """
    sizes = slices.groupby("subject", observed=True)["slice"].transform("size")
    scan_sizes = slices.groupby("subject", observed=True).size()
    bins = scan_sizes.mode().max()
    rank = slices.sort_values(["subject", "slice", "path"]).groupby("subject", observed=True).cumcount()
    return rank * bins // sizes


# ---- the walk ---------------------------------------------------------------------------------


def _walk(root):
    """The folders under ``root`` with their images: a list of (folders from the top, names), tuples of str.

    What is no slice by its name is left out and counted.

    Raises:
        UserError: there is none, or a folder cannot be read.
    """
    found, left_out = [], {"mask": [], "clutter": [], "copy": []}
    for folders, names in _image_folders(root):
        there = set(names)
        reasons = [no_slice(folders, name) or ("copy" if copied_from(name) in there else None) for name in names]
        for name, reason in zip(names, reasons, strict=True):
            if reason:
                left_out[reason].append("/".join((*folders, name)))
        names = tuple(name for name, reason in zip(names, reasons, strict=True) if not reason)
        if names:
            found.append((folders, names))
    _tell_left_out(root, left_out, bool(found))
    if not found:
        raise UserError(f"there is no PNG or JPEG image under {root}")
    return found


def _tell_left_out(root, left_out, any_left):
    """Say what is no slice; refuse a folder in which nothing else is."""
    for reason, what in (
        ("mask", "masks, segmentation maps or label maps by their names or their folders'"),
        ("clutter", "thumbnails of a file server or left-overs of an archiver"),
        ("copy", "copies, by their names, of images beside them"),
    ):
        paths = left_out[reason]
        if not paths:
            continue
        if not any_left:
            raise UserError(
                f"all images under {root}, such as {paths[0]}, are {what}: give the folder of the brain images"
            )
        warn(f"{counted(len(paths), 'image')} left out, such as {paths[0]}: {what}")


def _image_folders(root):
    """Yield (relative parts, image names) of each folder that holds images; every folder once, links last."""
    pending, seen = deque([()]), set()
    while pending:
        parts = pending.popleft()
        try:
            status = os.stat(os.path.join(root, *parts))
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            names, folders, links = _scan(os.path.join(root, *parts))
        except OSError as error:
            raise UserError(f"the folder {os.path.join(root, *parts)} cannot be read ({error.strerror})") from None
        pending.extendleft((*parts, name) for name in sorted(folders, reverse=True))
        pending.extend((*parts, name) for name in sorted(links))
        if names:
            yield parts, names


def _scan(folder):
    """Names of the images, the folders and the linked folders in ``folder``, without a stat per file."""
    names, folders, links = [], [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                (links if entry.is_symlink() else folders).append(entry.name)
            elif (
                entry.name.lower().endswith(SUFFIXES)
                and not entry.name.startswith("contact_sheet")
                and _may_be_image(entry)
            ):
                names.append(entry.name)
    unprintable = [name for name in (*names, *folders, *links) if not name.isprintable()]
    if unprintable:
        warn(
            f"{counted(len(unprintable), 'name')} of files or folders left out in {folder!a} as unprintable: "
            f"rename {unprintable[0]!a}"
        )
    return tuple([name for name in found if name.isprintable()] for found in (names, folders, links))


def _may_be_image(entry):
    """Whether it is a file, or a link to one or to nothing, which is then named among what cannot be read."""
    if not entry.is_symlink():
        return entry.is_file()
    try:
        return stat.S_ISREG(entry.stat().st_mode)  # reading a pipe would never end
    except OSError:
        return True


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


# ---- tables -----------------------------------------------------------------------------------


def _people(slices, metadata):
    """Whose each slice is by the table of an ADNI search: a Series of str.

    An image is found by its id, be it the front of its name or the last I… in its path, else by its subject. What the
    table does not list keeps its person.
    """
    table = with_ids(read_search(metadata))
    if not {"image data id", "subject"} <= set(table.columns):
        raise UserError(
            f"{metadata} lacks the columns Image Data ID and Subject of the ADNI search: it has "
            f"{', '.join(map(repr, table.columns))}"
        )
    table = pd.DataFrame({"image": bare_ids(table["image data id"]), "subject": table["subject"]})
    table = table[(table["subject"] != "") & (table["image"] != "")].drop_duplicates()
    twice = table["image"][table["image"].duplicated()]
    if len(twice):
        raise UserError(f"{metadata} gives the image {twice.iloc[0]} to several people")
    by_image = table.set_index("image")["subject"].to_dict()
    scans = slices[["scan", "subject", "image"]].drop_duplicates("scan").set_index("scan")
    ids = pd.DataFrame({"front": bare_ids(pd.Series(scans.index, scans.index, str)), "last": scans["image"]})
    images = match_ids([*ids["front"], *ids["last"].dropna()], list(by_image), str(metadata))
    subjects = {one: one for one in by_image.values()}
    people = ids["last"].map(images).fillna(ids["front"].map(images)).map(by_image)
    people = people.fillna(scans["subject"].map(subjects))
    if people.isna().all():
        raise UserError(f"{metadata} lists none of the images, such as {scans.index[0]}")
    if people.isna().any():
        warn(f"{people.isna().sum()} of {len(scans)} image ids are not in {metadata} and keep the person of their name")
    return slices["scan"].map(people.fillna(scans["subject"]))


def read_slices(folder):
    """The index of a run, slices.csv in its folder (a Path), as a DataFrame; every row has one of the three splits.

    Earlier versions wrote no scans: those are read from the paths.

    Raises:
        UserError: it is missing or damaged, or names files outside the folder of the slices.
    """
    path = folder / "slices.csv"
    try:
        slices = pd.read_csv(
            path,
            dtype={
                **dict.fromkeys(("path", "subject", "scan", "label", "split"), str),
                **dict.fromkeys(("slice", "position"), "int64"),
            },
            keep_default_na=False,
        )
        if "scan" not in slices and {"path", "slice"} <= set(slices.columns):
            scans = [scan_of(*each) for each in zip(slices["path"], slices["slice"], strict=True)]
            slices.insert(2, "scan", scans)
        missing = set(COLUMNS) - set(slices.columns)
        if missing:
            raise ValueError(f"the column {min(missing)} is missing")
        if not set(slices["split"]) <= {"train", "validation", "test"} or (slices["position"] < 0).any():
            raise ValueError("a split or a position is none")
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in slices["path"]):
            raise ValueError("a path leads out of the folder of the slices")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be used ({error}): put the original back") from None
    return slices


def scan_of(path, number):
    """The name of the scan that a slice belongs to: its path without the last of its numbers that is the slice's.

    Args:
        path: str.
        number: int, that of the slice.
    """
    own = [match for match in NUMBER.finditer(path) if int(match[0]) == number]
    return path[: own[-1].start()] + path[own[-1].end() :] if own else path


def condition_ids(slices, labels):
    """The prior's conditions of each slice: label and position (N,) int32 from 1, 0 for an unknown label."""
    ids = {label: i + 1 for i, label in enumerate(labels)}
    return {
        "label": slices["label"].map(ids).fillna(0).to_numpy(np.int32),
        "position": slices["position"].to_numpy(np.int32) + 1,
    }
