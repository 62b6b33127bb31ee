"""The report of an evaluation: one HTML file with everything in it."""

import base64
import html
import json
from itertools import groupby

from report.figures import draw_figures
from report.membership import membership_verdict
from report.model_card import write_model_card
from report.numbers import attack_rows, summary_rows, verdict_sentences
from report.study_page import MARK
from utils import whole_file

METHOD = (
    """
Every set is 8-bit grey in the run's crop box. The brain is the largest component of pixels over 5 % grey, opened by a
cross, holes filled; per-image measures take the mask of the original. Sets that are compared have the same labels and
positions. Means are over people, after averaging each person's slices, with t intervals over people; an interval ends
where its measure does. Samples are at temperature 1, without top-k, top-p or guidance.
""",
    """
<b>Two references.</b> Samples are set against real slices of unseen people (would you take one for real?) and against
the reconstructions of the same slices (is the prior right, apart from what the decoder blurs?).
""",
    """
<b>What a perfect prior would score.</b> The yardstick (components, z-scores, patch projections, means of positions) is
fitted on half of the training people and on nobody else. The other half and the held-out people are split at random,
over and over: as many people as the split has play the reference, independent slices of the rest play <i>a perfect
prior</i>, as many whole people of the rest play <i>another group of people</i>. Bands are the median and 2.5 to 97.5 %
of these draws. A split too small for that has no null, and no verdict.
""",
    """
<b>Verdicts.</b> A p-value is the rank of the samples' number among the draws of a perfect prior, with an exponential
tail beyond the last draw; distances and classifiers count on their bad side only, all else on both. Holm's correction
over all numbers of a reference holds the chance of any false red verdict at 5 %. <i>Told apart</i>: red after that
correction. <i>Consistent</i>: p over 5 % without it. <i>Cannot tell</i>: between the two, or no null. Consistent is no
proof: few people tell little apart.
""",
    """
<b>Intervals</b> of Fréchet, kernel and patch distances: the t interval of a jackknife over people, or groups of them,
which takes the bias off the Fréchet distance; the other two have none. Where nothing differs they may end below 0.
""",
    """
<b>Measures.</b> <i>Components</i>: principal components of half-size slices, the mean of each position removed.
<i>Fréchet</i>: 16 of them. <i>Kernel distance</i>: cubic, 32 components over their RMS, pairs of one person left out.
<i>Two-sample AUC</i>: least-squares support vector machines with an RBF kernel on shape, on texture (16 bands of radial
power and moments of four Laplacian levels) and on both, at most 250 slices a side, a person's slices in one fold.
<i>Patches</i>: sliced Cramér distance of 7×7 patches at three Laplacian levels, times 1,000, pairs of one person left
out. <i>Precision, recall, density, coverage</i>: radii to the nearest slice of another person. <i>Diversity</i>: mean
1 − MS-SSIM at half size of pairs of one label and position, over that of different people of the reference.
<i>Anatomy</i>: z-scores at the same position; tissues by Otsu's method.
""",
    """
<b>Memorisation.</b> 1 − correlation of fine detail in the brain with every training slice, mirrored and shifted by up
to 3 pixels; the threshold finds 95 % of planted copies (shifted by up to 2 pixels, gain ± 5 %, a tenth of the codes
redrawn, or, for a folder, slightly blurred). The null is of training people without their own slices.
<b>Membership</b>: a score per person; AUC of training people against unseen ones, and the share of training people
told at the lowest rate of false alarms that so many unseen people allow. No shadow models were trained.
""",
)

