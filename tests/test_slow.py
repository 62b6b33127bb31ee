"""What takes minutes: whole runs in other processes, killed ones, and one that copies. See test_readme.py, too."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import dataset
import evaluate
import metrics.samples
import train
from experiments import faults
from metrics.parts import load_part

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(folder, command):
    """Run ``python <command>`` in a folder; return what it printed."""
    script, *flags = command.split()
    done = subprocess.run([sys.executable, str(ROOT / script), *flags], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which the demo was made, trained in smoke form and sampled."""
    folder = tmp_path_factory.mktemp("workplace")
    run(folder, "train.py --preset smoke --run demo")
    return folder


def test_demo_in_smoke_form(workplace):
    config = json.loads((workplace / "runs/demo/config.json").read_text())
    assert config["finished"] and config["simulated"] and config["labels"] == ["AD", "NC"]
    slices = pd.read_csv(workplace / "runs/demo/slices.csv")
    assert slices["subject"].nunique() == 20 and len(slices) == 400
    assert slices.groupby("subject")["split"].nunique().max() == 1
    assert not Path(config["data"]).is_absolute()


def test_samples_repeat_byte_for_byte_in_other_processes(workplace):
    first = "predict.py --run demo --num-images 5 --seed 3 --out first"
    run(workplace, first)
    run(workplace, first.replace("first", "second").replace("5", "40"))
    for i in range(5):
        name = f"brain_{i:05d}.png"
        assert (workplace / "first" / name).read_bytes() == (workplace / "second" / name).read_bytes()
    assert Image.open(workplace / "first/brain_00000.png").size == (64, 60)


def test_training_repeats_byte_for_byte_in_another_process(workplace):
    data = json.loads((workplace / "runs/demo/config.json").read_text())["data"]
    run(workplace, f"train.py --data {data} --preset smoke --run again")
    run(workplace, "predict.py --run demo --num-images 2 --out one")
    run(workplace, "predict.py --run again --num-images 2 --out two")
    assert (workplace / "one/brain_00001.png").read_bytes() == (workplace / "two/brain_00001.png").read_bytes()
    histories = [pd.read_csv(workplace / f"runs/{name}/history_prior.csv") for name in ("demo", "again")]
    assert np.array_equal(histories[0]["validation_loss"], histories[1]["validation_loss"])


def test_killed_anywhere_it_goes_on_to_the_same_bytes(tmp_path):
    """The quick version of experiments/faults.py."""
    seconds, expected = faults.whole_run(tmp_path)
    report = faults.kill_and_resume(tmp_path, 1, seconds, random.Random(1), expected)
    assert report["kills"] == 1 and report["files_compared"] >= 8 and report["different"] == []


def test_copies_among_samples_are_flagged_and_a_sound_run_is_not(tmp_path, monkeypatch, capsys):
    """Copies are planted: samples take the codes of training slices, a few of them changed.

    The slices are larger than those of the preset smoke, at whose size a VQ-VAE is too poor for a search to tell copies
    from anything.
    """
    monkeypatch.chdir(tmp_path)
    dataset.main(["demo", "--out", "cohort", "--people", "15", "--image-size", "120", "128"])
    train.main(
        [
            "--preset",
            "smoke",
            "--data",
            "cohort",
            "--image-size",
            "120",
            "128",
            "--run",
            "sound",
            "--num-codes",
            "64",
            "--prior-width",
            "48",
            "--prior-layers",
            "6",
            "--vqvae-steps",
            "600",
            "--prior-steps",
            "100",
        ]
    )
    evaluate.main(["--run", "sound", "--quick"])
    assert "no copies found" in capsys.readouterr().out

    def copies(run, cache, label, position, count, seed=0, **sampling):
        training = load_part(run, cache, "train")
        codes = training.codes[np.arange(count) % len(training.codes)]
        return np.where(np.random.default_rng(seed).random(codes.shape) < 0.02, 0, codes).astype(np.int32)

    monkeypatch.setattr(metrics.samples, "sample_codes", copies)
    evaluate.main(["--run", "sound", "--quick"])
    said = capsys.readouterr().out
    assert "copies found" in said and "no copies found" not in said
    memorisation = json.loads((tmp_path / "runs/sound/metrics.json").read_text())["memorisation"]
    assert memorisation["copies_fraction"] > 0.5 and memorisation["nn_ratio"] < 0.5
