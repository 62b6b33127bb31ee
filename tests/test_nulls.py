"""Null bands, and the generators that samples are set against."""

import numpy as np
import pytest
from test_sets import brains, measure_brains

from metrics.copies import CopySearch
from metrics.measured import ImageSet, as_samples
from metrics.nulls import band, enough_people, gaussian_images, halve, independent_rows, people_by_label, random_split
from metrics.samples import no_more_than_the_pool


@pytest.fixture(scope="module")
def measured():
    return measure_brains()


def people(count, slices=5, prefix="p"):
    """An ImageSet without images: people of two labels in turn, a slice at each position."""
    number = np.arange(count).repeat(slices)
    names = np.char.add(prefix, number.astype(str))
    return ImageSet(np.zeros(len(number)), 1 + number % 2, np.tile(np.arange(slices), count), names)


def test_half_of_the_people_of_each_label_fit_the_yardstick():
    everyone = people(21)
    halves = halve(everyone.person, everyone.label, seed=0)
    halves = [np.unique(everyone.person[half]) for half in halves]
    assert not set(halves[0]) & set(halves[1]) and set(halves[0]) | set(halves[1]) == set(everyone.person)
    for half in halves:
        labels = 1 + np.char.lstrip(half, "p").astype(int) % 2
        assert sorted(np.bincount(labels)[1:]) in ([5, 5], [5, 6])


def test_who_has_slices_of_two_labels_is_one_person_on_one_side():
    """As people whose label changed between two scans are, where a table groups the scans by person."""
    everyone = people(20)
    everyone.label[::5] = 3 - everyone.label[::5]  # the first slice of everybody
    halves = halve(everyone.person, everyone.label, seed=0)
    assert (halves[0] ^ halves[1]).all() and not set(everyone.person[halves[0]]) & set(everyone.person[halves[1]])
    assert sum(people_by_label(everyone).values()) == 20
    split = random_split(everyone, {1: 4, 2: 3}, seed=0, draw=0)
    reference, perfect, others = (set(everyone.person[rows]) for rows in split)
    assert len(reference) == len(others) == 7 and not reference & (perfect | others)


def test_a_label_that_nobody_else_has_is_filled_with_any():
    everyone = people(6)
    everyone.label[:5] = 3
    rows = independent_rows(everyone, np.arange(5), np.arange(5, 30), np.random.default_rng(0))
    assert np.array_equal(everyone.position[rows], everyone.position[:5])


def test_a_random_split_has_whole_people_for_a_reference_and_slices_of_the_rest_for_a_perfect_prior():
    everyone = people(20)
    split = random_split(everyone, {1: 4, 2: 3}, seed=0, draw=5)
    reference, perfect, others = (everyone.take(rows) for rows in split)
    assert people_by_label(reference) == people_by_label(others) == {1: 4, 2: 3} and len(reference.person) == 35
    assert not set(reference.person) & (set(perfect.person) | set(others.person))
    assert np.array_equal(perfect.label, reference.label) and np.array_equal(perfect.position, reference.position)
    assert len(set(split.perfect_prior)) == 35  # no slice twice
    assert len(set(perfect.person)) > 7  # not whole people
    assert np.array_equal(random_split(everyone, {1: 4, 2: 3}, 0, 5).perfect_prior, split.perfect_prior)
    assert not np.array_equal(random_split(everyone, {1: 4, 2: 3}, 0, 6).reference, split.reference)


def test_a_position_that_nobody_else_has_is_filled_with_the_nearest_one():
    everyone = people(6)
    everyone.position[:5] += 10
    rows = independent_rows(everyone, np.arange(5), np.arange(5, 30), np.random.default_rng(0))
    assert (everyone.position[rows] == 4).all() and (everyone.label[rows] == 1).all()


def test_too_few_people_have_no_null_and_it_is_said_why():
    assert enough_people(people(8), people(10), people(8)) is None
    assert "too few people to cross-fit: 3 to fit" in enough_people(people(3), people(8), people(8))
    assert "1 of a label in half of the training people, 2" in enough_people(people(8), people(3), people(4))


def test_a_reference_is_no_larger_than_the_pool_that_its_null_is_drawn_from():
    reference = people(12)
    kept = reference.take(no_more_than_the_pool(reference, people(6, prefix="q")))
    assert people_by_label(kept) == {1: 3, 2: 3} and len(kept.person) == 30
    assert no_more_than_the_pool(reference, people(12)).all()


def test_null_of_the_nearest_distance_leaves_out_the_same_person(measured):
    search = CopySearch(measured.training)
    unseen, _ = search.nearest(brains(6, seed=2, prefix="r"), "unseen")
    left_out, rows = search.nearest(measured.training, "left out")
    assert (measured.training.person[rows] != measured.training.person).all()
    assert np.median(left_out) / np.median(unseen) == pytest.approx(1, abs=0.25)
    torn, _ = search.nearest(as_samples(measured.training, measured.training.images), "not left out")
    assert torn.max() < 0.01


def test_band():
    assert band([*range(101), None]) == pytest.approx([50, 2.5, 97.5])
    assert band([None]) is None


def test_gaussian_images_have_the_mean_of_their_position(measured):
    drawn = gaussian_images(measured.training, np.repeat([0, 3], 400), 0) / 255
    for half, position in ((drawn[:400], 0), (drawn[400:], 3)):
        mean = measured.training.images[measured.training.position == position].mean(axis=0) / 255
        inside = (mean > 0.3) & (mean < 0.7)  # where clipping at black and white does not move the mean
        assert np.abs(half.mean(axis=0) - mean)[inside].max() < 0.05
