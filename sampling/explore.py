"""What the page of a run shows: what it draws, and what it says of one given slice. All in memory, all marked."""

import io
import zipfile
from base64 import b64decode
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from metrics.codes import over_pixels
from report.marked import coloured, marked_png
from sampling.completion import draw_images, in_drawing_order, kept_cells
from sampling.draws import NONE, wanted_conditions
from sampling.people import is_told
from sampling.run import prior_bits
from sampling.scoring import compare_codes
from slices.frame import crop
from slices.grey import reason_of
from slices.images import quiet_decoders
from slices.index import condition_ids
from slices.sheets import around_black
from slices.views import coronal_views, sagittal_views, stacked
from utils import UserError

COLUMNS = 5  # slices of a person in a row
DETAIL_COLUMNS = 3  # in what is shown of one slice
MOST_Z = 6  # standard deviations, of the colours


@dataclass
class Shown:
    """One picture on the page.

    Attributes:
        name: what its file is called when it is downloaded.
        png: bytes, with captions and mark in the pixels.
    """

    name: str
    png: bytes


def mark_of(run):
    """What is written under every picture that a run draws."""
    return "simulated" if run.config["simulated"] else "of a model, not of people"


def archive(shown):
    """A ZIP file of the pictures that are shown: bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:  # PNG files are compressed already
        for one in shown:
            file.writestr(one.name, one.png)
    return content.getvalue()


# ---- what it draws ------------------------------------------------------------------------------


def show_slices(run, num_images, label, position, seed, **draw):
    """A list of Shown, one for each sample; the pixels over the caption are those of ``Run.sample``."""
    samples = run.sample(num_images, label, position, seed, **draw)
    return [
        Shown(row["file"], marked_png([image], [f"{row['label']}, {row['position']}"], mark_of(run)))
        for image, row in zip(samples.images, samples.rows, strict=True)
    ]


def show_people(run, num_people, label, seed, **draw):
    """A list of Shown, one for each person of ``Run.sample_people``: what the box holds of the slices, and views.

    Raises:
        UserError: as ``Run.sample_people``.
    """
    people = run.sample_people(num_people, label, seed, **draw)
    how = "" if is_told(run) else ", slices drawn one by one, which do not agree"
    return [
        Shown(f"{row['person']}.png", marked_png([person_picture(run, stack)], [f"{row['label']}{how}"], mark_of(run)))
        for stack, row in zip(people.images, people.rows, strict=True)
    ]


def person_picture(run, stack):
    """The slices (S, H, W) uint8 of a person in rows of COLUMNS, above the stack from the front and the side."""
    cropped = crop(stack[..., None], run.box)[..., 0]  # (S, h, w)
    height, width = cropped.shape[1:]
    padded = np.pad(cropped, ((0, -len(stack) % COLUMNS), (0, 0), (0, 0)))
    montage = padded.reshape(-1, COLUMNS, height, width).swapaxes(1, 2).reshape(-1, COLUMNS * width)
    return stacked([montage, coronal_views(cropped, scale=2), sagittal_views(cropped, scale=2)])


# ---- what it says of a slice ----------------------------------------------------------------------


def show_answer(run, image, label=None, position=None, validation=None):
    """A Shown of a given slice, its reconstruction, its codes, and how improbable they are.

    Args:
        image: (H, W) uint8 in the run's frame.
        label, position: as in ``Run.bits``.
        validation: ``sampling.scoring.Validation``, who say what is usual; without them there are bits alone.

    Raises:
        UserError: the run does not know the label or the position.
    """
    known, codes = known_of(run, label, position), run.encode(image[None])  # (1, h, w)
    if validation is None:
        bits = prior_bits(run.prior, codes, condition_ids(known, run.labels))
    else:
        bits, z_scores, (compared,) = compare_codes(run, known, codes, validation)
    code_values, given = run.code_values, in_box(run, image)
    most = 1.5 * np.log2(code_values)
    pictures = {
        "the slice": given,
        "reconstruction": run.decode_crops(codes)[0],
        f"codes, 0 to {code_values - 1}": in_colours(codes, given, "turbo", 0, code_values - 1),
        f"bits of each code, 0 to {most:.0f}": in_colours(bits, given, "magma", 0, most),
    }
    if validation is not None:
        colours = around_black(), -MOST_Z, MOST_Z
        others = f"{compared['compared_slices']} slices of {compared['compared_people']} people"
        pictures[f"z beside {others}: red is less likely than usual, no diagnosis"] = in_colours(
            z_scores, given, *colours
        )
        pictures["z, blurred"] = in_colours(z_scores, given, *colours, blurred=True)
    return shown("answer.png", pictures, f"{mark_of(run)}, but for the first picture")


def show_completions(run, image, painted, num_images=4, label=None, position=None, seed=0):
    """A Shown of what could stand where a slice is painted over.

    The completions are those of ``sampling.completion.complete`` with the rest as a mask.

    Args:
        image: (H, W) uint8 in the run's frame.
        painted: (H, W) bool.
        num_images: from 2.
        label, position, seed: as in ``complete``.

    Raises:
        UserError: nothing is painted, or nothing is left; or the run does not know the label or the position.
    """
    cells = kept_cells(~painted, run.box, run.code_grid, run.prior.patch)
    if cells.all():
        raise UserError("nothing is painted that the model draws: paint over what to complete")
    if not cells.any():
        raise UserError("no code of the slice is kept whole: paint over less of it")
    ids = [ids.item() for ids in condition_ids(known_of(run, label, position), run.labels).values()]
    _, images, _ = draw_images(run, image[None, ..., None], cells, ids, num_images, seed, {})  # (N, H, W, 1)
    completions = crop(images, run.box)[..., 0]
    spread = completions.std(axis=0) / 255
    pictures = {
        "the slice": in_box(run, image),
        "kept: bright": in_box(run, np.where(painted, image // 4, image)),
        **{f"completion {i}": one for i, one in enumerate(completions)},
        f"standard deviation, 0 to {max(spread.max(), 0.01):.2f} of white": coloured(
            spread, "inferno", 0, max(spread.max(), 0.01)
        ),
    }
    how = (
        "drawn exactly" if in_drawing_order(cells[None], run.prior.patch)[0] else "approximate, by masked Gibbs sweeps"
    )
    return shown("completions.png", pictures, f"{mark_of(run)}, but for the first two pictures; {how}")


def painted_pixels(run, url):
    """What was painted, (H, W) bool, from the data URL of a PNG that is transparent elsewhere; nothing for None.

    Raises:
        UserError: it is no such picture in the run's frame.
    """
    if not url:
        return np.zeros(run.frame, bool)
    try:
        with quiet_decoders(), Image.open(io.BytesIO(b64decode(url.partition(",")[2])), formats=("PNG",)) as picture:
            painted = np.asarray(picture.convert("RGBA"))[..., 3] >= 128
    except Exception as error:  # whatever a decoder makes of broken bytes
        raise UserError(f"what was painted cannot be read ({reason_of(error)})") from None
    if painted.shape != run.frame:
        raise UserError(f"what was painted measures {painted.shape}, not {run.frame}")
    return painted


def known_of(run, label, position):
    """What ``sampling.draws.look_up`` gives, of one slice that is in no index.

    Raises:
        UserError: the run does not know the label or the position.
    """
    label_id, position_id = (i or 0 for i in wanted_conditions(run.labels, run.num_positions, label, position))
    return pd.DataFrame(
        {"label": [run.labels[label_id - 1] if label_id else NONE], "position": [position_id - 1], "subject": [""]}
    )


def in_box(run, image):
    """What the models see of an image (H, W) of the frame."""
    return crop(image[..., None], run.box)[..., 0]


def in_colours(numbers, like, colours, least, most, blurred=False):
    """Numbers of the codes of one slice, (1, h, w), as a picture as large as ``like`` in colours: (H, W, 3) uint8."""
    return coloured(over_pixels(numbers, like.shape, blurred)[0], colours, least, most)


def shown(name, pictures, mark):
    """The Shown of a dict of caption → picture."""
    return Shown(name, marked_png(list(pictures.values()), list(pictures), mark, DETAIL_COLUMNS))
