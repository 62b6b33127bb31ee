"""One scale of grey for a data set of 16-bit files, EXIF, and what slices show, on tiny files with known values."""

import json
import struct
import zlib

import numpy as np
import pytest
from conftest import make_slices
from pictures import brain, good_files, save
from PIL import Image, ImageOps

import train
from metrics.folders import load_folders
from sampling.run import Run
from slices.contents import check_contents
from slices.grey import FULL, Tally, decode
from slices.images import load_images, load_mask
from slices.index import find_slices
from training.folder import white_of, wrong_entries
from utils import UserError


def deep(index=0, times=8):
    """A brain as a scanner writes it: 16 bits of which few are used."""
    return brain(index).astype(np.uint16) * times


def png16(path, values):
    """Write (H, W, C) from 0 to 65535 as a PNG of 16 bits: C is 1 grey, 2 with alpha, 3 colours, 4 with alpha."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


# ---- 16 bits ----------------------------------------------------------------------------------


def test_files_that_use_few_of_16_bits_share_one_scale_said_aloud(tmp_path, capsys):
    for index in range(4):
        save(tmp_path / f"{index}_7.png", deep(index))
    loaded = load_images(tmp_path, [f"{index}_7.png" for index in range(4)])
    assert loaded.white == 103 * 8  # the brightest brain's: 0.1 % of 400 pixels is none of them
    expected = [np.rint(deep(index) * 255.0 / 824).astype(np.uint8) for index in range(4)]
    assert np.array_equal(loaded.images[..., 0], np.stack(expected))
    assert "4 of 4 files have 16 bits, with values up to 824: 0 to 824 become black to white" in capsys.readouterr().out


def test_a_scale_that_is_known_is_used_and_nothing_is_said(tmp_path, capsys):
    save(tmp_path / "1_7.png", deep())
    loaded = load_images(tmp_path, ["1_7.png"], white=1600)
    assert loaded.images.max() == round(800 / 1600 * 255) and loaded.white == 1600
    assert load_images(tmp_path, ["1_7.png"], white=400).images.max() == 255  # brighter ones are white
    assert capsys.readouterr().out == ""


def test_files_of_8_bits_have_no_scale_and_keep_theirs_beside_deep_ones(tmp_path):
    paths = good_files(tmp_path)
    assert load_images(tmp_path, paths).white is None
    save(tmp_path / "9_7.png", deep())
    loaded = load_images(tmp_path, [*paths, "9_7.png"])
    assert np.array_equal(loaded.images[:4, ..., 0], np.stack([brain(index) for index in range(4)]))
    assert loaded.white == 800 and loaded.images[4].max() == 255


def test_the_files_that_are_asked_choose_the_scale(tmp_path):
    save(tmp_path / "1_7.png", deep(times=8))
    save(tmp_path / "2_7.png", deep(times=16))
    paths = ["1_7.png", "2_7.png"]
    assert load_images(tmp_path, paths, white_from=np.array([True, False])).white == 800
    assert load_images(tmp_path, paths, white_from=np.array([False, True])).white == 1600
    assert load_images(tmp_path, paths, white_from=np.array([False, False])).white == 1600  # then all do


@pytest.mark.parametrize(
    ("values", "white"),
    [
        ([0] * 10, FULL),
        ([0] * 500 + [100] * 999 + [40000], 100),  # one hot pixel in a thousand
        ([100] * 990 + [4000] * 10, 4000),
        ([30000] * 1000, 30000),  # 15 bits: the upper half is never used
        ([20000] * 999 + [65535], FULL),  # made for all 16 bits
    ],
)
def test_white_is_what_a_thousandth_of_the_pixels_over_black_exceeds(values, white):
    tally = Tally()
    tally.add(np.array([values], np.uint16))
    assert tally.white == white


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_of_colour_are_all_read(channels, tmp_path):
    values = np.random.default_rng(0).integers(0, 1500, (6, 5, channels)).astype(np.uint16)
    if channels in (2, 4):
        values[..., -1] = np.where(values[..., -1] < 750, 0, FULL)  # transparent or not
    png16(tmp_path / "x.png", values)
    grey = values[..., 0] if channels < 3 else values[..., :3] @ [0.299, 0.587, 0.114]
    grey = np.rint(np.where(values[..., -1] > 0, grey, 0) if channels in (2, 4) else grey)
    assert np.array_equal(decode(tmp_path / "x.png", white=1500).grey, np.rint(grey * 255.0 / 1500).astype(np.uint8))


def test_a_truncated_deep_file_is_left_out(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("1_7.png", "2_7.png"):
        save(tmp_path / name, rng.integers(0, 1500, (24, 20)).astype(np.uint16))
    whole = (tmp_path / "1_7.png").read_bytes()
    (tmp_path / "1_7.png").write_bytes(whole[: len(whole) // 2])
    assert load_images(tmp_path, ["1_7.png", "2_7.png"]).paths == ["2_7.png"]


def test_the_scale_of_a_run_is_in_its_config_and_used_again(tmp_path, monkeypatch):
    eight = make_slices(tmp_path / "eight")
    for path in sorted(eight.rglob("*.png")):
        save(tmp_path / "deep" / path.relative_to(eight), np.asarray(Image.open(path)).astype(np.uint16) * 5)
    config = prepared(tmp_path / "deep", monkeypatch)
    white = config["white_of_16_bits"]
    assert 900 < white <= 5 * 255
    run = Run.__new__(Run)
    run.config, run.frame, run.cache, run.folder = config, (40, 48), None, tmp_path
    path = next((tmp_path / "deep" / "test").rglob("*.png"))
    expected = np.rint(np.minimum(np.asarray(Image.open(path)), white) * 255.0 / white)
    assert np.array_equal(run.load(path.parent, [path.name]).images[0, ..., 0], expected)


def test_a_run_on_8_bits_notes_that_and_an_older_one_took_the_full_range(finished_run):
    config = json.loads((finished_run / "config.json").read_text())
    assert config["white_of_16_bits"] is None and white_of(config) is None
    assert white_of({}) == FULL
    assert [name for name, _ in wrong_entries(config | {"white_of_16_bits": 0})] == ["white_of_16_bits"]
    del config["white_of_16_bits"]
    assert not list(wrong_entries(config))


def test_real_folders_share_a_scale_and_generated_images_have_their_own(tmp_path):
    for name, times in (("train", 8), ("real", 16), ("generated", 32)):
        for index in range(4):
            number = 100 + index + 10 * (name == "real")
            save(tmp_path / name / f"{number}_7.png", deep(index, times))
    folders = [tmp_path / name for name in ("real", "generated", "train")]
    loaded = load_folders(*folders)
    assert list(loaded) == ["real", "generated", "train"] and set(loaded["real"]) == {
        "folder",
        "slices",
        "images",
        "brain_boxes",
    }
    expected = np.rint(deep(0, 8) * 255.0 / 824)
    assert np.array_equal(loaded["train"]["images"][0, ..., 0], expected)
    assert np.array_equal(loaded["generated"]["images"][0, ..., 0], expected)
    assert loaded["real"]["images"][0].max() == 255  # twice as bright: beyond the white of the training slices
    alone = load_folders(*folders[:2])
    assert np.array_equal(alone["real"]["images"][0, ..., 0], expected)


def prepared(folder, monkeypatch, *flags):
    """The config of a training on a folder when its slices are loaded; the training stops there."""
    from training import data

    configs = []
    prepare = data.prepare_data

    def stop(config, known=None, **where):
        prepare(config, known, **where)
        configs.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "prepare_data", stop)
    with pytest.raises(KeyboardInterrupt):
        train.main(["--data", str(folder), "--run", str(folder.parent / "run"), "--preset", "smoke", *flags])
    return configs[0]


# ---- EXIF -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(orientation, suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"1_7.{suffix}"
    Image.fromarray(brain()).save(path, exif=exif)
    with Image.open(path) as image:
        seen = np.asarray(ImageOps.exif_transpose(image).convert("L"))
    loaded = load_images(tmp_path, [path.name])
    assert np.array_equal(loaded.images[0, ..., 0], seen)
    assert loaded.turned == (orientation > 1) and list(loaded.sizes) == [seen.shape]


def test_a_damaged_exif_turns_nothing(tmp_path, recwarn):
    Image.fromarray(brain()).save(tmp_path / "1_7.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12")
    assert load_images(tmp_path, ["1_7.jpg"]).turned == 0 and not recwarn


def test_a_mask_is_turned_like_its_slice(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    mask = np.zeros((24, 20), np.uint8)
    mask[:12] = 255  # the upper half: at the right when it is turned clockwise
    Image.fromarray(mask).save(tmp_path / "mask.png", exif=exif)
    save(tmp_path / "slice.png", brain(height=20, width=24))
    kept = load_mask(tmp_path / "mask.png", tmp_path / "slice.png", (20, 24))
    assert kept[:, 12:].all() and not kept[:, :12].any()


# ---- masks of 0 and 1 -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.eye(24, 20, dtype=np.uint8), "1 of 255"),
        (np.eye(24, 20, dtype=np.uint16), "1 of 65,535"),
        (np.zeros((24, 20), np.uint8), "0 of 255"),
    ],
)
def test_a_mask_without_white_is_refused_with_its_brightest_value(mask, said, tmp_path):
    save(tmp_path / "slice.png", brain())
    save(tmp_path / "mask.png", mask)
    with pytest.raises(UserError, match=f"mask.png keeps nothing: its brightest value is {said}; make white"):
        load_mask(tmp_path / "mask.png", tmp_path / "slice.png", (24, 20))


# ---- what slices show -------------------------------------------------------------------------


def contents(folder, images, split="validation"):
    """Write images (H, W) as slices of training, the last one of another split, and look at them."""
    for index, image in enumerate(images):
        save(folder / f"{100 + index}_7.png", image)
    slices = find_slices(folder).assign(split="train")
    slices.loc[len(images) - 1 :, "split"] = split
    check_contents(folder, slices, load_images(folder, slices["path"].tolist()))


@pytest.mark.parametrize(("grey", "said"), [(0, "all of them are black"), (9, "their brightest value is 9 of 255")])
def test_a_folder_without_a_brain_is_refused(grey, said, tmp_path):
    with pytest.raises(UserError, match=f"none of the 3 slices in .* shows a brain: {said}"):
        contents(tmp_path, [np.full((24, 20), grey, np.uint8)] * 3)


def test_a_split_without_a_brain_is_refused(tmp_path):
    with pytest.raises(UserError, match="none of the 1 validation slices in .* shows a brain"):
        contents(tmp_path, [brain(0), brain(1), np.zeros((24, 20), np.uint8)])


def test_it_is_told_when_nobody_is_left_for_validation(tmp_path, capsys):
    contents(tmp_path, [brain(0), brain(1)], split="train")
    assert "nobody is left for validation" in capsys.readouterr().err


def test_slices_that_are_all_the_same_are_refused(tmp_path):
    with pytest.raises(UserError, match="all 3 training slices in .* have the same pixels"):
        contents(tmp_path, [brain()] * 4)


def test_slices_without_a_brain_are_told(tmp_path, capsys):
    contents(tmp_path, [brain(0), np.zeros((24, 20), np.uint8), brain(2)])
    assert "1 of 3 slices show no brain" in (said := capsys.readouterr().err) and "101_7.png" in said


def test_a_slice_that_is_in_one_split_twice_is_told(tmp_path, capsys):
    contents(tmp_path, [brain(0), brain(1), brain(0)], split="train")
    said = capsys.readouterr().err
    assert "1 image found again in one split under another name" in said and "100_7.png = 102_7.png" in said


def test_a_white_background_is_told_and_a_brain_cropped_to_its_edges_is_none(tmp_path, capsys):
    contents(tmp_path / "white", [255 - brain(0), brain(1)])
    assert "1 of 2 slices are bright up to all four edges" in (said := capsys.readouterr().err) and "100_7.png" in said
    rows, columns = np.mgrid[-10:11, -10:11]
    disc = 200 * (np.hypot(rows, columns) <= 10)
    contents(tmp_path / "disc", [disc.astype(np.uint8), (disc // 2).astype(np.uint8)])
    assert capsys.readouterr().err == ""


def test_a_white_background_is_seen_between_black_bars(tmp_path):
    save(tmp_path / "1_7.png", 255 - brain(height=24, width=20))
    for size in ((24, 40), (60, 20), (13, 40)):
        assert load_images(tmp_path, ["1_7.png"], size).to_the_edges.tolist() == [True]


def test_black_slices_are_refused_before_there_is_a_run_and_by_check(tmp_path, monkeypatch):
    import dataset

    monkeypatch.chdir(tmp_path)
    for path in make_slices(tmp_path / "data").rglob("*.png"):
        save(path, np.zeros((40, 48), np.uint8))
    with pytest.raises(UserError, match="slices in data shows a brain: all of them are black"):
        train.main(["--data", "data", "--run", "black", "--preset", "smoke"])
    with pytest.raises(UserError, match="shows a brain"):
        dataset.main(["check", "--data", "data"])
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_crops_below_the_window_of_ssim_are_refused_before_there_is_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in make_slices(tmp_path / "data").rglob("*.png"):
        save(path, np.asarray(Image.open(path))[::4, ::4])
    with pytest.raises(UserError, match="have 12x10 pixels, the crop box .* below 11x11 .*--image-size"):
        train.main(["--data", "data", "--run", "small", "--preset", "default"])
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
