"""Image files: decoded to grey of one size, checked and told when broken, all in one array; and written."""

import hashlib
import math
import os
import re
import shutil
import tempfile
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from slices.frame import brain_box, to_bytes
from utils import UserError, progress, warn, whole_file

NAMES_SHOWN = 10
MEMORY_SHARE = 0.25  # of the available memory may hold the images; more goes to a memory-mapped file
FILES_PER_TASK = 32


def first_of(names):
    """The first NAMES_SHOWN of a list of str, a line each, and how many more there are."""
    shown = "".join(f"\n  {name}" for name in names[:NAMES_SHOWN])
    return shown + (f"\n  and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")


# ---- many files → one array -------------------------------------------------------------------


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

    images: np.ndarray
    paths: list
    usable: np.ndarray
    problems: list
    brain_boxes: np.ndarray
    sizes: Counter
    digests: list
    fingerprint: str


class _Check(NamedTuple):
    """What was found in one file: a reason not to use it, or the rest."""

    reason: str | None = None
    size: tuple = ()
    brain_box: tuple = ()
    digest: str = ""


def load_images(root, paths, image_size=None, cache_folder=None, workers=None):
    """Decode files to grey and to one size, in one parallel pass that tells the broken ones.

    Args:
        root: folder that the paths are relative to.
        paths: list of str.
        image_size: (height, width) in pixels; an image of another size is resized, keeping its aspect, and
            padded with black. Default: the size that all images have.
        cache_folder: where images.npy goes when memory is short (default: a temporary file).
        workers: number of threads (default: one per core).

    Returns:
        LoadedImages.

    Raises:
        UserError: no file is readable, the sizes differ and there is no ``image_size``, or there is no room.
    """
    paths = list(paths)
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        frame = tuple(image_size) if image_size else _own_size(root, paths)
        images = stack.enter_context(_image_array((len(paths), *frame, 1), cache_folder))  # (M, H, W, 1)
        checks = _check_all(root, paths, images, workers)
        _tell_problems(root, paths, checks, image_size)
        usable = np.array([check.reason is None for check in checks], bool)
        rows = np.flatnonzero(usable)
        for new, old in enumerate(rows):
            if new != old:
                images[new] = images[old]
    return _as_loaded(images[: len(rows)], paths, usable, checks)


def _check_all(root, paths, images, workers):
    """Decode every path into its row of ``images``; a list of _Check."""

    def check(start):
        return [
            _load_one(root, path, images[start + i]) for i, path in enumerate(paths[start : start + FILES_PER_TASK])
        ]

    checks = []
    starts = range(0, len(paths), FILES_PER_TASK)
    with (
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
        progress(total=len(paths), desc="checking files", unit=" files") as bar,
    ):
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
    return _Check(size=size, brain_box=brain_box(grey), digest=hashlib.sha256(grey.tobytes()).hexdigest())


def _tell_problems(root, paths, checks, image_size):
    """Count the files that cannot be used and name the first of them; refuse what leaves nothing to use."""
    problems = [f"{path}: {check.reason}" for path, check in zip(paths, checks, strict=True) if check.reason]
    sizes = Counter(check.size for check in checks if check.reason is None)
    if problems:
        warn(f"{len(problems)} of {len(paths)} files cannot be used and are left out:{first_of(problems)}")
    if not sizes:
        raise UserError(f"no readable image is among the {len(paths)} files in {root}")
    if image_size is None and len(sizes) > 1:
        raise UserError(f"the images in {root} differ in size ({size_counts(sizes)}): choose one with --image-size H W")


def _as_loaded(images, paths, usable, checks):
    """The LoadedImages of the usable files' ``images`` (N, H, W, 1) and of what was found in all M."""
    good = [check for check in checks if check.reason is None]
    kept = [path for path, check in zip(paths, checks, strict=True) if check.reason is None]
    lines = sorted(f"{path}\0{check.digest}\n" for path, check in zip(kept, good, strict=True))
    fingerprint = hashlib.sha256("".join([f"{images.shape[1:3]}\n", *lines]).encode()).hexdigest()
    return LoadedImages(
        images=images,
        paths=kept,
        usable=usable,
        problems=[(path, check.reason) for path, check in zip(paths, checks, strict=True) if check.reason],
        brain_boxes=np.array([check.brain_box for check in good]),
        sizes=Counter(check.size for check in good),
        digests=[check.digest for check in good],
        fingerprint=fingerprint,
    )


