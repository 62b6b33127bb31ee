"""What is shown of an evaluation: figures, the one-file report, the model card, the lines in the terminal."""

import base64
import hashlib
import html
import io
import json

import numpy as np
import pandas as pd

from utils import image_sheet, load_json, read_slices, run_name, save_png, to_bytes, whole_file

INK, SAMPLES, REAL, NULL = "#20252b", "#b4421f", "#1f6fb4", "#9aa4ae"
MARK = "contains participants' images: do not share"
SIMULATED = "the real slices are those of simulated people"
NOT_MEASURED = "not yet measured: run `python evaluate.py --run {run} --split test`"

# section, key ("{split}" is filled in), name, digits, what it means; WORSE says on which side of the null is bad
SUMMARY = (
    ("reconstruction", "ssim_brain", "SSIM in the brain", 3,
     "likeness of slices and their reconstructions, the black left out; 1 is the same image"),
    ("reconstruction", "frc_resolution", "resolution (cycles/pixel)", 3,
     "up to here the detail of a reconstruction is that of the slice; 0.5 is all of it"),
    ("reconstruction", "tissue_dice", "tissue overlap (Dice)", 3,
     "CSF, grey matter, white matter and ventricles segmented in both; 1 is the same place"),
    ("rate", "bits_per_image_prior", "bits per image under the prior", 0, "what an unseen slice's codes cost"),
    ("prior", "bits_per_code_{split}", "bits per code", 3, "the prior's surprise at unseen people; less is better"),
    ("samples", "frechet", "Fréchet distance", 2,
     "shape and pose of samples against reconstructions of unseen people; more than the null is too far"),
    ("samples", "kid", "kernel distance", 3, "the same with a kernel that sees more than means and covariances"),
    ("samples", "c2st", "two-sample AUC", 3,
     "how well a classifier tells samples from reconstructions; 0.5 is not at all"),
    ("samples", "patches", "patch distance", 3,
     "texture of small patches of the brain, samples against reconstructions"),
    ("samples", "diversity", "diversity", 3, "differences among samples over differences among people; below the null "
                                             "they are too alike, above it wilder than people"),
    ("samples", "anatomy.ventricle_area_effect", "ventricle area (effect size)", 2,
     "samples minus real people, in units of the spread of real slices"),
    ("memorisation", "nn_ratio", "nearest-neighbour ratio", 3,
     "distance of samples to their nearest training slice over that of unseen people; below the null is copying"),
    ("memorisation", "copies_fraction", "share of copies", 3,
     "samples as near to a training slice as planted copies, less the share of unseen people's that are"),
    ("memorisation", "membership_auc", "membership AUC", 3,
     "how well the prior's surprise tells training people from unseen ones: a weak attack; 0.5 is not at all"),
    ("usefulness", "auc_samples", "label AUC, trained on samples", 3,
     "a small classifier of the label, trained on samples, tested on real unseen people"),
)
MANIFOLD = tuple(("samples", name, name, 3, "Naeem et al. 2020, radii by person") for name in (
    "precision", "recall", "density", "coverage"))

WORSE = {"frechet": "high", "frechet_real": "high", "kid": "high", "c2st": "high", "patches": "high",
         "copies_fraction": "high", "nn_ratio": "low", "precision": "low", "recall": "low", "density": "low",
         "coverage": "low"}  # either side is for every other

METHOD = """
Every set is 8-bit grey in the run's crop box. The brain is the largest component of pixels over 5 % grey, opened by a
cross, holes filled; per-image measures take the mask of the original. Sets that are compared have the same labels and
positions. Means are over people, after averaging each person's slices, with t intervals over people; the intervals of
set distances are a jackknife that leaves out one person at a time. <b>Null band</b>: the same statistic, median and 5
to 95 %, with reconstructions of training people, drawn 20 times, in the place of samples: what a perfect prior would
score with this many slices. <b>Components</b>: principal components of half-size training slices, the mean of each
position removed. <b>Fréchet</b>: 16 of them, Ledoit–Wolf covariances. <b>Kernel distance</b>: unbiased, cubic, 32
components over their RMS, pairs of one person left out. <b>Two-sample AUC</b>: the largest of three RBF support
vector machines (shape; texture: 16 bands of radial power and moments of four Laplacian levels; both), a person's
slices in one fold. <b>Patches</b>: sliced Wasserstein distance of 7×7 patches at three Laplacian levels.
<b>Diversity</b>: mean 1 − MS-SSIM of pairs of one label and position, samples over reconstructions of different
people. <b>Anatomy</b>: z-scores among training people at the same position; tissues by Otsu's method.
<b>Memorisation</b>: 1 − correlation of fine detail in the brain with every training slice, mirrored and shifted by up
to 3 pixels; the threshold finds 95 % of planted copies (shifted by up to 2 pixels, gain ± 5 %, a tenth of the codes
redrawn). <b>Membership</b>: one number per person, a weak attack without shadow models. Samples are at temperature 1,
without top-k or top-p.
"""

