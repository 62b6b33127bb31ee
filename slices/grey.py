"""One image file as 8-bit grey: turned as its EXIF says, transparency laid on black, 16 bits by one scale."""

import threading
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FULL = 65535  # the largest value of 16 bits
WELL_USED = 16384  # 16-bit files whose bright pixels reach a quarter of their range were made for all of it
BRIGHT_SHARE = 0.999  # of the pixels over 0 are no brighter than what becomes white
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, as Pillow's "L"
TURNS = {  # what EXIF's orientation asks a viewer to do
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = {TURNS[orientation] for orientation in (5, 6, 7, 8)}
EXIF_ORIENTATION = 0x0112


# ---- one file → grey --------------------------------------------------------------------------


class Decoded(NamedTuple):
    """A decoded file.

    Attributes:
        grey: (H, W) uint8; None for a file of 16 bits whose scale is not known yet.
        size: (height, width) that it has for a viewer.
        turned: whether its EXIF turned it.
        deep: whether it has 16 bits.
    """

    grey: np.ndarray
    size: tuple
    turned: bool
    deep: bool


def decode(path, frame=None, white=FULL, tally=None):
    """An image file as grey.

    Args:
        frame: (height, width) to bring it to (default: its own).
        white: the value of 16-bit files that becomes 255; None where it is not known yet.
        tally: a Tally that counts the values of a file whose ``white`` is not known.

    Returns:
        Decoded.

    Raises:
        whatever Pillow makes of broken bytes; ``reason_of`` puts it in words.
    """
    with Image.open(path, formats=("PNG", "JPEG")) as image:
        layout = _layout(image)  # before the pixels are read, which forgets it
        deep = is_deep(image)
        values = _deep_values(path, image, layout) if deep and white != FULL else None
        grey = to_grey(image) if values is None else None
        turn = _turn(image)  # after that, for it may read the pixels, and would hide that they are broken
        size = (image.width, image.height) if turn in SIDEWAYS else (image.height, image.width)
    if values is not None and white is None:
        if tally is not None:
            tally.add(values)
        return Decoded(None, size, turn is not None, deep)
    if values is not None:
        grey = Image.fromarray(np.rint(np.minimum(values, white) * 255.0 / white).astype(np.uint8))
    grey = grey if turn is None else grey.transpose(turn)
    return Decoded(np.asarray(grey if frame is None else into_frame(grey, frame)), size, turn is not None, deep)


def _turn(image):
    """How EXIF asks to turn an image, or None; a damaged EXIF asks for nothing."""
    try:
        return TURNS.get(image.getexif().get(EXIF_ORIENTATION))
    except Exception:  # a dozen kinds, and no viewer minds
        return None


def to_grey(image):
    """Any PIL image as 8-bit grey: 16 bits scaled from their full range, transparency laid on black."""
    if image.mode.startswith("I"):
        return Image.fromarray(np.rint(np.clip(np.asarray(image), 0, FULL) / 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("L")


def into_frame(grey, frame):
    """A PIL image in (height, width), its aspect kept, on black."""
    if grey.size == tuple(frame[::-1]):
        return grey
    return ImageOps.pad(grey, frame[::-1], Image.Resampling.BICUBIC)  # antialiased: PIL widens the kernel


def reason_of(error):
    """A decoder's error in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not a PNG or JPEG image"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"over {Image.MAX_IMAGE_PIXELS:,} pixels"
    return getattr(error, "strerror", None) or next(filter(None, str(error).splitlines()), type(error).__name__)


# ---- 16 bits ----------------------------------------------------------------------------------


def is_deep(image):
    """Whether an opened PIL image has 16 bits a channel in its file."""
    return image.mode.startswith("I") or _layout(image).endswith(";16B")


def _layout(image):
    """How Pillow names the bytes of a pixel in the file: "I;16B", "RGB;16B", "L" …"""
    layout = image.tile[0].args if image.tile else ""
    return layout if isinstance(layout, str) else ""


def _deep_values(path, image, layout):
    """The values of a 16-bit image, (H, W) from 0 to 65535; colours by their luma, transparency laid on black.

    Pillow keeps the upper bytes of 16-bit colours alone, so the file is read as if it had 8 bits: the upper byte
    of a channel, then the lower.
    """
    if image.mode.startswith("I"):
        return np.clip(np.asarray(image), 0, FULL).astype(np.uint16)
    if layout == "LA;16B":
        channels = _read_as(path, "RGBA")  # upper and lower byte of grey, then of alpha
        grey, alpha = (channels[..., i] * 256 + channels[..., i + 1] for i in (0, 2))
    else:
        channels = np.asarray(image).astype(np.uint32) * 256 + _read_as(path, layout.replace("16B", "16L"))
        grey, alpha = channels[..., :3] @ np.array(LUMA), channels[..., 3] if channels.shape[-1] == 4 else FULL
    return np.rint(grey * (alpha / FULL)).astype(np.uint16)


def _read_as(path, layout):
    """The pixels of a PNG with another name for its bytes: (H, W, C) uint32."""
    with Image.open(path, formats=("PNG",)) as image:
        image.tile = [image.tile[0]._replace(args=layout)]
        return np.asarray(image).astype(np.uint32)


class Tally:
    """How often each value of 16 bits is in the files of a data set; filled by many threads."""

    def __init__(self):
        self.counts = np.zeros(FULL + 1, np.int64)
        self._lock = threading.Lock()

    def add(self, values):
        """Count the values (H, W) of a file."""
        counts = np.bincount(values.ravel(), minlength=FULL + 1)
        with self._lock:
            self.counts += counts

    @property
    def brightest(self):
        """The largest value that was met."""
        return int(np.flatnonzero(self.counts)[-1]) if self.counts.any() else 0

    @property
    def white(self):
        """The value that becomes 255: the full range where the files use it, else what few pixels are brighter than."""
        over_black = np.cumsum(self.counts[1:])
        if not over_black.size or not over_black[-1]:
            return FULL
        bright = 1 + int(np.searchsorted(over_black, BRIGHT_SHARE * over_black[-1]))
        return FULL if bright >= WELL_USED and self.brightest > FULL // 2 else bright
