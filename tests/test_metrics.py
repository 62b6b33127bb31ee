"""Metrics where the answer is known."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity

import metrics


def disc(size=(40, 48), radius=14):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (np.hypot(rows - size[0] / 2, columns - size[1] / 2) < radius).astype(np.float32)


def test_identical_images():
    image = (disc() * 200).astype(np.uint8)
    measured = metrics.image_metrics(image, image)
    assert measured["ssim"] == measured["ssim_brain"] == 1
    assert measured["psnr"] == measured["psnr_brain"] == 100
    assert measured["mae"] == measured["mae_brain"] == 0


def test_ssim_is_that_of_scikit_image_and_psnr_that_of_its_definition():
    random = np.random.default_rng(0)
    original, other = disc() * 0.7, np.clip(disc() * 0.7 + random.normal(0, 0.1, (40, 48)), 0, 1)
    measured = metrics.image_metrics(original, other)
    expected = structural_similarity(original.astype(float), other, data_range=1, gaussian_weights=True, sigma=1.5,
                                     use_sample_covariance=False)
    assert measured["ssim"] == pytest.approx(expected, abs=1e-6)
    assert measured["psnr"] == pytest.approx(10 * np.log10(1 / np.mean((original - other) ** 2)), abs=1e-4)


def test_uint8_and_float_and_a_channel_axis_agree():
    image = (disc() * 200).astype(np.uint8)
    other = (disc(radius=12) * 180).astype(np.uint8)
    plain = metrics.image_metrics(image, other)
    assert plain == pytest.approx(metrics.image_metrics(image[..., None] / 255, other[..., None] / 255))


def test_brain_only_is_not_flattered_by_the_background():
    original = disc()
    measured = metrics.image_metrics(original, original * 0.5)
    assert measured["mae_brain"] == pytest.approx(0.5)
    assert measured["mae"] == pytest.approx(0.5 * original.mean())
    assert measured["ssim_brain"] < measured["ssim"]


def test_a_black_original_has_no_brain_metrics():
    measured = metrics.image_metrics(np.zeros((20, 20)), np.zeros((20, 20)))
    assert np.isnan(measured["ssim_brain"]) and measured["psnr"] == 100


def test_people_are_the_unit():
    rows = [{"ssim": value} for value in (0.0, 0.0, 0.0, 1.0)]
    summary = metrics.mean_by_person(rows, ["a", "a", "a", "b"])["ssim"]
    assert summary["value"] == pytest.approx(0.5)  # not 0.25
    margin = 12.706 * np.std([0, 1], ddof=1) / np.sqrt(2)  # t with one degree of freedom
    assert summary["high"] - summary["value"] == pytest.approx(margin, rel=1e-3)
    assert metrics.mean_by_person(rows, ["a"] * 4)["ssim"] == pytest.approx(0.25)


def test_codebook_use():
    even = metrics.codebook_metrics(np.arange(8).reshape(2, 2, 2), 8)
    assert even == pytest.approx({"perplexity": 8, "used_fraction": 1, "largest_share": 1 / 8})
    one = metrics.codebook_metrics(np.zeros((2, 2, 2), int), 8)
    assert one == pytest.approx({"perplexity": 1, "used_fraction": 1 / 8, "largest_share": 1})


def test_unigram_cross_entropy_is_smoothed_by_one():
    training = np.array([[[0, 0, 0, 1]]])  # counts 4, 2, 1, 1 of 8 with one added to each
    assert metrics.unigram_bits_per_code(training, np.array([[[0, 1, 2, 3]]]), 4) == pytest.approx((1 + 2 + 3 + 3) / 4)


@pytest.mark.parametrize(("count", "limit", "expected"), [(5, None, [0, 1, 2, 3, 4]), (5, 9, [0, 1, 2, 3, 4]),
                                                          (5, 3, [0, 2, 4]), (100, 2, [0, 99])])
def test_evenly(count, limit, expected):
    assert list(metrics.evenly(np.arange(count), limit)) == expected
