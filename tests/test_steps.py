"""Training: losses, the codebook's moving averages, steps, the average of the weights; exact on tiny inputs."""

from functools import partial
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import CODES, ids, prior_batch, randomise, small_prior, small_vqvae, some_images

import modules
from training.codebook import update_codebook
from training.folder import save_model
from training.losses import RECONSTRUCTION_ERRORS, SLICE_VARIANCE, losses_of, pyramid_error, squared_error, total_loss
from training.optimisation import WeightAverage, optimizer
from training.steps import (
    WRONGLY_TOLD,
    apply_gradients,
    drop_condition,
    prior_step,
    unsure_context,
    vqvae_step,
    with_codes,
)


def test_moving_average_of_used_codes_and_no_move_of_unused_ones():
    quantizer = small_vqvae().quantizer
    before = quantizer.codebook.numpy()
    z_e = np.stack([before[:, 2] + 0.1, before[:, 2] - 0.3, before[:, 4]])[None, None].astype(np.float32)
    update_codebook(quantizer, z_e, np.array([[[2, 2, 4]]]), (0, 0), revive=False)
    after, counts = quantizer.codebook.numpy(), quantizer.counts.numpy()
    unused = [0, 1, 3, 5, 6]
    np.testing.assert_allclose(after[:, unused], before[:, unused], rtol=1e-6)
    np.testing.assert_allclose(counts[[2, 4, 0]], [0.99 + 0.02, 0.99 + 0.01, 0.99], rtol=1e-6)
    sums = 0.99 * before[:, 2] + 0.01 * (z_e[0, 0, 0] + z_e[0, 0, 1])
    np.testing.assert_allclose(after[:, 2], sums / 1.01, rtol=1e-5)


def test_a_code_never_used_stays_finite_and_where_it_was():
    quantizer = small_vqvae().quantizer
    before = quantizer.codebook.numpy()
    quantizer.counts.assign(tf.fill((CODES,), 1e-30))
    update_codebook(quantizer, before[:, 3].reshape(1, 1, 1, 3), np.array([[[3]]]), (0, 0), revive=False)
    assert np.array_equal(quantizer.codebook.numpy()[:, [0, 1]], before[:, [0, 1]])


def test_revival_resets_embedding_count_and_sum_together():
    quantizer = small_vqvae().quantizer
    quantizer.counts.assign([0.001, 5, 5, 5, 5, 5, 5])
    z_e = np.random.default_rng(1).normal(size=(1, 2, 4, 3)).astype(np.float32)
    codes = quantizer.nearest(z_e)
    update_codebook(quantizer, z_e, codes, (0, 0), revive=True)
    revived, count, total = (x.numpy()[..., 0] for x in (quantizer.codebook, quantizer.counts, quantizer.sums))
    assert any(np.array_equal(revived, vector) for vector in z_e.reshape(-1, 3))
    np.testing.assert_allclose(total, revived * count, rtol=1e-6)
    assert count > 1


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
def test_a_batch_with_a_vector_that_is_not_finite_leaves_the_codebook_alone(wrong):
    quantizer = small_vqvae().quantizer
    quantizer.counts.assign([0.001, 5, 5, 5, 5, 5, 5])  # one that would be revived
    before = [weight.numpy() for weight in quantizer.weights]
    z_e = np.random.default_rng(1).normal(size=(1, 2, 4, 3)).astype(np.float32)
    z_e[0, 1, 2, 0] = wrong
    update_codebook(quantizer, z_e, quantizer.nearest(z_e), (0, 0), revive=True)
    assert all(np.array_equal(a, b) for a, b in zip(before, quantizer.weights, strict=True))
    z_e[0, 1, 2, 0] = 0.0
    update_codebook(quantizer, z_e, quantizer.nearest(z_e), (0, 0), revive=True)
    assert not any(np.array_equal(a, b) for a, b in zip(before, quantizer.weights, strict=True))


def test_codebook_moves_in_training_and_only_then():
    vqvae = small_vqvae()
    vqvae.compile(optimizer=optimizer(1e-3, 10))
    before = [weight.numpy() for weight in vqvae.weights]
    vqvae.decode(vqvae.encode(some_images()))
    vqvae(some_images())
    assert all(np.array_equal(a, b) for a, b in zip(before, vqvae.weights, strict=True))
    counts = vqvae.quantizer.counts.numpy()
    vqvae_step(vqvae, {"image": some_images()})
    assert not np.array_equal(counts, vqvae.quantizer.counts)


