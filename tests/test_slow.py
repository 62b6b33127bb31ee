"""What takes minutes: whole runs in other processes, killed ones, and one that copies. See test_readme.py, too."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import faults
import numpy as np
import pandas as pd
import pytest
from PIL import Image

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
    """The quick version of tests/faults.py."""
    seconds, expected = faults.whole_run(tmp_path)
    report = faults.kill_and_resume(tmp_path, 4, seconds, random.Random(1), expected)
    assert report["kills"] == 4 and report["files_compared"] >= 8 and report["different"] == []


def test_a_run_that_copies_is_flagged_and_a_sound_one_is_not(tmp_path):
    """Five people, no augmentation, and weights chosen on the same five people under other names.

    The sound run needs larger slices: at 60x64 its VQ-VAE is too poor for a search to tell copies from anything.
    """
    run(tmp_path, "dataset.py --demo cohort --people 15 --image-size 60 64")
    people = {}
    for path in sorted((tmp_path / "cohort").rglob("*.png")):
        people.setdefault(path.name.split("_")[0], []).append(path)
    for number, paths in enumerate(people.values()):
        for path in paths:
            for split, prefix in (("train", ""), ("validation", "9")) if number < 5 else (("test", ""),):
                folder = tmp_path / "five" / split / path.parent.name
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / f"{prefix}{path.name}")
    smoke = "train.py --preset smoke --num-codes 64 --prior-width 48"
    run(tmp_path, f"{smoke} --data five --run copies --augment 0 --prior-dropout 0 --vqvae-steps 600 "
                  "--prior-steps 1500")
    run(tmp_path, "dataset.py --demo larger --people 15 --image-size 120 128")
    run(tmp_path, f"{smoke} --data larger --image-size 120 128 --prior-layers 6 --run sound --vqvae-steps 600 "
                  "--prior-steps 300")
    flagged = run(tmp_path, "evaluate.py --run copies --split test --quick")
    assert "copies found" in flagged and "no copies found" not in flagged
    memorisation = json.loads((tmp_path / "runs/copies/metrics.json").read_text())["memorisation"]
    assert memorisation["copies_fraction"] > 0.5 and memorisation["nn_ratio"] < 0.5
    assert "no copies found" in run(tmp_path, "evaluate.py --run sound --quick")
