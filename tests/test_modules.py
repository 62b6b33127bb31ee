"""The two models: exact properties on tiny inputs."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import CODES, GRID, ids, prior_batch, randomise, small_prior, small_vqvae, some_codes, some_images

import modules
from training.folder import save_model
from training.optimisation import optimizer
from training.packing import rounded
from training.steps import prior_step

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
    codes = prior.by_cell(tf.zeros((1, *prior.grid), tf.int32))
    cells = tf.random.stateless_normal((1, *prior.grid, prior.width), (1, 2))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(cells)
        logits = prior.logits(codes, cells, prior.condition(ids(1), ids(1)))
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


def changes(prior, codes, context=None):
    """(h w, h w) bool, by cell: whether a logit vector (row) changes with a code (column)."""
    count = codes[0].size
    numbers = np.arange(count).reshape(1, *prior.grid, 1)
    order = modules.space_to_depth(numbers, prior.patch).numpy().ravel()  # raster numbers of codes, by cell
    changed = np.repeat(codes, count, axis=0).reshape(count, -1)
    changed[range(count), order] = (changed[range(count), order] + 1) % CODES
    rows = np.concatenate([codes, changed.reshape(count, *prior.grid)])
    logits = prior(rows, ids(count + 1), ids(count + 1), context=context).numpy().reshape(count + 1, count, -1)
    return (logits[1:] != logits[:1]).any(axis=-1).T[order]


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("contexts", [0, 2])
def test_a_code_is_told_all_that_come_before_it_in_order_of_cells(patch, contexts):
    prior = small_prior((6, 4), 4, patch=patch, num_contexts=contexts)
    told = some_codes(25 * contexts, (6, 4), 1).reshape(25, contexts, 6, 4), np.ones((25, contexts), np.int32)
    told = [np.repeat(x[:1], 25, axis=0) for x in told]
    reaches = changes(prior, some_codes(1, (6, 4)), told if contexts else None)
    assert np.array_equal(reaches, np.tri(24, k=-1, dtype=bool))


def test_the_other_grids_are_seen_as_a_whole_and_a_missing_one_is_not():
    prior, codes = small_prior((6, 4), 4, patch=2, num_contexts=2), some_codes(25, (6, 4))[:1]
    told = np.repeat(some_codes(2, (6, 4), 1)[None], 49, axis=0)
    for i, (grid, place) in enumerate(np.ndindex(2, 24)):
        told[i + 1, grid].flat[place] = (told[i + 1, grid].flat[place] + 1) % CODES
    logits = prior(codes.repeat(49, axis=0), ids(49), ids(49), context=(told, np.ones((49, 2), np.int32))).numpy()
    assert (logits[1:] != logits[:1]).any(axis=(1, 2, 3)).all()
    missing, gaps = np.full((1, 2, 6, 4), -1), np.zeros((1, 2), np.int32)
    nothing = prior(codes, ids(1), ids(1)).numpy()
    assert np.array_equal(nothing, prior(codes, ids(1), ids(1), context=(missing, gaps)))
    missing[0, 0, 3, 3] = 0  # nothing of a grid that is not there is read
    assert np.array_equal(nothing, prior(codes, ids(1), ids(1), context=(missing, gaps)))


def test_how_far_below_the_other_slice_lies_is_told():
    prior, codes, told = small_prior(num_contexts=1), some_codes(1), some_codes(1, seed=1)[:, None]
    near, far = (prior(codes, ids(1), ids(1), context=(told, np.full((1, 1), gap))).numpy() for gap in (1, 2))
    assert not np.array_equal(near, far)


def test_causal_after_training_and_after_loading(tmp_path):
    prior = small_prior(dropout=0.1)
    prior.compile(optimizer=optimizer(1e-2, 10))
    prior_step(prior, prior_batch())
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


@pytest.mark.parametrize(("patch", "contexts"), [(2, 0), (1, 2), (2, 1)])
def test_cached_logits_of_cells_and_of_a_model_that_is_told_other_grids(patch, contexts):
    prior, codes = small_prior((14, 10), 4, patch=patch, num_contexts=contexts), some_codes(3, (14, 10))
    told = some_codes(3 * contexts, (14, 10), 1).reshape(3, contexts, 14, 10), np.ones((3, contexts), np.int32)
    told = told if contexts else None
    full = prior(codes, ids(3), ids(3, 2), context=told).numpy()
    np.testing.assert_allclose(prior.cached_logits(codes, ids(3), ids(3, 2), told), full, atol=1e-4)


@pytest.mark.parametrize(("batch", "vertical_width"), [(1, 4), (5, 4), (5, None)])
def test_cached_logits_are_those_of_a_full_pass(batch, vertical_width):
    prior = small_prior((7, 5), 4, vertical_width)  # two layers are dilated
    assert max(layer.dilation for layer in prior.stack) > 1
    codes = some_codes(batch, (7, 5))
    full = prior(codes, ids(batch), ids(batch, 2)).numpy()
    assert np.abs(full).max() > 0.5
    np.testing.assert_allclose(prior.cached_logits(codes, ids(batch), ids(batch, 2)), full, atol=1e-4)


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("kernel", [(2, 3), (1, 2)])
def test_products_of_shifted_copies_are_the_dilated_convolution_and_so_are_their_gradients(kernel, dilation):
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(2, 9, 11, 5)).astype(np.float32))
    weights = tf.constant(random.normal(size=(*kernel, 5, 4)).astype(np.float32) / 5)
    found = []
    for convolve in modules.CONVOLUTIONS.values():
        with tf.GradientTape() as tape:
            tape.watch((x, weights))
            y = convolve(x, weights, dilation)
            loss = tf.reduce_mean(y**2)
        found.append([y, *tape.gradient(loss, (x, weights))])
    for dilated, shifted in zip(*found, strict=True):
        np.testing.assert_allclose(shifted, dilated, atol=1e-5)


@pytest.mark.parametrize(("precision", "apart"), [("float32", 1e-5), ("mixed_bfloat16", 0.05)])
def test_the_prior_is_the_same_both_ways_and_so_is_its_training(precision, apart, monkeypatch):
    dilated, shifted = (small_prior((9, 8), dtype=precision, convolution=way) for way in modules.CONVOLUTIONS)
    assert max(layer.dilation for layer in dilated.stack) > 1
    losses = []
    for prior in (dilated, shifted):
        prior.compile(optimizer=optimizer(1e-3, 10))
        batch = prior_batch() | {"codes": some_codes(3, (9, 8))}
        losses.append([float(prior_step(prior, batch)["loss"]) for _ in range(2)])
    np.testing.assert_allclose(*losses, rtol=apart)
    codes = some_codes(3, (9, 8))
    np.testing.assert_allclose(*(prior(codes, ids(3), ids(3)) for prior in (dilated, shifted)), atol=10 * apart)
    monkeypatch.setattr(keras.ops, "conv", None)
    shifted(codes, ids(3), ids(3))


def test_a_prior_convolves_as_it_was_trained_when_it_is_loaded_and_older_ones_are_dilated(tmp_path):
    prior, codes = small_prior(convolution="shifted"), some_codes(2)
    save_model(prior, tmp_path / "prior.keras")
    loaded = keras.saving.load_model(tmp_path / "prior.keras")
    assert {layer.convolution for layer in loaded.stack} == {"shifted"}
    assert np.array_equal(loaded(codes, ids(2), ids(2)), prior(codes, ids(2), ids(2)))
    older = {name: value for name, value in prior.get_config().items() if name != "convolution"}
    assert {layer.convolution for layer in modules.GatedPixelCNN.from_config(older).stack} == {"dilated"}


def test_a_narrow_vertical_stack_saves_its_share_of_weights():
    wide, narrow = (small_prior(layers=3, vertical_width=width) for width in (None, 4))
    assert [layer.vertical_kernel.shape for layer in wide.stack] == 3 * [(2, 3, 8, 16)]
    assert [layer.vertical_kernel.shape for layer in narrow.stack] == [(2, 3, 8, 8)] + 2 * [(2, 3, 4, 8)]


@pytest.mark.parametrize(("grid", "patch"), [((2, 3), 1), ((2, 4), 2)])
def test_probabilities_of_all_grids_sum_to_one(grid, patch):
    prior = modules.GatedPixelCNN(grid, 2, 1, 1, num_layers=3, width=8, patch=patch)
    randomise(prior)
    grids = np.array(list(itertools.product((0, 1), repeat=grid[0] * grid[1])), np.int32).reshape(-1, *grid)
    one = ids(len(grids))
    total = tf.exp(tf.reduce_sum(prior.log_likelihood(grids, one, one), axis=(1, 2)))
    assert float(tf.reduce_sum(total)) == pytest.approx(1, abs=1e-5)


def test_log_likelihood_of_a_sample_is_that_of_a_full_pass():
    prior = small_prior()
    uniforms = np.random.default_rng(0).random((3, *GRID), np.float32)
    codes, log_likelihood = prior.sample(uniforms, ids(3), ids(3), temperature=0.5, top_k=3)
    full = tf.reduce_sum(prior.log_likelihood(codes, ids(3), ids(3)), axis=(1, 2))
    np.testing.assert_allclose(log_likelihood, full, rtol=1e-4)


def test_the_codes_of_a_cell_are_drawn_one_after_another():
    prior = small_prior((6, 4), 4, patch=2)
    uniforms = np.random.default_rng(0).random((3, 6, 4), np.float32)
    codes, log_likelihood = prior.sample(uniforms, ids(3), ids(3))
    logits = prior(codes, ids(3), ids(3))
    drawn = modules.draw(tf.reshape(logits, (-1, CODES)), tf.constant(uniforms.ravel()))
    assert np.array_equal(codes.numpy().ravel(), drawn)
    full = tf.reduce_sum(prior.log_likelihood(codes, ids(3), ids(3)), axis=(1, 2))
    np.testing.assert_allclose(log_likelihood, full, rtol=1e-4)


def test_guidance_draws_from_what_the_conditions_change_many_times_over():
    prior, uniforms = small_prior((6, 4), 4, patch=2), np.random.default_rng(0).random((3, 6, 4), np.float32)
    codes, log_likelihood = prior.sample(uniforms, ids(3), ids(3, 2), guidance=3.0)
    told, untold = prior(codes, ids(3), ids(3, 2)), prior(codes, ids(3, 0), ids(3, 0))
    guided = tf.reshape(untold + 3.0 * (told - untold), (-1, CODES))
    assert np.array_equal(codes.numpy().ravel(), modules.draw(guided, tf.constant(uniforms.ravel())))
    full = tf.reduce_sum(prior.log_likelihood(codes, ids(3), ids(3, 2)), axis=(1, 2))
    np.testing.assert_allclose(log_likelihood, full, rtol=1e-4)
    plain, _ = prior.sample(uniforms, ids(3), ids(3, 2))
    assert not np.array_equal(codes, plain)


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
    bits = [
        float(prior.bits_per_code(codes, ids(1, label), ids(1, position))[0])
        for label, position in ((0, 0), (1, 0), (2, 0), (0, 1), (0, 3))
    ]
    assert len(set(bits)) == 5
    plain, augmented = (
        prior.log_likelihood(codes, ids(1), ids(1), np.full((1, 6), value, np.float32)).numpy() for value in (0, 1)
    )
    assert np.array_equal(plain, prior.log_likelihood(codes, ids(1), ids(1)))
    assert not np.array_equal(plain, augmented)


def test_dropout_is_a_function_of_the_seed_and_off_without_one():
    prior = small_prior(dropout=0.5)
    codes = some_codes(1)
    runs = [prior(codes, ids(1), ids(1), seed=seed).numpy() for seed in ((0, 1), (0, 1), (0, 2000), None, None)]
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
    kept = {
        name: list(np.isfinite(modules.truncate(logits, **option)[0].numpy()))
        for name, option in {
            "k": {"top_k": 2},
            "p": {"top_p": 0.65},
            "tiny": {"top_p": 1e-3},
            "all": {"top_p": 1.0, "top_k": 9},
        }.items()
    }
    assert kept == {
        "k": [False, True, False, True],
        "p": [False, True, False, True],
        "tiny": [False, True, False, False],
        "all": [True] * 4,
    }


def test_a_low_temperature_takes_the_likeliest_code_every_time():
    prior = small_prior()
    uniforms = np.random.default_rng(0).random((2, *GRID), np.float32)
    codes, _ = prior.sample(uniforms, ids(2), ids(2), temperature=1e-4)
    assert np.array_equal(codes, tf.argmax(prior(codes, ids(2), ids(2)), axis=-1))


# ---- training and saving ----------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_saved_equals_loaded_in_float32(tmp_path, precision):
    vqvae, prior = randomise(small_vqvae(dtype=precision)), small_prior(dtype=precision)
    for name, model in (("vqvae", vqvae), ("prior", prior)):
        save_model(model, tmp_path / f"{name}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{name}.keras")
        model.set_weights([rounded(weight) for weight in model.get_weights()])
        assert all(np.array_equal(a, b) for a, b in zip(model.weights, loaded.weights, strict=True))
        assert {layer.dtype_policy.name for layer in loaded._flatten_layers()} == {"float32"}
        assert [a.path for a in model.weights] == [b.path for b in loaded.weights]
    loaded = keras.saving.load_model(tmp_path / "vqvae.keras")
    if precision == "float32":
        assert np.array_equal(vqvae.encode(some_images()), loaded.encode(some_images()))


def test_sampling_is_float32_whatever_the_precision_of_training(tmp_path):
    prior = small_prior(dtype="mixed_bfloat16")
    save_model(prior, tmp_path / "prior.keras")
    uniforms = np.random.default_rng(0).random((2, *GRID), np.float32)
    for trained, loaded in zip(
        prior.sample(uniforms, ids(2), ids(2)),
        keras.saving.load_model(tmp_path / "prior.keras").sample(uniforms, ids(2), ids(2)),
        strict=True,
    ):
        assert np.array_equal(trained, loaded)