def gradients(vqvae, term):
    with tf.GradientTape() as tape:
        terms, _ = losses_of(vqvae, some_images())
    return dict(
        zip(
            (w.path for w in vqvae.trainable_variables),
            tape.gradient(terms[term], vqvae.trainable_variables),
            strict=True,
        )
    )


def test_commitment_moves_the_encoder_only_and_the_codebook_term_the_codebook_only():
    vqvae = randomise(small_vqvae(ema=False))
    moved = {
        term: {
            path.split("/")[1]
            for path, gradient in gradients(vqvae, term).items()
            if gradient is not None and np.abs(gradient).max() > 0
        }
        for term in ("reconstruction", "commitment", "codebook")
    }
    assert moved["commitment"] == {"encoder"}
    assert moved["codebook"] == {"quantizer"}
    assert moved["reconstruction"] == {"encoder", "decoder"}  # straight through, past the codebook


def test_total_weights_the_commitment_by_its_cost():
    vqvae = small_vqvae(commitment_cost=0.7)
    assert total_loss(vqvae, {"reconstruction": 1.0, "commitment": 10.0}) == pytest.approx(8.0)


def test_pyramid_error_of_a_constant_difference_is_that_of_the_plain_term():
    images = some_images()
    assert float(pyramid_error(images, images)) == 0
    assert float(pyramid_error(images, images - 0.25)) == pytest.approx(0.25, abs=1e-6)


def test_pyramid_error_minds_lost_detail_more_than_detail_in_the_wrong_place():
    detail = 0.25 * np.sign(np.random.default_rng(0).normal(size=(4, 64, 64, 1))).astype(np.float32)
    moved, lost = 0.5 + detail[:, ::-1], np.full_like(detail, 0.5)
    assert np.abs(detail - detail[:, ::-1]).mean() == pytest.approx(np.abs(detail).mean(), rel=0.05)  # as far to both
    plain = [float(np.abs(0.5 + detail - other).mean()) for other in (moved, lost)]
    whole = [float(pyramid_error(0.5 + detail, other)) for other in (moved, lost)]
    assert whole[0] - plain[0] < whole[1] - plain[1]


def test_strength_asks_for_folds_but_not_for_the_grain_of_even_tissue():
    signs = np.sign(np.random.default_rng(0).normal(size=(4, 64, 64, 1))).astype(np.float32)
    even = np.full_like(signs, 0.5)

    def slope(contrast):
        """What the weight of the finest strength adds for each unit of contrast that is lost."""
        errors = [float(pyramid_error(even + contrast * signs, even, weight)) for weight in (0.0, 1.0)]
        return (errors[1] - errors[0]) / contrast

    assert 0 < slope(0.01) < slope(0.1) / 4 < slope(0.3) / 4


def test_squared_error_is_that_of_the_paper():
    images = some_images()
    assert float(squared_error(images, images - 0.2)) == pytest.approx(0.04 / SLICE_VARIANCE, rel=1e-5)


@pytest.mark.parametrize("loss", RECONSTRUCTION_ERRORS)
def test_a_vqvae_trains_by_the_loss_it_was_given_and_keeps_it_when_saved(loss, tmp_path):
    images, vqvae = some_images(), small_vqvae(loss=loss, detail_weight=3.0)
    options = {"detail_weight": 3.0} if loss == "pyramid" else {}
    terms = losses_of(vqvae, images)[0]
    unclipped = vqvae.decoder(vqvae.quantizer.embed(vqvae.encode(images)))
    expected = RECONSTRUCTION_ERRORS[loss](images, unclipped, **options)
    assert float(terms["reconstruction"]) == pytest.approx(float(expected), rel=1e-5)
    save_model(vqvae, tmp_path / "vqvae.keras")
    assert keras.saving.load_model(tmp_path / "vqvae.keras").settings == vqvae.settings
    assert vqvae.settings["loss"] == loss and vqvae.settings["detail_weight"] == 3.0


