"""Completion, scoring and conditioning by predict.py: exact where something is exact, and on a tiny run."""

import itertools
import shutil
from types import SimpleNamespace

import lesions
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

import dataset
import metrics
import modules
import predict
from utils import UserError, load_models


def tiny_prior(grid=(2, 2), num_codes=3, seed=0):
    """A prior with strong ties between its codes."""
    prior = modules.GatedPixelCNN(grid, num_codes, 2, 3, num_layers=3, width=8)
    random = np.random.default_rng(seed)
    for weight in prior.trainable_variables:
        weight.assign(random.normal(size=weight.shape, scale=0.5))
    return prior


def columns(count, value=1):
    return {"label": np.full(count, value, np.int32), "position": np.full(count, value, np.int32)}


def image(path):
    return np.asarray(Image.open(path))


@pytest.fixture
def slice_path(slices_folder):
    return slices_folder / "test" / "AD" / "106_71.png"


@pytest.fixture
def run_predict(finished_run, tmp_path):
    """predict.py on the tiny run: a function of flags that returns the folder that it wrote."""
    def run(*flags, out="out"):
        predict.main(["--run", str(finished_run), "--out", str(tmp_path / out), *map(str, flags)])
        return tmp_path / out

    return run


# ---- completion: the codes ----------------------------------------------------------------------


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
    counts, expected = draws_of_the_first_row(prior, known, lambda codes, keep: predict.complete_codes(
        prior, codes, keep, columns(len(codes)), 0, "test", 0))
    assert stats.chisquare(counts, expected).pvalue > 0.01
    raster = draws_of_the_first_row(prior, known, lambda codes, keep: prior.sample(
        np.random.default_rng(0).random(codes.shape, np.float32), *columns(len(codes)).values(), known=codes,
        mask=keep)[0].numpy())[0]
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
        return prior.redraw(start, redrawn, random.random((count, 3, 2, 2), np.float32),
                            random.random(count, np.float32), *columns(count).values()).numpy()

    assert stats.chisquare(*draws_of_the_first_row(prior, np.array([1, 1]), draw)).pvalue > 0.01


def test_a_kept_code_never_changes_and_every_other_one_can():
    prior, random = tiny_prior((5, 4), 7), np.random.default_rng(0)
    codes, keep = random.integers(0, 7, (8, 5, 4)).astype(np.int32), random.random((8, 5, 4)) < 0.5
    keep[0] = True
    changed = np.zeros(keep.shape, bool)
    for seed in range(3):
        drawn = predict.complete_codes(prior, codes, keep, columns(8), seed, "test", 0)
        assert np.array_equal(drawn[keep], codes[keep])
        changed |= drawn != codes
    assert changed[~keep].mean() > 0.8


def test_a_grid_is_completed_alike_in_any_company():
    prior, random = tiny_prior((5, 4), 7), np.random.default_rng(0)
    codes, keep = random.integers(0, 7, (8, 5, 4)).astype(np.int32), random.random((8, 5, 4)) < 0.5
    others, other_keep = codes.copy(), keep.copy()
    others[[0, 1, 3]], other_keep[[0, 1, 3]] = 0, True
    drawn, beside = (predict.complete_codes(prior, *pair, columns(8), 0, "test", 16)
                     for pair in ((codes, keep), (others, other_keep)))
    assert np.array_equal(np.delete(drawn, [0, 1, 3], axis=0), np.delete(beside, [0, 1, 3], axis=0))


def test_raster_order_does_where_everything_kept_comes_first():
    def order(*rows):
        return bool(predict.in_raster_order(np.array([[[int(cell) for cell in row] for row in rows]], bool))[0])

    assert order("111", "111") and order("000", "000") and order("111", "100")
    assert not order("110", "110") and not order("000", "111") and not order("111", "010")


def test_tiles_cover_every_cell_in_every_sweep():
    unknown = np.random.default_rng(0).random((2, 9, 7)) < 0.5
    steps = list(predict.gibbs_cells(unknown, 4))
    assert np.array_equal(steps[0], unknown)
    covered = np.sum(steps[predict.WHOLE_STEPS:], axis=0)
    assert np.array_equal(covered, predict.SWEEPS * unknown)


def test_a_code_is_kept_when_its_whole_patch_is():
    pixels = np.ones((32, 40), bool)
    pixels[9, 17] = False
    box = dataset.Box(0, -8, 32, 56)  # it sticks out by a patch on either side, where nothing is lost
    keep = predict.kept_cells(pixels, box, (4, 7))
    assert keep.sum() == 27 and not keep[1, 3]


