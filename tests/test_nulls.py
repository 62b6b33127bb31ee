"""Null bands, and the generators that samples are set against."""

import numpy as np
import pytest
from test_sets import measure_brains

from metrics.copies import CopySearch
from metrics.distances import two_sample_auc
from metrics.nulls import band, draw_null, gaussian_images
from metrics.sets import as_samples


@pytest.fixture(scope="module")
def measured():
    return measure_brains()


def test_null_draws_have_the_labels_and_positions_of_the_reference_and_whole_people(measured):
    drawn, rows = draw_null(measured.pool, measured.reference, seed=0, draw=3)
    assert np.array_equal(drawn.label, measured.reference.label)
    assert np.array_equal(measured.pool.label[rows], measured.reference.label)
    assert np.array_equal(measured.pool.position[rows], measured.reference.position)
    pairs = set(zip(measured.reference.person, drawn.person, strict=True))
    assert len(pairs) == 6 == len({who for _, who in pairs})  # one person for each, none twice
    again, _ = draw_null(measured.pool, measured.reference, seed=0, draw=3)
    assert np.array_equal(again.person, drawn.person)


def test_null_of_the_two_sample_auc_is_near_chance_only_when_people_share_a_fold(measured):
    draws = [draw_null(measured.pool, measured.reference, 0, draw)[0] for draw in range(4)]
    grouped = np.mean([two_sample_auc(measured.reference, drawn) for drawn in draws])
    for drawn in draws:
        drawn.person = np.arange(len(drawn.person)).astype(str)
    reference = measured.reference.take(slice(None))
    reference.person = np.arange(len(reference.person)).astype(str)
    torn = np.mean([two_sample_auc(reference, drawn) for drawn in draws])
    assert torn > grouped + 0.1 and torn > 0.9


def test_null_of_the_nearest_distance_leaves_out_the_same_person(measured):
    search = CopySearch(measured.training)
    unseen, _ = search.nearest(measured.reference, "unseen")
    left_out, rows = search.nearest(measured.training, "left out")
    assert (measured.training.person[rows] != measured.training.person).all()
    assert np.median(left_out) / np.median(unseen) == pytest.approx(1, abs=0.25)
    torn, _ = search.nearest(as_samples(measured.training, measured.training.images), "not left out")
    assert torn.max() < 0.01


def test_band():
    assert band([*range(101), None]) == pytest.approx({"value": 50, "low": 5, "high": 95})
    assert band([None]) is None


def test_gaussian_images_have_the_mean_of_their_position(measured):
    drawn = gaussian_images(measured.training, np.repeat([0, 3], 400), 0) / 255
    for half, position in ((drawn[:400], 0), (drawn[400:], 3)):
        mean = measured.training.images[measured.training.position == position].mean(axis=0) / 255
        inside = (mean > 0.3) & (mean < 0.7)  # where clipping at black and white does not move the mean
        assert np.abs(half.mean(axis=0) - mean)[inside].max() < 0.05
