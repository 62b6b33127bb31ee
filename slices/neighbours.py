"""Which other slices of a scan a slice is told, so that the slices of one person agree."""

import numpy as np

NO_SLICE = -1


def ranks_told(rank, count):
    """The ranks in a scan, 0 for the lowest slice, of the ``count`` slices below one: a list, NO_SLICE for none."""
    return [max(rank - below, NO_SLICE) for below in range(1, count + 1)]


def slices_below(slices, count):
    """The slices of the same scan that every slice is told: those next below it.

    Args:
        slices: DataFrame of scan and position.
        count: how many, from 0.

    Returns:
        rows (N, count) int64, of the DataFrame, the nearest first, NO_SLICE where there is none; and gaps (N, count)
        int32, how many positions below, 0 where there is none.
    """
    rows = np.full((len(slices), count), NO_SLICE)
    position = slices["position"].to_numpy(int)
    for members in slices.groupby("scan").indices.values():
        ordered = members[np.argsort(position[members], kind="stable")]
        for rank, row in enumerate(ordered):
            rows[row] = [NO_SLICE if told == NO_SLICE else ordered[told] for told in ranks_told(rank, count)]
    gaps = np.where(rows == NO_SLICE, 0, position[:, None] - position[rows])
    return rows, gaps.astype(np.int32)
