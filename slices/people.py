"""Whose slices they are: by the ids in their paths, by folders that are people, and by the fronts of their names."""

import re
from collections import defaultdict

import numpy as np
import pandas as pd

from slices.names import (
    NOBODY,
    UNLABELLED,
    bare_name,
    below_split,
    compile_pattern,
    find_subject,
    image_id,
    last_number,
    number_in,
    subject_of_folders,
)
from utils import UserError, counted, warn

MOST_SLICES = 400  # of one stack: more are many people's
MANY_FOLDERS = 12  # that hold a stack each are people: nobody has so many labels
LAST_SUFFIX = re.compile(r"\.[^.]*$")
SESSION = re.compile(
    r"(?:ses(?:sion)?|visit|scan|series|anat|t1w?|mri?|axial|ax|dicom|png|slices?|images?|baseline|bl|m)[-_ ]?\d*",
    re.IGNORECASE,
)


def read_paths(folders, subject_pattern=None, say_whose=True):
    """What the paths of images say, a row each.

    The person is the subject id anywhere in the path; else the folder that is a person's; else the front of the
    name; else the image is a person of its own. With a pattern of the user's, what it does not match is left out.

    Args:
        folders: list of (folders from the top, names of the images in the last), tuples of str.
        subject_pattern: regular expression with the groups subject and slice, searched in the names, or where it has
            a slash or fits no name in the paths.
        say_whose: warn of names that do not tell it.

    Returns:
        DataFrame of path, scan (whose slices are one stack), subject, image (ADNI's id, or None), slice, label, split.

    Raises:
        UserError: the pattern cannot be used or matches nothing.
    """
    pattern = compile_pattern(subject_pattern)
    places = [below_split(parts) for parts, _ in folders]
    levels = _person_levels([rest for _, rest in places], [names for _, names in folders])
    people = [None if level is None else rest[level] for (_, rest), level in zip(places, levels, strict=True)]
    in_paths = subject_pattern and _is_for_paths(pattern, folders)
    rows = []
    for (parts, names), (split, rest), level, person in zip(folders, places, levels, people, strict=True):
        label, prefix = _label(split, rest, level), "".join(f"{folder}/" for folder in parts)
        read = _by_pattern(pattern, prefix, in_paths) if subject_pattern else _by_name(pattern, prefix, person)
        rows += [(prefix + name, *read(name), label, split) for name in names]
    table = pd.DataFrame(rows, columns=["path", "scan", "subject", "image", "slice", "label", "split"])
    if subject_pattern:
        return _as_numbers(_matched(table, subject_pattern), subject_pattern)
    if say_whose:
        _tell_odd_names(table)
        _tell_many_labels(table, {person for person in people if person})
        _tell_nobodies(table)
    return table


# ---- one name ---------------------------------------------------------------------------------


def _by_name(pattern, prefix, folder):
    """A function of an image's name that gives its scan, subject, ADNI image id and slice number.

    Args:
        pattern: of plain names, compiled.
        prefix: the path of its folder, with a slash at the end, or "".
        folder: the name of the folder that is a person's, or None.
    """
    known, outer_image = subject_of_folders(prefix.split("/")), image_id(prefix)

    def read(name):
        stem = bare_name(name)
        subject, end = find_subject(stem)
        if subject:
            before, number = number_in(stem[end:])
            return stem[:end] + before, subject, image_id(before) or outer_image, number
        match = pattern.search(name)
        if known or folder:
            before, number = (match["subject"], int(match["slice"])) if match else last_number(stem)
            return prefix + before, known or folder, image_id(before) or outer_image, number
        if not match:
            own = prefix + LAST_SUFFIX.sub("", name)
            return own, own, outer_image, 0
        front = match["subject"]
        return front, front, image_id(front) or outer_image, int(match["slice"])

    return read


def _is_for_paths(pattern, folders):
    """Whether a pattern of the user's is to be searched in paths: it fits some and has a slash, or fits no name."""
    if "/" in pattern.pattern and any(pattern.search("/".join((*parts, n))) for parts, names in folders for n in names):
        return True
    return not any(pattern.search(name) for _, names in folders for name in names)


def _by_pattern(pattern, prefix, in_paths):
    """As ``_by_name``, by the user's pattern, searched in paths or in names; the scan is None where it is not found."""

    def read(name):
        match = pattern.search(prefix + name if in_paths else name)
        if not match or not match["subject"] or not match["slice"]:
            return None, None, None, 0
        return match["subject"], match["subject"], image_id(match["subject"]), match["slice"]

    return read


def _as_numbers(table, subject_pattern):
    try:
        return table.assign(slice=np.array([int(number) for number in table["slice"]], np.int64))
    except (ValueError, OverflowError) as error:
        raise UserError(f"--subject-pattern {subject_pattern!r}: the group slice must be a number ({error})") from None


# ---- folders ----------------------------------------------------------------------------------


def _label(split, rest, level):
    """The label of a folder ``rest`` below its split: the folder above the person, below the split, or the last."""
    if level == 0 or not rest:
        return UNLABELLED
    if split:
        return rest[0]
    return rest[-1] if level is None else rest[level - 1]


