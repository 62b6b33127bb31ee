"""Image files: decoded to grey of one size, checked and told when broken, all in one array; and written."""

import hashlib
import os
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from slices.frame import BRAIN_THRESHOLD, brain_box, to_bytes
from slices.grey import Tally, decode, into_frame, reason_of
from slices.machine import cores
from slices.memory import image_array
from utils import UserError, counted, progress, warn, whole_file

NAMES_SHOWN = 10
FILES_PER_TASK = 32
FILES_PER_BLOCK = 512  # of load_blocks


def first_of(names):
    """The first NAMES_SHOWN of a list of str, a line each, and how many more there are."""
    shown = "".join(f"\n  {name}" for name in names[:NAMES_SHOWN])
    return shown + (f"\n  and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")


# ---- many files → one array -------------------------------------------------------------------


@dataclass
class LoadedImages:
    """What ``load_images`` makes of M files, N of them usable.

    Attributes:
        images: (N, H, W, 1) uint8, in the order of the usable paths; in memory, or memory-mapped. None where they
            were handed on block by block.
        paths: list of the N usable paths.
        usable: (M,) bool.
        problems: list of (path, reason), in the order of the paths.
        brain_boxes: (N, 4) int: top, left, height, width in pixels of the brain; zeros where there is none.
        sizes: Counter of the (height, width) that the usable files had.
        digests: list of the sha256 of the pixels of each usable image, in hexadecimal.
        fingerprint: sha256 over the usable paths and their pixels, in any order, in hexadecimal.
        white: the value of 16-bit files that became 255; None where none has 16 bits.
        turned: how many usable files were turned, as their EXIF says.
        to_the_edges: (N,) bool: bright along all four edges, as on a white background.
    """

    images: np.ndarray
    paths: list
    usable: np.ndarray
    problems: list
    brain_boxes: np.ndarray
    sizes: Counter
    digests: list
    fingerprint: str
    white: int | None
    turned: int
    to_the_edges: np.ndarray


class _Check(NamedTuple):
    """What was found in one file: a reason not to use it, or the rest; without a digest it is not decoded yet."""

    reason: str | None = None
    size: tuple = ()
    turned: bool = False
    deep: bool = False
    brain_box: tuple = ()
    to_the_edges: bool = False
    digest: str = ""


def load_images(
    root, paths, image_size=None, cache_folder=None, workers=None, white=None, white_from=None, beside=None
):
    """Decode files to grey and to one size, in one parallel pass that tells the broken ones.

    Files of 16 bits whose ``white`` is not known are read twice: once to choose it, the same for all of them.

    Args:
        root: folder that the paths are relative to.
        paths: list of str.
        image_size: (height, width) in pixels; an image of another size is resized, keeping its aspect, and
            padded with black. Default: the size that all images have.
        cache_folder: where the images go when memory is short, as the user asked for it.
        workers: number of threads (default: one per core).
        white: the value of 16-bit files that becomes 255 (default: by ``slices.grey.Tally``, and said aloud).
        white_from: (M,) bool, the files that choose it (default: all).
        beside: where the images go unasked when memory is short, if that is a disk (default: temporary files).

    Returns:
        LoadedImages.

    Raises:
        UserError: no file is readable, the sizes differ and there is no ``image_size``, or there is no room.
    """
    paths = list(paths)
    with quiet_decoders(), ExitStack() as stack:
        frame = tuple(image_size) if image_size else _own_size(root, paths)
        array = image_array((len(paths), *frame, 1), cache_folder, beside)
        images = stack.enter_context(array)  # (M, H, W, 1)
        checks, white = _check_all(root, paths, images, workers, white, white_from)
        _tell_problems(root, paths, checks, image_size)
        usable = np.array([check.reason is None for check in checks], bool)
        rows = np.flatnonzero(usable)
        for new, old in enumerate(rows):
            if new != old:
                images[new] = images[old]
    return _as_loaded(images[: len(rows)], frame, paths, usable, checks, white)


