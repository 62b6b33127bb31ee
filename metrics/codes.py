"""Codes: how evenly they are used, what they cost in bits, and which of them are unusual."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.stats import median_abs_deviation

from metrics.people import for_nulls, mean_by_person, thinned, value_of
from metrics.reasons import put
from sampling.run import prior_bits
from slices.frame import brain_mask
from slices.processes import parallel
from utils import digits_of, from_digits

POSITION_BINS = 5
BITS_SLICES = 24  # of each person who is not judged, that bits are counted on
COUNTED = 4096  # grids at a time
NEAR = 2  # positions apart, for slices of different people to be compared code by code
LEAST_DEVIATION = 1.0  # bits: the black around the brain has none, and half a bit more there means nothing


def codebook_metrics(codes, num_codes, depth=1):
    """How evenly codes (…) int use their codebooks, counted over all of them at once: means over the codebooks.

    Args:
        num_codes, depth: K, and how many codebooks there are.

    Returns:
        dict of ``perplexity`` (1 … K), ``used_fraction`` and ``largest_share`` (both 0 … 1).
    """
    rows = []
    for share in count_codes(codes, num_codes, depth) / codes.size:  # (K,)
        used = share[share > 0]
        rows.append((2 ** -(used * np.log2(used)).sum(), len(used) / num_codes, share.max()))
    return dict(zip(("perplexity", "used_fraction", "largest_share"), np.mean(rows, axis=0).tolist(), strict=True))


def count_codes(codes, num_codes, depth=1):
    """How often each code of each codebook stands in codes (…) int: (depth, K)."""
    digits = digits_of(codes.ravel(), num_codes, depth)
    return np.array([np.bincount(digit, minlength=num_codes) for digit in digits])


def frequencies(codes, num_codes, depth=1):
    """The same as shares, add-one-smoothed: (depth, K), each row of sum 1."""
    return (count_codes(codes, num_codes, depth) + 1.0) / (codes.size + num_codes)


def unigram_bits_per_code(training_codes, codes, num_codes, depth=1):
    """Cross-entropy in bits of codes under the add-one-smoothed frequencies of the training codes' digits."""
    bits = -np.log2(frequencies(training_codes, num_codes, depth))
    return sum(
        float(of_digit[digits].mean())
        for of_digit, digits in zip(bits, digits_of(codes, num_codes, depth), strict=True)
    )