STYLE = """
:root{color-scheme:light}
body{font:16px/1.5 system-ui,sans-serif;color:#20252b;max-width:64rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;margin:.5rem 0}
h2{font-size:1.2rem;margin:2rem 0 .5rem;border-bottom:1px solid #d5dade}
img{max-width:100%;height:auto;display:block;margin:.5rem 0}
figure{margin:1rem 0}
figcaption{color:#56606a;font-size:.9em}
.table{overflow-x:auto}
table{border-collapse:collapse;font-size:.92rem;width:100%}
td,th{padding:.3rem .6rem;text-align:left; vertical-align:top;border-bottom:1px solid #e3e7ea}
td.n{white-space:nowrap;font-variant-numeric:tabular-nums}
.mark{background:#fff3cd;border:1px solid #e0c060;padding:.5rem .8rem;font-weight:600}
.verdict{border-left:4px solid #56606a;padding-left:.8rem}
.out{color:#b4421f;font-weight:600}
.what{display:block;color:#56606a;font-size:.85em;font-weight:400}
.narrow th[scope=row]{min-width:11rem}
.narrow td[data-of=verdict]{white-space:nowrap}
summary{cursor:pointer;font-weight:600;margin:.5rem 0}
pre{white-space:pre-wrap;font-size:.8rem;overflow-wrap:anywhere}
@media(max-width:40rem){.narrow thead{display:none}
.narrow tr,.narrow td,.narrow th{display:block;min-width:0;border:0;padding:.1rem 0}
.narrow tr{border-bottom:1px solid #e3e7ea;padding:.4rem 0}
.narrow td[data-of]::before{content:attr(data-of) ": "}
.narrow td.n{white-space:normal}
.narrow th[scope=row]{padding-top:.5rem}}
@media print{body{max-width:none;font-size:12px;padding:0}
table{font-size:10.5px}
thead{display:table-header-group}
tr,figure,.verdict,.narrow tbody{break-inside:avoid}
h2,h3,summary{break-after:avoid}
figure img{max-height:15cm}
.table{overflow:visible}
.all table{font-size:7px}
.all td,.all th{padding:.1rem .2rem}
.all td:first-child{overflow-wrap:anywhere}
details::details-content{content-visibility:visible;display:block;height:auto}
details>*{display:block}}
"""
NULLS = {"perfect_prior": "a perfect prior", "other_people": "another group of people"}
# What stands beside a number, and not for itself.
SIBLINGS = ("verdict", "p", "sd", "positional", "gaussian", "independent", "why")
ENDINGS = ("_null", "_null_why", "_verdict_why", "_p_why", *(f"_{name}" for name in SIBLINGS))
ATTACKED = {
    "weights": "of the weights: for whoever has the models",
    "samples": "of the samples: for whoever has images alone",
}


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
    pictures = [figure_of(folder / "figures" / name, caption) for name, caption, _ in figures]
    parts = [] if shareable else [f"<p class=mark>{MARK}</p>"]
    parts += [
        *heading(metrics),
        "<h2>Verdicts</h2>",
        *(f"<p class=verdict>{html.escape(sentence)}</p>" for sentence in verdict_sentences(metrics)),
        *pictures[:1],
        summary_table(metrics),
        "<h2>Pictures</h2>",
        *pictures[1:],
        *memorisation_parts(metrics),
        "<h2>All numbers</h2>",
        *(
            f"<details><summary>{section}</summary>{number_table(values)}</details>"
            for section, values in metrics.items()
            if isinstance(values, dict) and not (shareable and section == "cohort")
        ),
        "<h2>How it was computed</h2>",
        *(f"<p>{paragraph.strip()}</p>" for paragraph in METHOD),
    ]
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


def memorisation_parts(metrics):
    """What the audit says, with its numbers, and the membership attacks; nothing where there was no audit."""
    if "memorisation" not in metrics:
        return []
    memorisation = metrics["memorisation"]
    lines = [
        f"<tr>{head_cell(row.name, row.meaning)}{value_cell(row)}{verdict_cell(row)}"
        f"<td class=n data-of='null'>{row.other_people}</td></tr>"
        for row in summary_rows(metrics)
        if row.section == "memorisation"
    ]
    return [
        "<h2>Memorisation</h2>",
        f"<p class=verdict>{html.escape(capital(memorisation['verdict']))}.</p>",
        table("narrow", ("measure", "value", "verdict", "null: training people without their own slices"), lines),
        *membership_parts(memorisation),
    ]


def membership_parts(memorisation):
    """The membership attacks as a table, those of the weights apart from those of the samples."""
    attacks, why = attack_rows(memorisation), memorisation.get("membership_why")
    if not attacks:
        return [f"<p>Membership: not assessed{f', {html.escape(why)}' if why else ''}.</p>"]
    bodies = []
    for which, title in ATTACKED.items():
        lines = "".join(
            f"<tr>{head_cell(name, meaning)}<td class=n data-of='AUC'>{auc}</td>"
            f"<td class=n data-of='training people'>{people}</td><td class=n data-of='told'>{told}</td></tr>"
            for of, name, auc, people, told, meaning in attacks
            if of == which
        )
        bodies += [f"<tr><th colspan=4 scope=rowgroup>{title}</th></tr>{lines}"] if lines else []
    return [
        "<h3>Membership: can it be told who was trained on?</h3>",
        f"<p class=verdict>{html.escape(capital(membership_verdict(memorisation['membership'])))}.</p>",
        table("narrow", ("attack", "AUC [95 %]", "training people", "told of them"), bodies),
        "<p>An AUC of 0.5 tells nothing, 1 tells everybody.</p>",
    ]


