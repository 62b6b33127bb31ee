"""Many devices and many processes train what one trains."""

import json
import subprocess
import sys

import pytest
from conftest import TINY
from test_train import ROOT

import train
from experiments.workers import finish, largest_difference, lose_a_worker, start_workers, steps_flags
from training.plan import check_batch_size
from training.workers import cluster_task
from utils import UserError

FEW = [*TINY, *steps_flags(10)]


@pytest.fixture
def no_cluster(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


# ---- who is who -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "task", "place"),
    [
        ({"worker": ["a:1", "b:1"]}, {"type": "worker", "index": 0}, (0, 2)),
        ({"worker": ["a:1", "b:1"]}, {"type": "worker", "index": "1"}, (1, 2)),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, {"type": "chief", "index": 0}, (0, 3)),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, {"type": "worker", "index": 1}, (2, 3)),
    ],
)
def test_place_among_the_workers(cluster, task, place, no_cluster):
    no_cluster.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    assert cluster_task() == place


def test_place_among_the_workers_of_slurm(no_cluster):
    no_cluster.setenv("SLURM_PROCID", "3")
    no_cluster.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert cluster_task() == (3, 4)


@pytest.mark.parametrize(
    "described",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
    ],
)
def test_a_cluster_that_is_none_is_one_sentence(described, no_cluster):
    if described is not None:
        no_cluster.setenv("TF_CONFIG", described)
    with pytest.raises(UserError, match="TF_CONFIG") as error:
        train.main(["--distribute", "multiworker", "--run", "new"])
    assert "\n" not in str(error.value)


def test_workers_need_the_name_of_the_run(no_cluster):
    no_cluster.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}')
    with pytest.raises(UserError, match="needs --run"):
        train.main(["--distribute", "multiworker"])


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    with pytest.raises(UserError, match="multiple of 3"):
        check_batch_size(8, "mirrored", 3)


# ---- the same training ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(slices_folder, tmp_path_factory):
    """A run of 10 steps of both stages on one device."""
    run = tmp_path_factory.mktemp("alone") / "run"
    train.main(["--data", str(slices_folder), "--run", str(run), *FEW])
    return run


def ends_well(processes):
    for status, _, errors in finish(processes):
        assert status == 0, errors


@pytest.mark.slow
def test_two_workers_train_what_one_trains(alone, slices_folder, tmp_path):
    vqvae, prior = tmp_path / "vqvae", tmp_path / "prior"
    ends_well(start_workers(tmp_path, 2, "--data", str(slices_folder), "--run", str(vqvae), "--stage", "vqvae", *FEW))
    assert largest_difference(alone, vqvae, "vqvae") < 1e-4
    ends_well(start_workers(tmp_path, 2, "--vqvae", str(alone), "--run", str(prior)))
    assert largest_difference(alone, prior, "prior") < 1e-4
    assert json.loads((prior / "config.json").read_text())["finished"]


@pytest.mark.slow
def test_a_lost_worker_ends_the_job_with_a_sentence_and_the_job_goes_on(slices_folder, tmp_path):
    found = lose_a_worker(tmp_path, 1, ["--data", str(slices_folder), *TINY, *steps_flags(30)], step=5)
    assert found["status"] == 2 and "another worker was lost; the last good checkpoint is" in found["sentence"]
    assert found["resumed"] == [0, 0] and found["finished"] and "vqvae: going on after step" in found["went_on"]


@pytest.mark.slow
def test_two_devices_of_one_process_train_what_one_trains(alone, slices_folder, tmp_path):
    code = f"""
import sys
import tensorflow as tf
processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, 2 * [tf.config.LogicalDeviceConfiguration()])
sys.path.insert(0, {str(ROOT)!r})
import train
train.main(["--distribute", "mirrored", *sys.argv[1:]])
"""
    for stage, flags in (
        ("vqvae", ["--data", str(slices_folder), "--stage", "vqvae", *FEW]),
        ("prior", ["--vqvae", str(alone)]),
    ):
        run = tmp_path / stage
        done = subprocess.run([sys.executable, "-c", code, *flags, "--run", str(run)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "2 devices, 2 slices of each batch of 4 on each" in done.stdout
        assert largest_difference(alone, run, stage) < 1e-4
