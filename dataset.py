"""Find, split, check and load brain slices, and feed them to training.

Finding reads names only and gives one table, the index: a DataFrame of path, subject, slice, position,
label, split. Loading decodes the files that a run uses, once, into one uint8 array.
"""

import hashlib
import math
import os
import re
import shutil
import stat
import sys
import tempfile
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from utils import (
    YELLOW,
    Parser,
    UserError,
    check_folder,
    coloured,
    image_sheet,
    number,
    progress,
    purpose_id,
    random_generator,
    run_script,
    whole_file,
)

COLUMNS = ["path", "subject", "slice", "position", "label", "split"]
UNLABELLED = "unlabelled"
SUFFIXES = (".png", ".jpg", ".jpeg")
SPLIT_FOLDERS = {"train": "train", "training": "train", "test": "test", "testing": "test",
                 "validation": "validation", "validate": "validation", "val": "validation", "valid": "validation"}
OASIS_PREFIX = "keras_png_slices_"
NAME_PATTERN = r"^(?P<subject>.+?)[_-](?:slice[_-]?)?(?P<slice>\d{1,9})(?:\.nii)?\.(?:png|jpe?g)$"
BIDS_SUBJECT = r"sub-[A-Za-z0-9]+"
ADNI_SUBJECT = r"(?<!\d)\d{3}_S_\d{4,5}(?!\d)"
NAMES_SHOWN = 10
MEMORY_SHARE = 0.25  # of the available memory may hold the images; more goes to a memory-mapped file
FILES_PER_TASK = 32

# The strengths of augmentation: what a parameter of 1 means.
ROTATION = 6.0  # degrees
SCALE = 0.06
SHIFT = 0.04  # of the side of the box
GAIN = 0.10


def warn(sentence):
    """Tell the user something that does not stop the run."""
    print(f"{coloured('warning:', YELLOW, sys.stderr)} {sentence}", file=sys.stderr)


# ---- finding: names → index -------------------------------------------------------------------


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
    import pandas as pd

    pattern = _compile(subject_pattern)
    paths, names, labels, splits = [], [], [], []
    for parts, found in _image_folders(root):
        split, label = _split_and_label(parts)
        prefix = "".join(f"{part}/" for part in parts)
        paths += [prefix + name for name in found]
        names += found
        labels += [label] * len(found)
        splits += [split] * len(found)
    if not paths:
        raise UserError(f"there is no PNG or JPEG image under {root}")
    scans, numbers = _read_names(paths, names, pattern, subject_pattern)
    slices = pd.DataFrame({"path": paths, "subject": scans, "slice": numbers, "label": labels, "split": splits})
    if subject_pattern is not None:
        slices = slices[slices["subject"].notna()]
    slices["label"] = slices["label"].map(_one_spelling(set(labels)))
    slices = slices.astype({"subject": "category", "label": "category", "split": "category"})  # quick to sort
    slices["position"] = _positions(slices)
    scans = slices["subject"].cat.categories
    people = {scan: scan if subject_pattern else person_of(scan) for scan in scans}
    if metadata is not None:
        people = _people(people, metadata)
    slices["subject"] = slices["subject"].map(people).astype("category")
    slices = slices.sort_values(["split", "label", "subject", "slice", "path"], ignore_index=True)
    return slices.astype({"subject": str, "label": str, "split": str, "slice": int, "position": int})[COLUMNS]


def _compile(subject_pattern):
    try:
        pattern = re.compile(subject_pattern or NAME_PATTERN, re.IGNORECASE)
    except re.error as error:
        raise UserError(f"--subject-pattern {subject_pattern!r} is not a regular expression ({error})") from None
    missing = {"subject", "slice"} - set(pattern.groupindex)
    if missing:
        raise UserError(f"--subject-pattern {subject_pattern!r} lacks the group (?P<{sorted(missing)[0]}>…)")
    return pattern


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
            elif (entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("contact_sheet")
                  and _may_be_image(entry)):
                names.append(entry.name)
    unprintable = [name for name in (*names, *folders, *links) if not name.isprintable()]
    if unprintable:
        warn(f"{len(unprintable)} files or folders in {folder!a} have unprintable names and are left out: rename "
             f"{unprintable[0]!a}")
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


def _split_and_label(parts):
    """What the folders say: the split, and the label in the folder below it, else in the last folder."""
    for level in reversed(range(len(parts))):
        split = SPLIT_FOLDERS.get(parts[level].casefold().removeprefix(OASIS_PREFIX))
        if split:
            return split, parts[level + 1] if level + 1 < len(parts) else UNLABELLED
    return "", parts[-1] if parts else UNLABELLED


