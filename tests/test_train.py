"""train.py, predict.py and evaluate.py end to end on a tiny run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import TINY, make_slices
from PIL import Image

import evaluate
import predict
import train
import training.folder
from training.plan import resolve_config
from utils import UserError

ROOT = Path(train.__file__).parent


def pictures(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("brain_*.png"))}


def sample(run, out, *flags):
    predict.main(["--run", str(run), "--out", str(out), *flags])
    return pictures(out)


# ---- training ---------------------------------------------------------------------------------


def test_run_folder_is_complete(finished_run):
    config = json.loads((finished_run / "config.json").read_text())
    assert config["finished"] is True
    assert config["stages"] == {"vqvae": "finished", "prior": "finished", "refiner": "finished"}
    height, width = config["code_grid"]
    assert config["bits_per_image"] == height * width * 5  # 32 codes
    assert config["receptive_field"][0] >= height and config["receptive_field"][1] >= width - 2  # from a cell of 2
    files = "slices.csv", "vqvae.keras", "prior.keras", "refiner.keras", "history_vqvae.csv", "history_prior.csv"
    for name in (*files, "tensorboard"):
        assert (finished_run / name).exists()
    assert not list(finished_run.glob(".*"))  # nothing unfinished left
    slices = pd.read_csv(finished_run / "slices.csv")
    assert list(slices.columns) == ["path", "subject", "scan", "slice", "position", "label", "split"]
    assert len(slices) == 32 and slices.groupby("subject")["split"].nunique().max() == 1
    assert set(slices["split"]) == {"train", "validation", "test"}
    assert not slices["path"].str.startswith("/").any()


def test_best_weights_are_those_of_the_best_evaluation(finished_run):
    history = pd.read_csv(finished_run / "history_prior.csv")
    config = json.loads((finished_run / "config.json").read_text())
    measured = config["validation"]["prior"]["bits_per_code_validation"]
    measured = measured["value"] if isinstance(measured, dict) else measured
    best = history.loc[history["validation_loss"].idxmin()]
    assert measured == pytest.approx(best["validation_alone"], abs=1e-3)  # told no other slices; of rounded weights
    assert best["validation_loss"] == pytest.approx((best["validation_alone"] + best["validation_told"]) / 2)


@pytest.mark.slow
def test_the_same_command_gives_the_same_weights_and_stages_apart_give_those_of_both(
    finished_run, slices_folder, tmp_path
):
    again = tmp_path / "again"
    train.main(["--data", str(slices_folder), "--run", str(again), "--stage", "vqvae", *TINY])
    assert (again / "vqvae.keras").read_bytes() == (finished_run / "vqvae.keras").read_bytes()
    assert json.loads((again / "config.json").read_text())["finished"] is False
    with pytest.raises(UserError, match="prior of the run .* is not finished: train it with .* --stage prior --run"):
        predict.main(["--run", str(again)])
    train.main(["--run", str(again), "--stage", "prior"])
    assert (again / "prior.keras").read_bytes() == (finished_run / "prior.keras").read_bytes()
    assert sample(again, tmp_path / "a", "--num-images", "2") == sample(
        finished_run, tmp_path / "b", "--num-images", "2"
    )


def test_a_new_run_from_a_copied_vqvae(finished_run, tmp_path):
    folder = tmp_path / "copy"
    train.main(["--vqvae", str(finished_run), "--run", str(folder), "--prior-steps", "2"])
    assert (folder / "vqvae.keras").read_bytes() == (finished_run / "vqvae.keras").read_bytes()
    assert (folder / "slices.csv").read_bytes() == (finished_run / "slices.csv").read_bytes()
    assert len(pd.read_csv(folder / "history_prior.csv")) == 2
    sample(folder, tmp_path / "out", "--num-images", "1")


def test_broken_slice_is_skipped_named_and_counted(tmp_path, capsys):
    folder = make_slices(tmp_path / "slices")
    broken = sorted((folder / "train" / "AD").glob("*.png"))[0]
    broken.write_bytes(broken.read_bytes()[:60])
    run = tmp_path / "run"
    train.main(["--data", str(folder), "--run", str(run), "--stage", "vqvae", *TINY])
    said = capsys.readouterr().err
    assert broken.name in said and "1 of" in said
    assert len(pd.read_csv(run / "slices.csv")) == 31


def test_dry_run_writes_nothing(slices_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train.main(["--data", str(slices_folder), "--dry-run", *TINY])
    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr().out
    assert "bits per image" in said and "receptive field" in said and "minutes" in said


# ---- sampling ---------------------------------------------------------------------------------


def test_image_i_depends_on_the_seed_and_i_alone(finished_run, tmp_path):
    few, many = (sample(finished_run, tmp_path / str(n), "--num-images", str(n), "--seed", "5") for n in (3, 34))
    assert len(many) == 34 and few == {name: many[name] for name in list(many)[:3]}
    other = sample(finished_run, tmp_path / "other", "--num-images", "3", "--seed", "6")
    assert set(other) == set(few) and other != few


def test_samples_have_the_full_frame_and_one_channel(finished_run, tmp_path):
    sample(finished_run, tmp_path / "out", "--num-images", "2", "--label", "AD", "--position", "3")
    with Image.open(tmp_path / "out" / "brain_00001.png") as image:
        assert image.size == (40, 32) and image.mode == "L" and not image.info
    table = pd.read_csv(tmp_path / "out" / "samples.csv")
    assert list(table.columns) == ["file", "index", "seed", "label", "position", "log_likelihood_bits", "block"]
    assert set(table["label"]) == {"AD"} and set(table["position"]) == {3}
    assert (table["log_likelihood_bits"] < 0).all()
    assert (tmp_path / "out" / "sheet.png").exists()


def test_unconditional_sampling_and_truncation(finished_run, tmp_path):
    sample(
        finished_run,
        tmp_path / "out",
        "--num-images",
        "1",
        "--label",
        "none",
        "--position",
        "none",
        "--temperature",
        "0.8",
        "--top-k",
        "5",
        "--top-p",
        "0.9",
    )
    table = pd.read_csv(tmp_path / "out" / "samples.csv", keep_default_na=False)
    assert list(table["label"]) == ["none"] and list(table["position"]) == ["none"]


def test_conditions_follow_the_training_mix(finished_run, tmp_path):
    sample(finished_run, tmp_path / "out", "--num-images", "40")
    table = pd.read_csv(tmp_path / "out" / "samples.csv")
    assert set(table["label"]) == {"AD", "NC"} and set(table["position"]) == {0, 1, 2, 3}


def test_newest_finished_run_is_the_default(finished_run, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished_run, tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    predict.main(["--num-images", "1"])
    assert "runs/mine" in capsys.readouterr().out
    assert len(list(Path("runs/mine/samples").glob("*/brain_00000.png"))) == 1


# ---- reconstruction and evaluation ------------------------------------------------------------


def test_reconstructions_of_any_size_come_back_in_the_frame(finished_run, tmp_path):
    folder = make_slices(tmp_path / "others", people=2, size=(60, 72))
    predict.main(["reconstruct", str(folder), "--run", str(finished_run), "--out", str(tmp_path / "out")])
    table = pd.read_csv(tmp_path / "out" / "reconstructions.csv")
    assert len(table) == 8 and {"ssim", "psnr", "ssim_brain", "psnr_brain"} <= set(table.columns)
    for kind in ("original", "reconstruction", "difference"):
        assert {Image.open(path).size for path in (tmp_path / "out").glob(f"*_{kind}.png")} == {(40, 32)}


# ---- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--data", "empty"], "no PNG or JPEG"),
        (["--data", "text"], "no readable image"),
        (["--data", "mixed"], "differ in size"),
        (["--num-codes", "0"], "--num-codes"),
        (["--learning-rate", "nan"], "--learning-rate"),
        (["--commitment-cost", "inf"], "--commitment-cost"),
        (["--data", "mixed", "--loss", "squared", "--detail-weight", "2"], "--detail-weight is of the pyramid"),
        (["--stage", "prior"], "needs --run"),
        (["--stage", "prior", "--run", "nothing"], "no run at"),
        (["--vqvae", "nothing"], "no run at"),
        (["--unknown"], "unrecognized"),
        (["--run", "text/run/new"], "cannot be written"),
        (["--run", "text/run"], "cannot be written"),
        (["--run", "./taken"], "left alone"),
    ],
)
def test_mistakes_in_training_are_one_sentence_and_leave_nothing(flags, sentence, tmp_path, monkeypatch):
    for name in ("empty", "text", "taken"):
        (tmp_path / name).mkdir()
    (tmp_path / "text" / "1_2.png").write_text("no picture")
    (tmp_path / "text" / "run").write_text("a file where a folder should be")
    (tmp_path / "taken" / "mine.txt").write_text("keep me")
    make_slices(tmp_path / "mixed", people=2)
    Image.new("L", (20, 30), 9).save(tmp_path / "mixed" / "train" / "AD" / "100_99.png")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=sentence) as error:
        train.main([*flags, *(["--data", "mixed"] if "--run" in flags and "--stage" not in flags else [])])
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_finished_run_is_never_overwritten(finished_run, slices_folder):
    before = (finished_run / "vqvae.keras").read_bytes()
    with pytest.raises(UserError, match="finished run and is left alone"):
        train.main(["--data", str(slices_folder), "--run", str(finished_run), *TINY])
    with pytest.raises(UserError, match="already has a prior"):
        train.main(["--run", str(finished_run), "--stage", "prior"])
    assert (finished_run / "vqvae.keras").read_bytes() == before


def test_shards_make_what_one_process_makes(finished_run, tmp_path):
    whole = sample(finished_run, tmp_path / "whole", "--num-images", "70", "--seed", "3")
    shards, rows = {}, []
    for part in (1, 2, 3):  # images 0 to 22, 23 to 45 (blocks 0 and 1), 46 to 69 (blocks 1 and 2)
        folder = tmp_path / f"{part}"
        images = sample(finished_run, folder, "--num-images", "70", "--seed", "3", "--shard", f"{part}/3")
        assert not shards.keys() & images.keys()
        shards |= images
        rows += (folder / "samples.csv").read_text().splitlines()[1:]
    assert shards == whole
    assert rows == (tmp_path / "whole" / "samples.csv").read_text().splitlines()[1:]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--label", "MCI"], "unknown --label MCI: this run has AD, NC and none"),
        (["--position", "4"], "unknown --position 4: this run has 0 to 3 and none"),
        (["--num-images", "0"], "--num-images"),
        (["--top-p", "2"], "--top-p"),
        (["--guidance", "21"], "--guidance: must be at least 0 and at most 20, not 21"),
        (["--shard", "0/3"], "--shard: must be I/N with 1 <= I <= N"),
        (["--shard", "4/3"], "--shard: must be I/N with 1 <= I <= N"),
        (["--shard", "1/3", "--num-images", "2"], "2 images make 2 parts at most"),
        (["reconstruct", "nowhere"], "nowhere does not exist"),
    ],
)
def test_mistakes_in_prediction(flags, sentence, finished_run, tmp_path):
    with pytest.raises(UserError, match=sentence):
        predict.main([*flags, "--run", str(finished_run), "--out", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


def test_no_run_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training.folder, "SHIPPED", tmp_path)
    for script in (predict, evaluate):
        with pytest.raises(UserError, match="no finished run"):
            script.main([])


def test_samples_are_never_overwritten(finished_run, tmp_path):
    first = sample(finished_run, tmp_path / "out", "--num-images", "1")
    with pytest.raises(UserError, match="left alone"):
        sample(finished_run, tmp_path / "out", "--num-images", "1", "--seed", "9")
    assert pictures(tmp_path / "out") == first


def test_prior_of_another_vqvae_is_refused(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    with open(run / "vqvae.keras", "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="another VQ-VAE"):
        predict.main(["--run", str(run)])
    assert not (run / "samples").exists()


def run_script(*words, cwd):
    return subprocess.run([sys.executable, str(ROOT / words[0]), *words[1:]], cwd=cwd, capture_output=True, text=True)


def test_a_mistake_is_one_line_on_stderr_and_status_2(tmp_path):
    done = run_script("train.py", "--num-codes", "0", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("train.py: error: ")


@pytest.mark.parametrize(
    ("script", "argv"),
    [
        *[(script, [flag]) for script in ("train", "predict", "evaluate", "dataset") for flag in ("--help", "--bad")],
        ("train", ["--data", "nowhere"]),
        ("dataset", ["check", "--data", "nowhere"]),
    ],
)
def test_help_and_bad_flags_load_nothing_heavy(script, argv, tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {script}, utils\n"
        f"try: {script}.main({argv})\n"
        "except SystemExit as done: assert done.code == 0 and '--help' in sys.argv\n"
        f"except utils.UserError: assert '--help' not in sys.argv\n"
        "assert not {'numpy', 'pandas', 'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("example" in done.stdout) == (argv == ["--help"])


def test_images_of_a_run_are_not_black(finished_run, tmp_path):
    sample(finished_run, tmp_path / "out", "--num-images", "2")
    assert np.asarray(Image.open(tmp_path / "out" / "brain_00000.png")).max() > 0


@pytest.mark.parametrize(
    ("flags", "width"),
    [
        ([], 32),
        (["--preset", "default"], 48),
        (["--preset", "default", "--prior-width", "40"], 20),
        (["--preset", "default", "--prior-vertical-width", "96"], 96),
        (["--preset", "paper"], 384),
    ],
)
def test_the_vertical_stack_has_half_the_width_unless_told(flags, width, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options, about = train.parse_flags(flags)
    assert resolve_config(options, preset=about["preset"])[1]["prior_vertical_width"] == width
