"""A poster of a run: samples, completions, what its codes stand for, its numbers."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from report.codebook import mosaic
from report.numbers import summary_rows
from slices.frame import to_bytes
from slices.sheets import PLAIN_TEXT
from training.folder import run_name
from utils import load_json, shell, whole_file

POSTER_WIDTH = 14  # inches
MOST_CODES, CODES_IN_A_ROW = 256, 64
SHARES = {"samples": 1, "completions": 0.55, "codes": 1}  # of the poster's width


def write_gallery(path, folder, config, pictures):
    """A poster of a run, white on black.

    Args:
        folder, config: the run's.
        pictures: dict of ``samples`` (N, H, W, 1) uint8, a row of the poster for each of ``rows`` (labels) and a
            column for each of ``positions``; ``originals`` (M, H, W, 1) uint8 and their ``completions``
            (M, A, H, W, 1) uint8, and what they are of, ``completed``; ``uses`` (K,) of the codes and their
            ``patches`` (K, P, P) float in [0, 1].
    """
    used = np.flatnonzero(pictures["uses"])
    by_use = used[np.argsort(-pictures["uses"][used], kind="stable")][:MOST_CODES]
    mosaics = make_mosaics(pictures, config["code_grid"][0], by_use)
    titles = {
        "samples": "Samples, by label and position (lowest first)",
        "completions": f"Completions of {pictures['completed']}: whole, the half that is kept, what may follow",
        "codes": f"What the {'first ' * (config.get('code_depth', 1) > 1)}codes stand for, the most used first: "
        f"{len(by_use)} of the {len(used)} in use here, of {config['num_codes']} in all",
    }
    white = dict.fromkeys(("text.color", "xtick.color", "ytick.color"), "white")
    with matplotlib.rc_context(
        {**white, "font.size": 11, "axes.facecolor": "black", "axes.titlelocation": "left"} | PLAIN_TEXT
    ):
        figure, axes = lay_out(mosaics)
        figure.suptitle(f"{folder.name}: brain slices of nobody, from a VQ-VAE and a gated PixelCNN", fontsize=18)
        for name, title in titles.items():
            axes[name].imshow(mosaics[name], cmap="gray", vmin=0, vmax=255)
            axes[name].set(xticks=[], yticks=[], anchor="NW")
            axes[name].set_title(title)
        name_samples(axes["samples"], mosaics["samples"].shape, pictures["rows"], pictures["positions"])
        list_numbers(axes["numbers"], folder)
        with whole_file(path) as temporary:
            figure.savefig(temporary, dpi=110, metadata={"Software": None})


def make_mosaics(pictures, code_rows, codes):
    """The pictures of the poster, (height, width) uint8 each, by name.

    Args:
        pictures: see ``write_gallery``.
        code_rows: h; half of them are kept in a completion.
        codes: which codes to show, in this order.
    """
    samples, originals = pictures["samples"][..., 0], pictures["originals"][..., 0]  # (N, H, W), (M, H, W)
    _, height, width = samples.shape
    halves = originals.copy()
    halves[:, code_rows // 2 * (height // code_rows) :] = 0
    completed = np.concatenate([np.stack([originals, halves], axis=1), pictures["completions"][..., 0]], axis=1)
    return {
        "samples": mosaic(samples, len(pictures["positions"]), width // 40),
        "completions": mosaic(completed.reshape(-1, height, width), completed.shape[1], width // 40),
        "codes": mosaic(to_bytes(pictures["patches"][codes]), CODES_IN_A_ROW, 2),
    }


def lay_out(mosaics):
    """A black figure with axes for each of the mosaics, by name, and for "numbers"."""
    heights = [POSTER_WIDTH * share * mosaics[name].shape[0] / mosaics[name].shape[1] for name, share in SHARES.items()]
    figure = Figure(layout="constrained", figsize=(POSTER_WIDTH, sum(heights) + 1.9), facecolor="black")
    axes = figure.subplot_mosaic(
        [["samples", "samples"], ["completions", "numbers"], ["codes", "codes"]],
        height_ratios=heights,
        width_ratios=(0.55, 0.45),
    )
    return figure, axes


def name_samples(axes, shape, rows, columns):
    """Write the names of rows and columns beside a mosaic of this (height, width)."""
    axes.set_xticks((np.arange(len(columns)) + 0.5) * shape[1] / len(columns), columns)
    axes.set_yticks((np.arange(len(rows)) + 0.5) * shape[0] / len(rows), rows)
    axes.tick_params(length=0)


def list_numbers(axes, folder):
    """The summary of a run's metrics.json as lines of text, samples against real slices, what is told apart in red."""
    axes.axis("off")
    if not (folder / "metrics.json").is_file():
        axes.set_title(f"Not yet measured: {shell('python', 'evaluate.py', '--run', run_name(folder))}")
        return
    metrics = load_json(folder / "metrics.json")
    rows = [row for row in summary_rows(metrics) if row.section != "against_reconstructions"]
    axes.set_title(f"{metrics['people']} {metrics['split']} people, samples against real slices (red: told apart)")
    nulls = [row.perfect_prior if row.against else row.other_people for row in rows]
    lines = [(row.name, row.value, null, row.is_red) for row, null in zip(rows, nulls, strict=True)]
    for i, (name, value, null, is_red) in enumerate([("", "value [95 %]", "a perfect prior", False), *lines]):
        for x, text in ((0, name), (0.43, value), (0.78, null)):
            axes.text(
                x,
                1 - (i + 0.5) / (len(lines) + 1),
                text,
                transform=axes.transAxes,
                va="center",
                color="#ff7a5c" if is_red else "white",
                fontsize=9,
            )
