"""Files, folders and random numbers that the scripts share."""

import shutil

import numpy as np
import pytest

import utils
from slices.frame import to_bytes
from training.folder import load_models, run_folder
from utils import UserError


def test_a_file_that_fails_halfway_leaves_the_one_before(tmp_path):
    path = tmp_path / "a.json"
    utils.save_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        utils.save_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError), utils.whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert utils.load_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_fails_halfway_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), utils.new_folder(tmp_path / "new" / "deep") as folder:
        (folder / "half.txt").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with utils.new_folder(tmp_path / "new" / "deep") as folder:
        (folder / "whole.txt").write_text("whole")
    assert (tmp_path / "new" / "deep" / "whole.txt").read_text() == "whole"
    with pytest.raises(UserError, match="left alone"), utils.new_folder(tmp_path / "new" / "deep"):
        pass


def test_truncated_json_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text('{"a": ')
    with pytest.raises(UserError, match="cannot be read as JSON"):
        utils.load_json(tmp_path / "config.json")


def test_random_numbers_are_a_function_of_seed_purpose_and_index():
    def first(*key):
        return utils.random_generator(*key).random()

    assert first(0, "codes", 1) == first(0, "codes", 1)
    assert len({first(0, "codes", 1), first(1, "codes", 1), first(0, "order", 1), first(0, "codes", 2)}) == 4


def test_run_names_and_paths(tmp_path):
    assert run_folder("demo").parts == ("runs", "demo")
    assert run_folder("./demo").parts == ("demo",)
    assert run_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("text", ["0", "nan", "1e9", "x"])
def test_numbers_out_of_range_are_refused(text):
    parser = utils.Parser()
    parser.add_argument("--rate", type=utils.number(float, 0.1, 10))
    assert parser.parse_args(["--rate", "2"]).rate == 2
    with pytest.raises(UserError, match="--rate"):
        parser.parse_args(["--rate", text])


def test_grey_levels_round_and_clip():
    assert list(to_bytes(np.array([[-1, 0, 0.4999 / 255, 0.5001 / 255, 1, 2]]))[0]) == [0, 0, 0, 1, 255, 255]


def test_a_damaged_model_is_one_sentence(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "vqvae.keras").write_bytes(b"PK no archive")
    with pytest.raises(UserError, match="cannot be loaded") as error:
        load_models(run, prior=False)
    assert "\n" not in str(error.value)
