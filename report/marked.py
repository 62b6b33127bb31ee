"""Pictures that say in their own pixels what they are, wherever they go: PNG bytes, made in memory."""

import io
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 4  # pixels between pictures
FONT_SIZE, LINE = 11, 14  # pixels


def marked_png(pictures, captions, mark, columns=1):
    """Pictures in rows, pixel for pixel from the upper left corner, a caption below each, and a mark below them all.

    Args:
        pictures: list of (H, W) uint8, or (H, W, 3) for colours, all of one height and width.
        captions: what to write below each, a list of str.
        mark: what they are, below them all.
        columns: how many in a row.

    Returns:
        bytes of a PNG, grey where all pictures are.
    """
    height, width = pictures[0].shape[:2]
    texts = [_lines(caption, width) for caption in captions]
    row_height = height + max(map(len, texts)) * LINE + GAP
    rows = -(-len(pictures) // columns)
    total_width = max(min(columns, len(pictures)) * (width + GAP) - GAP, *(_width(word) for word in mark.split()))
    foot = _lines(mark, total_width)
    colours = any(picture.ndim == 3 for picture in pictures)
    sheet = Image.new("RGB" if colours else "L", (total_width, rows * row_height + len(foot) * LINE + GAP))
    pen = ImageDraw.Draw(sheet)
    for i, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        left, top = i % columns * (width + GAP), i // columns * row_height
        sheet.paste(Image.fromarray(picture), (left, top))
        _write(pen, left, top + height, text, "lightgrey")
    _write(pen, 0, rows * row_height, foot, "white")
    return png_bytes(np.asarray(sheet))


def png_bytes(picture):
    """A picture, (H, W) or (H, W, 3) uint8, as the bytes of a PNG."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="PNG")
    return content.getvalue()


def coloured(numbers, colours, least, most):
    """Numbers (H, W) in the colours of a matplotlib map from ``least`` to ``most``: (H, W, 3) uint8."""
    shares = np.clip((numbers - least) / (most - least), 0, 1)
    return matplotlib.colormaps.get_cmap(colours)(shares, bytes=True)[..., :3]


def _write(pen, left, top, lines, fill):
    for i, line in enumerate(lines):
        pen.text((left, top + i * LINE), line, fill=fill, font=_font())


def _lines(text, width):
    """A text in lines of ``width`` pixels; a word that is longer has a line of its own."""
    lines = []
    for word in text.split():
        if lines and _width(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _width(text):
    return int(_font().getlength(text)) + 2


@lru_cache(maxsize=1)
def _font():
    """The letters of figures, which have accents and Greek, too."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), FONT_SIZE)
