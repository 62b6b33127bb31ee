"""The prior in two levels: its top codes, its likelihood, its draws, and the patterns it starts from."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from small_models import CODES, GRID, ids, randomise, some_codes

import modules
from training.folder import load_model, save_model
from training.patterns import fit_patterns, greys_of


def two_levels(grid=GRID, num_codes=CODES, contexts=0, top_codes=3, **options):
    """A small prior with random weights whose blocks are of 2 x 2 codes."""
    options = dict(num_labels=2, num_positions=3, num_layers=4, width=8, vertical_width=4) | options
    prior = modules.TwoLevelPrior(
        grid, num_codes, top_block=2, top_codes=top_codes, num_contexts=contexts, name="prior", **options
    )
    random = np.random.default_rng(1)
    prior.greys.assign(random.random(num_codes))
    prior.patterns.assign(random.random((4, top_codes)))
    return randomise(prior)


@pytest.fixture(scope="module")
def prior():
    return two_levels(contexts=1)


@pytest.fixture(scope="module")
def told():
    return some_codes(3, seed=5)[:, None], np.array([[1], [2], [0]], np.int32)


def test_a_top_code_is_the_nearest_pattern_of_its_block(prior):
    codes = some_codes(2)
    greys = np.pad(prior.greys.numpy()[codes], ((0, 0), (0, 1), (0, 0)))  # 5 rows are three blocks of 2
    blocks = greys.reshape(2, 3, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(2, 3, 2, 4)
    distances = ((blocks[..., None] - prior.patterns.numpy()) ** 2).sum(axis=3)
    assert np.array_equal(prior.top_of(codes), distances.argmin(axis=-1))


def test_the_likelihood_is_that_of_both_levels(prior, told):
    codes = some_codes(3)
    both = prior.log_likelihood(codes, ids(3), ids(3), context=told)
    top = prior.top_of(codes)
    of_top = prior.top.log_likelihood(top, ids(3), ids(3), context=prior.top_context(told))
    of_codes = prior.bottom.log_likelihood(codes, ids(3), ids(3), context=prior.bottom_context(top, told))
    assert np.allclose(np.sum(both, (1, 2)), np.sum(of_top, (1, 2)) + np.sum(of_codes, (1, 2)), atol=1e-4)
    assert not np.allclose(prior.log_likelihood(codes, ids(3), ids(3)), both, atol=1e-2)  # it listens


def test_all_top_codes_and_codes_together_have_probability_one_and_codes_never_more():
    prior = two_levels((2, 2), 2, top_codes=2)
    codes = np.array(list(itertools.product(range(2), repeat=4)), np.int32).reshape(-1, 2, 2)
    nothing, total = ids(16, 0), 0.0
    for top in range(2):
        tops = np.full((16, 1, 1), top, np.int32)
        of_top = prior.top.log_likelihood(tops, nothing, nothing)
        of_codes = prior.bottom.log_likelihood(codes, nothing, nothing, context=prior.bottom_context(tops, None))
        total += np.exp(np.sum(of_top, (1, 2)) + np.sum(of_codes, (1, 2))).sum()
    assert total == pytest.approx(1, abs=1e-5)
    assert np.exp(np.sum(prior.log_likelihood(codes, nothing, nothing), (1, 2))).sum() < 1


@pytest.mark.parametrize("has_context", [True, False])
def test_sampling_computes_the_same_likelihood_along_the_way(has_context, prior, told):
    codes, context = some_codes(3), told if has_context else None
    uniforms, everywhere = np.zeros((3, *prior.uniforms_shape), np.float32), np.ones(codes.shape, bool)
    drawn, log_likelihood = prior.sample(uniforms, ids(3), ids(3), known=codes, mask=everywhere, context=context)
    assert np.array_equal(drawn, codes)
    expected = np.sum(prior.log_likelihood(codes, ids(3), ids(3), context=context), (1, 2))
    assert np.allclose(log_likelihood, expected, atol=1e-3)


def test_the_likelihood_of_the_wanted_is_the_same_whichever_others_are_wanted(prior):
    uniforms = np.random.default_rng(0).random((20, *prior.uniforms_shape)).astype(np.float32)

    def scored(rows):
        return prior.sample(uniforms, ids(20), ids(20), scored=rows)

    codes, every = scored(None)
    assert np.isfinite(every).all()
    for rows in (slice(3, 5), slice(9, 17), slice(18, 20), slice(20)):
        again, some = scored(rows)
        assert np.array_equal(again, codes) and np.array_equal(some[rows], every[rows])
    assert np.isnan(scored(slice(0))[1]).all() and np.isnan(scored(slice(9, 12))[1][:8]).all()


def test_a_draw_depends_on_its_own_numbers_and_on_those_of_both_levels(prior):
    assert prior.uniforms_shape == (7, 4)  # 5 rows of codes; 6 top codes take two rows more
    uniforms = np.random.default_rng(0).random((3, *prior.uniforms_shape)).astype(np.float32)
    codes, _ = prior.sample(uniforms, ids(3), ids(3))
    other = uniforms.copy()
    other[0] = 1 - other[0]
    changed, _ = prior.sample(other, ids(3), ids(3))
    assert np.array_equal(codes[1:], changed[1:]) and not np.array_equal(codes[0], changed[0])
    other = uniforms.copy()
    other[:, 5:] = 1 - other[:, 5:]  # those of the top codes alone
    assert not np.array_equal(prior.sample(other, ids(3), ids(3))[0], codes)
    other = uniforms.copy()
    other[:, 6, 2:] = 0.5  # which no top code takes
    assert np.array_equal(prior.sample(other, ids(3), ids(3))[0], codes)


def test_what_is_kept_stays_and_top_codes_of_whole_blocks_with_it(prior):
    codes, mask = some_codes(3), np.zeros((3, *GRID), bool)
    mask[:, :3] = True
    drawn, top = prior.drawn_cells(~mask)
    assert np.array_equal(drawn, ~mask) and np.array_equal(top, np.tile([[0, 0], [1, 1], [1, 1]], (3, 1, 1)))
    uniforms = np.random.default_rng(0).random((3, *prior.uniforms_shape)).astype(np.float32)
    assert np.array_equal(prior.sample(uniforms, ids(3), ids(3), known=codes, mask=mask)[0][:, :3], codes[:, :3])


def test_redrawing_changes_nothing_else(prior):
    codes, cells = some_codes(3), np.zeros((3, *GRID), bool)
    cells[:, 2:4, 1:3] = True
    random = np.random.default_rng(0)
    candidates = random.random((3, 4, *prior.uniforms_shape)).astype(np.float32)
    redrawn = np.asarray(prior.redraw(codes, cells, candidates, np.full(3, 0.9, np.float32), ids(3), ids(3)))
    assert np.array_equal(redrawn[~cells], codes[~cells]) and not np.array_equal(redrawn, codes)


def test_it_is_saved_and_loaded(prior, tmp_path):
    save_model(prior, tmp_path / "prior.keras")
    config = {"code_grid": list(GRID), "num_codes": CODES, "labels": ["AD", "NC"], "num_positions": 3}
    loaded = load_model(tmp_path / "prior.keras", modules.Prior, config)
    assert type(loaded) is modules.TwoLevelPrior and loaded.get_config() == prior.get_config() | {
        "dtype": loaded.get_config()["dtype"]
    }
    codes = some_codes(2)
    assert np.allclose(
        loaded.bits_per_code(codes, ids(2), ids(2)), prior.bits_per_code(codes, ids(2), ids(2)), atol=1e-2
    )


def test_patterns_are_those_of_the_blocks_that_there_are():
    prior = two_levels((2, 4), 3, top_codes=2)
    greys = np.array([0.0, 0.5, 1.0])
    images = np.zeros((2, 2, 4, 1), np.uint8)
    images[0, :, :2], images[0, :, 2:], images[1] = 2, 1, 2  # each block is of one code, 2 or 1
    vqvae = SimpleNamespace(
        encode=lambda x: np.rint(255 * x[..., 0]).astype(np.int32),
        decode=lambda codes: np.float32(greys[codes])[..., None],
    )
    fit_patterns(prior, vqvae, images)
    assert prior.greys.numpy().tolist() == [0, 0.5, 1]
    assert sorted(map(tuple, prior.patterns.numpy().T)) == [(0.5,) * 4, (1.0,) * 4]
    assert np.array_equal(prior.spread(prior.top_of(np.int32([[[2, 2, 1, 1]] * 2]))).shape, (1, 2, 4))


def test_the_grey_of_a_code_is_the_mean_of_its_pixels():
    codes = np.array([[[0, 1]]])
    images = np.arange(8, dtype=np.float32).reshape(1, 2, 4, 1)
    assert greys_of(codes, [images], SimpleNamespace(num_codes=3, depth=1)).tolist() == [2.5, 4.5, 0]
