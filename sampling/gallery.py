"""A poster of a run: samples by label and position, completions, its codes, and what was measured."""

import numpy as np

from report.codebook import code_patches
from report.poster import write_gallery
from sampling.completion import CHAINS, completions_of
from sampling.draws import check_draw, draw_held_out, output_folder
from slices.frame import crop
from slices.index import condition_ids
from utils import UserError, digits_of, evenly, new_folder

COLUMNS = 8  # of samples
MOST_LABELS = 4
COMPLETED, COMPLETIONS = 3, 6  # slices, and completions of each


def gallery(run, seed=0, out=None, **draw):
    """Write gallery.png.

    Completed are slices of validation people, or samples where the run's slices are not there.

    Args:
        run: Run.
        seed: as in ``Run.sample``.
        out: a new folder (default: <run>/samples/gallery-<time>).
        draw: temperature, top_k, top_p, guidance: as in ``Run.sample``.

    Returns:
        The folder, a Path.
    """
    check_draw(seed=seed, **draw)
    try:
        given, originals = draw_held_out(run, COMPLETED, seed)
    except UserError as error:
        given, originals = None, None
        print(f"{error}; samples are completed instead")
    out = output_folder(out, run, "gallery-{time}")
    with new_folder(out) as unfinished:
        names, positions, conditions = poster_conditions(run)
        blocks = list(run.draw(*conditions, seed, **draw))
        samples = np.concatenate([block.images for block in blocks])[..., None]
        drawn = np.concatenate([block.codes for block in blocks])  # a sharpened image would be encoded to others
        columns = dict(zip(("label", "position"), conditions, strict=True))
        if given is None:
            originals, known = samples[:COMPLETED], drawn[:COMPLETED]
        else:
            columns, known = condition_ids(given, run.labels), run.encode(originals)
        codes = np.concatenate([drawn, known])
        coarse = digits_of(codes, run.config["num_codes"], run.depth)[0]  # what finer digits stand for depends on it
        everything = crop(np.concatenate([samples, originals]), run.box)  # (N, h, w, 1) uint8
        write_gallery(
            unfinished / "gallery.png",
            run.folder,
            run.config,
            {
                "samples": everything[: len(samples)],
                "rows": names,
                "positions": positions,
                "originals": everything[len(samples) :],
                "completions": complete_upper_halves(run, known, columns, seed, draw),
                "completed": "samples" if given is None else "validation slices",
                "uses": np.bincount(coarse.ravel(), minlength=run.config["num_codes"]),
                "patches": code_patches(coarse, everything / 255, run.config["num_codes"]),
            },
        )
    print(out / "gallery.png")
    return out


def poster_conditions(run):
    """The labels of the rows of samples, the positions of the columns, and the ids of both for every sample."""
    labels = 1 + np.arange(min(len(run.labels), MOST_LABELS))
    rows = np.repeat(labels, 2 if len(labels) < 3 else 1)
    positions = evenly(1 + np.arange(run.num_positions), COLUMNS)
    conditions = [ids.ravel().astype(np.int32) for ids in np.meshgrid(rows, positions, indexing="ij")]
    return [run.labels[i - 1] for i in rows], positions - 1, conditions


def complete_upper_halves(run, codes, columns, seed, draw):
    """Keep the upper half of each grid (N, h, w) and draw the rest: images (N, COMPLETIONS, H, W, 1) uint8."""
    keep = np.broadcast_to(np.arange(codes.shape[1])[:, None] < codes.shape[1] // 2, codes.shape[1:])
    drawn = [
        completions_of(
            run.prior,
            grid,
            keep,
            columns["label"][i],
            columns["position"][i],
            COMPLETIONS,
            seed,
            first=i * CHAINS,
            **draw,
        )[:COMPLETIONS]
        for i, grid in enumerate(codes)
    ]
    images = run.sharpened(run.decode_crops(np.concatenate(drawn), "completions"))  # (N COMPLETIONS, H, W)
    return images.reshape(len(codes), COMPLETIONS, *images.shape[1:], 1)
