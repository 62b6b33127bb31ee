"""Coherence: slices of drawn people get as much in common, frequency by frequency, as those of people."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sampling.run import Run
from slices.frame import brain_mask, crop
from train import whole_scans
from training.coherence import (
    RINGS,
    Coherence,
    correlations,
    even_outlines,
    fit_coherence,
    load_coherence,
    mean_correlations,
    rings_of,
    transport,
)
from training.sharpening import EQUALISER_GAIN, Sharpening


def make_stacks(kept, seed, people=24, slices=5):
    """Stacks (P, S, H, W) uint8 of grey noise, each slice with this much of the one below."""
    random = np.random.default_rng(seed)
    stack = [random.standard_normal((people, 40, 48))]
    for _ in range(slices - 1):
        stack.append(kept * stack[-1] + np.sqrt(1 - kept**2) * random.standard_normal((people, 40, 48)))
    return np.clip(128 + 25 * np.stack(stack, axis=1), 6, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def drawn():
    return make_stacks(0.4, seed=0)


@pytest.fixture(scope="module")
def real():
    return make_stacks(0.9, seed=1)


@pytest.fixture(scope="module")
def coherence(drawn, real):
    return fit_coherence(drawn, real)


def test_correlations_are_those_the_stacks_were_made_with(drawn, real):
    for stacks, kept in ((drawn, 0.4), (real, 0.9)):
        expected = np.tile(kept ** np.arange(5), (RINGS - 4, 1))
        np.testing.assert_allclose(mean_correlations(stacks)[4:], expected, atol=0.08)
    assert not correlations(np.zeros((3, 40, 48), np.uint8)).any()  # of nothing: no division by nothing


def test_correlations_are_of_the_pixels_of_both_brains():
    stack = make_stacks(0.6, 0, people=1, slices=3)[0]
    for above, width in enumerate((48, 40, 36)):
        stack[above, :, width:] = 0
    masks, spectrum, ring = np.stack([brain_mask(image) for image in stack]), np.fft.rfft2(stack), 9
    band = np.fft.irfft2(np.where(rings_of(stack.shape[1:]) == ring, spectrum, 0), stack.shape[1:])
    for apart, pairs in ((1, [(0, 1), (1, 2)]), (2, [(0, 2)])):
        values = [(band[low][both], band[high][both]) for low, high in pairs for both in [masks[low] & masks[high]]]
        low, high = map(np.concatenate, zip(*values, strict=True))
        expected = low @ high / np.sqrt(low @ low * (high @ high))
        assert correlations(stack)[ring, apart] == pytest.approx(expected, abs=1e-4)


def test_others_who_are_joined_are_as_coherent_as_people(coherence, real):
    others = make_stacks(0.4, seed=2)
    joined = np.stack([coherence.join(stack) for stack in others])
    assert joined.dtype == np.uint8 and joined.shape == others.shape
    np.testing.assert_allclose(mean_correlations(joined)[4:], mean_correlations(real)[4:], atol=0.05)
    contrasts = [stacks.std(axis=(2, 3)) for stacks in (joined, others)]
    np.testing.assert_allclose(contrasts[0] / contrasts[1], 1, atol=0.1)  # the strength of each slice is its own


def test_people_who_are_coherent_stay_and_so_does_black(drawn, coherence):
    same = replace(coherence, drawn=coherence.wanted)
    assert np.abs(same.join(drawn[0]).astype(int) - drawn[0]).max() <= 1
    cut = np.where(np.arange(48) < 24, drawn[0], 3).astype(np.uint8)
    assert (coherence.join(cut)[..., 24:] == 3).all() and not np.array_equal(coherence.join(cut), cut)
    assert not coherence.join(np.zeros_like(cut)).any()


def test_an_outline_that_two_neighbours_do_not_share_is_made_even():
    alone = np.eye(4, dtype=bool)[:, None]  # four slices, each with a pixel that no other has
    assert even_outlines(alone).tolist() == [*alone[:1].tolist(), [[False] * 4], [[False] * 4], *alone[3:].tolist()]
    held = np.array([[[True]], [[False]], [[True]], [[True]]])
    assert even_outlines(held).all() and np.array_equal(even_outlines(held[:2]), held[:2])


def test_a_transport_takes_one_covariance_to_the_other():
    from training.coherence import covariance

    pair = 0.5 ** np.arange(4), np.array([1, 0.9, 0.7, 0.4])
    change = transport(*pair)
    np.testing.assert_allclose(change, change.T, atol=1e-9)
    np.testing.assert_allclose(change @ covariance(pair[0]) @ change, covariance(pair[1]), atol=1e-6)
    assert np.isfinite(transport(np.ones(4), pair[1])).all()  # where all slices are the same


def test_saved_equals_loaded(coherence, tmp_path):
    coherence.save(tmp_path / "coherence.json")
    loaded = load_coherence(tmp_path / "coherence.json")
    np.testing.assert_allclose([loaded.drawn, loaded.wanted], [coherence.drawn, coherence.wanted], atol=1e-5)
    assert load_coherence(tmp_path / "none.json") is None


# ---- of a run -----------------------------------------------------------------------------------


def test_people_of_a_run_are_joined_and_single_slices_are_not(finished_run, slices_folder):
    run, plain = Run(finished_run), Run(finished_run, sharpen=False)
    assert plain.coherence is None and run.coherence.drawn.shape == (RINGS, run.num_positions)
    run.coherence = Coherence(np.tile(0.2 ** np.arange(4), (RINGS, 1)), np.tile(0.9 ** np.arange(4), (RINGS, 1)))
    (codes,) = run.sample_people(1).codes
    shown, alone = run.decode_person(codes), run.decode_drawn(codes)
    stack = crop(alone[..., None], run.box)[..., 0]
    assert np.array_equal(crop(shown[..., None], run.box)[..., 0], run.coherence.join(stack))
    assert not np.array_equal(shown, alone) and np.array_equal(run.sample_people(1).images[0], shown)
    given = run.decode_person(codes, {1: shown[2]})
    assert np.array_equal(given[1], shown[2]) and not np.array_equal(given[2], shown[2])
    assert np.array_equal(plain.decode_person(codes), run.decode(codes))


def test_what_is_drawn_is_sharpened_refined_and_equalised(finished_run):
    run, plain = Run(finished_run), Run(finished_run, sharpen=False)
    images = run.decode_crops(run.sample(2, label="AD", position=1).codes)
    equaliser, run.equaliser = run.equaliser, None
    refined = run.refined(run.sharpening.sharpen(images))
    assert np.array_equal(run.sharpened(images), refined) and (equaliser.gain >= EQUALISER_GAIN).all()
    run.equaliser = Sharpening(np.full(len(equaliser.gain), 0.5))
    assert np.array_equal(run.sharpened(images), run.equaliser.sharpen(refined))
    assert np.array_equal(plain.sharpened(images), images) and not np.array_equal(run.sharpened(images), refined)


def test_scans_with_a_slice_at_every_position_are_whole():
    slices = pd.DataFrame({"scan": [*"bbbaaaccd", "d"], "position": [2, 0, 1, 0, 1, 2, 0, 2, 1, 1]})
    assert whole_scans(slices, 3).tolist() == [[3, 4, 5], [1, 2, 0]]
    assert whole_scans(slices.iloc[6:], 3).shape == (0, 3)