# ---- completion: the script ---------------------------------------------------------------------


def test_completion_i_depends_on_the_seed_and_i_alone(run_predict, slice_path, capsys):
    few, many, other = (run_predict("--complete", slice_path, "--keep", "top", "--num-images", count, "--seed", seed,
                                    out=f"{count}-{seed}") for count, seed in ((2, 0), (9, 0), (2, 1)))
    assert "drawn exactly" in capsys.readouterr().out
    names = [f"completion_{i:05d}.png" for i in range(9)]
    assert {path.name for path in many.iterdir()} == {*names, "alternatives.png", "spread.png", "completions.csv"}
    assert {image(many / name).shape for name in names} == {(32, 40)}
    for name in names[:2]:
        assert np.array_equal(image(few / name), image(many / name))
        assert not np.array_equal(image(few / name), image(other / name))
    table = pd.read_csv(many / "completions.csv")
    assert list(table["file"]) == names and set(table["label"]) == {"AD"} and set(table["position"]) == {1}


def test_what_raster_order_cannot_condition_on_is_approximate_and_says_so(run_predict, slice_path, capsys):
    out = run_predict("--complete", slice_path, "--keep", "right", "--num-images", 2)
    assert "approximate, by masked Gibbs sweeps" in capsys.readouterr().out
    assert not np.array_equal(image(out / "completion_00000.png"), image(out / "completion_00001.png"))


def test_where_all_is_kept_the_reconstruction_comes_back(run_predict, slice_path, tmp_path):
    Image.new("L", Image.open(slice_path).size, 255).save(tmp_path / "white.png")
    out = run_predict("--complete", slice_path, "--keep", tmp_path / "white.png", "--num-images", 2)
    (tmp_path / "one").mkdir()
    shutil.copy(slice_path, tmp_path / "one")
    expected = image(run_predict("--reconstruct", tmp_path / "one", out="r") / "00000_106_71_reconstruction.png")
    assert np.array_equal(image(out / "completion_00000.png"), expected)
    assert np.array_equal(image(out / "completion_00001.png"), expected)


def test_paste_puts_the_original_back_where_it_is_kept_and_nowhere_else(run_predict, slice_path, tmp_path):
    mask = np.full((40, 48), 255, np.uint8)
    mask[28:, :40] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    flags = "--complete", slice_path, "--keep", tmp_path / "mask.png", "--num-images", 2
    plain, pasted = image(run_predict(*flags) / "completion_00000.png"), \
        image(run_predict(*flags, "--paste", out="pasted") / "completion_00000.png")
    original = dataset.load_images(slice_path.parent, [slice_path.name], (32, 40)).images[0, ..., 0]
    kept = dataset.load_mask(tmp_path / "mask.png", slice_path, (32, 40))
    assert 0 < kept.sum() < kept.size
    assert np.array_equal(pasted[kept], original[kept]) and np.array_equal(pasted[~kept], plain[~kept])


def test_a_mask_comes_into_the_frame_as_its_slice_does(tmp_path):
    Image.fromarray(np.full((60, 30), 200, np.uint8)).save(tmp_path / "slice.png")
    mask = np.full((60, 30), 255, np.uint8)
    mask[:30] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    kept = dataset.load_mask(tmp_path / "mask.png", tmp_path / "slice.png", (30, 40))
    assert kept.shape == (30, 40) and kept[:, :12].all() and kept[:, -12:].all()  # beside the slice nothing is lost
    assert not kept[:14, 14:26].any() and kept[18:, 14:26].all()


