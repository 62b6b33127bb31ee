"""Metrics of images, of tissue and of codes where the answer is known."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import structural_similarity

from metrics.anatomy import anatomy, dice, segment
from metrics.codes import PositionalBaseline, codebook_metrics, unigram_bits_per_code
from metrics.images import detail_metrics, frc_resolution, image_metrics, ms_ssim, ms_ssim_scales, ring_numbers
from metrics.people import mean_by_person, thinned
from slices import cohort
from slices.frame import brain_mask, dilated, eroded
from utils import evenly, random_generator


def disc(size=(40, 48), radius=14):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (np.hypot(rows - size[0] / 2, columns - size[1] / 2) < radius).astype(np.float32)


def test_identical_images():
    image = (disc() * 200).astype(np.uint8)
    measured = image_metrics(image, image)
    assert measured["ssim"] == measured["ssim_brain"] == 1
    assert measured["psnr"] == measured["psnr_brain"] == 100
    assert measured["mae"] == measured["mae_brain"] == 0


def test_ssim_is_that_of_scikit_image_and_psnr_that_of_its_definition():
    random = np.random.default_rng(0)
    original, other = disc() * 0.7, np.clip(disc() * 0.7 + random.normal(0, 0.1, (40, 48)), 0, 1)
    measured = image_metrics(original, other)
    expected = structural_similarity(
        original.astype(float), other, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert measured["ssim"] == pytest.approx(expected, abs=1e-6)
    assert measured["psnr"] == pytest.approx(10 * np.log10(1 / np.mean((original - other) ** 2)), abs=1e-4)


def test_uint8_and_float_and_a_channel_axis_agree():
    image = (disc() * 200).astype(np.uint8)
    other = (disc(radius=12) * 180).astype(np.uint8)
    plain = image_metrics(image, other)
    assert plain == pytest.approx(image_metrics(image[..., None] / 255, other[..., None] / 255))


def test_brain_only_is_not_flattered_by_the_background():
    original = disc()
    measured = image_metrics(original, original * 0.5)
    assert measured["mae_brain"] == pytest.approx(0.5)
    assert measured["mae"] == pytest.approx(0.5 * original.mean())
    assert measured["ssim_brain"] < measured["ssim"]


def test_a_black_original_has_no_brain_metrics():
    measured = image_metrics(np.zeros((20, 20)), np.zeros((20, 20)))
    assert np.isnan(measured["ssim_brain"]) and measured["psnr"] == 100


def test_the_brain_is_the_largest_part_opened_and_filled():
    """As scipy would have it, step by step, on images of every size and on noise, whose parts touch the edges."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 30, random.integers(2, 40, 2)).astype(np.uint8) for _ in range(300)]
    images += [(200 * disc() - 200 * disc(radius=6)).astype(np.uint8), np.full((9, 7), 255, np.uint8)]
    for image in images:
        components, count = ndimage.label(ndimage.binary_opening(image > 12))
        sizes = np.bincount(components.ravel(), minlength=2)[1:]
        expected = ndimage.binary_fill_holes(components == 1 + sizes.argmax()) if count else np.zeros(image.shape, bool)
        assert np.array_equal(brain_mask(image), expected)
    assert brain_mask(images[-2])[20, 24]  # in the middle, where the ring has its hole


def test_masks_are_eroded_and_dilated_as_scipy_does_it():
    random = np.random.default_rng(0)
    for shape in ((1, 1), (1, 9), (2, 3), (3, 3), (9, 30), (40, 41)):
        for share in (0.2, 0.9, 1.0):
            mask = random.random(shape) < share
            assert np.array_equal(dilated(mask), ndimage.binary_dilation(mask))
            for times in (1, 2, 3):
                assert np.array_equal(eroded(mask, times), ndimage.binary_erosion(mask, iterations=times))


