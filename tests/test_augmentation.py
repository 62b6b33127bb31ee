"""Augmentations: drawn by number, exact where nothing moves, and as strong as they say."""

import numpy as np
import pytest
from pictures import BOXES, random_images

from slices.augmentation import (
    GAIN,
    ROTATION,
    SCALE,
    SHIFT,
    augment,
    draw_augmentations,
    in_whole_pixels,
    twice_as_fine,
)
from slices.frame import Box, crop
from training.workers import start_tensorflow

SEED = 3


@pytest.fixture(scope="module")
def tf():
    return start_tensorflow()


def test_an_augmentation_does_not_depend_on_its_batch():
    rows = draw_augmentations(SEED, "train", 0, 12, flip=True, augmented=0.7)
    parts = [
        draw_augmentations(SEED, "train", first, count, flip=True, augmented=0.7)
        for first, count in ((0, 5), (5, 1), (6, 6))
    ]
    assert np.array_equal(np.concatenate(parts), rows) and len(np.unique(rows[rows.any(axis=1)], axis=0)) > 4
    assert not np.array_equal(draw_augmentations(SEED + 1, "train", 0, 12), rows)
    assert not np.array_equal(draw_augmentations(SEED, "other", 0, 12), rows)


def test_augmentations_have_their_range_and_share():
    rows = draw_augmentations(SEED, "train", 0, 4000, flip=True, augmented=0.25)
    augmented = rows[rows[:, :5].any(axis=1)]
    assert rows.dtype == np.float32 and abs(len(augmented) - 1000) < 120
    assert (np.abs(augmented[:, :5]).max(axis=0) > 0.95).all() and np.abs(rows).max() <= 1
    assert np.abs(augmented[:, :5].mean(axis=0)).max() < 0.1
    assert set(augmented[:, 5]) == {0, 1} and abs(augmented[:, 5].mean() - 0.5) < 0.07
    assert not draw_augmentations(SEED, "train", 0, 50)[:, 5].any()  # no flip unless asked for


@pytest.mark.parametrize("box", BOXES)
def test_augment_with_zeros_is_exactly_the_crop(tf, box):
    images = random_images()
    augmented = augment(images, tf.zeros((7, 6)), box).numpy()
    assert augmented.dtype == np.float32
    assert np.array_equal(augmented, crop(images, box).astype(np.float32) / np.float32(255))


def test_twice_as_fine_keeps_every_pixel_and_puts_smooth_values_between(tf):
    images = np.random.default_rng(0).random((2, 9, 7, 1), np.float32)
    fine = twice_as_fine(tf.constant(images)).numpy()
    assert fine.shape == (2, 18, 14, 1) and np.array_equal(fine[:, ::2, ::2], images)
    wave = np.sin(np.arange(80) * np.pi / 2 + 0.3).astype(np.float32)  # half of the highest frequency there is
    between = twice_as_fine(tf.constant(np.tile(wave, (1, 40, 1))[..., None])).numpy()[0, 40, 1::2, 0]
    assert np.allclose(between[5:-5], np.sin((np.arange(80) + 0.5) * np.pi / 2 + 0.3)[5:-5], atol=0.03)


def test_augmentation_keeps_most_of_the_detail(tf):
    noise = np.random.default_rng(0).integers(100, 156, (8, 64, 64, 1)).astype(np.uint8)
    parameters = draw_augmentations(SEED, "train", 0, 8) * [1, 0, 1, 1, 0, 0]
    moved = augment(noise, tf.constant(parameters, tf.float32), Box(16, 16, 32, 32)).numpy()
    assert 0.55 < moved.var() / (noise / 255).var() <= 1  # bilinear sampling of the frame itself: 0.45


def test_augmentation_in_whole_pixels_moves_pixels_and_changes_none(tf):
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 60, 1)).astype(np.uint8)
    box = Box(16, 14, 32, 40)
    drawn = draw_augmentations(SEED, "train", 0, 8)
    parameters = in_whole_pixels(drawn, box) * np.float32([1, 1, 1, 1, 0, 0])
    moved = augment(noise, tf.constant(parameters), box).numpy()
    steps = np.round(drawn[:, 2:4] * SHIFT * [32, 40]).astype(int)
    assert len(np.unique(steps, axis=0)) > 3
    for image, seen, (down, right) in zip(noise, moved, steps, strict=True):
        expected = image[16 - down : 48 - down, 14 - right : 54 - right] / np.float32(255)
        assert np.array_equal(seen, expected)


@pytest.mark.parametrize("box", BOXES)
def test_whole_pixels_need_none_between_them(tf, box):
    parameters = in_whole_pixels(draw_augmentations(SEED, "train", 0, 7, flip=True), box)
    assert len(np.unique(parameters, axis=0)) > 3
    quick, slow = (augment(random_images(), tf.constant(parameters), box, whole) for whole in (True, False))
    assert np.array_equal(quick, slow)


def test_each_parameter_does_what_its_name_says(tf):
    images, box = np.zeros((1, 51, 51, 1), np.uint8), Box(0, 0, 51, 51)
    images[0, 10:15, 20:31] = 100  # a bar above the centre

    def moved(**parameters):
        names = ("rotation", "scale", "shift_y", "shift_x", "gain", "flip")
        row = [[float(parameters.get(name, 0)) for name in names]]
        return augment(images, tf.constant(row), box).numpy()[0, :, :, 0] * 255

    def centre(image):
        return np.array(np.average(np.indices(image.shape).reshape(2, -1), axis=1, weights=image.ravel()))

    still = centre(moved())
    assert np.allclose(centre(moved(shift_y=1)) - still, (SHIFT * 51, 0), atol=0.01)
    assert np.allclose(centre(moved(shift_x=1)) - still, (0, SHIFT * 51), atol=0.01)
    assert np.allclose(centre(moved(scale=1)) - 25, (still - 25) * (1 + SCALE), atol=0.1)
    turned = centre(moved(rotation=1)) - 25
    assert abs(np.degrees(np.arctan2(abs(turned[1]), -turned[0])) - ROTATION) < 0.3
    assert np.isclose(moved(gain=1).max(), 100 * (1 + GAIN))
    images[0, 10:15, 20:25] = 50
    assert np.array_equal(moved(flip=1), moved()[:, ::-1])
