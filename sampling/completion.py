"""What could stand where a slice is not kept: codes drawn given the kept ones, before and behind them."""

import math
from pathlib import Path

import numpy as np

from sampling.draws import PLAIN, check_draw, look_up, output_folder, own_numbers, sample_row, say_outside
from sampling.run import prior_bits
from slices import frame
from slices.images import load_mask, save_png
from slices.index import condition_ids
from slices.sheets import image_sheet, number_sheet
from utils import UserError, counted, new_folder, progress, write_csv

CHAINS, CANDIDATES = 8, 4  # grids completed side by side, always, and candidates for each: 32 in all
WHOLE_STEPS, SWEEPS, TILE = 8, 4, 4  # of masked Gibbs sweeps: steps that redraw everything, then sweeps of tiles
COLUMNS = 8  # images per row of the sheet


# ---- what is kept -------------------------------------------------------------------------------


def kept_pixels(keep, path, shape):
    """What of a slice is kept: (H, W) bool in the run's frame.

    Args:
        keep: "top", "bottom", "left", "right" for half of the frame, or a mask as large as the slice at ``path``,
            white where to keep it.
        path: of the slice, for a mask.
        shape: (H, W).
    """
    (height, width), (rows, columns) = shape, np.indices(shape)
    halves = {
        "top": rows < height // 2,
        "bottom": rows >= height // 2,
        "left": columns < width // 2,
        "right": columns >= width // 2,
    }
    if keep not in halves and not Path(keep).is_file():
        raise UserError(f"--keep {keep} is neither top, bottom, left or right nor a mask image")
    return halves[keep] if keep in halves else load_mask(keep, path, shape)


