"""Completion: exact where something is exact, and of a slice by the tiny run."""

import itertools
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

import modules
import predict
from sampling import completion
from sampling.run import Run
from slices.frame import Box
from slices.images import load_images, load_mask
from utils import UserError


def tiny_prior(grid=(2, 2), num_codes=3, seed=0):
    """A prior with strong ties between its codes."""
    prior = modules.GatedPixelCNN(grid, num_codes, 2, 3, num_layers=3, width=8)
    random = np.random.default_rng(seed)
    for weight in prior.trainable_variables:
        weight.assign(random.normal(size=weight.shape, scale=0.5))
    return prior


@pytest.fixture(scope="module")
def larger_prior():
    return tiny_prior((5, 4), 7)


def columns(count, value=1):
    return {"label": np.full(count, value, np.int32), "position": np.full(count, value, np.int32)}


def image(path):
    return np.asarray(Image.open(path))


# ---- the codes --------------------------------------------------------------------------------


def draws_of_the_first_row(prior, known, draw, count=4000):
    """How often each of the nine upper rows is drawn above a known lower row, and how often it should be."""
    rows = np.array(list(itertools.product(range(3), repeat=2)), np.int32)  # (9, 2)
    grids = np.stack([rows, np.broadcast_to(known, rows.shape)], axis=1)  # (9, 2, 2)
    joint = np.exp(prior.log_likelihood(grids, *columns(9).values()).numpy().sum(axis=(1, 2)).astype(float))
    codes = np.zeros((count, 2, 2), np.int32)
    codes[:, 1] = known
    keep = np.zeros(codes.shape, bool)
    keep[:, 1] = True
    drawn = draw(codes, keep)
    assert (drawn[:, 1] == known).all()
    return np.bincount(3 * drawn[:, 0, 0] + drawn[:, 0, 1], minlength=9), count * joint / joint.sum()


def test_completions_have_the_distribution_that_all_kept_codes_leave():
    prior, known = tiny_prior(), np.array([2, 0])
    counts, expected = draws_of_the_first_row(
        prior,
        known,
        lambda codes, keep: completion.complete_codes(prior, codes, keep, columns(len(codes)), 0, "test", 0),
    )
    assert stats.chisquare(counts, expected).pvalue > 0.01
    raster = draws_of_the_first_row(
        prior,
        known,
        lambda codes, keep: prior.sample(
            np.random.default_rng(0).random(codes.shape, np.float32),
            *columns(len(codes)).values(),
            known=codes,
            mask=keep,
        )[0].numpy(),
    )[0]
    assert stats.chisquare(raster, expected).pvalue < 1e-6  # what does not look ahead is told from it


@pytest.mark.parametrize("cells", [[(0, 0)], [(0, 0), (0, 1)]])
def test_a_redraw_leaves_the_conditional_distribution_as_it_is(cells):
    prior, random, count = tiny_prior(seed=1), np.random.default_rng(0), 4000

    def draw(codes, keep):
        rows = np.array(list(itertools.product(range(3), repeat=2)), np.int32)
        grids = np.stack([rows, np.broadcast_to(codes[0, 1], rows.shape)], axis=1)
        joint = np.exp(prior.log_likelihood(grids, *columns(9).values()).numpy().sum(axis=(1, 2)).astype(float))
        start = grids[random.choice(9, count, p=joint / joint.sum())]  # exact draws
        redrawn = np.zeros_like(keep)
        redrawn[:, *zip(*cells, strict=True)] = True
        return prior.redraw(
            start,
            redrawn,
            random.random((count, 3, 2, 2), np.float32),
            random.random(count, np.float32),
            *columns(count).values(),
        ).numpy()

    assert stats.chisquare(*draws_of_the_first_row(prior, np.array([1, 1]), draw)).pvalue > 0.01


def test_a_kept_code_never_changes_and_every_other_one_can(larger_prior):
    random = np.random.default_rng(0)
    codes, keep = random.integers(0, 7, (8, 5, 4)).astype(np.int32), random.random((8, 5, 4)) < 0.5
    keep[0] = True
    changed = np.zeros(keep.shape, bool)
    for seed in range(3):
        drawn = completion.complete_codes(larger_prior, codes, keep, columns(8), seed, "test", 0)
        assert np.array_equal(drawn[keep], codes[keep])
        changed |= drawn != codes
    assert changed[~keep].mean() > 0.8


def test_a_grid_is_completed_alike_in_any_company(larger_prior):
    random = np.random.default_rng(0)
    codes, keep = random.integers(0, 7, (8, 5, 4)).astype(np.int32), random.random((8, 5, 4)) < 0.5
    others, other_keep = codes.copy(), keep.copy()
    others[[0, 1, 3]], other_keep[[0, 1, 3]] = 0, True
    drawn, beside = (
        completion.complete_codes(larger_prior, *pair, columns(8), 0, "test", 16)
        for pair in ((codes, keep), (others, other_keep))
    )
    assert np.array_equal(np.delete(drawn, [0, 1, 3], axis=0), np.delete(beside, [0, 1, 3], axis=0))


