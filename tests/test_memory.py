"""What a job may use, and where decoded slices lie when its memory is short: limits are files made here."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import TINY, make_slices
from pictures import good_files

import slices.memory
import train
import utils
from slices import machine
from slices.images import load_images
from slices.memory import available_memory, cache_folder, check_cache, file_system, image_array
from training.plan import copied_config, resumed_config
from utils import UserError

ROOT = Path(utils.__file__).parent
GB = 1000**3


# ---- what the job may use -----------------------------------------------------------------------


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A function that puts this process into control groups: the lines of /proc/self/cgroup, and files with texts."""

    def put(lines, files):
        (tmp_path / "own").write_text("".join(f"{line}\n" for line in lines))
        monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
        monkeypatch.setattr(machine, "GROUPS", tmp_path / "groups")
        for name, text in files.items():
            (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "groups" / name).write_text(f"{text}\n")

    return put


LIMITS = [  # /proc/self/cgroup, files, memory, cores
    (["0::/"], {"memory.max": "max", "cpu.max": "max 100000"}, math.inf, 64),
    (["0::/"], {"memory.max": 3 * GB, "cpu.max": "150000 100000"}, 3 * GB, 2),  # as a container sees its own group
    (
        ["0::/slurm/job_7/step_0"],  # a limit of a group above counts
        {"slurm/job_7/memory.max": 2 * GB, "slurm/job_7/step_0/memory.max": "max", "slurm/cpu.max": "400000 100000"},
        2 * GB,
        4,
    ),
    (
        ["4:memory:/job", "3:cpu,cpuacct:/job", "1:name=systemd:/", "0::/"],  # version 1
        {
            "memory/job/memory.limit_in_bytes": 5 * GB,
            "memory/memory.limit_in_bytes": 2**63 - 4096,
            "cpu,cpuacct/job/cpu.cfs_quota_us": 50000,
            "cpu,cpuacct/job/cpu.cfs_period_us": 100000,
            "cpu,cpuacct/cpu.cfs_quota_us": -1,
            "cpu,cpuacct/cpu.cfs_period_us": 100000,
        },
        5 * GB,
        1,
    ),
    (["4:memory:/docker/abc"], {"memory/memory.limit_in_bytes": GB}, GB, 64),  # the path is that of the host
]


