"""Scores of given slices, and slices without their unlikely codes."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from metrics.codes import UsualBits
from sampling import scoring
from sampling.draws import look_up
from sampling.run import Run, prior_bits
from slices.images import load_images


@pytest.fixture
def run(finished_run):
    return Run(finished_run)


def columns(count):
    return {"label": np.full(count, 1, np.int32), "position": np.full(count, 1, np.int32)}


def test_z_scores_are_those_of_other_people_nearby():
    usual = UsualBits(
        np.array([0.0, 10, 4, 6, 8, 100]).reshape(-1, 1, 1),
        np.array([1, 3, 3, 5, 4, 9]),
        np.array(["a", "b", "a", "c", "b", "a"]),
    )
    assert list(usual.compared(3, "b")) == [True, False, True, True, False, False]
    assert list(usual.compared(3, "")) == [True, True, True, True, True, False]
    assert list(usual.compared(0, "a")) == [False, True, False, True, True, False]  # the position is not known
    deviation = 1.4826 * 4  # of 0, 4, 6, 8, 10 from 6: 6, 2, 0, 2, 4, of which the median is 2
    assert usual.z_scores(np.array([[6.0 + deviation]]), 3, "")[0, 0] == pytest.approx(2, rel=1e-3)
    assert usual.z_scores(np.array([[6.0 - deviation]]), 3, "")[0, 0] == pytest.approx(-2, rel=1e-3)


def test_where_nothing_ever_differs_a_bit_is_one_deviation():
    usual = UsualBits(np.zeros((5, 1, 1)), np.ones(5, int), np.array(list("abcde")))
    assert usual.z_scores(np.full((1, 1), 2.5), 1, "") == pytest.approx(2.5)


@pytest.fixture
def scored(run_predict, tmp_path):
    """scores.csv of some slices in a folder of their own: a function of their paths and of flags."""

    def score(paths, *flags, out):
        (tmp_path / f"of {out}").mkdir()
        for path in paths:
            shutil.copy(path, tmp_path / f"of {out}")
        return pd.read_csv(
            run_predict("score", tmp_path / f"of {out}", *flags, out=out) / "scores.csv", keep_default_na=False
        )

    return score


def test_scores_are_the_bits_of_the_prior_under_the_conditions_of_slices_csv(run, run_predict, slices_folder):
    out = run_predict("score", slices_folder / "test" / "AD")
    table = pd.read_csv(out / "scores.csv")
    assert len(table) == 4 and len(list(out.glob("*_map.png"))) == 4
    assert list(table["label"]) == ["AD"] * 4 and list(table["position"]) == [0, 1, 2, 3]
    assert set(table["compared_people"]) == {2} and (table["least_z"] <= table["largest_z"]).all()
    codes = run.encode(load_images(slices_folder / "test" / "AD", table["file"].tolist(), (32, 40)).images)
    given = {"label": np.ones(4, np.int32), "position": np.arange(1, 5, dtype=np.int32)}
    assert table["bits"].to_numpy() == pytest.approx(prior_bits(run.prior, codes, given).sum(axis=(1, 2)), abs=0.06)


def test_one_slice_is_scored_where_it_lies(run_predict, slices_folder, capsys):
    path = slices_folder / "test" / "AD" / sorted(path.name for path in (slices_folder / "test" / "AD").iterdir())[0]
    table = pd.read_csv(run_predict("score", path) / "scores.csv")
    assert (table["file"].tolist(), table["label"].tolist()) == ([path.name], ["AD"])
    assert "1 map of improbable codes" in (said := capsys.readouterr().out) and "is not known" not in said


def test_what_is_not_in_slices_csv_comes_from_flags_or_is_unknown(scored, slice_path, capsys):
    table = scored([slice_path], "--position", 2, out="one")
    assert set(table["label"]) == {"none"} and set(table["position"]) == {2}
    said = capsys.readouterr().out
    assert "the label of 1 of 1 slices is not known" in said and "the position" not in said


def test_a_person_is_not_compared_with_himself(run):
    chosen = run.slices[run.slices["split"] == "validation"].iloc[:1]
    known = look_up(run, [run.data / chosen["path"].item()])
    assert known["subject"].item() == chosen["subject"].item() and known["position"].item() == chosen["position"].item()
    codes = np.zeros((2, *run.code_grid), np.int32)
    everybody = pd.concat([known, known.assign(subject="")], ignore_index=True)
    _, _, compared = scoring.compare_codes(run, everybody, codes, scoring.load_validation(run))
    assert [row["compared_people"] for row in compared] == [1, 2]


def test_healing_draws_unlikely_codes_alone_and_in_any_company(run):
    random = np.random.default_rng(0)
    codes = random.integers(0, 32, (11, *run.code_grid)).astype(np.int32)
    z_scores = random.normal(size=codes.shape) + 1.5
    healed = scoring.heal_codes(run.prior, codes, z_scores, columns(11), 0)
    assert np.array_equal(healed[z_scores < scoring.UNLIKELY], codes[z_scores < scoring.UNLIKELY])
    assert (healed != codes).any()
    few = scoring.heal_codes(run.prior, codes[:3], z_scores[:3], columns(3), 0)
    assert np.array_equal(few, healed[:3])


def test_healed_slices_are_written_and_shown(scored, slice_path, tmp_path):
    scored([slice_path], "--heal", out="healed")
    names = {path.name for path in (tmp_path / "healed").iterdir()}
    assert names == {"00000_106_71_healed.png", "00000_106_71_map.png", "scores.csv"}
    with Image.open(tmp_path / "healed" / "00000_106_71_healed.png") as healed:
        assert healed.size == (40, 32)