STYLE = """
:root{color-scheme:light}
body{font:16px/1.5 system-ui,sans-serif;color:#20252b;max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;margin:.5rem 0}
h2{font-size:1.2rem;margin:2rem 0 .5rem;border-bottom:1px solid #d5dade}
img{max-width:100%;height:auto;display:block;margin:.5rem 0}
figure{margin:1rem 0}
figcaption{color:#56606a;font-size:.9rem}
.table{overflow-x:auto}
table{border-collapse:collapse;font-size:.92rem;width:100%}
td,th{padding:.3rem .6rem;text-align:left; vertical-align:top;border-bottom:1px solid #e3e7ea}
td.n{white-space:nowrap;font-variant-numeric:tabular-nums}
.mark{background:#fff3cd;border:1px solid #e0c060;padding:.5rem .8rem;font-weight:600}
.verdict{border-left:4px solid #b4421f; padding-left:.8rem}
.out{color:#b4421f;font-weight:600}
pre{white-space:pre-wrap;font-size:.8rem;overflow-wrap:anywhere}
@media(max-width:40rem){.summary th{display:none}
.summary tr,.summary td{display:block;border:0;padding:.1rem 0}
.summary tr{border-bottom:1px solid #e3e7ea;padding:.4rem 0}
.summary td:first-child{font-weight:600}
.summary td:nth-child(3)::before{content:"null band: "}}
@media print{body{max-width:none;font-size:11px}
figure{break-inside:avoid}
details>*{display:block}}
"""


# ---- words ------------------------------------------------------------------------------------


def lookup(metrics, section, key):
    """A metric by its section and (dotted) key, or None."""
    value = metrics.get(section)
    for part in key.format(split=metrics["split"]).split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def shown(metric, digits):
    """A metric as text: a number, with its interval in brackets where it has one."""
    if metric is None:
        return "–"
    if isinstance(metric, dict):
        return f"{metric['value']:,.{digits}f} [{metric['low']:,.{digits}f}, {metric['high']:,.{digits}f}]"
    return f"{metric:,.{digits}f}"


def excess(key, value, null):
    """How far a metric lies beyond the bad side of its null band, in widths of the band; 0 inside it."""
    number = value["value"] if isinstance(value, dict) else value
    width = max(null["high"] - null["low"], 1e-3)
    above, below = (number - null["high"]) / width, (null["low"] - number) / width
    worse = WORSE.get(key.rpartition(".")[2])
    return max(0.0, above if worse != "low" else 0.0, below if worse != "high" else 0.0)


def summary_rows(metrics):
    """The rows of the summary: (name, value, null band, its excess over that or None, meaning)."""
    rows = []
    for section, key, name, digits, meaning in SUMMARY + (MANIFOLD if metrics["people"] >= 50 else ()):
        if section not in metrics:
            continue
        value, null = lookup(metrics, section, key), lookup(metrics, section, f"{key}_null")
        why = lookup(metrics, section, f"{key}_why")
        beyond = None if null is None or value is None else excess(key, value, null)
        rows.append((name, shown(value, digits), shown(null, digits), beyond, why or meaning))
    return rows


def print_summary(metrics):
    """The summary in the terminal."""
    print(f"{metrics['run']}: {metrics['split']}, {metrics['people']} people, {metrics['slices']} slices")
    for note in metrics["notes"]:
        print(f"  note: {note}")
    for name, value, null, beyond, _ in summary_rows(metrics):
        against = "" if null == "–" else f"  null {null}{'  worse' if beyond else ''}"
        print(f"  {name:32} {value:28}{against}")
    if "memorisation" in metrics:
        print(f"  {metrics['memorisation']['verdict']}")


# ---- figures ----------------------------------------------------------------------------------


