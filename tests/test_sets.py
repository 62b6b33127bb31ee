"""Sets of images: how they are described, and how far apart they lie, where the answer is known."""

from dataclasses import fields, replace
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from metrics.anatomy import ANATOMY, anatomy_effects, lopsided, mean_difference
from metrics.distances import (
    Features,
    detail_auc,
    frechet_distance,
    held_out_scores,
    kernel_distance,
    manifold_metrics,
    nearest_person_radii,
    noise_ratio,
    patch_distance,
    spectrum_metrics,
    t_interval,
    two_sample_aucs,
    variety,
)
from metrics.measured import ImageSet, as_samples, replace_images
from metrics.people import auc_interval, jackknife
from metrics.sets import DescribedSet, Yardstick


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
    return ImageSet(np.stack(images), np.array(label), np.array(position), np.array(person))


@lru_cache(1)
def measure_brains():
    """A yardstick, and three described sets of different people."""
    training = brains(12, seed=1)
    yardstick = Yardstick(training)
    return SimpleNamespace(
        training=training,
        unseen=brains(6, seed=2, prefix="r"),
        yardstick=yardstick,
        pool=yardstick.describe(training),
        reference=yardstick.describe(brains(6, seed=2, prefix="r")),
        others=yardstick.describe(brains(6, seed=3, prefix="o")),
    )


@pytest.fixture(scope="module")
def measured():
    return measure_brains()


def features(values, person=None):
    """Features whose rows are people of their own, unless told."""
    return Features(np.asarray(values), np.arange(len(values)) if person is None else person)


def seen(shape, person=None, **others):
    """What stands for a DescribedSet: its shape (N, C), whose slices they are, and what else is asked for."""
    person = np.arange(len(shape)) if person is None else person
    return DescribedSet(
        **dict.fromkeys((field.name for field in fields(DescribedSet)), np.zeros(len(shape)))
        | {"shape": np.asarray(shape), "person": person}
        | others
    )


def test_frechet_distance_takes_in_every_feature():
    values = np.random.default_rng(0).normal(size=(200, 64))
    moved = values.copy()
    moved[:, 16:] += 100
    assert frechet_distance(features(values), features(moved)) == pytest.approx(48 * 100**2)


def test_frechet_distance_of_shifted_and_scaled_gaussians():
    first = np.random.default_rng(0).normal(0, 1, (40000, 4))
    assert frechet_distance(features(first), features(first)) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(features(first), features(first + 2)) == pytest.approx(4 * 2**2, rel=1e-6)
    assert frechet_distance(features(first), features(3 * first)) == pytest.approx(4 * (3 - 1) ** 2, rel=0.02)


def test_the_jackknife_takes_the_bias_off_a_distance():
    random = np.random.default_rng(0)
    pairs = [[features(side) for side in random.normal(size=(2, 60, 8))] for _ in range(100)]
    plain = np.array([frechet_distance(*pair) for pair in pairs])
    corrected = np.array([jackknife(frechet_distance, pair)[0] for pair in pairs])
    assert plain.min() > 0.2  # two sets of one population
    assert abs(corrected.mean()) < 0.1 * plain.mean()


def test_the_interval_of_a_mean_is_that_of_students_t():
    values = np.random.default_rng(0).normal(size=12)
    estimate, error, freedom = jackknife(lambda one: float(one.values.mean()), [features(values)])
    assert (estimate, error) == pytest.approx((values.mean(), values.std(ddof=1) / np.sqrt(12))) and freedom == 11
    interval = t_interval(estimate, error, freedom)
    assert interval["low"] == pytest.approx(stats.t.interval(0.95, 11, estimate, error)[0])


def test_the_jackknife_leaves_out_people_of_all_sets_at_once():
    asked = []

    def count(*sets):
        asked.append([len(one.person) for one in sets])
        return 0.0

    people = np.repeat(np.arange(6), 4)  # four slices a person
    assert jackknife(count, [features(people, people), features(np.arange(12))])[2] == 5
    assert asked == [[24, 12], *[[20, 10]] * 6]
    assert jackknife(count, [features([1.0, 2.0])]) == (0.0, None, 0)
    assert t_interval(0.0, None, 0) == 0.0


