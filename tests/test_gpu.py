"""The measurement for GPUs: its plan, its rows, and what it leaves when its time is up."""

import pytest

from experiments import gpu, gpu_tasks
from experiments.results import read_rows
from training.options import PRESETS


def test_a_row_says_whether_its_bar_is_met():
    assert gpu_tasks.row("step", "a", "b", 1600, "slices/s", least=1500)["met"] is True
    missed = gpu_tasks.row("sampling", "a", "b", 2.5, "s", most=2)
    assert missed["met"] is False and "MISSED" in gpu.shown(missed)
    assert set(missed) == set(gpu.COLUMNS)


def test_what_fails_is_a_row_that_says_why():
    def fail():
        raise ValueError("no kernel\nand much more")

    found = gpu_tasks.attempt(fail, "step", "a", "float16", "slices/s", least=1)
    assert found["setting"] == "float16: failed, no kernel" and found["value"] == found["met"] == ""
    assert "float16: failed" in gpu.shown(found)


def test_two_fingerprints_become_one_row():
    def said(digest):
        return gpu_tasks.row("repeat", "vqvae", "float32", digest, "sha256")

    other = gpu_tasks.row("step", "a", "b", 1.0, "slices/s")
    assert gpu.with_comparison([other, said("1f")]) == [other]
    assert gpu.with_comparison([said("1f"), other, said("1f")])[1]["met"] is True
    assert gpu.with_comparison([said("1f"), other, said("2e")])[1]["met"] is False


@pytest.mark.parametrize("tasks", [gpu.plan(), gpu.tiny_plan()], ids=["whole", "tiny"])
def test_the_plan_names_tasks_that_exist_with_options_that_they_have(tasks):
    for name, options in tasks:
        known = gpu_tasks.TASKS[name].__code__
        assert set(options) <= set(known.co_varnames[: known.co_argcount]), name
        assert options.get("preset", "default") in PRESETS
    assert {name for name, _ in gpu.plan()} == set(gpu_tasks.TASKS)


def test_rows_are_kept_as_they_come_and_what_has_no_time_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "tiny_plan", lambda: [("checks", {}), ("sampling", {}), ("profile", {})])
    found = gpu_tasks.row("checks", "codes", "TF32 off", 0.12345678, "of all", most=0)
    monkeypatch.setattr(gpu, "measure", lambda task, *_: ([found], None) if task == "checks" else ([], "no GPU"))
    gpu.main(["--tiny", "--out", str(tmp_path / "gpu.csv")])
    (line,) = read_rows(tmp_path / "gpu.csv")
    assert line["value"] == "0.1235" and line["met"] == "False"
    said = capsys.readouterr()
    assert "sampling {}: no GPU" in said.err and "MISSED" in said.out
    gpu.main(["--tiny", "--minutes", "0"])
    assert capsys.readouterr().err.count("no time is left") == 3


def test_a_task_that_runs_out_of_time_leaves_the_rows_that_it_has():
    rows, trouble = gpu.measure("checks", {"preset": "nothing"}, 0.01)
    assert rows == [] and "stopped after" in trouble


@pytest.mark.slow
def test_the_tiny_trial_measures_every_task(tmp_path):
    gpu.main(["--tiny", "--out", str(tmp_path / "gpu.csv")])
    rows = read_rows(tmp_path / "gpu.csv")
    assert {line["part"] for line in rows} >= {"checks", "step", "pipeline", "sampling", "repeat", "profile", "start"}
    assert not [line for line in rows if "failed" in line["setting"]]
    assert all(line["met"] == "True" for line in rows if line["part"] in ("checks", "repeat"))
