"""Which slices of a scan lie below another one."""

import re

import numpy as np

NONE = -1
NUMBER = re.compile(r"\d+")


def scan_of(path, number):
    """The name of the scan that a slice belongs to: its path without the last of its numbers that is the slice's.

    Args:
        path: str.
        number: int, that of the slice.
    """
    own = [match for match in NUMBER.finditer(path) if int(match[0]) == number]
    return path[: own[-1].start()] + path[own[-1].end() :] if own else path


def slices_below(slices, count):
    """The slices of the same scan that a slice is told: the one below it, and the lowest of all.

    Args:
        slices: DataFrame of path, slice and position.
        count: how many of the two, 0 to 2.

    Returns:
        rows (N, count) int64, of the DataFrame, NONE where there is none; and gaps (N, count) int32, how many positions
        below, 0 where there is none.
    """
    rows = np.full((len(slices), count), NONE)
    scans = [scan_of(*each) for each in zip(slices["path"], slices["slice"], strict=True)]
    position = slices["position"].to_numpy(int)
    for members in slices.groupby(np.array(scans)).indices.values():
        ordered = members[np.argsort(position[members], kind="stable")]
        for below, row in zip(ordered, ordered[1:], strict=False):
            rows[row] = [below, ordered[0]][:count]
    gaps = np.where(rows == NONE, 0, position[:, None] - position[rows])
    return rows, gaps.astype(np.int32)
