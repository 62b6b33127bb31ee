"""Arrays in files: what there is of every training slice, and what is read of it a few rows at a time."""

import math
import operator
import threading

import numpy as np

from slices.memory import file_folder, nameless_file


class ArrayFile:
    """An array (N, …) in a file without a name: appended to by blocks, read by rows.

    What is read is copied into fresh memory. Nothing else of it stays there, as the pages of a memory map would,
    so the memory of a process does not grow with N. The file is gone when the array is, or the process.

    Args:
        shape: the most rows there will be, then the shape of one.
        dtype: of numpy.
        folder: Path, where the file lies; it is made.

    Attributes:
        shape: the rows there are, then the shape of one.
        dtype: numpy.dtype.
        folder: Path.

    Raises:
        UserError: there is no room for it, or the folder cannot be written.
    """

    def __init__(self, shape, dtype, folder):
        self.shape, self.dtype, self.folder = (0, *shape[1:]), np.dtype(dtype), folder
        self._row_bytes = math.prod(shape[1:]) * self.dtype.itemsize
        self._file = nameless_file(shape[0] * self._row_bytes, folder)
        self._lock = threading.Lock()  # of the place in the file, which threads share

    def __len__(self):
        return self.shape[0]

    def append(self, rows):
        """Put rows (n, …) of the dtype behind those there are."""
        rows = np.ascontiguousarray(rows, self.dtype)
        if rows.shape[1:] != self.shape[1:]:
            raise ValueError(f"rows of shape {rows.shape[1:]} do not go behind those of shape {self.shape[1:]}")
        self._move(self._file.write, rows, len(self))
        self.shape = (len(self) + len(rows), *self.shape[1:])

    def __getitem__(self, rows):
        """The rows that an ndarray would give: one by an int, many by a slice, by ints or by a mask (N,)."""
        if not isinstance(rows, slice | list | np.ndarray):
            row = operator.index(rows)
            if not -len(self) <= row < len(self):
                raise IndexError(f"there are {len(self)} rows, and none has the number {row}")
            return self[row % len(self) : row % len(self) + 1][0]
        numbers = np.arange(len(self))[rows]
        values = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1  # between rows that do not lie side by side
        for some in np.split(np.arange(len(numbers)), breaks) if len(numbers) else []:
            self._move(self._file.readinto, values[some[0] : some[-1] + 1], numbers[some[0]])
        return values

    def _move(self, move, values, row):
        """Read or write contiguous values, the first of which is at a row of the file."""
        left = memoryview(values.reshape(-1).view(np.uint8))
        with self._lock:
            self._file.seek(int(row) * self._row_bytes)
            while left:  # the system moves 2 GB at the most
                left = left[move(left) :]


def array_like(images, shape, dtype):
    """An ArrayFile beside the images where they are one, else in the folder of temporary files."""
    return ArrayFile(shape, dtype, images.folder if isinstance(images, ArrayFile) else file_folder())
