"""Samples as a folder of images with their table and a sheet."""

import time

import numpy as np

from sampling.draws import output_folder, shard_of
from slices.frame import crop
from slices.images import save_nifti, save_png
from slices.sheets import image_sheet
from training.folder import run_name
from utils import UserError, counted, new_folder, shell, write_csv

COLUMNS = 8  # images per row of the sheet
SHOWN = 64  # on the sheet


def write_samples(
    run,
    num_images=16,
    label=None,
    position=None,
    seed=0,
    shard=(1, 1),
    format="png",
    pixel_size=1.0,
    out=None,
    block=None,
    **draw,
):
    """Write what ``Run.sample`` makes of the same arguments, with samples.csv and sheet.png, into a new folder.

    Args:
        run: Run.
        format: "png", brain_00000.png …; "npy", one brains.npy (N, H, W) uint8; "nifti", a volume of one slice each.
        pixel_size: side of a pixel in mm, for "nifti".
        out: a new folder (default: <run>/samples/<time>).
        block, draw: block, temperature, top_k, top_p, guidance: as in ``Run.sample``.

    Returns:
        The folder, a Path.

    Raises:
        UserError: as ``Run.sample``, or the folder is there already.
    """
    blocks = run.sample_blocks(num_images, label, position, seed, shard, block, **draw)
    part, parts = shard
    out = output_folder(out, run, "{time}" + (f"-{part}of{parts}" if parts > 1 else ""))
    with new_folder(out) as unfinished:
        save = image_saver(unfinished, format, run.frame, pixel_size, *shard_of(num_images, *shard))
        rows, shown = [], []
        for samples in timed(blocks):
            for row, image in zip(samples.rows, samples.images, strict=True):
                rows.append(row | {"file": save(row["index"], image)})
            shown += list(samples.images[: SHOWN - len(shown)])
        write_csv(unfinished / "samples.csv", rows)
        image_sheet(
            unfinished / "sheet.png",
            crop(np.stack(shown)[..., None], run.box),
            min(COLUMNS, len(shown)),
            captions=[f"{row['label']}, {row['position']}" for row in rows[: len(shown)]],
            title=f"samples of {run.name} (label, position)",
        )
    print(f"{counted(len(rows), 'sample')}: {out / 'sheet.png'}, {out / 'samples.csv'}")
    words = ("evaluate.py",) if run.data.is_dir() else ("predict.py", "people")
    print(f"next: {shell('python', *words, '--run', run_name(run.folder))}")
    return out


def image_saver(folder, format, frame, pixel_size, first, end):
    """A function that saves image number i, (H, W) uint8, of first to end - 1 in turn, and returns the file's name."""
    if format not in ("png", "npy", "nifti"):
        raise UserError(f"the format is png, npy or nifti, not {format!r}")
    if format == "npy":  # written piece by piece: a mapped file on a full disk would kill the process
        header = {"descr": "|u1", "fortran_order": False, "shape": (end - first, *frame)}
        with open(folder / "brains.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)

    def save(i, image):
        if format == "npy":
            with open(folder / "brains.npy", "ab") as file:
                file.write(np.ascontiguousarray(image, np.uint8).tobytes())
            return "brains.npy"
        if format == "nifti":
            save_nifti(folder / f"brain_{i:05d}.nii.gz", image[..., None], pixel_size)
            return f"brain_{i:05d}.nii.gz"
        save_png(folder / f"brain_{i:05d}.png", image)
        return f"brain_{i:05d}.png"

    return save


def timed(blocks):
    """Yield the blocks of samples, and say at the end how many a second there were."""
    count, began = 0, None
    for samples in blocks:
        count, began = count + 1, began or time.perf_counter()  # start-up and tracing are over with the first block
        yield samples
    if count > 1:
        block = samples.rows[0]["block"]
        print(
            f"{block * (count - 1) / (time.perf_counter() - began):.1f} samples/s, start-up and the first {block} aside"
        )