def test_completions_of_a_grid_come_in_whole_blocks(larger_prior):
    codes, keep = np.random.default_rng(0).integers(0, 7, (5, 4)).astype(np.int32), np.zeros((5, 4), bool)
    keep[:2] = True
    drawn = completion.completions_of(larger_prior, codes, keep, 1, 1, 9, 0)
    assert drawn.shape == (16, 5, 4) and (drawn[:, :2] == codes[:2]).all()
    assert np.array_equal(drawn[8:], completion.completions_of(larger_prior, codes, keep, 1, 1, 8, 0, first=8))


def test_raster_order_does_where_everything_kept_comes_first():
    def order(*rows):
        return bool(completion.in_drawing_order(np.array([[[int(cell) for cell in row] for row in rows]], bool))[0])

    assert order("111", "111") and order("000", "000") and order("111", "100")
    assert not order("110", "110") and not order("000", "111") and not order("111", "010")


def test_tiles_cover_every_cell_in_every_sweep():
    unknown = np.random.default_rng(0).random((2, 9, 7)) < 0.5
    steps = list(completion.gibbs_cells(unknown, 4))
    assert np.array_equal(steps[0], unknown)
    covered = np.sum(steps[completion.WHOLE_STEPS :], axis=0)
    assert np.array_equal(covered, completion.SWEEPS * unknown)


def test_a_code_is_kept_when_its_whole_patch_is():
    pixels = np.ones((32, 40), bool)
    pixels[9, 17] = False
    box = Box(0, -8, 32, 56)  # it sticks out by a patch on either side, where nothing is lost
    keep = completion.kept_cells(pixels, box, (4, 7))
    assert keep.sum() == 27 and not keep[1, 3]


@pytest.mark.parametrize(("height", "whole_rows"), [(4, 1), (20, 4), (24, 6), (32, 8)])
def test_a_kept_top_ends_with_whole_cells_so_that_the_rest_is_drawn_exactly(height, whole_rows):
    pixels = np.arange(32)[:, None].repeat(40, axis=1) < height
    keep = completion.kept_cells(pixels, Box(0, 0, 32, 40), (8, 10), 2)
    assert keep[:whole_rows].all() and not keep[whole_rows:].any()
    assert completion.in_drawing_order(keep[None], 2)[0] == (height > 4)


def test_what_is_no_top_is_kept_code_by_code():
    pixels = np.zeros((32, 40), bool)
    pixels[:20, 4:] = True
    assert completion.kept_cells(pixels, Box(0, 0, 32, 40), (8, 10), 2).sum() == 5 * 9


# ---- a slice ----------------------------------------------------------------------------------


def test_completion_i_depends_on_the_seed_and_i_alone(run_predict, slice_path, capsys):
    few, many, other = (
        run_predict(
            "complete", slice_path, "--keep", "top", "--num-images", count, "--seed", seed, out=f"{count}-{seed}"
        )
        for count, seed in ((2, 0), (9, 0), (2, 1))
    )
    assert "drawn exactly" in capsys.readouterr().out
    names = [f"completion_{i:05d}.png" for i in range(9)]
    assert {path.name for path in many.iterdir()} == {*names, "alternatives.png", "spread.png", "completions.csv"}
    assert {image(many / name).shape for name in names} == {(32, 40)}
    for name in names[:2]:
        assert np.array_equal(image(few / name), image(many / name))
        assert not np.array_equal(image(few / name), image(other / name))
    table = pd.read_csv(many / "completions.csv")
    assert list(table["file"]) == names and set(table["label"]) == {"AD"} and set(table["position"]) == {1}


def test_the_call_writes_what_the_script_writes(run_predict, finished_run, slice_path, tmp_path):
    flags = "--keep", "top", "--num-images", 2, "--temperature", 0.9, "--guidance", 2, "--paste"
    written = run_predict("complete", slice_path, *flags)
    out = completion.complete(
        Run(finished_run), slice_path, num_images=2, temperature=0.9, guidance=2, paste=True, out=tmp_path / "call"
    )
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in written.iterdir()
    }


def test_what_raster_order_cannot_condition_on_is_approximate_and_says_so(run_predict, slice_path, capsys):
    out = run_predict("complete", slice_path, "--keep", "right", "--num-images", 2)
    assert "approximate, by masked Gibbs sweeps" in capsys.readouterr().out
    assert not np.array_equal(image(out / "completion_00000.png"), image(out / "completion_00001.png"))


