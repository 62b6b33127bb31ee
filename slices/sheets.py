"""Sheets: grey images in rows on black, pictures of numbers beside each other, and the contact sheet of a folder."""

import io
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from slices.frame import to_bytes
from utils import UserError, whole_file

IMAGE_WIDTH = 1.6  # inches
NUMBERS_WIDTH, BAR = 2.2, 0.5  # inches: of a picture of numbers, and the height of what is below it
PLAIN_TEXT = {"text.parse_math": False}  # a label called $x$ is no formula
DIFFERENCE = 0.25  # of full white: the most that the colours of differences tell apart


@matplotlib.rc_context(PLAIN_TEXT)
def image_sheet(path, images, columns, row_names=(), captions=(), title=None, differences=()):
    """Write a figure of grey images in rows of ``columns``, as a PNG.

    Args:
        images: (N, H, W, 1), uint8 or float in [0, 1]; differences in [-1, 1].
        row_names: what to write beside each row.
        captions: what to write above each image.
        differences: the rows to draw in colours, blue below 0, black at 0, red above, up to ±0.25.
    """
    height, width = images.shape[1:3]
    grid = _Grid(len(images), columns, IMAGE_WIDTH * height / width, bool(row_names), len(captions) > 0, title)
    figure = _black_figure(grid.width, grid.height)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        axes = figure.add_axes(grid.place(row, column))
        if row in differences:
            axes.imshow(image[..., 0], cmap=around_black(), vmin=-DIFFERENCE, vmax=DIFFERENCE)
        else:
            axes.imshow(to_bytes(image), cmap="gray", vmin=0, vmax=255)
        axes.axis("off")
        if len(captions):
            axes.set_title(captions[i], color="white", fontsize=8, pad=2)
        if column == 0 and row < len(row_names):
            figure.text(*grid.beside(row), row_names[row], color="white", fontsize=8, va="center", rotation=0)
    _write_figure(figure, path, grid.title_lines)


@dataclass
class _Grid:
    """Where the images of a sheet lie: lengths in inches, places in shares of the figure from its lower left."""

    count: int
    columns: int
    image_height: float
    has_names: bool
    has_captions: bool
    title: str | None

    def __post_init__(self):
        self.left = 0.9 if self.has_names else 0.1
        self.width = self.left + self.columns * IMAGE_WIDTH
        self.title_lines = _title_lines(self.title, self.width)
        self.top = 0.2 + 0.2 * len(self.title_lines) if self.title else 0.1
        self.row_height = self.image_height + (0.2 if self.has_captions else 0.0)
        self.height = self.top + -(-self.count // self.columns) * self.row_height

    def below(self, rows):
        """The height above the lower edge of what lies so many rows below the top."""
        return 1 - self.top / self.height - rows * (self.row_height / self.height)

    def place(self, row, column):
        """Left, bottom, width and height of an image."""
        return [
            (self.left + column * IMAGE_WIDTH) / self.width,
            self.below(row + 1),
            IMAGE_WIDTH / self.width * 0.98,
            self.image_height / self.height * 0.98,
        ]

    def beside(self, row):
        """Where a row's name is written."""
        return 0.05 / self.width * 2, self.below(row + 0.5)


@matplotlib.rc_context(PLAIN_TEXT)
def number_sheet(path, pictures, title):
    """Write a row of pictures, those that show numbers in colours and with a colour bar, as a PNG.

    Args:
        pictures: list of (what to write above it, (H, W) array, colours, least, most); without colours it is grey.
        title: what to write above them all.
    """
    height, width = pictures[0][1].shape
    figure_width = len(pictures) * NUMBERS_WIDTH
    title_lines = _title_lines(title, figure_width)
    picture_height = NUMBERS_WIDTH * height / width
    figure_height = 0.45 + 0.2 * len(title_lines) + picture_height + BAR
    figure = _black_figure(figure_width, figure_height)
    for i, (caption, picture, colours, least, most) in enumerate(pictures):
        place = [i / len(pictures), BAR / figure_height, 0.97 / len(pictures), picture_height / figure_height]
        axes = figure.add_axes(place)
        drawn = axes.imshow(picture, cmap=colours or "gray", vmin=least, vmax=most, interpolation="nearest")
        axes.axis("off")
        axes.set_title(caption, color="white", fontsize=8, pad=3)
        if colours:
            bar_axes = figure.add_axes(
                [place[0] + 0.1 * place[2], 0.3 / figure_height, 0.8 * place[2], 0.1 / figure_height]
            )
            figure.colorbar(drawn, cax=bar_axes, orientation="horizontal")
            bar_axes.tick_params(colors="white", labelsize=7, length=2)
    _write_figure(figure, path, title_lines)


def around_black():
    """Colours for numbers on both sides of 0: blue below, black at 0, red above."""
    return LinearSegmentedColormap.from_list("around black", ["#bfe6ff", "#2b8cd6", "black", "#d6452b", "#ffd2bf"])


def _black_figure(width, height):
    """A figure of so many inches that knows nothing of windows: a notebook's own figures stay as they are."""
    return Figure(figsize=(width, height), facecolor="black")


def _title_lines(title, figure_width):
    """A title in lines that fit into so many inches."""
    return textwrap.wrap(title or "", max(20, int(figure_width * 13)))


def _write_figure(figure, path, title_lines):
    """Write a figure on black with its title at the top, whole or not at all."""
    if title_lines:
        figure.text(
            0.5,
            1 - (0.1 + 0.1 * len(title_lines)) / figure.get_figheight(),
            "\n".join(title_lines),
            color="white",
            ha="center",
            va="center",
            fontsize=10,
        )
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110, facecolor="black", format="png")
    red, green, blue = Image.open(drawn).convert("RGB").split()
    grey = red == green == blue  # then one channel says it all, in half the bytes
    with whole_file(path) as temporary:
        (red if grey else Image.merge("RGB", (red, green, blue))).save(temporary, format="PNG")


# ---- the contact sheet of a folder --------------------------------------------------------------


def sheet_path(out=None):
    """Where the contact sheet goes, a Path: ``out``, or the first contact_sheet….png that does not exist.

    Raises:
        UserError: ``out`` exists, is no .png, or lies in no folder.
    """
    if out is None:
        names = (Path(f"contact_sheet{'' if i == 1 else f'_{i}'}.png") for i in range(1, sys.maxsize))
        return next(path for path in names if not path.exists())
    path = Path(out)
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise UserError(f"--out {out} must be a .png in a folder that exists")
    if path.exists():
        raise UserError(f"--out {out} exists and is left alone: choose another name, or remove it")
    return path


def contact_sheet(path, slices, images, columns=8, most_rows=12):
    """A row of people for each split and label, each person by the slice nearest the middle position, as a PNG.

    Args:
        slices: the index of the images, its rows numbered from 0.
        images: (N, H, W, 1) uint8.

    Raises:
        UserError: it cannot be written.
    """
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
    try:
        image_sheet(path, np.stack(shown), columns, row_names=names, captions=captions)
    except OSError as error:
        raise UserError(f"the contact sheet {path} cannot be written ({error.strerror})") from None
