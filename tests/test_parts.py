"""A split of a run, encoded and decoded block by block: it is what one would have all at once."""

import shutil

import numpy as np
import pytest

import slices.images
from metrics.parts import Cache, load_part, load_parts
from sampling.run import Run, encode_images
from slices.frame import crop
from utils import UserError


@pytest.fixture
def run(finished_run, tmp_path):
    """The tiny run, with slices of its own of which one training slice is broken."""
    data = tmp_path / "slices"
    shutil.copytree(Run(finished_run).data, data)
    run = Run(finished_run, data=data)
    training = run.slices["path"][run.slices["split"] == "train"]
    (data / training.iloc[5]).write_text("no image")
    return run


@pytest.mark.parametrize("block", [3, 512])
def test_a_part_is_what_its_slices_are_encoded_and_decoded_to(run, tmp_path, monkeypatch, capsys, block):
    monkeypatch.setattr(slices.images, "FILES_PER_BLOCK", block)
    part = load_part(run, Cache(run, folder=tmp_path / "cache"), "train", frames=True)
    index = run.slices[run.slices["split"] == "train"]
    assert capsys.readouterr().err.count("1 of 16 files cannot be used") == 1 and len(index) == 16
    loaded = run.load(run.data, index["path"])
    crops, codes = crop(loaded.images, run.box)[..., 0], encode_images(run.vqvae, loaded.images, run.box)
    assert np.array_equal(part.images[:], loaded.images) and np.array_equal(part.crops[:], crops)
    assert np.array_equal(part.codes, codes) and np.array_equal(part.reconstructions[:], run.decode_crops(codes))
    assert part.fingerprint == loaded.fingerprint and part.slices["path"].tolist() == loaded.paths
    assert all(len(column) == 15 for column in part.columns.values())
    expected = np.abs(crops.astype(float) - part.reconstructions[:]).mean(axis=(1, 2))
    assert part.error.dtype == np.float32 and np.allclose(part.error, expected, rtol=1e-6)


def test_nothing_is_decoded_or_kept_that_nobody_asks_for(run, tmp_path):
    parts = load_parts(run, Cache(run, folder=tmp_path / "cache"), "test")
    has = {
        name: tuple(value is not None for value in (part.images, part.reconstructions, part.error))
        for name, part in parts.items()
    }
    assert has == {"train": (False, True, True), "validation": (False, False, False), "test": (True, True, True)}
    assert all(len(part.crops) == len(part.codes) for part in parts.values())
    judged = load_parts(run, Cache(run, folder=tmp_path / "cache"), "validation")
    assert list(judged) == ["train", "validation"] and len(judged["validation"].reconstructions)


def test_sets_of_a_part_read_the_rows_that_are_asked_for(run, tmp_path):
    part = load_part(run, Cache(run, folder=tmp_path / "cache"), "train")
    some = part.image_set(part.crops, np.array([4, 2]))
    assert (
        np.array_equal(some.images, part.crops[:][[4, 2]])
        and some.person.tolist() == part.slices["subject"][[4, 2]].astype(str).tolist()
    )
    assert np.array_equal(part.image_set(part.crops).images, part.crops[:])
    whole = part.searched_set(part.crops)
    assert whole.images is part.crops and len(whole.person) == len(whole.images) == 15


def test_nothing_but_codes_is_left_in_the_cache(run, tmp_path):
    part = load_part(run, Cache(run, folder=tmp_path / "cache"), "train")
    assert len(part.crops) and [path.name.split("-")[:2] for path in (tmp_path / "cache").iterdir()] == [
        ["codes", "train"]
    ]


def test_a_split_of_one_person_is_refused(run, tmp_path):
    training = run.slices[run.slices["split"] == "train"]
    for path in training["path"][training["subject"] != training["subject"].iloc[0]]:
        (run.data / path).write_text("no image")
    with pytest.raises(UserError, match="fewer than two train people"):
        load_part(run, Cache(run, folder=tmp_path / "cache"), "train")