def _read_names(paths, names, pattern, subject_pattern):
    """The scan and slice number in each name; an image whose name tells none is a scan of its own.

    With a pattern of the user's such an image has the scan None instead, and is left out.
    """
    import numpy as np

    scans, numbers, odd = [], [], []
    for path, name in zip(paths, names, strict=True):
        match = pattern.search(name)
        scan, slice_number = (match["subject"], match["slice"]) if match else (None, None)
        if not scan or not slice_number:
            odd.append(path)
            scan, slice_number = (None if subject_pattern else path.rpartition(".")[0]), 0
        scans.append(scan)
        numbers.append(slice_number)
    if len(odd) == len(names) and subject_pattern is not None:
        raise UserError(f"--subject-pattern {subject_pattern!r} matches no file name, such as {names[0]}")
    if odd:
        fate = "are left out" if subject_pattern else "count as a person each (--subject-pattern says how to read them)"
        warn(f"{len(odd)} of {len(names)} file names, such as {odd[0]}, do not tell whose slice they are and {fate}")
    try:
        return scans, np.array([int(slice_number) for slice_number in numbers], np.int64)
    except (ValueError, OverflowError) as error:
        raise UserError(f"--subject-pattern {subject_pattern!r}: the group slice must be a number ({error})") from None


def _one_spelling(labels):
    """Map labels that differ in letter case only to one of them."""
    spelling = {}
    for label in sorted(labels):
        spelling.setdefault(label.casefold(), label)
    return {label: spelling[label.casefold()] for label in labels}


def _positions(slices):
    """The rank of each slice in its scan, lowest first, in P bins: P is the commonest number of slices."""
    sizes = slices.groupby("subject", observed=True)["slice"].transform("size")
    scan_sizes = slices.groupby("subject", observed=True).size()
    bins = scan_sizes.mode().max()
    rank = slices.sort_values(["subject", "slice", "path"]).groupby("subject", observed=True).cumcount()
    return rank * bins // sizes


def person_of(scan):
    """Whose scan it is, where its name begins as BIDS or ADNI name people: sub-00_ses-1 → sub-00; else the scan."""
    person = re.match(rf"({BIDS_SUBJECT}|{ADNI_SUBJECT})_", scan)
    return person[1] if person else scan


def _people(named, metadata):
    """Map image ids to people by the ADNI search CSV; an image it does not list keeps its person in ``named``."""
    import pandas as pd

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
    import pandas as pd

    try:
        table = pd.read_csv(metadata, dtype=str, keep_default_na=keep_default_na, skipinitialspace=True,
                            sep="\t" if str(metadata).lower().endswith(".tsv") else ",")
    except (OSError, ValueError) as error:
        raise UserError(f"the table {metadata} cannot be read ({error})") from None
    return table.rename(columns=lambda column: str(column).strip().casefold())


def bare_ids(ids):
    """I12345 → 12345, and so is 002_S_0295_I12345."""
    return ids.str.strip().str.replace(rf"^(?:{ADNI_SUBJECT}_)?[IiDd](?=\d)", "", regex=True)


# ---- splitting: index → index -----------------------------------------------------------------


def split_by_subject(slices, seed, validation_fraction=0.15, test_fraction=0.2, allow_overlap=False):
    """Give every slice its split, whole people at a time.

    What the folders say stays. A missing test split is carved from the training people, then a missing
    validation split (at least one person of each label that has two), label by label.

    Args:
        slices: the index, in any order.
        seed: int; the outcome is a function of the seed and of who there is.
        allow_overlap: go on, with a warning, when the folders share people between splits.

    Returns:
        a copy of the index whose split is train, validation or test in every row.

    Raises:
        UserError: the folders share people between splits.
    """
    slices = slices.assign(split=slices["split"].where(slices["split"] != "", "train"))
    given = set(slices["split"])
    _check_overlap(slices, allow_overlap)
    if "test" not in given:
        slices = _carve(slices, "test", test_fraction, 0, seed)
    if "validation" not in given:
        slices = _carve(slices, "validation", validation_fraction, 1, seed)
    return slices


def _check_overlap(slices, allow_overlap):
    pairs = slices[["subject", "split"]].drop_duplicates()
    people = {split: set(group) for split, group in pairs.groupby("split")["subject"]}
    shared = sorted(pairs["subject"][pairs["subject"].duplicated()].unique())
    if not shared:
        return
    counts = ", ".join(f"{len(people[split])} in {split}" for split in sorted(people))
    sentence = f"the folders share {len(shared)} people between splits ({counts}), such as {shared[0]}"
    if not allow_overlap:
        raise UserError(f"{sentence}: held-out measures would be too good; --allow-overlap goes on all the same")
    warn(f"{sentence}: held-out measures will be too good")


