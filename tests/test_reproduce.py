"""experiments/reproduce.py: the pages are what the files say, and what is not is told."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import predict
from experiments import reproduce, shown
from experiments.filled import pages, peer, run, targets, words
from experiments.filled.files import Files
from utils import CommandParser, UserError, save_json, write_csv


def test_every_block_of_the_pages_is_what_its_files_say():
    assert not pages.stale(Files()), "python experiments/reproduce.py --only text"


def test_every_text_has_a_block():
    assert {name for text in pages.page_texts().values() for name in pages.blocks(text)} == set(pages.TEXTS)


def test_every_picture_that_is_shown_has_a_row_and_every_row_is_shown():
    assert not reproduce.unmatched(reproduce.shown_files(pages.page_texts()))


# ---- texts --------------------------------------------------------------------------------------

TEXTS = {"a.table": lambda files: "| 1 |\n|---|", "a.count": lambda files: "3 of 28"}


def test_blocks_are_filled_in_as_lines_or_within_a_line():
    page = "x\n\n<!-- filled: a.table -->\nold\n<!-- end -->\n\n- it is <!-- filled: a.count -->2<!-- end -->.\n"
    new = pages.filled(page, None, TEXTS)
    assert new == page.replace("old", "| 1 |\n|---|").replace(">2<", ">3 of 28<")
    assert pages.filled(new, None, TEXTS) == new and pages.filled(page.replace("old\n", ""), None, TEXTS) == new


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("it is <!-- filled: b -->2<!-- end -->", "nothing fills in the block b"),
        ("<!-- filled: a.count -->2<!-- end -->", "within a line"),
        ("it is <!-- filled: a.count -->\n2\n<!-- end -->", "within a line"),
        ("it is <!-- filled: a.count -->2", "without the other"),
        ("it is 2<!-- end -->", "without the other"),
        ("it <!-- filled: a.count -->2 is <!-- filled: a.count -->2<!-- end -->", "without the other"),
    ],
)
def test_marks_that_are_wrong_are_refused(page, sentence):
    with pytest.raises(UserError, match=sentence):
        pages.filled(page, None, TEXTS)


def test_an_edited_block_is_told(monkeypatch, capsys):
    texts = pages.page_texts()
    block = pages.BLOCK.search(texts["README.md"])
    edited = texts["README.md"].replace(block[0], block[0].replace(block[3], f"{block[3]} or so"))
    monkeypatch.setattr(pages, "page_texts", lambda: texts | {"README.md": edited})
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(["--only", "text", "--check"])
    assert stopped.value.code == 1
    assert capsys.readouterr().out == f"README.md: the block {block[1]} is not what the files say\n"


def test_what_agrees_has_status_0(capsys):
    reproduce.main(["--only", "text", "--check"])
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(1269, 0, "1,269"), (-0.034, 2, "−0.03"), (-0.001, 2, "0.00"), (None, 2, "–"), ("0.66774", 3, "0.668")],
)
def test_numbers_as_the_pages_write_them(value, digits, text):
    assert words.number(value, digits) == text


def test_metrics_nulls_and_tables():
    assert words.metric({"value": 28.06, "low": 27.8, "high": 28.3}, 1, " dB") == "28.1 dB [27.8, 28.3]"
    assert words.null({"perfect_prior": [0.5, 0.3, -0.004], "other_people": None}, 2) == "0.50 [0.30, 0.00]"
    assert words.null(None, 2) == "–" and words.significant(1268.6) == "1,269" and words.significant(0.7023) == "0.702"
    assert words.table(["", "b"], [["a", ""]]) == "| | b |\n|---|---|\n| a | |"
    assert words.processor("AMD EPYC (avx2, avx512f, avx512_bf16)") == "AMD EPYC with AVX-512 and bfloat16"
    assert words.processor("M (avx2)") == "M" and words.day("2026-11-07") == "7 November 2026"


def test_a_target_is_met_at_its_bound():
    assert targets.at_least("x", 0.93, 0.93, 2) == ["x", "≥ 0.93", "0.93", "met"]
    assert targets.at_most("x", {"value": 0.81, "low": 0.7, "high": 0.9}, 0.8, 2)[2:] == [
        "0.81 [0.70, 0.90]",
        "**missed**",
    ]
    assert targets.in_band("x", 0.2, (0.3, 0.4)) == ["x", "in [0.30, 0.40]", "0.20", "**missed**"]
    section = {"a": 0.5, "a_null": {"low": 0, "high": 1}, "b": 2, "b_null": {"low": 0, "high": 1}}
    assert targets.within("x", section, ("a", "b")) == ["x", "2 of 2", "1 of 2", "**missed**"]


def peer_row(**named):
    row = dict(metric="ssim_brain", equal="time", codebook="ema", peer="0.6", ours="0.8", date="2026-11-25")
    return row | named


def test_the_newest_rows_of_the_peer_count(tmp_path):
    rows = [peer_row(), peer_row(ours="0.9"), peer_row(ours="0.7", codebook="gradient"), peer_row(equal="steps")]
    write_csv(tmp_path / "peer.csv", rows)
    assert peer.newest(Files(tmp_path), "time", "ema")["ssim_brain"]["ours"] == "0.9"


def test_the_minutes_of_a_run_are_those_of_its_histories(tmp_path):
    (tmp_path / "brains").mkdir()
    save_json(tmp_path / "brains" / "config.json", {"stages": {"vqvae": "finished", "prior": "training"}})
    write_csv(tmp_path / "brains" / "history_vqvae.csv", [{"seconds": 60.0}, {"seconds": 90.0}])
    assert Files(tmp_path).minutes("brains") == {"vqvae": 1.5}


@pytest.mark.parametrize(
    ("devices", "words"),
    [(["M (avx2, avx512f)"], "1 minutes on two CPU cores on 3 people"), (["H100"], "1 minutes on H100 on 3 people")],
)
def test_what_a_run_was_trained_on(tmp_path, devices, words):
    (tmp_path / "demo").mkdir()
    machine = {"processor": "M (avx2, avx512f)", "cores": 2}
    config = {"stages": {"vqvae": "finished"}, "machine": machine, "devices": devices}
    save_json(tmp_path / "demo" / "config.json", config)
    save_json(
        tmp_path / "demo" / "metrics.json", {"memorisation": {"membership": {"x": {"of": "weights", "people": 3}}}}
    )
    write_csv(tmp_path / "demo" / "history_vqvae.csv", [{"seconds": 60.0}])
    assert run.trained(Files(tmp_path), "demo") == words


def test_a_table_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="peer.csv is not there"):
        Files(tmp_path).rows("peer.csv")
    with pytest.raises(UserError, match="not of 0"):
        Files(tmp_path).benchmark  # noqa: B018


# ---- pictures -----------------------------------------------------------------------------------


def save_grey(path, level, size=(4, 4)):
    Image.fromarray(np.full(size, level, np.uint8)).save(path)
    return path


@pytest.fixture
def one_row(monkeypatch, tmp_path):
    """reproduce with one row, whose picture has the grey level that the returned list holds, in a folder of its own."""
    levels, folder = [100], tmp_path / "pictures"

    def make(run, data, work):
        return [save_grey(work / "made.png", levels[0])]

    rows = (shown.Row(("one.png",), make), shown.Row(("slices.png",), make, "brains", needs_slices=True))
    for name, value in (("ROWS", rows), ("PICTURES", folder), ("unmatched", lambda shown: [])):
        monkeypatch.setattr(reproduce, name, value)
    return levels


def test_pictures_are_made_compared_and_skipped(one_row, capsys):
    assert reproduce.reproduce(only=["one"]) == []
    path = Path(reproduce.PICTURES, "one.png")
    assert capsys.readouterr().out == f"made: {path}\n" and path.is_file()
    assert reproduce.reproduce(only=["one"], check=True) == [] and capsys.readouterr().out == "the same: one.png\n"
    one_row[0] = 101
    assert reproduce.reproduce(only=["one"], check=True) == []
    assert capsys.readouterr().out == "the same: one.png, but for 1.00 grey levels in the mean\n"
    one_row[0] = 103
    assert reproduce.reproduce(only=["one"], check=True) == [f"{path} is another: 3.0 grey levels in the mean"]
    assert np.asarray(Image.open(path)).max() == 100  # --check leaves it as it is
    path.unlink()
    assert reproduce.reproduce(only=["one"], check=True) == [f"{path} is not there"]
    capsys.readouterr()
    assert reproduce.reproduce(only=["slices"]) == []
    assert capsys.readouterr().out == "skipped: slices.png: it needs real slices: --data\n"


def test_a_name_that_is_no_picture_is_refused(one_row):
    with pytest.raises(UserError, match="there is no picture two: they are one, slices; and text"):
        reproduce.main(["--only", "two"])


def test_differences_are_means_over_all_pixels_and_frames(tmp_path):
    one, other = save_grey(tmp_path / "1.png", 10), save_grey(tmp_path / "2.png", 14)
    assert reproduce.difference(one, one) == 0 and reproduce.difference(one, other) == 4
    assert reproduce.difference(one, save_grey(tmp_path / "3.png", 10, (4, 5))) == 255
    for name, last in (("4.gif", 10), ("5.gif", 30)):
        frames = [Image.fromarray(np.full((4, 4), level, np.uint8)) for level in (200, last)]
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert reproduce.difference(tmp_path / "4.gif", tmp_path / "5.gif") == 10


def test_files_that_nobody_shows_and_pictures_without_a_row_are_told(monkeypatch, tmp_path):
    row = shown.Row(("row.png",), None)
    for name, value in (("ROWS", (row,)), ("BY_HAND", ()), ("PICTURES", tmp_path)):
        monkeypatch.setattr(reproduce, name, value)
    save_grey(tmp_path / "left.png", 0)
    sentences = reproduce.unmatched({tmp_path / "shown.png"})
    assert [sentence.removeprefix(f"{tmp_path}/").split(" ")[0] for sentence in sentences] == [
        "shown.png",
        "row.png",
        "left.png",
    ]
    assert reproduce.shown_files({"docs/x.md": "![a](../ReducedResults/pictures/a.png) [b](b.gif) [c](c.csv)"}) == {
        reproduce.REPOSITORY / "ReducedResults" / "pictures" / "a.png",
        reproduce.REPOSITORY / "docs" / "b.gif",
    }


def test_the_figures_of_tables_are_what_their_files_say(capsys):
    assert reproduce.reproduce(only=["null_bands", "people_trained_on", "benchmark"], check=True) == []
    assert capsys.readouterr().out.count("the same: ") == 3


def test_a_program_that_is_not_there_is_told():
    row = shown.Row(("x.png",), None, needs=("no_such_program", "numpy"))
    assert row.lacking(None) == "it needs no_such_program" and shown.Row(("x.png",), None).lacking(None) is None


COMMANDS = {
    row.names: (row.make.args[0], row) for row in shown.ROWS if getattr(row.make, "func", None) is shown.predicted
}


@pytest.mark.parametrize(("words", "row"), COMMANDS.values(), ids=map(str, COMMANDS))
def test_the_commands_behind_pictures_are_those_of_predict(words, row):
    command = next(command for command in predict.COMMANDS if command.name == words.split()[0])
    CommandParser("predict.py", command, predict.COMMANDS).parse_args(words.split()[1:])
    assert row.run and row.needs_slices == ("{" in words)


def test_what_predict_leaves_is_taken(finished_run, tmp_path):
    found = ("sheet.png", "samples.csv")
    made = shown.predicted("sample --num-images 2 --seed 3", found, finished_run, None, tmp_path)
    assert made == [tmp_path / "made" / name for name in found]
    assert (tmp_path / "made" / "sheet.png").is_file()


def test_samples_stand_above_slices_of_test_people(finished_run, tmp_path):
    (path,) = shown.samples_and_slices(finished_run, None, tmp_path)
    assert Image.open(path).size[0] > 100
