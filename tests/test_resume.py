"""Nothing is lost: what was stopped goes on to the same bytes, and what is damaged is refused or passed over."""

import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import TINY
from test_train import ROOT, sample

import predict
import train
import training.loop
import training.optimisation
import training.steps
from sampling.run import Run
from training.checkpoints import checkpoints, load_checkpoint, read_checkpoint, save_checkpoint
from training.folder import locked, read_config
from training.options import STAGES
from utils import Interrupted, Terminated, UserError


def start(data, run, *flags):
    train.main(["--data", str(data), "--run", str(run), "--checkpoint-minutes", "0", *TINY, *flags])


def after_saves(monkeypatch, count, action):
    """Call ``action`` right after the checkpoint number ``count`` of this process."""
    plain, saves = training.loop.save_checkpoint, []

    def save(*arguments):
        plain(*arguments)
        saves.append(arguments)
        if len(saves) == count:
            action()

    monkeypatch.setattr(training.loop, "save_checkpoint", save)


def history(run, name):
    return pd.read_csv(run / f"history_{name}.csv").drop(columns=["seconds", "slices_per_second"])


class Killed(BaseException):
    pass


def kill():
    raise Killed


@pytest.fixture(scope="module")
def stopped_run(finished_run, tmp_path_factory):
    """A run that was killed after step 3 of the prior, on the VQ-VAE of the finished one."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as monkeypatch:
        after_saves(monkeypatch, 3, kill)
        with pytest.raises(Killed):
            train.main(["--vqvae", str(finished_run), "--run", str(folder), "--checkpoint-minutes", "0"])
    return folder


@pytest.fixture
def stopped(stopped_run, tmp_path):
    """A copy of it to do things to."""
    return shutil.copytree(stopped_run, tmp_path / "run")


def assert_same_run(run, other, tmp_path):
    for name in STAGES:
        assert (run / f"{name}.keras").read_bytes() == (other / f"{name}.keras").read_bytes()
        pd.testing.assert_frame_equal(history(run, name), history(other, name), check_exact=True)
    assert sample(run, tmp_path / "one", "--num-images", "2") == sample(other, tmp_path / "two", "--num-images", "2")


# ---- exact resume -----------------------------------------------------------------------------


def test_killed_in_stage_2_goes_on_to_the_same_bytes(stopped, finished_run, tmp_path, capsys):
    train.main(["--resume", str(stopped)])
    assert "prior: going on after step 3" in capsys.readouterr().out
    assert_same_run(stopped, finished_run, tmp_path)


def test_a_refiner_of_its_own_command_killed_on_the_way_ends_in_the_same_bytes(finished_run, tmp_path, monkeypatch):
    run = shutil.copytree(finished_run, tmp_path / "run")
    for path in (run / "refiner.keras", *(run / "checkpoints").glob("refiner*")):
        path.unlink()
    config = json.loads((run / "config.json").read_text())
    config["stages"].pop("refiner")  # as in runs of before there were any
    (run / "config.json").write_text(json.dumps(config))
    assert Run(run).refiner is None
    with monkeypatch.context() as patch:
        after_saves(patch, 3, kill)
        with pytest.raises(Killed):
            train.main(["--run", str(run), "--stage", "refiner", "--checkpoint-minutes", "0", "--refiner-steps", "6"])
    with pytest.raises(UserError, match="is begun: go on with --resume"):
        train.main(["--run", str(run), "--stage", "refiner"])
    train.main(["--resume", str(run)])
    assert_same_run(run, finished_run, tmp_path)
    with pytest.raises(UserError, match="already has a refiner"):
        train.main(["--run", str(run), "--stage", "refiner"])


@pytest.mark.parametrize(
    ("number", "status", "stage"),
    [(signal.SIGTERM, 143, "vqvae"), pytest.param(signal.SIGINT, 130, "all", marks=pytest.mark.slow)],
)
def test_stopped_by_a_signal_in_stage_1_goes_on_to_the_same_bytes(
    number, status, stage, slices_folder, finished_run, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    after_saves(monkeypatch, 2, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted, match="stopped after step 3 and saved: go on with python") as stop:
        start(slices_folder, run, "--stage", stage)
    assert stop.value.status == status
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train.main(["--resume", str(run)])
    if stage == "all":
        assert_same_run(run, finished_run, tmp_path)
    assert (run / "vqvae.keras").read_bytes() == (finished_run / "vqvae.keras").read_bytes()
    pd.testing.assert_frame_equal(history(run, "vqvae"), history(finished_run, "vqvae"), check_exact=True)


@pytest.mark.slow
def test_a_second_signal_leaves_at_once(slices_folder, finished_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    after_saves(monkeypatch, 2, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    with pytest.raises(Interrupted, match="left at once") as stop:
        start(slices_folder, run)
    assert stop.value.status == 130
    train.main(["--resume", str(run)])
    assert (run / "prior.keras").read_bytes() == (finished_run / "prior.keras").read_bytes()


@pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_stopped_between_two_stages_says_how_to_go_on(stop, status, slices_folder, finished_run, tmp_path, monkeypatch):
    def stopped(*arguments):
        raise stop

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(train, "measure_sharpening", stopped)
        with pytest.raises(Interrupted, match=f"^stopped: go on with python train.py --resume {run}$") as error:
            start(slices_folder, run, "--stage", "vqvae")
    assert error.value.status == status
    train.main(["--resume", str(run)])
    for name in ("vqvae.keras", "sharpening.json"):
        assert (run / name).read_bytes() == (finished_run / name).read_bytes()


def test_new_checkpoints_outlive_damaged_ones_of_later_steps(tmp_path):
    def save(step):
        save_checkpoint(tmp_path, "prior", step, {"a": np.zeros(3)}, {"step": step})

    for step in (90, 100):
        save(step)
    for path in checkpoints(tmp_path):
        path.write_bytes(b"damaged")
    assert load_checkpoint(tmp_path, "prior", {"a": (3,)}) == (None, None)
    for step in (5, 10, 15):
        save(step)
    assert load_checkpoint(tmp_path, "prior", {"a": (3,)})[1] == {"step": 15}
    assert [path.name.split("-")[1] for path in checkpoints(tmp_path)] == ["000000015", "000000010"]


def rewrite(path, change):
    """Write a checkpoint anew, its header and arrays changed by a function, under the name that it then must have."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    header = json.loads(arrays.pop("header").tobytes())
    change(header, arrays)
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    path.unlink()
    name = path.stem.rpartition("-")[0]
    path.with_name(f"{name}-{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}.npz").write_bytes(buffer.getvalue())


