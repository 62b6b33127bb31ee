"""experiments/cheats.py: what its generators make, and what it makes of verdicts."""

import numpy as np
import pytest
from evaluations import against, evaluation
from test_sets import brains

from experiments import cheats
from metrics.measured import replace_images
from utils import random_generator


@pytest.fixture(scope="module")
def people():
    """Slices of those that generators know, of those who play a perfect one, and of the reference."""
    return brains(8, seed=1, prefix="k"), brains(8, seed=2, prefix="c"), brains(6, seed=3, prefix="r")


def test_stand_ins_have_label_and_position_and_are_drawn_one_by_one(people):
    known, _, reference = people
    rows = cheats.stand_ins(known, reference, random_generator(0, "a test"))
    assert np.array_equal(known.label[rows], reference.label)
    assert np.array_equal(known.position[rows], reference.position)
    whose = [set(known.person[rows][reference.person == person]) for person in np.unique(reference.person)]
    assert max(map(len, whose)) > 1  # not one person for another
    others = cheats.stand_ins(known, reference, random_generator(0, "a test"), known.person[rows])
    assert (known.person[others] != known.person[rows]).all()
    assert np.array_equal(known.label[others], reference.label)


def test_controls_are_of_people_that_no_generator_knows(people):
    known, control, reference = people
    dark = replace_images(control, control.images // 2)
    made = cheats.make_generators(known, known, control, dark, reference)
    assert len(made) == 9 and all(one.images.shape == reference.images.shape for one in made.values())
    assert all(one.images.dtype == np.uint8 for one in made.values())

    def are_of(images, pool):
        """Whether each image is one of the pool, at the label and position of the reference."""
        return all(
            any(
                np.array_equal(image, pool.images[row])
                for row in np.flatnonzero((pool.label == label) & (pool.position == position))
            )
            for image, label, position in zip(images, reference.label, reference.position, strict=True)
        )

    slices, reconstructions = (
        made[f"control: {what} of other people"].images for what in ("slices", "reconstructions")
    )
    assert are_of(slices, control) and not are_of(slices, known)
    assert are_of(reconstructions, dark)
    assert np.array_equal(slices // 2, reconstructions)  # of the same people
    assert not are_of(made["right slices at wrong positions"].images, known)


def test_a_generator_has_a_row_for_each_reference_with_what_caught_it():
    samples = evaluation(against(("kid", "spectrum.band_8"), ("frechet",)), against())["samples"]
    memorisation = {"flagged": True, "nn_ratio": 0.25, "copies_fraction": 0.5}
    real, reconstructions = cheats.summarise("one", samples, memorisation)
    assert (real["generator"], real["against"], real["numbers"], real["told_apart"]) == ("one", "real slices", 28, 2)
    assert real["caught_by"] == "kid, spectrum.band_8, copies"
    assert (real["kid_p"], real["frechet_p"], real["spectrum.band_1_p"]) == (0.0001, 0.03, 0.4)
    assert (real["nn_ratio"], real["copies_fraction"], real["copies_found"]) == (0.25, 0.5, True)
    assert reconstructions["against"] == "reconstructions" and reconstructions["caught_by"] == "copies"
    real, reconstructions = cheats.summarise("one", samples, memorisation | {"flagged": False})
    assert reconstructions["caught_by"] == "" and real["caught_by"] == "kid, spectrum.band_8"
