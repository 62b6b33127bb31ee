"""The numbers of docs/results.md."""

from functools import partial

from experiments.filled import peer, run
from experiments.filled.targets import targets
from experiments.filled.words import metric, number, percent, table
from report.numbers import REFERENCES, value_of


def demo(files):
    """What else the demo cohort is for: labels that mean something, and what its samples are told by: a table."""
    metrics = files.metrics("demo")
    effects, useful = metrics["samples"]["label_effects"], metrics["usefulness"]
    real = metrics["samples"]["against_real"]
    attack = run.strongest_attack(metrics)
    sides = [
        f"{len(metrics['stacks'][name]['told_apart'])} of {metrics['stacks'][name]['tests']}" for name in REFERENCES
    ]
    rows = [
        ["ventricles, AD − NC, of samples", metric(effects["ventricle_area_label_effect_samples"], 2)],
        ["… of people", metric(effects["ventricle_area_label_effect_real"], 2)],
        ["AUC of the label on people, trained on samples", metric(useful["auc_samples"], 2)],
        ["… trained on people", metric(useful["auc_real"], 2)],
        ["two-sample AUC against real slices", number(value_of(real["two_sample_auc"]), 2)],
        ["… of shape", number(value_of(real["two_sample_auc_shape"]), 2)],
        ["whole people told apart by, against real stacks / reconstructions", " / ".join(sides)],
        ["strongest attack on the weights, AUC", f"{run.auc_of(attack)}, tells {percent(attack['told'])}"],
        ["copies", number(run.copies(metrics["memorisation"]), 0)],
    ]
    return table(["of what is drawn", ""], rows)


OF_A_RUN = ("conditions", "notes", "stages", "looks", "models", "told")
OF_PEOPLE = ("people_bits", "people_told", "people", "people_means", "people_copies")
TEXTS = {
    **{f"{name}.{key}": partial(getattr(run, key), run=name) for name in ("brains", "demo") for key in OF_A_RUN},
    **{
        f"brains.{key}": partial(getattr(run, key), run="brains")
        for key in ("samples", "memorisation", "attacks", *OF_PEOPLE)
    },
    "brains.box": partial(run.box, run="brains"),
    "brains.targets": partial(targets, run="brains"),
    "demo.drawn": demo,
    "peer.comparison": peer.comparison,
    "peer.conditions": peer.conditions,
    "peer.dead": peer.dead,
}
