"""Codes of several digits, each of a codebook of its own: residual quantisation, and the prior over them."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import CODES, ids, randomise, some_images

import modules
from metrics.codes import PositionalBaseline, codebook_metrics, count_codes, unigram_bits_per_code
from metrics.parts import Part
from training.codebook import initialise_codebooks
from training.folder import save_model
from training.optimisation import optimizer
from training.plan import new_config
from training.steps import prior_step, vqvae_step
from utils import UserError, digits_of, from_digits

DEPTH = 2
VALUES = CODES**DEPTH


def deep_vqvae(**options):
    return modules.VQVAE(
        (16, 24, 1), downsample=4, num_codes=CODES, code_dim=3, width=8, residual_blocks=1, depth=DEPTH, **options
    )


def deep_prior(grid=(6, 4), patch=2, kind=modules.GatedPixelCNN, num_codes=CODES, width=8, **options):
    return randomise(kind(grid, num_codes, 2, 3, num_layers=4, width=width, patch=patch, depth=DEPTH, **options))


def deep_codes(batch, grid=(6, 4), seed=0):
    return np.random.default_rng(seed).integers(0, VALUES, (batch, *grid)).astype(np.int32)


# ---- digits -----------------------------------------------------------------------------------


def test_digits_are_those_of_the_number_and_make_it_again():
    assert [int(digit) for digit in digits_of(np.int32(305), 10, 4)] == [0, 3, 0, 5]
    codes = deep_codes(2)
    assert np.array_equal(from_digits(digits_of(codes, CODES, DEPTH), CODES), codes)
    assert np.array_equal(digits_of(tf.constant(codes), CODES, DEPTH), digits_of(codes, CODES, DEPTH))


# ---- VQ-VAE -----------------------------------------------------------------------------------


def test_every_digit_is_the_nearest_code_to_what_the_ones_before_it_leave():
    vqvae = deep_vqvae()
    z_e = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    codes, left = vqvae.nearest(z_e), z_e
    for quantizer, digits in zip(vqvae.quantizers(), digits_of(codes, CODES, DEPTH), strict=True):
        assert np.array_equal(digits, quantizer.nearest(left))
        left = left - quantizer.embed(digits)
    np.testing.assert_allclose(z_e - vqvae.embed(codes), left, atol=1e-6)


def test_reconstructions_are_decoded_from_the_sum_of_what_the_digits_stand_for():
    vqvae, images = randomise(deep_vqvae()), some_images()
    codes = vqvae.encode(images)
    assert codes.shape == (2, 4, 6) and codes.dtype == "int32"
    assert len(np.unique(codes)) > CODES
    first, second = digits_of(codes, CODES, DEPTH)
    summed = vqvae.quantizer.embed(first) + vqvae.finer[0].embed(second)
    assert np.array_equal(vqvae.decode(codes), np.clip(vqvae.decoder(summed), 0, 1))


def test_all_codebooks_start_from_what_they_quantize_and_move_in_training():
    vqvae, images = deep_vqvae(seed=3), some_images()
    initialise_codebooks(vqvae, images)
    z_e = vqvae.encoder(images).numpy()
    left = z_e - vqvae.quantizer(z_e)[1].numpy()
    for quantizer, given in zip(vqvae.quantizers(), (z_e, left), strict=True):
        vectors = given.reshape(-1, 3)
        assert all((np.abs(vectors - code).max(axis=1) < 1e-6).any() for code in quantizer.codebook.numpy().T)
    before = [quantizer.codebook.numpy() for quantizer in vqvae.quantizers()]
    vqvae.compile(optimizer=optimizer(1e-3, 10))
    digits = vqvae_step(vqvae, {"image": images})["codes"]
    assert [digit.shape for digit in digits] == DEPTH * [(2, 4, 6)]
    assert all(np.any(q.codebook.numpy() != was) for q, was in zip(vqvae.quantizers(), before, strict=True))


def test_a_vqvae_of_several_codebooks_is_the_same_when_it_is_loaded(tmp_path):
    vqvae, images = randomise(deep_vqvae()), some_images()
    save_model(vqvae, tmp_path / "vqvae.keras")
    loaded = keras.saving.load_model(tmp_path / "vqvae.keras")
    assert loaded.settings["depth"] == DEPTH
    assert np.array_equal(loaded.encode(images), vqvae.encode(images))


# ---- prior ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "patch"), [((2, 2), 2), ((1, 4), 1)])
def test_probabilities_of_all_grids_sum_to_one(grid, patch):
    prior = deep_prior(grid, patch, num_codes=2)
    grids = np.array(list(itertools.product(range(4), repeat=4)), np.int32).reshape(-1, *grid)
    one = ids(len(grids))
    total = tf.exp(tf.reduce_sum(prior.log_likelihood(grids, one, one), axis=(1, 2)))
    assert float(tf.reduce_sum(total)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("digit", range(DEPTH))
def test_a_digit_is_told_all_that_come_before_it_and_none_that_comes_after(digit):
    prior, codes = deep_prior(width=32), deep_codes(1)
    order = modules.space_to_depth(np.arange(24).reshape(1, 6, 4, 1), 2).numpy().ravel()  # of codes, by cell
    changed = np.repeat(codes.reshape(1, -1), 24, axis=0)
    digits = list(digits_of(changed, CODES, DEPTH))
    digits[digit][range(24), order] = (digits[digit][range(24), order] + 1) % CODES
    rows = np.concatenate([codes, from_digits(digits, CODES).reshape(24, 6, 4)])
    logits = prior(rows, ids(25), ids(25)).numpy().reshape(25, 24, DEPTH, CODES)
    moved = (logits[1:] != logits[:1]).any(axis=-1)[:, order]  # (changed, looked at, digit)
    for seen in range(DEPTH):
        diagonal = 0 if seen > digit else -1
        assert np.array_equal(moved[..., seen].T, np.tri(24, k=diagonal, dtype=bool))


@pytest.mark.parametrize("contexts", [0, 2])
def test_cached_logits_are_those_of_a_full_pass(contexts):
    prior, codes = deep_prior((14, 10), num_contexts=contexts), deep_codes(3, (14, 10))
    told = deep_codes(3 * contexts, (14, 10), 1).reshape(3, contexts, 14, 10), np.ones((3, contexts), np.int32)
    told = told if contexts else None
    full = prior(codes, ids(3), ids(3), context=told)
    np.testing.assert_allclose(prior.cached_logits(codes, ids(3), ids(3), told), full, atol=1e-4)


@pytest.mark.parametrize("kind", [modules.GatedPixelCNN, modules.TwoLevelPrior])
def test_log_likelihood_of_a_sample_is_that_of_a_full_pass(kind):
    prior = deep_prior(kind=kind)
    uniforms = np.random.default_rng(0).random((3, *prior.uniforms_shape), np.float32)
    codes, log_likelihood = prior.sample(uniforms, ids(3), ids(3))
    assert codes.shape == (3, 6, 4) and CODES <= codes.numpy().max() < VALUES
    full = tf.reduce_sum(prior.log_likelihood(codes, ids(3), ids(3)), axis=(1, 2))
    np.testing.assert_allclose(log_likelihood, full, rtol=1e-4)


def test_known_codes_are_kept_with_all_their_digits():
    prior, known = deep_prior(), deep_codes(4)
    mask = np.random.default_rng(3).random(known.shape) < 0.5
    uniforms = np.random.default_rng(0).random((4, *prior.uniforms_shape), np.float32)
    codes = prior.sample(uniforms, ids(4), ids(4), known=known, mask=mask)[0].numpy()
    free = prior.sample(uniforms, ids(4), ids(4))[0].numpy()
    assert np.array_equal(codes[mask], known[mask])
    assert not np.array_equal(codes[~mask], free[~mask])


def test_a_top_code_is_of_first_digits_alone():
    prior = deep_prior(kind=modules.TwoLevelPrior)
    random = np.random.default_rng(0)
    prior.greys.assign(random.random(CODES))
    prior.patterns.assign(random.random(prior.patterns.shape))
    codes = deep_codes(3)
    other = (codes // CODES) * CODES + (codes + 3) % CODES
    assert np.array_equal(prior.top_of(codes), prior.top_of(other))
    assert len(np.unique(prior.top_of(codes))) > 1


def test_a_prior_over_deep_codes_trains():
    prior = deep_prior(num_contexts=1)
    prior.compile(optimizer=optimizer(1e-2, 10))
    batch = {
        "codes": deep_codes(3),
        "label": ids(3),
        "position": ids(3, 2),
        "augmentation": np.zeros((3, 6), np.float32),
        "other_codes": deep_codes(3, seed=1)[:, None],
        "gaps": ids(3)[:, None],
    }
    losses = [float(prior_step(prior, batch)["loss"]) for _ in range(8)]
    assert losses[-1] < losses[0]


# ---- metrics and options ----------------------------------------------------------------------


def part_of(codes):
    position = {"position": np.ones(len(codes), int)}
    return Part(None, position, codes, None, None, None, "")


def test_bits_of_baselines_are_the_sum_of_those_of_the_digits():
    codes, others = deep_codes(20), deep_codes(5, seed=1)
    alone = [digits_of(x, CODES, DEPTH) for x in (codes, others)]
    together = PositionalBaseline(part_of(codes), None, CODES, DEPTH)
    one_by_one = [PositionalBaseline(part_of(digits), None, CODES) for digits in alone[0]]
    position = np.ones(5, int)
    expected = sum(b.bits(x, position, weight=0.5) for b, x in zip(one_by_one, alone[1], strict=True))
    np.testing.assert_allclose(together.bits(others, position, weight=0.5), expected)
    unigram = sum(unigram_bits_per_code(*pair, CODES) for pair in zip(*alone, strict=True))
    assert unigram_bits_per_code(codes, others, CODES, DEPTH) == pytest.approx(unigram)
    assert together.unigram_bits(others).mean() == pytest.approx(unigram)
    drawn = together.draw(np.ones(40, int), np.random.default_rng(0))
    assert drawn.shape == (40, 6, 4) and CODES <= drawn.max() < VALUES


def test_the_use_of_codebooks_is_the_mean_over_them():
    codes = from_digits((np.arange(CODES), np.zeros(CODES, int)), CODES)
    assert np.array_equal(count_codes(codes, CODES, DEPTH), [np.ones(CODES), [CODES] + [0] * (CODES - 1)])
    metrics = codebook_metrics(codes, CODES, DEPTH)
    assert metrics["perplexity"] == pytest.approx((CODES + 1) / 2)
    assert metrics["used_fraction"] == pytest.approx((1 + 1 / CODES) / 2)


def test_more_codes_than_a_whole_number_holds_are_refused():
    with pytest.raises(UserError, match="give a smaller --code-depth or --num-codes"):
        new_config("default", {"num_codes": 2000, "code_depth": 3})