def test_people_are_the_unit():
    rows = [{"anything": value, "ssim": value, "bits": value} for value in (0.0, 0.0, 0.0, 1.0)]
    summary = mean_by_person(rows, ["a", "a", "a", "b"])["anything"]
    assert summary["value"] == pytest.approx(0.5)  # not 0.25
    margin = 12.706 * np.std([0, 1], ddof=1) / np.sqrt(2)  # t with one degree of freedom
    assert summary["high"] - summary["value"] == pytest.approx(margin, rel=1e-3)
    assert mean_by_person(rows, ["a"] * 4)["anything"] == pytest.approx(0.25)


def test_an_interval_ends_where_its_measure_does():
    rows = [{"anything": value, "ssim": value, "bits": value} for value in (0.0, 1.0)]
    summary = mean_by_person(rows, ["a", "b"])
    assert summary["ssim"] == {"value": 0.5, "low": -1.0, "high": 1.0}
    assert summary["bits"] == {"value": 0.5, "low": 0.0, "high": summary["anything"]["high"]}
    assert summary["anything"]["low"] < -1 and summary["anything"]["high"] > 1


def test_codebook_use():
    even = codebook_metrics(np.arange(8).reshape(2, 2, 2), 8)
    assert even == pytest.approx({"perplexity": 8, "used_fraction": 1, "largest_share": 1 / 8})
    one = codebook_metrics(np.zeros((2, 2, 2), int), 8)
    assert one == pytest.approx({"perplexity": 1, "used_fraction": 1 / 8, "largest_share": 1})


def test_unigram_cross_entropy_is_smoothed_by_one():
    training = np.array([[[0, 0, 0, 1]]])  # counts 4, 2, 1, 1 of 8 with one added to each
    assert unigram_bits_per_code(training, np.array([[[0, 1, 2, 3]]]), 4) == pytest.approx((1 + 2 + 3 + 3) / 4)


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [(5, None, [0, 1, 2, 3, 4]), (5, 9, [0, 1, 2, 3, 4]), (5, 3, [0, 2, 4]), (100, 2, [0, 99])],
)
def test_evenly(count, limit, expected):
    assert list(evenly(np.arange(count), limit)) == expected


# ---- detail -----------------------------------------------------------------------------------


def folds(size=(96, 88), seed=0):
    """A disc with random texture of every frequency."""
    texture = np.random.default_rng(seed).normal(0, 0.1, size)
    return np.clip((0.5 + texture) * disc(size, 40), 0, 1)


def test_people_are_thinned_evenly_and_each_on_its_own():
    subjects = np.array(["a", "b", "a", "a", "b", "a", "a"])
    assert thinned(subjects, 2).tolist() == [True, True, False, False, True, False, True]
    assert thinned(subjects, 3).tolist() == [True, True, False, True, True, False, True]
    assert thinned(subjects, None).all()


def test_details_of_identical_images():
    image = folds()
    measured = detail_metrics(image, image)
    assert measured["ms_ssim"] == pytest.approx(1) and measured["spectrum_gap"] == 0
    assert measured["frc_resolution"] == 0.5 and measured["tissue_dice"] == 1