class PositionalBaseline:
    """How often each code stood in each cell of the training grids, by slice position in five bins.

    Mixed with the add-one-smoothed unigram; the weight of the mixture is chosen on validation people. The digits of a
    code are counted and drawn each on its own.

    Args:
        training: Part of the training people.
        validation: that of the validation people, or None: the weight is then chosen on the training people.
        num_codes, depth: K, and how many digits a code has.
    """

    def __init__(self, training, validation, num_codes, depth=1):
        codes, position = training.codes, training.columns["position"]
        self.last, self.num_codes, self.depth = int(position.max()), num_codes, depth
        self.unigram = frequencies(codes, num_codes, depth)  # (depth, K)
        bins = self.bins(position)
        self.counts = np.zeros((POSITION_BINS, depth, *codes.shape[1:], num_codes), np.uint32)
        places = np.indices(self.counts.shape[1:-1])  # of digit, row, column
        for start in range(0, len(codes), COUNTED):  # in one go the indices would take three times the codes
            rows = slice(start, start + COUNTED)
            np.add.at(self.counts, (bins[rows, None, None, None], *places, self.digits(codes[rows])), 1)
        self.totals = np.maximum(np.bincount(bins, minlength=POSITION_BINS), 1)
        chosen_on = validation if validation is not None else training
        self.weight = min(
            np.linspace(0.05, 0.95, 19),
            key=lambda weight: self.bits(chosen_on.codes, chosen_on.columns["position"], weight).mean(),
        )

    def digits(self, codes):
        """Codes (N, h, w) int -> (N, depth, h, w)."""
        return np.stack(digits_of(codes, self.num_codes, self.depth), axis=1)

    def bins(self, position):
        """The bin of each slice's position, (N,) int; positions are ids from 1."""
        return ((position - 1).clip(0, self.last - 1) * POSITION_BINS) // self.last

    def bits(self, codes, position, weight=None, counted=None):
        """−log2 p of every code: (N, h, w).

        Args:
            codes: (N, h, w) int.
            position: (N,) int ids from 1.
            weight: of the counts of the cell, in [0, 1] (default: the one that was chosen).
            counted: whose slices they are, (N,), where they are among what was counted. Each of these people is
                then left out of the counts: they would know their own slices.
        """
        weight = self.weight if weight is None else weight
        bins, digits = self.bins(position), self.digits(codes)
        digit, h, w = np.indices(digits.shape[1:])
        seen, totals = self.counts[bins[:, None, None, None], digit, h, w, digits].astype(int), self.totals[bins]
        if counted is not None:
            for rows in pd.DataFrame({"subject": counted}).groupby(["subject", bins]).indices.values():
                seen[rows] -= (digits[rows][:, None] == digits[rows]).sum(axis=1)
                totals[rows] -= len(rows)
        share = seen / np.maximum(totals, 1)[:, None, None, None]
        return -np.log2(weight * share + (1 - weight) * self.unigram[digit, digits]).sum(axis=1)

    def unigram_bits(self, codes):
        """−log2 p of every code by the frequencies of its digits alone: (N, h, w)."""
        digits = self.digits(codes)
        return -np.log2(self.unigram)[np.arange(self.depth)[:, None, None], digits].sum(axis=1)

    def draw(self, position, random):
        """Codes (N, h, w) int32 for positions (N,) as ids from 1, every cell drawn on its own."""
        grids = []
        for place in self.bins(position):
            unigram = self.unigram[:, None, None]
            p = self.weight * self.counts[place] / self.totals[place] + (1 - self.weight) * unigram  # (depth, h, w, K)
            cumulative = p.cumsum(axis=-1)
            uniforms = random.random((*p.shape[:-1], 1)) * cumulative[..., -1:]
            grids.append(from_digits((cumulative <= uniforms).sum(axis=-1), self.num_codes))
        return np.array(grids, np.int32)


@dataclass
class CodeBits:
    """What the codes of a split cost, in bits.

    Attributes:
        prior, positional, unigram: (N, h, w) float, -log2 p of every code under each of the models.
        brain: (N, h, w) bool, the cells that touch the brain.
        subject: (N,) of str.
        kept: (M,) bool, which of the split's slices these are.
    """

    prior: np.ndarray
    positional: np.ndarray
    unigram: np.ndarray
    brain: np.ndarray
    subject: np.ndarray
    kept: np.ndarray


def measure_codes(run, cache, parts, split, baseline):
    """What codes cost, by split and model.

    Args:
        run: sampling.run.Run.
        cache: metrics.parts.Cache of the run.
        parts: dict of split → Part.
        split: the held-out one, which is judged.
        baseline: PositionalBaseline.

    Returns:
        dict of split → CodeBits; and the sections rate, codebook and prior of metrics.json.
    """
    bits = {
        name: split_bits(run, cache, name, part, baseline, None if name == split else BITS_SLICES)
        for name, part in parts.items()
    }
    num_codes, depth, num_cells = run.config["num_codes"], run.depth, run.code_grid[0] * run.code_grid[1]
    uniform = depth * float(np.log2(num_codes))
    prior = prior_section(bits, split, uniform)
    per_code = value_of(prior[f"bits_per_code_{split}"])
    prior["bits_per_pixel"] = per_code * num_cells / (run.frame[0] * run.frame[1])
    prior["overfitting"] = per_code - value_of(prior["bits_per_code_train"])
    prior["positional_weight"] = float(baseline.weight)
    rate = {
        "bits_per_image": num_cells * uniform,
        "bits_per_image_unigram": prior["unigram_bits_per_code"] * num_cells,
        "bits_per_image_prior": per_code * num_cells,
    }
    codes = parts[split].codes
    in_brain = codes[brain_cells(parts[split].crops, run.code_grid)]
    codebook = codebook_metrics(codes, num_codes, depth)
    perplexity = codebook_metrics(in_brain, num_codes, depth)["perplexity"] if len(in_brain) else None
    put(codebook, "perplexity_brain", perplexity, "cells")
    return bits, rate, codebook, prior


