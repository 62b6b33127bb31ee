"""What a person's codes cost a prior that is told the slices below, that is not, and that is told another person's."""

from functools import partial

import numpy as np

from metrics.people import mean_by_person, value_of
from sampling.run import prior_bits
from slices.neighbours import NO_SLICE, slices_below


def told_bits(run, cache, part, split):
    """Bits per code of the people of a split: a dict.

    ``told``: the prior is told the slices below as the person has them; ``alone``: it is told none; ``shuffled``: it is
    told those of the next person, and would find them as good if it did not listen. Each has an interval over people.
    ``told_over_alone``: the ratio of the first two.

    Args:
        run: sampling.run.Run whose prior is told other slices.
        cache: metrics.parts.Cache of the run.
        part: Part of the split.
        split: str, its name.
    """
    subjects = part.slices["subject"].to_numpy().astype(str)
    rows, gaps = slices_below(part.slices, run.prior.num_contexts)
    contexts = {"told": (rows, gaps), "alone": None, "shuffled": (next_persons(rows, part.slices, subjects), gaps)}
    result = {}
    for name, told in contexts.items():
        context = told and codes_told(part.codes, *told)
        bits = cache.kept(
            f"told-{split}",
            f"{part.fingerprint} {name}",
            partial(prior_bits, run.prior, part.codes, part.columns, context=context),
        )
        per_slice = [{"bits": value} for value in bits.mean(axis=(1, 2))]
        result[name] = mean_by_person(per_slice, subjects)["bits"]
    result["told_over_alone"] = value_of(result["told"]) / value_of(result["alone"])
    return result


def codes_told(codes, rows, gaps):
    """What a prior is told, (N, n, h, w) and (N, n): rows (N, n) of codes (N, h, w), NO_SLICE where there is none."""
    there = rows != NO_SLICE
    return np.where(there[..., None, None], codes[rows], NO_SLICE).astype(np.int32), np.where(there, gaps, 0)


def next_persons(rows, slices, subjects):
    """Rows (N, n) of slices -> those of the next person at the same positions, NO_SLICE where that one has none."""
    people = sorted(set(subjects))
    following = dict(zip(people, people[1:] + people[:1], strict=True))
    positions = slices["position"].to_numpy()
    place = {key: row for row, key in enumerate(zip(subjects, positions, strict=True))}
    return np.array(
        [
            [
                NO_SLICE if row == NO_SLICE else place.get((following[subjects[row]], positions[row]), NO_SLICE)
                for row in one
            ]
            for one in rows
        ]
    )