def _person_levels(rests, names):
    """Which of the folders that lead to images is a person: an int for each, or None.

    Args:
        rests: the folders of each below that of the split, tuples of str.
        names: the images in each.
    """
    levels = [next((i for i, part in enumerate(rest) if find_subject(part, folder=True)[0]), None) for rest in rests]
    by_depth = defaultdict(list)
    for i, (rest, level) in enumerate(zip(rests, levels, strict=True)):
        if level is None and rest:
            by_depth[len(rest)].append(i)
    for same_depth in by_depth.values():
        level = _stack_level([rests[i] for i in same_depth], [_is_stack(names[i]) for i in same_depth])
        for i in same_depth:
            levels[i] = level
    return levels


def _is_stack(names):
    """Whether names differ in nothing but their last number."""
    if len(names) > MOST_SLICES:
        return False
    front, _ = last_number(bare_name(names[0]))
    found = [last_number(bare_name(name)) for name in names]
    return all(other == front for other, _ in found) and len(set(found)) == len(names)


def _stack_level(rests, stacks):
    """The level at which folders of one depth, most of which hold one stack, are people; None where none is."""
    if sum(stacks) < 0.9 * len(stacks):
        return None
    level = len(rests[0]) - 1
    while level > 0 and _are_visits(rests, level):
        level -= 1
    people = {rest[level] for rest in rests}
    if level == 0:
        templates = {re.sub(r"\d+", "#", name) for name in people}
        return level if len(templates) == 1 and _numbered(people, 2) else None
    places = {rest[: level + 1] for rest in rests}
    several_labels = len({place[:-1] for place in places}) > 1 and len(places) == len(people) > 2
    return level if _numbered(people, 2) or several_labels or len(people) >= MANY_FOLDERS else None


def _are_visits(rests, level):
    """Whether the folders at a level are visits of the people above: they are called so, or the same in several."""
    names, places = {rest[level] for rest in rests}, {rest[: level + 1] for rest in rests}
    above = {rest[level - 1] for rest in rests}
    if all(SESSION.fullmatch(name) for name in names):
        return _numbered(above, 1)
    return len(places) > len(names) and _numbered(above, 2)


def _numbered(names, digits):
    """Whether two names or more have a number each, one of them of so many digits at least."""
    return (
        len(names) > 1
        and all(re.search(r"\d", name) for name in names)
        and any(re.search(rf"\d{{{digits}}}", name) for name in names)
    )


# ---- what is said of them ---------------------------------------------------------------------


def _matched(table, subject_pattern):
    """The rows that a pattern of the user's fits, of which there must be some; the others are warned of."""
    odd = table["path"][table["scan"].isna()]
    if len(odd) == len(table):
        raise UserError(f"--subject-pattern {subject_pattern!r} matches no file name, such as {odd.iloc[0]}")
    _tell_odd(odd, len(table), "are left out")
    return table[table["scan"].notna()]


def _tell_odd_names(table):
    """Warn of names that tell nothing."""
    odd = table["path"][table["subject"] == table["path"].str.replace(LAST_SUFFIX, "", regex=True)]
    odd = odd[[find_subject(path)[0] is None for path in odd]]
    _tell_odd(odd, len(table), "count as a person each (--subject-pattern says how to read them)")


def _tell_odd(odd, total, fate):
    if len(odd):
        warn(f"{len(odd)} of {total} file names, such as {odd.iloc[0]}, do not tell whose slice they are and {fate}")


def _tell_many_labels(table, folders):
    """Warn of people, folders all of them, that are under several labels: numbers may begin anew in each."""
    labels = table[table["subject"].isin(folders)].groupby("subject")["label"].nunique()
    several = labels.index[labels > 1]
    if len(several):
        warn(
            f"folders under several labels ({len(several)}, such as {several[0]}) count as one person each: where they "
            "are not, rename them, or take the label into --subject-pattern"
        )


def _tell_nobodies(table):
    """Warn of names whose front is nobody's id: what any image is called, or what all of a label are called."""
    plain = table[(table["subject"] == table["scan"]) & ~table["scan"].str.contains("/", regex=False)]
    if plain.empty:
        return
    scans = plain.groupby("scan").agg(path=("path", "first"), slices=("path", "size"))
    nobody = {scan for scan in scans.index if NOBODY.fullmatch(scan)}
    labels = plain[plain["label"] != UNLABELLED].groupby(["split", "label"])["scan"]
    alone = labels.agg(lambda scans: scans.iloc[0] if scans.nunique() == 1 and len(scans) > 1 else None).dropna()
    nobody |= {scan for scan in alone if not re.search(r"\d", scan) or scans["slices"][scan] > MOST_SLICES}
    if nobody:
        first = min(nobody)
        warn(
            f"the word before the number, such as {first}, is no person's in "
            f"{counted(scans['slices'][list(nobody)].sum(), 'name')}, such as {scans['path'][first]}, "
            "and all images of one such word count as one person: give "
            "--subject-pattern, which sees the path below the data folder and names its (?P<subject>…) and (?P<slice>…)"
        )