def _carve(slices, target, fraction, least, seed):
    """Move a fraction of the training people of each label, at least ``least``, to the split ``target``."""
    train = slices[slices["split"] == "train"]
    counts = train.groupby(["subject", "label"]).size().reset_index(name="count")
    people = counts.sort_values(["count", "label"], kind="stable").drop_duplicates("subject", keep="last")
    chosen = set()
    for label, group in people.groupby("label"):
        subjects = sorted(group["subject"])
        if len(subjects) == 1:
            if target == "validation":
                warn(f"the label {label} has a single person in train, who stays there: none is left for validation")
            continue
        count = min(max(round(fraction * len(subjects)), least if fraction > 0 else 0), len(subjects) - 1)
        order = random_generator(seed, f"{target} split, {label}").permutation(len(subjects))
        chosen.update(subjects[i] for i in order[:count])
    moved = slices["subject"].isin(chosen) & (slices["split"] == "train")
    return slices.assign(split=slices["split"].mask(moved, target))


# ---- loading: files → one array ---------------------------------------------------------------


@dataclass
class LoadedImages:
    """What ``load_images`` makes of M files, N of them usable.

    Attributes:
        images: (N, H, W, 1) uint8, in the order of the usable paths; in memory, or memory-mapped.
        paths: list of the N usable paths.
        usable: (M,) bool.
        problems: list of (path, reason), in the order of the paths.
        brain_boxes: (N, 4) int: top, left, height, width in pixels of the brain; zeros where there is none.
        sizes: Counter of the (height, width) that the usable files had.
        digests: list of the sha256 of the pixels of each usable image, in hexadecimal.
        fingerprint: sha256 over the usable paths and their pixels, in any order, in hexadecimal.
    """

    images: object
    paths: list
    usable: object
    problems: list
    brain_boxes: object
    sizes: Counter
    digests: list
    fingerprint: str


def load_images(root, paths, image_size=None, cache_folder=None, workers=None):
    """Decode files to grey and to one size, in one parallel pass that tells the broken ones.

    Args:
        root: folder that the paths are relative to.
        paths: list of str.
        image_size: (height, width) in pixels; an image of another size is resized, keeping its aspect, and
            padded with black. Default: the size that all images have.
        cache_folder: where images.npy goes when memory is short (default: a temporary file).
        workers: number of threads (default: one per core).

    Raises:
        UserError: no file is readable, or the sizes differ and there is no ``image_size``.
    """
    import warnings

    import numpy as np
    from PIL import Image

    paths = list(paths)
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        frame = tuple(image_size) if image_size else _own_size(root, paths)
        images = stack.enter_context(_image_array((len(paths), *frame, 1), cache_folder))  # (M, H, W, 1)
        checks = _check_all(root, paths, images, workers)
        usable = np.array([check.reason is None for check in checks], bool)
        problems = [(path, check.reason) for path, check in zip(paths, checks, strict=True) if check.reason]
        good = [check for check in checks if check.reason is None]
        sizes = Counter(check.size for check in good)
        _report(problems, len(paths))
        if not good:
            raise UserError(f"no readable image is among the {len(paths)} files in {root}")
        if image_size is None and len(sizes) > 1:
            raise UserError(f"the images in {root} differ in size ({_size_counts(sizes)}): "
                            "choose one with --image-size H W")
        rows = np.flatnonzero(usable)
        for new, old in enumerate(rows) if problems else ():
            images[new] = images[old]
    kept = [paths[row] for row in rows]
    digests = [check.digest for check in good]
    lines = sorted(f"{path}\0{digest}\n" for path, digest in zip(kept, digests, strict=True))
    fingerprint = hashlib.sha256("".join([f"{frame}\n", *lines]).encode()).hexdigest()
    boxes = np.array([check.brain_box for check in good])
    return LoadedImages(images[:len(rows)], kept, usable, problems, boxes, sizes, digests, fingerprint)


class _Check(NamedTuple):
    """What was found in one file: a reason not to use it, or the rest."""

    reason: str | None = None
    size: tuple = ()
    brain_box: tuple = ()
    digest: str = ""


def _check_all(root, paths, images, workers):
    """Decode every path into its row of ``images``; a list of _Check."""
    def check(start):
        return [_load_one(root, path, images[start + i])
                for i, path in enumerate(paths[start:start + FILES_PER_TASK])]

    checks = []
    starts = range(0, len(paths), FILES_PER_TASK)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool, \
            progress(total=len(paths), desc="checking files", unit=" files") as bar:
        for some in pool.map(check, starts):
            checks += some
            bar.update(len(some))
    return checks


def _load_one(root, path, row):
    """Decode one file into ``row``, (H, W, 1) uint8."""
    try:
        grey, size = _decode(os.path.join(root, path), row.shape[:2])
    except Exception as error:  # whatever a decoder makes of broken bytes
        return _Check(reason=_reason(error))
    row[..., 0] = grey
    return _Check(size=size, brain_box=_brain_box(grey), digest=hashlib.sha256(grey.tobytes()).hexdigest())


def _decode(path, frame=None):
    """An image file as grey uint8 of the size ``frame``, and the (height, width) it had."""
    import numpy as np
    from PIL import Image

    with Image.open(path, formats=("PNG", "JPEG")) as image:
        size = image.height, image.width
        grey = _to_grey(image)
    return np.asarray(grey if frame is None else _into_frame(grey, frame)), size


