"""What a file's name and folders say: person, slice, label and split."""

import re

import numpy as np

from utils import UserError, warn

UNLABELLED = "unlabelled"
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "validate": "validation",
    "val": "validation",
    "valid": "validation",
}
OASIS_PREFIX = "keras_png_slices_"
NAME_PATTERN = r"^(?P<subject>.+?)[_-](?:slice[_-]?)?(?P<slice>\d{1,9})(?:\.nii)?\.(?:png|jpe?g)$"
BIDS_SUBJECT = r"sub-[A-Za-z0-9]+"
ADNI_SUBJECT = r"(?<!\d)\d{3}_S_\d{4,5}(?!\d)"


def compile_pattern(subject_pattern=None):
    """The compiled pattern of a file name: the user's, or NAME_PATTERN.

    Raises:
        UserError: it is no regular expression, or lacks one of the groups subject and slice.
    """
    try:
        pattern = re.compile(subject_pattern or NAME_PATTERN, re.IGNORECASE)
    except re.error as error:
        raise UserError(f"--subject-pattern {subject_pattern!r} is not a regular expression ({error})") from None
    missing = {"subject", "slice"} - set(pattern.groupindex)
    if missing:
        raise UserError(f"--subject-pattern {subject_pattern!r} lacks the group (?P<{sorted(missing)[0]}>…)")
    return pattern


def split_and_label(folders):
    """What the folders that lead to an image say, a tuple of str from the top: the split ("" for none) and the label.

    The label is the folder below that of the split, else the last folder.
    """
    for level in reversed(range(len(folders))):
        split = SPLIT_FOLDERS.get(folders[level].casefold().removeprefix(OASIS_PREFIX))
        if split:
            return split, folders[level + 1] if level + 1 < len(folders) else UNLABELLED
    return "", folders[-1] if folders else UNLABELLED


def read_names(paths, subject_pattern=None):
    """The scan and the slice number that each file name tells.

    An image whose name tells none is a scan of its own; with a pattern of the user's it has the scan None instead,
    and is to be left out. A warning counts such images.

    Args:
        paths: list of str, with forward slashes; the pattern is searched in what follows the last.

    Returns:
        list of str or None, and (N,) int64.

    Raises:
        UserError: the pattern of the user's cannot be used or matches nothing.
    """
    pattern = compile_pattern(subject_pattern)
    scans, numbers, odd = [], [], []
    for path in paths:
        match = pattern.search(path.rpartition("/")[2])
        scan, number = (match["subject"], match["slice"]) if match else (None, None)
        if not scan or not number:
            odd.append(path)
            scan, number = (None if subject_pattern else path.rpartition(".")[0]), 0
        scans.append(scan)
        numbers.append(number)
    _tell_odd_names(odd, len(paths), subject_pattern)
    try:
        return scans, np.array([int(number) for number in numbers], np.int64)
    except (ValueError, OverflowError) as error:
        raise UserError(f"--subject-pattern {subject_pattern!r}: the group slice must be a number ({error})") from None


def _tell_odd_names(odd, total, subject_pattern):
    """Warn of names that tell nothing; refuse a pattern of the user's that fits none."""
    if len(odd) == total and subject_pattern is not None:
        raise UserError(
            f"--subject-pattern {subject_pattern!r} matches no file name, such as {odd[0].rpartition('/')[2]}"
        )
    if odd:
        fate = "are left out" if subject_pattern else "count as a person each (--subject-pattern says how to read them)"
        warn(f"{len(odd)} of {total} file names, such as {odd[0]}, do not tell whose slice they are and {fate}")


def one_spelling(labels):
    """{label: label}, those that differ in letter case only as one of them."""
    spelling = {}
    for label in sorted(labels):
        spelling.setdefault(label.casefold(), label)
    return {label: spelling[label.casefold()] for label in labels}


def person_of(scan):
    """Whose scan it is, where its name begins as BIDS or ADNI name people: sub-00_ses-1 → sub-00; else the scan."""
    person = re.match(rf"({BIDS_SUBJECT}|{ADNI_SUBJECT})_", scan)
    return person[1] if person else scan


def bare_ids(ids):
    """I12345 → 12345, and so is 002_S_0295_I12345: a Series of str."""
    return ids.str.strip().str.replace(rf"^(?:{ADNI_SUBJECT}_)?[IiDd](?=\d)", "", regex=True)