def other_name(header, arrays):
    header["names"][0] = "prior/renamed"


def other_shape(header, arrays):
    arrays["array_00000"] = arrays["array_00000"][:-1]


def test_a_checkpoint_names_its_variables_and_who_wrote_it(stopped):
    with np.load(checkpoints(stopped / "checkpoints")[0]) as file:
        header = json.loads(file["header"].tobytes())
        assert len(header["names"]) == len(set(header["names"])) == len(file.files) - 1
    assert {"bottom/code_embedding", "adam/iteration", "average/bottom/code_embedding"} <= set(header["names"])
    assert header["code"]["keras"] == keras.__version__ and "commit" in header["code"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (other_name, "lacks the variable .* that this code trains; it was written by commit"),
        (other_shape, "the variable prior/greys has the shape .* and .* in this code"),
    ],
)
def test_a_checkpoint_of_other_variables_is_one_sentence(change, sentence, stopped):
    for path in checkpoints(stopped / "checkpoints"):
        rewrite(path, change)
    with pytest.raises(UserError, match=sentence) as error:
        train.main(["--resume", str(stopped)])
    assert "\n" not in str(error.value)


def test_a_checkpoint_by_other_versions_is_told_and_gone_on_with(stopped, capsys):
    rewrite(checkpoints(stopped / "checkpoints")[0], lambda header, arrays: header["code"].update(keras="3.0"))
    newest = checkpoints(stopped / "checkpoints")[0]
    assert load_checkpoint(stopped / "checkpoints", "prior", shapes_in(newest))[1]["step"] == 3
    assert f"was written by other code (keras 3.0 -> {keras.__version__})" in capsys.readouterr().err


def test_a_checkpoint_without_names_is_one_sentence(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, state=np.zeros(1), array_00000=np.zeros(3))
    name = f"prior-000000003-{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}.npz"
    (tmp_path / name).write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="earlier version of this code"):
        load_checkpoint(tmp_path, "prior", {"a": (3,)})