def load_blocks(root, paths, frame, use, white=None):
    """What ``load_images`` does, of files that are handed on block by block, in their order, and not kept.

    Args:
        root, paths, white: as for ``load_images``.
        frame: (height, width) in pixels.
        use: function of the images (n, H, W, 1) uint8 of the usable files of a block.

    Returns:
        LoadedImages without images.

    Raises:
        UserError: no file is readable.
    """
    paths, checks = list(paths), []
    images = np.empty((min(FILES_PER_BLOCK, len(paths)), *frame, 1), np.uint8)
    with quiet_decoders(), progress(total=len(paths), desc="checking files", unit=" files") as bar:
        for start in range(0, len(paths), FILES_PER_BLOCK):
            some = paths[start : start + FILES_PER_BLOCK]
            found = _load_block(root, some, images, white, bar)
            deep = [i for i, check in enumerate(found) if check.deep]
            if deep and white is None:  # it is the same for all of them
                white = _white_of(root, paths, frame)
                for i in deep:
                    found[i] = _load_one(root, some[i], images[i], white)
            checks += found
            rows = np.flatnonzero([check.reason is None for check in found])
            if len(rows):
                use(images[rows])
    _tell_problems(root, paths, checks, frame)
    usable = np.array([check.reason is None for check in checks], bool)
    return _as_loaded(None, frame, paths, usable, checks, white if any(check.deep for check in checks) else None)


def _load_block(root, paths, images, white, bar):
    """Decode a block of paths into the first rows of ``images``: a list of _Check."""
    return _each(lambda i: _load_one(root, paths[i], images[i], white), range(len(paths)), bar=bar)


def _white_of(root, paths, frame):
    """The white of those of the paths that have 16 bits, which is said aloud."""
    tally = Tally()
    checks = _each(
        lambda i: _load_one(root, paths[i], np.empty((*frame, 1), np.uint8), tally=tally),
        range(len(paths)),
        what="looking for the white of 16 bits",
    )
    return _choose_white(tally, sum(check.deep for check in checks), len(paths))


def _choose_white(tally, deep, count):
    """The white by a Tally of ``deep`` files of 16 bits among ``count``, which is said aloud."""
    white = tally.white
    print(
        f"{deep} of {count} files have 16 bits, with values up to {tally.brightest:,}: 0 to {white:,} "
        "become black to white in all of them"
    )
    return white


def quiet_decoders():
    """A context in which a decompression bomb is an error, and a damaged EXIF nothing to talk of."""
    stack = ExitStack()
    stack.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", ".*orrupt EXIF.*")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    return stack


def _check_all(root, paths, images, workers, white, white_from):
    """Decode every path into its row of ``images``; a list of _Check, and the white of 16-bit files, if there are any.

    Those are decoded last where no ``white`` is given.
    """
    tallies = Tally(), Tally()  # of the files that choose, and of the others
    chooses = np.ones(len(paths), bool) if white_from is None else np.asarray(white_from)
    checks = _each(
        lambda i: _load_one(root, paths[i], images[i], white, tallies[0 if chooses[i] else 1]),
        range(len(paths)),
        workers,
    )
    deep = [i for i, check in enumerate(checks) if check.deep]
    if not deep or white is not None:
        return checks, white if deep else None
    white = _choose_white(tallies[0] if tallies[0].counts.any() else tallies[1], len(deep), len(paths))
    again = _each(lambda i: _load_one(root, paths[i], images[i], white), deep, workers)
    for i, check in zip(deep, again, strict=True):
        checks[i] = check
    return checks, white


def _each(function, numbers, workers=None, what="checking files", bar=None):
    """``function`` of every number, in order, by threads: a list; ``bar`` goes on, or one comes that says ``what``."""

    def some(start):
        return [function(i) for i in numbers[start : start + FILES_PER_TASK]]

    found = []
    with ThreadPoolExecutor(workers or cores()) as pool, ExitStack() as stack:
        if bar is None:
            bar = stack.enter_context(progress(total=len(numbers), desc=what, unit=" files"))
        for part in pool.map(some, range(0, len(numbers), FILES_PER_TASK)):
            found += part
            bar.update(len(part))
    return found


