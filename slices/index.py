"""The index of the slices: one row each, read from names alone; and the tables that go with it."""

import os
import stat
from collections import deque
from pathlib import Path

import numpy as np
import pandas as pd

from slices.names import OASIS_PREFIX, bare_ids, compile_pattern, one_spelling, person_of, read_names, split_and_label
from utils import UserError, check_folder, warn

COLUMNS = ["path", "subject", "slice", "position", "label", "split"]
SUFFIXES = (".png", ".jpg", ".jpeg")


def find_slices(root, subject_pattern=None, metadata=None):
    """The index of every PNG and JPEG under ``root``, read from names alone.

    Understood are [AD_NC/]{train,test}/<label>/<id>_<slice>.png, keras_png_slices_{train,validate,test}/
    case_001_slice_0.nii.png, a folder of images, and a folder per label, in any letter case.

    Args:
        root: folder.
        subject_pattern: regular expression with the groups ``subject`` and ``slice``, searched in file names.
        metadata: the ADNI search CSV; its columns Image Data ID and Subject tell which images are one person's.

    Returns:
        DataFrame sorted by split, label, subject, slice: path (relative, with forward slashes), subject,
        slice (int, from the name), position (int, the bin of the slice's rank in its scan), label
        (UNLABELLED where the folders say none), split (train, validation, test, or "" where they do not say).

    Raises:
        UserError: there is no such folder, no image in it, or the pattern or metadata do not fit.
    """
    check_folder(root)
    compile_pattern(subject_pattern)  # a wrong one is told before a long walk
    slices = _walk(root)
    slices["subject"], slices["slice"] = read_names(slices["path"].tolist(), subject_pattern)
    spelling = one_spelling(set(slices["label"]))
    if subject_pattern is not None:
        slices = slices[slices["subject"].notna()]
    slices["label"] = slices["label"].map(spelling)
    slices = slices.astype({"subject": "category", "label": "category", "split": "category"})  # quick to sort
    slices["position"] = positions(slices)
    people = {scan: scan if subject_pattern else person_of(scan) for scan in slices["subject"].cat.categories}
    if metadata is not None:
        people = _people(people, metadata)
    slices["subject"] = slices["subject"].map(people).astype("category")
    slices = slices.sort_values(["split", "label", "subject", "slice", "path"], ignore_index=True)
    return slices.astype({"subject": str, "label": str, "split": str, "slice": int, "position": int})[COLUMNS]


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
    """Path, label and split of all images, as their folders say: a DataFrame of str.

    Raises:
        UserError: there is none, or a folder cannot be read.
    """
    paths, labels, splits = [], [], []
    for folders, names in _image_folders(root):
        split, label = split_and_label(folders)
        prefix = "".join(f"{folder}/" for folder in folders)
        paths += [prefix + name for name in names]
        labels += [label] * len(names)
        splits += [split] * len(names)
    if not paths:
        raise UserError(f"there is no PNG or JPEG image under {root}")
    return pd.DataFrame({"path": paths, "label": labels, "split": splits})


def _image_folders(root):
    """Yield (relative parts, image names) of each folder that holds images; every folder once, links last."""
    pending, seen, segmentations = deque([()]), set(), 0
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
        if parts and parts[-1].casefold().startswith(OASIS_PREFIX + "seg_"):
            segmentations += len(names)
        elif names:
            yield parts, names
    if segmentations:
        warn(f"{segmentations} segmentation maps ({OASIS_PREFIX}seg_…) are no brain images and are left out")


def _scan(folder):
    """Names of the images, the folders and the linked folders in ``folder``, without a stat per file."""
    names, folders, links = [], [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith((".", "__MACOSX")):
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
            f"{len(unprintable)} files or folders in {folder!a} have unprintable names and are left out: rename "
            f"{unprintable[0]!a}"
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


def _people(named, metadata):
    """Map image ids to people by the ADNI search CSV; an image it does not list keeps its person in ``named``."""
    scans = list(named)
    table = read_search(metadata, keep_default_na=False)
    if not {"image data id", "subject"} <= set(table.columns):
        raise UserError(f"{metadata} lacks the columns Image Data ID and Subject of the ADNI search")
    table = pd.DataFrame({"image": bare_ids(table["image data id"]), "subject": table["subject"].str.strip()})
    table = table[table["subject"] != ""].drop_duplicates()
    twice = table["image"][table["image"].duplicated()]
    if len(twice):
        raise UserError(f"{metadata} gives the image {twice.iloc[0]} to several people")
    people = bare_ids(pd.Series(scans, dtype=str)).map(table.set_index("image")["subject"])
    if people.isna().all():
        raise UserError(f"{metadata} lists none of the images, such as {scans[0]}")
    if people.isna().any():
        warn(f"{people.isna().sum()} of {len(scans)} image ids are not in {metadata} and count as a person each")
    return dict(zip(scans, people.where(people.notna(), list(named.values())), strict=True))


def read_search(metadata, keep_default_na=True):
    """The CSV of an ADNI search, or a TSV, as a DataFrame of str, the names of its columns in lower case.

    Raises:
        UserError: it cannot be read.
    """
    try:
        table = pd.read_csv(
            metadata,
            dtype=str,
            keep_default_na=keep_default_na,
            skipinitialspace=True,
            sep="\t" if str(metadata).lower().endswith(".tsv") else ",",
        )
    except (OSError, ValueError) as error:
        raise UserError(f"the table {metadata} cannot be read ({error})") from None
    return table.rename(columns=lambda column: str(column).strip().casefold())


def read_slices(folder):
    """The index of a run, slices.csv in its folder (a Path), as a DataFrame; every row has one of the three splits.

    Raises:
        UserError: it is missing or damaged, or names files outside the folder of the slices.
    """
    path = folder / "slices.csv"
    try:
        slices = pd.read_csv(
            path,
            dtype={"path": str, "subject": str, "label": str, "split": str, "slice": "int64", "position": "int64"},
            keep_default_na=False,
        )
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


def condition_ids(slices, labels):
    """The prior's conditions of each slice: label and position (N,) int32 from 1, 0 for an unknown label."""
    ids = {label: i + 1 for i, label in enumerate(labels)}
    return {
        "label": slices["label"].map(ids).fillna(0).to_numpy(np.int32),
        "position": slices["position"].to_numpy(np.int32) + 1,
    }
