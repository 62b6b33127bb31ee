"""A finished run as an object: what it gives, what predict.py gives, and how it refuses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import predict
import sampling.run
from sampling.cohort import write_cohort
from sampling.comparisons import vary
from sampling.completion import complete
from sampling.draws import draw_codes, look_up, output_folder, shard_of, usual_block, wanted_conditions
from sampling.gallery import gallery
from sampling.people_folder import write_people
from sampling.reader_study import reader_study
from sampling.run import Run, encode_images, prior_bits
from sampling.samples_folder import write_samples
from slices.frame import crop, paste, to_bytes
from slices.images import load_images
from utils import UserError

ROOT = Path(predict.__file__).parent


@pytest.fixture(scope="module")
def run(finished_run):
    return Run(finished_run)


@pytest.fixture(scope="module")
def images(run):
    """(4, H, W, 1) uint8: the slices of a person in the run's frame."""
    paths = run.slices["path"][run.slices["split"] == "test"][:4]
    return load_images(run.data, paths.tolist(), run.frame).images


def test_it_is_opened_without_tensorflow(finished_run):
    code = (
        "import sys; from sampling.run import Run; run = Run(sys.argv[1]); run.slices, run.box\n"
        "assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(finished_run)], check=True, cwd=ROOT)


MISTAKES = """
import sys
import predict
import sampling.run
from utils import UserError
run, slice, folder = sys.argv[1:]
for words in ("--label MCI", "--position 9", "--num-images 2 --shard 1/3", "--out .",
              f"complete {slice} --keep nowhere.png",
              f"complete {slice} --keep top --label MCI", "complete nowhere.png --keep top", "reconstruct nowhere",
              f"score {folder} --data nowhere", f"score {folder} --position 9", "vary label --label AD",
              "interpolate --num-images 2", "reader-study 99", "export .",
              "people --label MCI", "people --num-people 2 --shard 1/3", "people --out .", "cohort --out .",
              "cohort --out new --reject-copies", "cohort --out new --num-people 2 --shard 1/3"):
    try:
        predict.main([*words.split(), "--run", run])
    except UserError:
        assert not {"tensorflow", "keras"} & set(sys.modules), words
    else:
        raise AssertionError(words)
"""


def test_mistakes_are_found_before_tensorflow_is_loaded(finished_run, slice_path, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    subprocess.run(
        [sys.executable, "-c", MISTAKES, finished_run, slice_path, slice_path.parent],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_it_knows_its_run(run, finished_run):
    assert (run.folder, run.name, run.labels, run.num_positions) == (finished_run, "tiny", ["AD", "NC"], 4)
    assert run.frame == (32, 40) and len(run.slices) == 32 and run.data.is_dir()
    assert run.code_grid == (run.box.height // 4, run.box.width // 4) == run.prior.grid == run.vqvae.code_grid


def test_the_newest_finished_run_or_one_by_its_name_or_path(finished_run, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(finished_run)
    (tmp_path / "here").symlink_to(finished_run)
    monkeypatch.chdir(tmp_path)
    assert Run().folder == Run("mine").folder == Path("runs/mine")
    assert Run("./here").folder == Run(Path("here")).folder == Path("here")
    with pytest.raises(UserError, match="there is no run at runs/here"):
        Run("here")


# ---- samples ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (dict(num_images=3, label="AD", position=2), "--num-images 3 --label AD --position 2"),
        (
            dict(num_images=34, seed=5, temperature=0.8, top_k=9, top_p=0.7),
            "--num-images 34 --seed 5 --temperature 0.8 --top-k 9 --top-p 0.7",
        ),
        (
            dict(num_images=40, label="none", position="none", shard=(2, 3)),
            "--num-images 40 --label none --position none --shard 2/3",
        ),
        (dict(num_images=6, seed=5, block=4), "--num-images 6 --seed 5 --block 4"),
    ],
)
def test_the_call_and_the_script_give_the_same_bytes(arguments, flags, run, run_predict):
    samples, out = run.sample(**arguments), run_predict(*flags.split())
    written = np.stack([np.asarray(Image.open(out / file)) for file in samples.table["file"]])
    assert np.array_equal(samples.images, written) and samples.images.dtype == np.uint8
    table = pd.read_csv(out / "samples.csv")
    assert table.astype(str).equals(samples.table.astype(str))
    assert np.allclose(samples.bits, table["log_likelihood_bits"], atol=1e-4)


def test_guidance_of_one_writes_the_very_bytes_of_none(run_predict):
    plain, same = (run_predict("--num-images", 2, *flags, out=f"{len(flags)}") for flags in ((), ("--guidance", 1)))
    written = [{path.name: path.read_bytes() for path in sorted(folder.iterdir())} for folder in (plain, same)]
    assert written[0] == written[1] and "samples.csv" in written[0]


def test_the_call_and_the_script_are_guided_alike(conditions_matter, run, run_predict):
    plain, guided = (run.sample(3, label="NC", position=1, guidance=value) for value in (1, 3))
    out = run_predict("--num-images", 3, "--label", "NC", "--position", 1, "--guidance", 3)
    written = np.stack([np.asarray(Image.open(out / file)) for file in guided.table["file"]])
    assert np.array_equal(guided.images, written) and not np.array_equal(plain.images, written)
    assert pd.read_csv(out / "samples.csv").astype(str).equals(guided.table.astype(str))
    assert list(plain.table) == list(guided.table)


def test_the_bits_of_guided_samples_are_those_of_the_model(conditions_matter, run):
    guided = run.sample(3, label="NC", position=1, guidance=3)
    assert np.allclose(-run.bits(guided.codes, "NC", 1).sum(axis=(1, 2)), guided.bits, atol=1e-3)


def test_no_guidance_at_all_is_the_model_without_label_and_position(conditions_matter, run):
    unguided, without = run.sample(3, "NC", 1, guidance=0), run.sample(3, "none", "none")
    assert np.array_equal(unguided.codes, without.codes)
    assert not np.array_equal(unguided.codes, run.sample(3, "NC", 1).codes)


def test_samples_hold_together(run):
    samples = run.sample(3, label="NC", position=1)
    assert samples.images.shape == (3, *run.frame) and samples.codes.shape == (3, *run.code_grid)
    assert np.array_equal(run.decode_drawn(samples.codes), samples.images)
    plain = Run(run.folder, sharpen=False).sample(3, label="NC", position=1)
    assert np.array_equal(run.decode(samples.codes), plain.images) and np.array_equal(plain.codes, samples.codes)
    assert not np.array_equal(plain.images, samples.images)
    bits = run.bits(samples.codes, "NC", 1)
    assert np.allclose(-bits.sum(axis=(1, 2)), samples.bits, atol=1e-3)
    assert set(samples.table["label"]) == {"NC"} and set(samples.table["position"]) == {1}


def test_a_sample_is_the_same_in_any_number_of_them(run):
    many, few = run.sample(70, seed=3), run.sample(40, seed=3)
    part = run.sample(70, seed=3, shard=(2, 2))
    assert np.array_equal(few.images, many.images[:40]) and few.table.equals(many.table[:40])
    assert np.array_equal(part.images, many.images[35:]) and list(part.table["index"]) == list(range(35, 70))


def test_a_sample_is_the_same_in_any_number_of_them_in_blocks_of_any_size_and_its_row_names_that(run, monkeypatch):
    drawn, sample = [], run.prior.sample
    monkeypatch.setattr(
        run.prior,
        "sample",
        lambda uniforms, *rest, **draw: drawn.append(len(uniforms)) or sample(uniforms, *rest, **draw),
    )
    many, few = run.sample(9, seed=3, block=4), run.sample(5, seed=3, block=4)
    part = run.sample(9, seed=3, shard=(2, 2), block=4)
    assert drawn == [4] * 7 and set(many.table["block"]) == {4}
    assert np.array_equal(few.images, many.images[:5]) and few.table.equals(many.table[:5])
    assert np.array_equal(part.images, many.images[4:]) and list(part.table["index"]) == list(range(4, 9))
    assert set(run.sample(1).table["block"]) == {run.block} and drawn[7:] == [run.block]


def test_images_do_not_depend_on_the_block_where_codes_do_not(run):
    samples = run.sample(70, seed=3, block=70)
    assert np.array_equal(run.decode_drawn(samples.codes), samples.images)
    part = run.sample(70, seed=3, shard=(2, 2), block=70)  # from within one block of what is decoded together
    assert np.array_equal(part.images, samples.images[35:]) and np.array_equal(part.codes, samples.codes[35:])


@pytest.mark.parametrize(("gpus", "block"), [([], 32), (["GPU:0"], 512)])
def test_blocks_are_larger_on_a_gpu(gpus, block):
    assert usual_block(SimpleNamespace(config=SimpleNamespace(get_visible_devices=lambda kind: gpus))) == block


def test_grids_are_drawn_in_whole_blocks_that_begin_where_they_always_do(run):
    label = np.repeat(np.array([1, 2], np.int32), 35)
    blocks = list(draw_codes(run.prior, label, label, 0, first=40, end=66))
    assert [start for start, _, _ in blocks] == [32, 64] and {codes.shape[0] for _, codes, _ in blocks} == {32}
    every = np.concatenate([codes for _, codes, _ in draw_codes(run.prior, label, label, 0)])
    assert np.array_equal(np.concatenate([codes for _, codes, _ in blocks])[:34], every[32:66])
    other = next(draw_codes(run.prior, label, label, 0, purpose="evaluation codes"))[1]
    assert not np.array_equal(other, every[:32])


def test_parts_differ_by_one_image_at_most_and_make_the_whole():
    bounds = [shard_of(70, part, 3) for part in (1, 2, 3)]
    assert bounds == [(0, 23), (23, 46), (46, 70)]


# ---- codes ------------------------------------------------------------------------------------


def test_encode_and_decode_are_the_models_with_the_crop_box_around_them(run, images):
    codes = run.encode(images)
    assert codes.dtype == np.int32 and codes.shape == (4, *run.code_grid)
    assert np.array_equal(codes, run.encode(images[..., 0])) and np.array_equal(
        codes, encode_images(run.vqvae, images, run.box)
    )
    assert np.array_equal(codes, run.vqvae.encode(crop(images, run.box).astype(np.float32) / 255))
    crops = to_bytes(np.asarray(run.vqvae.decode(codes)))
    assert np.array_equal(run.decode_crops(codes), crops)
    assert np.array_equal(run.decode(codes), paste(crops[..., None], run.box, run.frame)[..., 0])


def test_many_are_encoded_and_decoded_by_a_graph_to_what_few_are(run, images, monkeypatch):
    import tensorflow as tf

    many = np.concatenate([images, images[::-1], images[:2]])
    monkeypatch.setattr(sampling.run, "BLOCK", 4)
    few = [run.encode(many[start : start + 4]) for start in (0, 4, 8)]
    crops = [run.decode_crops(codes, block=4) for codes in few]
    traced = []
    monkeypatch.setattr(sampling.run, "WORTH_TRACING", 3)
    monkeypatch.setattr(sampling.run, "traced", lambda method: traced.append(method) or tf.function(method))
    assert np.array_equal(run.encode(many), np.concatenate(few))
    assert np.array_equal(run.decode_crops(np.concatenate(few), block=4), np.concatenate(crops))
    assert [method.__name__ for method in traced] == ["encode", "decode"]


def test_bits_are_those_under_the_given_conditions(run, images):
    codes = run.encode(images)
    unknown, given = run.bits(codes), run.bits(codes, ["AD", "none", "NC", None], [0, None, "3", "none"])
    assert unknown.shape == given.shape == (4, *run.code_grid) and (unknown > 0).all()
    columns = {"label": np.array([1, 0, 2, 0], np.int32), "position": np.array([1, 0, 4, 0], np.int32)}
    assert np.array_equal(given, prior_bits(run.prior, codes, columns))
    assert np.array_equal(given[[1, 3]], unknown[[1, 3]]) and not np.array_equal(given[0], unknown[0])
    assert np.array_equal(run.bits(codes, "AD", 2), run.bits(codes, ["AD"] * 4, [2] * 4))


# ---- conditions -------------------------------------------------------------------------------


def test_wanted_conditions_are_ids_from_one_with_zero_for_none():
    def wanted(*given):
        return wanted_conditions(["AD", "NC"], 4, *given)

    assert wanted() == (None, None) and wanted("NC", 3) == wanted("NC", "3") == (2, 4)
    assert wanted("none", "none") == (0, 0) and wanted("AD", np.int64(0)) == (1, 1)


def test_it_is_told_when_a_person_was_trained_on(run, capsys):
    path = run.data / run.slices[run.slices["split"] == "train"]["path"].iloc[0]
    look_up(run, [path], label="none")
    said = capsys.readouterr().out
    assert "1 of 1 slices are of people that the run was trained on" in said and "is not known" not in said


# ---- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (lambda run: run.sample(2, label="MCI"), "unknown --label MCI: this run has AD, NC and none"),
        (lambda run: run.sample(2, position=4), "unknown --position 4: this run has 0 to 3 and none"),
        (lambda run: run.sample(0), "num_images must be a whole number from 1"),
        (lambda run: run.sample(2, shard=(3, 3)), "2 images make 2 parts at most"),
        (lambda run: run.encode(np.zeros((2, 9, 9), np.uint8)), "images must be uint8"),
        (lambda run: run.encode(np.zeros((2, *run.frame))), "not float64"),
        (lambda run: run.decode(np.zeros((2, 9, 9), int)), "codes must be whole numbers from 0 to 31"),
        (lambda run: run.decode(np.full((1, *run.code_grid), 32)), "codes must be"),
        (lambda run: run.bits(np.zeros((1, *run.code_grid), int), "MCI"), "unknown --label MCI"),
        (lambda run: Run(run.folder, data="nowhere").needs_data(), "the data nowhere of the run .* is not there"),
        (lambda run: Run(run.folder, stage="vqvae").prior, "opened without its prior"),
        (lambda run: Run("nothing"), "there is no run at"),
    ],
)
def test_mistakes_are_one_sentence(mistake, sentence, run):
    with pytest.raises(UserError, match=sentence) as error:
        mistake(run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--reconstruct", "folder"], "there is no flag --reconstruct: the command is python predict.py reconstruct"),
        (["--complete", "folder"], "--complete is no flag of python predict.py, but of python predict.py people"),
        (["--reader-study", "3"], "the command is python predict.py reader-study"),
        (["complte", "slice.png"], "no command complte: do you mean python predict.py complete"),
        (["--heal"], "--heal is no flag of python predict.py, but of python predict.py score"),
        (["vary", "colour"], "invalid choice"),
        (["reconstruct"], "the following arguments are required: SLICES"),
    ],
)
def test_a_wrong_command_line_names_the_right_one(words, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        predict.main(words)
    assert "\n" not in str(error.value)


def test_two_calls_within_a_second_write_two_folders(finished_run, tmp_path):
    run = Run(shutil.copytree(finished_run, tmp_path / "run"))
    folders = []
    for _ in range(3):
        folders.append(output_folder(None, run, "fixed"))
        folders[-1].mkdir(parents=True)
    assert [folder.name for folder in folders] == ["fixed", "fixed-2", "fixed-3"]
    assert output_folder("there", run, "fixed") == Path("there")


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_images": 0},
        {"num_images": 2.5},
        {"num_images": "4"},
        {"seed": -1},
        {"seed": 1.5},
        {"temperature": 0},
        {"temperature": float("nan")},
        {"temperature": "1"},
        {"top_k": 0},
        {"top_k": 1.5},
        {"top_p": 0},
        {"top_p": 2},
        {"guidance": -1},
        {"guidance": 21},
        {"guidance": None},
        {"shard": (3, 2)},
        {"shard": (0, 2)},
        {"block": 0},
        {"block": 2.5},
        {"block": 5000},
    ],
)
def test_numbers_that_samples_cannot_be_drawn_with_are_refused(wrong, finished_run):
    with pytest.raises(UserError, match="must be"):
        Run(finished_run).sample(**wrong)


def test_a_name_that_no_draw_knows_is_refused_before_anything_is_written(run, slice_path, tmp_path):
    out = tmp_path / "out"
    for call in (
        lambda draw: run.sample_blocks(**draw),
        lambda draw: run.sample_people(**draw),
        lambda draw: write_samples(run, out=out, **draw),
        lambda draw: write_people(run, out=out, **draw),
        lambda draw: write_cohort(run, out, **draw),
        lambda draw: vary(run, "label", out=out, **draw),
        lambda draw: complete(run, slice_path, out=out, **draw),
        lambda draw: gallery(run, out=out, **draw),
        lambda draw: reader_study(run, 2, out=out, **draw),
    ):
        with pytest.raises(TypeError, match="unexpected keyword argument 'guidence'"):
            call({"guidence": 2})
        with pytest.raises(UserError, match="guidance must be a number from 0 to 20, not 21"):
            call({"guidance": 21})
    assert not out.exists()