def test_where_all_is_kept_the_reconstruction_comes_back(run_predict, finished_run, slice_path, tmp_path):
    Image.new("L", Image.open(slice_path).size, 255).save(tmp_path / "white.png")
    words = "complete", slice_path, "--keep", tmp_path / "white.png", "--num-images", 2
    out, sharp = run_predict(*words, "--no-sharpen"), run_predict(*words, out="sharp")
    (tmp_path / "one").mkdir()
    shutil.copy(slice_path, tmp_path / "one")
    expected = image(run_predict("reconstruct", tmp_path / "one", out="r") / "00000_106_71_reconstruction.png")
    assert np.array_equal(image(out / "completion_00000.png"), expected)
    assert np.array_equal(image(out / "completion_00001.png"), expected)
    run = Run(finished_run)
    (expected_sharp,) = run.decode_drawn(run.encode(run.load(slice_path.parent, [slice_path.name]).images))
    assert np.array_equal(image(sharp / "completion_00001.png"), expected_sharp)
    assert not np.array_equal(expected_sharp, expected)


def test_paste_puts_the_original_back_where_it_is_kept_and_nowhere_else(run_predict, slice_path, tmp_path):
    mask = np.full((40, 48), 255, np.uint8)
    mask[28:, :40] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = "complete", slice_path, "--keep", tmp_path / "mask.png", "--num-images", 2
    plain, pasted = (
        image(run_predict(*words) / "completion_00000.png"),
        image(run_predict(*words, "--paste", out="pasted") / "completion_00000.png"),
    )
    original = load_images(slice_path.parent, [slice_path.name], (32, 40)).images[0, ..., 0]
    kept = load_mask(tmp_path / "mask.png", slice_path, (32, 40))
    assert 0 < kept.sum() < kept.size
    assert np.array_equal(pasted[kept], original[kept]) and np.array_equal(pasted[~kept], plain[~kept])


def test_a_mask_comes_into_the_frame_as_its_slice_does(tmp_path):
    Image.fromarray(np.full((60, 30), 200, np.uint8)).save(tmp_path / "slice.png")
    mask = np.full((60, 30), 255, np.uint8)
    mask[:30] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    kept = load_mask(tmp_path / "mask.png", tmp_path / "slice.png", (30, 40))
    assert kept.shape == (30, 40) and kept[:, :12].all() and kept[:, -12:].all()  # beside the slice nothing is lost
    assert not kept[:14, 14:26].any() and kept[18:, 14:26].all()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["complete", "nowhere.png", "--keep", "top"], "there is no slice nowhere.png"),
        (["complete", "slice.png"], "required: --keep"),
        (["complete", "slice.png", "--keep", "top", "--num-images", "1"], "needs --num-images 2 or more"),
        (["complete", "slice.png", "--keep", "nowhere.png"], "--keep nowhere.png is neither"),
        (["complete", "slice.png", "--keep", "small.png"], "small.png has 20x10 pixels, but slice.png 48x40"),
        (["complete", "slice.png", "--keep", "black.png"], "black.png keeps nothing: its brightest value is 0 of 255"),
        (["complete", "slice.png", "--keep", "speck.png"], "keeps no patch of 4x4 pixels"),
        (["complete", "text.png", "--keep", "top"], "no readable image"),
        (["complete", "slice.png", "--keep", "left", "--top-k", "3"], "needs Gibbs sweeps, which know no"),
        (["complete", "slice.png", "--keep", "left", "--guidance", "2"], "know no .* or --guidance: leave them out"),
        (["complete", "slice.png", "--keep", "top", "--label", "MCI"], "unknown --label MCI"),
        (
            ["complete", "slice.png", "--keep", "top", "--heal"],
            "--heal is no flag of python predict.py complete, but of python predict.py score",
        ),
        (
            ["complete", "slice.png", "--keep", "top", "--shard", "1/2"],
            "--shard is no flag of python predict.py complete",
        ),
        (["interpolate", "--format", "nifti"], "--format is no flag of python predict.py interpolate"),
        (["--keep", "top"], "--keep is no flag of python predict.py, but of python predict.py complete"),
        (["--heal"], "--heal is no flag of python predict.py, but of python predict.py score"),
        (["score", "nowhere"], "nowhere does not exist"),
        (["score", "empty"], "no PNG or JPEG"),
        (["score", ".", "--position", "4"], "unknown --position 4"),
        (["score", ".", "--data", "nowhere"], "the data nowhere of the run"),
        (["score", ".", "--num-images", "3"], "--num-images is no flag of python predict.py score"),
        (["vary", "label", "--label", "AD"], "--label does not go with varying the label"),
        (["vary", "position", "--position", "1"], "--position does not go with varying the position"),
        (["vary", "temperature", "--temperature", "2"], "--temperature does not go with varying the temperature"),
        (["interpolate", "--num-images", "2"], "--num-images 3 or more"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(words, sentence, finished_run, slice_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(slice_path, "slice.png")
    Image.new("L", (20, 10), 255).save("small.png")
    Image.new("L", (48, 40), 0).save("black.png")
    Image.fromarray(np.pad(np.full((2, 2), 255, np.uint8), ((19, 19), (23, 23)))).save("speck.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=sentence) as error:
        predict.main([*words, "--run", str(finished_run), "--out", "out"])
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before
