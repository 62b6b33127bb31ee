"""Which of the volumes under a folder are scans to cut: T1-weighted, each once, and no masks; read from names alone."""

import re

from slices.names import BIDS_SUBJECT, CLUTTER, NO_SLICES
from utils import warn

SUFFIX = re.compile(r"\.(?:nii(?:\.gz)?|(?:nifti\.)?hdr)$", re.IGNORECASE)
T1 = re.compile(r"(?:3d)?t1(?:w|n|wi|weighted)?|mprage|mpr|f?spgr|bravo")
OTHER = re.compile(
    r"(?:3d|ax|sag|cor|tra)?(?:t2(?:w|wi|f|fl|flair|starw?|tse|fse|se|spc|space|gre|map|weighted)?|flair)|pdw|pdt2"
    r"|t1(?:c|ce|gd|gad|post|km|map|rho)|bold|r?s?fmri|sbref|dwi|dti|dki|hardi|tracew|p?c?asl|cbf|swi|swan|qsm|mra|mrv"
    r"|tof|locali[sz]er|\w*scout|fieldmap|fmap|phasediff|magnitude\d?|b1map|calibration|mapping|tse|fse|haste|stir|pet"
    r"|fdg|spect"
)
MAYBE = {"pd", "ct", "fa", "md", "adc", "rest", "diff", "perf", "gre", "epi", "mt", "b0"}  # only where a T1 is beside
ENHANCED = {"ce", "gd", "gad", "gado", "gadolinium", "post", "postcontrast", "enhanced", "contrast", "km"}
ONTO = {"to", "in", "on", "reg", "registered", "coreg", "space"}  # what follows is another scan
WHOLE = {"orig", "original", "raw", "unstripped", "head"}
STRIPPED = {"bet", "brain", "stripped", "skullstripped", "ss", "noskull", "deskulled", "hdbet", "synthstrip"}
MASK = re.compile(r"(?!brain)\w*mask|\w*segmentation|dseg|probseg|aseg|labelmap|aparc|wmparc|parcellation|pveseg")
LAST = re.compile(r"segs?|labels?|masks|lesions?|rois?|parc|atlas|ribbon|pve")  # of a mask where they come last
AFTER = re.compile(r"\d+(?:mm)?|mni|resampled|reg|native|final|manual|auto|left|right|lh?|rh?|bet|brain")  # behind that
MASK_FOLDER = re.compile(rf"{NO_SLICES.pattern}|labels(?:t[rs]|va)", re.IGNORECASE)


def scans_among(paths, left):
    """The volumes that may be scans to cut, and none of them twice.

    Args:
        paths: list of str, of NIfTI files relative to the root, with forward slashes.
        left: dict of lists; what is left out is added to it, {what it is: paths}.

    Returns:
        A list of paths.
    """

    def sort_out(paths, what, is_one):
        out = {path for path in paths if is_one(path)}
        left.setdefault(what, []).extend(sorted(out))
        return [path for path in paths if path not in out]

    paths = sort_out(paths, "in folders that the system made", in_system_folder)
    paths = sort_out(paths, "NIfTI files that BIDS names other than T1w", _is_other_in_bids)
    paths = sort_out(paths, "masks or maps of labels", is_label_map)
    first = {bare(path): path for path in sorted(paths, key=_preference, reverse=True)}
    paths = sort_out(paths, "that are there in another format, too", lambda path: first[bare(path)] != path)
    twins = _originals(paths)
    return sort_out(paths, "with the skull on, beside their stripped brain", twins.__contains__)


def t1_weighted(sources, left):
    """The sources that are T1-weighted, or do not say what they are; the others join ``left``.

    Where all are of one other contrast, they are the scans that one wants.

    Args:
        sources: list of (path, files of a series or (), …, contrast as ``contrast_of`` tells it).
        left: as in ``scans_among``.
    """
    beside = {
        _but_for_contrast(path)
        for path, *_, contrast in sources
        if contrast == "T1" or contrast == "" and not MAYBE.intersection(words_of(_stem(path)))
    }
    other = [
        "" if contrast == "T1" else contrast or ("" if files else _maybe_other(path, beside))
        for path, files, *_, contrast in sources
    ]
    if all(other) and len(set(other)) == 1:
        if other:
            warn(f"all {len(sources)} scans are named {other[0]} and none T1: they are cut as they are")
        return sources
    out = [source[0] for source, word in zip(sources, other, strict=True) if word]
    left.setdefault("of other contrasts than T1", []).extend(sorted(out))
    return [source for source, word in zip(sources, other, strict=True) if not word]


