"""The report of an evaluation: one HTML file with everything in it."""

import base64
import html
import json

from report.figures import draw_figures
from report.model_card import write_model_card
from report.numbers import summary_rows
from report.study_page import MARK
from utils import whole_file

METHOD = """
Every set is 8-bit grey in the run's crop box. The brain is the largest component of pixels over 5 % grey, opened by a
cross, holes filled; per-image measures take the mask of the original. Sets that are compared have the same labels and
positions. Means are over people, after averaging each person's slices, with t intervals over people; the intervals of
set distances are a jackknife that leaves out one person at a time; an interval ends where its measure does, such as a
distance at 0. <b>Null band</b>: the same statistic, median and 5
to 95 %, with reconstructions of training people, drawn 20 times, in the place of samples: what a perfect prior would
score with this many slices. <b>Components</b>: principal components of half-size training slices, the mean of each
position removed. <b>Fréchet</b>: 16 of them, Ledoit–Wolf covariances. <b>Kernel distance</b>: cubic, 32
components over their RMS, pairs of one person left out; an unbiased estimate, which may be below 0 where nothing
differs. <b>Two-sample AUC</b>: the largest of three RBF support
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


def write_report(folder, config, metrics, pictures, shareable=False, run_folder=None):
    """Write the figures, report.html and, for a run, its model card into ``folder``.

    Args:
        config: the run's, or what else says where the images come from.
        metrics: what metrics.json holds.
        pictures: see ``draw_figures``.
        shareable: write report_shareable.html, too.
        run_folder: the run's, where that is another than ``folder``.

    Returns:
        None, or why there is no report_shareable.html though it was asked for: the audit flags copies, cannot
        tell, or was not made.
    """
    (folder / "report_shareable.html").unlink(missing_ok=True)  # of an earlier evaluation
    run_folder = run_folder or folder
    figures = draw_figures(folder / "figures", metrics, pictures, run_folder)
    write_page(folder / "report.html", folder, config, metrics, figures)
    if "bits_map" in pictures:
        write_model_card(run_folder, config, metrics, folder)
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
    parts = [] if shareable else [f"<p class=mark>{MARK}</p>"]
    parts += [
        *heading(metrics),
        "<h2>Summary</h2>" + summary_table(metrics),
        *verdict_of(metrics),
        "<h2>Pictures</h2>",
        *(figure_of(folder / "figures" / name, caption) for name, caption, _ in figures),
        "<h2>All numbers</h2>",
    ]
    parts += [
        f"<h3>{section}</h3>" + number_table(values)
        for section, values in metrics.items()
        if isinstance(values, dict) and not (shareable and section == "cohort")
    ]
    parts.append(f"<h2>How it was computed</h2><p>{METHOD}</p>")
    if not shareable:
        parts.append(
            f"<p>Command: <code>{html.escape(metrics['command'])}</code>; seed {metrics['seed']}; commit "
            f"{metrics['commit']}.</p><h2>Config</h2><pre>{html.escape(json.dumps(config, indent=1))}</pre>"
        )
    page = (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width, "
        f"initial-scale=1'><title>{html.escape(metrics['run'])}</title><style>{STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def heading(metrics):
    """What was evaluated, on whom and when, with the notes."""
    return [
        f"<h1>{html.escape(metrics['run'])}: evaluation on {metrics['split']} people</h1>",
        f"<p>{metrics['people']} people, {metrics['slices']} slices, {metrics['date']}. "
        + " ".join(html.escape(note) + "." for note in metrics["notes"])
        + "</p>",
    ]


def verdict_of(metrics):
    """What the audit says, where there was one."""
    if "memorisation" not in metrics:
        return []
    memorisation = metrics["memorisation"]
    return [
        f"<p class=verdict>Memorisation: {html.escape(memorisation['verdict'])}. Membership: "
        f"{html.escape(memorisation.get('membership_note', 'not assessed'))}.</p>"
    ]


def figure_of(path, caption):
    """A PNG file in the page itself, with its caption."""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f"<figure><img alt='{html.escape(caption, quote=True)}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def summary_table(metrics):
    """The rows of the summary, red where a number is worse than its null band."""
    rows = "".join(
        f"<tr><td>{name}</td><td class='n{' out' if beyond else ''}'>{value}</td>"
        f"<td class=n>{null}</td><td>{html.escape(meaning)}</td></tr>"
        for name, value, null, beyond, meaning in summary_rows(metrics)
    )
    return (
        "<div class='table summary'><table><tr><th>measure</th><th>value [95 %]</th><th>null band [5, 95 %]</th>"
        f"<th>what it means</th></tr>{rows}</table></div><p>Red: beyond the bad side of the null band.</p>"
    )


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