@pytest.mark.parametrize(("flags", "sentence"), [
    (["--complete", "nowhere.png", "--keep", "top"], "there is no slice nowhere.png"),
    (["--complete", "slice.png"], "--complete needs --keep"),
    (["--complete", "slice.png", "--keep", "top", "--num-images", "1"], "needs --num-images 2 or more"),
    (["--complete", "slice.png", "--keep", "nowhere.png"], "the mask nowhere.png cannot be read"),
    (["--complete", "slice.png", "--keep", "small.png"], "small.png has 20x10 pixels, but slice.png 48x40"),
    (["--complete", "slice.png", "--keep", "black.png"], "keeps no patch of 8x8 pixels"),
    (["--complete", "text.png", "--keep", "top"], "no readable image"),
    (["--complete", "slice.png", "--keep", "left", "--top-k", "3"], "needs Gibbs sweeps, which know no"),
    (["--complete", "slice.png", "--keep", "top", "--label", "MCI"], "unknown --label MCI"),
    (["--complete", "slice.png", "--keep", "top", "--score", "."], "not allowed with"),
    (["--complete", "slice.png", "--keep", "top", "--shard", "1/2"], "--shard does not go with --complete"),
    (["--interpolate", "--format", "nifti"], "--format does not go with --interpolate"),
    (["--keep", "top"], "--keep goes with --complete only"),
    (["--heal"], "--heal goes with --score only"),
    (["--score", "nowhere"], "nowhere does not exist"),
    (["--score", "empty"], "no PNG or JPEG"),
    (["--score", ".", "--position", "4"], "unknown --position 4"),
    (["--score", ".", "--data", "nowhere"], "the run's slices nowhere are not there"),
    (["--score", ".", "--num-images", "3"], "--num-images does not go with --score"),
    (["--compare-labels", "--label", "AD"], "--label does not go with --compare-labels"),
    (["--sweep-positions", "--position", "1"], "--position does not go with --sweep-positions"),
    (["--temperature-sweep", "--temperature", "2"], "--temperature does not go with --temperature-sweep"),
    (["--interpolate", "--num-images", "2"], "--num-images 3 or more"),
])
def test_mistakes_are_one_sentence_and_leave_nothing(flags, sentence, finished_run, slice_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(slice_path, "slice.png")
    Image.new("L", (20, 10), 255).save("small.png")
    Image.new("L", (48, 40), 0).save("black.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=sentence) as error:
        predict.main(["--run", str(finished_run), "--out", "out", *flags])
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


# ---- scoring ------------------------------------------------------------------------------------


def test_z_scores_are_those_of_other_people_nearby():
    usual = metrics.UsualBits(np.array([0.0, 10, 4, 6, 8, 100]).reshape(-1, 1, 1), np.array([1, 3, 3, 5, 4, 9]),
                              np.array(["a", "b", "a", "c", "b", "a"]))
    assert list(usual.compared(3, "b")) == [True, False, True, True, False, False]
    assert list(usual.compared(3, "")) == [True, True, True, True, True, False]
    assert list(usual.compared(0, "a")) == [False, True, False, True, True, False]  # the position is not known
    deviation = 1.4826 * 4  # of 0, 4, 6, 8, 10 from 6: 6, 2, 0, 2, 4, of which the median is 2
    assert usual.z_scores(np.array([[6.0 + deviation]]), 3, "")[0, 0] == pytest.approx(2, rel=1e-3)
    assert usual.z_scores(np.array([[6.0 - deviation]]), 3, "")[0, 0] == pytest.approx(-2, rel=1e-3)


def test_where_nothing_ever_differs_a_bit_is_one_deviation():
    usual = metrics.UsualBits(np.zeros((5, 1, 1)), np.ones(5, int), np.array(list("abcde")))
    assert usual.z_scores(np.full((1, 1), 2.5), 1, "") == pytest.approx(2.5)


@pytest.fixture
def scored(run_predict, tmp_path):
    """scores.csv of some slices in a folder of their own: a function of their paths and of flags."""
    def score(paths, *flags, out):
        (tmp_path / f"of {out}").mkdir()
        for path in paths:
            shutil.copy(path, tmp_path / f"of {out}")
        return pd.read_csv(run_predict("--score", tmp_path / f"of {out}", *flags, out=out) / "scores.csv",
                           keep_default_na=False)

    return score


def test_scores_are_the_bits_of_the_prior_under_the_conditions_of_slices_csv(finished_run, run_predict, slices_folder):
    out = run_predict("--score", slices_folder / "test" / "AD")
    table = pd.read_csv(out / "scores.csv")
    assert len(table) == 4 and len(list(out.glob("*_map.png"))) == 4
    assert list(table["label"]) == ["AD"] * 4 and list(table["position"]) == [0, 1, 2, 3]
    assert set(table["compared_people"]) == {2} and (table["least_z"] <= table["largest_z"]).all()
    vqvae, prior = load_models(finished_run)
    frames = dataset.load_images(slices_folder / "test" / "AD", table["file"].tolist(), (32, 40)).images
    config = predict.open_run(str(finished_run))[1]
    codes = metrics.encode_images(vqvae, frames, dataset.Box(*config["crop_box"]))
    given = {"label": np.ones(4, np.int32), "position": np.arange(1, 5, dtype=np.int32)}
    assert table["bits"].to_numpy() == pytest.approx(metrics.prior_bits(prior, codes, given).sum(axis=(1, 2)), abs=0.06)


def test_what_is_not_in_slices_csv_comes_from_flags_or_is_unknown(scored, slice_path, capsys):
    table = scored([slice_path], "--position", 2, out="one")
    assert set(table["label"]) == {"none"} and set(table["position"]) == {2}
    said = capsys.readouterr().out
    assert "the label of 1 of 1 slices is not known" in said and "the position" not in said


def test_a_person_is_not_compared_with_himself(finished_run, slices_folder):
    index = pd.read_csv(finished_run / "slices.csv", dtype={"subject": str})
    flags = SimpleNamespace(data=str(slices_folder), label=None, position=None)
    config = predict.open_run(str(finished_run))[1]
    chosen = index[index["split"] == "validation"].iloc[:1]
    known = predict.look_up(flags, config, index, [slices_folder / chosen["path"].item()])
    assert known["subject"].item() == chosen["subject"].item() and known["position"].item() == chosen["position"].item()
    models, validation = load_models(finished_run), predict.load_validation(flags, config, index)
    codes = np.zeros((2, *config["code_grid"]), np.int32)
    everybody = pd.concat([known, known.assign(subject="")], ignore_index=True)
    _, _, compared = predict.compare_codes(models, config, everybody, codes, validation)
    assert [row["compared_people"] for row in compared] == [1, 2]


def test_it_is_told_when_a_person_was_trained_on(finished_run, slices_folder, capsys):
    index = pd.read_csv(finished_run / "slices.csv", dtype={"subject": str})
    flags = SimpleNamespace(data=str(slices_folder), label="none", position=None)
    path = slices_folder / index[index["split"] == "train"]["path"].iloc[0]
    predict.look_up(flags, predict.open_run(str(finished_run))[1], index, [path])
    said = capsys.readouterr().out
    assert "1 of 1 slices are of people that the run was trained on" in said and "is not known" not in said


def test_healing_draws_unlikely_codes_alone_and_in_any_company(finished_run):
    prior, random = load_models(finished_run)[1], np.random.default_rng(0)
    codes = random.integers(0, 32, (11, *prior.grid)).astype(np.int32)
    z_scores = random.normal(size=codes.shape) + 1.5
    healed = predict.heal(prior, codes, z_scores, columns(11), 0)
    assert np.array_equal(healed[z_scores < predict.UNLIKELY], codes[z_scores < predict.UNLIKELY])
    assert (healed != codes).any()
    few = predict.heal(prior, codes[:3], z_scores[:3], columns(3), 0)
    assert np.array_equal(few, healed[:3])


def test_healed_slices_are_written_and_shown(scored, slice_path, tmp_path):
    scored([slice_path], "--heal", out="healed")
    names = {path.name for path in (tmp_path / "healed").iterdir()}
    assert names == {"00000_106_71_healed.png", "00000_106_71_map.png", "scores.csv"}
    assert image(tmp_path / "healed" / "00000_106_71_healed.png").shape == (32, 40)


# ---- the same random numbers under other conditions -----------------------------------------------


CONDITIONS = "--label", "AD", "--position", 1


@pytest.fixture(scope="module")
def plain(finished_run, tmp_path_factory):
    """Three plain samples under CONDITIONS: their bytes."""
    out = tmp_path_factory.mktemp("samples") / "out"
    predict.main(["--run", str(finished_run), "--out", str(out), "--num-images", "3", *map(str, CONDITIONS)])
    return [(out / f"brain_{i:05d}.png").read_bytes() for i in range(3)]


def test_a_label_gives_what_sampling_gives_under_it(run_predict, plain):
    out = run_predict("--compare-labels", "--num-images", 3, *CONDITIONS[2:])
    assert [(out / f"brain_{i:05d}_00.png").read_bytes() for i in range(3)] == plain
    assert list(pd.read_csv(out / "samples.csv")["label"]) == ["AD"] * 3 + ["NC"] * 3


def test_positions_are_swept_in_order_and_animated(run_predict, plain):
    out = run_predict("--sweep-positions", "--num-images", 2, *CONDITIONS[:2])
    assert [(out / f"brain_{i:05d}_01.png").read_bytes() for i in range(2)] == plain[:2]
    assert list(pd.read_csv(out / "samples.csv")["position"]) == [0, 0, 1, 1, 2, 2, 3, 3]
    with Image.open(out / "sweep.gif") as animation:
        assert animation.n_frames == 4 and animation.info["loop"] == 0
    assert not list(out.glob("frame*"))


def test_the_temperatures_include_plain_sampling(run_predict, plain):
    out = run_predict("--temperature-sweep", "--num-images", 2, *CONDITIONS)
    table = pd.read_csv(out / "samples.csv")
    assert sorted(set(table["temperature"])) == list(predict.TEMPERATURES)
    assert [(out / file).read_bytes() for file in table["file"][table["temperature"] == 1]] == plain[:2]
    likeliest, rarest = (table[table["temperature"] == value]["log_likelihood_bits"].mean()
                         for value in (min(predict.TEMPERATURES), max(predict.TEMPERATURES)))
    assert likeliest > rarest


def test_both_ways_lead_from_one_sample_to_the_other(run_predict, plain):
    out = run_predict("--interpolate", "--num-images", 5, *CONDITIONS)
    for way in ("mixed", "turned"):
        assert [(out / f"{way}_{i:05d}.png").read_bytes() for i in (0, 4)] == plain[:2]
    assert list(pd.read_csv(out / "interpolation.csv")["way"]) == ["mixed"] * 5 + ["turned"] * 5


# ---- synthetic lesions --------------------------------------------------------------------------


@pytest.mark.parametrize("edge", lesions.EDGES)
def test_a_lesion_is_half_as_strong_at_its_radius(edge):
    shape = lesions.profile((41, 41), (20, 20), 6, edge)
    assert shape[20, 20] == 1 and shape[20, 26] == pytest.approx(0.5) and shape[20, 33] < 0.05
    assert np.array_equal(shape, shape[::-1, ::-1])


def test_lesions_stay_in_the_brain_and_have_their_sign():
    crop, brain = np.full((30, 30), 128, np.uint8), np.zeros((30, 30), bool)
    brain[:, :16] = True
    for sign, way in (("bright", 1), ("dark", -1), (predict.NONE, 0)):
        painted, truth = lesions.paint(crop, brain, lesions.Lesion(0, 6, sign, "sharp"), (15, 14))
        assert np.array_equal(painted[~brain], crop[~brain]) and truth[15, 14] and not truth[~brain].any()
        assert painted[15, 14] == pytest.approx(128 + way * 255 * lesions.CONTRAST, abs=1)


def test_a_perfect_map_has_an_auc_of_one_and_a_constant_one_of_a_half():
    brain = np.ones((8, 8), bool)
    truth = np.zeros((1, 8, 8), bool)
    truth[0, 2:4, 2:4] = True
    table = lesions.measure([lesions.Lesion(0, 3, "dark", "sharp")], ["p"], truth, {0: brain},
                            {"perfect": truth.astype(float), "constant": np.zeros(truth.shape)})
    assert list(table["auc"]) == [1, 0.5] and list(table["average_precision"]) == [1, 4 / 64]


def test_likelier_lesions_are_told():
    kinds = [lesions.Lesion(0, 3, sign, "sharp") for sign in (predict.NONE, "bright", "dark")]
    truths = np.zeros((3, 8, 8), bool)
    truths[:, :4, :4] = True
    bits = np.stack([np.full((2, 2), value) for value in (5.0, 4, 6)])
    bits[1, 1, 1] = 99  # not a cell of the lesion
    assert lesions.likelier(kinds, truths, bits) == [False, True, False]


def test_lesions_of_the_tiny_run(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")  # the look at test people is noted in it
    lesions.main(["--run", str(run), "--slices", "1", "--heal", "--out", str(tmp_path / "lesions.csv"),
                  "--examples", str(tmp_path / "examples")])
    table = pd.read_csv(tmp_path / "lesions.csv", dtype={"person": str})
    assert {"all", "106", "107"} == set(table["person"]) and set(table["radius"]) == {"all", "3", "6", "12"}
    assert set(table["map"]) >= {"z", "|z|", "reconstruction error", "slice - healed"}
    assert table["auc"].between(0, 1).all() and (run / "test_looks.csv").is_file()
    assert len(list((tmp_path / "examples").iterdir())) == 8 and (tmp_path / "examples.png").is_file()