def test_label_that_tells_the_codes_is_learnt():
    prior = modules.GatedPixelCNN((2, 2), CODES, 2, 1, num_layers=2, width=16)
    prior.compile(optimizer=optimizer(1e-2, 150, warmup_steps=5))
    label = np.array([1, 2] * 4, np.int32)
    batch = {
        "codes": np.broadcast_to((label + 2)[:, None, None], (8, 2, 2)),
        "label": label,
        "position": ids(8),
        "augmentation": np.zeros((8, 6), np.float32),
    }
    step = tf.function(partial(prior_step, prior))
    for _ in range(150):
        step(batch)
    right = prior.bits_per_code(batch["codes"], label, ids(8)).numpy()
    wrong = prior.bits_per_code(batch["codes"], 3 - label, ids(8)).numpy()
    assert right.max() < 0.5 < 1 < wrong.min()


def test_conditions_are_dropped_at_their_rate():
    prior = small_prior(condition_dropout=0.25)
    kept = drop_condition(prior, ids(4000), (0, 1)).numpy()
    assert set(kept) == {0, 1} and abs((kept == 0).mean() - 0.25) < 0.03
    assert np.array_equal(kept, drop_condition(prior, ids(4000), (0, 1)))


def test_other_slices_that_tell_the_codes_are_learnt():
    keras.utils.set_random_seed(0)
    prior = modules.GatedPixelCNN((4, 4), CODES, 2, 1, num_layers=2, width=16, num_contexts=2, patch=2)
    prior.compile(optimizer=optimizer(1e-2, 300, warmup_steps=5))
    random, step = np.random.default_rng(0), tf.function(partial(prior_step, prior))

    def batch_of_new_codes():
        below = random.integers(0, CODES, (16, 1, 4, 4)).astype(np.int32)
        batch = {
            "codes": below[:, 0],  # as in the slice below; there is no lowest one
            "label": ids(16),
            "position": ids(16),
            "augmentation": np.zeros((16, 6), np.float32),
            "other_codes": np.concatenate([below, np.full_like(below, -1)], axis=1),
            "gaps": np.tile(np.int32([1, 0]), (16, 1)),
        }
        return {name: tf.constant(value) for name, value in batch.items()}

    losses = [float(step(batch_of_new_codes())["loss"]) for _ in range(300)]
    assert np.isfinite(losses).all() and np.mean(losses[-20:]) < 0.7 * losses[0]
    batch = batch_of_new_codes()
    conditions = batch["codes"], batch["label"], batch["position"]
    told, alone = (
        prior.bits_per_code(*conditions, context).numpy().mean()
        for context in ((batch["other_codes"], batch["gaps"]), None)
    )
    assert told < 1.5 < 2.5 < alone


def test_other_slices_are_hidden_at_their_rate_and_some_of_their_codes_are_wrong():
    prior = small_prior(num_contexts=2)
    codes, gaps = np.full((4000, 2, 5, 4), 3, np.int32), np.tile(np.int32([1, 4]), (4000, 1))
    codes[:1000, 1], gaps[:1000, 1] = -1, 0
    unsure, told_gaps = (x.numpy() for x in unsure_context(prior, codes, gaps, (0, 1)))
    hidden = (unsure == -1).all(axis=(2, 3))  # (B, N)
    assert np.array_equal(hidden, (unsure == -1).any(axis=(2, 3))) and hidden[:1000, 1].all()
    assert np.array_equal(hidden[1000:, 0], hidden[1000:, 1]) and abs(hidden[:, 0].mean() - 0.3) < 0.03
    assert np.array_equal(told_gaps, np.where(hidden, 0, gaps))
    wrong = (unsure[~hidden] != 3).mean()
    assert abs(wrong - WRONGLY_TOLD * (CODES - 1) / CODES) < 0.005 and unsure.max() < CODES


