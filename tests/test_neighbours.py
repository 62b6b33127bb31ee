"""Which slices of a scan lie below another one."""

import pandas as pd
import pytest

from slices.neighbours import scan_of, slices_below


@pytest.mark.parametrize(
    ("path", "number", "scan"),
    [
        ("train/AD/100_045.png", 45, "train/AD/100_.png"),
        ("train/AD/45_45.png", 45, "train/AD/45_.png"),
        ("a/I7/slice_3_of_20.png", 3, "a/I7/slice__of_20.png"),
        ("a/no_number.png", 3, "a/no_number.png"),
    ],
)
def test_the_scan_is_the_path_without_the_number_of_the_slice(path, number, scan):
    assert scan_of(path, number) == scan


def test_the_slice_below_and_the_lowest_of_the_same_scan():
    slices = pd.DataFrame(
        [("a_9.png", 9, 2), ("a_7.png", 7, 0), ("b_8.png", 8, 1), ("a_8.png", 8, 1), ("b_12.png", 12, 4)],
        columns=["path", "slice", "position"],
        index=[3, 1, 4, 7, 9],
    )
    rows, gaps = slices_below(slices, 2)
    assert rows.tolist() == [[3, 1], [-1, -1], [-1, -1], [1, 1], [2, 2]]
    assert gaps.tolist() == [[1, 2], [0, 0], [0, 0], [1, 1], [3, 3]]
    assert slices_below(slices, 1)[0].tolist() == [[3], [-1], [-1], [1], [2]]
    assert slices_below(slices, 0)[0].shape == (5, 0)