def _into_frame(grey, frame):
    """A PIL image in (height, width), its aspect kept, on black."""
    from PIL import Image, ImageOps

    if grey.size == tuple(frame[::-1]):
        return grey
    return ImageOps.pad(grey, frame[::-1], Image.Resampling.BICUBIC)  # antialiased: PIL widens the kernel


def load_mask(path, image_path, frame):
    """What is white in a mask that was drawn on an image, as that image comes into ``frame``: (H, W) bool.

    White is 128 or more of 255. A pixel in the frame counts when nothing black is in it; what lies beside the
    image in the frame counts, too.

    Raises:
        UserError: the mask cannot be read, or has another size than the image.
    """
    import numpy as np
    from PIL import Image

    try:
        mask, size = _decode(path)
    except Exception as error:  # whatever a decoder makes of broken bytes
        raise UserError(f"the mask {path} cannot be read ({_reason(error)})") from None
    own = _decode(image_path)[1]
    if size != own:
        raise UserError(f"the mask {path} has {size[1]}x{size[0]} pixels, but {image_path} {own[1]}x{own[0]}: draw it "
                        "on the slice itself")
    black = Image.fromarray(np.where(mask < 128, 255, 0).astype(np.uint8))
    return np.asarray(_into_frame(black, frame)) == 0


def _to_grey(image):
    """Any PIL image as 8-bit grey: 16 bits scaled from their full range, transparency laid on black."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I"):
        return Image.fromarray(np.rint(np.clip(np.asarray(image), 0, 65535) / 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("L")


def _brain_box(grey):
    """(top, left, height, width) of the brain, or zeros."""
    import numpy as np

    from metrics import brain_mask

    mask = brain_mask(grey)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def _reason(error):
    """A decoder's error in a few words."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not a PNG or JPEG image"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"over {Image.MAX_IMAGE_PIXELS:,} pixels"
    return getattr(error, "strerror", None) or next(filter(None, str(error).splitlines()), type(error).__name__)


def _own_size(root, paths):
    """The (height, width) of the first image that can be decoded; (1, 1) where none can."""
    for path in paths:
        try:
            return _decode(os.path.join(root, path))[1]
        except Exception:  # the pass over all files says why
            continue
    return 1, 1


@contextmanager
def _image_array(shape, cache_folder):
    """An uint8 array to fill: in memory where it fits, else a memory-mapped file, whole or not at all."""
    import numpy as np

    if math.prod(shape) <= MEMORY_SHARE * _available_memory():
        yield np.empty(shape, np.uint8)
        return
    with ExitStack() as stack:
        try:
            folder = Path(cache_folder or stack.enter_context(tempfile.TemporaryDirectory()))
            folder.mkdir(parents=True, exist_ok=True)
            if math.prod(shape) > shutil.disk_usage(folder).free:  # writing beyond it would kill the process
                raise UserError(f"{folder} has no room for {math.prod(shape) / 1e9:.1f} GB of decoded images: "
                                "choose a smaller --image-size, or free some space")
            temporary = stack.enter_context(whole_file(folder / "images.npy"))
            images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        except OSError as error:
            raise UserError(f"the cache of decoded images cannot be written ({error})") from None
        yield images
        images.flush()


def _available_memory():
    """Bytes; a cautious 2 GB where the system does not say."""
    try:
        return int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024
    except (OSError, TypeError):
        return 2 * 1024**3


def _report(problems, total):
    """Count the files that cannot be used and name the first of them."""
    if problems:
        shown = "".join(f"\n  {path}: {reason}" for path, reason in problems[:NAMES_SHOWN])
        more = f"\n  and {len(problems) - NAMES_SHOWN} more" if len(problems) > NAMES_SHOWN else ""
        warn(f"{len(problems)} of {total} files cannot be used and are left out:{shown}{more}")


def warn_of_leakage(slices, loaded):
    """Tell which images are in more than one split, by their pixels; images without a brain do not count.

    Args:
        slices: DataFrame with path and split of the N usable images.
        loaded: their LoadedImages.

    Returns:
        The number of images that are in another split, too.
    """
    table = slices.assign(digest=loaded.digests)[loaded.brain_boxes[:, 2] > 0]
    shared = table[table.groupby("digest")["split"].transform("nunique") > 1]
    if len(shared):
        same = [" = ".join(paths) for _, paths in shared.groupby("digest", sort=False)["path"]]
        shown = "".join(f"\n  {paths}" for paths in same[:NAMES_SHOWN])
        more = f"\n  and {len(same) - NAMES_SHOWN} more" if len(same) > NAMES_SHOWN else ""
        warn(f"{len(same)} images are in more than one split under different names, so that models are judged on what "
             f"they have seen: remove all but one of each{shown}{more}")
    return len(shared)