def test_kernel_distance_is_unbiased_and_leaves_out_pairs_of_one_person():
    random = np.random.default_rng(0)
    values = [kernel_distance(*map(seen, random.normal(size=(2, 20, 3))), 1.0) for _ in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)  # 0 on average, though never negative if biased
    people = random.normal(size=(10, 3))
    twins = seen(np.repeat(people, 2, axis=0), np.repeat(np.arange(10), 2))  # two identical slices a person
    others = seen(people[:5])
    assert kernel_distance(twins, others, 1.0) == pytest.approx(kernel_distance(seen(people), others, 1.0))
    assert kernel_distance(seen(people, np.zeros(10)), others, 1.0) is None


def test_two_sample_auc_is_chance_for_shuffled_people_and_one_for_other_images(measured):
    everyone = measured.yardstick.describe(brains(24, seed=4))
    odd = np.isin(everyone.person, [f"p{i}" for i in range(0, 24, 2)])
    assert max(two_sample_aucs(everyone.take(odd), everyone.take(~odd)).values()) < 0.85
    noise = measured.yardstick.describe(
        as_samples(
            brains(6, seed=2, prefix="r"), np.random.default_rng(0).integers(0, 255, (24, 48, 40)).astype(np.uint8)
        )
    )
    told = two_sample_aucs(noise, measured.reference)
    assert set(told) == {"two_sample_auc", "two_sample_auc_shape", "two_sample_auc_texture"}
    assert told["two_sample_auc_texture"] == pytest.approx(1, abs=0.01)


def test_the_slices_of_a_person_share_a_fold():
    """Slices that tell who, but not which side: a classifier that has seen the person would know the side."""
    random = np.random.default_rng(0)
    who = random.normal(0, 1, (40, 8)).repeat(5, axis=0) + random.normal(0, 0.01, (200, 8))
    sides = [
        seen(who[half], np.repeat(np.arange(20), 5), texture=who[half]) for half in (slice(0, 100), slice(100, 200))
    ]
    strangers = [replace(side, person=np.arange(100)) for side in sides]
    assert two_sample_aucs(*strangers)["two_sample_auc"] > 0.95  # the mistake: every slice a person of its own
    assert two_sample_aucs(*sides)["two_sample_auc"] < 0.8


def test_held_out_scores_are_those_of_machines_fitted_without_the_fold():
    random = np.random.default_rng(0)
    values, target, fold = random.normal(size=(30, 4)), np.repeat([-1.0, 1.0], 15), np.arange(30) % 3
    found = held_out_scores(values, target, fold)
    values = (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-9)
    kernel = np.exp(-((values[:, None] - values) ** 2).sum(axis=-1) / 4) + 1
    for left_out in range(3):
        known = fold != left_out
        weights = np.linalg.solve(kernel[np.ix_(known, known)] + np.eye(known.sum()), target[known])
        assert found[~known] == pytest.approx(kernel[np.ix_(~known, known)] @ weights)


def test_precision_and_coverage_are_those_of_the_reference_package():
    prdc = pytest.importorskip("prdc")
    real, fake = np.random.default_rng(0).normal(size=(2, 60, 5))
    fake += 0.5
    ours = manifold_metrics(real, fake, np.arange(60), np.arange(60), 5)
    assert ours == pytest.approx(prdc.compute_prdc(real, fake, nearest_k=5))


def test_radii_reach_to_the_kth_person_not_slice():
    features = np.array([[0.0], [0.1], [0.2], [1.0], [1.5], [4.0]])
    person = np.array(["a", "a", "a", "b", "b", "c"])
    assert nearest_person_radii(features, person, 1) == pytest.approx([1, 0.9, 0.8, 0.8, 1.3, 2.5])
    assert nearest_person_radii(features, person, 2)[0] == pytest.approx(4)


def test_patch_distance_is_unbiased_and_grows_with_noise(measured):
    everyone = measured.yardstick.describe(brains(40, seed=6))
    random, estimates = np.random.default_rng(0), []
    for _ in range(60):
        half = np.isin(everyone.person, random.permutation(np.unique(everyone.person))[:20])
        estimates.append(patch_distance(everyone.take(half), everyone.take(~half)))
    assert min(estimates) < 0 < max(estimates) and abs(np.median(estimates)) < np.ptp(estimates) / 4
    images = brains(6, seed=2, prefix="r")
    noisy = [
        measured.yardstick.describe(replace_images(images, with_noise(images.images, strength))) for strength in (8, 30)
    ]
    first, second = (patch_distance(one, measured.reference) for one in noisy)
    assert max(estimates) < first < second
    assert patch_distance(measured.reference, measured.reference.take(measured.reference.person == "r0")) is None