def kept_cells(pixels, box, grid, patch=1):
    """(h, w) bool: the codes whose whole patches are kept, from the pixels (H, W) bool of the frame.

    Where they are whole rows from the top, those that fill no row of cells of ``patch`` x ``patch`` codes are not
    kept: all that is left comes before all others, so that these are drawn exactly.
    """
    (h, w), lost = grid, frame.crop(~pixels[..., None], box)[..., 0]  # what is not in the frame is not lost
    kept = ~lost.reshape(h, box.height // h, w, box.width // w).any(axis=(1, 3))
    rows = kept.all(axis=1).sum()
    if rows >= patch and kept[:rows].all() and not kept[rows:].any():
        kept[rows - rows % patch :] = False
    return kept


def in_drawing_order(keep, patch=1):
    """(B,) bool: whether all kept codes of keep (B, h, w) come before all others, so that a plain draw is exact.

    The order is that of cells of ``patch`` x ``patch`` codes, and in each that of its codes.
    """
    batch, h, w = keep.shape
    by_cell = keep.reshape(batch, h // patch, patch, w // patch, patch).swapaxes(2, 3)
    flat = by_cell.reshape(batch, -1)
    return ~(flat[:, 1:] & ~flat[:, :-1]).any(axis=1)


# ---- drawing the rest ---------------------------------------------------------------------------


def gibbs_cells(unknown, tile_side):
    """Yield the cells (B, h, w) bool to draw together: some times all of them, then sweeps of tiles that shift."""
    yield from [unknown] * WHOLE_STEPS
    for sweep in range(SWEEPS):
        shift = sweep % 2 * (tile_side // 2)
        for top in range(-shift, unknown.shape[1], tile_side):
            for left in range(-shift, unknown.shape[2], tile_side):
                tile = np.zeros_like(unknown)
                tile[:, max(top, 0) : top + tile_side, max(left, 0) : left + tile_side] = True
                yield tile & unknown


def complete_codes(prior, codes, keep, columns, seed, purpose, first, tile_side=TILE, **draw):
    """Draw what is not kept of code grids, given what is kept.

    Where all kept codes come first in raster order this is an exact draw. Elsewhere it is an approximate one: the
    others are drawn in raster order, and then again and again with an eye on the codes that follow
    (``Prior.redraw``), first all of them and then tile by tile. That leaves their distribution given the
    kept ones as it is and moves towards it, but stops after a few sweeps.

    Args:
        codes, keep: (CHAINS, h, w) int and bool.
        columns: dict of label and position, (CHAINS,) int, 0 for none.
        seed, purpose, first: of the random numbers; grid i depends on the seed, the purpose and first + i alone.
        tile_side: in codes; where few of a tile are to be drawn it can be large.
        draw: temperature, top_k, top_p, guidance: as in ``Run.sample``, in raster order; the sweeps know none.

    Returns:
        codes (CHAINS, h, w) int32.
    """

    def uniforms(step, count):
        return own_numbers(range(first, first + len(codes)), count, seed, purpose, step)

    conditions, shape = (columns["label"], columns["position"]), prior.uniforms_shape
    size = math.prod(shape)
    draw |= {"known": codes, "mask": keep, "scored": slice(0)}
    drawn, _ = prior.sample(uniforms(0, size).reshape(-1, *shape), *conditions, **draw)
    unknown = ~keep & ~in_drawing_order(keep, prior.patch)[:, None, None]
    steps = list(gibbs_cells(unknown, tile_side)) if unknown.any() else []
    for step, cells in enumerate(progress(steps, desc="Gibbs sweeps", unit=" steps", leave=False), 1):
        if cells.any():
            numbers = uniforms(step, CANDIDATES * size + 1)
            candidates = numbers[:, 1:].reshape(len(codes), CANDIDATES, *shape)
            drawn = prior.redraw(drawn, cells, candidates, numbers[:, 0], *conditions)
    return np.asarray(drawn)


def completions_of(prior, codes, keep, label, position, count, seed, first=0, **draw):
    """At least ``count`` completions of one grid: (N, h, w) int32, whole blocks of CHAINS.

    Args:
        codes, keep: (h, w) int and bool.
        label, position: ids, 0 for none.
        seed, first: completion i depends on the seed and first + i alone.
        draw: as in ``complete_codes``.
    """
    codes, keep = (np.repeat(x[None], CHAINS, axis=0) for x in (codes, keep))
    columns = {"label": np.full(CHAINS, label, np.int32), "position": np.full(CHAINS, position, np.int32)}
    starts = progress(range(first, first + count, CHAINS), desc="completing", unit=" blocks", leave=None)
    return np.concatenate(
        [complete_codes(prior, codes, keep, columns, seed, "completions", start, **draw) for start in starts]
    )


# ---- one slice ----------------------------------------------------------------------------------


def complete(run, slice, keep="top", num_images=8, label=None, position=None, seed=0, paste=False, out=None, **draw):
    """Complete one slice: write alternatives.png, spread.png, completions.csv and completion_00000.png ….

    Args:
        run: Run.
        slice: a PNG or JPEG file.
        keep: "top", "bottom", "left", "right", or a mask image as large as the slice, white where to keep it.
        num_images: completions, from 2.
        label, position: a label and 0 to P - 1, or "none" (default: what slices.csv says of the file).
        seed: int from 0.
        paste: put the original pixels back where they are kept.
        out: a new folder (default: <run>/samples/complete-<time>).
        draw: temperature, top_k, top_p, guidance: as in ``Run.sample``; for what is drawn exactly, as below a kept top.

    Returns:
        The folder, a Path.

    Raises:
        UserError: there is no such slice or mask, nothing is kept, or the arguments do not go with what is kept.
    """
    check_draw(seed=seed, **draw)
    original, pixels, cells = read_kept(run, Path(slice), keep, num_images, draw)
    known = look_up(run, [slice], label, position)
    say_outside(frame.outside(original.brain_boxes, run.box))
    exact = in_drawing_order(cells[None], run.prior.patch)[0]
    how = "drawn exactly" if exact else "approximate, by masked Gibbs sweeps"
    out = output_folder(out, run, "complete-{time}")
    with new_folder(out) as unfinished:
        ids = [column.item() for column in condition_ids(known, run.labels).values()]
        reconstruction, images, bits = draw_images(run, original.images, cells, ids, num_images, seed, draw)
        if paste:
            images = np.where(pixels[..., None], original.images, images)
        rows = [sample_row(run.labels, f"completion_{i:05d}.png", i, seed, *ids, bits[i]) for i in range(num_images)]
        for row, image in zip(rows, images, strict=True):
            save_png(unfinished / row["file"], image)
        write_csv(unfinished / "completions.csv", rows)
        seen = np.where(pixels[..., None], original.images, original.images // 4)  # darker where it is not kept
        draw_figures(
            unfinished,
            f"{num_images} completions by {run.name}, {how}: of the model, not of people",
            frame.crop(np.concatenate([original.images, seen, reconstruction, images]), run.box),
        )
    print(f"{counted(num_images, 'completion')}, {how}: {out / 'alternatives.png'}, {out / 'spread.png'}")
    return out


def read_kept(run, path, keep, num_images, draw):
    """The slice to complete and what is kept of it: see ``complete``.

    Returns:
        LoadedImages of one image, its kept pixels (H, W) bool in the frame, and its kept codes (h, w) bool.
    """
    if not path.is_file():
        raise UserError(f"there is no slice {path}: give a PNG or JPEG file")
    if num_images < 2:
        raise UserError("a completion needs --num-images 2 or more: spread.png is how they differ")
    original, side = run.load(path.parent, [path.name]), run.config["downsample"]
    pixels = kept_pixels(keep, path, run.frame)
    patch = run.config.get("prior_patch", 1)
    cells = kept_cells(pixels, run.box, run.code_grid, patch)
    if not cells.any():
        raise UserError(f"--keep {keep} keeps no patch of {side}x{side} pixels whole, and so no code: keep more")
    in_order = in_drawing_order(cells[None], patch)[0]
    if not in_order and PLAIN | draw != PLAIN:
        raise UserError(
            f"--keep {keep} needs Gibbs sweeps, which know no --temperature, --top-k, --top-p or --guidance: "
            "leave them out, or keep the top"
        )
    return original, pixels, cells


def draw_images(run, original, cells, ids, count, seed, draw):
    """A slice's reconstruction and its completions.

    Args:
        original: (1, H, W, 1) uint8.
        cells: (h, w) bool, the kept codes.
        ids: of the label and the position.
        draw: dict of temperature, top_k, top_p, guidance, those that are given.

    Returns:
        Reconstruction (1, H, W, 1), completions (count, H, W, 1) uint8, and their log-likelihood in bits, (count,).
    """
    codes = run.encode(original)  # (1, h, w)
    drawn = completions_of(run.prior, codes[0], cells, *ids, count, seed, **draw)  # (N, h, w)
    crops = run.decode_crops(np.concatenate([np.repeat(codes, CHAINS, axis=0), drawn]), "completions", CHAINS)
    crops = run.sharpened(crops)
    images = frame.paste(crops[..., None], run.box, run.frame)  # (CHAINS + N, H, W, 1)
    label, position = np.repeat(np.array(ids, np.int32)[:, None], len(drawn), axis=1)
    columns = {"label": label, "position": position}
    bits = -prior_bits(run.prior, drawn, columns, CHAINS).sum(axis=(1, 2))
    return images[:1], images[CHAINS : CHAINS + count], bits[:count]


def draw_figures(folder, title, images):
    """Draw alternatives.png and spread.png of a slice, its kept part, its reconstruction and its completions."""
    completions = images[3:, ..., 0] / 255  # (N, H, W)
    names = ["slice", "kept: bright", "reconstruction", *(f"completion {i}" for i in range(len(completions)))]
    image_sheet(folder / "alternatives.png", images, min(COLUMNS, len(images)), captions=names, title=title)
    spread = completions.std(axis=0)
    number_sheet(
        folder / "spread.png",
        [
            ("slice", images[0, ..., 0] / 255, None, 0, 1),
            ("kept: bright", images[1, ..., 0] / 255, None, 0, 1),
            ("mean of completions", completions.mean(axis=0), None, 0, 1),
            ("standard deviation", spread, "inferno", 0, max(spread.max(), 0.01)),
        ],
        title=title,
    )
