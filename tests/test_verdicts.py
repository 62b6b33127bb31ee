"""From numbers and null bands to verdicts; and whether they are calibrated, in small."""

import numpy as np
import pytest
from test_sets import brains

from experiments.calibration import draw_roles, sets_of
from metrics.measured import measure_slices
from metrics.samples import measure_samples
from metrics.verdicts import CANNOT_TELL, CONSISTENT, TOLD_APART, holm, judge, p_value
from utils import random_generator


def test_p_values_are_ranks_among_the_draws_and_an_exponential_tail_beyond_them():
    null = np.arange(99.0)
    assert p_value(50, null, "high") == pytest.approx(50 / 100)  # 49 draws are as high, and itself
    assert p_value(50, null, "low") == pytest.approx(52 / 100)
    assert p_value(98, null, "high") == pytest.approx(2 / 100)
    assert p_value(49, null) == 1.0
    furthest = null[-9:]
    scale = (furthest - furthest[0]).mean()
    assert p_value(98 + 2 * scale, null, "high") == pytest.approx(np.exp(-2) / 100)
    assert p_value(-2 * scale, null) == pytest.approx(2 * np.exp(-2) / 100)


def test_p_values_of_draws_of_the_null_are_uniform():
    random = np.random.default_rng(0)
    found = np.array([p_value(value, random.exponential(size=100), "high") for value in random.exponential(size=2000)])
    for level in (0.5, 0.1, 0.02):
        assert (found <= level).mean() == pytest.approx(level, abs=4 * np.sqrt(level / 2000))
    assert 0.0005 < (found <= 0.002).mean() < 0.006  # beyond the furthest of a hundred draws


def test_holm():
    told = holm({"a": 0.03, "b": 0.001, "c": 0.02, "d": 0.6})
    assert told == {"a": False, "b": True, "c": False, "d": False}  # 0.02 > 0.05 / 3, and no larger one is asked
    assert holm({"a": 0.024, "b": 0.025}) == {"a": True, "b": True} and holm({}) == {}


def test_verdicts_know_the_bad_side_and_when_they_cannot_tell():
    draws = [{"frechet": float(i), "recall": float(i), "diversity": float(i), "kid": None} for i in range(100)]
    verdicts = judge({"frechet": 200.0, "recall": 200.0, "diversity": 200.0, "kid": 1.0}, draws)
    assert [verdict for _, verdict in verdicts.values()] == [TOLD_APART, CONSISTENT, TOLD_APART, CANNOT_TELL]
    doubtful = judge({"frechet": 97.0, "recall": 50.0, "diversity": 50.0}, draws)
    assert doubtful["frechet"] == (pytest.approx(4 / 101), CANNOT_TELL)  # under 5 %, but one of three
    assert judge({"frechet": 1.0}, []) == {"frechet": (None, CANNOT_TELL)}


@pytest.fixture(scope="module")
def everyone():
    return measure_slices(brains(60, seed=11))


def judged(everyone, repetition, change=None):
    """What is told apart of samples that are slices of fresh people, changed or not."""
    roles = draw_roles(everyone, 24, 8, random_generator(0, "roles", repetition))
    sets = sets_of(everyone, roles, repetition, random_generator(0, "generator", repetition))
    if change:
        change(sets.samples)
    return measure_samples(sets, repetition, [], other_people=False)[0]["against_real"]


def test_a_perfect_generator_is_told_apart_hardly_ever_and_a_blind_one_always(everyone, monkeypatch):
    monkeypatch.setattr("metrics.samples.NULL_DRAWS", 40)
    perfect = [judged(everyone, repetition) for repetition in range(6)]
    assert sum(bool(one["told_apart"]) for one in perfect) <= 1
    assert all(one["tests"] > 20 for one in perfect)

    def strengthen(samples):
        samples.texture = samples.texture + 0.3

    assert {"spectrum_gap", "spectrum.band_8"} <= set(judged(everyone, 0, strengthen)["told_apart"])