def test_ms_ssim_at_one_scale_is_ssim_and_takes_as_many_scales_as_fit():
    assert [ms_ssim_scales((side, 300)) for side in (11, 21, 22, 44, 176, 400)] == [1, 1, 2, 3, 5, 5]
    first, second = folds((20, 20)), folds((20, 20), seed=1)
    expected = structural_similarity(
        first, second, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ms_ssim(first[None], second[None])[0] == pytest.approx(max(expected, 0), abs=1e-6)


def test_blur_opens_the_spectrum_gap_and_noise_closes_it_but_not_the_resolution():
    image = folds()
    blurred = ndimage.gaussian_filter(image, 1.2)
    soft = detail_metrics(image, blurred)
    missing = image - blurred
    noise = np.random.default_rng(9).normal(0, missing[image > 0].std(), image.shape) * disc(image.shape, 40)
    noisy = detail_metrics(image, np.clip(blurred + noise, 0, 1))
    assert soft["spectrum_gap"] > 1 and noisy["spectrum_gap"] < 0.3 * soft["spectrum_gap"]
    assert soft["frc_resolution"] > noisy["frc_resolution"] and noisy["frc_resolution"] < 0.4


def test_frc_resolution_is_where_the_noise_takes_over():
    """Equal signal up to half the Nyquist frequency, independent noise beyond it."""
    random = np.random.default_rng(0)
    spectra = np.fft.fft2(random.normal(size=(3, 128, 128)))
    low = ring_numbers((128, 128), 64) < 32
    found = frc_resolution(np.where(low, spectra[0], spectra[1]), np.where(low, spectra[0], spectra[2]))
    assert found == pytest.approx(0.25, abs=0.01)


def test_the_segmenter_finds_the_true_ventricles_of_simulated_people():
    overlap = []
    for person in range(200, 204):
        images, ventricles = cohort.render(
            cohort.draw_person(5, person), cohort.template(), random_generator(5, "cohort noise", person)
        )
        found, true = [], []
        for image, truth in zip(images[::3], ventricles[::3], strict=True):
            image = np.rint(image * 255) / 255
            found.append(segment(image, brain_mask(image))[1])
            true.append(truth > 0.5)
        overlap.append(dice(np.stack(found), np.stack(true)))
    assert np.mean(overlap) >= 0.8, overlap


def test_segmentation_of_three_plateaus():
    image = np.zeros((60, 60))
    for radius, grey in ((28, 0.2), (24, 0.5), (16, 0.9)):
        image = np.where(disc((60, 60), radius) > 0, grey, image)
    tissues, ventricles = segment(image, brain_mask(image))
    assert [tissues[30, column] for column in (0, 4, 10, 30)] == [0, 1, 2, 3] and not ventricles.any()


def test_anatomy_of_a_black_image_is_unknown():
    black, white = np.zeros((20, 20), np.uint8), (disc() * 200).astype(np.uint8)
    assert np.isnan(anatomy(black, brain_mask(black))).all()
    assert anatomy(white, brain_mask(white))[0] == pytest.approx(disc().mean(), abs=0.01)


# ---- codes ------------------------------------------------------------------------------------


def coded(codes, positions):
    """What a baseline must know of a part: its codes and positions."""
    return SimpleNamespace(codes=np.array(codes), columns={"position": np.array(positions)})


@pytest.mark.parametrize("block", [2, 4096])
def test_positional_baseline_against_counting_by_hand(block, monkeypatch):
    monkeypatch.setattr("metrics.codes.COUNTED", block)
    baseline = PositionalBaseline(coded([[[0, 1]], [[0, 0]], [[1, 1]]], [1, 1, 5]), None, 2)
    unigram = np.array([4, 4]) / 8  # three of each, and one added
    assert baseline.unigram[0] == pytest.approx(unigram)
    expected = -np.log2(0.5 * np.array([2 / 2, 1 / 2]) + 0.5 * 0.5)
    assert baseline.bits(np.array([[[0, 1]]]), np.array([1]), weight=0.5)[0, 0] == pytest.approx(expected)


def test_positional_baseline_leaves_out_the_person_who_is_scored():
    codes, position = np.random.default_rng(0).integers(0, 4, (20, 3, 5)), np.array([1, 2] * 10)
    person = np.array([f"p{i // 2}" for i in range(20)])
    everyone = PositionalBaseline(coded(codes, position), None, 4)
    others = PositionalBaseline(coded(codes[2:], position[2:]), None, 4)
    others.unigram = everyone.unigram
    bits = everyone.bits(codes, position, 0.7, counted=person)
    assert bits[:2] == pytest.approx(others.bits(codes[:2], position[:2], 0.7))


def test_positional_draws_follow_the_counts():
    training = coded([[[2, 0]]] * 50, [1] * 50)
    baseline = PositionalBaseline(training, training, 3)
    drawn = baseline.draw(np.ones(300, int), np.random.default_rng(0))
    assert drawn.shape == (300, 1, 2) and (drawn == [2, 0]).mean() > 0.95