def _load_one(root, path, row, white=None, tally=None):
    """Decode one file into ``row``, (H, W, 1) uint8."""
    try:
        grey, size, turned, deep = decode(os.path.join(root, path), row.shape[:2], white, tally)
    except Exception as error:  # whatever a decoder makes of broken bytes
        return _Check(reason=reason_of(error))
    if grey is None:
        return _Check(deep=deep)
    row[..., 0] = grey
    return _Check(
        size=size,
        turned=turned,
        deep=deep,
        brain_box=brain_box(grey),
        to_the_edges=_bright_edges(grey, size),
        digest=_digest(grey),
    )


def _digest(grey):
    """The sha256 of an image's pixels, (H, W) uint8."""
    return hashlib.sha256(grey.tobytes()).hexdigest()


def _bright_edges(grey, size):
    """Whether more than half of each edge of an image of this (height, width), black bars aside, is bright."""
    scale = min(grey.shape[0] / size[0], grey.shape[1] / size[1])
    bars = [min(round((side - scale * own) / 2), (side - 1) // 2) for side, own in zip(grey.shape, size, strict=True)]
    grey = grey[bars[0] : grey.shape[0] - bars[0], bars[1] : grey.shape[1] - bars[1]]
    edges = (grey[0], grey[-1], grey[:, 0], grey[:, -1])
    return all((edge > BRAIN_THRESHOLD * 255).mean() > 0.5 for edge in edges)


def _tell_problems(root, paths, checks, image_size):
    """Count the files that cannot be used and name the first of them; refuse what leaves nothing to use."""
    problems = [f"{path}: {check.reason}" for path, check in zip(paths, checks, strict=True) if check.reason]
    sizes = Counter(check.size for check in checks if check.reason is None)
    if problems:
        warn(f"{len(problems)} of {len(paths)} files cannot be used and are left out:{first_of(problems)}")
    if not sizes:
        raise UserError(f"no readable image is among the {counted(len(paths), 'file')} in {root}")
    if image_size is None and len(sizes) > 1:
        (height, width), rarest = sizes.most_common(1)[0][0], sizes.most_common()[-1][0]
        odd = next(path for path, check in zip(paths, checks, strict=True) if check.size == rarest)
        raise UserError(
            f"the images in {root} differ in size ({size_counts(sizes)}, such as {odd}): scale all to one, height "
            f"first, as with --image-size {height} {width}"
        )


def _as_loaded(images, frame, paths, usable, checks, white):
    """The LoadedImages of the usable files' ``images`` (N, H, W, 1), or None, and of what was found in all M."""
    good = [check for check in checks if check.reason is None]
    kept = [path for path, check in zip(paths, checks, strict=True) if check.reason is None]
    lines = sorted(f"{path}\0{check.digest}\n" for path, check in zip(kept, good, strict=True))
    fingerprint = hashlib.sha256("".join([f"{tuple(frame)}\n", *lines]).encode()).hexdigest()
    return LoadedImages(
        images=images,
        paths=kept,
        usable=usable,
        problems=[(path, check.reason) for path, check in zip(paths, checks, strict=True) if check.reason],
        brain_boxes=np.array([check.brain_box for check in good]),
        sizes=Counter(check.size for check in good),
        digests=[check.digest for check in good],
        fingerprint=fingerprint,
        white=white,
        turned=sum(check.turned for check in good),
        to_the_edges=np.array([check.to_the_edges for check in good], bool),
    )


def size_counts(sizes):
    """A Counter of (height, width) in words: 1280 of 256x240, 20 of 128x128."""
    shown = [f"{count} of {width}x{height}" for (height, width), count in sizes.most_common(5)]
    return ", ".join(shown + [f"{len(sizes) - 5} more sizes"] * (len(sizes) > 5))


def _own_size(root, paths):
    """The (height, width) of the first image that can be decoded; (1, 1) where none can."""
    for path in paths:
        try:
            return decode(os.path.join(root, path)).size
        except Exception:  # the pass over all files says why
            continue
    return 1, 1


def digests_of(root, paths, frame, white=None):
    """The digests of files as ``load_images`` would have them in (height, width), and nothing else: list of str.

    It is empty for a file that cannot be read, or that has 16 bits where ``white`` is not known.
    """

    def digest(i):
        try:
            grey = decode(os.path.join(root, paths[i]), frame, white).grey
        except Exception:  # it is told when it is to be used
            return ""
        return "" if grey is None else _digest(grey)

    with quiet_decoders():
        return _each(digest, range(len(paths)), what="comparing test files")


# ---- one mask ----------------------------------------------------------------------------------


def load_mask(path, image_path, frame):
    """What is white in a mask that was drawn on an image, as that image comes into ``frame``: (H, W) bool.

    White is 128 or more of 255. A pixel in the frame counts when nothing black is in it; what lies beside the
    image in the frame counts, too.

    Raises:
        UserError: the mask cannot be read, has nothing white, or has another size than the image.
    """
    try:
        mask, size, *_ = decode(path)
        brightest = _brightest(path, mask)
    except Exception as error:  # whatever a decoder makes of broken bytes
        raise UserError(f"the mask {path} cannot be read ({reason_of(error)})") from None
    own = decode(image_path).size
    if size != own:
        raise UserError(
            f"the mask {path} has {size[1]}x{size[0]} pixels, but {image_path} {own[1]}x{own[0]}: draw it "
            "on the slice itself"
        )
    if mask.max() < 128:
        raise UserError(f"the mask {path} keeps nothing: its brightest value is {brightest}; make white what to keep")
    black = Image.fromarray(np.where(mask < 128, 255, 0).astype(np.uint8))
    return np.asarray(into_frame(black, frame)) == 0


def _brightest(path, mask):
    """The largest value of a mask, in words: "1 of 255"."""
    with Image.open(path) as image:
        if image.mode.startswith("I"):
            return f"{np.asarray(image).max():,} of 65,535"
    return f"{mask.max()} of 255"


# ---- writing ----------------------------------------------------------------------------------


def save_png(path, image):
    """Write one grey image, (H, W) or (H, W, 1) float in [0, 1] or uint8, and nothing else, as a PNG."""
    Image.fromarray(to_bytes(np.asarray(image))).save(path, format="PNG")


def save_nifti(path, image, pixel_size, spacing=1.0, what="sampled from a model: a scan of nobody"):
    """Write a grey image, (H, W, 1) uint8, or a stack of S with the lowest first, (H, W, S), as a NIfTI volume.

    It is (W, H, S), RAS+, in mm. Taken for granted is that columns run from the person's left to the right and rows
    from anterior to posterior. The centre of the volume is the origin.

    Args:
        pixel_size: mm.
        spacing: mm from one slice to the next, which is how thick each is.
        what: it is, in its header; up to 79 letters.
    """
    import nibabel

    volume = np.asarray(image)[::-1].transpose(1, 0, 2)  # (W, H, S): x to the right, y to the front, z up
    sides = np.array([pixel_size, pixel_size, spacing])
    affine = np.diag([*sides, 1.0])
    affine[:3, 3] = -sides * (np.array(volume.shape) - 1) / 2
    nifti = nibabel.Nifti1Image(volume, affine)
    nifti.header.set_xyzt_units("mm")
    nifti.header["descrip"] = what.encode()
    nibabel.save(nifti, path)


def save_animation(path, frames, milliseconds):
    """Write an animation that repeats, as a GIF, from the PNG files of its frames, which go."""
    images = []
    for frame in frames:
        with Image.open(frame) as image:
            images.append(image.convert("L"))
        Path(frame).unlink()
    with whole_file(path) as temporary:
        images[0].save(temporary, format="GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0)
