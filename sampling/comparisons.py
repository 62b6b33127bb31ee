"""The same random numbers under other labels, at other positions, or at other temperatures."""

import numpy as np

from sampling.draws import PLAIN, check_block, check_draw, choose_conditions, output_folder
from slices.frame import crop
from slices.images import save_animation, save_png
from slices.sheets import image_sheet
from utils import UserError, counted, evenly, new_folder, progress, write_csv

NUM_IMAGES = {"label": 8, "position": 4, "temperature": 8}
TEMPERATURES = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3)
COLUMNS, ROWS = 8, 8  # of a sheet: images, and variants
WARNING = {
    "label": "not what one person would look like with a disease",
    "position": "a column is not one person",
    "temperature": "likelier or rarer codes, not healthier or sicker people",
}
UNDER = {"label": "under each label", "position": "at each position", "temperature": "at each temperature"}


def vary(run, what, num_images=None, label=None, position=None, seed=0, out=None, block=None, **draw):
    """Write the same samples in variants: brain_<image>_<variant>.png, samples.csv, sheet.png; sweep.gif of positions.

    Image i is the one that sampling with the same seed under the same conditions makes. Two variants get a row of
    their differences.

    Args:
        run: Run.
        what: "label", each of the run's; "position", each of them; or "temperature", TEMPERATURES.
        num_images: samples in each variant, from 1 (default: NUM_IMAGES).
        label, position, seed: as in ``Run.sample``, but for the one that varies.
        out: a new folder (default: <run>/samples/vary-<what>-<time>).
        block, draw: block, temperature, top_k, top_p, guidance: as in ``Run.sample``, but for the one that varies.

    Returns:
        The folder, a Path.

    Raises:
        UserError: what varies is given, there is one label only, or the run does not know a label or a position.
    """
    check_draw(seed=seed, **draw)
    check_block(block)
    draw = PLAIN | draw
    given = {"label": label is not None, "position": position is not None, "temperature": draw["temperature"] != 1.0}
    if what not in given:
        raise UserError(f"what varies is label, position or temperature, not {what!r}")
    if given[what]:
        raise UserError(f"--{what} does not go with varying the {what}: leave it out")
    variants = variants_of(run, what, num_images or NUM_IMAGES[what], label, position, seed, draw)
    title = f"the same random numbers {UNDER[what]}, by {run.name}: {WARNING[what]}"
    out = output_folder(out, run, f"vary-{what}-{{time}}")
    with new_folder(out) as unfinished:
        rows, images = write_variants(unfinished, run, variants, seed, block)
        write_csv(unfinished / "samples.csv", rows)
        crops = crop(images[:, :COLUMNS, ..., None], run.box) / 255  # (V, N, H, W, 1)
        draw_sheet(unfinished / "sheet.png", crops, list(variants), title)
        if what == "position":
            animate(unfinished / "sweep.gif", crops, list(variants), title)
    shown = [out / "sheet.png", *([out / "sweep.gif"] if what == "position" else [])]
    print(f"{counted(len(rows), 'image')}; {title}: {', '.join(map(str, shown))}")
    return out


def variants_of(run, what, num_images, label, position, seed, draw):
    """What the rows of the sheet are: dict of name -> label (N,) ids, position (N,) ids, draw, a dict like PLAIN."""
    if what == "label" and len(run.labels) < 2:
        raise UserError("the run has fewer than two labels: there is nothing to compare")
    label, position = choose_conditions(run, num_images, label, position, seed)
    if what == "label":
        return {name: (np.full_like(label, i + 1), position, draw) for i, name in enumerate(run.labels)}
    if what == "position":
        return {f"position {i}": (label, np.full_like(position, i + 1), draw) for i in range(run.num_positions)}
    return {f"temperature\n{value:g}": (label, position, draw | {"temperature": value}) for value in TEMPERATURES}


def write_variants(folder, run, variants, seed, block=None):
    """Write the samples of each of the variants.

    Returns:
        The rows of samples.csv, a list of dicts, and the images (V, N, H, W) uint8.
    """
    rows, images = [], []
    for number, (*conditions, draw) in enumerate(progress(variants.values(), desc="variants")):
        for samples in run.draw(*conditions, seed, block=block, **draw):
            for row, image in zip(samples.rows, samples.images, strict=True):
                file = f"brain_{row['index']:05d}_{number:02d}.png"
                rows.append(row | {"file": file, "temperature": draw["temperature"]})
                save_png(folder / file, image)
                images.append(image)
    return rows, np.stack(images).reshape(len(variants), -1, *run.frame)


def draw_sheet(path, crops, names, title):
    """Draw at most ROWS of the variants (V, N, H, W, 1) in [0, 1], and the differences where there are two."""
    shown = evenly(np.arange(len(crops)), ROWS)
    rows, row_names = list(crops[shown]), [names[i] for i in shown]
    if len(crops) == 2:
        rows, row_names = [*rows, crops[1] - crops[0]], [*row_names, "difference"]
    image_sheet(
        path, np.concatenate(rows), crops.shape[1], row_names, title=title, differences=(2,) if len(crops) == 2 else ()
    )


def animate(path, crops, names, title):
    """Write the variants (V, N, H, W, 1) in [0, 1] one after another as a GIF."""
    frames = [path.with_name(f"frame_{i:03d}.png") for i in range(len(crops))]
    for file, row, name in zip(frames, crops, names, strict=True):
        image_sheet(file, row, len(row), title=f"{name}; {title}")
    save_animation(path, frames, milliseconds=300)
