"""The figures of an evaluation."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from report.numbers import value_of
from slices.sheets import PLAIN_TEXT, image_sheet
from utils import whole_file

INK, SAMPLES, REAL, NULL = "#20252b", "#b4421f", "#1f6fb4", "#9aa4ae"
SPECTRA = {"slices": INK, "reconstructions": REAL, "samples": SAMPLES}


def plot(path, draw, size=(7, 3.6), rows=1, columns=1, formulas=False):
    """Make a figure, let ``draw(axes)`` fill it, and save it whole; ``formulas``: $x$ in it is one."""
    with matplotlib.rc_context(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "font.size": 9,
            "axes.edgecolor": INK,
            "legend.frameon": False,
        }
        | ({} if formulas else PLAIN_TEXT)
    ):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots(rows, columns))
        with whole_file(path) as temporary:
            figure.savefig(temporary, dpi=130, metadata={"Software": None})


def draw_figures(folder, metrics, pictures, run_folder=None):
    """Write every figure into ``folder``: (file name, caption, whether it shows participants' images).

    Args:
        metrics: what metrics.json will hold.
        pictures: dict of ``sets`` (metrics.samples.Sets), ``neighbours`` (pairs of sample and training row with their
            distance) and ``spectra`` (name → frequencies and power); and of a run alone ``bits_map`` (h, w) float and
            ``code_counts`` (K,) int.
        run_folder: where a run's histories are.
    """
    sets, is_run = pictures["sets"], "bits_map" in pictures
    folder.mkdir(exist_ok=True)
    figures = []
    if is_run:
        reconstruction_figure(folder / "reconstructions.png", sets)
        figures.append(
            (
                "reconstructions.png",
                "Unseen people: originals, reconstructions, and reconstruction minus "
                "original (blue: too dark, red: too bright, full at ± 0.25).",
                True,
            )
        )
    sample_figure(folder / "samples_by_position.png", sets)
    figures.append(
        ("samples_by_position.png", "Samples: two rows per label, from the lowest position to the highest.", False)
    )
    if pictures["neighbours"]:
        neighbour_figure(folder / "nearest_neighbours.png", sets, pictures["neighbours"])
        figures.append(
            (
                "nearest_neighbours.png",
                "The ten samples nearest to a training slice: samples above, "
                "training slices as reconstructed below, with the distance.",
                True,
            )
        )
    null_figure(folder / "null_bands.png", metrics)
    figures.append(
        (
            "null_bands.png",
            "Samples (red) against their null band (grey), each scaled so that the band is "
            "0 to 1; references: positional (blue), Gaussian (open).",
            False,
        )
    )
    spectrum_figure(folder / "spectrum.png", pictures["spectra"])
    figures.append(
        ("spectrum.png", "Radial power of unseen people's slices, of their reconstructions and of samples.", False)
    )
    return figures + (draw_run_figures(folder, pictures, run_folder) if is_run else [])


def draw_run_figures(folder, pictures, run_folder):
    """Write the figures of a run's codes and training into ``folder``; returns what ``draw_figures`` does."""
    plot(folder / "bits_map.png", lambda axes: bits_map(axes, pictures["bits_map"]), (4, 3.6))
    learning_curves(folder / "learning_curves.png", run_folder)
    plot(folder / "codebook.png", lambda axes: codebook_use(axes, pictures["code_counts"]), (5, 3))
    return [
        ("bits_map.png", "Mean bits per code over the grid: where the prior is surprised.", False),
        ("learning_curves.png", "Learning curves of both stages.", False),
        ("codebook.png", "How often each code is used by unseen people, sorted.", False),
    ]


def reconstruction_figure(path, sets, columns=8):
    """Slices of unseen people, their reconstructions and the differences, in three rows."""
    chosen = np.linspace(0, len(sets.originals.images) - 1, columns).round().astype(int)
    originals, images = (images.images[chosen] / 255 for images in (sets.originals, sets.reference))
    stacked = np.concatenate([originals, images, images - originals])[..., None]
    image_sheet(path, stacked, columns, ("originals", "recon-\nstructions", "differences"), differences=(2,))


def sample_figure(path, sets, columns=8, rows_per_label=2):
    """Samples of each label at evenly spaced positions."""
    everyone = sets.all_samples
    positions = np.unique(everyone.position)
    positions = positions[np.linspace(0, len(positions) - 1, min(columns, len(positions))).round().astype(int)]
    images, names = [], []
    for label in np.unique(everyone.label)[:6]:
        for repeat in range(rows_per_label):
            for position in positions:
                found = np.flatnonzero((everyone.label == label) & (everyone.position == position))
                images.append(
                    everyone.images[found[repeat % len(found)]] if len(found) else np.zeros_like(everyone.images[0])
                )
            names.append(sets.labels[label - 1] if label else "")
    image_sheet(
        path,
        np.stack(images)[..., None] / 255,
        len(positions),
        names,
        [f"position {position}" for position in positions] + [""] * (len(images) - len(positions)),
    )


def neighbour_figure(path, sets, neighbours):
    """The samples nearest to training slices, above these slices."""
    pairs = [(sets.all_samples.images[sample], sets.search.images[row]) for sample, row, _ in neighbours]
    images = np.concatenate([np.stack(side) for side in zip(*pairs, strict=True)])[..., None] / 255
    captions = [f"{distance:.3f}" for _, _, distance in neighbours] + [""] * len(neighbours)
    image_sheet(path, images, len(neighbours), ("samples", "nearest\ntraining"), captions)


def null_figure(path, metrics):
    """Every statistic of the samples that has a null band, in units of that band."""
    samples, memorisation = metrics["samples"], metrics.get("memorisation", {})
    entries = [
        (section, name)
        for section in (samples, samples["anatomy"], memorisation)
        for name in section
        if isinstance(section.get(f"{name}_null"), dict) and section[name] is not None
    ]

    def draw(axes):
        for row, entry in enumerate(entries):
            null_row(axes, row, *entry)
        axes.set_yticks(range(len(entries)), [name.replace("_", " ") for _, name in entries])
        axes.invert_yaxis()
        axes.set_xlim(-6.5, 7.5)
        once = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.legend(once.values(), once, loc="upper left", frameon=False)
        axes.set_xlabel("in units of the null band (0: 5 %, 1: 95 %); beyond −6 and 7 drawn at the edge")

    plot(path, draw, (7, 1 + 0.24 * max(len(entries), 1)))


def null_row(axes, row, section, name):
    """One statistic of a section: its null band, the reference generators and the samples."""
    null = section[f"{name}_null"]
    width = max(null["high"] - null["low"], 1e-9)

    def placed(number):
        return np.clip((number - null["low"]) / width, -6, 7)

    axes.plot([0, 1], [row, row], color=NULL, linewidth=6, solid_capstyle="butt", label="null band")
    for generator, style in (("positional", dict(color=REAL)), ("gaussian", dict(color="none", edgecolor=INK))):
        if section.get(f"{name}_{generator}") is not None:
            axes.scatter(placed(section[f"{name}_{generator}"]), row, s=18, label=generator, **style)
    axes.scatter(placed(value_of(section[name])), row, color=SAMPLES, s=26, zorder=3, label="samples")


def spectrum_figure(path, spectra):
    """Radial power over frequency, a curve for each of ``spectra`` (name → frequencies and power)."""

    def draw(axes):
        for name, curve in spectra.items():
            axes.semilogy(*curve, color=SPECTRA[name], label=name)
        axes.set(xlabel="frequency (cycles per pixel)", ylabel="radial power")
        axes.legend()

    plot(path, draw, formulas=True)  # powers of ten are formulas


def bits_map(axes, bits):
    """Mean bits (h, w) of every cell of the code grid."""
    shown_map = axes.imshow(bits, cmap="magma", vmin=0)
    axes.figure.colorbar(shown_map, label="bits per code")
    axes.set(xticks=[], yticks=[])


def learning_curves(path, run_folder):
    """The curves of the two histories of a run."""
    histories = [pd.read_csv(run_folder / f"history_{name}.csv") for name in ("vqvae", "prior")]

    def draw(axes):
        for panel, history, title in zip(axes, histories, ("VQ-VAE: loss", "prior: bits per code"), strict=True):
            panel.plot(history["step"], history["loss"], color=NULL, label="training (augmented)")
            panel.plot(history["step"], history["validation_loss"], color=SAMPLES, label="validation")
            panel.set(title=title, xlabel="step")
            panel.legend()

    plot(path, draw, (8, 3), columns=2)


def codebook_use(axes, counts):
    """The share of cells of every code (K,), the most used first."""
    axes.fill_between(np.arange(len(counts)), np.sort(counts)[::-1] / counts.sum(), color=REAL, step="mid")
    axes.set(xlabel="code, by use", ylabel="share of all cells", xlim=(0, len(counts) - 1), ylim=(0, None))


def comparison_figure(path, runs):
    """Rate against distortion, bits per code, and samples against their null band, of several runs' metrics."""

    def draw(axes):
        names = [run["run"] for run in runs]
        for run in runs:
            ssim = value_of(run["reconstruction"]["ssim_brain"])
            axes[0].scatter(run["rate"]["bits_per_image"], ssim, label=run["run"])
        axes[0].set(xlabel="bits per image", ylabel="SSIM in the brain")
        axes[0].legend()
        axes[1].bar(names, [value_of(run["prior"][f"bits_per_code_{run['split']}"]) for run in runs], color=REAL)
        axes[1].set(ylabel="bits per code")
        for row, run in enumerate(runs):
            null = run["samples"]["frechet_null"]
            if null:
                axes[2].plot([row, row], [null["low"], null["high"]], color=NULL, linewidth=8, solid_capstyle="butt")
            axes[2].scatter(row, value_of(run["samples"]["frechet"]), color=SAMPLES, zorder=3)
        axes[2].set(ylabel="Fréchet distance (grey: null)", xlim=(-0.5, len(runs) - 0.5))
        axes[2].set_xticks(range(len(runs)), names)

    plot(path, draw, (10, 3.2), columns=3)