def left_out(left):
    """What was left out in one sentence's end, with an example of each, or ""."""
    return "; ".join(f"{len(paths)} {what}, such as {paths[0]}" for what, paths in left.items() if paths)


# ---- what a name says -------------------------------------------------------------------------


def in_system_folder(path):
    """Whether it lies in a folder of thumbnails or attributes."""
    return any(folder.casefold() in CLUTTER for folder in path.split("/")[:-1])


def _is_other_in_bids(path):
    """Whether BIDS names it, and as something else than a plain T1-weighted volume."""
    name = path.rpartition("/")[2]
    kind = re.match(rf"{BIDS_SUBJECT}(?:_.*)?_([A-Za-z0-9]+)\.nii", name)
    return bool(kind) and (kind[1].casefold() not in ("t1w", "t1") or "_ce-" in name)


def _preference(path):
    """Of one scan in several formats the first in this order is taken."""
    return next(i for i, end in enumerate((".nii.gz", ".nii", ".hdr")) if path.lower().endswith(end)), path


def _originals(paths):
    """The paths beside which lies the same scan without its skull, a set; of several such the first stays."""
    groups, out = {}, set()
    for path in paths:
        folder, _, name = bare(path).rpartition("/")
        words = words_of(name)
        kept = tuple(word for word in words if not (word in STRIPPED or word in WHOLE or T1.fullmatch(word)))
        groups.setdefault((folder, kept), []).append((not STRIPPED.intersection(words), path))
    for group in groups.values():
        stripped = [path for whole, path in sorted(group) if not whole]
        if stripped and len(group) > 1:
            out.update(path for _, path in group if path != stripped[0])
    return out


def _but_for_contrast(path):
    """A name without its word for a contrast, and the folder where nothing else is left."""
    folder, _, name = bare(path).rpartition("/")
    words = tuple(word for word in words_of(name) if not (word in MAYBE or T1.fullmatch(word)))
    return words, "" if words else folder


def _maybe_other(path, beside):
    """The word of MAYBE in a name that lies beside one that is the same without it, or ""."""
    found = [word for word in words_of(_stem(path)) if word in MAYBE]
    return found[0] if found and _but_for_contrast(path) in beside else ""


def bare(path):
    """The path of a volume without its suffix."""
    return SUFFIX.sub("", path)


def _stem(path):
    return bare(path).rpartition("/")[2]


def contrast_of_path(path):
    """What the name of a volume says of the contrast, or else a folder that is called after one: as ``contrast_of``."""
    *folders, name = bare(path).split("/")
    alone = [folder for folder in reversed(folders) if len(words_of(folder)) == 1]
    return next(filter(None, map(contrast_of, [name, *alone])), "")


def contrast_of(text):
    """What a file's name or a series' description says of the contrast.

    Args:
        text: str without folders and suffix.

    Returns:
        "T1", the word for another contrast in lower case, or "" where it says nothing.
    """
    words = words_of(text)
    cut = next((i for i, word in enumerate(words) if i and word in ONTO), len(words))
    words = words[:cut]
    t1 = [i for i, word in enumerate(words) if T1.fullmatch(word)]
    if any(i + 1 < len(words) and words[i + 1] in ENHANCED for i in t1):
        return "t1 enhanced"
    other = next((word for word in (*words[1:], *words[:1]) if OTHER.fullmatch(word)), "")
    first = words and OTHER.fullmatch(words[0]) and other == words[0]  # it may be what a study is called
    if t1 and (not other or first or words.index(other) > t1[0]):
        return "T1"
    return other


def is_label_map(path):
    """Whether the name of a volume, or of a folder that leads to it, is one of masks and label maps."""
    *folders, name = bare(path).split("/")
    if any(MASK_FOLDER.fullmatch(folder) for folder in folders):
        return True
    words = words_of(name)
    while len(words) > 1 and AFTER.fullmatch(words[-1]):
        words.pop()
    return any(MASK.fullmatch(word) for word in words) or bool(words and LAST.fullmatch(words[-1]))


def words_of(text):
    """The words of a name, in lower case: sub-01_T2w → sub, 01, t2w."""
    return [word for word in re.split(r"[^A-Za-z0-9]+", text.casefold()) if word]
