"""The device: which GPUs are taken, what it is called, and one that cannot be used is said aloud."""

import json
from types import SimpleNamespace

import pytest
import tensorflow as tf

from slices.machine import processor
from training import device
from training.plan import environment, tell_device
from training.workers import start_tensorflow


class Gpus:
    """A stand-in for TensorFlow that has so many GPUs and notes what is asked of them."""

    __version__ = "2.21.0"

    def __init__(self, count, begun=False):
        self.gpus, self.visible, self.growing, self.begun = [f"GPU:{i}" for i in range(count)], None, [], begun
        details = SimpleNamespace(
            set_memory_growth=lambda gpu, on: self.growing.append(gpu) if on else None,
            get_device_details=lambda gpu: {"device_name": "NVIDIA H100 80GB HBM3", "compute_capability": (9, 0)},
        )
        self.config = SimpleNamespace(
            list_physical_devices=lambda kind: self.gpus,
            get_visible_devices=lambda kind: self.gpus if self.visible is None else self.visible,
            set_visible_devices=self.show,
            experimental=details,
        )

    def show(self, gpus, kind):
        if self.begun:
            raise RuntimeError("Visible devices cannot be modified after being initialized")
        self.visible = gpus


@pytest.mark.parametrize(
    ("distribute", "taken", "name"),
    [
        ("none", ["GPU:0"], "NVIDIA H100 80GB HBM3"),
        ("mirrored", ["GPU:0", "GPU:1"], "2 x NVIDIA H100 80GB HBM3"),
        ("multiworker", ["GPU:0", "GPU:1"], "2 x NVIDIA H100 80GB HBM3"),
    ],
)
def test_one_gpu_is_taken_unless_several_train_and_its_memory_as_it_is_needed(distribute, taken, name):
    machine = Gpus(2)
    device.take_gpus(machine, distribute)
    assert machine.config.get_visible_devices("GPU") == machine.growing == taken
    assert device.device_name(machine) == name


def test_what_has_begun_keeps_its_devices():
    machine = Gpus(2, begun=True)
    device.take_gpus(machine, "none")
    assert machine.visible is None and machine.growing == []


def test_without_a_gpu_the_device_is_the_processor():
    machine = Gpus(0)
    device.take_gpus(machine, "none")
    assert device.device_name(machine) == processor()


# ---- a GPU that cannot be used ------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine that shows no GPU, until a file is made in the folder ``dev`` or ``driver``, or a tool in ``bin``."""
    for name in ("dev", "driver", "bin"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(device, "DEVICES", tmp_path / "dev")
    monkeypatch.setattr(device, "DRIVER", tmp_path / "driver")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    device._has_gpu.cache_clear()
    device._warn_once.cache_clear()
    yield tmp_path
    device._has_gpu.cache_clear()
    device._warn_once.cache_clear()


def tool(folder, said, status=0):
    """An nvidia-smi that says this."""
    program = folder / "bin" / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{said}'\nexit {status}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    "show",
    [
        lambda folder: (folder / "dev" / "nvidia3").touch(),
        lambda folder: (folder / "driver" / "0000:65:00.0").touch(),
        lambda folder: tool(folder, "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)"),
    ],
    ids=["device file", "driver", "nvidia-smi"],
)
def test_a_gpu_that_tensorflow_does_not_see_is_one_sentence_with_the_remedy(show, nowhere, capsys):
    show(nowhere)
    device.warn_of_idle_gpu(Gpus(0))
    device.warn_of_idle_gpu(Gpus(0))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install 'tensorflow[and-cuda]==2.21.0'" in said
    assert "CUDA_VISIBLE_DEVICES=-1" in said


def test_it_is_said_wherever_tensorflow_is_started(nowhere, capfd):
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("it can be used here")
    (nowhere / "dev" / "nvidia0").touch()
    start_tensorflow()
    assert "an NVIDIA GPU that TensorFlow cannot use" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("show", "gpus", "visible"),
    [
        (lambda folder: None, 0, None),
        (lambda folder: (folder / "dev" / "nvidiactl").touch(), 0, None),
        (lambda folder: tool(folder, "No devices were found"), 0, None),
        (lambda folder: tool(folder, "GPU 0: lost", status=15), 0, None),
        (lambda folder: (folder / "dev" / "nvidia0").touch(), 1, None),
        (lambda folder: (folder / "dev" / "nvidia0").touch(), 0, "-1"),
        (lambda folder: (folder / "dev" / "nvidia0").touch(), 0, ""),
    ],
    ids=["no GPU", "driver alone", "tool alone", "tool fails", "it is used", "hidden", "hidden by nothing"],
)
def test_nothing_is_said_where_there_is_none_or_it_is_used_or_hidden(show, gpus, visible, nowhere, monkeypatch, capsys):
    show(nowhere)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device.warn_of_idle_gpu(Gpus(gpus))
    assert capsys.readouterr().err == ""


# ---- what is recorded ---------------------------------------------------------------------------


def test_float32_is_float32_wherever_tensorflow_is_started_and_the_config_says_so():
    tf.config.experimental.enable_tensor_float_32_execution(True)
    assert environment()["tf32"] is True
    start_tensorflow()
    assert environment()["tf32"] is False


def test_a_run_names_every_device_that_trained_it(capsys):
    config = {"precision_resolved": "mixed_bfloat16"}
    for machine in (Gpus(1), Gpus(1), Gpus(4)):
        tell_device(machine, config)
    assert config["devices"] == ["NVIDIA H100 80GB HBM3", "4 x NVIDIA H100 80GB HBM3"]
    assert capsys.readouterr().out.startswith("training on NVIDIA H100 80GB HBM3, mixed_bfloat16\n")


def test_the_device_is_said_at_the_start_and_is_in_the_config(finished_run):
    config = json.loads((finished_run / "config.json").read_text())
    assert config["devices"] == [processor()] and config["tf32"] is False
