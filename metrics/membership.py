"""Whether the weights, or the samples, tell the people of training from others: attacks, person by person.

Each attack gives every person one score, which should be higher for those trained on. No shadow models are trained:
that these attacks tell nobody is no proof that none does.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from scipy import stats

from metrics.parts import SAMPLE_BLOCK
from metrics.people import auc_interval
from sampling.run import prior_bits
from slices.processes import parallel
from utils import block_starts, evenly, random_generator, tracker

LEAST_LIKELY = 0.2  # of the codes in the brain: Shi et al. 2024 take 20 % of the tokens
UNCONDITIONAL_SLICES = 8  # of a person, whose bits without conditions are computed
PREFIX_PEOPLE, PREFIX_SLICES = 64, 4  # people of a split, and slices of each, that are completed
PREFIX_TEMPERATURE = 0.01  # the likeliest code nearly always, as Carlini et al. 2023 decode (arXiv:2202.07646)
MEANING = {
    "likelihood": "how much likelier the prior makes a person's codes than other people's in the same places do",
    "conditional_minus_unconditional": "how much likelier label and position make a person's codes",
    "least_likely_codes": "the same as likelihood, of the fifth of the brain's codes that is the least likely",
    "least_likely_codes_plain": "how likely the prior finds these codes, whoever they are of",
    "prefix_extraction": "how much more a person's slices, completed from their upper halves, agree with that person's "
    "own codes than with other people's",
    "vqvae_error": "how well the VQ-VAE reconstructs a person's slices",
    "nearest_sample": "the share of a slice's codes in the brain that the most similar sample has, too",
}


@dataclass
class Target:
    """N slices of a split that are attacked.

    Attributes:
        name: str, of the split.
        part, rows: its Part, and which rows of it these are, (N,) int.
        codes: (N, h, w) int32.
        columns: dict of label and position, (N,) int32: the prior's conditions.
        bits: their CodeBits.
    """

    name: str
    part: object
    rows: np.ndarray
    codes: np.ndarray
    columns: dict
    bits: object


def measure_membership(run, cache, parts, bits, split, sample_codes, seed):
    """How well each attack tells training people from those of ``split``: memorisation.membership of metrics.json.

    Args:
        run: sampling.run.Run.
        cache: metrics.parts.Cache of the run.
        parts, bits: dicts of split → Part and CodeBits.
        split: the held-out one.
        sample_codes: (S, h, w) int32, codes of the run's samples.
        seed: int from 0, of what is random in completions.

    Returns:
        dict of attack → what ``judged`` says, ``of``, which is "weights" or "samples", and the score's ``meaning``;
        None with ``<attack>_why`` beside it where it cannot be made.
    """
    targets = [target_of(name, parts[name], bits[name]) for name in ("train", split)]
    attacks = {
        "likelihood": likelihood,
        "conditional_minus_unconditional": partial(conditional_minus_unconditional, run=run, cache=cache),
        "least_likely_codes": least_likely_codes,
        "least_likely_codes_plain": partial(least_likely_codes, calibrated=False),
        "prefix_extraction": partial(prefix_extraction, run=run, cache=cache, everyone=targets, seed=seed),
        "vqvae_error": vqvae_error,
        "nearest_sample": partial(nearest_sample, sample_codes=sample_codes),
    }
    result = {}
    for name, attack in attacks.items():
        why = conditions_tell_nothing(run.prior) if name == "conditional_minus_unconditional" else None
        if why is None:
            scores = [by_person(attack(target), target.bits.subject) for target in targets]
            why = None if all(map(len, scores)) else "no brain was found"
        if why is None:
            of = "samples" if name == "nearest_sample" else "weights"
            result[name] = judged(*scores) | {"of": of, "meaning": MEANING[name]}
        else:
            result |= {name: None, f"{name}_why": why}
    return result


def target_of(name, part, bits):
    """The Target that a split's Part and CodeBits make."""
    rows = np.flatnonzero(bits.kept)
    columns = {key: column[rows] for key, column in part.columns.items()}
    return Target(name, part, rows, part.codes[rows], columns, bits)


def by_person(scores, people):
    """Mean of the scores (N,) of each person's slices, without those that are NaN: a Series over people."""
    return pd.Series(scores).groupby(np.asarray(people)).mean().dropna()


# ---- attacks: functions of a Target to scores (N,), NaN where a slice has none -------------------------------------


def likelihood(target):
    """Bits of the codes under the positional baseline minus those under the prior, a mean over all cells."""
    return (target.bits.positional - target.bits.prior).mean(axis=(1, 2))


def conditional_minus_unconditional(target, run, cache):
    """Bits of the codes without label and position minus those with them, a mean over all cells.

    After Kowalczuk et al. 2025, "Privacy Attacks on Image AutoRegressive Models" (arXiv:2502.02514). What is
    memorised is memorised with its conditions; how hard a slice is stands in both terms.
    """
    chosen = some_slices(target, len(target.codes), UNCONDITIONAL_SLICES)
    none = dict.fromkeys(("label", "position"), np.zeros(len(chosen), np.int32))
    unconditional = cache.kept(
        f"unconditional-{target.name}",
        f"{target.part.fingerprint} {len(target.codes)} {len(chosen)}",
        lambda: prior_bits(run.prior, target.codes[chosen], none),
    )
    scores = np.full(len(target.codes), np.nan)
    scores[chosen] = (unconditional - target.bits.prior[chosen]).mean(axis=(1, 2))
    return scores


