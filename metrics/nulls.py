"""What a number is set against: people on whom nothing was fitted, split at random; and a Gaussian for a generator."""

from typing import NamedTuple

import numpy as np

from slices.frame import to_bytes
from utils import evenly, random_generator

NULL_DRAWS = 100
FEWEST = 4  # people of the split, and of those that the yardstick is fitted on: fewer have no null
GAUSSIAN_SLICES = 1000  # that a Gaussian is fitted to


def people_of_labels(person, label):
    """dict of label → the names of its people, sorted. Who has slices of several labels is of the first one alone.

    Args:
        person, label: (N,), of every slice.
    """
    people, first = np.unique(person, return_index=True)
    own = label[first]
    return {one: people[own == one] for one in np.unique(own).tolist()}


def halve(person, label, seed):
    """Two halves of some people: (N,) bool for whom the yardstick is fitted on, and for whom nulls are drawn from.

    Each label is halved on its own, at random.

    Args:
        person, label: (N,), of every slice.
        seed: int from 0.
    """
    halves = [], []
    for i, (one, names) in enumerate(people_of_labels(person, label).items()):
        for j, name in enumerate(random_generator(seed, "halves", one).permutation(names)):
            halves[(i + j + 1) % 2].append(name)  # of odd numbers, the spare one goes to the second half first
    return [np.isin(person, half) for half in halves]


class Draw(NamedTuple):
    """Rows of people on whom nothing was fitted, (N,) int each: a random split of them.

    Attributes:
        reference: as many whole people as the split has, by label.
        perfect_prior: for each slice of the reference one of the rest, of its label and position, drawn by itself.
        other_people: the slices of as many whole people of the rest.
    """

    reference: np.ndarray
    perfect_prior: np.ndarray
    other_people: np.ndarray


def random_split(people, count, seed, draw):
    """One Draw.

    Args:
        people: ImageSet of all people on whom nothing was fitted.
        count: dict of label → how many people of it the reference has.
        seed, draw: ints from 0.
    """
    random = random_generator(seed, "null split", draw)
    reference, others, rest = [], [], []
    there = people_of_labels(people.person, people.label)
    for label, wanted in count.items():
        names = random.permutation(there[label])
        reference += list(names[:wanted])
        others += list(names[wanted : 2 * wanted])
        rest += list(names[wanted:])
    rows, spare = (np.flatnonzero(np.isin(people.person, names)) for names in (reference, rest))
    return Draw(rows, independent_rows(people, rows, spare, random), np.flatnonzero(np.isin(people.person, others)))


def independent_rows(people, rows, spare, random):
    """For each of ``rows`` one of the rows ``spare`` of its label and position; none twice while they last.

    Where no spare slice has the position, it is one of the nearest position; where none has the label, of any.
    """
    chosen = np.zeros(len(rows), int)
    cells = np.stack([people.label[rows], people.position[rows]], axis=1)
    for label, position in np.unique(cells, axis=0):
        here = np.flatnonzero((cells == (label, position)).all(axis=1))
        same = spare[people.label[spare] == label]
        same = same if len(same) else spare
        distance = np.abs(people.position[same] - position)
        candidates = random.permutation(same[distance == distance.min()])
        chosen[here] = np.resize(candidates, len(here))
    return chosen


def enough_people(fitted, pool, reference):
    """Why there is no null, a sentence; or None where there are people enough.

    Args:
        fitted, pool, reference: ImageSets of people: those that the yardstick is fitted on, others on whom nothing was
            fitted, and those of the split.
    """
    people = {name: len(set(one.person)) for name, one in (("fit", fitted), ("split", reference))}
    if min(people.values()) < FEWEST:
        return (
            f"too few people to cross-fit: {people['fit']} to fit the yardstick on and {people['split']} in the split, "
            f"and each must be {FEWEST} or more"
        )
    for label, wanted in people_by_label(reference).items():
        found = people_by_label(pool).get(label, 0)
        if found < wanted:
            return (
                f"too few people to cross-fit: {found} of a label in half of the training people, {wanted} in the split"
            )
    return None


def people_by_label(images):
    """dict of label → how many people of an ImageSet have it."""
    return {label: len(names) for label, names in people_of_labels(images.person, images.label).items()}


def band(values):
    """[median, 2.5 %, 97.5 %] of the values of a statistic, or None where it does not exist."""
    values = [value for value in values if value is not None]
    return [float(number) for number in np.percentile(values, [50, 2.5, 97.5])] if values else None


def gaussian_images(training, position, seed):
    """Samples (N, H, W) uint8 of the Gaussian with the mean of each position and the covariance of train.

    A normal combination of the centred training images, GAUSSIAN_SLICES at most, has exactly their covariance.

    Args:
        training: ImageSet.
        position: (N,) int, of the samples.
        seed: int from 0.
    """
    training = training.take(np.array(evenly(np.arange(len(training.person)), GAUSSIAN_SLICES)))
    pixels = training.images.reshape(len(training.images), -1).astype(np.float32)
    pixels /= 255
    overall = pixels.mean(axis=0)
    means = {place: pixels[training.position == place].mean(axis=0) for place in np.unique(training.position)}
    for place, mean in means.items():
        pixels[training.position == place] -= mean
    weights = random_generator(seed, "gaussian samples").standard_normal((len(position), len(pixels)))
    weights = weights.astype(np.float32) / np.sqrt(len(pixels) - len(means) if len(pixels) > len(means) else 1)
    centres = [means.get(place, overall) for place in position]
    blocks = [
        to_bytes(weights[start : start + 256] @ pixels + centres[start : start + 256])
        for start in range(0, len(weights), 256)
    ]
    return np.concatenate(blocks).reshape(-1, *training.images.shape[1:])
