"""The slices of a run: each file is decoded as often as it must be, and no image is trained and tested on unsaid."""

import shutil

import numpy as np
import pytest
from conftest import make_slices

import slices.images
from slices.index import find_slices
from slices.splits import split_by_subject
from training import data
from training.options import preset_values
from utils import evenly


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded, in any order, as often as they are."""
    names, decode = [], slices.images.decode

    def noted(path, *arguments, **options):
        names.append(str(path))
        return decode(path, *arguments, **options)

    monkeypatch.setattr(slices.images, "decode", noted)
    return names


def config_of(folder, **changes):
    return preset_values("default") | {"data": str(folder), "image_size": [40, 48]} | changes


def test_a_broken_file_does_not_make_all_others_decoded_twice(tmp_path, decoded, capsys):
    folder = make_slices(tmp_path / "data")
    (folder / "train" / "AD" / "100_71.png").write_text("no image")
    index = split_by_subject(find_slices(folder), 0)
    left, rows, loaded = data.load_used(config_of(folder), index)
    assert len(decoded) == len(set(decoded)) == 24 and len(loaded.images) == len(rows) == 23
    assert rows["path"].tolist() == loaded.paths and len(left) == len(index) - 1
    assert rows["split"].tolist() == sorted(rows["split"])  # train, then validation
    assert "1 of 24 files cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("limit", [None, 5, 100])
def test_whoever_reads_the_index_without_what_is_broken_picks_the_same(limit, tmp_path):
    folder = make_slices(tmp_path / "data")
    for name in ("100_71", "102_70"):
        (folder / "train" / "AD" / f"{name}.png").write_text("no image")
    index = split_by_subject(find_slices(folder), 0)
    left, rows, loaded = data.load_used(config_of(folder, slice_limit=limit), index)
    again = data.load_used(config_of(folder, slice_limit=limit), left.reset_index(drop=True))
    assert again[1]["path"].tolist() == rows["path"].tolist() and again[2].fingerprint == loaded.fingerprint
    train = np.flatnonzero(left["split"] == "train")
    expected = left["path"].iloc[evenly(train, limit)].tolist()
    assert rows["path"][rows["split"] == "train"].tolist() == expected
    assert np.array_equal(again[2].images, loaded.images)


def test_a_test_file_with_the_pixels_of_a_training_file_is_told(tmp_path, capsys):
    folder = make_slices(tmp_path / "data")
    shutil.copy(folder / "train" / "AD" / "100_71.png", folder / "test" / "AD" / "106_71.png")
    (folder / "test" / "AD" / "106_72.png").write_text("no image")
    config = config_of(folder, simulated=False)
    data.prepare_data(config)
    said = capsys.readouterr().err
    assert "1 image found in more than one split under different names" in said
    assert "test/AD/106_71.png = train/AD/100_71.png" in said.replace("\\", "/") or (
        "train/AD/100_71.png = test/AD/106_71.png" in said
    )


def test_a_run_that_goes_on_does_not_decode_the_test_files_again(tmp_path, decoded, capsys):
    folder = make_slices(tmp_path / "data")
    config = config_of(folder)
    index, _ = data.prepare_data(config)
    assert sum("/test/" in name for name in decoded) == 8
    index.to_csv(tmp_path / "slices.csv", index=False)
    decoded.clear()
    data.prepare_data(config, tmp_path)
    assert len(decoded) == 24 and not any("/test/" in name for name in decoded)
