"""The numbers of docs/results.md."""

from functools import partial

from experiments.filled import peer, people, run
from experiments.filled.targets import targets
from experiments.filled.words import metric, number, percent, table
from report.numbers import REFERENCES, value_of


def demo(files):
    """What else the demo cohort is for: labels that mean something, and what its samples are told by: a table."""
    metrics = files.metrics("demo")
    effects, useful = metrics["samples"]["label_effects"], metrics["usefulness"]
    real = metrics["samples"]["against_real"]
    attack = run.strongest_attack(metrics)
    slices, stacks = ([told_apart(metrics[name][key]) for key in REFERENCES] for name in ("samples", "stacks"))
    rows = [
        ["ventricles, AD − NC, of samples", metric(effects["ventricle_area_label_effect_samples"], 2)],
        ["… of people", metric(effects["ventricle_area_label_effect_real"], 2)],
        ["AUC of the label on people, trained on samples", metric(useful["auc_samples"], 2)],
        ["… trained on people", metric(useful["auc_real"], 2)],
        ["two-sample AUC against real slices", number(value_of(real["two_sample_auc"]), 2)],
        ["… of shape", number(value_of(real["two_sample_auc_shape"]), 2)],
        ["numbers of slices told apart from real / reconstructed ones", " / ".join(slices)],
        ["numbers of whole people, likewise", " / ".join(stacks)],
        ["strongest attack on the weights, AUC", f"{run.auc_of(attack)}, tells {percent(attack['told'])}"],
        ["copies", number(run.copies(metrics["memorisation"]), 0)],
    ]
    return table(["of what is drawn", ""], rows)


def told_apart(section):
    """ "8 of 28"."""
    return f"{len(section['told_apart'])} of {section['tests']}"


OF_BOTH = (run.conditions, run.notes, run.stages, run.looks, run.models, run.split)
OF_BRAINS = (run.box, run.told, run.samples, run.memorisation, run.attacks, targets)
OF_PEOPLE = (people.bits, people.told, people.against_people, people.means, people.copies)
TEXTS = {
    **{f"{name}.{make.__name__}": partial(make, run=name) for name in ("brains", "demo") for make in OF_BOTH},
    **{f"brains.{make.__name__}": partial(make, run="brains") for make in OF_BRAINS},
    **{f"people.{make.__name__}": partial(make, run="brains") for make in OF_PEOPLE},
    "demo.drawn": demo,
    "peer.comparison": peer.comparison,
    "peer.conditions": peer.conditions,
    "peer.dead": peer.dead,
}
