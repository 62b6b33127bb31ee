"""Decoding, checking and loading image files, and the crop box, on tiny files made here."""

import numpy as np
import pytest
from pictures import BOXES, brain, good_files, random_images, save
from PIL import Image

import slices.images
import slices.memory
from slices.frame import Box, brain_crop, crop, outside, paste, whole_frame
from slices.images import load_blocks, load_images
from utils import UserError

# ---- loading ----------------------------------------------------------------------------------


def test_loaded_images_are_the_files(tmp_path):
    paths = good_files(tmp_path)
    loaded = load_images(tmp_path, paths[::-1])
    assert np.array_equal(loaded.images, np.stack([brain(index) for index in (3, 2, 1, 0)])[..., None])
    assert loaded.images.dtype == np.uint8 and loaded.paths == paths[::-1] and loaded.problems == []
    assert loaded.brain_boxes.tolist() == [[7, 5, 9, 10], [6, 5, 10, 8], [5, 5, 11, 9], [4, 5, 12, 10]]


def test_broken_files_are_skipped_named_and_counted(tmp_path, capsys):
    paths = good_files(tmp_path)
    save(tmp_path / "big_1.png", np.random.default_rng(0).integers(0, 256, (24, 20), dtype=np.uint8))
    whole = (tmp_path / "big_1.png").read_bytes()
    (tmp_path / "0_7.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "2_7.png").write_text("no image")
    loaded = load_images(tmp_path, [*paths, "gone_1.png"])
    assert loaded.usable.tolist() == [False, True, False, True, False]
    assert [path for path, _ in loaded.problems] == ["0_7.png", "2_7.png", "gone_1.png"]
    assert all(reason for _, reason in loaded.problems)
    assert np.array_equal(loaded.images[..., 0], np.stack([brain(1), brain(3)]))
    said = capsys.readouterr().err
    assert "3 of 5 files" in said and "0_7.png" in said and "gone_1.png: No such file" in said


@pytest.mark.parametrize("deep_file", [False, True])
def test_files_that_are_handed_on_by_blocks_are_those_of_one_array(tmp_path, deep_file, monkeypatch, capsys):
    """Broken ones, alone in a block and at its ends, are told once; the first file of 16 bits is in a late block."""
    paths = good_files(tmp_path, 11)
    for broken in (0, 3, 4, 5, 10):
        (tmp_path / paths[broken]).write_text("no image")
    if deep_file:
        for number, brightest in ((7, 500), (9, 1600)):
            save(tmp_path / paths[number], np.where(brain(number) > 0, brightest, 0).astype(np.uint16))
    expected = load_images(tmp_path, paths, (30, 20))
    said, blocks = capsys.readouterr(), []
    monkeypatch.setattr(slices.images, "FILES_PER_BLOCK", 3)
    loaded = load_blocks(tmp_path, paths, (30, 20), lambda block: blocks.append(block.copy()))
    assert capsys.readouterr() == said and said.err.count("cannot be used") == 1
    assert np.array_equal(np.concatenate(blocks), expected.images) and [len(block) for block in blocks] == [2, 3, 1]
    assert loaded.images is None and loaded.usable.sum() == 6
    for name, value in vars(expected).items():
        assert name == "images" or np.array_equal(getattr(loaded, name), value), name
    assert (loaded.white == 1600) == deep_file == ("become black to white" in said.out)


def test_no_readable_image_among_blocks_is_refused(tmp_path):
    (tmp_path / "1_1.png").write_text("no image")
    with pytest.raises(UserError, match="no readable image"):
        load_blocks(tmp_path, ["1_1.png"], (24, 20), None)


def test_a_decompression_bomb_is_skipped(tmp_path, monkeypatch):
    paths = good_files(tmp_path)
    save(tmp_path / "bomb_1.png", np.zeros((40, 40), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert load_images(tmp_path, ["bomb_1.png", *paths]).problems == [("bomb_1.png", "over 1,000 pixels")]


def test_no_readable_image_is_refused(tmp_path):
    (tmp_path / "1_1.png").write_text("no image")
    for size in (None, (24, 20)):
        with pytest.raises(UserError, match="no readable image"):
            load_images(tmp_path, ["1_1.png"], size)


def test_mixed_sizes_are_refused_without_a_size(tmp_path):
    paths = good_files(tmp_path) + ["w_1.png"]
    save(tmp_path / "w_1.png", brain(width=40))
    with pytest.raises(UserError, match="4 of 20x24, 1 of 40x24.*--image-size"):
        load_images(tmp_path, paths)
    assert load_images(tmp_path, paths, (24, 20)).images.shape == (5, 24, 20, 1)


def test_resizing_keeps_the_aspect_and_pads_with_black(tmp_path):
    save(tmp_path / "1_1.png", np.full((20, 40), 200, np.uint8))
    image = load_images(tmp_path, ["1_1.png"], (20, 20)).images[0, :, :, 0]
    assert (image[5:15] == 200).all() and not image[:5].any() and not image[15:].any()


def test_every_kind_of_pixel_becomes_the_same_grey(tmp_path):
    grey = np.arange(0, 240, 3, dtype=np.uint8).reshape(8, 10)
    save(tmp_path / "deep_1.png", grey.astype(np.uint16) * 257)
    save(tmp_path / "rgb_1.png", np.repeat(grey[..., None], 3, axis=2))
    save(tmp_path / "rgba_1.png", np.dstack([grey] * 3 + [np.full_like(grey, 255)]))
    palette = Image.fromarray(255 - grey, mode=None).convert("P")
    palette.putpalette([255 - shade for shade in range(256) for _ in range(3)])
    palette.save(tmp_path / "palette_1.png")
    paths = ["deep_1.png", "rgb_1.png", "rgba_1.png", "palette_1.png"]
    assert Image.open(tmp_path / "deep_1.png").mode.startswith("I") and palette.mode == "P"
    for image in load_images(tmp_path, paths).images:
        assert np.array_equal(image[..., 0], grey)


def test_transparency_is_laid_on_black(tmp_path):
    save(tmp_path / "1_1.png", np.dstack([np.full((4, 4), 200, np.uint8)] * 3 + [np.zeros((4, 4), np.uint8)]))
    assert not load_images(tmp_path, ["1_1.png"]).images.any()


def test_the_memory_mapped_file_equals_memory(tmp_path, monkeypatch):
    paths = good_files(tmp_path / "data")
    (tmp_path / "data" / "1_7.png").write_text("no image")
    in_memory = load_images(tmp_path / "data", paths)
    monkeypatch.setattr(slices.memory, "MEMORY_SHARE", 0)
    folders = (tmp_path / "cache", tmp_path / "cache", None)
    loaded = [load_images(tmp_path / "data", paths, cache_folder=folder) for folder in folders]
    for mapped in loaded:
        assert isinstance(mapped.images, np.memmap)
        assert np.array_equal(mapped.images, in_memory.images) and mapped.fingerprint == in_memory.fingerprint
    assert list((tmp_path / "cache").iterdir()) == []  # the file has no name, and goes with the process


def test_nothing_is_left_in_the_cache_folder_by_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(slices.memory, "MEMORY_SHARE", 0)
    save(tmp_path / "data" / "1_1.png", brain())
    save(tmp_path / "data" / "2_1.png", brain(width=30))
    with pytest.raises(UserError, match="differ in size"):
        load_images(tmp_path / "data", ["1_1.png", "2_1.png"], cache_folder=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_the_fingerprint_tells_pixels_and_names_but_not_order(tmp_path):
    paths = good_files(tmp_path)
    before = load_images(tmp_path, paths).fingerprint
    assert load_images(tmp_path, paths[::-1], workers=1).fingerprint == before
    (tmp_path / "0_7.png").rename(tmp_path / "9_7.png")
    assert load_images(tmp_path, ["9_7.png", *paths[1:]]).fingerprint != before
    save(tmp_path / "0_7.png", brain(9))
    assert load_images(tmp_path, paths).fingerprint != before


# ---- the crop box -----------------------------------------------------------------------------


@pytest.mark.parametrize("box", BOXES)
def test_crop_undoes_paste_and_paste_undoes_crop_inside_the_frame(box):
    images = random_images()
    crops = crop(images, box)
    assert crops.shape == (7, box.height, box.width, 1)
    pasted = paste(crops, box, (12, 10))
    inside = np.zeros((12, 10, 1), bool)
    inside[max(box.top, 0) : box.top + box.height, max(box.left, 0) : box.left + box.width] = True
    assert np.array_equal(pasted, images * inside)
    assert np.array_equal(crop(pasted, box), crops)
    assert np.array_equal(crop(images[0], box), crops[0])


def test_brain_crop_holds_every_brain_and_its_margin():
    boxes = np.array([[20, 30, 40, 50], [0, 0, 0, 0], [25, 10, 45, 30]])  # the second has no brain
    box = brain_crop(boxes, (120, 128), 8, margin=4)
    assert box.height % 8 == box.width % 8 == 0
    assert box.top <= 16 and box.left <= 6 and box.top + box.height >= 74 and box.left + box.width >= 84
    assert box.height < 58 + 8 and box.width < 78 + 8
    assert not outside(boxes, box).any()


def test_brain_crop_stays_in_the_frame_where_it_fits_and_sticks_out_evenly_where_not():
    corner = brain_crop(np.array([[0, 120, 17, 8]]), (120, 128), 16)
    assert corner == Box(0, 112, 32, 16)
    assert brain_crop(np.array([[1, 1, 17, 8]]), (20, 10), 16) == Box(-6, -3, 32, 16)


def test_whole_frame_is_rounded_up_around_the_frame():
    assert whole_frame((240, 256), 16) == Box(0, 0, 240, 256)
    assert whole_frame((12, 10), 8) == Box(-2, -3, 16, 16)
    assert brain_crop(np.zeros((3, 4), int), (12, 10), 8) == whole_frame((12, 10), 8)


def test_outside_tells_each_side():
    boxes = np.array([[5, 5, 10, 10], [4, 5, 10, 10], [5, 4, 10, 10], [6, 5, 10, 10], [5, 6, 10, 10], [0, 0, 0, 0]])
    assert outside(boxes, Box(5, 5, 10, 10)).tolist() == [False, True, True, True, True, False]
