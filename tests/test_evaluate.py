"""The evaluation: set statistics, null bands and audit where the answer is known; the script on a tiny run."""

import importlib.util
import json
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import make_slices
from PIL import Image

import evaluate
import metrics
from utils import UserError


def brains(people, slices=4, size=(48, 40), seed=0, prefix="p"):
    """An ImageSet of ellipses with folds; what a person looks like hardly changes from slice to slice."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    images, label, position, person = [], [], [], []
    for i in range(people):
        random = np.random.default_rng([seed, i])
        waves = random.normal(0, 0.35, (4, 3))
        for number in range(slices):
            radius = np.hypot((rows - size[0] / 2) / (16 + number), (columns - size[1] / 2) / 16)
            folds = sum(np.sin(a * rows + b * columns + 6 * c) for a, b, c in waves)
            image = (120 + 25 * folds) * (radius < 1) + random.normal(0, 3, size) * (radius < 1)
            images.append(np.clip(image, 0, 255).astype(np.uint8))
            label.append(1 + i % 2)
            position.append(number)
            person.append(f"{prefix}{i}")
    return metrics.ImageSet(np.stack(images), np.array(label), np.array(position), np.array(person))


@pytest.fixture(scope="module")
def measured():
    """A yardstick, and three described sets of different people."""
    training = brains(12, seed=1)
    yardstick = metrics.Yardstick(training)
    return SimpleNamespace(training=training, yardstick=yardstick, pool=yardstick.describe(training),
                           reference=yardstick.describe(brains(6, seed=2, prefix="r")),
                           others=yardstick.describe(brains(6, seed=3, prefix="o")))


# ---- set statistics ---------------------------------------------------------------------------


def test_frechet_distance_takes_in_every_feature():
    features = np.random.default_rng(0).normal(size=(200, 64))
    moved = features.copy()
    moved[:, 16:] += 100
    assert metrics.frechet_distance(features, moved) == pytest.approx(48 * 100**2)


def test_frechet_distance_of_shifted_and_scaled_gaussians():
    random = np.random.default_rng(0)
    first = random.normal(0, 1, (40000, 4))
    assert metrics.frechet_distance(first, first) == pytest.approx(0, abs=1e-6)
    assert metrics.frechet_distance(first, first + 2) == pytest.approx(4 * 2**2, rel=1e-6)
    assert metrics.frechet_distance(first, 3 * first) == pytest.approx(4 * (3 - 1) ** 2, rel=0.02)


def test_kernel_distance_is_unbiased_and_leaves_out_pairs_of_one_person():
    random = np.random.default_rng(0)
    values = []
    for _ in range(200):
        first, second = random.normal(size=(2, 20, 3))
        values.append(metrics.kernel_distance(first, second, np.arange(20), np.arange(20)))
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)  # 0 on average, though never negative if biased
    people = random.normal(size=(10, 3))
    twins = np.repeat(people, 2, axis=0)  # two identical slices a person
    person = np.repeat(np.arange(10), 2)
    expected = metrics.kernel_distance(people, people[:5], np.arange(10), np.arange(5))
    assert metrics.kernel_distance(twins, people[:5], person, np.arange(5)) == pytest.approx(expected)


def test_two_sample_auc_is_chance_for_shuffled_people_and_one_for_other_images(measured):
    everyone = measured.yardstick.describe(brains(24, seed=4))
    odd = np.isin(everyone.person, [f"p{i}" for i in range(0, 24, 2)])
    assert metrics.two_sample_auc(everyone.take(odd), everyone.take(~odd)) < 0.85
    noise = measured.yardstick.describe(evaluate.as_samples(measured.reference, np.random.default_rng(0).integers(
        0, 255, measured.reference.images.shape).astype(np.uint8)))
    assert metrics.two_sample_auc(measured.reference, noise) == pytest.approx(1, abs=0.01)


def test_the_slices_of_a_person_share_a_fold():
    """Slices that tell who, but not which side: a classifier that has seen the person would know the side."""
    random = np.random.default_rng(0)
    who = random.normal(0, 1, (40, 8)).repeat(5, axis=0) + random.normal(0, 0.01, (200, 8))
    images = np.zeros((100, 4, 4))
    sides = [SimpleNamespace(images=images, shape=who[half], texture=who[half], person=np.repeat(np.arange(20), 5))
             for half in (slice(0, 100), slice(100, 200))]
    strangers = [SimpleNamespace(**{**vars(side), "person": np.arange(100)}) for side in sides]
    assert metrics.two_sample_auc(*strangers) > 0.95  # the mistake: every slice a person of its own
    assert metrics.two_sample_auc(*sides) < 0.8


def test_precision_and_coverage_are_those_of_the_reference_package():
    prdc = pytest.importorskip("prdc")
    real, fake = np.random.default_rng(0).normal(size=(2, 60, 5))
    fake += 0.5
    ours = metrics.manifold_metrics(real, fake, np.arange(60), np.arange(60), 5)
    assert ours == pytest.approx(prdc.compute_prdc(real, fake, nearest_k=5))


def test_radii_reach_to_the_kth_person_not_slice():
    features = np.array([[0.0], [0.1], [0.2], [1.0], [1.5], [4.0]])
    person = np.array(["a", "a", "a", "b", "b", "c"])
    assert metrics.nearest_person_radii(features, person, 1) == pytest.approx([1, 0.9, 0.8, 0.8, 1.3, 2.5])
    assert metrics.nearest_person_radii(features, person, 2)[0] == pytest.approx(4)


def test_patch_distance_is_zero_for_the_same_images_and_grows_with_noise(measured):
    patches = measured.reference.patches
    assert metrics.patch_distance(patches, patches) == 0
    noisy = [patches + np.random.default_rng(0).normal(0, sd, patches.shape) for sd in (0.5, 2)]
    assert 0 < metrics.patch_distance(patches, noisy[0]) < metrics.patch_distance(patches, noisy[1])


def test_variety_of_one_image_repeated_is_zero_and_needs_two_people(measured):
    same = evaluate.as_samples(measured.reference, np.repeat(measured.reference.images[:1], 24, axis=0))
    assert metrics.variety(same) == pytest.approx(0, abs=1e-12)
    assert metrics.variety(measured.reference) > 0.1
    assert metrics.variety(measured.reference.take(measured.reference.person == "r0")) is None


def test_anatomy_where_training_people_have_none_is_bounded():
    training, others = brains(12, seed=1), brains(6, seed=2, prefix="o")
    yardstick = metrics.Yardstick(training)
    flat, round_hole = yardstick.describe(training), yardstick.describe(others)
    flat.anatomy[:, 4] = 0
    assert metrics.anatomy_metrics(round_hole, flat)[f"{metrics.ANATOMY[4]}_effect"] is None
    training.images[training.images > 0] = 120  # discs without tissues: nothing differs at a position
    assert np.nanmax(np.abs(metrics.Yardstick(training).describe(others).anatomy)) < 1e6


def test_anatomy_of_the_same_people_does_not_differ(measured):
    differences = metrics.anatomy_metrics(measured.reference, measured.reference)
    assert differences["asymmetry_effect"] == pytest.approx(0)
    assert all(value == pytest.approx(0) for value in differences.values() if value is not None)


def test_identical_sets_are_no_distance_apart(measured):
    values = metrics.set_distances(measured.reference, measured.reference, measured.reference,
                                   measured.yardstick.shape_rms)
    assert values["frechet"] == pytest.approx(0, abs=1e-6) and values["patches"] == 0


def test_jackknife_leaves_out_people(measured):
    arguments = measured.others, measured.reference, measured.reference, measured.yardstick.shape_rms
    interval = metrics.jackknife(*arguments)["frechet"]
    assert interval["low"] < interval["value"] < interval["high"]
    assert interval["value"] == metrics.set_distances(*arguments)["frechet"]


@pytest.mark.parametrize(("positive", "negative", "auc"), [([2, 3], [0, 1], 1), ([0, 1], [0, 1], 0.5), ([0], [1], 0)])
def test_auc(positive, negative, auc):
    measured = metrics.auc_interval(positive, negative)
    assert measured["value"] == auc and measured["low"] <= auc <= measured["high"]
    assert measured["low"] < measured["high"]


def test_label_difference():
    values, label = np.array([1.0, 3, 0, 2, 9]), np.array([1, 1, 2, 2, 2])
    difference = metrics.mean_difference(values, label, np.array(["a", "b", "c", "d", "d"]))  # people: 1, 3; 0, 5.5
    assert difference["value"] == pytest.approx(2 - 2.75)
    assert metrics.mean_difference(values[:3], label[:3], np.array(["a", "b", "c"])) is None


# ---- null bands -------------------------------------------------------------------------------


def test_null_draws_have_the_labels_and_positions_of_the_reference_and_whole_people(measured):
    drawn, rows = evaluate.draw_null(measured.pool, measured.reference, seed=0, draw=3)
    assert np.array_equal(drawn.label, measured.reference.label)
    assert np.array_equal(measured.pool.label[rows], measured.reference.label)
    assert np.array_equal(measured.pool.position[rows], measured.reference.position)
    pairs = set(zip(measured.reference.person, drawn.person, strict=True))
    assert len(pairs) == 6 == len({who for _, who in pairs})  # one person for each, none twice
    again, _ = evaluate.draw_null(measured.pool, measured.reference, seed=0, draw=3)
    assert np.array_equal(again.person, drawn.person)


def test_null_of_the_two_sample_auc_is_near_chance_only_when_people_share_a_fold(measured):
    draws = [evaluate.draw_null(measured.pool, measured.reference, 0, draw)[0] for draw in range(4)]
    grouped = np.mean([metrics.two_sample_auc(measured.reference, drawn) for drawn in draws])
    for drawn in draws:
        drawn.person = np.arange(len(drawn.person)).astype(str)
    reference = measured.reference.take(slice(None))
    reference.person = np.arange(len(reference.person)).astype(str)
    torn = np.mean([metrics.two_sample_auc(reference, drawn) for drawn in draws])
    assert torn > grouped + 0.1 and torn > 0.9


def test_null_of_the_nearest_distance_leaves_out_the_same_person(measured):
    search = evaluate.CopySearch(measured.training)
    unseen, _ = search.nearest(measured.reference, "unseen")
    left_out, rows = search.nearest(measured.training, "left out")
    assert (measured.training.person[rows] != measured.training.person).all()
    assert np.median(left_out) / np.median(unseen) == pytest.approx(1, abs=0.25)
    torn, _ = search.nearest(evaluate.as_samples(measured.training, measured.training.images), "not left out")
    assert torn.max() < 0.01


def test_band():
    assert evaluate.band([*range(101), None]) == pytest.approx({"value": 50, "low": 5, "high": 95})
    assert evaluate.band([None]) is None


# ---- baselines --------------------------------------------------------------------------------


def coded(codes, subjects, positions):
    return {"codes": np.array(codes), "slices": pd.DataFrame({"subject": subjects}),
            "columns": {"position": np.array(positions), "label": np.ones(len(positions), int)}}


def test_positional_baseline_against_counting_by_hand():
    training = coded([[[0, 1]], [[0, 0]], [[1, 1]]], ["a", "b", "c"], [1, 1, 5])
    baseline = evaluate.PositionalBaseline(training, None, 2)
    unigram = np.array([4, 4]) / 8  # three of each, and one added
    assert baseline.unigram == pytest.approx(unigram)
    expected = -np.log2(0.5 * np.array([2 / 2, 1 / 2]) + 0.5 * 0.5)
    assert baseline.bits(coded([[[0, 1]]], ["d"], [1]), weight=0.5)[0, 0] == pytest.approx(expected)


def test_positional_baseline_leaves_out_the_person_who_is_scored():
    random = np.random.default_rng(0)
    training = coded(random.integers(0, 4, (20, 3, 5)), [f"p{i // 2}" for i in range(20)], [1, 2] * 10)
    everyone = evaluate.PositionalBaseline(training, None, 4)
    kept = np.arange(2, 20)
    others = evaluate.PositionalBaseline({**coded(training["codes"][kept], training["slices"]["subject"][kept],
                                                  training["columns"]["position"][kept])}, None, 4)
    others.unigram = everyone.unigram
    first = coded(training["codes"][:2], ["p0", "p0"], [1, 2])
    assert everyone.bits(training, 0.7, counted=True)[:2] == pytest.approx(others.bits(first, 0.7))


def test_positional_draws_follow_the_counts():
    training = coded([[[2, 0]]] * 50, [f"p{i}" for i in range(50)], [1] * 50)
    baseline = evaluate.PositionalBaseline(training, training, 3)
    drawn = baseline.draw({"position": np.ones(300, int)}, np.random.default_rng(0))
    assert drawn.shape == (300, 1, 2) and (drawn == [2, 0]).mean() > 0.95


def test_gaussian_images_have_the_mean_of_their_position(measured):
    conditions = SimpleNamespace(position=np.repeat([0, 3], 400))
    drawn = evaluate.gaussian_images(measured.training, conditions, 0) / 255
    for half, position in ((drawn[:400], 0), (drawn[400:], 3)):
        mean = measured.training.images[measured.training.position == position].mean(axis=0) / 255
        inside = (mean > 0.3) & (mean < 0.7)  # where clipping at black and white does not move the mean
        assert np.abs(half.mean(axis=0) - mean)[inside].max() < 0.05


# ---- memorisation -----------------------------------------------------------------------------


def test_planted_copies_are_found_whatever_their_shift_mirror_and_gain(measured):
    search, random = evaluate.CopySearch(measured.training), np.random.default_rng(0)
    rows = random.integers(0, 48, 20)
    copies = evaluate.shift_and_gain(measured.training.images[rows][..., ::-1], random)
    distance, found = search.nearest(evaluate.as_samples(measured.training.take(rows), copies), "copies")
    assert np.array_equal(found, rows)
    unseen, _ = search.nearest(measured.reference, "unseen")
    assert distance.max() < unseen.min()


def audit(measured, samples, codes=None):
    """measure_memorisation of samples, with planted copies as for folders."""
    random = np.random.default_rng(1)
    rows = random.integers(0, len(measured.training.images), 40)
    planted = measured.training.take(rows)
    planted.images, planted.person = evaluate.shift_and_gain(planted.images, random), np.full(40, "planted")
    return evaluate.measure_memorisation(SimpleNamespace(
        reference=measured.reference, pool=measured.pool, search=measured.training, search_codes=codes,
        planted=planted, all_samples=samples), 0)


def test_one_per_cent_of_copies_among_a_thousand_samples_is_found():
    training, sound = brains(60, seed=1), brains(250, seed=5, prefix="s")
    measured = SimpleNamespace(training=training, pool=training, reference=brains(30, seed=2, prefix="r"))
    everyone = evaluate.as_samples(sound, sound.images.copy())
    result, _ = audit(measured, everyone)
    assert not result["flagged"] and result["verdict"].startswith("no copies found by a search that finds 95 %")
    everyone.images[:10] = measured.training.images[:40:4]
    result, nearest = audit(measured, everyone)
    assert result["flagged"] and result["verdict"].startswith("copies found")
    assert result["copies_fraction"] == pytest.approx(0.01, abs=0.002) and result["people_copied"] == 10
    assert {sample for sample, _, _ in nearest} == set(range(10))


def test_an_audit_that_cannot_tell_says_so(measured):
    blind = SimpleNamespace(**vars(measured))
    blind.reference = measured.reference.take(slice(None))
    blind.reference.images = measured.training.images[:24].copy()  # "unseen" people who look like training people
    result, _ = audit(blind, evaluate.as_samples(measured.others, measured.others.images))
    assert result["audit_false_alarm"] == 1 and result["verdict"].startswith("cannot tell")


def test_windows_of_codes():
    random = np.random.default_rng(0)
    training = random.integers(0, 50, (6, 12, 14))
    query = random.integers(0, 50, (2, 12, 14))
    query[1, 2:, 3:13] = training[4, 2:, 3:13]  # ten by ten codes of one grid
    found = evaluate.nearest_windows(query, training)
    assert found[0] < 0.2 and found[1] == 1
    assert evaluate.nearest_windows(training[:1], training, lambda _: np.array([0]))[0] < 0.2
    assert evaluate.nearest_windows(training[:1, :5, :5], training[:, :5, :5])[0] == 1  # smaller than a window


# ---- usefulness -------------------------------------------------------------------------------


def labelled(people, seed, contrast):
    """Brains whose labels differ by brightness, or not."""
    images = brains(people, seed=seed, prefix=f"u{seed}-")
    images.images = np.clip(images.images * np.where(images.label == 1, 1, 1 - contrast)[:, None, None], 0, 255
                            ).astype(np.uint8)
    return images


@pytest.mark.parametrize("contrast", [0.5, 0.0])
def test_usefulness_is_assessed_only_where_real_labels_are_separable(contrast):
    training, unseen, samples = (labelled(16, seed, contrast) for seed in (1, 2, 3))
    yardstick = metrics.Yardstick(training)
    sets = SimpleNamespace(pool=training, pool_originals=training, originals=unseen, samples=[samples])
    result = evaluate.measure_usefulness(sets, yardstick)
    if contrast:
        assert result["auc_real"]["value"] > 0.9 and result["auc_samples"]["value"] > 0.9
    else:
        assert result["auc_samples"] is None and "not separable" in result["auc_samples_why"]


# ---- the script -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(finished_run, tmp_path_factory):
    """A copy of the tiny run, evaluated."""
    folder = tmp_path_factory.mktemp("evaluated") / "tiny"
    shutil.copytree(finished_run, folder)
    assert "not yet measured" in (folder / "MODEL_CARD.md").read_text()
    evaluate.main(["--run", str(folder), "--num-samples", "20"])
    return folder


def check_metrics(values):
    """Every metric is a finite number, an interval, words, or null with its reason beside it."""
    for name, value in values.items():
        if value is None:
            assert values[f"{name}_why"], name
        elif isinstance(value, dict) and "value" in value:
            assert set(value) == {"value", "low", "high"} and all(map(np.isfinite, value.values())), name
        elif isinstance(value, dict):
            check_metrics(value)
        elif not isinstance(value, str | list):
            assert np.isfinite(value), name


def test_evaluation_of_a_tiny_run(evaluated):
    measured = json.loads((evaluated / "metrics.json").read_text())
    check_metrics({name: value for name, value in measured.items() if name != "commit"})
    assert measured["split"] == "validation" and "n = 2 people: exploratory" in measured["notes"]
    for section, keys in {
            "reconstruction": "ssim psnr mae ms_ssim ssim_brain psnr_brain mae_brain spectrum_gap frc_resolution "
                              "tissue_dice ssim_brain_sd",
            "rate": "bits_per_image bits_per_image_unigram bits_per_image_prior",
            "codebook": "perplexity perplexity_brain used_fraction largest_share",
            "prior": "bits_per_code_train bits_per_code_validation bits_per_code_test uniform_bits_per_code "
                     "unigram_bits_per_code positional_bits_per_code positional_bits_per_code_brain bits_per_pixel",
            "samples": "frechet frechet_real kid c2st patches precision recall density coverage diversity "
                       "diversity_reconstruction anatomy frechet_null frechet_positional frechet_gaussian",
            "memorisation": "audit_false_alarm copies_fraction copies_local people_copied nn_ratio membership_auc",
            "usefulness": "auc_real auc_samples auc_both"}.items():
        assert set(keys.split()) <= set(measured[section]), section
    assert not (evaluated / "test_looks.csv").exists()
    assert "not yet measured" not in (evaluated / "MODEL_CARD.md").read_text()
    assert pd.read_csv(evaluated / "people.csv")["subject"].nunique() == 2


def test_a_second_evaluation_uses_the_cache_and_agrees(evaluated, tmp_path):
    first = json.loads((evaluated / "metrics.json").read_text())
    cached = {path.name: path.stat().st_mtime_ns for path in (evaluated / "cache").iterdir()}
    evaluate.main(["--run", str(evaluated), "--num-samples", "20"])
    second = json.loads((evaluated / "metrics.json").read_text())
    assert first == second
    assert cached == {path.name: path.stat().st_mtime_ns for path in (evaluated / "cache").iterdir()}


def test_cached_codes_take_two_bytes_and_come_back_as_they_were(evaluated):
    run = evaluate.Run(evaluate.parse_flags(["--run", str(evaluated)]), prior=False)
    for highest, kept in ((2**15 - 1, np.int16), (2**15, np.int32)):
        codes = np.array([[0, highest]], np.int32)
        for _ in range(2):  # computed, then read
            found = run.cached("codes-of-a-test", str(highest), lambda codes=codes: codes)
            assert found.dtype == np.int32 and (found == codes).all()
        (path,) = (evaluated / "cache").glob("codes-of-a-test-*")
        assert np.load(path)["values"].dtype == kept
        path.unlink()


@pytest.fixture(scope="module")
def looked(evaluated, tmp_path_factory):
    """A copy of the tiny run, evaluated on its test people with what is known of them."""
    folder = tmp_path_factory.mktemp("looked") / "tiny"
    shutil.copytree(evaluated, folder)
    subjects = sorted(set(pd.read_csv(folder / "slices.csv", dtype=str)["subject"]))
    table = pd.DataFrame({"Image Data ID": subjects, "Subject": subjects, "Sex": ["F", "M"] * 4, "Age": range(60, 68)})
    table.to_csv(folder / "adni.csv", index=False)
    evaluate.main(["--run", str(folder), "--split", "test", "--quick", "--metadata", str(folder / "adni.csv")])
    return folder


def test_test_people_are_counted_as_looks(looked):
    looks = pd.read_csv(looked / "test_looks.csv")
    assert list(looks) == ["date", "commit", "command"] and len(looks) == 1
    assert "--split test" in looks["command"][0]
    evaluate.note_look(looked, "once more")
    assert list(pd.read_csv(looked / "test_looks.csv")["command"])[1] == "once more"
    measured = json.loads((looked / "metrics.json").read_text())
    assert isinstance(measured["prior"]["bits_per_code_test"], dict)
    assert measured["samples"]["frechet_spread"] is None and "quick" in measured["samples"]["frechet_spread_why"]


def test_a_split_too_large_for_sets_is_thinned_by_person_and_says_so(evaluated, tmp_path, monkeypatch):
    folder = tmp_path / "tiny"
    shutil.copytree(evaluated, folder)
    slices = pd.read_csv(folder / "slices.csv", dtype=str)
    training = slices.loc[slices["split"] == "train", "subject"].unique()
    slices.loc[slices["subject"].isin(training[:2]), "split"] = "test"  # four people now
    slices.to_csv(folder / "slices.csv", index=False)
    monkeypatch.setattr(evaluate, "SET_SLICES", 6)
    evaluate.main(["--run", str(folder), "--split", "test", "--quick", "--num-samples", "20"])
    notes = json.loads((folder / "metrics.json").read_text())["notes"]
    assert any(note.startswith("sets are compared on the 8 slices") and "12, of the 16" in note for note in notes)
    people = pd.read_csv(folder / "people.csv")
    assert len(people) == 4 and people["bits_per_code"].notna().sum() == 3 and people["ssim_brain"].notna().all()


def test_metadata_gives_tables_by_sex_and_age(looked):
    cohort = json.loads((looked / "metrics.json").read_text())["cohort"]
    assert sum(split["people"] for split in cohort["splits"].values()) == 8
    assert sum(row["people"] for row in cohort["by_sex"].values()) == 2


def test_metadata_is_joined_by_image_where_people_are_image_ids(tmp_path):
    slices = pd.DataFrame({"subject": ["1", "2", "3"], "split": ["train", "train", "test"]})
    run = SimpleNamespace(slices=slices, config={"metadata": None})
    pd.DataFrame({"Image Data ID": ["I1", "I2", "I9"], "Subject": ["002_S_1", "005_S_2", "002_S_1"]}).to_csv(
        tmp_path / "adni.csv", index=False)
    table = evaluate.read_metadata(tmp_path / "adni.csv", run)
    assert list(table["subject"]) == ["1", "2"] and list(table["site"]) == ["002", "005"]
    assert evaluate.read_metadata(None, run) is None
    run.config["metadata"] = str(tmp_path / "gone.csv")
    assert evaluate.read_metadata(None, run) is None
    run.slices = slices.assign(subject=["7", "8", "X"])
    with pytest.raises(UserError, match="lists none of the run's people, such as 7"):
        evaluate.read_metadata(tmp_path / "adni.csv", run)


def test_report_is_one_file_and_marked(evaluated):
    page = (evaluated / "report.html").read_text()
    assert "contains participants" in page and "data:image/png;base64," in page
    assert "http://" not in page and "https://" not in page and "<script" not in page and "<link" not in page
    for name in ("reconstructions", "samples_by_position", "nearest_neighbours", "null_bands", "spectrum", "bits_map",
                 "learning_curves", "codebook"):
        image = np.asarray(Image.open(evaluated / "figures" / f"{name}.png").convert("L"))
        assert image.std() > 5, name


@pytest.mark.skipif(not (shutil.which("chromium") or shutil.which("google-chrome")), reason="there is no browser")
def test_report_in_a_headless_browser(evaluated, tmp_path):
    browser, picture = shutil.which("chromium") or shutil.which("google-chrome"), tmp_path / "page.png"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--screenshot={picture}",
               "--window-size=420,2400", f"--user-data-dir={tmp_path}", f"file://{evaluated / 'report.html'}"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    page = np.asarray(Image.open(picture).convert("L"))
    assert page.shape[1] == 420 and (page < 100).any() and (page > 250).any()
    dumped = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
                             "--dump-dom", f"file://{evaluated / 'report.html'}"], check=True, capture_output=True,
                            text=True, timeout=60).stdout
    assert dumped.count("<img") == 8 and "All numbers" in dumped


def test_shareable_report_has_no_participant_and_is_refused_with_copies(tmp_path):
    import report

    metrics_of = {"run": "x", "split": "validation", "people": 9, "slices": 9, "date": "today", "command": "c",
                  "seed": 0, "commit": None, "notes": [], "samples": {"anatomy": {}},
                  "memorisation": {"verdict": "copies found"}}
    sets = SimpleNamespace(originals=brains(3), reference=brains(3), samples=[brains(3)], all_samples=brains(3),
                           search=brains(3), labels=["AD", "NC"])
    pictures = {"sets": sets, "neighbours": [(0, 1, 0.5)]}
    (tmp_path / "report_shareable.html").write_text("of an earlier evaluation")
    assert "share nothing" in report.write_report(tmp_path, {}, metrics_of, pictures, shareable=True)
    assert (tmp_path / "report.html").exists() and not (tmp_path / "report_shareable.html").exists()
    metrics_of["memorisation"]["verdict"] = "no copies found by a search"
    assert report.write_report(tmp_path, {}, metrics_of, pictures, shareable=True) is None
    page = (tmp_path / "report_shareable.html").read_text()
    assert page.count("<img") == 3 and "training slice" not in page.split("<h2>All numbers")[0].split("<h2>Pictures")[1]
    assert (tmp_path / "report.html").read_text().count("<img") == 4


def test_comparison_is_paired_by_person(evaluated, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(evaluated, other)
    people = pd.read_csv(other / "people.csv")
    people["bits_per_code"] += [1.0, 1.5]
    people.to_csv(other / "people.csv", index=False)
    evaluate.main(["--compare", str(evaluated), str(other), "--out", str(tmp_path / "compared")])
    paired = pd.read_csv(tmp_path / "compared/paired.csv").set_index("metric")
    assert paired.loc["bits_per_code", "difference"] == pytest.approx(1.25)
    assert paired.loc["ssim_brain", "difference"] == 0
    assert len(pd.read_csv(tmp_path / "compared/comparison.csv")) == 2
    assert (tmp_path / "compared/comparison.png").stat().st_size > 1000


def test_only_different_whole_evaluations_are_compared(evaluated, tmp_path):
    with pytest.raises(UserError, match="names one run twice"):
        evaluate.main(["--compare", str(evaluated), str(evaluated)])
    other = tmp_path / "other"
    shutil.copytree(evaluated, other)
    (other / "people.csv").unlink()
    with pytest.raises(UserError, match="incomplete"):
        evaluate.main(["--compare", str(evaluated), str(other)])


def save(folder, images):
    for image, label, position, person in zip(images.images, images.label, images.position, images.person, strict=True):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / str(label) / f"{person}_{position}.png")
    return str(folder)


def test_folders_of_any_generator(tmp_path):
    training, real = brains(10, seed=1, prefix="t"), brains(6, seed=2, prefix="r")
    copies = brains(6, seed=2, prefix="g")
    copies.images = training.images[:24]
    flags = ["--real", save(tmp_path / "real", real), "--train", save(tmp_path / "train", training),
             "--generated", save(tmp_path / "copies", copies), "--out", str(tmp_path / "out")]
    evaluate.main(flags)
    measured = json.loads((tmp_path / "out/metrics.json").read_text())
    check_metrics({name: value for name, value in measured.items() if name != "commit"})
    assert measured["memorisation"]["flagged"] and measured["memorisation"]["copies_fraction"] == 1
    assert "prior" not in measured and "reconstruction" not in measured
    evaluate.main([*flags[:2], *flags[4:6], "--out", str(tmp_path / "without")])
    without = json.loads((tmp_path / "without/metrics.json").read_text())
    assert without["samples"]["frechet_null"] is None and "memorisation" not in without


def test_generated_images_of_predict_tell_their_label_and_position(finished_run, tmp_path):
    import predict

    slices_folder = make_slices(tmp_path / "slices", size=(32, 40))
    predict.main(["--run", str(finished_run), "--num-images", "12", "--out", str(tmp_path / "samples")])
    evaluate.main(["--real", str(slices_folder / "test"), "--generated", str(tmp_path / "samples"),
                   "--train", str(slices_folder / "train"), "--out", str(tmp_path / "out")])
    assert not any("unknown" in note for note in json.loads((tmp_path / "out/metrics.json").read_text())["notes"])


@pytest.mark.parametrize(("flags", "sentence"), [
    (["--run", "nowhere"], "there is no run at"),
    (["--real", "a"], "belong together"),
    (["--compare", "one"], "two runs or more"),
    (["--real", "nowhere", "--generated", "nowhere"], "does not exist"),
    (["--real", "{data}", "--generated", "{empty}"], "no PNG or JPEG image"),
    (["--real", "{data}/test", "--generated", "{other_size}"], "different sizes"),
    (["--real", "{data}/test", "--generated", "{data}/test", "--train", "{data}"], "share 2 people"),
    (["--real", "{data}/train/AD/one", "--generated", "{data}/test"], "does not exist"),
    (["--compare", "{run}", "{run}"], "has no metrics.json"),
    (["--compare", "a", "b", "--quick"], "--quick does not go with --compare"),
    (["--run", "a", "--out", "b"], "--out does not go with a run"),
    (["--real", "a", "--generated", "b", "--shareable"], "--shareable needs --train"),
    (["--run", "{run}", "--split", "test", "--metadata", "{data}/nothing.csv"], "nothing.csv cannot be read"),
    (["--run", "{run}", "--features", "inception", "--quick"], "needs 2,048 images"),
    (["--run", "{run}", "--features", "nothing.npy", "--quick"], "cannot be read"),
])
def test_mistakes_are_one_sentence(flags, sentence, finished_run, slices_folder, tmp_path, monkeypatch):
    run = tmp_path / "copy"
    shutil.copytree(finished_run, run)
    (tmp_path / "empty").mkdir()
    places = {"data": slices_folder, "run": run, "empty": tmp_path / "empty",
              "other_size": save(tmp_path / "other", brains(3))}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence) as raised:
        evaluate.main([flag.format(**places) for flag in flags])
    assert "\n" not in str(raised.value)
    assert not (run / "metrics.json").exists() and not (run / "test_looks.csv").exists()


def test_too_few_people_are_refused(finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    slices = pd.read_csv(folder / "slices.csv", dtype=str)
    held_out = slices["subject"][slices["split"] == "validation"].unique()
    slices[slices["subject"] != held_out[0]].to_csv(folder / "slices.csv", index=False)
    with pytest.raises(UserError, match="fewer than two validation people"):
        evaluate.main(["--run", str(folder)])


def test_packages_of_the_evaluation_are_required():
    assert all(importlib.util.find_spec(name) for name in ("ot", "sklearn"))