def _size_counts(sizes):
    """1280 of 256x240, 20 of 128x128."""
    shown = [f"{count} of {width}x{height}" for (height, width), count in sizes.most_common(5)]
    return ", ".join(shown + [f"{len(sizes) - 5} more sizes"] * (len(sizes) > 5))


# ---- the crop box -----------------------------------------------------------------------------


class Box(NamedTuple):
    """A box of pixels; it may stick out of the frame, and holds zeros there."""

    top: int
    left: int
    height: int
    width: int


def brain_crop(brain_boxes, frame, multiple, margin=4):
    """The Box around all brains plus a margin, its sides rounded up to multiples of ``multiple``.

    Args:
        brain_boxes: (N, 4) int: top, left, height, width; rows of height 0 do not count.
        frame: (height, width) of the images.
        margin: pixels on each side, as far as the frame goes.

    Returns:
        Box inside the frame wherever its rounded sides fit; the whole frame where there is no brain.
    """
    boxes = brain_boxes[brain_boxes[:, 2] > 0]
    if not len(boxes):
        return whole_frame(frame, multiple)
    low = boxes[:, :2].min(axis=0) - margin
    high = (boxes[:, :2] + boxes[:, 2:]).max(axis=0) + margin
    top, height = _rounded_up(max(int(low[0]), 0), min(int(high[0]), frame[0]), frame[0], multiple)
    left, width = _rounded_up(max(int(low[1]), 0), min(int(high[1]), frame[1]), frame[1], multiple)
    return Box(top, left, height, width)


def whole_frame(frame, multiple):
    """The Box around the whole frame, its sides rounded up to multiples of ``multiple``."""
    top, height = _rounded_up(0, frame[0], frame[0], multiple)
    left, width = _rounded_up(0, frame[1], frame[1], multiple)
    return Box(top, left, height, width)