def size_counts(sizes):
    """A Counter of (height, width) in words: 1280 of 256x240, 20 of 128x128."""
    shown = [f"{count} of {width}x{height}" for (height, width), count in sizes.most_common(5)]
    return ", ".join(shown + [f"{len(sizes) - 5} more sizes"] * (len(sizes) > 5))


# ---- one file → grey --------------------------------------------------------------------------


def _decode(path, frame=None):
    """An image file as grey uint8 of the size ``frame``, and the (height, width) it had."""
    with Image.open(path, formats=("PNG", "JPEG")) as image:
        size = image.height, image.width
        grey = _to_grey(image)
    return np.asarray(grey if frame is None else _into_frame(grey, frame)), size


def _to_grey(image):
    """Any PIL image as 8-bit grey: 16 bits scaled from their full range, transparency laid on black."""
    if image.mode.startswith("I"):
        return Image.fromarray(np.rint(np.clip(np.asarray(image), 0, 65535) / 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("L")


def _into_frame(grey, frame):
    """A PIL image in (height, width), its aspect kept, on black."""
    if grey.size == tuple(frame[::-1]):
        return grey
    return ImageOps.pad(grey, frame[::-1], Image.Resampling.BICUBIC)  # antialiased: PIL widens the kernel


def _reason(error):
    """A decoder's error in a few words."""
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


def load_mask(path, image_path, frame):
    """What is white in a mask that was drawn on an image, as that image comes into ``frame``: (H, W) bool.

    White is 128 or more of 255. A pixel in the frame counts when nothing black is in it; what lies beside the
    image in the frame counts, too.

    Raises:
        UserError: the mask cannot be read, or has another size than the image.
    """
    try:
        mask, size = _decode(path)
    except Exception as error:  # whatever a decoder makes of broken bytes
        raise UserError(f"the mask {path} cannot be read ({_reason(error)})") from None
    own = _decode(image_path)[1]
    if size != own:
        raise UserError(
            f"the mask {path} has {size[1]}x{size[0]} pixels, but {image_path} {own[1]}x{own[0]}: draw it "
            "on the slice itself"
        )
    black = Image.fromarray(np.where(mask < 128, 255, 0).astype(np.uint8))
    return np.asarray(_into_frame(black, frame)) == 0


# ---- where the array is -----------------------------------------------------------------------


@contextmanager
def _image_array(shape, cache_folder):
    """An uint8 array to fill: in memory where it fits, else a memory-mapped file, whole or not at all."""
    if math.prod(shape) <= MEMORY_SHARE * _available_memory():
        yield np.empty(shape, np.uint8)
        return
    with ExitStack() as stack:
        try:
            folder = Path(cache_folder or stack.enter_context(tempfile.TemporaryDirectory()))
            folder.mkdir(parents=True, exist_ok=True)
            if math.prod(shape) > shutil.disk_usage(folder).free:  # writing beyond it would kill the process
                raise UserError(
                    f"{folder} has no room for {math.prod(shape) / 1e9:.1f} GB of decoded images: "
                    "choose a smaller --image-size, or free some space"
                )
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


# ---- writing ----------------------------------------------------------------------------------


def save_png(path, image):
    """Write one grey image, (H, W) or (H, W, 1) float in [0, 1] or uint8, and nothing else, as a PNG."""
    Image.fromarray(to_bytes(np.asarray(image))).save(path, format="PNG")


def save_nifti(path, image, pixel_size):
    """Write one grey image, (H, W, 1) uint8, as a NIfTI volume of one slice: (W, H, 1), RAS+, in mm.

    Taken for granted is that columns run from the person's left to the right and rows from anterior to posterior.
    The centre of the frame is the origin; the slice is 1 mm thick.

    Args:
        pixel_size: mm.
    """
    import nibabel

    volume = np.asarray(image)[::-1, :, 0].T[..., None]  # (W, H, 1): x to the right, y to the front
    affine = np.diag([pixel_size, pixel_size, 1.0, 1.0])
    affine[:2, 3] = -pixel_size * (np.array(volume.shape[:2]) - 1) / 2
    nifti = nibabel.Nifti1Image(volume, affine)
    nifti.header.set_xyzt_units("mm")
    nifti.header["descrip"] = b"sampled from a model: a scan of nobody"
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
