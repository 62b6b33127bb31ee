"""Images of a folder through the VQ-VAE and back, with what is lost."""

from pathlib import Path

import numpy as np

from metrics.images import image_metrics
from metrics.people import mean_by_person, value_of
from sampling.draws import output_folder, say_outside
from slices.frame import crop, outside
from slices.images import save_png
from slices.index import given_slices
from slices.sheets import image_sheet
from utils import counted, evenly, new_folder, write_csv

COLUMNS = 8  # images on the sheet


def reconstruct(run, images, out=None):
    """Write originals, reconstructions and differences of given images, reconstructions.csv and sheet.png.

    Args:
        run: Run; its VQ-VAE is enough.
        images: a folder of PNG or JPEG files, or one such file, of any size: they are brought into the run's frame.
        out: a new folder (default: <run>/samples/reconstruct-<time>).

    Returns:
        The folder, a Path.

    Raises:
        UserError: the folder holds no readable image.
    """
    folder, slices = given_slices(images, run.config["subject_pattern"], run.config["metadata"])
    out = output_folder(out, run, "reconstruct-{time}")
    with new_folder(out) as unfinished:
        loaded = run.load(folder, slices["path"])
        slices = slices[loaded.usable].reset_index(drop=True)
        outside_box = outside(loaded.brain_boxes, run.box)
        reconstructions = run.decode(run.encode(loaded.images))[..., None]  # (N, H, W, 1)
        rows = []
        for i, pair in enumerate(zip(loaded.images, reconstructions, strict=True)):
            save_pair(unfinished, f"{i:05d}_{Path(slices['path'][i]).stem}", *pair)
            rows.append({"file": slices["path"][i], "outside_box": bool(outside_box[i]), **image_metrics(*pair)})
        write_csv(unfinished / "reconstructions.csv", rows)
        chosen = evenly(np.arange(len(slices)), COLUMNS)
        draw_sheet(
            unfinished / "sheet.png",
            *(crop(x[chosen], run.box) for x in (loaded.images, reconstructions)),
            f"reconstructions by {run.name}",
        )
    say_outside(outside_box)
    say_means(rows, slices["subject"])
    print(f"{out / 'sheet.png'}, {out / 'reconstructions.csv'}")
    return out


def difference(original, reconstruction):
    """The second minus the first, uint8, as float in [-1, 1]."""
    return (reconstruction.astype(float) - original) / 255


def save_pair(folder, stem, original, reconstruction):
    """Write an image (H, W, 1) uint8, its reconstruction, and their difference, grey where there is none."""
    save_png(folder / f"{stem}_original.png", original)
    save_png(folder / f"{stem}_reconstruction.png", reconstruction)
    save_png(folder / f"{stem}_difference.png", (difference(original, reconstruction) + 1) / 2)


def draw_sheet(path, originals, reconstructions, title):
    """Draw images (N, H, W, 1) uint8 above their reconstructions, and the differences below them."""
    images = np.concatenate([originals / 255, reconstructions / 255, difference(originals, reconstructions)])
    image_sheet(
        path, images, len(originals), ("originals", "reconstructions", "differences"), differences=(2,), title=title
    )


def say_means(rows, subjects):
    """Print the means over people of what was measured on each image."""
    metrics = [{key: value for key, value in row.items() if isinstance(value, float)} for row in rows]
    means = {key: value_of(value) for key, value in mean_by_person(metrics, subjects).items()}
    print(
        f"{counted(len(rows), 'image')} of {counted(subjects.nunique(), 'person')}; means over people: "
        + ", ".join(f"{key} {value:.4g}" for key, value in means.items() if value is not None)
    )