def _rounded_up(low, high, side, multiple):
    """Start and length of the interval [low, high) made a multiple, inside [0, side) where it fits."""
    length = -(-(high - low) // multiple) * multiple
    if length > side:
        return -((length - int(side)) // 2), length
    return min(max(low - (length - (high - low)) // 2, 0), int(side) - length), length


def crop(images, box):
    """(…, H, W, 1) → (…, box.height, box.width, 1): what the box shows, with zeros outside the frame."""
    import numpy as np

    crops = np.zeros((*images.shape[:-3], box.height, box.width, images.shape[-1]), images.dtype)
    in_frame, in_box = _overlap(box, images.shape[-3:-1])
    crops[in_box] = images[in_frame]
    return crops


def paste(crops, box, frame):
    """(…, box.height, box.width, 1) → zeros (…, H, W, 1) with the crops in their place; undoes ``crop``."""
    import numpy as np

    images = np.zeros((*crops.shape[:-3], *frame, crops.shape[-1]), crops.dtype)
    in_frame, in_box = _overlap(box, frame)
    images[in_frame] = crops[in_box]
    return images


def _overlap(box, frame):
    """Where box and frame overlap: the index into images and the index into crops."""
    top, left = max(box.top, 0), max(box.left, 0)
    bottom, right = min(box.top + box.height, frame[0]), min(box.left + box.width, frame[1])
    return ((..., slice(top, max(bottom, top)), slice(left, max(right, left)), slice(None)),
            (..., slice(top - box.top, max(bottom, top) - box.top),
             slice(left - box.left, max(right, left) - box.left), slice(None)))


def outside(brain_boxes, box):
    """(N,) bool: whether the brain of each (top, left, height, width) sticks out of the box."""
    top, left, height, width = brain_boxes.T
    return (height > 0) & ((top < box.top) | (top + height > box.top + box.height)
                           | (left < box.left) | (left + width > box.left + box.width))


# ---- feeding: array → batches -----------------------------------------------------------------


def draw_augmentations(seed, purpose, first, count, flip=False, augmented=1.0):
    """Parameters of augmentation number first, first + 1, … of a run.

    Philox counts: row i takes two of its blocks of four words, so it is a function of (seed, purpose,
    first + i) alone, and a whole batch is one call.

    Args:
        flip: whether half of the slices are mirrored; it erases laterality.
        augmented: the probability that a slice is augmented at all; a row of another one is 0.

    Returns:
        (count, 6) float32: rotation, scale, shift down, shift right, gain in [-1, 1]; flip, 0 or 1.
    """
    import numpy as np

    key = np.array([seed, purpose_id(purpose)], np.uint64)
    words = np.random.Philox(key=key, counter=2 * int(first)).random_raw(8 * count).reshape(count, 8)
    uniforms = (words >> np.uint64(11)) * 2.0**-53  # (count, 8) in [0, 1)
    parameters = 2 * uniforms[:, :6] - 1
    parameters[:, 5] = flip & (uniforms[:, 5] < 0.5)
    parameters[uniforms[:, 6] >= augmented] = 0
    return parameters.astype(np.float32)


def in_whole_pixels(parameters, box):
    """Augmentations (B, 6) without what resamples: no rotation, no scale, and shifts by whole pixels."""
    import numpy as np

    reach = SHIFT * np.array([box.height, box.width], np.float32)  # pixels of a shift of 1
    moved = parameters.copy()
    moved[:, :2] = 0
    moved[:, 2:4] = np.round(parameters[:, 2:4] * reach) / reach
    return moved


def augment(images, parameters, box):
    """Rotate, scale, shift, mirror about the centre of the box, crop to it, and brighten or darken.

    Args:
        images: (B, H, W, 1) uint8 tensor, whole frames.
        parameters: (B, 6) float32, see ``draw_augmentations``; zeros change nothing.

    Returns:
        (B, box.height, box.width, 1) float32 in [0, 1].
    """
    import tensorflow as tf

    rotation, scale, shift_y, shift_x, gain, flip = tf.unstack(parameters, axis=1)  # (B,) each
    angle, size, mirror = rotation * math.radians(ROTATION), 1 + SCALE * scale, 1 - 2 * flip
    cosine, sine = tf.cos(angle) / size, tf.sin(angle) / size
    half_height, half_width = (box.height - 1) / 2, (box.width - 1) / 2
    y = -half_height - SHIFT * box.height * shift_y  # the first pixel of the crop, seen from the moved centre
    x = -half_width - SHIFT * box.width * shift_x
    # a pixel (x', y') of the crop shows the frame at (a x' + b y' + c, d x' + e y' + f)
    a, b, d, e = cosine * mirror, -sine, sine * mirror, cosine
    c = box.left + half_width + a * x + b * y
    f = box.top + half_height + d * x + e * y
    transforms = tf.stack([2 * a, 2 * b, 2 * c, 2 * d, 2 * e, 2 * f, 0 * a, 0 * a], axis=1)  # in finer pixels
    crops = tf.raw_ops.ImageProjectiveTransformV3(
        images=twice_as_fine(tf.cast(images, tf.float32)), transforms=transforms, fill_value=0.0,
        output_shape=[box.height, box.width], interpolation="BILINEAR", fill_mode="CONSTANT")
    brightness = (1 + GAIN * gain)[:, None, None, None]
    return tf.clip_by_value(crops / 255 * brightness, 0, 1)


def twice_as_fine(images):
    """Images with pixels between their pixels, by a Lanczos window of three lobes (Duchon 1979).

    Sampling an image bilinearly between its pixels halves its finest detail, and who trains on such images
    learns to blur; sampling this one keeps most of it. Where a sample falls on a pixel it is that pixel, exactly.

    Args:
        images: (B, H, W, 1) float32 tensor.

    Returns:
        (B, 2H, 2W, 1) float32; its pixel (2i, 2j) is the pixel (i, j) of the image.
    """
    import numpy as np
    import tensorflow as tf

    places = np.arange(-2.5, 3)
    lobes = np.sinc(places) * np.sinc(places / 3)
    taps = np.zeros(11, np.float32)
    taps[::2] = lobes / lobes.sum()  # of the pixels around a place halfway between two
    taps[5] = 1                      # of a pixel itself
    _, height, width, _ = images.shape
    batch = tf.shape(images)[0]
    taller = tf.nn.conv2d_transpose(images, taps[:, None, None, None], (batch, 2 * height + 9, width, 1),
                                    (2, 1), "VALID")[:, 5:-4]  # (B, 2H, W, 1)
    return tf.nn.conv2d_transpose(taller, taps[None, :, None, None], (batch, 2 * height, 2 * width + 9, 1),
                                  (1, 2), "VALID")[:, :, 5:-4]  # (B, 2H, 2W, 1)


def training_batches(images, columns, batch_size, seed, box, first_step=0, augmented=1.0, flip=False,
                     purpose="train", parts=1, own=None, whole_pixels=False):
    """Batches for ever; step s is a function of (seed, purpose, s) alone, so resuming is counting.

    The rows are shuffled anew for every epoch, and the epochs follow each other without a seam: step s
    takes the rows s B … s B + B − 1 of that endless sequence.

    Args:
        images: (N, H, W, 1) uint8, in memory or memory-mapped.
        columns: dict of (N,) int arrays that go with the images, such as label and position.
        first_step: int, the step to begin with.
        augmented: the probability that a slice is augmented at all.
        parts: int, a divisor of the batch size: every batch is cut into so many, one for each replica.
        own: the numbers of the parts that are wanted, from 0; they follow each other step by step. Default: all.
        whole_pixels: whether augmented slices are only moved by whole pixels, brightened and mirrored.

    Returns:
        tf.data.Dataset of dicts: image (B / parts, box.height, box.width, 1) float32 in [0, 1], augmentation
        (B / parts, 6) float32, and the columns (B / parts,).
    """
    import numpy as np
    import tensorflow as tf

    own, part_size = list(range(parts) if own is None else own), batch_size // parts

    @lru_cache(maxsize=4)
    def order(epoch):
        return random_generator(seed, f"{purpose} order", epoch).permutation(len(images))

    def gather(count):
        step, turn = divmod(int(count), len(own))
        first = step * batch_size + own[turn] * part_size
        places = np.arange(first, first + part_size)
        rows = np.array([order(int(place) // len(images))[place % len(images)] for place in places])
        parameters = draw_augmentations(seed, f"{purpose} augmentation", first, part_size, flip, augmented)
        if whole_pixels:
            parameters = in_whole_pixels(parameters, box)
        return np.asarray(images[rows]), parameters, rows

    def load(count):
        batch, parameters, rows = tf.numpy_function(gather, [count], (tf.uint8, tf.float32, tf.int64), stateful=False)
        batch = tf.ensure_shape(batch, (part_size, *images.shape[1:]))
        parameters = tf.ensure_shape(parameters, (part_size, 6))
        rows = tf.ensure_shape(rows, (part_size,))
        return {"image": augment(batch, parameters, box), "augmentation": parameters,
                **{name: tf.gather(column, rows) for name, column in columns.items()}}

    return _parallel(tf.data.Dataset.counter(start=first_step * len(own)), load)


def evaluation_batches(images, columns, batch_size, box):
    """All images once, in order, not augmented; the last batch may be smaller.

    Returns:
        tf.data.Dataset of dicts: image (B, box.height, box.width, 1) float32 in [0, 1], and the columns (B,).
    """
    import tensorflow as tf

    def load(start):
        batch = tf.numpy_function(lambda start: crop(images[start:start + batch_size], box), [start], tf.uint8,
                                  stateful=False)
        batch = tf.ensure_shape(batch, (None, box.height, box.width, 1))
        return {"image": tf.cast(batch, tf.float32) / 255,
                **{name: column[start:start + batch_size] for name, column in constants.items()}}

    constants = {name: tf.constant(column) for name, column in columns.items()}
    return _parallel(tf.data.Dataset.range(0, len(images), batch_size), load)


def _parallel(dataset, load):
    import tensorflow as tf

    return dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


# ---- the script -------------------------------------------------------------------------------


def parse_flags(argv):
    """The flags as a namespace."""
    parser = Parser(description="Check a folder of brain slices before training on it, cut slices from scans, or "
                                "make the demo cohort.",
                    epilog="examples: python dataset.py --data AD_NC --out sheet.png\n"
                           "          python dataset.py --volumes BIDS --out slices\n"
                           "          python dataset.py --demo data/demo --people 100")
    group = parser.add_argument_group("check a folder")
    group.add_argument("--data", metavar="DIR", help="folder of PNG or JPEG slices; every file is decoded")
    group.add_argument("--subject-pattern", metavar="REGEX",
                       help="how a file name tells its (?P<subject>…) and (?P<slice>…)")
    group.add_argument("--allow-overlap", action="store_true",
                       help="go on although the folders share people between train and test")
    group = parser.add_argument_group("cut slices from scans")
    group.add_argument("--volumes", metavar="DIR",
                       help="NIfTI files (plain, BIDS or ADNI's tree) or DICOM series, T1-weighted; the same command "
                            "goes on after an interruption")
    group.add_argument("--slices", type=number(int, 1, 400), default=20, metavar="N",
                       help="axial slices of each scan (default %(default)s)")
    group.add_argument("--spacing", type=number(float, 1, 50), default=1.0, metavar="MM",
                       help="between slices, in mm (default %(default)g)")
    group.add_argument("--depth", type=number(float, 0, 200), default=57.5, metavar="MM",
                       help="from the top of the brain down to the middle of the slices, in mm (default %(default)g)")
    group.add_argument("--label-column", metavar="NAME",
                       help="column of the labels (default: group, research group, diagnosis, dx or label)")
    group.add_argument("--workers", type=number(int, 1, 256), metavar="N",
                       help="processes, of 1 GB or so each (default: one per core, at most 8)")
    group = parser.add_argument_group("make the demo cohort of simulated people")
    group.add_argument("--demo", metavar="DIR", help="new folder, in the layout of the ADNI slices")
    group.add_argument("--people", type=number(int, 4, 100000), default=100, metavar="N",
                       help="simulated people (default %(default)s)")
    group = parser.add_argument_group("more than one of these")
    group.add_argument("--out", metavar="PATH",
                       help="check: FILE.png, never overwritten (default: a new contact_sheet.png); cut: a new folder")
    group.add_argument("--metadata", metavar="TABLE",
                       help="check: ADNI search CSV that tells which images are one person's; cut: that, or "
                            "participants.tsv, for the labels (default: DIR/participants.tsv)")
    group.add_argument("--image-size", nargs=2, type=number(int, 16, 4096), metavar=("H", "W"),
                       help="height and width in pixels (default: the data's own; cut, in mm, and demo: 240 256)")
    group.add_argument("--seed", type=number(int, 0, 2**31 - 1), default=0, metavar="N",
                       help="of the splits, or of the cohort (default %(default)s)")
    flags = parser.parse_args(argv)
    if [flags.data, flags.demo, flags.volumes].count(None) != 2:
        parser.error("give --data DIR to check a folder, --volumes DIR to cut slices from scans, or --demo DIR to make "
                     "the demo cohort")
    if flags.volumes is not None and flags.out is None:
        parser.error("--volumes needs --out SLICES, a new folder")
    return flags


def main(argv):
    """Check a folder, cut scans, or make the demo cohort; see ``python dataset.py --help``."""
    flags = parse_flags(argv)
    if flags.demo is not None:
        import cohort

        size = tuple(flags.image_size or (240, 256))
        print(f"demo cohort: {cohort.make_cohort(Path(flags.demo), flags.people, flags.seed, size)}")
        print(f"next: python train.py --data {flags.demo}")
        return
    if flags.volumes is not None:
        check_folder(flags.volumes)
        import volumes

        rows = volumes.make_slices(
            flags.volumes, flags.out, flags.metadata, flags.label_column, flags.workers, slices=flags.slices,
            spacing=flags.spacing, depth=flags.depth, image_size=tuple(flags.image_size or (240, 256)))
        print(volumes.summary(rows, flags.out))
        return
    sheet = _sheet_path(flags.out)
    slices = find_slices(flags.data, flags.subject_pattern, flags.metadata)
    slices = split_by_subject(slices, flags.seed, allow_overlap=flags.allow_overlap)
    if flags.metadata is None:
        print("people = image ids; repeat visits of one person may straddle splits (--metadata groups them)")
    with tempfile.TemporaryDirectory() as cache_folder:
        loaded = load_images(flags.data, slices["path"].tolist(), flags.image_size, cache_folder)
        slices = slices[loaded.usable].reset_index(drop=True)
        _print_table(slices, loaded)
        warn_of_leakage(slices, loaded)
        try:
            _contact_sheet(sheet, slices, loaded.images)
        except OSError as error:
            raise UserError(f"the contact sheet {sheet} cannot be written ({error.strerror})") from None
    print(f"contact sheet: {sheet}")
    print(f"next, when it looks right: python train.py --data {flags.data} --dry-run")


def _sheet_path(out):
    """Where the contact sheet goes: ``out``, or the first contact_sheet….png that does not exist."""
    if out is None:
        names = (Path(f"contact_sheet{'' if i == 1 else f'_{i}'}.png") for i in range(1, sys.maxsize))
        return next(path for path in names if not path.exists())
    path = Path(out)
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise UserError(f"--out {out} must be a .png in a folder that exists")
    if path.exists():
        raise UserError(f"--out {out} exists and is left alone: choose another name, or remove it")
    return path


def _print_table(slices, loaded):
    """Who and what there is, by split and label."""
    by = ["split", "label"]
    table = slices.groupby(by).agg(people=("subject", "nunique"), slices=("path", "size"))
    scans = slices.groupby([*by, "subject"]).size().groupby(by)
    table["slices per person"] = [f"{low}" if low == high else f"{low} to {high}"
                                  for low, high in zip(scans.min(), scans.max(), strict=True)]
    print(table.reset_index().to_string(index=False))
    print(f"in all: {slices['subject'].nunique()} people, {len(slices)} slices in {slices['position'].max() + 1} "
          f"positions; {len(loaded.problems)} files cannot be used")
    height, width = loaded.images.shape[1:3]
    print(f"sizes: {_size_counts(loaded.sizes)}; used at {width}x{height}")
    box = brain_crop(loaded.brain_boxes[(slices["split"] == "train").to_numpy()], (height, width), 1, margin=0)
    print(f"the brains of train lie in {box.width}x{box.height} pixels from row {box.top}, column {box.left}; "
          f"{outside(loaded.brain_boxes, box).sum()} other slices reach beyond")


def _contact_sheet(path, slices, images, columns=8, most_rows=12):
    """A row of people for each split and label, each person by the slice nearest the middle position."""
    import numpy as np

    middle = (slices["position"] - slices["position"].max() / 2).abs()
    people = slices.assign(distance=middle).sort_values(["distance", "path"]).drop_duplicates(["split", "subject"])
    shown, names, captions = [], [], []
    groups = list(people.sort_values("subject").groupby(["split", "label"]))
    for (split, label), group in groups[:most_rows]:
        rows = np.unique(np.linspace(0, len(group) - 1, columns).round().astype(int))
        blank = [np.zeros_like(images[0])] * (columns - len(rows))
        shown += [images[row] for row in group.index[rows]] + blank
        captions += [subject[-16:] for subject in group["subject"].iloc[rows]] + [""] * len(blank)
        names.append(f"{split}\n{label}")
    image_sheet(path, np.stack(shown), columns, row_names=names, captions=captions)


if __name__ == "__main__":
    run_script(main)
