"""The figures of an evaluation."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from report.numbers import CANNOT_TELL, CONSISTENT, REFERENCES, TOLD_APART, band_of, judged, plain_name, value_of
from slices.sheets import PLAIN_TEXT, image_sheet
from utils import evenly, whole_file

INK, SAMPLES, REAL, NULL, OTHERS = "#20252b", "#b4421f", "#1f6fb4", "#9aa4ae", "#dfe4e8"
VERDICTS = {CONSISTENT: "#1f6fb4", TOLD_APART: "#b4421f", CANNOT_TELL: "#20252b"}  # the colour of samples
SPECTRA = {"slices": INK, "reconstructions": REAL, "samples": SAMPLES}


def plot(path, draw, size=(7, 3.6), rows=1, columns=1, formulas=False, squeeze=True):
    """Make a figure, let ``draw(axes)`` fill it, and save it whole; ``formulas``: $x$ in it is one.

    Without ``squeeze``, one axes is an array (1, 1), too.
    """
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
        draw(figure.subplots(rows, columns, squeeze=squeeze))
        with whole_file(path) as temporary:
            figure.savefig(temporary, dpi=130, metadata={"Software": None})


def draw_figures(folder, metrics, pictures, run_folder=None):
    """Write every figure into ``folder``: (file name, caption, whether it shows participants' images).

    Args:
        metrics: what metrics.json will hold.
        pictures: dict of ``sets`` (metrics.samples.Sets), ``neighbours`` (pairs of sample and training row with their
            distance) and ``spectra`` (name → frequencies and power); and of a run alone ``bits_map`` (h, w) float and
            ``code_counts`` int, of every code of all codebooks.
        run_folder: where a run's histories are.
    """
    sets, is_run = pictures["sets"], "bits_map" in pictures
    folder.mkdir(exist_ok=True)
    figures = [side_by_side_figure(folder / "samples_and_real.png", sets)]
    sample_figure(folder / "samples_by_position.png", sets)
    figures.append(
        ("samples_by_position.png", "Samples: two rows per label, from the lowest position to the highest.", False)
    )
    figures += draw_number_figures(folder, metrics, pictures["spectra"])
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
    return figures + (draw_run_figures(folder, pictures, run_folder) if is_run else [])


def draw_number_figures(folder, metrics, spectra):
    """Write the figures of numbers of samples into ``folder``; returns what ``draw_figures`` does."""
    null_figure(folder / "null_bands.png", metrics)
    spectrum_figure(folder / "spectrum.png", spectra)
    figures = [
        (
            "null_bands.png",
            "Samples against real slices and against reconstructions. Each number is scaled so that the band of a "
            "perfect prior (dark grey) is 0 to 1; behind it, lighter, that of another group of people. Red: told "
            "apart. Blue: consistent. Black: cannot tell. Two bad generators: positional (triangle), Gaussian "
            "(open circle).",
            False,
        ),
        ("spectrum.png", "Radial power of unseen people's slices, of their reconstructions and of samples.", False),
    ]
    if any(has_bands(section) for section in sections_of(metrics).values()):
        power_figure(folder / "power_by_band.png", metrics)
        figures.append(
            (
                "power_by_band.png",
                "Power of samples over that of real slices and of reconstructions, by band of frequencies; grey: "
                "what a perfect prior would have. Colours as above.",
                False,
            )
        )
    return figures


def draw_run_figures(folder, pictures, run_folder):
    """Write the figures of a run's codes and training into ``folder``; returns what ``draw_figures`` does."""
    plot(folder / "bits_map.png", lambda axes: bits_map(axes, pictures["bits_map"]), (4, 3.6))
    learning_curves(folder / "learning_curves.png", run_folder)
    plot(folder / "codebook.png", lambda axes: codebook_use(axes, pictures["code_counts"]), (5, 3))
    return [
        ("bits_map.png", "Mean bits per code over the grid: where the prior is surprised.", False),
        ("learning_curves.png", "Learning curves of the VQ-VAE and of the prior.", False),
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
    everyone = sets.shown
    positions = evenly(np.unique(everyone.position), columns)
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


def side_by_side_figure(path, sets, columns=8, most_labels=3, rows_per_label=2):
    """Samples above real slices of unseen people: for each label and position the first ones by number.

    Returns what ``draw_figures`` does of it.
    """
    samples, real = sets.shown, sets.originals
    labels = np.unique(real.label)[:most_labels]
    positions = evenly(np.unique(real.position), columns)
    blank = np.zeros_like(real.images[0])
    images, names = [], []
    for label in labels:
        for which, side in (("samples", samples), ("real", real)):
            for repeat in range(rows_per_label):
                found = [
                    np.flatnonzero((side.label == label) & (side.position == position))[repeat : repeat + 1]
                    for position in positions
                ]
                images += [side.images[rows[0]] if len(rows) else blank for rows in found]
                name = f"\n{sets.labels[label - 1]}" if label else ""
                names.append(f"{which}{name}" if repeat == 0 else "")
    captions = [f"position {position}" for position in positions] + [""] * (len(images) - len(positions))
    image_sheet(path, np.stack(images)[..., None] / 255, len(positions), names, captions)
    return (
        path.name,
        "Would you take them for real? Samples, and real slices of unseen people at the same labels and positions, the "
        "first by number: nothing is chosen. Black: the split has no further slice there.",
        True,
    )


def neighbour_figure(path, sets, neighbours):
    """The samples nearest to training slices, above these slices."""
    pairs = [(sets.all_samples.images[sample], sets.search.images[row]) for sample, row, _ in neighbours]
    images = np.concatenate([np.stack(side) for side in zip(*pairs, strict=True)])[..., None] / 255
    captions = [f"{distance:.3f}" for _, _, distance in neighbours] + [""] * len(neighbours)
    image_sheet(path, images, len(neighbours), ("samples", "nearest\ntraining"), captions)


def sections_of(metrics):
    """What samples were set against, in words, with what was measured: dict of str → dict."""
    samples = metrics["samples"]
    return {words: samples[name] for name, (words, _) in REFERENCES.items() if samples.get(name)}


def null_figure(path, metrics):
    """Every number of samples that has a null, in units of a perfect prior's band; a panel for each reference."""
    sections = sections_of(metrics)
    found = {against: {key: rest for key, *rest in judged(section)} for against, section in sections.items()}
    keys = list(dict.fromkeys(key for entries in found.values() for key in entries))

    def draw(axes):
        for panel, against in zip(axes[0], found, strict=True):
            for row, key in enumerate(keys):
                if key in found[against]:
                    null_row(panel, row, *found[against][key])
            panel.set(title=f"against {against}", xlim=(-6.5, 7.5))
        for panel in axes[0]:
            panel.set_yticks(range(len(keys)), [plain_name(key) for key in keys])
            panel.tick_params(axis="y", length=0)
            panel.label_outer()
            panel.set_ylim(max(len(keys), 1) - 0.4, -0.6)
            panel.set_xlabel("in units of a perfect prior's band\n(0: 2.5 %, 1: 97.5 %; from −6 to 7)")

    columns = max(len(found), 1)
    plot(path, draw, (2.4 + 3 * columns, 1.1 + 0.2 * max(len(keys), 1)), columns=columns, squeeze=False)


def null_row(axes, row, section, name):
    """One number of a reference: its null bands, the bad generators and the samples; nothing where it has no null."""
    bands, value = section.get(f"{name}_null"), value_of(section[name])
    if bands is None or bands["perfect_prior"] is None or value is None:
        return
    _, low, high = bands["perfect_prior"]
    width = max(high - low, 1e-9)

    def placed(number):
        return np.clip((number - low) / width, -6, 7)

    if bands["other_people"] is not None:
        _, *ends = bands["other_people"]
        axes.plot([placed(end) for end in ends], [row, row], color=OTHERS, linewidth=9, solid_capstyle="butt", zorder=1)
    axes.plot([0, 1], [row, row], color=NULL, linewidth=5, solid_capstyle="butt", zorder=2)
    for generator, marker, fill in (("positional", "^", NULL), ("gaussian", "o", "none")):
        number = section.get(f"{name}_{generator}")
        if number is not None:
            axes.scatter(placed(value_of(number)), row, s=16, marker=marker, facecolor=fill, edgecolor=INK, zorder=3)
    axes.scatter(placed(value), row, s=24, color=VERDICTS[section[f"{name}_verdict"]], zorder=4)


def has_bands(section):
    """Whether a reference has the power of at least one band of frequencies."""
    return any(value_of(values[name]) is not None for _, values, name in judged({"spectrum": section.get("spectrum")}))


def power_figure(path, metrics):
    """Log10 power of samples over that of each reference, by band, with a perfect prior's band."""

    def draw(axes):
        for panel, (against, section) in zip(axes[0], sections_of(metrics).items(), strict=True):
            panel.axhline(0, color=INK, linewidth=0.6)
            entries = list(judged({"spectrum": section.get("spectrum")}))
            for place, (_, values, name) in enumerate(entries, start=1):
                power_of_band(panel, place, values, name)
            panel.set(title=f"over {against}", xlabel="band, low to high frequencies")
            panel.set_xticks(range(1, len(entries) + 1))
        axes[0, 0].set_ylabel("log10 of the ratio of power")

    plot(path, draw, (2 + 2.6 * len(sections_of(metrics)), 2.8), columns=len(sections_of(metrics)), squeeze=False)


def power_of_band(axes, place, section, name):
    """One band of frequencies: its null and the samples."""
    band, value = band_of(section.get(f"{name}_null")), value_of(section[name])
    if band:
        axes.plot([place, place], band[1:], color=NULL, linewidth=12, solid_capstyle="butt", zorder=2)
    if value is not None:
        axes.scatter(place, value, s=24, color=VERDICTS[section[f"{name}_verdict"]], zorder=4)


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
    """Rate against distortion, bits per code, and how far samples lie from each reference, of several runs' metrics."""

    def draw(axes):
        names = [run["run"] for run in runs]
        for run in runs:
            ssim = value_of(run["reconstruction"]["ssim_brain"])
            axes[0].scatter(run["rate"]["bits_per_image"], ssim, label=run["run"])
        axes[0].set(xlabel="bits per image", ylabel="SSIM in the brain")
        axes[0].legend()
        axes[1].bar(names, [value_of(run["prior"][f"bits_per_code_{run['split']}"]) for run in runs], color=REAL)
        axes[1].set(ylabel="bits per code")
        for panel, (reference, (against, _)) in zip(axes[2:], REFERENCES.items(), strict=True):
            for place, run in enumerate(runs):
                frechet_of(panel, place, run["samples"][reference])
            panel.set(
                title=f"against {against}",
                ylabel="Fréchet distance (grey: a perfect prior's)",
                xlim=(-0.5, len(runs) - 0.5),
            )
            panel.set_xticks(range(len(runs)), names)

    plot(path, draw, (12, 3.2), columns=4)


def frechet_of(axes, place, section):
    """The Fréchet distance of one run from one reference, with its null."""
    band, value = band_of(section["frechet_null"]), value_of(section["frechet"])
    if band:
        axes.plot([place, place], band[1:], color=NULL, linewidth=8, solid_capstyle="butt")
    if value is not None:
        axes.scatter(place, value, color=VERDICTS[section["frechet_verdict"]], zorder=3)
