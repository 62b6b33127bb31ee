"""The model card of a run (after Mitchell et al. 2019)."""

import pandas as pd

from report.membership import membership_verdict
from report.numbers import attack_rows, summary_rows, verdict_sentences
from slices.index import read_slices
from slices.names import are_image_ids
from training.folder import run_name
from training.options import settings_table
from utils import shell, whole_file

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
| robustness, external data | not measured; `evaluate.py folder IMAGES --real DIR` judges on other people |
| failure analysis, limitations | `report.html`, Limits above |
| registration, protocol, code, funding | the commit above; the rest you |
"""


def write_model_card(folder, config, metrics=None, out=None, licence=None):
    """Write MODEL_CARD.md of a run; without metrics it says what is not yet measured.

    Args:
        folder, config: the run's.
        metrics: what its metrics.json holds.
        out: folder to write it into (default: the run's).
        licence: of the data (default: as a card that is there already says).
    """
    out = out or folder
    lines = [
        f"# Model card: {folder.name}",
        "",
        "A VQ-VAE and a gated PixelCNN prior over its codes, for axial brain MRI slices.",
        "",
        *data_lines(out if (out / "MODEL_CARD.md").is_file() else folder, config, licence),
        "",
        *split_lines(folder, config, out),
        "",
        *training_lines(config),
        "",
        USES,
        *measured_lines(folder, metrics),
        "",
        "## Limits",
        "",
        limit_of_slices(config),
        "- numbers hold for data like that above, and for as many people",
        "",
        CLAIM,
    ]
    with whole_file(out / "MODEL_CARD.md") as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def limit_of_slices(config):
    """What of the drawn slices is one head."""
    if config.get("prior_slices_below", 0) and config["num_positions"] > 1:
        return (
            "- `predict.py people` draws the slices of one head, each told of those below; `sample` draws single ones"
        )
    return "- slices are drawn one by one; positions of one seed are not one head"


def data_lines(folder, config, licence=None):
    """The section on the data; the line on its licence is kept where a card has one and no other is given."""
    path = folder / "MODEL_CARD.md"
    data = (
        "- simulated people (warps of one template, ICBM152); nothing about disease follows from them"
        if config["simulated"]
        else TERMS
    )
    depth = config.get("code_depth", 1)
    usual = "none, they come with the code" if config["simulated"] else "TO BE FILLED IN"
    line = f"{LICENCE} {licence or usual}"
    if path.is_file() and not licence:
        line = next((line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(LICENCE)), line)
    return [
        "## Data",
        "",
        data,
        line,
        f"- labels: {', '.join(config['labels'])}; fingerprint of the pixels `{config['data_fingerprint'][:16]}`",
        f"- frame {config['frame'][1]}×{config['frame'][0]} pixels, code grid "
        f"{config['code_grid'][1]}×{config['code_grid'][0]} of "
        f"{f'{depth} times ' * (depth > 1)}{config['num_codes']} codes",
    ]


def training_lines(config):
    """The section on the training, with a table of its settings."""
    return [
        "## Training",
        "",
        f"- preset {config['preset']}, {config['vqvae_steps']:,} and {config['prior_steps']:,} "
        f"steps of {config['batch_size']} slices at most, seed {config['seed']}, {config['precision_resolved']}",
        f"- commit {config.get('git_commit') or 'unknown'}; "
        + ", ".join(f"{name} {version}" for name, version in config.get("versions", {}).items()),
        "- the weights kept are those of the least loss on validation people",
        "",
        *settings_table(config),
    ]


def measured_lines(folder, metrics):
    """The sections on what was measured, and on memorisation."""
    if metrics is None:
        command = shell("python", "evaluate.py", "--run", run_name(folder), "--split", "test")
        missing = f"- not yet measured: run `{command}`"
        return ["## Measured", "", missing, "", "## Memorisation", "", missing]
    return [
        "## Measured",
        "",
        f"On {metrics['people']} {metrics['split']} people, {metrics['slices']} slices, {metrics['date']}"
        + "".join(f"; {note}" for note in metrics["notes"])
        + ".",
        "",
        *(f"- {sentence}" for sentence in verdict_sentences(metrics)),
        "",
        "| measure | against | value [95 %] | a perfect prior | another group of people | verdict |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row.name} | {row.against} | {row.value} | {row.perfect_prior} | {row.other_people} | {row.verdict} |"
            for row in summary_rows(metrics)
        ),
        "",
        *memorisation_lines(metrics["memorisation"]),
    ]


def memorisation_lines(memorisation):
    """The section on the audit and on the membership attacks."""
    attacks = attack_rows(memorisation)
    head = [
        "| membership attack | on | AUC [95 %] (0.5 tells nothing) | training people | told of them |",
        "|---|---|---|---|---|",
    ]
    return [
        "## Memorisation",
        "",
        f"- {memorisation['verdict']}",
        f"- membership: {membership_verdict(memorisation['membership']) if attacks else 'not assessed'}",
        *(["", *head] if attacks else []),
        *(f"| {name} | {of} | {auc} | {people} | {told} |" for of, name, auc, people, told, _ in attacks),
    ]


def in_table(text):
    """A text as it may stand in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def split_lines(folder, config, out):
    """The section of the model card that says who is in which split, and how often test people were looked at."""
    slices = read_slices(folder)
    slices["split"] = pd.Categorical(slices["split"], ("train", "validation", "test"), ordered=True)
    groups = slices.groupby(["split", "label"], observed=True)
    table = groups.agg(people=("subject", "nunique"), slices=("path", "size"))
    tables = {place / "test_looks.csv" for place in (folder, out)}
    looked = sum(len(looks.read_text(encoding="utf-8").splitlines()) - 1 for looks in tables if looks.is_file())
    return [
        "## Splits",
        "",
        "| split | label | people | slices |",
        "|---|---|---|---|",
        *(f"| {split} | {in_table(label)} | {row.people} | {row.slices} |" for (split, label), row in table.iterrows()),
        "",
        "- by person"
        + (", but the folders share people between splits (--allow-overlap)" if config.get("allow_overlap") else "")
        + (
            ""
            if config.get("metadata") or config["simulated"] or not are_image_ids(slices["subject"])
            else "; people are image ids, so repeat visits of one person may straddle splits"
        ),
        f"- evaluations on test people so far: {looked}",
    ]
