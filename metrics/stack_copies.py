"""Whether a drawn person is the copy of one training person, from the lowest slice to the highest."""

import numpy as np

from metrics.measured import ImageSet
from metrics.memorisation import plain_band
from utils import evenly, random_generator

NULL_PEOPLE = 25  # training people that are searched for with their own slices left out
DRAWS = 200  # of people of a null


def measure_stack_copies(search, people, unseen, training, threshold, seed):
    """The part copies of the section stacks: a dict.

    Args:
        search: metrics.copies.CopySearch in training slices.
        people, unseen, training: Stacks of drawn people, of unseen people and of training people; each is searched for
            without the slices of its own name.
        threshold: distance up to which a slice counts as a copy, or None.
        seed: int from 0, of the draws.
    """
    others = training.take(np.array(evenly(np.arange(len(training.person)), NULL_PEOPLE)))
    sets = {"sampled people": people, "unseen people": unseen, "training people, without their own slices": others}
    found = [nearest_people(search, stacks, what) for what, stacks in sets.items()]
    shares = [np.array([share_of_one(row) for row in names]) for _, names in found]
    clean, random = np.concatenate(shares[1:]), random_generator(seed, "stack copies")
    null = plain_band([clean[random.integers(0, len(clean), len(shares[0]))].mean() for _ in range(DRAWS)])
    result = {
        "people": len(people.person),
        "one_person_share": float(shares[0].mean()),
        "one_person_share_null": null,
        "of_one_person_throughout": int((shares[0] == 1).sum()),
        "of_one_person_throughout_unseen": int((shares[1] == 1).sum()),
        "flagged": bool(shares[0].mean() > null["high"]),
    }
    if threshold is not None:
        below = [distance <= threshold for distance, _ in found]
        result["copied_slices"] = float(below[0].mean())
        result["copied_slices_unseen"] = float(below[1].mean())
        result["copied_people"] = int((below[0].mean(axis=1) > 0.5).sum())
        result["flagged"] |= result["copied_people"] > 0
    return result


def nearest_people(search, stacks, what):
    """The distance of every slice of some Stacks to the nearest training slice, and whose that is: (P, S) each."""
    count, slices = stacks.images.shape[:2]
    flat = stacks.images.reshape(-1, *stacks.images.shape[2:])
    none = np.zeros(len(flat), int)
    distance, row = search.nearest(ImageSet(flat, none, none, np.repeat(stacks.person, slices)), what)
    return distance.reshape(count, slices), search.training.person[row].reshape(count, slices)


def share_of_one(names):
    """The share of the commonest of some names, (S,) of str."""
    return np.unique(names, return_counts=True)[1].max() / len(names)