def with_noise(images, strength):
    """Images (N, H, W) uint8 with noise of so many grey levels in the brain."""
    noise = np.random.default_rng(0).normal(0, strength, images.shape) * (images > 0)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def test_shares_of_patches_are_means_over_those_of_a_slice(measured):
    shares = measured.reference.patches
    finest = shares[:, 0].reshape(len(shares), 24, 24)  # (N, directions, thresholds)
    assert ((finest * 16) % 1 == 0).all() and (np.diff(finest, axis=-1) >= 0).all()
    assert np.isfinite(finest).all() and 0.3 < finest.mean() < 0.7


def test_noise_and_fine_detail_are_told_by_their_strength(measured):
    images = brains(6, seed=2, prefix="r")
    noisy = measured.yardstick.describe(replace_images(images, with_noise(images.images, 20)))
    assert noise_ratio(noisy, measured.reference) > 2 and noise_ratio(noisy, noisy) == 1
    assert detail_auc(noisy, measured.reference) > 0.95 and detail_auc(noisy, noisy) == 0.5
    gaps = spectrum_metrics(noisy, measured.reference)
    assert gaps["spectrum.band_8"] > 0.3 > abs(gaps["spectrum.band_1"]) and gaps["spectrum_gap"] > 0.2
    assert set(spectrum_metrics(noisy, noisy).values()) == {0.0}


def test_variety_of_one_image_repeated_is_zero_and_needs_two_people(measured):
    same = replace_images(measured.reference, np.repeat(measured.reference.images[:1], 24, axis=0))
    assert variety(same) == pytest.approx(0, abs=1e-12)
    assert variety(measured.reference) > 0.1
    assert variety(measured.reference.take(measured.reference.person == "r0")) is None


def test_anatomy_where_training_people_have_none_is_bounded(measured):
    flat = replace(measured.pool, anatomy=measured.pool.anatomy.copy())
    flat.anatomy[:, 4] = 0
    assert anatomy_effects(measured.reference, flat)[f"{ANATOMY[4]}_effect"] is None
    training = as_samples(measured.training, np.where(measured.training.images > 0, np.uint8(120), np.uint8(0)))
    described = Yardstick(training).describe(
        brains(6, seed=2, prefix="r")
    )  # discs without tissues: nothing differs at a position
    assert np.nanmax(np.abs(described.anatomy)) < 1e6


def test_anatomy_of_the_same_people_does_not_differ(measured):
    differences = anatomy_effects(measured.reference, measured.reference)
    assert differences["asymmetry_effect"] == pytest.approx(0)
    assert all(value == pytest.approx(0) for value in differences.values() if value is not None)


@pytest.mark.parametrize(("positive", "negative", "auc"), [([2, 3], [0, 1], 1), ([0, 1], [0, 1], 0.5), ([0], [1], 0)])
def test_auc(positive, negative, auc):
    measured = auc_interval(positive, negative)
    assert measured["value"] == auc and measured["low"] <= auc <= measured["high"]
    assert measured["low"] < measured["high"]


def test_label_difference():
    values, label = np.array([1.0, 3, 0, 2, 9]), np.array([1, 1, 2, 2, 2])
    difference = mean_difference(values, label, np.array(["a", "b", "c", "d", "d"]))  # people: 1, 3; 0, 5.5
    assert difference["value"] == pytest.approx(2 - 2.75)
    assert mean_difference(values[:3], label[:3], np.array(["a", "b", "c"])) is None


def test_lopsided_are_those_beyond_99_of_100_slices():
    def of(asymmetries):
        anatomy = np.zeros((len(asymmetries), len(ANATOMY)))
        anatomy[:, ANATOMY.index("asymmetry")] = asymmetries
        return SimpleNamespace(anatomy=anatomy)

    real = of([*np.arange(100.0), np.nan])  # the last has no brain
    assert lopsided(of([98.0, 99.0, 200.0, np.nan]), real) == pytest.approx(2 / 3)
    assert lopsided(real, real) == 0.01 and lopsided(of([np.nan]), real) is None