def plot(path, draw, size=(7, 3.6), rows=1, columns=1):
    """Make a figure, let ``draw(axes)`` fill it, and save it whole."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9,
                         "axes.edgecolor": INK, "legend.frameon": False}):
        figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained")
        draw(axes)
        with whole_file(path) as temporary:
            figure.savefig(temporary, dpi=130, metadata={"Software": None})
        plt.close(figure)


def draw_figures(folder, metrics, pictures):
    """Write every figure into ``folder``: (file name, caption, whether it shows participants' images)."""
    sets, figures = pictures["sets"], []
    folder.mkdir(exist_ok=True)
    if "held_out" in pictures:
        reconstruction_figure(folder / "reconstructions.png", sets)
        figures.append(("reconstructions.png", "Unseen people: originals, reconstructions, and reconstruction minus "
                        "original (blue: too dark, red: too bright, full at ± 0.25).", True))
    sample_figure(folder / "samples_by_position.png", sets)
    figures.append(("samples_by_position.png", "Samples: two rows per label, from the lowest position to the highest.",
                    False))
    if pictures["neighbours"]:
        neighbour_figure(folder / "nearest_neighbours.png", sets, pictures["neighbours"])
        figures.append(("nearest_neighbours.png", "The ten samples nearest to a training slice: samples above, "
                        "training slices as reconstructed below, with the distance.", True))
    null_figure(folder / "null_bands.png", metrics)
    figures.append(("null_bands.png", "Samples (red) against their null band (grey), each scaled so that the band is "
                    "0 to 1; references: positional (blue), Gaussian (open).", False))
    spectrum_figure(folder / "spectrum.png", sets)
    figures.append(("spectrum.png", "Radial power of unseen people's slices, of their reconstructions and of samples.",
                    False))
    if "bits" in pictures:
        bits = pictures["bits"][metrics["split"]]["prior"].mean(axis=0)
        plot(folder / "bits_map.png", lambda axes: bits_map(axes, bits), (4, 3.6))
        figures.append(("bits_map.png", "Mean bits per code over the grid: where the prior is surprised.", False))
        learning_curves(folder)
        figures.append(("learning_curves.png", "Learning curves of both stages.", False))
        counts = np.bincount(pictures["held_out"]["codes"].ravel(), minlength=pictures["num_codes"])
        plot(folder / "codebook.png", lambda axes: codebook_use(axes, counts), (5, 3))
        figures.append(("codebook.png", "How often each code is used by unseen people, sorted.", False))
    return figures


def reconstruction_figure(path, sets, columns=8):
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
                images.append(everyone.images[found[repeat % len(found)]] if len(found)
                              else np.zeros_like(everyone.images[0]))
            names.append(sets.labels[label - 1] if label else "")
    image_sheet(path, np.stack(images)[..., None] / 255, len(positions), names,
                [f"position {position}" for position in positions] + [""] * (len(images) - len(positions)))


def neighbour_figure(path, sets, neighbours):
    pairs = [(sets.all_samples.images[sample], sets.search.images[row]) for sample, row, _ in neighbours]
    images = np.concatenate([np.stack(side) for side in zip(*pairs, strict=True)])[..., None] / 255
    captions = [f"{distance:.3f}" for _, _, distance in neighbours] + [""] * len(neighbours)
    image_sheet(path, images, len(neighbours), ("samples", "nearest\ntraining"), captions)


def null_figure(path, metrics):
    """Every statistic of the samples that has a null band, in units of that band."""
    samples, memorisation = metrics["samples"], metrics.get("memorisation", {})
    entries = [(section, name) for section in (samples, samples["anatomy"], memorisation) for name in section
               if isinstance(section.get(f"{name}_null"), dict) and section[name] is not None]

    def draw(axes):
        for row, (section, name) in enumerate(entries):
            null, value = section[f"{name}_null"], section[name]
            width = max(null["high"] - null["low"], 1e-9)

            def placed(number, null=null, width=width):
                return np.clip((number - null["low"]) / width, -6, 7)

            axes.plot([0, 1], [row, row], color=NULL, linewidth=6, solid_capstyle="butt", label="null band")
            for generator, style in (("positional", dict(color=REAL)), ("gaussian", dict(color="none", edgecolor=INK))):
                if section.get(f"{name}_{generator}") is not None:
                    axes.scatter(placed(section[f"{name}_{generator}"]), row, s=18, label=generator, **style)
            value = value["value"] if isinstance(value, dict) else value
            axes.scatter(placed(value), row, color=SAMPLES, s=26, zorder=3, label="samples")
        axes.set_yticks(range(len(entries)), [name.replace("_", " ") for _, name in entries])
        axes.invert_yaxis()
        axes.set_xlim(-6.5, 7.5)
        once = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.legend(once.values(), once, loc="upper left", frameon=False)
        axes.set_xlabel("in units of the null band (0: 5 %, 1: 95 %); beyond −6 and 7 drawn at the edge")

    plot(path, draw, (7, 1 + 0.24 * max(len(entries), 1)))


def spectrum_figure(path, sets):
    from metrics import ring_sums

    def power(images):
        bands = min(images.images.shape[1:]) // 2
        sizes = ring_sums(np.ones(images.images.shape[1:]), bands)
        total = sum(ring_sums(np.abs(np.fft.fft2(image / 255)) ** 2, bands) for image in images.images[:200])
        return (np.arange(bands) + 0.5) / (2 * bands), total / sizes / min(200, len(images.images))

    def draw(axes):
        for images, name, colour in ((sets.originals, "slices", INK), (sets.reference, "reconstructions", REAL),
                                     (sets.samples[0], "samples", SAMPLES)):
            if images is sets.reference and sets.reference is sets.originals:
                continue
            axes.semilogy(*power(images), color=colour, label=name)
        axes.set(xlabel="frequency (cycles per pixel)", ylabel="radial power")
        axes.legend()

    plot(path, draw)


def bits_map(axes, bits):
    shown_map = axes.imshow(bits, cmap="magma", vmin=0)
    axes.figure.colorbar(shown_map, label="bits per code")
    axes.set(xticks=[], yticks=[])


def learning_curves(folder):
    """figures/learning_curves.png from the two histories beside ``folder``."""
    histories = [pd.read_csv(folder.parent / f"history_{name}.csv") for name in ("vqvae", "prior")]

    def draw(axes):
        for panel, history, title in zip(axes, histories, ("VQ-VAE: loss", "prior: bits per code"), strict=True):
            panel.plot(history["step"], history["loss"], color=NULL, label="training (augmented)")
            panel.plot(history["step"], history["validation_loss"], color=SAMPLES, label="validation")
            panel.set(title=title, xlabel="step")
            panel.legend()

    plot(folder / "learning_curves.png", draw, (8, 3), columns=2)


def codebook_use(axes, counts):
    axes.fill_between(np.arange(len(counts)), np.sort(counts)[::-1] / counts.sum(), color=REAL, step="mid")
    axes.set(xlabel="code, by use", ylabel="share of all cells", xlim=(0, len(counts) - 1), ylim=(0, None))


def comparison_figure(path, runs):
    """Rate against distortion, bits per code, and samples against their null band, of several runs."""
    def value(metric):
        return metric["value"] if isinstance(metric, dict) else metric

    def draw(axes):
        names = [run["run"] for run in runs]
        for run in runs:
            axes[0].scatter(run["rate"]["bits_per_image"], value(run["reconstruction"]["ssim_brain"]), label=run["run"])
        axes[0].set(xlabel="bits per image", ylabel="SSIM in the brain")
        axes[0].legend()
        axes[1].bar(names, [value(run["prior"][f"bits_per_code_{run['split']}"]) for run in runs], color=REAL)
        axes[1].set(ylabel="bits per code")
        for row, run in enumerate(runs):
            null = run["samples"]["frechet_null"]
            if null:
                axes[2].plot([row, row], [null["low"], null["high"]], color=NULL, linewidth=8, solid_capstyle="butt")
            axes[2].scatter(row, value(run["samples"]["frechet"]), color=SAMPLES, zorder=3)
        axes[2].set(ylabel="Fréchet distance (grey: null)", xlim=(-0.5, len(runs) - 0.5))
        axes[2].set_xticks(range(len(runs)), names)

    plot(path, draw, (10, 3.2), columns=3)


# ---- the codebook -----------------------------------------------------------------------------


def code_patches(codes, images, num_codes):
    """What each code stands for: the mean of all that is drawn around the cells that hold it.

    Args:
        codes: (N, h, w) int.
        images: (N, h d, w d, 1) float in [0, 1], decoded from them; d pixels are one cell.
        num_codes: K.

    Returns:
        (K, 2d, 2d) float32: a cell with half a cell around it; black where no cell holds the code.
    """
    from scipy.sparse import csr_matrix

    d = images.shape[1] // codes.shape[1]
    padded = np.pad(np.asarray(images)[..., 0], ((0, 0), (d // 2, d - d // 2), (d // 2, d - d // 2)))
    around = np.lib.stride_tricks.sliding_window_view(padded, (2 * d, 2 * d), axis=(1, 2))[:, ::d, ::d][
        :, :codes.shape[1], :codes.shape[2]]  # (N, h, w, 2d, 2d)
    cells = np.asarray(codes).ravel()  # (N h w,)
    held_by = csr_matrix((np.ones(len(cells), np.float32), (cells, np.arange(len(cells)))), (num_codes, len(cells)))
    counts = np.maximum(np.bincount(cells, minlength=num_codes), 1)
    return (held_by @ around.reshape(len(cells), -1) / counts[:, None]).reshape(num_codes, 2 * d, 2 * d)


def mosaic(images, columns, gap=0):
    """Images (N, H, W) in rows of ``columns`` on black, as one image (rows (H + gap), columns (W + gap))."""
    images = np.pad(images, ((0, -len(images) % columns), (0, gap), (0, gap)))
    _, height, width = images.shape
    rows = images.reshape(-1, columns, height, width)  # (rows, columns, H, W)
    return rows.transpose(0, 2, 1, 3).reshape(-1, columns * width)


PROJECTOR = """embeddings {{
  tensor_name: "codebook"
  tensor_path: "codebook.tsv"
  metadata_path: "codebook_uses.tsv"
  sprite {{ image_path: "codebook.png" single_image_dim: {size} single_image_dim: {size} }}
}}
"""


def write_projector(folder, codebook, uses, patches):
    """The codebook for TensorBoard's embedding projector, which reads projector_config.pbtxt beside the events.

    Args:
        codebook: (K, D) float.
        uses: (K,) int, how many cells hold each code.
        patches: (K, P, P) float in [0, 1], what each code stands for.
    """
    columns = int(np.ceil(np.sqrt(len(codebook))))
    square = np.pad(patches, ((0, columns**2 - len(patches)), (0, 0), (0, 0)))  # as the projector wants its pictures
    rows = [("code", "cells"), *enumerate(uses)]
    with whole_file(folder / "codebook.tsv") as temporary:
        np.savetxt(temporary, codebook, "%.6g", "\t")
    with whole_file(folder / "codebook_uses.tsv") as temporary:
        temporary.write_text("".join(f"{code}\t{cells}\n" for code, cells in rows), encoding="utf-8")
    with whole_file(folder / "codebook.png") as temporary:
        save_png(temporary, mosaic(square, columns))
    with whole_file(folder / "projector_config.pbtxt") as temporary:
        temporary.write_text(PROJECTOR.format(size=patches.shape[1]), encoding="utf-8")


# ---- the page ---------------------------------------------------------------------------------


def write_report(folder, config, metrics, pictures, shareable=False):
    """Write the figures, report.html and, for a run, its model card into ``folder``.

    Returns:
        None, or why there is no report_shareable.html though it was asked for: the audit flags copies, cannot
        tell, or was not made.
    """
    (folder / "report_shareable.html").unlink(missing_ok=True)  # of an earlier evaluation
    figures = draw_figures(folder / "figures", metrics, pictures)
    write_page(folder / "report.html", folder, config, metrics, figures)
    if "held_out" in pictures:
        write_model_card(folder, config, metrics)
    if not shareable:
        return None
    verdict = metrics.get("memorisation", {}).get("verdict", "cannot tell: there was no audit")
    if not verdict.startswith("no copies found"):
        return f"no shareable report is written ({verdict}): share nothing of this"
    write_page(folder / "report_shareable.html", folder, None, metrics, [figure for figure in figures if not figure[2]])
    return None


def write_page(path, folder, config, metrics, figures):
    """One HTML file with everything in it; without a config, nothing that tells of single people."""
    shareable = config is None
    parts = [f"<h1>{html.escape(metrics['run'])}: evaluation on {metrics['split']} people</h1>",
             f"<p>{metrics['people']} people, {metrics['slices']} slices, {metrics['date']}. "
             + " ".join(html.escape(note) + "." for note in metrics["notes"]) + "</p>"]
    if not shareable:
        parts.insert(0, f"<p class=mark>{MARK}</p>")
    parts.append("<h2>Summary</h2>" + summary_table(metrics))
    if "memorisation" in metrics:
        parts.append(f"<p class=verdict>Memorisation: {html.escape(metrics['memorisation']['verdict'])}. Membership: "
                     f"{html.escape(metrics['memorisation'].get('membership_note', 'not assessed'))}.</p>")
    parts.append("<h2>Pictures</h2>")
    for name, caption, _ in figures:
        data = base64.b64encode((folder / "figures" / name).read_bytes()).decode()
        parts.append(f"<figure><img alt='{html.escape(caption, quote=True)}' src='data:image/png;base64,{data}'>"
                     f"<figcaption>{html.escape(caption)}</figcaption></figure>")
    parts.append("<h2>All numbers</h2>")
    for section, values in metrics.items():
        if isinstance(values, dict) and not (shareable and section == "cohort"):
            parts.append(f"<h3>{section}</h3>" + number_table(values))
    parts.append(f"<h2>How it was computed</h2><p>{METHOD}</p>")
    if not shareable:
        parts.append(f"<p>Command: <code>{html.escape(metrics['command'])}</code>; seed {metrics['seed']}; commit "
                     f"{metrics['commit']}.</p><h2>Config</h2><pre>{html.escape(json.dumps(config, indent=1))}</pre>")
    page = (f"<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width, "
            f"initial-scale=1'><title>{html.escape(metrics['run'])}</title><style>{STYLE}</style></head><body>"
            + "\n".join(parts) + "</body></html>\n")
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def summary_table(metrics):
    rows = "".join(f"<tr><td>{name}</td><td class='n{' out' if beyond else ''}'>{value}</td>"
                   f"<td class=n>{null}</td><td>{html.escape(meaning)}</td></tr>"
                   for name, value, null, beyond, meaning in summary_rows(metrics))
    return ("<div class='table summary'><table><tr><th>measure</th><th>value [95 %]</th><th>null band [5, 95 %]</th>"
            f"<th>what it means</th></tr>{rows}</table></div><p>Red: beyond the bad side of the null band.</p>")


def number_table(values, prefix=""):
    """Every metric of a section with its siblings (null band, spread, reference generators) in columns."""
    columns = ("null", "spread", "sd", "positional", "gaussian", "why")
    rows = []
    for name, value in values.items():
        if any(name.endswith(f"_{column}") and name.removesuffix(f"_{column}") in values for column in columns):
            continue
        if isinstance(value, dict) and "value" not in value:
            rows.append(number_table(value, f"{prefix}{name}."))
            continue
        cells = [value, *(values.get(f"{name}_{column}") for column in columns)]
        texts = "".join(f"<td>{html.escape(compact(cell))}</td>" for cell in cells)
        rows.append(f"<tr><td>{html.escape(prefix + name)}</td>{texts}</tr>")
    if prefix:
        return "".join(rows)
    head = "".join(f"<th>{column}</th>" for column in ("", "value", *columns))
    return f"<div class=table><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def compact(metric):
    """A metric to four digits, with its interval; words and whole numbers as they are."""
    if isinstance(metric, dict):
        return f"{metric['value']:.4g} [{metric['low']:.4g}, {metric['high']:.4g}]"
    if metric is None:
        return ""
    return f"{metric:.4g}" if isinstance(metric, float) else str(metric)


# ---- the reader study -------------------------------------------------------------------------

STUDY_PAGE = """<!doctype html>
<html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width, initial-scale=1">
<title>Reader study</title><style>
:root{color-scheme:dark}
body{font:18px/1.5 system-ui,sans-serif;background:#000;color:#d8dde2;margin:0 auto;max-width:48rem;padding:1rem;
text-align:center}
.mark{background:#fff3cd;color:#20252b;padding:.4rem .8rem;font-weight:600}
img{display:none;margin:1rem auto;width:min(92vw,60vh);image-rendering:auto}
img.now{display:block}
button,input{font:inherit;padding:.5rem 1.2rem;margin:.3rem;background:#20252b;color:inherit;border:1px solid #56606a;
border-radius:.3rem}
button:focus-visible{outline:3px solid #2b8cd6}
kbd{color:#8b96a0;font-size:.8em}
[hidden]{display:none}
</style></head><body>
@MARK@
<h1>Real, or made by a model?</h1>
<noscript>This page needs JavaScript; it loads nothing and sends nothing.</noscript>
<section id=start><p>@COUNT@ slices of brain MRI, one after the other. Some are real, some are made by a model. Answer
each as best you can; there is no going back. Nothing leaves this page: at the end it gives you a file of your
answers.</p>
<p><label>Your initials or number: <input id=reader maxlength=40></label> <button id=begin>Begin</button></p></section>
<section id=asking hidden><p id=place></p>
@IMAGES@
<p><button data-answer=real>Real <kbd>R</kbd></button><button data-answer=sampled>Made by a model <kbd>M</kbd></button>
</p></section>
<section id=end hidden><p>Thank you. Save your answers, and hand the file back.</p>
<p><a id=save download=answers.csv><button>Save answers.csv</button></a></p></section>
<script>
const study = "@STUDY@", images = [...document.querySelectorAll("img")], answers = [];
const part = id => document.getElementById(id);
let shown = 0, saved = false;
function show() {
  images.forEach((image, i) => image.classList.toggle("now", i === answers.length));
  part("place").textContent = `${answers.length + 1} of ${images.length}`;
  shown = performance.now();
}
function answer(word) {
  answers.push([word, ((performance.now() - shown) / 1000).toFixed(2)]);
  if (answers.length < images.length) return show();
  const reader = part("reader").value.replace(/[^\\p{L}\\p{N} ._-]/gu, "");
  const rows = answers.map(([word, seconds], i) => [study, reader, i + 1, word, seconds].join(","));
  const file = new Blob([["study,reader,image,answer,seconds", ...rows, ""].join("\\n")], {type: "text/csv"});
  part("save").href = URL.createObjectURL(file);
  part("asking").hidden = true;
  part("end").hidden = false;
}
part("begin").onclick = () => { part("start").hidden = true; part("asking").hidden = false; show(); };
part("save").onclick = () => { saved = true; };
document.querySelectorAll("[data-answer]").forEach(button => { button.onclick = () => answer(button.dataset.answer); });
addEventListener("keydown", event => {
  const word = {r: "real", m: "sampled"}[event.key.toLowerCase()];
  if (word && !event.repeat && !part("asking").hidden) answer(word);
});
addEventListener("beforeunload", event => { if (answers.length && !saved) event.preventDefault(); });
</script></body></html>
"""


def write_reader_study(path, images, mark=None):
    """One HTML file that shows images one by one, asks of each whether it is real, and gives a CSV of the answers.

    It holds the images, their order and nothing else: all are stored alike, as PNG without metadata.

    Args:
        images: (N, H, W, 1) uint8, in the order in which they are shown.
        mark: words at the top of the page, or None.

    Returns:
        The study's name, which a file of answers carries: 12 hexadecimal digits.
    """
    files = []
    for image in images:
        with io.BytesIO() as buffer:
            save_png(buffer, image)
            files.append(buffer.getvalue())
    study = hashlib.sha256(b"".join(files)).hexdigest()[:12]
    tags = [f'<img alt="slice {i}" src="data:image/png;base64,{base64.b64encode(file).decode()}">'
            for i, file in enumerate(files, 1)]
    page = STUDY_PAGE
    for word, text in (("STUDY", study), ("COUNT", str(len(images))), ("IMAGES", "\n".join(tags)),
                       ("MARK", f"<p class=mark>{html.escape(mark)}</p>" if mark else "")):
        page = page.replace(f"@{word}@", text)
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return study


# ---- the poster -------------------------------------------------------------------------------

POSTER_WIDTH = 14  # inches
MOST_CODES, CODES_IN_A_ROW = 256, 64


def write_gallery(path, folder, config, pictures):
    """A poster of a run, white on black.

    Args:
        pictures: dict of ``samples`` (N, H, W, 1) uint8, a row of the poster for each of ``rows`` (labels) and a
            column for each of ``positions``; ``originals`` (M, H, W, 1) uint8 and their ``completions``
            (M, A, H, W, 1) uint8, and what they are of, ``completed``; ``uses`` (K,) of the codes and their
            ``patches`` (K, P, P) float in [0, 1].
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    samples, originals = pictures["samples"][..., 0], pictures["originals"][..., 0]  # (N, H, W), (M, H, W)
    _, height, width = samples.shape
    halves = originals.copy()
    halves[:, config["code_grid"][0] // 2 * (height // config["code_grid"][0]):] = 0
    completed = np.concatenate([np.stack([originals, halves], axis=1), pictures["completions"][..., 0]], axis=1)
    used = np.flatnonzero(pictures["uses"])
    by_use = used[np.argsort(-pictures["uses"][used], kind="stable")][:MOST_CODES]
    mosaics = {"samples": mosaic(samples, len(pictures["positions"]), width // 40),
               "completions": mosaic(completed.reshape(-1, height, width), completed.shape[1], width // 40),
               "codes": mosaic(to_bytes(pictures["patches"][by_use]), CODES_IN_A_ROW, 2)}
    heights = [POSTER_WIDTH * share * mosaics[name].shape[0] / mosaics[name].shape[1]
               for name, share in (("samples", 1), ("completions", 0.55), ("codes", 1))]
    white = dict.fromkeys(("text.color", "xtick.color", "ytick.color"), "white")
    with plt.rc_context({**white, "font.size": 11, "axes.facecolor": "black", "axes.titlelocation": "left"}):
        figure, axes = plt.subplot_mosaic(
            [["samples", "samples"], ["completions", "numbers"], ["codes", "codes"]], layout="constrained",
            figsize=(POSTER_WIDTH, sum(heights) + 1.9), height_ratios=heights, width_ratios=(0.55, 0.45))
        figure.set_facecolor("black")
        figure.suptitle(f"{folder.name}: brain slices of nobody, from a VQ-VAE and a gated PixelCNN", fontsize=18)
        titles = {"samples": "Samples, by label and position (lowest first)",
                  "completions": f"Completions of {pictures['completed']}: whole, the half that is kept, what may "
                                 "follow",
                  "codes": f"What the codes stand for, the most used first: {len(by_use)} of the {len(used)} in use "
                           f"here, of {config['num_codes']} in all"}
        for name, title in titles.items():
            axes[name].imshow(mosaics[name], cmap="gray", vmin=0, vmax=255)
            axes[name].set(xticks=[], yticks=[], anchor="NW")
            axes[name].set_title(title)
        axes["samples"].set_xticks((np.arange(len(pictures["positions"])) + 0.5) * mosaics["samples"].shape[1]
                                   / len(pictures["positions"]), pictures["positions"])
        axes["samples"].set_yticks((np.arange(len(pictures["rows"])) + 0.5) * mosaics["samples"].shape[0]
                                   / len(pictures["rows"]), pictures["rows"])
        axes["samples"].tick_params(length=0)
        list_numbers(axes["numbers"], folder)
        with whole_file(path) as temporary:
            figure.savefig(temporary, dpi=110, metadata={"Software": None})
        plt.close(figure)


def list_numbers(axes, folder):
    """The summary of a run's metrics.json as lines of text, what is worse than its null band in red."""
    axes.axis("off")
    if not (folder / "metrics.json").is_file():
        axes.set_title(f"Not yet measured: python evaluate.py --run {run_name(folder)}")
        return
    metrics = load_json(folder / "metrics.json")
    lines = summary_rows(metrics)
    axes.set_title(f"Measured on {metrics['people']} {metrics['split']} people (red: worse than the null band)")
    for i, (name, value, null, beyond, _) in enumerate([("", "value [95 %]", "null band", None, ""), *lines]):
        for x, text in ((0, name), (0.43, value), (0.78, null)):
            axes.text(x, 1 - (i + 0.5) / (len(lines) + 1), text, transform=axes.transAxes, va="center",
                      color="#ff7a5c" if beyond else "white", fontsize=9)


# ---- the model card ---------------------------------------------------------------------------


LICENCE = "- licence of the data (yours to fill in; this line is kept when the card is written again):"
TERMS = """- slices of real people: weights, samples and exports fall under the terms of their data
- ADNI: do not pass the slices on; ask ADNI before you share weights or samples, and before you upload anything to a
  hosted notebook or another computer that is not yours"""
USES = """## Intended use

- research on generative models, and teaching: what a VQ-VAE and a PixelCNN make of brain slices

## Misuse

- diagnosis, prognosis, treatment, or any decision about a person: nothing here was tested for that
- samples in place of data in a clinical question; conclusions about a disease from what a label changes in samples
- calling samples or weights anonymous: the audit finds copies of the kinds that it plants, and no others
- passing samples off as scans, or trying to find out who is in the data
"""
CLAIM = """## For the CLAIM checklist

What the run can answer of the Checklist for Artificial Intelligence in Medical Imaging, 2024 update (Tejani et al.,
Radiology: Artificial Intelligence 6(4), e240300, [doi:10.1148/ryai.240300](https://doi.org/10.1148/ryai.240300)):

| asked | answered by |
|---|---|
| title, background, objectives, hypotheses | you |
| data sources, eligibility, dates, de-identification | you; the fingerprint above says which files |
| preprocessing, partitions, at which level they are disjoint | Splits above, `config.json`, `slices.csv` |
| reference standard, annotators | you: labels are the names of folders |
| model, initialisation, software, training, choice of weights | Training above, `config.json`, `history_*.csv` |
| metrics, uncertainty, comparison | `metrics.json`, `report.html`, How it was computed |
| participants by partition, demographics | Splits above; `evaluate.py --metadata CSV` adds sex and age |
| robustness, external data | not measured; `evaluate.py --real … --generated …` judges on other people |
| failure analysis, limitations | `report.html`, Limits above |
| registration, protocol, code, funding | the commit above; the rest you |
"""


def write_model_card(folder, config, metrics=None):
    """Write MODEL_CARD.md (after Mitchell et al. 2019); without metrics it says what is not yet measured."""
    path, missing = folder / "MODEL_CARD.md", NOT_MEASURED.format(run=run_name(folder))
    data = ("- simulated people (warps of one template, ICBM152); nothing about disease follows from them"
            if config["simulated"] else TERMS)
    licence = LICENCE + (" none, they come with the code" if config["simulated"] else " TO BE FILLED IN")
    if path.is_file():
        licence = next((line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(LICENCE)),
                       licence)
    lines = [f"# Model card: {folder.name}", "",
             "A VQ-VAE and a gated PixelCNN prior over its codes, for axial brain MRI slices.", "",
             "## Data", "", data, licence,
             f"- labels: {', '.join(config['labels'])}; fingerprint of the pixels `{config['data_fingerprint'][:16]}`",
             f"- frame {config['frame'][1]}×{config['frame'][0]} pixels, code grid "
             f"{config['code_grid'][1]}×{config['code_grid'][0]} of {config['num_codes']} codes", "",
             *split_lines(folder, config), "",
             "## Training", "", f"- preset {config['preset']}, {config['vqvae_steps']:,} and {config['prior_steps']:,} "
             f"steps of {config['batch_size']} slices at most, seed {config['seed']}, {config['precision_resolved']}",
             f"- commit {config.get('git_commit')}; "
             + ", ".join(f"{name} {version}" for name, version in config.get("versions", {}).items()),
             "- the weights kept are those of the least loss on validation people", "", USES, "## Measured", ""]
    if metrics is None:
        lines += [f"- {missing}"]
    else:
        lines += [f"On {metrics['people']} {metrics['split']} people, {metrics['slices']} slices, {metrics['date']}"
                  + "".join(f"; {note}" for note in metrics["notes"]) + ".", "",
                  "| measure | value [95 %] | null band [5, 95 %] |", "|---|---|---|",
                  *(f"| {name} | {value} | {null} |" for name, value, null, _, _ in summary_rows(metrics))]
    lines += ["", "## Memorisation", "", f"- {metrics['memorisation']['verdict'] if metrics else missing}"]
    if metrics:
        lines += [f"- membership AUC {shown(metrics['memorisation'].get('membership_auc'), 3)} (0.5 tells nothing): "
                  f"{metrics['memorisation'].get('membership_note', 'not assessed')}"]
    lines += ["", "## Limits", "", "- slices are drawn one by one; positions of one seed are not one head",
              "- numbers hold for data like that above, and for as many people", "", CLAIM]
    with whole_file(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def split_lines(folder, config):
    """The section of the model card that says who is in which split, and how often test people were looked at."""
    slices = read_slices(folder)
    slices["split"] = pd.Categorical(slices["split"], ("train", "validation", "test"), ordered=True)
    groups = slices.groupby(["split", "label"], observed=True)
    table = groups.agg(people=("subject", "nunique"), slices=("path", "size"))
    looks = folder / "test_looks.csv"
    looked = len(looks.read_text(encoding="utf-8").splitlines()) - 1 if looks.is_file() else 0
    return ["## Splits", "", "| split | label | people | slices |", "|---|---|---|---|",
            *(f"| {split} | {label} | {row.people} | {row.slices} |" for (split, label), row in table.iterrows()), "",
            "- by person" + (", but the folders share people between splits (--allow-overlap)"
                             if config.get("allow_overlap") else "")
            + ("" if config.get("metadata") or config["simulated"] else
               "; people are image ids, so repeat visits of one person may straddle splits"),
            f"- evaluations on test people so far: {looked}"]