def conditions_tell_nothing(prior):
    """Why bits without conditions cannot be set against those with them, or None where they can."""
    settings = prior.settings
    if settings["condition_dropout"] == 0:
        return "the prior was trained without dropping label and position: it does not know codes without them"
    if settings["num_labels"] <= 1 and settings["num_positions"] <= 1:
        return "one label and one position tell the prior nothing"
    return None


def least_likely_codes(target, calibrated=True):
    """Bits under the positional baseline minus those under the prior, of the codes that the prior finds least likely.

    Without ``calibrated``, minus those under the prior alone, as published.

    After Min-K % of Shi et al. 2024, "Detecting Pretraining Data from Large Language Models" (arXiv:2310.16789):
    what was trained on has few codes that surprise. They are taken from the brain, for a fifth of the whole grid is
    more of a small brain than of a large one. The baseline is taken off because odd anatomy surprises whoever it is
    of (calibration by difficulty: Watson et al. 2022, arXiv:2111.08440).
    """
    scores = np.full(len(target.codes), np.nan)
    for i, cells in enumerate(target.bits.brain):
        if cells.any():
            prior, positional = target.bits.prior[i][cells], target.bits.positional[i][cells]
            least = np.argsort(-prior, kind="stable")[: math.ceil(LEAST_LIKELY * len(prior))]
            scores[i] = ((positional if calibrated else 0) - prior)[least].mean()
    return scores


def vqvae_error(target):
    """Minus the mean absolute error of the reconstructions, in grey levels."""
    return -target.part.error[target.rows]


def nearest_sample(target, sample_codes):
    """The largest share of the codes in the brain that a slice has in common with any sample, of any position."""

    def best(i):
        cells = target.bits.brain[i]
        return (sample_codes[:, cells] == target.codes[i][cells]).mean(axis=1).max() if cells.any() else np.nan

    n = len(target.codes)
    return np.array(parallel(best, range(n), tracker("comparing people with samples", n)), float)


def prefix_extraction(target, run, cache, everyone, seed):
    """How much more the completed lower half of a slice agrees with its own codes than with other people's.

    Only the brain's cells count. The other people are those of all Targets ``everyone`` at the same position.
    """
    first, chosen = target.codes.shape[1] // 2, some_slices(target, PREFIX_PEOPLE, PREFIX_SLICES)
    completed = cache.kept(
        f"completed-{target.name}",
        f"{target.part.fingerprint} {len(target.codes)} {len(chosen)}",
        lambda: complete(run.prior, target, chosen, first, seed),
    )
    codes = np.concatenate([one.codes for one in everyone])
    position = np.concatenate([one.columns["position"] for one in everyone])
    person = np.concatenate([one.bits.subject for one in everyone])
    scores = np.full(len(target.codes), np.nan)
    for i, drawn in zip(chosen, completed, strict=True):
        cells = target.bits.brain[i] & (np.arange(len(drawn)) >= first)[:, None]
        others = person != target.bits.subject[i]
        here = others & (position == target.columns["position"][i])
        if cells.any():
            agree = codes[here if here.any() else others][:, cells] == drawn[cells]
            scores[i] = (target.codes[i][cells] == drawn[cells]).mean() - agree.mean()
    return scores


def some_slices(target, people, slices):
    """At most ``slices`` of each of at most ``people`` people of a Target, evenly spread: (M,) int."""
    subject, position = target.bits.subject, target.columns["position"]
    owned = [np.flatnonzero(subject == person) for person in evenly(np.unique(subject), people)]
    return np.concatenate([evenly(own[np.argsort(position[own], kind="stable")], slices) for own in owned])


def complete(prior, target, slices, first, seed):
    """Codes (M, h, w) int32 of slices of a Target: the first rows are theirs, the rest what the prior finds likeliest.

    Blocks have one size always, the last one padded, for sums differ with the shape of the batch.
    """
    uniforms = random_generator(seed, "completions").random((SAMPLE_BLOCK, *prior.uniforms_shape), np.float32)
    mask = np.zeros((SAMPLE_BLOCK, *prior.grid), bool)
    mask[:, :first] = True
    blocks = []
    for start in block_starts(len(slices), "completing", SAMPLE_BLOCK):
        block = np.resize(slices[start : start + SAMPLE_BLOCK], SAMPLE_BLOCK)
        conditions = [target.columns[name][block] for name in ("label", "position")]
        kept = {"known": target.codes[block], "mask": mask, "scored": slice(0)}
        codes, _ = prior.sample(uniforms, *conditions, PREFIX_TEMPERATURE, **kept)
        blocks.append(np.asarray(codes, np.int32))
    return np.concatenate(blocks)[: len(slices)]


# ---- what they tell --------------------------------------------------------------------------------------------------


def judged(trained, unseen):
    """How well scores (P,) of training people and (n,) of people never seen tell them apart, a dict.

    ``auc``, ``low`` and ``high`` (95 %); ``p``, one-sided and uncorrected, of Mann & Whitney's test; ``people`` and
    ``unseen``, how many were scored; ``told``, the share of training people above a threshold that somebody never seen
    exceeds with a probability of ``false_alarm`` at most: 1 %, or 1 / (n + 1), above all of them, where n < 100.
    """
    trained, unseen = np.asarray(trained, float), np.asarray(unseen, float)
    n = len(unseen)
    threshold = np.sort(unseen)[-max((n + 1) // 100, 1)]
    interval = auc_interval(trained, unseen)
    return {
        "auc": interval.pop("value"),
        **interval,
        "p": float(stats.mannwhitneyu(trained, unseen, alternative="greater").pvalue),
        "people": len(trained),
        "unseen": n,
        "told": float((trained > threshold).mean()),
        "false_alarm": max(0.01, 1 / (n + 1)),
    }
