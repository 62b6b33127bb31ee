"""The index, the splits, the decoding, the crop box and the batches, on tiny files made here."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import dataset
from dataset import Box
from utils import UserError, random_generator, start_tensorflow

SEED = 3


@pytest.fixture(scope="module")
def tf():
    return start_tensorflow()


def touch(root, *names):
    """Empty files: finding reads names only."""
    for name in names:
        (Path(root) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(root) / name).touch()
    return root


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def brain(index=0, height=24, width=20):
    """A grey rectangle on black, of a shade and place that tell the index."""
    image = np.zeros((height, width), np.uint8)
    image[4 + index % 5: 16, 5: 15 - index % 3] = 100 + index
    return image


def good_files(root, count=4):
    for index in range(count):
        save(root / f"{index}_7.png", brain(index))
    return [f"{index}_7.png" for index in range(count)]


def an_index(people, per_person=3, split="", label=None):
    """An index of made-up people: A and B by turns, unless ``label`` says otherwise."""
    rows = [(f"{person}_{i}.png", str(person), i, i, label or "AB"[person % 2], split)
            for person in range(people) for i in range(per_person)]
    return pd.DataFrame(rows, columns=dataset.COLUMNS)


def people_of(slices, split):
    return set(slices["subject"][slices["split"] == split])


def random_images(count=7, height=12, width=10):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 1), dtype=np.uint8)


# ---- finding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("above", ["", "AD_NC/", "course/AD_NC/"])
def test_adni_layout_in_any_letter_case(tmp_path, above):
    touch(tmp_path, f"{above}train/AD/12_70.png", f"{above}train/NC/13_70.JPEG", f"{above}TEST/ad/14_71.Jpg")
    slices = dataset.find_slices(tmp_path)
    assert list(slices.columns) == dataset.COLUMNS
    assert slices.drop(columns="position").values.tolist() == [
        [f"{above}TEST/ad/14_71.Jpg", "14", 71, "AD", "test"],
        [f"{above}train/AD/12_70.png", "12", 70, "AD", "train"],
        [f"{above}train/NC/13_70.JPEG", "13", 70, "NC", "train"]]
    assert slices["slice"].dtype == slices["position"].dtype == np.int64


def test_oasis_layout_leaves_out_segmentation_maps(tmp_path, capsys):
    above = "keras_png_slices_data/keras_png_slices"
    touch(tmp_path, f"{above}_train/case_001_slice_0.nii.png", f"{above}_train/case_001_slice_12.nii.png",
          f"{above}_validate/case_402_slice_0.nii.png", f"{above}_TEST/CASE_441_SLICE_3.NII.PNG",
          f"{above}_seg_train/seg_001_slice_0.nii.png")
    slices = dataset.find_slices(tmp_path)
    assert slices[["subject", "slice", "label", "split"]].values.tolist() == [
        ["CASE_441", 3, "unlabelled", "test"], ["case_001", 0, "unlabelled", "train"],
        ["case_001", 12, "unlabelled", "train"], ["case_402", 0, "unlabelled", "validation"]]
    assert "1 segmentation maps" in capsys.readouterr().err


def test_flat_folder_and_folder_per_class(tmp_path):
    touch(tmp_path / "flat", "5_2.png", "5_10.png")
    touch(tmp_path / "classes", "sick/5_2.png", "well/6_2.png")
    flat, classes = dataset.find_slices(tmp_path / "flat"), dataset.find_slices(tmp_path / "classes")
    assert flat[["slice", "label", "split"]].values.tolist() == [[2, "unlabelled", ""], [10, "unlabelled", ""]]
    assert classes[["subject", "label", "split"]].values.tolist() == [["5", "sick", ""], ["6", "well", ""]]


def test_names_that_tell_nothing_are_a_person_each(tmp_path, capsys):
    touch(tmp_path, "a/1.png", "b/1.png")
    assert dataset.find_slices(tmp_path)["subject"].tolist() == ["a/1", "b/1"]
    assert "2 of 2 file names" in capsys.readouterr().err


def test_other_files_hidden_files_and_folders_named_like_images_are_no_slices(tmp_path):
    touch(tmp_path, "1_1.png", "._1_1.png", ".cache/2_1.png", "notes.txt", "3_1.png/readme.txt")
    assert dataset.find_slices(tmp_path)["path"].tolist() == ["1_1.png"]


def test_links_are_followed_but_never_twice(tmp_path):
    touch(tmp_path / "data", "train/AD/1_1.png")
    touch(tmp_path / "elsewhere", "2_1.png")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data" / "train")
    (tmp_path / "data" / "train" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "self").symlink_to(tmp_path / "data" / "self")
    (tmp_path / "data" / "train" / "NC").symlink_to(tmp_path / "elsewhere")
    assert dataset.find_slices(tmp_path / "data")["path"].tolist() == ["train/AD/1_1.png", "train/NC/2_1.png"]


def test_position_is_the_rank_and_not_the_number(tmp_path):
    touch(tmp_path, *(f"1_{number}.png" for number in (68, 9, 100, 70)), *(f"2_{number}.png" for number in range(4)),
          *(f"3_{number}.png" for number in range(8)), "4_500.png", "4_600.png")
    slices = dataset.find_slices(tmp_path).set_index(["subject", "slice"])["position"]
    assert slices["1"].to_dict() == {9: 0, 68: 1, 70: 2, 100: 3}
    assert slices["3"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]  # P = 4, the commonest number of slices
    assert slices["4"].tolist() == [0, 2]


def test_metadata_groups_scans_by_person_and_ranks_within_each_scan(tmp_path, capsys):
    touch(tmp_path / "data", *(f"{scan}_{number}.png" for scan, first in ((11, 70), (12, 90), (13, 1))
                               for number in range(first, first + 3)))
    csv = tmp_path / "adni.csv"
    csv.write_text('"Image Data ID","Subject","Group"\n"I11","002_S_1","AD"\n"I12","002_S_1","AD"\n')
    slices = dataset.find_slices(tmp_path / "data", metadata=csv)
    assert slices.groupby("subject")["position"].apply(list).to_dict() == {"002_S_1": [0, 1, 2] * 2, "13": [0, 1, 2]}
    assert "1 of 3 image ids are not in" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "Image Data ID,Subject\nI99,x\n", "", None,
                                  "Image Data ID,Subject\nI1,x\nI1,y\n"])
def test_metadata_that_does_not_fit_is_refused(tmp_path, text):
    touch(tmp_path / "data", "1_1.png")
    if text is not None:
        (tmp_path / "adni.csv").write_text(text)
    with pytest.raises(UserError, match="adni.csv"):
        dataset.find_slices(tmp_path / "data", metadata=tmp_path / "adni.csv")


def test_subject_pattern_overrides_and_leaves_out_what_it_does_not_match(tmp_path, capsys):
    touch(tmp_path, "z9-of-anna.png", "z10-of-anna.png", "scout.png")
    slices = dataset.find_slices(tmp_path, subject_pattern=r"z(?P<slice>\d+)-of-(?P<subject>\w+)\.")
    assert slices[["subject", "slice", "position"]].values.tolist() == [["anna", 9, 0], ["anna", 10, 1]]
    assert "scout.png" in capsys.readouterr().err


@pytest.mark.parametrize("pattern", ["(", r"(?P<subject>\d+)", r"(?P<subject>q)(?P<slice>q)",
                                     r"(?P<subject>\d+)_(?P<slice>\w+)", r"(?P<slice>\d+)_(?P<subject>x)"])
def test_subject_pattern_that_does_not_fit_is_refused(tmp_path, pattern):
    touch(tmp_path, "12_3x.png", "9" * 30 + "_x.png")
    with pytest.raises(UserError, match="--subject-pattern"):
        dataset.find_slices(tmp_path, subject_pattern=pattern)


@pytest.mark.parametrize("name", ["missing", "empty", "file.png"])
def test_a_folder_without_images_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.png").touch()
    with pytest.raises(UserError, match=name):
        dataset.find_slices(tmp_path / name)


# ---- splitting --------------------------------------------------------------------------------


def test_carved_splits_share_nobody_and_are_stratified():
    slices = dataset.split_by_subject(an_index(40), SEED)
    assert slices.groupby("subject")["split"].nunique().eq(1).all()
    counts = slices.drop_duplicates("subject").groupby(["label", "split"]).size()
    assert counts.to_dict() == {(label, split): count for label in "AB"
                                for split, count in (("test", 4), ("train", 14), ("validation", 2))}


def test_splits_depend_on_the_seed_and_not_on_the_order_of_the_rows():
    slices = an_index(40)
    split = dataset.split_by_subject(slices, SEED)
    shuffled = dataset.split_by_subject(slices.sample(frac=1, random_state=1), SEED)
    assert shuffled.sort_index().equals(split)
    assert people_of(dataset.split_by_subject(slices, SEED + 1), "test") != people_of(split, "test")
    assert (slices["split"] == "").all()  # the argument is left alone


def test_splits_of_the_folders_stay():
    slices = pd.concat([an_index(10, split="train"), an_index(14, split="test").iloc[30:]], ignore_index=True)
    split = dataset.split_by_subject(slices, SEED)
    assert people_of(split, "test") == {"10", "11", "12", "13"}
    assert len(people_of(split, "validation")) == 2  # one of five for each label

    slices.loc[slices["subject"] == "0", "split"] = "validation"  # as OASIS has it
    assert people_of(dataset.split_by_subject(slices, SEED), "validation") == {"0"}


def test_a_label_with_a_single_person_stays_in_train(capsys):
    slices = pd.concat([an_index(6, label="A"), an_index(7, label="B").iloc[18:]], ignore_index=True)
    assert "6" in people_of(dataset.split_by_subject(slices, SEED), "train")
    assert "the label B has a single person" in capsys.readouterr().err


def test_two_people_give_one_to_validation():
    split = dataset.split_by_subject(an_index(2, label="A"), SEED)
    assert len(people_of(split, "train")) == len(people_of(split, "validation")) == 1


def test_a_person_with_two_labels_is_in_one_split():
    slices = an_index(20, per_person=4)
    slices.loc[slices["slice"] == 0, "label"] = "C"
    assert dataset.split_by_subject(slices, SEED).groupby("subject")["split"].nunique().eq(1).all()


def test_folders_that_share_people_are_refused_unless_allowed(capsys):
    slices = pd.concat([an_index(6, split="train"), an_index(2, split="test")], ignore_index=True)
    with pytest.raises(UserError, match=r"share 2 people between splits \(2 in test, 6 in train\)"):
        dataset.split_by_subject(slices, SEED)
    assert people_of(dataset.split_by_subject(slices, SEED, allow_overlap=True), "test") == {"0", "1"}
    assert "share 2 people" in capsys.readouterr().err


# ---- loading ----------------------------------------------------------------------------------


def test_loaded_images_are_the_files(tmp_path):
    paths = good_files(tmp_path)
    loaded = dataset.load_images(tmp_path, paths[::-1])
    assert np.array_equal(loaded.images, np.stack([brain(index) for index in (3, 2, 1, 0)])[..., None])
    assert loaded.images.dtype == np.uint8 and loaded.paths == paths[::-1] and loaded.problems == []
    assert loaded.brain_boxes.tolist() == [[7, 5, 9, 10], [6, 5, 10, 8], [5, 5, 11, 9], [4, 5, 12, 10]]


def test_broken_files_are_skipped_named_and_counted(tmp_path, capsys):
    paths = good_files(tmp_path)
    save(tmp_path / "big_1.png", np.random.default_rng(0).integers(0, 256, (24, 20), dtype=np.uint8))
    whole = (tmp_path / "big_1.png").read_bytes()
    (tmp_path / "0_7.png").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "2_7.png").write_text("no image")
    loaded = dataset.load_images(tmp_path, [*paths, "gone_1.png"])
    assert loaded.usable.tolist() == [False, True, False, True, False]
    assert [path for path, _ in loaded.problems] == ["0_7.png", "2_7.png", "gone_1.png"]
    assert all(reason for _, reason in loaded.problems)
    assert np.array_equal(loaded.images[..., 0], np.stack([brain(1), brain(3)]))
    said = capsys.readouterr().err
    assert "3 of 5 files" in said and "0_7.png" in said and "gone_1.png: No such file" in said


def test_a_decompression_bomb_is_skipped(tmp_path, monkeypatch):
    paths = good_files(tmp_path)
    save(tmp_path / "bomb_1.png", np.zeros((40, 40), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert dataset.load_images(tmp_path, ["bomb_1.png", *paths]).problems == [("bomb_1.png", "over 1,000 pixels")]


def test_no_readable_image_is_refused(tmp_path):
    (tmp_path / "1_1.png").write_text("no image")
    for size in (None, (24, 20)):
        with pytest.raises(UserError, match="no readable image"):
            dataset.load_images(tmp_path, ["1_1.png"], size)


def test_mixed_sizes_are_refused_without_a_size(tmp_path):
    paths = good_files(tmp_path) + ["w_1.png"]
    save(tmp_path / "w_1.png", brain(width=40))
    with pytest.raises(UserError, match="4 of 20x24, 1 of 40x24.*--image-size"):
        dataset.load_images(tmp_path, paths)
    assert dataset.load_images(tmp_path, paths, (24, 20)).images.shape == (5, 24, 20, 1)


def test_resizing_keeps_the_aspect_and_pads_with_black(tmp_path):
    save(tmp_path / "1_1.png", np.full((20, 40), 200, np.uint8))
    image = dataset.load_images(tmp_path, ["1_1.png"], (20, 20)).images[0, :, :, 0]
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
    for image in dataset.load_images(tmp_path, paths).images:
        assert np.array_equal(image[..., 0], grey)


def test_transparency_is_laid_on_black(tmp_path):
    save(tmp_path / "1_1.png", np.dstack([np.full((4, 4), 200, np.uint8)] * 3 + [np.zeros((4, 4), np.uint8)]))
    assert not dataset.load_images(tmp_path, ["1_1.png"]).images.any()


def test_the_memory_mapped_file_equals_memory(tmp_path, monkeypatch):
    paths = good_files(tmp_path / "data")
    (tmp_path / "data" / "1_7.png").write_text("no image")
    in_memory = dataset.load_images(tmp_path / "data", paths)
    monkeypatch.setattr(dataset, "MEMORY_SHARE", 0)
    folders = (tmp_path / "cache", tmp_path / "cache", None)  # the second time it is overwritten
    loaded = [dataset.load_images(tmp_path / "data", paths, cache_folder=folder) for folder in folders]
    for mapped in loaded:
        assert isinstance(mapped.images, np.memmap)
        assert np.array_equal(mapped.images, in_memory.images) and mapped.fingerprint == in_memory.fingerprint
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["images.npy"]


def test_nothing_is_left_in_the_cache_folder_by_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "MEMORY_SHARE", 0)
    save(tmp_path / "data" / "1_1.png", brain())
    save(tmp_path / "data" / "2_1.png", brain(width=30))
    with pytest.raises(UserError, match="differ in size"):
        dataset.load_images(tmp_path / "data", ["1_1.png", "2_1.png"], cache_folder=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_the_fingerprint_tells_pixels_and_names_but_not_order(tmp_path):
    paths = good_files(tmp_path)
    before = dataset.load_images(tmp_path, paths).fingerprint
    assert dataset.load_images(tmp_path, paths[::-1], workers=1).fingerprint == before
    (tmp_path / "0_7.png").rename(tmp_path / "9_7.png")
    assert dataset.load_images(tmp_path, ["9_7.png", *paths[1:]]).fingerprint != before
    save(tmp_path / "0_7.png", brain(9))
    assert dataset.load_images(tmp_path, paths).fingerprint != before


# ---- the crop box -----------------------------------------------------------------------------


BOXES = [Box(2, 3, 5, 4), Box(-3, -2, 18, 15), Box(0, 0, 12, 10), Box(-4, 5, 7, 9), Box(20, 20, 3, 3)]


@pytest.mark.parametrize("box", BOXES)
def test_crop_undoes_paste_and_paste_undoes_crop_inside_the_frame(box):
    images = random_images()
    crops = dataset.crop(images, box)
    assert crops.shape == (7, box.height, box.width, 1)
    pasted = dataset.paste(crops, box, (12, 10))
    inside = np.zeros((12, 10, 1), bool)
    inside[max(box.top, 0):box.top + box.height, max(box.left, 0):box.left + box.width] = True
    assert np.array_equal(pasted, images * inside)
    assert np.array_equal(dataset.crop(pasted, box), crops)
    assert np.array_equal(dataset.crop(images[0], box), crops[0])


def test_brain_crop_holds_every_brain_and_its_margin():
    boxes = np.array([[20, 30, 40, 50], [0, 0, 0, 0], [25, 10, 45, 30]])  # the second has no brain
    box = dataset.brain_crop(boxes, (120, 128), 8, margin=4)
    assert box.height % 8 == box.width % 8 == 0
    assert box.top <= 16 and box.left <= 6 and box.top + box.height >= 74 and box.left + box.width >= 84
    assert box.height < 58 + 8 and box.width < 78 + 8
    assert not dataset.outside(boxes, box).any()


def test_brain_crop_stays_in_the_frame_where_it_fits_and_sticks_out_evenly_where_not():
    corner = dataset.brain_crop(np.array([[0, 120, 17, 8]]), (120, 128), 16)
    assert corner == Box(0, 112, 32, 16)
    assert dataset.brain_crop(np.array([[1, 1, 17, 8]]), (20, 10), 16) == Box(-6, -3, 32, 16)


def test_whole_frame_is_rounded_up_around_the_frame():
    assert dataset.whole_frame((240, 256), 16) == Box(0, 0, 240, 256)
    assert dataset.whole_frame((12, 10), 8) == Box(-2, -3, 16, 16)
    assert dataset.brain_crop(np.zeros((3, 4), int), (12, 10), 8) == dataset.whole_frame((12, 10), 8)


def test_outside_tells_each_side():
    boxes = np.array([[5, 5, 10, 10], [4, 5, 10, 10], [5, 4, 10, 10], [6, 5, 10, 10], [5, 6, 10, 10], [0, 0, 0, 0]])
    assert dataset.outside(boxes, Box(5, 5, 10, 10)).tolist() == [False, True, True, True, True, False]


# ---- feeding ----------------------------------------------------------------------------------


def test_an_augmentation_does_not_depend_on_its_batch():
    rows = dataset.draw_augmentations(SEED, "train", 0, 12, flip=True, augmented=0.7)
    parts = [dataset.draw_augmentations(SEED, "train", first, count, flip=True, augmented=0.7)
             for first, count in ((0, 5), (5, 1), (6, 6))]
    assert np.array_equal(np.concatenate(parts), rows) and len(np.unique(rows[rows.any(axis=1)], axis=0)) > 4
    assert not np.array_equal(dataset.draw_augmentations(SEED + 1, "train", 0, 12), rows)
    assert not np.array_equal(dataset.draw_augmentations(SEED, "other", 0, 12), rows)


def test_augmentations_have_their_range_and_share():
    rows = dataset.draw_augmentations(SEED, "train", 0, 4000, flip=True, augmented=0.25)
    augmented = rows[rows[:, :5].any(axis=1)]
    assert rows.dtype == np.float32 and abs(len(augmented) - 1000) < 120
    assert (np.abs(augmented[:, :5]).max(axis=0) > 0.95).all() and np.abs(rows).max() <= 1
    assert np.abs(augmented[:, :5].mean(axis=0)).max() < 0.1
    assert set(augmented[:, 5]) == {0, 1} and abs(augmented[:, 5].mean() - 0.5) < 0.07
    assert not dataset.draw_augmentations(SEED, "train", 0, 50)[:, 5].any()  # no flip unless asked for


@pytest.mark.parametrize("box", BOXES)
def test_augment_with_zeros_is_exactly_the_crop(tf, box):
    images = random_images()
    augmented = dataset.augment(images, tf.zeros((7, 6)), box).numpy()
    assert augmented.dtype == np.float32
    assert np.array_equal(augmented, dataset.crop(images, box).astype(np.float32) / np.float32(255))


def test_twice_as_fine_keeps_every_pixel_and_puts_smooth_values_between(tf):
    images = np.random.default_rng(0).random((2, 9, 7, 1), np.float32)
    fine = dataset.twice_as_fine(tf.constant(images)).numpy()
    assert fine.shape == (2, 18, 14, 1) and np.array_equal(fine[:, ::2, ::2], images)
    wave = np.sin(np.arange(80) * np.pi / 2 + 0.3).astype(np.float32)  # half of the highest frequency there is
    between = dataset.twice_as_fine(tf.constant(np.tile(wave, (1, 40, 1))[..., None])).numpy()[0, 40, 1::2, 0]
    assert np.allclose(between[5:-5], np.sin((np.arange(80) + 0.5) * np.pi / 2 + 0.3)[5:-5], atol=0.03)


def test_augmentation_keeps_most_of_the_detail(tf):
    noise = np.random.default_rng(0).integers(100, 156, (8, 64, 64, 1)).astype(np.uint8)
    parameters = dataset.draw_augmentations(SEED, "train", 0, 8) * [1, 0, 1, 1, 0, 0]
    moved = dataset.augment(noise, tf.constant(parameters, tf.float32), Box(16, 16, 32, 32)).numpy()
    assert 0.55 < moved.var() / (noise / 255).var() <= 1  # bilinear sampling of the frame itself: 0.45


def test_augmentation_in_whole_pixels_moves_pixels_and_changes_none(tf):
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 60, 1)).astype(np.uint8)
    box = Box(16, 14, 32, 40)
    drawn = dataset.draw_augmentations(SEED, "train", 0, 8)
    parameters = dataset.in_whole_pixels(drawn, box) * np.float32([1, 1, 1, 1, 0, 0])
    moved = dataset.augment(noise, tf.constant(parameters), box).numpy()
    steps = np.round(drawn[:, 2:4] * dataset.SHIFT * [32, 40]).astype(int)
    assert len(np.unique(steps, axis=0)) > 3
    for image, crop, (down, right) in zip(noise, moved, steps, strict=True):
        expected = image[16 - down: 48 - down, 14 - right: 54 - right] / np.float32(255)
        assert np.array_equal(crop, expected)


def test_each_parameter_does_what_its_name_says(tf):
    images, box = np.zeros((1, 51, 51, 1), np.uint8), Box(0, 0, 51, 51)
    images[0, 10:15, 20:31] = 100  # a bar above the centre

    def moved(**parameters):
        names = ("rotation", "scale", "shift_y", "shift_x", "gain", "flip")
        row = [[float(parameters.get(name, 0)) for name in names]]
        return dataset.augment(images, tf.constant(row), box).numpy()[0, :, :, 0] * 255

    def centre(image):
        return np.array(np.average(np.indices(image.shape).reshape(2, -1), axis=1, weights=image.ravel()))

    still = centre(moved())
    assert np.allclose(centre(moved(shift_y=1)) - still, (dataset.SHIFT * 51, 0), atol=0.01)
    assert np.allclose(centre(moved(shift_x=1)) - still, (0, dataset.SHIFT * 51), atol=0.01)
    assert np.allclose(centre(moved(scale=1)) - 25, (still - 25) * (1 + dataset.SCALE), atol=0.1)
    turned = centre(moved(rotation=1)) - 25
    assert abs(np.degrees(np.arctan2(abs(turned[1]), -turned[0])) - dataset.ROTATION) < 0.3
    assert np.isclose(moved(gain=1).max(), 100 * (1 + dataset.GAIN))
    images[0, 10:15, 20:25] = 50
    assert np.array_equal(moved(flip=1), moved()[:, ::-1])


def take(batches, count):
    return [{name: value.numpy() for name, value in batch.items()} for batch in batches.take(count)]


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            assert np.array_equal(batch[name], other[name]), name


@pytest.fixture(scope="module")
def feed():
    images, box = random_images(), Box(-1, 1, 9, 8)
    columns = {"label": np.arange(7) % 2, "position": np.arange(7)}
    return lambda **options: dataset.training_batches(images, columns, 3, SEED, box, augmented=0.5, **options)


def test_training_resumed_at_a_step_sees_what_an_uninterrupted_run_sees(tf, feed):
    whole = take(feed(), 8)
    assert_same(take(feed(first_step=5), 3), whole[5:])
    assert whole[0]["image"].shape == (3, 9, 8, 1) and whole[0]["augmentation"].shape == (3, 6)
    others = take(feed(purpose="prior"), 8)
    assert any(not np.array_equal(a["position"], b["position"]) for a, b in zip(whole, others, strict=True))


def test_the_parts_of_a_batch_make_the_whole(tf, feed):
    whole = take(feed(first_step=2), 4)
    parts = [take(feed(first_step=2, parts=3, own=[part]), 4) for part in range(3)]
    for batch, *pieces in zip(whole, *parts, strict=True):
        for name, values in batch.items():
            assert np.array_equal(np.concatenate([piece[name] for piece in pieces]), values), name
    two = take(feed(first_step=2, parts=3, own=[1, 2]), 8)
    assert_same(two, [piece for pair in zip(parts[1], parts[2], strict=True) for piece in pair])


def test_every_epoch_covers_every_slice_once_in_a_new_order(tf, feed):
    seen = np.concatenate([batch["position"] for batch in take(feed(), 7)]).reshape(3, 7)  # 3 epochs
    assert (np.sort(seen) == np.arange(7)).all()
    assert all((row == random_generator(SEED, "train order", epoch).permutation(7)).all()
               for epoch, row in enumerate(seen))
    assert len({tuple(row) for row in seen}) == 3


def test_a_training_batch_is_its_rows_augmented_by_its_parameters(tf, feed):
    for batch in take(feed(), 4):
        rows = batch["position"]
        expected = dataset.augment(random_images()[rows], tf.constant(batch["augmentation"]), Box(-1, 1, 9, 8))
        assert np.allclose(batch["image"], expected, atol=1e-6) and np.array_equal(batch["label"], rows % 2)


def test_a_batch_larger_than_the_data_goes_on_into_the_next_epoch(tf):
    batches = dataset.training_batches(random_images(2), {"row": np.arange(2)}, 6, SEED, Box(0, 0, 4, 4))
    assert np.bincount(take(batches, 1)[0]["row"]).tolist() == [3, 3]


def test_unaugmented_batches_are_exact_inside_tf_data_and_from_a_memory_mapped_file(tf, tmp_path):
    images, box = random_images(), BOXES[1]
    mapped = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, images.shape)
    mapped[:] = images
    columns = {"row": np.arange(7)}
    expected = dataset.crop(images, box).astype(np.float32) / np.float32(255)
    for source in (images, mapped):
        for batch in take(dataset.training_batches(source, columns, 3, SEED, box, augmented=0), 3):
            assert np.array_equal(batch["image"], expected[batch["row"]])
        evaluated = take(dataset.evaluation_batches(source, columns, 3, box), 9)
        assert [len(batch["row"]) for batch in evaluated] == [3, 3, 1]
        assert np.array_equal(np.concatenate([batch["image"] for batch in evaluated]), expected)
        assert np.concatenate([batch["row"] for batch in evaluated]).tolist() == list(range(7))


# ---- the script -------------------------------------------------------------------------------


def test_check_prints_the_table_and_saves_a_contact_sheet(slices_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dataset.main(["--data", str(slices_folder), "--out", "sheet.png"])
    said = capsys.readouterr().out
    assert "8 people, 32 slices in 4 positions; 0 files cannot be used" in said
    assert "32 of 48x40" in said and "repeat visits of one person may straddle splits" in said
    with Image.open("sheet.png") as sheet:
        assert np.asarray(sheet.convert("L")).any()
    with pytest.raises(UserError, match="sheet.png exists"):
        dataset.main(["--data", str(slices_folder), "--out", "sheet.png"])
    for _ in range(2):
        dataset.main(["--data", str(slices_folder)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["contact_sheet.png", "contact_sheet_2.png", "sheet.png"]


def test_check_goes_on_without_a_truncated_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good_files(tmp_path / "data")
    broken = tmp_path / "data" / "2_7.png"
    broken.write_bytes(broken.read_bytes()[:60])
    dataset.main(["--data", "data"])
    out, err = capsys.readouterr()
    assert "1 files cannot be used" in out and "2_7.png: " in err


def test_check_takes_mixed_sizes_only_with_a_size_and_writes_nothing_when_it_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good_files(tmp_path / "data")
    save(tmp_path / "data" / "9_1.png", brain(width=30))
    with pytest.raises(UserError, match="differ in size"):
        dataset.main(["--data", "data"])
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    dataset.main(["--data", "data", "--image-size", "24", "20"])
    assert "4 of 20x24, 1 of 30x24; used at 20x24" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["--data", "x", "--demo", "y"], ["--data", "missing"], ["--seed", "-1"],
                                  ["--data", ".", "--out", "sheet.jpg"], ["--data", ".", "--image-size", "1", "1"]])
def test_wrong_flags_are_a_user_error(tmp_path, monkeypatch, argv):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        dataset.main(argv)
    assert not list(tmp_path.iterdir())


def test_demo_asks_for_the_cohort_of_the_flags(monkeypatch, tmp_path):
    import cohort

    asked = []
    monkeypatch.setattr(cohort, "make_cohort", lambda *options: asked.append(options) or options[0])
    dataset.main(["--demo", str(tmp_path), "--people", "5", "--seed", "2", "--image-size", "60", "64"])
    dataset.main(["--demo", str(tmp_path)])
    assert asked == [(tmp_path, 5, 2, (60, 64)), (tmp_path, 100, 0, (240, 256))]


def test_help_loads_nothing_heavy_and_a_mistake_has_status_2():
    root = Path(dataset.__file__).parent
    code = ("import runpy, sys\ntry:\n    runpy.run_path('dataset.py', run_name='__main__')\n"
            "except SystemExit as end:\n"
            "    heavy = {'numpy', 'pandas', 'tensorflow', 'scipy', 'PIL'} & set(sys.modules)\n"
            "    sys.exit(f'loaded {heavy}' if heavy else end.code)")
    for argv, status in ((["--help"], 0), (["--nonsense"], 2)):
        done = subprocess.run([sys.executable, "-c", code, *argv], cwd=root, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
