"""Whole people drawn by a run against real ones: the section stacks of metrics.json."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from metrics.copies import CopySearch
from metrics.distances import held_out_scores
from metrics.memorisation import plain_band
from metrics.nulls import FEWEST, NULL_DRAWS, people_by_label, random_split
from metrics.people import for_nulls, for_sets, group_people
from metrics.reasons import put
from metrics.stack_copies import measure_stack_copies
from metrics.stacks import PROFILES, Stacks, independent_stacks, measure_stacks, stacks_of
from metrics.told_bits import told_bits
from metrics.usefulness import by_source
from metrics.verdicts import judge
from report.numbers import TOLD_APART
from sampling.draws import BLOCK
from sampling.people import choose_labels, draw_block
from utils import finite, tracker

VOLUMES = ("brain_volume", "ventricle_volume")  # whose spread over people is compared, too
FOLDS = 5  # of the classifier
DRAWN = 64  # people at least: as many as the split has are compared with it, and all teach a classifier the label


@dataclass
class MeasuredStacks:
    """What is measured on P people.

    Attributes:
        numbers: DataFrame (P, numbers), as of ``metrics.stacks.measure_stacks``.
        label, position: (P,) int; the positions are 0.
        person: (P,) of str.
    """

    numbers: pd.DataFrame
    label: np.ndarray
    position: np.ndarray
    person: np.ndarray

    def take(self, rows):
        """Those of these rows, an index or a mask."""
        others = {name: getattr(self, name)[rows] for name in ("label", "position", "person")}
        return replace(self, numbers=self.numbers[rows] if rows.dtype == bool else self.numbers.iloc[rows], **others)


def measured(stacks, what):
    """Stacks as MeasuredStacks; ``what`` they are, for the progress bar."""
    numbers = measure_stacks(stacks, tracker(f"measuring {what}", len(stacks.person)))
    return MeasuredStacks(numbers, stacks.label, stacks.position, stacks.person)


def join(first, second):
    """Two MeasuredStacks, one after the other."""
    others = {
        name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in ("label", "position", "person")
    }
    return MeasuredStacks(pd.concat([first.numbers, second.numbers], ignore_index=True), **others)


# ---- one set of people against another ----------------------------------------------------------


def stack_statistics(people, reference):
    """Everything that is measured on MeasuredStacks against a reference: a flat dict of float, or None.

    …_effect: difference of the means over people, in units of the spread of the reference; of drift, too, what a number
    gains from the lowest slices to the highest.
    …_spread: log10 of the standard deviation over people, over that of the reference: of mixed slices it is too small.
    …_link: correlation over people of a number in the lowest slices with the same in the highest.
    two_sample_auc: how well a classifier tells whole people apart; 0.5 is not at all.
    """
    sides = [with_drift(one.numbers) for one in (people, reference)]
    judged = [name for name in sides[0] if not name.startswith(("low_", "high_"))]
    found = {f"{name}_effect": effect(*(side[name] for side in sides)) for name in judged}
    found |= {f"{name}_spread": spread(*(side[name] for side in sides)) for name in VOLUMES}
    found |= {f"{name}_link": sides[0][f"low_{name}"].corr(sides[0][f"high_{name}"]) for name in PROFILES}
    found["two_sample_auc"] = stack_auc(people, reference)
    return {name: None if value is None else finite(value) for name, value in found.items()}


def with_drift(numbers):
    """The numbers of stacks with drift_… for each of PROFILES: a DataFrame."""
    return numbers.assign(**{f"drift_{name}": numbers[f"high_{name}"] - numbers[f"low_{name}"] for name in PROFILES})


def effect(values, reference):
    """The difference of the means of two Series, in units of the spread of the second; None where it has none."""
    deviation = reference.std()
    return (values.mean() - reference.mean()) / deviation if deviation > 1e-9 else None


def spread(values, reference):
    """log10 of the ratio of the standard deviations of two Series; None where one is 0 or not known."""
    deviations = values.std(), reference.std()
    return np.log10(deviations[0] / deviations[1]) if min(deviations) > 1e-9 else None


def stack_auc(people, reference):
    """How well a classifier tells two MeasuredStacks apart, a row of numbers a person: AUC, or None of too few."""
    folds = min(FOLDS, *(len(one.person) for one in (people, reference)))
    if folds < 2:
        return None
    features = known_features(join(people, reference))  # (P + R, numbers)
    side = np.repeat([0, 1], [len(people.person), len(reference.person)])
    fold = np.concatenate([group_people(one.person, folds) for one in (people, reference)])
    return float(roc_auc_score(side, held_out_scores(features, 2.0 * side - 1, fold)))


# ---- against what real people would score -------------------------------------------------------


def judge_people(people, reference, population, baselines, seed):
    """People against a reference, with what other real people would score, and verdicts: a dict.

    Args:
        people, reference: MeasuredStacks; as many, of the same labels.
        population: MeasuredStacks of all real people, from whom nulls are drawn.
        baselines: dict of MeasuredStacks that are judged alike, such as independent slices.
        seed: int from 0, of the draws.
    """
    count, why = people_by_label(reference), too_few(reference, population)
    splits = [] if why else [random_split(population, count, seed, draw) for draw in range(NULL_DRAWS)]
    nulls = [stack_statistics(population.take(one.other_people), population.take(one.reference)) for one in splits]
    values = {name: stack_statistics(one, reference) for name, one in {"": people, **baselines}.items()}
    verdicts = {name: judge(value, nulls) for name, value in values.items()}
    result = {"tests": sum(p is not None for p, _ in verdicts[""].values())}
    for name, judged in verdicts.items():
        result[f"told_apart{name and f'_{name}'}"] = [one for one, (_, words) in judged.items() if words == TOLD_APART]
    for name, value in values[""].items():
        p, verdict = verdicts[""][name]
        put(result, name, value, name)
        put(result, f"{name}_null", plain_band(draw[name] for draw in nulls), why)
        put(result, f"{name}_p", p, why)
        result[f"{name}_verdict"] = verdict
        for baseline in baselines:
            put(result, f"{name}_{baseline}", values[baseline][name], name)
    result["means"] = {
        side: {name: float(value) for name, value in with_drift(one.numbers).mean().dropna().items()}
        for side, one in {"people": people, "reference": reference, **baselines}.items()
    }
    return result


def too_few(reference, population):
    """Why there is no null, a sentence; or None where there are people enough."""
    if len(reference.person) < FEWEST:
        return f"too few people: {len(reference.person)} in the split with a slice at every position, of {FEWEST}"
    there = people_by_label(population)
    for label, wanted in people_by_label(reference).items():
        if there.get(label, 0) < 2 * wanted:
            return f"too few people: {there.get(label, 0)} of a label in all, and twice {wanted} are needed"
    return None


# ---- the section ------------------------------------------------------------------------------


def measure_people(run, cache, parts, split, threshold, seed):
    """The section stacks of metrics.json and None, or None and a sentence that says why there is none.

    Drawn people are set against slices as they are shown, sharpened and joined, and against reconstructions as their
    codes are decoded; so are copies searched for.

    Args:
        run: sampling.run.Run.
        cache: metrics.parts.Cache of the run.
        parts: dict of split → Part.
        split: the one whose people are the reference.
        threshold: distance up to which a slice counts as a copy, of the section memorisation, or None.
        seed: int from 0, of everything random.
    """
    sides = {name: real_stacks(parts, split, name, run.num_positions) for name in ("crops", "reconstructions")}
    reference, _ = sides["crops"]
    if min(len(one.person) for one in sides["crops"]) < 2:
        return None, "fewer than two people on either side have a slice at every position"
    own_rows = np.arange(len(reference.person))  # of people who are drawn for those of the split
    more = choose_labels(run, max(DRAWN - len(own_rows), 0), None, seed)
    drawn = drawn_stacks(run, cache, np.concatenate([reference.label, more]), seed)
    result = {"people": len(own_rows), "slices": run.num_positions}
    for name, kind, shown in (
        ("against_real", "crops", as_shown(run, drawn)),
        ("against_reconstructions", "reconstructions", drawn.take(own_rows)),
    ):
        unseen, training = sides[kind]
        own, others = measured(unseen, "unseen people"), measured(training, "training people")
        mixed = measured(mixed_stacks(unseen, training, seed), "independent slices")
        everyone = measured(shown, "sampled people")
        people = everyone.take(own_rows)
        result[name] = judge_people(people, own, join(own, others), {"independent": mixed}, seed)
        if name == "against_real":
            result["usefulness"] = by_source(others, everyone, own, known_features)
    search = CopySearch(parts["train"].searched_set(parts["train"].reconstructions))
    result["bits_per_code"] = told_bits(run, cache, parts[split], split)
    result["copies"] = measure_stack_copies(search, drawn.take(own_rows), *sides["reconstructions"], threshold, seed)
    return result, None


def known_features(people):
    """The numbers of MeasuredStacks as (P, numbers) float; those not known are as in the mean."""
    return people.numbers.fillna(people.numbers.mean()).fillna(0).to_numpy()


def real_stacks(parts, split, kind, num_positions):
    """Stacks of the people of a split, and of training people, as ``kind``: "crops" or "reconstructions"."""
    found = []
    for part, drawn in ((parts[split], for_sets), (parts["train"], for_nulls)):
        rows = np.flatnonzero(drawn(part.slices["subject"].to_numpy()))
        found.append(stacks_of(part.image_set(getattr(part, kind), rows), num_positions))
    return found


def mixed_stacks(unseen, training, seed):
    """Independent slices of real people, as many stacks of each label as there are unseen people of it."""
    together = Stacks(
        *(np.concatenate([getattr(one, name) for one in (unseen, training)]) for name in ("images", "label", "person"))
    )
    return independent_stacks(together, seed).take(np.arange(len(unseen.person)))


def as_shown(run, stacks):
    """Stacks of drawn people, decoded, as the run shows them: sharpened and joined where it knows how."""
    return replace(stacks, images=np.stack([run.joined(run.sharpened(images)) for images in stacks.images]))


def drawn_stacks(run, cache, label, seed):
    """Stacks of people whom the run draws, of these labels (P,) int32, in the crop box, as their codes are decoded."""

    def compute():
        starts = range(0, len(label), BLOCK)
        blocks = [draw_block(run, label[start : start + BLOCK], start, seed, scored=slice(0))[0] for start in starts]
        return np.concatenate(blocks)[: len(label)]

    codes = cache.kept("people", hashlib.sha256(label.astype(np.int32).tobytes()).hexdigest(), compute)
    crops = run.decode_crops(codes.reshape(-1, *codes.shape[2:]), "sampled people")
    names = np.char.add("sampled ", np.arange(len(label)).astype(str))
    return Stacks(crops.reshape(*codes.shape[:2], *crops.shape[1:]), label, names)