def head_cell(name, meaning, rows=1):
    """What a line, or some lines, of a table are about, and what that means."""
    return f"<th scope=row rowspan={rows}>{name}<span class=what>{html.escape(meaning)}</span></th>"


def capital(sentence):
    """A sentence that starts with a capital letter."""
    return sentence[:1].upper() + sentence[1:]


def figure_of(path, caption):
    """A PNG file in the page itself, with its caption."""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f"<figure><img alt='{html.escape(caption, quote=True)}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def table(kind, heads, bodies):
    """A table in the page: its class, the heads of its columns, and its rows as HTML, in bodies that stay together."""
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(f"<tbody>{rows}</tbody>" for rows in bodies)
    return f"<div class='table {kind}'><table><thead><tr>{head}</tr></thead>{body}</table></div>"


def summary_table(metrics):
    """The Rows of the summary, both references of a number one above the other; red where it is told apart."""
    rows = [row for row in summary_rows(metrics) if row.section != "memorisation"]
    groups = [list(group) for _, group in groupby(rows, lambda row: row.name)]
    heads = (
        "measure",
        "against",
        "value [95 %]",
        "verdict",
        "a perfect prior [95 %]",
        "another group of people [95 %]",
    )
    bodies = ["".join(summary_line(row, len(group) if row is group[0] else 0) for row in group) for group in groups]
    return table("narrow", heads, bodies) + (
        "<p>Red: told apart from what a perfect prior would score. In brackets beside a value is its interval; a null "
        "is its median and the 2.5 and 97.5 % of its draws.</p>"
    )


def summary_line(row, lines):
    """A Row in HTML; the first of ``lines`` of one name has the name and what it means, the others have 0 of them."""
    return (
        f"<tr>{head_cell(row.name, row.meaning, lines) if lines else ''}"
        f"<td data-of='against'>{row.against or '–'}</td>{value_cell(row)}{verdict_cell(row)}"
        f"<td class=n data-of='a perfect prior'>{row.perfect_prior}</td>"
        f"<td class=n data-of='another group of people'>{row.other_people}</td></tr>"
    )


def value_cell(row):
    """The value of a Row as a cell."""
    return f"<td class='n{' out' if row.is_red else ''}' data-of='value'>{row.value}</td>"


def verdict_cell(row):
    """The verdict of a Row as a cell."""
    return f"<td{' class=out' if row.is_red else ''} data-of='verdict'>{row.verdict or '–'}</td>"


def number_table(values):
    """Every metric of a section with its siblings (null bands, verdict, bad generators) in columns."""
    return table("all", ("", "value", *NULLS.values(), *SIBLINGS), ["".join(number_lines(values))])


def number_lines(values, prefix=""):
    """The rows of ``number_table``; a dict of metrics gives rows with its name before theirs."""
    for name, value in values.items():
        if any(name.endswith(ending) and name.removesuffix(ending) in values for ending in ENDINGS):
            continue
        if isinstance(value, dict) and "value" not in value:
            yield from number_lines(value, f"{prefix}{name}.")
            continue
        cells = [value, *null_bands(values.get(f"{name}_null")), *(values.get(f"{name}_{end}") for end in SIBLINGS)]
        cells[-1] = cells[-1] or values.get(f"{name}_null_why")
        texts = "".join(f"<td>{html.escape(compact(cell))}</td>" for cell in cells)
        yield f"<tr><td>{html.escape(prefix + name)}</td>{texts}</tr>"


def null_bands(null):
    """The bands of a null by NULLS, each {value, low, high} or None; a plain one is of other people."""
    if null is None or "value" in null:
        return [None, null]
    return [null[which] and dict(zip(("value", "low", "high"), null[which], strict=True)) for which in NULLS]


def compact(metric):
    """A metric to four digits, with its interval; words and whole numbers as they are."""
    if isinstance(metric, dict):
        return f"{metric['value']:.4g} [{metric['low']:.4g}, {metric['high']:.4g}]"
    if isinstance(metric, list):
        return ", ".join(map(compact, metric))
    if metric is None:
        return ""
    return f"{metric:.4g}" if isinstance(metric, float) else str(metric)
