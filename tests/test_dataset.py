"""The batches that training sees, and the script that checks, cuts and makes slices."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import BOXES, brain, good_files, random_images, save
from PIL import Image

import dataset
from slices.augmentation import augment
from slices.frame import Box, crop
from training.workers import start_tensorflow
from utils import UserError, random_generator

SEED = 3


@pytest.fixture(scope="module")
def tf():
    return start_tensorflow()


# ---- batches ----------------------------------------------------------------------------------


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
    assert all(
        (row == random_generator(SEED, "train order", epoch).permutation(7)).all() for epoch, row in enumerate(seen)
    )
    assert len({tuple(row) for row in seen}) == 3


def test_a_training_batch_is_its_rows_augmented_by_its_parameters(tf, feed):
    for batch in take(feed(), 4):
        rows = batch["position"]
        expected = augment(random_images()[rows], tf.constant(batch["augmentation"]), Box(-1, 1, 9, 8))
        assert np.allclose(batch["image"], expected, atol=1e-6) and np.array_equal(batch["label"], rows % 2)


def test_other_slices_get_the_very_augmentation_of_the_slice(tf, feed):
    own, turned = np.arange(7), np.roll(np.arange(7), 3)
    batches = take(feed(others=np.stack([own, turned], axis=1)), 4)
    assert any(batch["augmentation"].any() for batch in batches)
    for batch, plain in zip(batches, take(feed(), 4), strict=True):
        assert batch["others"].shape == (3, 2, 9, 8, 1) and plain["others"].shape == (3, 0, 9, 8, 1)
        assert np.array_equal(batch["image"], plain["image"])
        assert np.array_equal(batch["others"][:, 0], batch["image"])
        rows = turned[batch["position"]]
        expected = augment(random_images()[rows], tf.constant(batch["augmentation"]), Box(-1, 1, 9, 8))
        assert np.allclose(batch["others"][:, 1], expected, atol=1e-6)


def test_a_batch_larger_than_the_data_goes_on_into_the_next_epoch(tf):
    batches = dataset.training_batches(random_images(2), {"row": np.arange(2)}, 6, SEED, Box(0, 0, 4, 4))
    assert np.bincount(take(batches, 1)[0]["row"]).tolist() == [3, 3]


def test_unaugmented_batches_are_exact_inside_tf_data_and_from_a_memory_mapped_file(tf, tmp_path):
    images, box = random_images(), BOXES[1]
    mapped = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, images.shape)
    mapped[:] = images
    columns = {"row": np.arange(7)}
    expected = crop(images, box).astype(np.float32) / np.float32(255)
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
    dataset.main(["check", "--data", str(slices_folder), "--out", "sheet.png"])
    said = capsys.readouterr().out
    assert "8 people, 32 slices in 4 positions; 0 files cannot be used" in said
    assert "32 of 48x40" in said and "repeat visits of one person may straddle splits" in said
    with Image.open("sheet.png") as sheet:
        assert np.asarray(sheet.convert("L")).any()
    with pytest.raises(UserError, match="sheet.png exists"):
        dataset.main(["check", "--data", str(slices_folder), "--out", "sheet.png"])
    dataset.main(["check", "--data", str(slices_folder)])
    dataset.check(slices_folder)  # as a notebook calls it
    assert sorted(path.name for path in tmp_path.iterdir()) == ["contact_sheet.png", "contact_sheet_2.png", "sheet.png"]


def test_check_goes_on_without_a_truncated_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good_files(tmp_path / "my data")
    broken = tmp_path / "my data" / "2_7.png"
    broken.write_bytes(broken.read_bytes()[:60])
    dataset.main(["check", "--data", "my data"])
    out, err = capsys.readouterr()
    assert "1 file cannot be used" in out and "2_7.png: " in err
    assert "python train.py --data 'my data' --dry-run" in out


def test_check_takes_mixed_sizes_only_with_a_size_and_writes_nothing_when_it_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good_files(tmp_path / "data")
    save(tmp_path / "data" / "9_1.png", brain(width=30))
    sentence = r"\(4 of 20x24, 1 of 30x24, such as 9_1.png\): .* as with --image-size 24 20$"
    with pytest.raises(UserError, match=sentence):
        dataset.main(["check", "--data", "data"])
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    dataset.main(["check", "--data", "data", "--image-size", "24", "20"])
    said = capsys.readouterr().out
    assert "4 of 20x24, 1 of 30x24; used at 20x24" in said
    assert "python train.py --data data --image-size 24 20 --dry-run" in said


def test_check_hands_on_the_flags_that_training_needs_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good_files(tmp_path / "data" / "train")
    save(tmp_path / "data" / "test" / "0_8.png", brain(0))
    pattern = r"(?P<subject>\d)_(?P<slice>\d)"
    with pytest.raises(UserError, match=r"such as 0 \(test/0_8.png, train/0_7.png\): "):
        dataset.main(["check", "--data", "data"])
    dataset.main(["check", "--data", "data", "--subject-pattern", pattern, "--allow-overlap", "--seed", "3"])
    wanted = f"--data data --subject-pattern '{pattern}' --allow-overlap --seed 3 --dry-run"
    assert f"python train.py {wanted}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--data", "x", "--demo", "y"],
        ["--data", "."],
        ["check"],
        ["check", "--data", "missing"],
        ["check", "--data", ".", "--seed", "-1"],
        ["check", "--data", ".", "--out", "sheet.jpg"],
        ["check", "--data", ".", "--image-size", "1", "1"],
        ["check", "--data", ".", "--people", "5"],
        ["cut", "--volumes", "."],
        ["demo", "--people", "3"],
        ["make", "--people", "4"],
    ],
)
def test_wrong_flags_are_a_user_error(tmp_path, monkeypatch, argv):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        dataset.main(argv)
    assert not list(tmp_path.iterdir())


def test_demo_asks_for_the_cohort_of_the_flags(monkeypatch, tmp_path):
    import slices.cohort

    asked = []
    monkeypatch.setattr(slices.cohort, "make_cohort", lambda *options: asked.append(options) or options[0])
    dataset.main(["demo", "--out", str(tmp_path), "--people", "5", "--seed", "2", "--image-size", "60", "64"])
    dataset.main(["demo", "--out", str(tmp_path)])
    dataset.main(["demo", "--image-size", "120", "128"])
    assert asked == [
        (tmp_path, 5, 2, (60, 64)),
        (tmp_path, 100, 0, (240, 256)),
        (Path("data/demo-100-120x128-seed0"), 100, 0, (120, 128)),
    ]


def test_help_loads_nothing_heavy_and_a_mistake_has_status_2():
    root = Path(dataset.__file__).parent
    code = (
        "import runpy, sys\ntry:\n    runpy.run_path('dataset.py', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    heavy = {'numpy', 'pandas', 'tensorflow', 'scipy', 'PIL'} & set(sys.modules)\n"
        "    sys.exit(f'loaded {heavy}' if heavy else end.code)"
    )
    for argv, status in ((["--help"], 0), (["check", "--help"], 0), (["check", "--nonsense"], 2)):
        done = subprocess.run([sys.executable, "-c", code, *argv], cwd=root, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