def test_slices_that_are_not_there_have_no_codes():
    vqvae, images = randomise(small_vqvae()), some_images(6)
    there = np.array([[True, True], [False, True], [False, False]])
    batch = {"image": images[:3], "others": images[[[3, 4], [5, 3], [4, 5]]], "there": there, "label": ids(3)}
    coded, codes = with_codes(vqvae, batch), vqvae.encode(images).numpy()
    assert np.array_equal(coded["codes"], codes[:3]) and np.array_equal(coded["label"], ids(3))
    expected = np.where(there[..., None, None], codes[[[3, 4], [5, 3], [4, 5]]], -1)
    assert np.array_equal(coded["other_codes"], expected)
    alone = with_codes(vqvae, batch | {"others": batch["others"][:, :0], "there": there[:, :0]})
    assert "other_codes" not in alone and np.array_equal(alone["codes"], codes[:3])


@pytest.mark.slow
@pytest.mark.parametrize(("make", "take"), [(small_vqvae, vqvae_step), (small_prior, prior_step)])
def test_training_repeats_bit_for_bit(make, take):
    batch = {"image": some_images()} | prior_batch()
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        model = randomise(make())
        model.compile(optimizer=optimizer(1e-2, 10))
        step = tf.function(partial(take, model))
        for _ in range(3):
            step(batch)
        weights.append([weight.numpy() for weight in model.weights])
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize(("make", "take"), [(small_vqvae, vqvae_step), (small_prior, prior_step)])
def test_a_step_in_float16_scales_its_loss_and_moves_the_weights(make, take):
    model = make(dtype="mixed_float16")
    model.compile(optimizer=optimizer(1e-2, 2, warmup_steps=0))
    before = [weight.numpy() for weight in model.trainable_variables]
    loss = float(take(model, {"image": some_images()} | prior_batch())["loss"])
    assert 0 < loss < 10
    assert any(not np.array_equal(a, b) for a, b in zip(before, model.trainable_variables, strict=True))
    assert all(np.isfinite(weight).all() for weight in model.trainable_variables)


def test_rows_of_an_embedding_that_occur_twice_are_added_before_adam_squares_them():
    table = keras.Variable(np.zeros((3, 1), np.float32), name="table")
    model = SimpleNamespace(optimizer=optimizer(1e-3, 10), trainable_variables=[table])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(table.value, [1, 1, 2]) * [[0.1], [0.2], [0.5]])
    (gradient,) = tape.gradient(loss, [table.value])
    assert isinstance(gradient, tf.IndexedSlices)
    apply_gradients(model, [gradient])
    (second_moment,) = (x.numpy() for x in model.optimizer.variables if "velocity" in x.path)
    np.testing.assert_allclose(second_moment[:, 0], 0.01 * np.array([0, 0.3, 0.5]) ** 2, rtol=1e-5)


def test_weight_average_warms_up_and_swaps():
    prior = small_prior()
    average = WeightAverage(prior, 0.9)
    weight = prior.trainable_variables[0]
    first = weight.numpy()
    weight.assign(first + 1)
    average.update()  # decay 2/11
    average.swap()
    np.testing.assert_allclose(weight.numpy(), first + 9 / 11, rtol=1e-5)
    average.swap()
    assert np.array_equal(weight.numpy(), first + 1)


def test_the_codebook_that_is_evaluated_belongs_to_the_averaged_weights():
    vqvae = small_vqvae()
    average = WeightAverage(vqvae, 0.9)
    live, averaged = [], [weight.numpy() for weight in vqvae.weights]
    for number, update in enumerate((1, -3, 2)):
        for weight in vqvae.weights:
            weight.assign_add(tf.fill(weight.shape, float(update)))
        average.update()
        decay = min(0.9, (2 + number) / (11 + number))
        live = [weight.numpy() for weight in vqvae.weights]
        averaged = [decay * a + (1 - decay) * b for a, b in zip(averaged, live, strict=True)]
    average.swap()
    paths = [weight.path for weight in vqvae.weights]
    assert {path.rpartition("/")[2] for path in paths} >= {"codebook", "counts", "sums", "kernel", "bias"}
    for path, weight, expected in zip(paths, vqvae.weights, averaged, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-6, err_msg=path)
    average.swap()
    assert all(np.array_equal(a, b) for a, b in zip(live, vqvae.weights, strict=True))


def test_learning_rate_rises_then_falls_to_zero():
    rate = optimizer(1e-2, 1000)._learning_rate
    values = [float(rate(step)) for step in (0, 50, 100, 550, 1000)]
    assert values == pytest.approx([0, 5e-3, 1e-2, 5e-3, 0], abs=1e-6)
