"""Whether samples copy training slices, whole or in part, and whether the models know whom they were trained on."""

import numpy as np
import pandas as pd
from scipy import stats

from metrics.copies import CopySearch, nearest_windows
from metrics.nulls import band
from metrics.reasons import put
from utils import evenly, random_generator

NULL_SLICES = 500  # of training people, that are searched for with their own slices left out
DRAWS = 200  # of the people of a null
SAME = 1e-5  # a distance that rounding may leave between one image and itself


def measure_memorisation(sets, seed):
    """The section memorisation of metrics.json, and the ten nearest pairs of (sample, training row, distance).

    Args:
        sets: Sets.
        seed: int, of the people that are drawn for the null bands.
    """
    null_rows = evenly(np.arange(len(sets.pool.person)), NULL_SLICES)
    distance, nearest = search_copies(sets, null_rows)
    threshold = float(np.quantile(distance["planted"], 0.95))
    below = {name: values <= threshold for name, values in distance.items()}
    draws = draw_people(sets.pool.person[null_rows], len(set(sets.reference.person)), seed)
    false_alarm, unseen = float(below["unseen"].mean()), np.median(distance["unseen"])
    result = {
        "searched_samples": len(below["samples"]),
        "searched_training_slices": len(sets.search.images),
        "planted": len(below["planted"]),
        "planted_found": float(below["planted"].mean()),
        "threshold": threshold,
        "audit_false_alarm": false_alarm,
        **share_beyond("copies_fraction", below["samples"].mean(), false_alarm),
        "copies_fraction_null": plain_band([max(below["null"][rows].mean() - false_alarm, 0.0) for rows in draws]),
        "people_copied": len(set(sets.search.person[nearest[below["samples"]]])),
    }
    ratio = float(np.median(distance["samples"]) / unseen) if unseen > SAME else None
    ratios = [np.median(distance["null"][rows]) / unseen for rows in draws] if unseen > SAME else []
    put(result, "nn_ratio", ratio, "nn_ratio")
    put(result, "nn_ratio_null", plain_band(ratios), "nn_ratio")
    local, local_excess = measure_local_copies(sets, null_rows)
    excess = more_than_chance(below["samples"], np.concatenate([below["unseen"], below["null"]])) or local_excess
    result |= local | {"flagged": bool(excess)}
    result["verdict"] = verdict(result, below["samples"].mean())
    order = np.argsort(distance["samples"])[:10]
    return result, [(int(row), int(nearest[row]), float(distance["samples"][row])) for row in order]


def share_beyond(name, share, false_alarm):
    """By how much the share of samples that look like copies exceeds that of unseen people's slices: a dict.

    It is 0 at least, with the reason beside it where it is less.
    """
    if share >= false_alarm:
        return {name: float(share - false_alarm)}
    return {
        name: 0.0,
        f"{name}_why": f"{100 * share:.1f} % of samples look like copies, fewer than the {100 * false_alarm:.1f} % of "
        "unseen people's slices that do: counted as none",
    }


def draw_people(person, count, seed):
    """DRAWS times the rows of ``count`` people, who are drawn with replacement: a list of (n,) int.

    Args:
        person: (N,) of str, of every row.
        seed: int.
    """
    rows = list(pd.DataFrame({"person": person}).groupby("person").indices.values())
    random = random_generator(seed, "null people")
    return [np.concatenate([rows[i] for i in random.integers(0, len(rows), count)]) for _ in range(DRAWS)]


def plain_band(values):
    """The ``band`` of values as {"value": median, "low", "high"}, or None where there are none."""
    found = band(values)
    return found and dict(zip(("value", "low", "high"), found, strict=True))


def search_copies(sets, null_rows):
    """The distance of slices to the nearest of training, by what they are; and the row nearest to each sample.

    Args:
        sets: Sets.
        null_rows: the rows of the pool that are searched for, each without its own person's slices.
    """
    search = CopySearch(sets.search)
    unseen, _ = search.nearest(sets.reference, "unseen people")
    planted, _ = search.nearest(sets.planted, "planted copies")
    samples, nearest = search.nearest(sets.all_samples, "samples")
    null, _ = search.nearest(sets.pool.take(null_rows), "training people, each without their own slices")
    return {"unseen": unseen, "planted": planted, "samples": samples, "null": null}, nearest


def verdict(result, samples_below):
    """What the audit says in a sentence: cannot tell, copies found, or no copies found.

    Args:
        result: the section so far.
        samples_below: the share of samples that are as near to a training slice as planted copies.
    """
    false_alarm, found = result["audit_false_alarm"], f"{100 * result['planted_found']:.0f} %"
    if false_alarm > 0.05:
        return (
            f"cannot tell: {100 * false_alarm:.0f} % of unseen people's slices look like copies to a search "
            f"that finds {found} of planted copies"
        )
    if not result["flagged"]:
        return f"no copies found by a search that finds {found} of planted copies; not a privacy guarantee"
    local = result["copies_local"]
    return (
        f"copies found: {100 * samples_below:.1f} % of samples are as near to a training slice as planted copies "
        f"are, {100 * false_alarm:.1f} % of unseen people's slices"
        + ("" if local is None else f"; in windows of codes {100 * local:.1f} % more than unseen people's")
    )


def more_than_chance(samples, clean):
    """Whether more samples fall below the threshold than those that copy nothing would (binomial, 1 %).

    The rate of those, slices of unseen people and of training people with their own left out, is smoothed
    by adding one to their count.
    """
    rate = (clean.sum() + 1) / (len(clean) + 2)
    return bool(stats.binom.sf(samples.sum() - 1, len(samples), rate) < 0.01)


def measure_local_copies(sets, null_rows):
    """copies_local of the section memorisation, and whether there are more than chance would make."""
    codes = sets.codes
    if codes is None:
        return {"copies_local": None, "copies_local_why": "images without codes have no windows of codes"}, False
    own = [np.flatnonzero(sets.search.person == person) for person in sets.pool.person[null_rows]]
    agreement = {
        "unseen": nearest_windows(codes.reference, codes.search),
        "planted": nearest_windows(codes.planted, codes.search),
        "samples": nearest_windows(codes.samples, codes.search),
        "null": nearest_windows(codes.search[codes.pool_rows[null_rows]], codes.search, own.__getitem__),
    }
    threshold = np.quantile(agreement["planted"], 0.05)
    above = {name: values >= threshold for name, values in agreement.items()}
    false_alarm = float(above["unseen"].mean())
    excess = more_than_chance(above["samples"], np.concatenate([above["unseen"], above["null"]]))
    return {
        **share_beyond("copies_local", above["samples"].mean(), false_alarm),
        "local_false_alarm": false_alarm,
        "local_threshold": float(threshold),
    }, excess and false_alarm <= 0.05
