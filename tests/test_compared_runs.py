"""evaluate.py compare: what it refuses, what it warns of, and what stands in its table."""

import json

import pandas as pd
import pytest
from evaluations import against, evaluation

import evaluate
from metrics.comparison import COMPARED, OF_SAMPLES, circumstances, differences, read_evaluations, side_by_side
from report.numbers import lookup
from utils import UserError


@pytest.fixture
def make_run(tmp_path):
    """A function that writes what compare reads of a run, and returns its folder as a str."""

    def make(name, people=("a", "b", "c"), config=(), **metrics):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        values = evaluation(run=name) | metrics
        (folder / "metrics.json").write_text(json.dumps(values))
        config = {"data_fingerprint": "0123456789abcdef" * 4, "frame": [208, 176]} | dict(config)
        (folder / "config.json").write_text(json.dumps(config))
        table = pd.DataFrame({"subject": people, "bits_per_code": range(len(people))})
        table.assign(ssim_brain=0.5, psnr_brain=20.0, mae_brain=0.1).to_csv(folder / "people.csv", index=False)
        return str(folder)

    return make


def warnings_of(*runs):
    """What compare warns of."""
    return differences(circumstances(read_evaluations(runs)))


def test_runs_that_were_measured_alike_are_warned_of_nothing(make_run):
    assert warnings_of(make_run("a"), make_run("b"), make_run("c")) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            dict(config={"data_fingerprint": "f" * 64}),
            "the runs learnt from different data: 0123456789abcdef in a, ffffffffffffffff in b",
        ),
        (
            dict(config={"frame": [256, 240]}),
            "the slices of the runs have different frames, so bits per image and distances do not compare: "
            "176×208 in a, 240×256 in b",
        ),
        (dict(seed=7), "the evaluations have different seeds: 0 in a, 7 in b"),
        (
            dict(samples=evaluation()["samples"] | {"slices_per_set": 60}),
            "sets of different sizes were compared: 800 in a, 60 in b",
        ),
        (dict(people=("b", "c")), "the people differ: of the 3 people of a, b shares 2 of its 2"),
        (dict(people=("a", "b", "c", "d")), "the people differ: of the 3 people of a, b shares 3 of its 4"),
    ],
)
def test_each_difference_is_warned_of_in_one_sentence(change, sentence, make_run):
    assert warnings_of(make_run("a"), make_run("b", **change)) == [sentence]


def test_differences_are_columns_of_the_table_and_warnings_on_the_terminal(make_run, tmp_path, capsys):
    runs = make_run("a"), make_run("b", people=("c", "d"), seed=3, config={"frame": [256, 240]})
    evaluate.main(["compare", *runs, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().err
    assert printed.count("warning:") == 3 and "a, b shares 1 of its 2" in printed
    table = pd.read_csv(tmp_path / "out/comparison.csv").set_index("run")
    assert list(table["seed"]) == [0, 3] and list(table["frame"]) == ["176×208", "240×256"]
    assert list(table["people"]) == [3, 2] and list(table["people_shared"]) == [3, 1]
    assert list(table["data"]) == ["0123456789abcdef"] * 2
    paired = pd.read_csv(tmp_path / "out/paired.csv").set_index("metric")
    assert paired.loc["bits_per_code", "people"] == 1 and paired.loc["bits_per_code", "difference"] == 0 - 2
    assert (tmp_path / "out/comparison.png").stat().st_size > 1000


def test_numbers_of_samples_have_both_references_with_band_and_verdict(make_run):
    real = against(("kid",))
    real["kid"] = 4.0
    run = make_run("a", samples=evaluation(real)["samples"])
    table = side_by_side(read_evaluations([run, make_run("b")]))
    assert list(table["samples.against_real.kid"]) == [4, 2]
    assert list(table["samples.against_real.kid_verdict"]) == ["told apart", "consistent"]
    assert list(table["samples.against_reconstructions.kid_verdict"]) == ["consistent"] * 2
    assert list(table["samples.against_real.kid_null_high"]) == [1, 1]
    assert list(table["memorisation.nn_ratio_null_low"]) == [0.75] * 2
    assert list(table["prior.bits_per_code"]) == [3.125] * 2


def test_runs_of_one_name_keep_a_row_each(make_run):
    runs = [make_run("one/same"), make_run("two/same", seed=5)]
    assert list(side_by_side(read_evaluations(runs))["seed"]) == [0, 5]
    assert warnings_of(*runs) == ["the evaluations have different seeds: 0 in same, 5 in same"]


def test_every_compared_number_of_samples_is_one_that_is_measured():
    metrics = evaluation()
    for name in OF_SAMPLES:
        assert name in COMPARED
        section, key = name.removeprefix("samples.").split(".")
        assert lookup(metrics, section, key) is not None, name


def test_runs_that_share_nobody_and_old_evaluations_are_refused(make_run):
    first, old = make_run("a"), {"frechet": 3.0, "c2st": 0.9, "anatomy": {}}
    with pytest.raises(UserError, match="of whom they share none.*each --seed draws its own .* --split test") as raised:
        read_evaluations([first, make_run("b", people=("x", "y"))])
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="is of an older form.*python evaluate.py --run .*old again"):
        read_evaluations([first, make_run("old", samples=old)])