@pytest.mark.parametrize(("lines", "files", "memory", "cores"), LIMITS)
def test_limits_of_the_job_count_and_not_those_of_the_machine(lines, files, memory, cores, groups, monkeypatch):
    groups(lines, files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(slices.memory, "_free_memory", lambda: 100 * GB)
    monkeypatch.setattr(slices.memory, "_address_space", lambda: math.inf)
    monkeypatch.setattr(slices.memory, "_own_memory", lambda: GB // 2)  # so much of it is taken already
    assert available_memory() == min(memory - GB // 2, 100 * GB) and machine.cores() == cores


def test_the_affinity_counts_and_not_the_machine(groups, monkeypatch):
    groups(["0::/"], {"cpu.max": "800000 100000"})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7}, raising=False)
    assert machine.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # not on Linux
    assert machine.cores() == 8


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is obeyed on Linux")
def test_what_ulimit_leaves_counts():
    code = "from slices.memory import available_memory; print(available_memory())"
    script = f"ulimit -v 2000000; {sys.executable} -c '{code}'"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 2000000 * 1024


def test_without_the_module_resource_there_is_no_limit(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert slices.memory._address_space() == math.inf


# ---- where decoded slices lie -------------------------------------------------------------------


def mounts(monkeypatch, kinds):
    """Say which file systems folders are on: dict of folder → kind; others are on a disk."""
    monkeypatch.setattr(slices.memory, "file_system", lambda folder: kinds.get(str(folder), "ext4"))


def test_the_file_lies_beside_the_run_and_never_unasked_in_memory(tmp_path, monkeypatch):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(slices.memory.tempfile, "gettempdir", lambda: str(temporary))
    mounts(monkeypatch, {})
    assert cache_folder(beside=tmp_path) == tmp_path and cache_folder() == temporary
    assert cache_folder(beside=tmp_path / "new" / "run") == tmp_path  # nothing is made for it
    mounts(monkeypatch, {str(tmp_path): "tmpfs", str(temporary): "tmpfs"})
    assert cache_folder(beside=tmp_path) not in (tmp_path, temporary)
    assert cache_folder(temporary) == temporary  # as asked for
    mounts(monkeypatch, {str(tmp_path): "tmpfs", str(temporary): "tmpfs", "/var/tmp": "ramfs", ".": "tmpfs"})
    with pytest.raises(UserError, match="larger than this job's memory allows.*name one with --cache"):
        cache_folder(beside=tmp_path)


def test_file_systems_are_told_by_the_nearest_mount(tmp_path, monkeypatch):
    table = f"/dev/a / ext4 rw 0 0\nnone {tmp_path}/a\\040b tmpfs rw 0 0\nnone {tmp_path}/a\\040b/c xfs rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **how: table)
    found = [file_system(tmp_path / name) for name in ("a", "a b", "a b/x", "a b/c/d", "a bc")]
    assert found == ["ext4", "tmpfs", "tmpfs", "xfs", "ext4"]


def test_without_memory_the_file_is_taken(tmp_path, monkeypatch):
    paths = good_files(tmp_path / "data")
    expected = load_images(tmp_path / "data", paths).images
    assert not isinstance(expected, np.memmap)

    empty = np.empty

    def refuse(shape, *arguments, **options):
        if np.ndim(shape) and len(shape) == 4:
            raise MemoryError
        return empty(shape, *arguments, **options)

    monkeypatch.setattr(slices.memory.np, "empty", refuse)
    images = load_images(tmp_path / "data", paths, cache_folder=tmp_path / "cache").images
    assert isinstance(images, np.memmap) and np.array_equal(images, expected)


def test_no_room_for_the_file_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(slices.memory, "MEMORY_SHARE", 0)
    with (
        pytest.raises(UserError, match="has no room for .* GB of decoded images.*--cache"),
        image_array((10**6, 10**6, 10, 1), tmp_path),
    ):
        pass

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with (
        pytest.raises(UserError, match="fit neither into memory nor .*No space left on device"),
        image_array((2, 3, 4, 1), tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["train", "--run", "r"], ["dataset", "check"]])
def test_a_cache_that_is_a_file_is_refused_at_once(words, tmp_path, monkeypatch):
    import dataset

    monkeypatch.chdir(tmp_path)
    make_slices(tmp_path / "data", people=4)
    (tmp_path / "file").write_text("")
    main = {"train": train.main, "dataset": dataset.main}[words[0]]
    with pytest.raises(UserError, match="--cache file is no folder that can be written"):
        main([*words[1:], "--data", "data", "--cache", "file"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "file"]
    check_cache(None)
    check_cache(tmp_path / "new" / "folder")


def test_the_cache_may_change_on_resume_and_is_not_copied_with_a_vqvae(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    config = utils.load_json(tmp_path / "run" / "config.json")
    assert config["cache"] is None
    utils.save_json(tmp_path / "run" / "config.json", config | {"cache": "there"})
    assert resumed_config(str(tmp_path / "run"), {"cache": "here"})[1]["cache"] == "here"
    assert resumed_config(str(tmp_path / "run"), {})[1]["cache"] == "there"
    assert copied_config(str(tmp_path / "run"), "all", None, {})["cache"] is None


@pytest.mark.slow
def test_training_from_a_file_gives_what_training_from_memory_gives(slices_folder, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(slices.memory, "MEMORY_SHARE", 0)
    train.main(["--data", str(slices_folder), "--run", str(tmp_path / "r"), "--cache", str(tmp_path / "c"), *TINY])
    for name in ("history_vqvae.csv", "history_prior.csv"):
        ours, theirs = (pd.read_csv(run / name) for run in (tmp_path / "r", finished_run))
        columns = [name for name in ours if "loss" in name]
        assert columns and ours[columns].equals(theirs[columns])
    assert list((tmp_path / "c").iterdir()) == []


@pytest.mark.parametrize(
    ("quota", "threads"), [("100000 100000", 1), pytest.param("max 100000", 0, marks=pytest.mark.slow)]
)
def test_tensorflow_starts_no_more_threads_than_the_quota_lets_run(quota, threads, tmp_path):
    (tmp_path / "own").write_text("0::/\n")
    (tmp_path / "cpu.max").write_text(quota)
    code = (
        "import os, pathlib; from slices import machine; from training.workers import start_tensorflow;"
        "os.sched_getaffinity = lambda process: {0, 1, 2};"
        f"machine.OWN_GROUPS, machine.GROUPS = "
        f"pathlib.Path({str(tmp_path / 'own')!r}), pathlib.Path({str(tmp_path)!r});"
        "print(start_tensorflow().config.threading.get_intra_op_parallelism_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(threads)]
