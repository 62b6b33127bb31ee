"""Arrays in files: they are read as arrays are, leave nothing behind, and take no memory."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import slices.memory
from metrics.array_file import ArrayFile, array_like
from utils import UserError


def filled(folder, values, block=3):
    """An ArrayFile of values, appended to in blocks."""
    file = ArrayFile(values.shape, values.dtype, folder)
    for start in range(0, len(values), block):
        file.append(values[start : start + block])
    return file


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float32])
def test_an_array_in_a_file_is_read_like_an_array(tmp_path, dtype):
    values = np.random.default_rng(0).integers(-100, 100, (10, 3, 5)).astype(dtype)
    file = filled(tmp_path, values)
    assert file.shape == values.shape and file.dtype == values.dtype and len(file) == 10
    mask = np.arange(10) % 3 == 1
    for rows in (
        0,
        np.int64(7),
        -1,
        slice(None),
        slice(2, 9, 3),
        slice(8, 99),
        slice(4, 4),
        mask,
        np.flatnonzero(mask),
    ):
        assert np.array_equal(file[rows], values[rows]) and file[rows].dtype == values.dtype
    for rows in ([9, 0, 0, 1, 2, -3], np.array([5, 6, 7, 2]), np.flatnonzero(mask), np.array([], int)):
        assert np.array_equal(file[rows], values[rows])
    assert np.array_equal(np.stack(list(file)), values)  # it ends where the rows do
    for wrong in (10, -11, np.array([10]), np.ones(9, bool)):
        with pytest.raises(IndexError):
            file[wrong]
    with pytest.raises(ValueError, match="do not go behind"):
        file.append(values[:, :2])


def test_rows_are_there_when_they_are_appended_and_what_is_read_is_a_copy(tmp_path):
    values = np.arange(12, dtype=np.uint8).reshape(4, 3)
    file = ArrayFile((6, 3), np.uint8, tmp_path / "new")
    assert len(file) == 0 and file[:].shape == (0, 3)
    file.append(values[::2])
    file[0][:] = 99
    assert file.shape == (2, 3) and np.array_equal(file[:], values[::2])


def test_threads_read_at_once_what_each_asked_for(tmp_path):
    values = np.repeat(np.arange(200, dtype=np.uint8)[:, None], 1000, axis=1)
    file = filled(tmp_path, values, 50)
    with ThreadPoolExecutor(8) as pool:
        rows = list(np.random.default_rng(0).integers(0, 200, 2000))
        assert all((row == found).all() for row, found in zip(rows, pool.map(file.__getitem__, rows), strict=True))


def test_nothing_is_left_in_the_folder(tmp_path):
    file = filled(tmp_path, np.zeros((4, 2), np.uint8))
    assert not list(tmp_path.iterdir()) and file[3].shape == (2,)


def test_one_file_lies_beside_another_and_that_of_an_array_in_memory_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("metrics.array_file.file_folder", lambda: tmp_path / "temporary")
    file = filled(tmp_path / "a", np.zeros((4, 2), np.uint8))
    assert array_like(file, (4, 5), np.int8).folder == tmp_path / "a"
    assert array_like(file[:], (4, 5), np.int8).folder == tmp_path / "temporary"


def test_no_room_and_no_folder_are_told_in_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="has no room for 1000000.0 GB of decoded images: choose another folder"):
        ArrayFile((10**15, 1), np.uint8, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written .*choose another folder with --cache"):
        ArrayFile((1, 1), np.uint8, tmp_path / "file")

    def full(handle, start, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(slices.memory.os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match="No space left"):
        ArrayFile((1, 1), np.uint8, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name != "file"]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    """200 MB are written and read; the process takes a few."""
    code = f"""
import re, numpy as np
from pathlib import Path
from metrics.array_file import ArrayFile
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
file, before = ArrayFile((200, 2**20), np.uint8, Path({str(tmp_path)!r})), peak()
for _ in range(200):
    file.append(np.ones((1, 2**20), np.uint8))
assert sum(int(row[-1]) for row in file) == 200
print(peak() - before)
"""
    root = Path(slices.memory.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 20
