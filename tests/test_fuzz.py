"""Any input: broken, odd and hostile files and names are used as they should be, or skipped and named."""

import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import TINY, make_slices
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import dataset
from slices.images import load_images
from slices.index import COLUMNS, find_slices
from slices.names import NAME_PATTERN
from slices.splits import split_by_subject
from utils import UserError

SIZE = (40, 48)  # of the good images, as conftest's


def grey():
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (180 * (np.hypot((rows - 20) / 13, (columns - 24) / 17) < 1)).astype(np.uint8)


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width, height):
    """A few hundred bytes that claim to be a grey PNG of this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
        + png_chunk(b"IEND", b"")
    )


def save(path, image, **options):
    Image.fromarray(image).save(path, **options)


def write_fuzz_set(folder):
    """One file of each kind; returns {name: the grey that it should give, None for skipped, ... for any}."""
    image, expected = grey(), {}
    colour = np.repeat(image[..., None], 3, axis=2)

    def used(name, saved, like=image, **options):
        saved.save(folder / name, **options)
        expected[name] = like

    def skipped(name, content):
        (folder / name).write_bytes(content)
        expected[name] = None

    used("1_1.png", Image.fromarray(image))
    used("1_2.png", Image.fromarray(image.astype(np.uint16) * 257))  # 16 bits
    used("1_3.png", Image.fromarray(image).convert("P"))
    used("1_4.png", Image.fromarray(np.dstack([colour, np.where(image > 0, 255, 0).astype(np.uint8)])))  # alpha
    used("1_5.jpg", Image.fromarray(colour).convert("CMYK"), like=..., quality=95)
    used("1_6.png", Image.fromarray(image), save_all=True, append_images=[Image.fromarray(255 - image)])  # animated
    used("1_7.png", Image.fromarray(image[:1, :1]), like=...)  # 1 x 1
    used("1_8.png", Image.fromarray(np.resize(image, (1, 20000))), like=...)
    used("1_9.png", Image.fromarray(0 * image))  # all black
    expected["1_9.png"] = 0 * image
    used("1_10.PNG", Image.fromarray(image), format="PNG")
    used("1_11.jpeg", Image.fromarray(image), like=..., quality=95)
    used("1_12.jpg", Image.fromarray(image), format="PNG")  # the suffix lies
    used("with space and ü_13.png", Image.fromarray(image))
    whole = (folder / "1_11.jpeg").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)
    save(folder / "1_20.png", noise)
    skipped("1_20.png", (folder / "1_20.png").read_bytes()[:700])  # truncated
    skipped("1_21.jpg", whole[: len(whole) // 2])
    skipped("1_22.png", b"")
    skipped("1_23.png", b"GIF89a" + bytes(50))  # wrong magic
    skipped("1_24.png", bomb(100_000, 100_000))
    skipped("1_25.png", bomb(2**31 - 1, 2**31 - 1))
    skipped("1_26.png", bytes(range(256)) * 20)
    (folder / "1_27.png").symlink_to(folder / "1_27.png")  # a link to itself
    (folder / "1_28.png").symlink_to(folder / "nowhere.png")
    expected |= {"1_27.png": None, "1_28.png": None}
    (folder / "around").symlink_to(folder)  # a folder in itself
    (folder / "1_29.png").mkdir()  # a folder is no image
    if os.geteuid():  # root reads everything
        save(folder / "1_30.png", image)
        (folder / "1_30.png").chmod(0)
        expected["1_30.png"] = None
    return expected


def test_every_kind_of_file_is_used_or_skipped_and_named(tmp_path, capsys):
    expected = write_fuzz_set(tmp_path)
    (tmp_path / "line\nbreak_1.png").write_bytes((tmp_path / "1_1.png").read_bytes())
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "1_31.png").symlink_to(tmp_path / "pipe")  # reading it would never end
    (tmp_path / "re\rturn").mkdir()
    (tmp_path / "re\rturn" / "1_32.png").write_bytes((tmp_path / "1_1.png").read_bytes())
    slices = find_slices(tmp_path)
    assert sorted(slices["path"]) == sorted(expected)  # the name with a line break aside, of which it warns:
    said = capsys.readouterr().err
    assert "2 names of files or folders left out in" in said and r"line\nbreak_1.png" in said
    loaded = load_images(tmp_path, slices["path"].tolist(), SIZE)
    skipped = {name for name, image in expected.items() if image is None}
    assert {path for path, _ in loaded.problems} == skipped and all(reason for _, reason in loaded.problems)
    assert len(loaded.paths) + len(loaded.problems) == len(expected)
    said = capsys.readouterr().err
    assert f"{len(skipped)} of {len(expected)} files cannot be used" in said
    for path, image in zip(loaded.paths, loaded.images, strict=True):
        if expected[path] is not ...:
            assert np.array_equal(image[..., 0], expected[path]), path
    by_name = dict(zip(loaded.paths, loaded.images, strict=True))
    for name in ("1_5.jpg", "1_11.jpeg"):  # lossy
        assert np.abs(by_name[name][..., 0].astype(int) - grey()).mean() < 4


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    import resource

    (tmp_path / "1_1.png").write_bytes(bomb(100_000, 100_000))  # 10 GB of pixels
    save(tmp_path / "1_2.png", grey())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded = load_images(tmp_path, ["1_1.png", "1_2.png"])
    assert loaded.paths == ["1_2.png"] and "pixels" in loaded.problems[0][1]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 600), st.sampled_from((".png", ".jpg")))
def test_bytes_overwritten_anywhere_in_a_file_never_crash(tmp_path_factory, junk, place, suffix):
    folder = tmp_path_factory.mktemp("junk")
    save(folder / "1_1.png", grey())
    save(folder / f"1_2{suffix}", grey())
    content = bytearray((folder / f"1_2{suffix}").read_bytes())
    content[place : place + len(junk)] = junk
    (folder / f"1_2{suffix}").write_bytes(content)
    loaded = load_images(folder, ["1_1.png", f"1_2{suffix}"], SIZE)
    assert len(loaded.paths) + len(loaded.problems) == 2 and "1_1.png" in loaded.paths


@pytest.mark.slow
def test_training_goes_round_the_fuzz_set(tmp_path, capsys):
    import train

    data = make_slices(tmp_path / "data")
    write_fuzz_set(data / "train" / "AD")
    train.main(["--data", str(data), "--run", str(tmp_path / "run"), *TINY])
    slices = pd.read_csv(tmp_path / "run" / "slices.csv")
    assert "cannot be used and are left out" in capsys.readouterr().err
    assert not slices["path"].str.contains("1_2[0-9]", regex=True).any() and (slices["path"].str.contains("_13")).any()


# ---- leakage ------------------------------------------------------------------------------------


def test_the_same_image_in_two_splits_is_told_whatever_its_name_and_format(tmp_path, capsys):
    data = make_slices(tmp_path / "data")
    twin = next((data / "train" / "AD").iterdir())
    Image.open(twin).convert("RGB").save(data / "test" / "NC" / "990_1.png")
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(data / "train" / "AD" / "991_1.png")  # black ones are no leak
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(data / "test" / "AD" / "992_1.png")
    dataset.main(["check", "--data", str(data), "--out", str(tmp_path / "sheet.png")])
    said = capsys.readouterr().err
    assert "1 image found in more than one split" in said
    assert f"test/NC/990_1.png = train/AD/{twin.name}" in said or f"train/AD/{twin.name} = test/NC/990_1.png" in said


# ---- names, splits, index: properties -----------------------------------------------------------

SUBJECTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/"), min_size=1, max_size=12
)


@given(
    SUBJECTS,
    st.integers(0, 10**9 - 1),
    st.sampled_from(("_", "-", "_slice_", "-slice-")),
    st.sampled_from((".png", ".PNG", ".jpeg", ".jpg", ".nii.png")),
)
def test_a_name_made_of_subject_and_slice_gives_them_back(subject, number, separator, suffix):
    match = re.search(NAME_PATTERN, f"{subject}{separator}{number}{suffix}", re.IGNORECASE)
    found = match["subject"], int(match["slice"])
    if not re.search(r"([_-]slice|[_-])$", subject, re.IGNORECASE):  # "a_" + "_1" could be read either way
        assert found == (subject, number)
    else:
        assert subject.startswith(found[0]) and found[1] == number


@st.composite
def people(draw):
    """An index of 2 to 14 people, with a label, a number of slices and perhaps a folder's split each."""
    rows = []
    for person in range(draw(st.integers(2, 14))):
        label, split = draw(st.sampled_from("AB")), draw(st.sampled_from(("train", "train", "test")))
        for i in range(draw(st.integers(1, 4))):
            rows.append((f"{person}_{i}.png", str(person), str(person), i, i, label, split))
    slices = pd.DataFrame(rows, columns=COLUMNS)
    return slices.assign(split="") if draw(st.booleans()) else slices