def split_bits(run, cache, name, part, baseline, limit=None):
    """The CodeBits of a split, on as many people as nulls are drawn from and at most ``limit`` slices of each."""
    everyone = part.slices["subject"].to_numpy()
    kept = for_nulls(everyone) & thinned(everyone, limit)
    subject, codes = everyone[kept], part.codes[kept]
    columns = {key: column[kept] for key, column in part.columns.items()}
    likelihood = cache.kept(
        f"bits-{name}", f"{part.fingerprint} {len(codes)}", lambda: prior_bits(run.prior, codes, columns)
    )
    positional = baseline.bits(codes, columns["position"], counted=subject if name == "train" else None)
    return CodeBits(
        prior=likelihood,
        positional=positional,
        unigram=baseline.unigram_bits(codes),
        brain=brain_cells(part.crops, run.code_grid, np.flatnonzero(kept)),
        subject=subject,
        kept=kept,
    )


def prior_section(bits, split, uniform):
    """Bits per code by split and model, over all cells and in the brain; ``uniform`` bits if all were as likely."""
    prior, held_out = {}, bits[split]
    for suffix in ("", "_brain"):
        for name in ("train", "validation", "test"):
            key = f"bits_per_code_{name}{suffix}"
            if name in bits:
                cells = bits[name].brain if suffix else None
                put(prior, key, bits_by_person(bits[name].prior, bits[name].subject, cells), "cells")
            else:
                prior[key], prior[f"{key}_why"] = None, f"this look was at {split} people only"
        cells = held_out.brain if suffix else None
        for model in ("unigram", "positional"):
            per_code = value_of(bits_by_person(getattr(held_out, model), held_out.subject, cells))
            put(prior, f"{model}_bits_per_code{suffix}", per_code, "cells")
        prior[f"uniform_bits_per_code{suffix}"] = uniform
    return prior


def bits_by_person(values, subjects, cells=None):
    """Mean of the bits (N, h, w) over some of the cells (N, h, w) bool, by person; None where there are none."""
    cells = np.ones(values.shape, bool) if cells is None else cells
    if not cells.any():
        return None
    sums, counts = (values * cells).sum(axis=(1, 2)), cells.sum(axis=(1, 2))
    rows = [{"bits": total / count if count else np.nan} for total, count in zip(sums, counts, strict=True)]
    return mean_by_person(rows, subjects)["bits"]


def brain_cells(crops, grid, rows=None):
    """(R, h, w) bool: the cells of the code grid (h, w) that touch the brain of slices.

    Args:
        crops: (N, H, W) uint8, in memory or in a file.
        rows: (R,) int, which of them (default: all).
    """
    (h, w), (height, width) = grid, crops.shape[1:]

    def cells(row):
        return brain_mask(crops[row]).reshape(h, height // h, w, width // w).any(axis=(1, 3))

    return np.stack(parallel(cells, range(len(crops)) if rows is None else rows))


@dataclass
class UsualBits:
    """Bits of every code of slices that say what is usual, (M, h, w), with their positions and people.

    Positions (M,) are ids from 1, as the prior's conditions are.
    """

    bits: np.ndarray
    position: np.ndarray
    person: np.ndarray

    def compared(self, position, person):
        """(M,) bool: the slices of other people within NEAR positions; those at all positions where it is 0."""
        near = (position == 0) | (np.abs(self.position - position) <= NEAR)
        others = self.person != person
        return others & near if (others & near).any() else others

    def z_scores(self, bits, position, person):
        """How unusual the bits (h, w) of a slice are, each by those that other people have in its place.

        Two-sided: over 0 less likely than usual, under 0 more likely than usual. Medians and median absolute
        deviations take the place of means and deviations, and no deviation is less than LEAST_DEVIATION.
        """
        usual = self.bits[self.compared(position, person)]
        deviation = median_abs_deviation(usual, axis=0, scale="normal")
        return (bits - np.median(usual, axis=0)) / np.maximum(deviation, LEAST_DEVIATION)


def over_pixels(cells, shape, blurred=False):
    """Numbers of codes (N, h, w) as pictures (N, *shape): each over its patch, or blurred by half a patch."""
    patch = np.array(shape) // cells.shape[1:]
    pictures = np.kron(cells, np.ones((1, *patch)))
    return ndimage.gaussian_filter(pictures, (0, *patch / 2)) if blurred else pictures
