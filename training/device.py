"""The device that trains or samples: which one is taken, what it is called, and a GPU that cannot be used."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from slices.machine import processor
from utils import warn

DEVICES, DRIVER = Path("/dev"), Path("/proc/driver/nvidia/gpus")  # where Linux shows NVIDIA's GPUs
HIDDEN = ("", "-1")  # values of CUDA_VISIBLE_DEVICES by which a user asks for the CPU


def take_gpus(tf, distribute):
    """Let TensorFlow see the GPUs that are to be used, and take their memory as it is needed.

    One that trains alone takes one: TensorFlow would hold the memory of all. Nothing can be chosen any more once an
    operation has run, as in a notebook; then all stays as it is.

    Args:
        distribute: "none", "mirrored" or "multiworker"; without it the first visible GPU is taken.
    """
    gpus = tf.config.list_physical_devices("GPU")
    try:
        if distribute == "none":
            gpus = gpus[:1]
            tf.config.set_visible_devices(gpus, "GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:
        return


def device_name(tf):
    """What computes: "NVIDIA H100 80GB HBM3", "4 x NVIDIA A100-SXM4-40GB", or without a GPU the processor's name."""
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return processor()
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "a GPU without a name")
    return name if len(gpus) == 1 else f"{len(gpus)} x {name}"


# ---- a GPU that is there and cannot be used -----------------------------------------------------


def warn_of_idle_gpu(tf):
    """Say aloud, once a process, that there is a GPU which TensorFlow cannot use: training would just be slow."""
    if not tf.config.list_physical_devices("GPU") and _has_gpu(os.environ.get("CUDA_VISIBLE_DEVICES")):
        _warn_once(
            "this machine has an NVIDIA GPU that TensorFlow cannot use, so the CPU computes: install CUDA's libraries "
            f"with pip install 'tensorflow[and-cuda]=={tf.__version__}' (a container must be given the GPU, too; "
            "--verbose shows what TensorFlow misses), or set CUDA_VISIBLE_DEVICES=-1 if the CPU is meant"
        )


@cache
def _has_gpu(visible):
    """Whether there is an NVIDIA GPU, and ``visible`` (CUDA_VISIBLE_DEVICES, or None) does not hide it on purpose."""
    if visible is not None and visible.strip() in HIDDEN:
        return False
    return any(DEVICES.glob("nvidia[0-9]*")) or any(DRIVER.glob("*")) or _is_listed()


def _is_listed():
    """Whether NVIDIA's own tool lists a GPU; on WSL nothing else shows it, and on some machines it lists none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and "GPU 0" in done.stdout


@cache
def _warn_once(sentence):
    warn(sentence)
