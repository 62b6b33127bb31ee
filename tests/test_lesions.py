"""experiments/lesions.py: what it paints, and what it makes of a map."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments import lesions
from sampling.run import Run


@pytest.mark.parametrize("edge", lesions.EDGES)
def test_a_lesion_is_half_as_strong_at_its_radius(edge):
    shape = lesions.profile((41, 41), (20, 20), 6, edge)
    assert shape[20, 20] == 1 and shape[20, 26] == pytest.approx(0.5) and shape[20, 33] < 0.05
    assert np.array_equal(shape, shape[::-1, ::-1])


def test_lesions_stay_in_the_brain_and_have_their_sign():
    crop, brain = np.full((30, 30), 128, np.uint8), np.zeros((30, 30), bool)
    brain[:, :16] = True
    for sign, way in (("bright", 1), ("dark", -1), (lesions.NONE, 0)):
        painted, truth = lesions.paint(crop, brain, lesions.Lesion(0, 6, sign, "sharp"), (15, 14))
        assert np.array_equal(painted[~brain], crop[~brain]) and truth[15, 14] and not truth[~brain].any()
        assert painted[15, 14] == pytest.approx(128 + way * 255 * lesions.CONTRAST, abs=1)


def test_a_perfect_map_has_an_auc_of_one_and_a_constant_one_of_a_half():
    brain = np.ones((8, 8), bool)
    truth = np.zeros((1, 8, 8), bool)
    truth[0, 2:4, 2:4] = True
    table = lesions.measure(
        [lesions.Lesion(0, 3, "dark", "sharp")],
        ["p"],
        truth,
        {0: brain},
        {"perfect": truth.astype(float), "constant": np.zeros(truth.shape)},
    )
    assert list(table["auc"]) == [1, 0.5] and list(table["average_precision"]) == [1, 4 / 64]


def test_likelier_lesions_are_told():
    kinds = [lesions.Lesion(0, 3, sign, "sharp") for sign in (lesions.NONE, "bright", "dark")]
    truths = np.zeros((3, 8, 8), bool)
    truths[:, :4, :4] = True
    bits = np.stack([np.full((2, 2), value) for value in (5.0, 4, 6)])
    bits[1, 1, 1] = 99  # not a cell of the lesion
    assert lesions.likelier(kinds, truths, bits) == [False, True, False]


def test_lesions_of_the_tiny_run(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")  # the look at test people is noted in it
    lesions.main(["--run", str(run), "--slices", "1", "--heal", "--out", str(tmp_path / "lesions.csv")])
    table = pd.read_csv(tmp_path / "lesions.csv", dtype={"person": str})
    assert {"all", "106", "107"} == set(table["person"]) and set(table["radius"]) == {"all", "3", "6", "12"}
    assert set(table["map"]) >= {"z", "|z|", "reconstruction error", "slice - healed"}
    assert table["auc"].between(0, 1).all() and (run / "test_looks.csv").is_file()


def test_examples_are_one_slice_with_a_lesion_each(finished_run, tmp_path):
    run = Run(finished_run)
    path = run.slices["path"][0]
    known = lesions.write_examples(tmp_path / "examples", run, path, ("dark_sharp_03", "bright_smooth_06"))
    assert known == (run.slices["label"][0], run.slices["position"][0])
    slices = run.load(run.data, [path]).images[0, ..., 0]
    dark, bright = (
        np.asarray(Image.open(tmp_path / "examples" / f"{name}.png")).astype(int) - slices
        for name in ("dark_sharp_03", "bright_smooth_06")
    )
    assert dark.min() < 0 == dark.max() and bright.max() > 0 == bright.min()
