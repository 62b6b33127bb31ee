"""Which other slices of a scan a slice is told."""

import pandas as pd
import pytest

from slices.neighbours import ranks_told, slices_below


@pytest.mark.parametrize(("rank", "told"), [(0, [-1, -1, -1]), (1, [0, -1, -1]), (2, [1, 0, -1]), (5, [4, 3, 2])])
def test_told_are_the_slices_next_below(rank, told):
    assert [ranks_told(rank, count) for count in range(4)] == [told[:count] for count in range(4)]


def test_the_slices_told_are_of_the_same_scan():
    slices = pd.DataFrame(
        [("a", 2), ("a", 0), ("b", 1), ("a", 1), ("b", 4), ("a", 4)],
        columns=["scan", "position"],
        index=[3, 1, 4, 7, 9, 11],
    )
    rows, gaps = slices_below(slices, 3)
    assert rows.tolist() == [[3, 1, -1], [-1, -1, -1], [-1, -1, -1], [1, -1, -1], [2, -1, -1], [0, 3, 1]]
    assert gaps.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0], [3, 0, 0], [2, 3, 4]]
    for count in (1, 2):
        assert slices_below(slices, count)[0].tolist() == rows[:, :count].tolist()
    assert slices_below(slices, 0)[0].shape == (6, 0)
