"""The same random numbers under other conditions, and the ways from one sample to another."""

import pandas as pd
import pytest
from PIL import Image

import predict
from sampling.comparisons import TEMPERATURES

CONDITIONS = "--label", "AD", "--position", "1"


@pytest.fixture(scope="module")
def plain(finished_run, tmp_path_factory):
    """Three plain samples under CONDITIONS: their bytes."""
    out = tmp_path_factory.mktemp("samples") / "out"
    predict.main(["--run", str(finished_run), "--out", str(out), "--num-images", "3", *CONDITIONS])
    return [(out / f"brain_{i:05d}.png").read_bytes() for i in range(3)]


def test_a_label_gives_what_sampling_gives_under_it(run_predict, plain):
    out = run_predict("vary", "label", "--num-images", 3, *CONDITIONS[2:])
    assert [(out / f"brain_{i:05d}_00.png").read_bytes() for i in range(3)] == plain
    assert list(pd.read_csv(out / "samples.csv")["label"]) == ["AD"] * 3 + ["NC"] * 3


def test_guidance_goes_with_what_varies(conditions_matter, run_predict):
    plain = run_predict("--num-images", 2, *CONDITIONS, out="plain")
    draw = ("--guidance", 5, "--block", 4)
    guided = run_predict("--num-images", 2, *CONDITIONS, *draw, out="guided")
    out = run_predict("vary", "label", "--num-images", 2, *CONDITIONS[2:], *draw)
    assert set(pd.read_csv(out / "samples.csv")["block"]) == {4}
    for i in range(2):
        unguided, asked = ((folder / f"brain_{i:05d}.png").read_bytes() for folder in (plain, guided))
        assert (out / f"brain_{i:05d}_00.png").read_bytes() == asked != unguided


def test_positions_are_swept_in_order_and_animated(run_predict, plain):
    out = run_predict("vary", "position", "--num-images", 2, *CONDITIONS[:2])
    assert [(out / f"brain_{i:05d}_01.png").read_bytes() for i in range(2)] == plain[:2]
    assert list(pd.read_csv(out / "samples.csv")["position"]) == [0, 0, 1, 1, 2, 2, 3, 3]
    with Image.open(out / "sweep.gif") as animation:
        assert animation.n_frames == 4 and animation.info["loop"] == 0
    assert not list(out.glob("frame*"))


def test_the_temperatures_include_plain_sampling(conditions_matter, run_predict):
    plain = run_predict("--num-images", 2, *CONDITIONS, out="plain")
    out = run_predict("vary", "temperature", "--num-images", 2, *CONDITIONS)
    table = pd.read_csv(out / "samples.csv")
    assert sorted(set(table["temperature"])) == list(TEMPERATURES)
    same = [(out / file).read_bytes() for file in table["file"][table["temperature"] == 1]]
    assert same == [(plain / f"brain_{i:05d}.png").read_bytes() for i in range(2)]
    likeliest, rarest = (
        table[table["temperature"] == value]["log_likelihood_bits"].mean()
        for value in (min(TEMPERATURES), max(TEMPERATURES))
    )
    assert likeliest > rarest


def test_both_ways_lead_from_one_sample_to_the_other(run_predict, plain):
    out = run_predict("interpolate", "--num-images", 5, *CONDITIONS)
    for way in ("mixed", "turned"):
        assert [(out / f"{way}_{i:05d}.png").read_bytes() for i in (0, 4)] == plain[:2]
    assert list(pd.read_csv(out / "interpolation.csv")["way"]) == ["mixed"] * 5 + ["turned"] * 5
