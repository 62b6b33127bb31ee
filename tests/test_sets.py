"""Sets of images: how they are described, and how far apart they lie, where the answer is known."""

from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest

from metrics.anatomy import ANATOMY, anatomy_metrics, mean_difference
from metrics.distances import (
    frechet_distance,
    kernel_distance,
    manifold_metrics,
    nearest_person_radii,
    patch_distance,
    set_distances,
    two_sample_auc,
    variety,
)
from metrics.people import auc_interval, jackknife
from metrics.sets import ImageSet, Yardstick, as_samples


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
        yardstick=yardstick,
        pool=yardstick.describe(training),
        reference=yardstick.describe(brains(6, seed=2, prefix="r")),
        others=yardstick.describe(brains(6, seed=3, prefix="o")),
    )


@pytest.fixture(scope="module")
def measured():
    return measure_brains()


def test_frechet_distance_takes_in_every_feature():
    features = np.random.default_rng(0).normal(size=(200, 64))
    moved = features.copy()
    moved[:, 16:] += 100
    assert frechet_distance(features, moved) == pytest.approx(48 * 100**2)


def test_frechet_distance_of_shifted_and_scaled_gaussians():
    random = np.random.default_rng(0)
    first = random.normal(0, 1, (40000, 4))
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(first, first + 2) == pytest.approx(4 * 2**2, rel=1e-6)
    assert frechet_distance(first, 3 * first) == pytest.approx(4 * (3 - 1) ** 2, rel=0.02)


def test_kernel_distance_is_unbiased_and_leaves_out_pairs_of_one_person():
    random = np.random.default_rng(0)
    values = []
    for _ in range(200):
        first, second = random.normal(size=(2, 20, 3))
        values.append(kernel_distance(first, second, np.arange(20), np.arange(20)))
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)  # 0 on average, though never negative if biased
    people = random.normal(size=(10, 3))
    twins = np.repeat(people, 2, axis=0)  # two identical slices a person
    person = np.repeat(np.arange(10), 2)
    expected = kernel_distance(people, people[:5], np.arange(10), np.arange(5))
    assert kernel_distance(twins, people[:5], person, np.arange(5)) == pytest.approx(expected)


def test_no_distance_is_below_zero_and_one_person_has_none():
    random = np.random.default_rng(0)
    for _ in range(20):
        features = random.normal(size=(12, 16)) * 1e3
        assert frechet_distance(features, features) >= 0
    first, second = random.normal(size=(2, 8, 3))
    alone, others = np.zeros(8, int), np.arange(8)
    assert kernel_distance(first, second, alone, others) is None
    assert kernel_distance(first, second, others, alone) is None
    estimates = iter([0.1, 5.0, 0.1, 0.1])
    sets = [brains(3)]
    found = jackknife(lambda images: {"frechet": 0.1, "kid": next(estimates)}, sets, sets[0].person)
    assert found["frechet"]["low"] >= 0 > found["kid"]["low"]


def test_two_sample_auc_is_chance_for_shuffled_people_and_one_for_other_images(measured):
    everyone = measured.yardstick.describe(brains(24, seed=4))
    odd = np.isin(everyone.person, [f"p{i}" for i in range(0, 24, 2)])
    assert two_sample_auc(everyone.take(odd), everyone.take(~odd)) < 0.85
    noise = measured.yardstick.describe(
        as_samples(
            measured.reference,
            np.random.default_rng(0).integers(0, 255, measured.reference.images.shape).astype(np.uint8),
        )
    )
    assert two_sample_auc(measured.reference, noise) == pytest.approx(1, abs=0.01)


def test_the_slices_of_a_person_share_a_fold():
    """Slices that tell who, but not which side: a classifier that has seen the person would know the side."""
    random = np.random.default_rng(0)
    who = random.normal(0, 1, (40, 8)).repeat(5, axis=0) + random.normal(0, 0.01, (200, 8))
    images = np.zeros((100, 4, 4))
    sides = [
        SimpleNamespace(images=images, shape=who[half], texture=who[half], person=np.repeat(np.arange(20), 5))
        for half in (slice(0, 100), slice(100, 200))
    ]
    strangers = [SimpleNamespace(**{**vars(side), "person": np.arange(100)}) for side in sides]
    assert two_sample_auc(*strangers) > 0.95  # the mistake: every slice a person of its own
    assert two_sample_auc(*sides) < 0.8


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


def test_patch_distance_is_zero_for_the_same_images_and_grows_with_noise(measured):
    patches = measured.reference.patches
    assert patch_distance(patches, patches) == 0
    noisy = [patches + np.random.default_rng(0).normal(0, sd, patches.shape) for sd in (0.5, 2)]
    assert 0 < patch_distance(patches, noisy[0]) < patch_distance(patches, noisy[1])


def test_variety_of_one_image_repeated_is_zero_and_needs_two_people(measured):
    same = as_samples(measured.reference, np.repeat(measured.reference.images[:1], 24, axis=0))
    assert variety(same) == pytest.approx(0, abs=1e-12)
    assert variety(measured.reference) > 0.1
    assert variety(measured.reference.take(measured.reference.person == "r0")) is None


def test_anatomy_where_training_people_have_none_is_bounded(measured):
    flat = replace(measured.pool, anatomy=measured.pool.anatomy.copy())
    flat.anatomy[:, 4] = 0
    assert anatomy_metrics(measured.reference, flat)[f"{ANATOMY[4]}_effect"] is None
    training = as_samples(measured.training, np.where(measured.training.images > 0, np.uint8(120), np.uint8(0)))
    described = Yardstick(training).describe(measured.reference)  # discs without tissues: nothing differs at a position
    assert np.nanmax(np.abs(described.anatomy)) < 1e6


def test_anatomy_of_the_same_people_does_not_differ(measured):
    differences = anatomy_metrics(measured.reference, measured.reference)
    assert differences["asymmetry_effect"] == pytest.approx(0)
    assert all(value == pytest.approx(0) for value in differences.values() if value is not None)


def test_identical_sets_are_no_distance_apart(measured):
    values = set_distances(measured.reference, measured.reference, measured.reference, measured.yardstick.shape_rms)
    assert values["frechet"] == pytest.approx(0, abs=1e-6) and values["patches"] == 0


def test_jackknife_leaves_out_people(measured):
    sets = measured.others, measured.reference, measured.reference
    asked = []

    def statistics(*sets):
        asked.append(len(sets[0].images))
        return set_distances(*sets, measured.yardstick.shape_rms)

    interval = jackknife(statistics, sets, measured.reference.person)["frechet"]
    assert asked == [20] * 6 + [24]  # four slices a person
    assert interval["low"] < interval["value"] < interval["high"]
    assert interval["value"] == statistics(*sets)["frechet"]


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