@settings(max_examples=60, deadline=None)
@given(people(), st.integers(0, 2**31 - 1), st.randoms(use_true_random=False))
def test_nobody_is_ever_in_two_splits_and_nothing_is_lost(slices, seed, random):
    try:
        found = split_by_subject(slices, seed)
    except UserError as error:  # too few people, and it says so
        assert str(error)
        return
    assert sorted(found["path"]) == sorted(slices["path"])
    assert found.groupby("subject")["split"].nunique().max() == 1
    assert set(found["split"]) <= {"train", "validation", "test"}
    was_test = slices["path"][slices["split"] == "test"]
    assert set(was_test) <= set(found["path"][found["split"] == "test"])  # the folders' test stays test
    order = list(range(len(slices)))
    random.shuffle(order)
    again = split_by_subject(slices.iloc[order].reset_index(drop=True), seed)
    assert found.set_index("path")["split"].to_dict() == again.set_index("path")["split"].to_dict()


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.integers(0, 9), st.integers(0, 30)),
        st.sampled_from(("train/AD", "test/NC", "")),
        min_size=1,
        max_size=30,
    )
)
def test_every_file_is_in_the_index_once_and_positions_follow_the_numbers(tmp_path_factory, files):
    root = tmp_path_factory.mktemp("index")
    for (subject, number), folder in files.items():
        path = Path(root) / folder / f"s{subject}_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    slices = find_slices(root)
    assert len(slices) == len(files) == slices["path"].nunique()
    assert all((Path(root) / path).is_file() for path in slices["path"])
    for _, person in slices.groupby("subject"):
        assert person.sort_values(["slice", "path"])["position"].is_monotonic_increasing
    assert slices["position"].between(0, slices.groupby("subject").size().max()).all()


@pytest.mark.parametrize("pattern", ["(", "(?P<subject>.*)", "(?P<subject>.)(?P<slice>x)"])
def test_a_pattern_of_the_user_that_cannot_work_is_refused(tmp_path, pattern):
    save(tmp_path / "ax_1.png", grey())
    with pytest.raises(UserError, match="--subject-pattern"):
        find_slices(tmp_path, pattern)
