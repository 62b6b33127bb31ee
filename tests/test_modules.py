"""The two models: exact properties on tiny inputs (DESIGN: traps 1-3, 5-7, 12-15)."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import modules
from utils import save_model

GRID = (5, 4)  # not square, so that swapped axes show
CODES = 7


def randomise(model, scale=0.3, seed=0):
    """Give every weight a random value: nothing is zero, so nothing is hidden."""
    random = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(random.normal(size=weight.shape, scale=scale))
    return model


def small_prior(grid=GRID, layers=4, vertical_width=4, **options):
    return randomise(modules.GatedPixelCNN(grid, CODES, 2, 3, num_layers=layers, width=8,
                                           vertical_width=vertical_width, **options))


def small_vqvae(**options):
    return modules.VQVAE((16, 24, 1), num_codes=CODES, code_dim=3, width=8, residual_blocks=1, **options)


def some_codes(batch, grid=GRID, seed=0):
    return np.random.default_rng(seed).integers(0, CODES, (batch, *grid)).astype(np.int32)


def some_images(batch=2, seed=0):
    return np.random.default_rng(seed).random((batch, 16, 24, 1), np.float32)


def ids(batch, value=1):
    return np.full(batch, value, np.int32)


def prior_batch(batch=3):
    return {"codes": some_codes(batch), "label": ids(batch), "position": ids(batch, 2),
            "augmentation": np.zeros((batch, 6), np.float32)}


# ---- VQ-VAE -----------------------------------------------------------------------------------


def test_depth_to_space_undoes_space_to_depth():
    images = some_images()
    assert np.array_equal(modules.depth_to_space(modules.space_to_depth(images, 4), 4), images)
    assert np.array_equal(modules.space_to_depth(images, 4)[0, 1, 2].numpy().ravel(), images[0, 4:8, 8:12].ravel())


@pytest.mark.parametrize("downsample", [4, 8, 16])
def test_shapes_on_an_image_that_is_not_square(downsample):
    vqvae = modules.VQVAE((32, 48, 1), downsample=downsample, num_codes=CODES, code_dim=3, width=8, residual_blocks=1)
    codes = vqvae.encode(np.zeros((1, 32, 48, 1), np.float32))
    assert codes.shape == (1, 32 // downsample, 48 // downsample)
    assert vqvae.decode(codes).shape == (1, 32, 48, 1)


def test_nearest_code_is_that_of_numpy():
    quantizer = small_vqvae().quantizer
    z_e = np.random.default_rng(0).normal(size=(2, 3, 5, 3)).astype(np.float32)
    distances = ((z_e[..., None] - quantizer.codebook.numpy()) ** 2).sum(axis=-2)  # (2, 3, 5, K)
    codes, embedded = quantizer(z_e)
    assert np.array_equal(codes, distances.argmin(axis=-1))
    assert np.array_equal(embedded, quantizer.codebook.numpy().T[codes])


def test_moving_average_of_used_codes_and_no_move_of_unused_ones():
    quantizer = small_vqvae().quantizer
    before = quantizer.codebook.numpy()
    z_e = np.stack([before[:, 2] + 0.1, before[:, 2] - 0.3, before[:, 4]])[None, None].astype(np.float32)
    quantizer.update(z_e, np.array([[[2, 2, 4]]]), (0, 0), revive=False)
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
    quantizer.update(before[:, 3].reshape(1, 1, 1, 3), np.array([[[3]]]), (0, 0), revive=False)
    assert np.array_equal(quantizer.codebook.numpy()[:, [0, 1]], before[:, [0, 1]])


def test_revival_resets_embedding_count_and_sum_together():
    quantizer = small_vqvae().quantizer
    quantizer.counts.assign([0.001, 5, 5, 5, 5, 5, 5])
    z_e = np.random.default_rng(1).normal(size=(1, 2, 4, 3)).astype(np.float32)
    codes = quantizer.nearest(z_e)
    quantizer.update(z_e, codes, (0, 0), revive=True)
    revived, count, total = (x.numpy()[..., 0] for x in (quantizer.codebook, quantizer.counts, quantizer.sums))
    assert any(np.array_equal(revived, vector) for vector in z_e.reshape(-1, 3))
    np.testing.assert_allclose(total, revived * count, rtol=1e-6)
    assert count > 1


def test_codebook_moves_in_training_and_only_then():
    vqvae = small_vqvae()
    vqvae.compile(optimizer=modules.optimizer(1e-3, 10))
    before = [weight.numpy() for weight in vqvae.weights]
    vqvae.decode(vqvae.encode(some_images()))
    vqvae(some_images())
    assert all(np.array_equal(a, b) for a, b in zip(before, vqvae.weights, strict=True))
    counts = vqvae.quantizer.counts.numpy()
    vqvae.train_step({"image": some_images()})
    assert not np.array_equal(counts, vqvae.quantizer.counts)


def gradients(vqvae, term):
    with tf.GradientTape() as tape:
        terms, _, _ = vqvae.losses_of(some_images())
    return dict(zip((w.path for w in vqvae.trainable_variables),
                    tape.gradient(terms[term], vqvae.trainable_variables), strict=True))


def test_commitment_moves_the_encoder_only_and_the_codebook_term_the_codebook_only():
    vqvae = randomise(small_vqvae(ema=False))
    moved = {term: {path.split("/")[1] for path, gradient in gradients(vqvae, term).items()
                    if gradient is not None and np.abs(gradient).max() > 0}
             for term in ("reconstruction", "commitment", "codebook")}
    assert moved["commitment"] == {"encoder"}
    assert moved["codebook"] == {"quantizer"}
    assert moved["reconstruction"] == {"encoder", "decoder"}  # straight through, past the codebook


def test_total_weights_the_commitment_by_its_cost():
    vqvae = small_vqvae(commitment_cost=0.7)
    assert vqvae.total({"reconstruction": 1.0, "commitment": 10.0}) == pytest.approx(8.0)


def test_pyramid_error_of_a_constant_difference_is_that_of_the_plain_term():
    images = some_images()
    assert float(modules.pyramid_error(images, images)) == 0
    assert float(modules.pyramid_error(images, images - 0.25)) == pytest.approx(0.25, abs=1e-6)


def test_pyramid_error_minds_lost_detail_more_than_detail_in_the_wrong_place():
    detail = 0.25 * np.sign(np.random.default_rng(0).normal(size=(4, 64, 64, 1))).astype(np.float32)
    moved, lost = 0.5 + detail[:, ::-1], np.full_like(detail, 0.5)
    assert np.abs(detail - detail[:, ::-1]).mean() == pytest.approx(np.abs(detail).mean(), rel=0.05)  # as far to both
    plain = [float(np.abs(0.5 + detail - other).mean()) for other in (moved, lost)]
    whole = [float(modules.pyramid_error(0.5 + detail, other)) for other in (moved, lost)]
    assert whole[0] - plain[0] < whole[1] - plain[1]


def test_strength_asks_for_folds_but_not_for_the_grain_of_even_tissue():
    signs = np.sign(np.random.default_rng(0).normal(size=(4, 64, 64, 1))).astype(np.float32)
    even = np.full_like(signs, 0.5)

    def slope(contrast):
        """What the weight of the finest strength adds for each unit of contrast that is lost."""
        errors = [float(modules.pyramid_error(even + contrast * signs, even, weight)) for weight in (0.0, 1.0)]
        return (errors[1] - errors[0]) / contrast

    assert 0 < slope(0.01) < slope(0.1) / 4 < slope(0.3) / 4


def test_squared_error_is_that_of_the_paper():
    images = some_images()
    assert float(modules.squared_error(images, images - 0.2)) == pytest.approx(0.04 / modules.SLICE_VARIANCE, rel=1e-5)


@pytest.mark.parametrize("loss", modules.RECONSTRUCTION_ERRORS)
def test_a_vqvae_trains_by_the_loss_it_was_given_and_keeps_it_when_saved(loss, tmp_path):
    images, vqvae = some_images(), small_vqvae(loss=loss, detail_weight=3.0)
    options = {"detail_weight": 3.0} if loss == "pyramid" else {}
    terms = vqvae.losses_of(images)[0]
    unclipped = vqvae.decoder(vqvae.quantizer.embed(vqvae.encode(images)))
    expected = modules.RECONSTRUCTION_ERRORS[loss](images, unclipped, **options)
    assert float(terms["reconstruction"]) == pytest.approx(float(expected), rel=1e-5)
    save_model(vqvae, tmp_path / "vqvae.keras")
    assert keras.saving.load_model(tmp_path / "vqvae.keras").settings == vqvae.settings
    assert vqvae.settings["loss"] == loss and vqvae.settings["detail_weight"] == 3.0


def test_models_can_be_called_in_bfloat16():
    images = small_vqvae(dtype="mixed_bfloat16")(some_images())
    assert images.shape == (2, 16, 24, 1) and images.dtype == "float32"
    logits = small_prior(dtype="mixed_bfloat16")(some_codes(2), ids(2), ids(2))
    assert logits.shape == (2, *GRID, CODES) and logits.dtype == "float32"


def test_decoder_output_is_clipped():
    vqvae = randomise(small_vqvae(), scale=5)
    images = vqvae.decode(some_codes(1, vqvae.code_grid)).numpy()
    assert images.min() == 0 and images.max() == 1


# ---- prior ------------------------------------------------------------------------------------


def influence(prior):
    """(h w, h w) largest absolute gradient of each logit vector (row) with respect to each code (column)."""
    cells = tf.random.stateless_normal((1, *prior.grid, prior.width), (1, 2))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(cells)
        logits = prior.logits(cells, prior.condition(ids(1), ids(1)))
        # squares, for the gradient of a plain sum can cancel
        places = [tf.reduce_sum(logits[0, r, c] ** 2) for r, c in np.ndindex(*prior.grid)]
    return np.stack([np.abs(tape.gradient(place, cells)[0]).max(axis=-1).ravel() for place in places])


def assert_causal_without_blind_spot(prior):
    reaches = influence(prior)
    later = np.triu(np.ones_like(reaches, bool))  # the code itself and all after it, in raster order
    assert np.all(reaches[later] == 0)
    assert np.all(reaches[~later] != 0)


@pytest.mark.parametrize(("grid", "layers"), [((5, 4), 4), ((3, 6), 5), ((9, 7), 5)])
def test_every_earlier_code_is_seen_and_no_later_one(grid, layers):
    assert_causal_without_blind_spot(small_prior(grid, layers))


def test_causal_after_training_and_after_loading(tmp_path):
    prior = small_prior(dropout=0.1)
    prior.compile(optimizer=modules.optimizer(1e-2, 10))
    prior.train_step(prior_batch())
    assert_causal_without_blind_spot(prior)
    save_model(prior, tmp_path / "prior.keras")
    assert_causal_without_blind_spot(keras.saving.load_model(tmp_path / "prior.keras"))


def reachable(dilations):
    """Row distances up, and column distances to a side, that a path through the layers can make."""
    up, side = {0}, {0}
    for d in dilations:
        up |= {x + d for x in up}
        side = {x + step for x in side for step in (-d, 0, d)}
    return up, side


@pytest.mark.parametrize("grid", [(12, 10), (6, 7), (24, 20), (30, 32), (60, 64), (1, 1)])
@pytest.mark.parametrize("layers", [6, 8, 12, 15])
def test_dilations_leave_no_gap_in_the_receptive_field(grid, layers):
    try:
        dilations = modules.choose_dilations(grid, layers)
    except ValueError:
        assert grid == (60, 64) and layers == 6
        return
    up, side = reachable(dilations)
    assert set(range(grid[0] - 1)) <= up  # one more row comes from the shift of the input
    assert set(range(-grid[1] + 1, grid[1])) <= side


def test_too_few_layers_for_the_grid_are_refused():
    with pytest.raises(ValueError, match="cannot see the whole 30x32 grid"):
        modules.choose_dilations((30, 32), 3)


@pytest.mark.parametrize(("batch", "vertical_width"), [(1, 4), (5, 4), (5, None)])
def test_cached_logits_are_those_of_a_full_pass(batch, vertical_width):
    prior = small_prior((7, 5), 4, vertical_width)  # two layers are dilated
    assert max(layer.dilation for layer in prior.stack) > 1
    codes = some_codes(batch, (7, 5))
    full = prior(codes, ids(batch), ids(batch, 2)).numpy()
    assert np.abs(full).max() > 0.5
    np.testing.assert_allclose(prior.cached_logits(codes, ids(batch), ids(batch, 2)), full, atol=1e-4)


def test_a_narrow_vertical_stack_saves_its_share_of_weights():
    wide, narrow = (small_prior(layers=3, vertical_width=width) for width in (None, 4))
    assert [layer.vertical_kernel.shape for layer in wide.stack] == 3 * [(2, 3, 8, 16)]
    assert [layer.vertical_kernel.shape for layer in narrow.stack] == [(2, 3, 8, 8)] + 2 * [(2, 3, 4, 8)]


def test_probabilities_of_all_grids_sum_to_one():
    prior = modules.GatedPixelCNN((2, 3), 2, 1, 1, num_layers=3, width=8)
    randomise(prior)
    grids = np.array(list(itertools.product((0, 1), repeat=6)), np.int32).reshape(-1, 2, 3)
    total = tf.exp(tf.reduce_sum(prior.log_likelihood(grids, ids(64), ids(64)), axis=(1, 2)))
    assert float(tf.reduce_sum(total)) == pytest.approx(1, abs=1e-5)


def test_log_likelihood_of_a_sample_is_that_of_a_full_pass():
    prior = small_prior()
    uniforms = np.random.default_rng(0).random((3, *GRID), np.float32)
    codes, log_likelihood = prior.sample(uniforms, ids(3), ids(3), temperature=0.5, top_k=3)
    full = tf.reduce_sum(prior.log_likelihood(codes, ids(3), ids(3)), axis=(1, 2))
    np.testing.assert_allclose(log_likelihood, full, rtol=1e-4)


def test_known_codes_are_never_overwritten_and_shape_what_follows():
    prior, known = small_prior(), some_codes(4)
    mask = np.random.default_rng(3).random((4, *GRID)) < 0.5
    uniforms = np.random.default_rng(0).random((4, *GRID), np.float32)
    codes, _ = prior.sample(uniforms, ids(4), ids(4), known=known, mask=mask)
    free, _ = prior.sample(uniforms, ids(4), ids(4))
    assert np.array_equal(codes.numpy()[mask], known[mask])
    assert not np.array_equal(codes.numpy()[~mask], free.numpy()[~mask])


def test_a_grid_depends_on_its_own_uniforms_alone():
    prior = small_prior()
    uniforms = np.random.default_rng(0).random((4, *GRID), np.float32)
    others = uniforms.copy()
    others[[0, 1, 3]] = 0.5
    codes, changed = (prior.sample(field, ids(4), ids(4))[0].numpy() for field in (uniforms, others))
    assert np.array_equal(codes[2], changed[2])
    assert not np.array_equal(codes[0], changed[0])


def test_label_position_and_augmentation_change_the_likelihood():
    prior, codes = small_prior(), some_codes(1)
    bits = [float(prior.bits_per_code(codes, ids(1, label), ids(1, position))[0])
            for label, position in ((0, 0), (1, 0), (2, 0), (0, 1), (0, 3))]
    assert len(set(bits)) == 5
    plain, augmented = (prior.log_likelihood(codes, ids(1), ids(1), np.full((1, 6), value, np.float32)).numpy()
                        for value in (0, 1))
    assert np.array_equal(plain, prior.log_likelihood(codes, ids(1), ids(1)))
    assert not np.array_equal(plain, augmented)


def test_label_that_tells_the_codes_is_learnt():
    prior = modules.GatedPixelCNN((2, 2), CODES, 2, 1, num_layers=2, width=16)
    prior.compile(optimizer=modules.optimizer(1e-2, 150, warmup_steps=5))
    label = np.array([1, 2] * 4, np.int32)
    batch = {"codes": np.broadcast_to((label + 2)[:, None, None], (8, 2, 2)), "label": label, "position": ids(8),
             "augmentation": np.zeros((8, 6), np.float32)}
    step = tf.function(prior.train_step)
    for _ in range(150):
        step(batch)
    right = prior.bits_per_code(batch["codes"], label, ids(8)).numpy()
    wrong = prior.bits_per_code(batch["codes"], 3 - label, ids(8)).numpy()
    assert right.max() < 0.5 < 1 < wrong.min()


def test_conditions_are_dropped_at_their_rate():
    prior = small_prior(condition_dropout=0.25)
    kept = prior.drop_condition(ids(4000), (0, 1)).numpy()
    assert set(kept) == {0, 1} and abs((kept == 0).mean() - 0.25) < 0.03
    assert np.array_equal(kept, prior.drop_condition(ids(4000), (0, 1)))


def test_dropout_is_a_function_of_the_seed_and_off_without_one():
    prior = small_prior(dropout=0.5)
    codes = some_codes(1)
    runs = [prior(codes, ids(1), ids(1), seed=seed).numpy() for seed in ((0, 1), (0, 1),
                                                                         (0, 2000), None, None)]
    assert np.array_equal(runs[0], runs[1]) and np.array_equal(runs[3], runs[4])
    assert not np.array_equal(runs[0], runs[2]) and not np.array_equal(runs[0], runs[3])


# ---- drawing ----------------------------------------------------------------------------------


def test_draw_is_the_inverse_of_the_cumulative_distribution():
    logits = np.log(np.array([0.2, 0.5, 0.3], np.float32))
    uniforms = np.array([0, 0.1999, 0.2001, 0.6999, 0.7001, 0.9999999], np.float32)
    codes = modules.draw(tf.constant(np.tile(logits, (6, 1))), tf.constant(uniforms))
    assert list(codes.numpy()) == [0, 0, 1, 1, 2, 2]


def test_impossible_codes_are_never_drawn():
    logits = tf.constant([[-np.inf, 0.0, -np.inf, 0.0, -np.inf]] * 3, tf.float32)
    codes = modules.draw(logits, tf.constant([0.0, 0.5, np.nextafter(np.float32(1), np.float32(0))]))
    assert list(codes.numpy()) == [1, 3, 3]


def test_top_k_and_top_p_keep_the_likeliest():
    logits = tf.constant(np.log([[0.1, 0.4, 0.2, 0.3]]), tf.float32)
    kept = {name: list(np.isfinite(modules.truncate(logits, **option)[0].numpy()))
            for name, option in {"k": {"top_k": 2}, "p": {"top_p": 0.65}, "tiny": {"top_p": 1e-3},
                                 "all": {"top_p": 1.0, "top_k": 9}}.items()}
    assert kept == {"k": [False, True, False, True], "p": [False, True, False, True],
                    "tiny": [False, True, False, False], "all": [True] * 4}


def test_a_low_temperature_takes_the_likeliest_code_every_time():
    prior = small_prior()
    uniforms = np.random.default_rng(0).random((2, *GRID), np.float32)
    codes, _ = prior.sample(uniforms, ids(2), ids(2), temperature=1e-4)
    assert np.array_equal(codes, tf.argmax(prior(codes, ids(2), ids(2)), axis=-1))


# ---- training and saving ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("make", [small_vqvae, small_prior])
def test_training_repeats_bit_for_bit(make):
    batch = {"image": some_images()} | prior_batch()
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        model = randomise(make())
        model.compile(optimizer=modules.optimizer(1e-2, 10))
        step = tf.function(model.train_step)
        for _ in range(3):
            step(batch)
        weights.append([weight.numpy() for weight in model.weights])
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize("make", [small_vqvae, small_prior])
def test_a_step_in_float16_scales_its_loss_and_moves_the_weights(make):
    model = make(dtype="mixed_float16")
    model.compile(optimizer=modules.optimizer(1e-2, 2, warmup_steps=0))
    before = [weight.numpy() for weight in model.trainable_variables]
    loss = float(model.train_step({"image": some_images()} | prior_batch())["loss"])
    assert 0 < loss < 10
    assert any(not np.array_equal(a, b) for a, b in zip(before, model.trainable_variables, strict=True))
    assert all(np.isfinite(weight).all() for weight in model.trainable_variables)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_saved_equals_loaded_in_float32(tmp_path, precision):
    vqvae, prior = randomise(small_vqvae(dtype=precision)), small_prior(dtype=precision)
    for name, model in (("vqvae", vqvae), ("prior", prior)):
        save_model(model, tmp_path / f"{name}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{name}.keras")
        assert all(np.array_equal(a, b) for a, b in zip(model.weights, loaded.weights, strict=True))
        assert {layer.dtype_policy.name for layer in loaded._flatten_layers()} == {"float32"}
        assert [a.path for a in model.weights] == [b.path for b in loaded.weights]
    loaded = keras.saving.load_model(tmp_path / "vqvae.keras")
    if precision == "float32":
        assert np.array_equal(vqvae.encode(some_images()), loaded.encode(some_images()))


def test_weight_average_warms_up_and_swaps():
    prior = small_prior()
    average = modules.WeightAverage(prior, 0.9)
    weight = prior.trainable_variables[0]
    first = weight.numpy()
    weight.assign(first + 1)
    average.update()  # decay 2/11
    average.swap()
    np.testing.assert_allclose(weight.numpy(), first + 9 / 11, rtol=1e-5)
    average.swap()
    assert np.array_equal(weight.numpy(), first + 1)


def test_learning_rate_rises_then_falls_to_zero():
    rate = modules.optimizer(1e-2, 1000)._learning_rate
    values = [float(rate(step)) for step in (0, 50, 100, 550, 1000)]
    assert values == pytest.approx([0, 5e-3, 1e-2, 5e-3, 0], abs=1e-6)


def test_sampling_is_float32_whatever_the_precision_of_training(tmp_path):
    prior = small_prior(dtype="mixed_bfloat16")
    save_model(prior, tmp_path / "prior.keras")
    uniforms = np.random.default_rng(0).random((2, *GRID), np.float32)
    for trained, loaded in zip(prior.sample(uniforms, ids(2), ids(2)),
                               keras.saving.load_model(tmp_path / "prior.keras").sample(uniforms, ids(2), ids(2)),
                               strict=True):
        assert np.array_equal(trained, loaded)
