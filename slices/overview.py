"""Who and what there is in a folder of slices, in words."""

from slices.frame import brain_crop, outside
from slices.images import size_counts
from slices.names import UNLABELLED, bare_name, find_subject, subject_of_folders
from utils import counted

EXAMPLES = 3


def reading(slices, subject_pattern=None, metadata=None):
    """How the names were read, with examples, and how many people have how many slices: a str of some lines.

    Args:
        slices: the index, with the splits or without.
        subject_pattern, metadata: what it was read with.
    """
    rows = slices.sort_values("path").iloc[[i * (len(slices) - 1) // (EXAMPLES - 1) for i in range(EXAMPLES)]]
    lines = ["how the names were read (wrong? --subject-pattern says how to read them):"]
    for row in rows.drop_duplicates("path").itertuples():
        words = f"person {row.subject} ({_source(row.path, row.subject, subject_pattern, metadata)})"
        label = "no label" if row.label == UNLABELLED else f"label {row.label}"
        lines.append(f"  {row.path}: {words}, slice {row.slice}, {label}")
    counts = slices.groupby("subject").size().value_counts().sort_index()
    return "\n".join([*lines, f"people: {_people_by_slices(counts)}"])


def _source(path, subject, subject_pattern, metadata):
    """Where in a path a person was found, in words."""
    *folders, name = path.split("/")
    if subject_pattern:
        return "by --subject-pattern" if subject in path else "by --metadata"
    if find_subject(bare_name(name))[0] == subject:
        return "the subject id in its name"
    if subject_of_folders(folders) == subject:
        return "the subject id in its folder"
    if metadata is not None and not name.startswith(subject) and subject not in folders:
        return "by --metadata"
    if name.startswith((f"{subject}_", f"{subject}-")):
        return "the name before the slice number"
    if subject in folders:
        return "its folder"
    return "the image alone, for its name tells none" if path.startswith(f"{subject}.") else "one spelling of its name"


def _people_by_slices(counts):
    """How many people have how many slices, a Series by the number of slices, in words: the commonest four."""
    commonest = counts.sort_values(ascending=False, kind="stable")[:4].sort_index()
    words = [f"{people} {'has' if people == 1 else 'have'} {slices}" for slices, people in commonest.items()]
    rest = counts.sum() - commonest.sum()
    other = f"; {rest} others have {counts.index.min()} to {counts.index.max()}" if rest else ""
    return f"{', '.join(words)} {'slice' if list(commonest.index) == [1] else 'slices'}{other}"


def overview(slices, loaded):
    """People and slices by split and label, the sizes, and where the brains lie: a str of some lines.

    Args:
        slices: the index of the N usable images, with their splits.
        loaded: their LoadedImages.
    """
    by = ["split", "label"]
    table = slices.groupby(by).agg(people=("subject", "nunique"), slices=("path", "size"))
    scans = slices.groupby([*by, "subject"]).size().groupby(by)
    table["slices per person"] = [
        f"{low}" if low == high else f"{low} to {high}" for low, high in zip(scans.min(), scans.max(), strict=True)
    ]
    height, width = loaded.images.shape[1:3]
    box = brain_crop(loaded.brain_boxes[(slices["split"] == "train").to_numpy()], (height, width), 1, margin=0)
    return (
        f"{table.reset_index().to_string(index=False)}\n"
        f"in all: {counted(slices['subject'].nunique(), 'person')}, {counted(len(slices), 'slice')} in "
        f"{counted(slices['position'].max() + 1, 'position')}; {counted(len(loaded.problems), 'file')} cannot be used\n"
        f"sizes: {size_counts(loaded.sizes)}; used at {width}x{height}\n"
        f"the brains of train lie in {box.width}x{box.height} pixels from row {box.top}, column {box.left}; "
        f"{counted(outside(loaded.brain_boxes, box).sum(), 'other slice')} beyond"
    )
