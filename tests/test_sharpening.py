"""Sharpening: drawn images get the power spectrum of slices."""

import numpy as np
import pytest
from scipy import ndimage

from slices.frame import to_bytes
from training.sharpening import EQUALISER_GAIN, RINGS, Sharpening, fit_sharpening, load_sharpening, ring_powers


@pytest.fixture(scope="module")
def slices():
    """Sharp images (N, H, W) uint8, grey everywhere, and blurred ones."""
    random = np.random.default_rng(0)
    sharp = 128 + 40 * ndimage.gaussian_filter(random.standard_normal((8, 40, 48)), (0, 0.5, 0.5))
    return sharp.astype(np.uint8), ndimage.gaussian_filter(sharp, (0, 0.7, 0.7)).astype(np.uint8)


def test_blurred_images_get_the_spectrum_of_sharp_ones(slices):
    sharp, blurred = slices
    sharpened = fit_sharpening(sharp, blurred).sharpen(blurred)
    powers = [sum(map(ring_powers, images)) for images in (sharp, blurred, sharpened)]
    assert (powers[1] / powers[0])[12] < 0.6
    np.testing.assert_allclose((powers[2] / powers[0])[:22], 1, atol=0.15)  # in the corners the gain ends before
    assert np.abs(sharpened.astype(int) - sharp).mean() < np.abs(blurred.astype(int) - sharp).mean()


def test_an_equaliser_weakens_what_is_too_strong_and_sharpening_does_not(slices):
    sharp, blurred = slices
    equaliser = fit_sharpening(blurred, sharp, EQUALISER_GAIN)
    powers = [sum(map(ring_powers, images)) for images in (blurred, equaliser.sharpen(sharp))]
    reached = equaliser.gain > EQUALISER_GAIN
    assert 0 < reached.sum() < RINGS and (equaliser.gain >= EQUALISER_GAIN).all()
    np.testing.assert_allclose((powers[1] / powers[0])[reached], 1, atol=0.1)
    assert (fit_sharpening(blurred, sharp).gain >= 1).all()


def test_a_gain_of_one_changes_nothing_and_black_stays_black(slices):
    sharp, _ = slices
    assert np.array_equal(Sharpening(np.ones(RINGS)).sharpen(sharp), sharp)
    cut = np.where(np.arange(48) < 24, sharp, 3).astype(np.uint8)
    assert (Sharpening(np.linspace(1, 4, RINGS)).sharpen(cut)[..., 24:] == 3).all()


def test_a_tensor_is_sharpened_to_the_bytes_of_arrays(slices):
    _, blurred = slices
    sharpening, dark = Sharpening(np.linspace(1, 4, RINGS)), blurred // np.arange(1, 41, dtype=np.uint8)[:, None]
    for images in (dark, dark[:, :, :31]):  # odd widths, too
        tensor = sharpening.sharpen_tensor((images[..., None] / 255).astype(np.float32))
        assert tensor.dtype == "float32" and np.array_equal(to_bytes(tensor.numpy()), sharpening.sharpen(images))


def test_saved_equals_loaded(slices, tmp_path):
    sharpening = fit_sharpening(*slices)
    sharpening.save(tmp_path / "sharpening.json")
    assert np.array_equal(load_sharpening(tmp_path / "sharpening.json").gain, sharpening.gain)
    assert load_sharpening(tmp_path / "none.json") is None