def test_what_a_kill_left_half_written_is_removed(stopped):
    dead = subprocess.run(
        [sys.executable, "-c", "import utils; print(utils.unfinished_prefix())"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    left = [stopped / f"{dead}a.csv", stopped / "checkpoints" / f"{dead}b.npz"]
    for path in left:
        path.write_text("half")
    with locked(stopped):
        assert not any(path.exists() for path in left)


def test_two_checkpoints_are_kept(stopped):
    steps = [path.name.split("-")[:2] for path in checkpoints(stopped / "checkpoints")]
    assert steps == [["prior", "000000003"], ["prior", "000000002"]]


def damage(path, how):
    """Flip a bit in the middle of a file, or cut it off."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content if how == "flip" else content[:100])


def shapes_in(path):
    """The shapes of the variables in a checkpoint, by name."""
    return {name: array.shape for name, array in read_checkpoint(path)[0].items()}


@pytest.mark.parametrize("how", ["flip", "cut"])
def test_a_damaged_checkpoint_is_passed_over_aloud(how, stopped, capsys):
    newest, older = checkpoints(stopped / "checkpoints")
    damage(newest, how)
    arrays, state = load_checkpoint(stopped / "checkpoints", "prior", shapes_in(older))
    assert state["step"] == 2 and all(
        np.array_equal(arrays[name], array) for name, array in read_checkpoint(older)[0].items()
    )
    assert f"{newest} is damaged and is passed over" in capsys.readouterr().err


def test_with_a_damaged_checkpoint_a_run_goes_on_from_the_one_before(stopped, finished_run, capsys):
    damage(checkpoints(stopped / "checkpoints")[0], "flip")
    train.main(["--resume", str(stopped)])
    assert "going on after step 2" in capsys.readouterr().out
    assert (stopped / "prior.keras").read_bytes() == (finished_run / "prior.keras").read_bytes()


def test_without_any_checkpoint_the_stage_begins_anew(stopped, finished_run):
    shutil.rmtree(stopped / "checkpoints")
    train.main(["--resume", str(stopped)])
    assert (stopped / "prior.keras").read_bytes() == (finished_run / "prior.keras").read_bytes()


def test_resuming_a_finished_run_says_so_and_changes_nothing(finished_run, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    train.main(["--resume", str(finished_run)])
    assert "finished: there is nothing to resume" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == before


def test_the_same_command_again_names_resume(stopped, slices_folder):
    with pytest.raises(UserError, match=f"unfinished run and is left alone: go on with --resume {stopped}"):
        start(slices_folder, stopped)


def test_a_prior_that_is_begun_is_not_begun_again(stopped):
    before = (stopped / "config.json").read_bytes()
    with pytest.raises(UserError, match="is begun: go on with --resume"):
        train.main(["--run", str(stopped), "--stage", "prior", "--seed", "5"])
    assert (stopped / "config.json").read_bytes() == before


def test_a_run_goes_on_from_any_folder_and_keeps_the_path_given(stopped, slices_folder, finished_run, monkeypatch):
    shutil.copytree(slices_folder, stopped.parent / "given" / "slices")
    edit(stopped, data="given/slices")
    elsewhere = stopped.parent / "else" / "where"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    train.main(["--resume", "../../run"])
    assert (stopped / "prior.keras").read_bytes() == (finished_run / "prior.keras").read_bytes()
    assert json.loads((stopped / "config.json").read_text())["data"] == "given/slices"
    assert Run(stopped).data == stopped.parent / "given" / "slices"


def test_data_that_moved_are_told_and_the_fingerprint_decides(stopped, slices_folder, tmp_path):
    edit(stopped, data="nowhere/slices")
    with pytest.raises(UserError, match="nowhere/slices of the run .* is not there: say where it is with --data"):
        train.main(["--resume", str(stopped)])
    other = shutil.copytree(slices_folder, tmp_path / "other")
    first, second = sorted((other / "train" / "AD").glob("*.png"))[:2]
    shutil.copy(second, first)
    with pytest.raises(UserError, match="not those that .* was trained on"):
        train.main(["--resume", str(stopped), "--data", str(other)])
    assert json.loads((stopped / "config.json").read_text())["data"] == "nowhere/slices"
    train.main(["--resume", str(stopped), "--data", str(slices_folder)])
    config = json.loads((stopped / "config.json").read_text())
    assert config["data"] == str(slices_folder) and config["finished"]


@pytest.mark.parametrize(
    "flags", [["--seed", "1"], ["--run", "other"], ["--stage", "prior"], ["--dry-run"], ["--no-crop"]]
)
def test_resume_goes_with_no_other_flag(flags, stopped):
    with pytest.raises(UserError, match="no other flag"):
        train.main(["--resume", str(stopped), *flags])


def test_other_slices_than_the_run_began_with_are_refused(stopped, slices_folder, tmp_path):
    data = shutil.copytree(slices_folder, tmp_path / "data")
    first, second = sorted((data / "train" / "AD").glob("*.png"))[:2]
    shutil.copy(second, first)
    edit(stopped, data=str(data))
    with pytest.raises(UserError, match="not those that .* was trained on"):
        train.main(["--resume", str(stopped)])


# ---- trouble on the way -----------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_stops_with_the_last_good_checkpoint(stopped, monkeypatch):
    before = {path.name: path.read_bytes() for path in stopped.glob("*.*")}
    newest = checkpoints(stopped / "checkpoints")[0]
    plain = training.steps.prior_step
    monkeypatch.setattr(
        training.steps, "prior_step", lambda prior, batch: {"loss": plain(prior, batch)["loss"] * np.float32("nan")}
    )
    with pytest.raises(UserError, match=f"not a number at step 4 .last good checkpoint: {newest}.") as error:
        train.main(["--resume", str(stopped)])
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in stopped.glob("*.*")} == before
    assert checkpoints(stopped / "checkpoints")[0] == newest


def test_a_weight_that_is_not_a_number_is_not_saved(stopped, monkeypatch):
    newest = checkpoints(stopped / "checkpoints")[0]
    plain = training.steps.prior_step

    def poisoned(prior, batch):
        metrics = plain(prior, batch)
        bottom = prior.levels()[-1]
        bottom.hidden_bias.assign(bottom.hidden_bias + np.float32("nan"))
        return metrics

    monkeypatch.setattr(training.steps, "prior_step", poisoned)
    with pytest.raises(UserError, match=f"not a number after step 4 .last good checkpoint: {newest}"):
        train.main(["--resume", str(stopped)])
    assert checkpoints(stopped / "checkpoints")[0] == newest


def test_a_full_disk_is_one_sentence_that_says_how_to_go_on(stopped, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(training.loop, "save_checkpoint", full)
    with pytest.raises(UserError, match=r"No space left on device.*python train.py --resume") as error:
        train.main(["--resume", str(stopped)])
    assert "\n" not in str(error.value)


def test_a_second_training_of_a_run_is_refused_and_a_stale_lock_is_not(stopped):
    (stopped / "lock").write_text("process 1 on elsewhere")
    with locked(stopped):  # nobody holds that one
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); import pathlib, training.folder\n"
            f"with training.folder.locked(pathlib.Path({str(stopped)!r})): pass"
        )
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert f"is being trained by process {os.getpid()} on" in other.stderr
        with pytest.raises(UserError, match="is being trained by process"):
            train.main(["--resume", str(stopped)])
    assert not (stopped / "lock").exists()


# ---- run folders of others --------------------------------------------------------------------


def edit(run, **changes):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"crop_box": [1, 2, 3]}, "crop_box is not top, left, height and width"),
        ({"num_codes": "512"}, "num_codes is not a whole number from 2"),
        ({"stages": {}}, "stages is not the state of its stages"),
        ({"format": 99}, "newer version"),
        ({"prior_contexts": 2}, "of an earlier version, whose prior was told the lowest slice"),
        ({"learning_rate": "fast"}, "learning_rate is not a number from 1e-08 to 1"),
        ({"augment": 2}, "augment is not a number from 0 to 1"),
        ({"image_size": [32]}, "image_size is not height and width or null"),
        ({"loss": "none"}, "loss is not one of pyramid, squared"),
    ],
)
def test_an_edited_config_is_one_sentence(changes, sentence, stopped):
    edit(stopped, **changes)
    for script, flag in ((train, "--resume"), (predict, "--run")):
        with pytest.raises(UserError, match=sentence) as error:
            script.main([flag, str(stopped)])
        assert "\n" not in str(error.value)


def test_an_older_run_that_was_told_the_slice_below_is_told_the_same(stopped):
    config = json.loads((stopped / "config.json").read_text())
    edit(stopped, prior_contexts=1)
    assert read_config(stopped) == config | {"prior_slices_below": 1}


def test_a_run_that_was_begun_with_another_loss_is_not_gone_on_with(stopped):
    config = json.loads((stopped / "config.json").read_text())
    config["stages"]["vqvae"] = "wanted"
    del config["detail_weight"]
    (stopped / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="another loss"):
        train.main(["--resume", str(stopped)])


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"seed": 0}'])
def test_a_config_that_is_none_is_one_sentence(content, stopped):
    (stopped / "config.json").write_text(content)
    with pytest.raises(UserError, match="config.json") as error:
        predict.main(["--run", str(stopped)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"num_codes": 33}, "vqvae"),
        ({"code_grid": [9, 9]}, "vqvae"),
        ({"crop_box": [0, 0, 64, 64]}, "vqvae"),
        ({"labels": ["AD"]}, "prior"),
    ],
)
def test_models_that_are_not_those_of_the_config_are_one_sentence(changes, name, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    edit(run, **changes)
    with pytest.raises(UserError, match=f"{name}.keras is not the model that"):
        predict.main(["--run", str(run)])


def test_a_model_of_another_kind_is_refused(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    shutil.copy(run / "prior.keras", run / "vqvae.keras")
    with pytest.raises(UserError, match="vqvae.keras is not the model that"):
        predict.main(["--run", str(run)])


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("split", "tset", "a split or a position is none"),
        ("position", -1, "a split or a position is none"),
        ("slice", "x", "cannot be used"),
        ("path", "../../secret.png", "leads out of the folder"),
        ("path", "/secret.png", "leads out of the folder"),
        ("label", None, "the column label is missing"),
    ],
)
def test_an_edited_index_is_one_sentence(column, value, sentence, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    slices = pd.read_csv(run / "slices.csv")
    if value is None:
        slices = slices.drop(columns=column)
    else:
        slices[column] = slices[column].astype(object)
        slices.loc[3, column] = value
    slices.to_csv(run / "slices.csv", index=False)
    with pytest.raises(UserError, match=sentence) as error:
        predict.main(["--run", str(run)])
    assert "\n" not in str(error.value)


class Burglar:
    def __reduce__(self):
        return (os.mkdir, ("burgled",))


def test_a_run_folder_cannot_execute_code(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(finished_run, tmp_path / "run")
    planted = pickle.dumps(Burglar())
    lambda_model = keras.Sequential([keras.Input((1,)), keras.layers.Lambda(lambda x: os.mkdir("burgled") or x)])
    shutil.rmtree("burgled")  # building it ran it
    for name in ("vqvae.keras", "prior.keras"):
        for content in (planted, None):
            kept = (run / name).read_bytes()
            if content:
                (run / name).write_bytes(content)
            else:
                lambda_model.save(run / name)
            with pytest.raises(UserError, match="cannot be loaded"):
                predict.main(["--run", str(run)])
            (run / name).write_bytes(kept)
    assert not os.path.exists("burgled")


def test_a_checkpoint_with_pickled_content_is_refused(stopped):
    for path in checkpoints(stopped / "checkpoints"):
        path.unlink()
    buffer = io.BytesIO()
    np.savez(buffer, header=np.array([Burglar()], dtype=object), allow_pickle=True)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:16]
    (stopped / "checkpoints" / f"prior-000000003-{digest}.npz").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="cannot be read"):
        train.main(["--resume", str(stopped)])


def test_a_path_that_climbs_out_is_refused(finished_run, tmp_path):
    import zipfile

    run = shutil.copytree(finished_run, tmp_path / "run")
    with zipfile.ZipFile(run / "vqvae.keras", "a") as archive:
        archive.writestr("../../climbed", "out")
    with pytest.raises(UserError, match="cannot be loaded"):
        predict.main(["--run", str(run)])
    assert not list(tmp_path.rglob("climbed"))
