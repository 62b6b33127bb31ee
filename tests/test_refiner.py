"""The refiner: what it leaves alone, and that it learns detail from its critic."""

import numpy as np
import pytest
from scipy import ndimage
from small_models import randomise

from modules import BLACK, Refiner
from slices.frame import Box
from training.refining import build_refining, refining_step

SHAPE = (16, 24, 1)


@pytest.fixture(scope="module")
def refiner():
    return randomise(Refiner(SHAPE, width=4, seed=3))


@pytest.fixture(scope="module")
def images():
    """(4, 16, 24, 1) float32 in steps of 1/255, black on the left."""
    images = np.random.default_rng(0).integers(20, 255, (4, *SHAPE)) / 255
    images[:, :, :8] = np.round(255 * BLACK) / 255
    return images.astype(np.float32)


def test_what_is_black_stays_as_it_is_and_all_else_is_refined(refiner, images):
    refined = refiner.refine(images).numpy()
    assert np.array_equal(refined[:, :, :8], images[:, :, :8])
    assert (refiner.call(images).numpy()[:, :, 8:] != images[:, :, 8:]).all()
    assert refined.min() >= 0 and refined.max() <= 1


def test_an_image_has_one_refined_image_in_any_company(refiner, images):
    alone = np.concatenate([refiner.refine(images[i : i + 1]) for i in range(4)])
    assert np.allclose(alone, refiner.refine(images), atol=1e-6)


def test_saved_equals_loaded(refiner, images, tmp_path):
    from training.folder import load_model, save_model

    save_model(refiner, tmp_path / "refiner.keras")
    loaded = load_model(tmp_path / "refiner.keras", Refiner, {"crop_box": [0, 0, *SHAPE[:2]]})
    assert np.array_equal(loaded.refine(images), refiner.refine(images))


@pytest.fixture(scope="module")
def refining():
    config = {"seed": 0, "learning_rate": 2e-2, "refiner_steps": 240}
    return build_refining(config, Box(0, 0, *SHAPE[:2]), "float32")


def test_a_step_moves_the_refiner_by_its_loss_and_the_critic_by_its_own(refining):
    assert [id(each) for each in refining.trainable_variables] == [
        id(each) for part in (refining.refiner, refining.critic) for each in part.trainable_variables
    ]


def test_drawn_images_without_detail_are_given_that_of_slices(refining):
    import tensorflow as tf

    random = np.random.default_rng(1)
    sharp = np.clip(0.5 + 0.15 * random.standard_normal((64, *SHAPE)), 0.1, 0.9).astype(np.float32)
    smooth = ndimage.gaussian_filter(sharp[::-1], (0, 1, 1, 0))
    step = tf.function(lambda batch: refining_step(refining, batch))

    def detail(images):
        return float((images - ndimage.gaussian_filter(images, (0, 1, 1, 0))).std())

    for i in range(240):
        rows = np.arange(8 * i, 8 * i + 8) % 64
        found = step({"image": sharp[rows], "drawn": smooth[rows]})
    assert all(np.isfinite(float(value)) for value in found.values())
    before, after, wanted = detail(smooth), detail(refining.refiner.refine(smooth).numpy()), detail(sharp)
    assert before < 0.5 * wanted and abs(after - wanted) < 0.5 * abs(before - wanted)
