"""What is shipped of a run: all that it takes to use it, no path of this machine, and the same samples."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from evaluations import evaluation
from test_train import pictures

import evaluate
import predict
from experiments import ship as shipping
from experiments.ship import MEASURED, ship, without_paths
from sampling.run import Run
from training import folder as run_folders
from training.folder import open_run, read_config
from training.plan import resolve_config
from utils import UserError

ROOT = Path(predict.__file__).parent
SHIPPED = sorted(path.parent for path in (ROOT / "ReducedResults").glob("*/prior.keras"))
LOOK = "2026-01-01 10:00,,evaluate.py --run mine --split test --data "


@pytest.fixture
def data(slices_folder, tmp_path):
    """The slices of the tests, and that they are in the public domain."""
    folder = shutil.copytree(slices_folder, tmp_path / "slices")
    said = {"Name": "Ellipses", "License": "CC0", "Authors": ["A B", "C D"], "DatasetDOI": "10.1/2"}
    (folder / "dataset_description.json").write_text(json.dumps(said))
    return folder


@pytest.fixture
def run(finished_run, tmp_path):
    """A finished run with what an evaluation leaves, and with what nobody else needs."""
    folder = shutil.copytree(finished_run, tmp_path / "runs" / "mine")
    command = "evaluate.py --run mine --data /home/me/slices"
    (folder / "metrics.json").write_text(json.dumps(evaluation(command=command)))
    (folder / "people.csv").write_text("subject\n100\n")
    (folder / "test_looks.csv").write_text(f"date,commit,command\n{LOOK}/home/me/slices\n")
    for name in ("report.html", "samples/a/sheet.png", "cache/codes.npz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def shipped(run, data, tmp_path):
    return ship(run, tmp_path / "ReducedResults" / "mine", data)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_shipped_run_draws_the_very_samples_of_the_run(run, shipped):
    for folder in (run, shipped):
        predict.main(["--run", str(folder), "--num-images", "3", "--out", str(folder / "drawn")])
    assert files(run / "drawn") == files(shipped / "drawn") and len(pictures(run / "drawn")) == 3


def test_it_holds_what_it_takes_to_use_it_and_no_path_of_this_machine(run, shipped, tmp_path):
    histories = {f"history_{stage}.csv" for stage in ("vqvae", "prior", "refiner")}
    models = {"vqvae.keras", "prior.keras", "refiner.keras", *MEASURED}
    tables = {"config.json", "slices.csv", "people.csv", "metrics.json", "test_looks.csv", "MODEL_CARD.md"}
    assert set(files(shipped)) == histories | models | tables == {path.name for path in shipped.iterdir()}
    assert all((shipped / name).read_bytes() == (run / name).read_bytes() for name in models | {"slices.csv"})
    config = read_config(shipped)
    assert (config["data"], config["source"], config["shipped"]) == ("BRAINS", None, True)
    texts = [content.decode() for name, content in files(shipped).items() if not name.endswith(".keras")]
    assert not any(str(tmp_path.parent) in text or "/home/me" in text for text in texts)
    card = (shipped / "MODEL_CARD.md").read_text()
    assert "written again): CC0. Ellipses. A B, C D. 10.1/2\n" in card and "no copies found" in card


def test_what_lies_there_stays_but_for_an_earlier_run_and_looks_add_up(run, data, tmp_path):
    out = tmp_path / "ReducedResults" / "mine"
    out.mkdir(parents=True)
    for name in ("samples.png", "history_older.csv", "older.keras"):
        (out / name).touch()
    (out / "test_looks.csv").write_text("date,commit,command\n2025-01-01 10:00,,peer.py\n")
    for _ in range(2):
        ship(run, out, data)
        assert (out / "samples.png").is_file() and not {"history_older.csv", "older.keras"} & set(files(out))
        assert (out / "test_looks.csv").read_text().splitlines()[1:] == ["2025-01-01 10:00,,peer.py", f"{LOOK}slices"]
    assert "test people so far: 2" in (out / "MODEL_CARD.md").read_text()


def test_commands_lose_the_way_to_a_file():
    assert without_paths("evaluate.py --run runs/b --data ../shared/brains") == "evaluate.py --run runs/b --data brains"
    assert without_paths("x.py --out=/tmp/y/a.csv '/a b/c d' /e/ f") == "x.py --out=a.csv 'c d' e/ f"


# ---- what is refused ----------------------------------------------------------------------------


def refused(sentence, run, data, out):
    with pytest.raises(UserError, match=sentence) as error:
        ship(run, out, data)
    assert "\n" not in str(error.value) and not out.exists()


def test_an_unfinished_run_one_that_is_not_evaluated_and_slices_of_others_are_refused(run, data, tmp_path):
    out, config = tmp_path / "ReducedResults" / "mine", json.loads((run / "config.json").read_text())
    (data / "dataset_description.json").write_text('{"License": "ask us"}')
    refused("says that these slices are in the public domain", run, data, out)
    (run / "metrics.json").unlink()
    refused("is not evaluated", run, data, out)
    config["stages"]["refiner"] = "wanted"
    (run / "config.json").write_text(json.dumps(config))
    refused("is not finished: go on with python train.py --resume", run, data, out)
    config["stages"]["prior"] = "wanted"
    (run / "config.json").write_text(json.dumps(config))
    refused("is not finished", run, data, out)


def test_too_many_weights_beside_each_other_are_refused_but_not_in_place_of_earlier_ones(
    run, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(shipping, "MOST", sum(path.stat().st_size for path in run.glob("*.keras")))
    first = ship(run, tmp_path / "ReducedResults" / "first", data)
    refused("MB of weights, over", run, data, tmp_path / "ReducedResults" / "second")
    assert ship(run, first, data) == first
    with pytest.raises(UserError, match="is the folder that it would be shipped to"):
        ship(first, first, data)


# ---- how it is used -----------------------------------------------------------------------------


def test_where_nothing_is_trained_the_run_that_comes_with_the_code_is_used(shipped, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_folders, "SHIPPED", shipped)
    monkeypatch.chdir(shipped.parent.parent)  # where runs/ has one
    assert open_run()[0] == Path("runs/mine")
    shutil.rmtree("runs")
    assert open_run()[0] == Path("ReducedResults/mine")
    assert "run: ReducedResults/mine (it comes with the code" in capsys.readouterr().out
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Run().folder == shipped


def test_its_slices_are_asked_for_in_a_sentence(shipped):
    with pytest.raises(UserError, match="^the data BRAINS of the run .* is not there: say where it is with"):
        evaluate.main(["--run", str(shipped)])
    config = json.loads((shipped / "config.json").read_text())
    config |= {"simulated": True, "demo_people": 30, "image_size": [60, 64], "data": "data/demo-30-60x64-seed0"}
    (shipped / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="make it with python dataset.py demo --people 30 --image-size 60 64, or say"):
        predict.main(["reader-study", "2", "--run", str(shipped)])


def test_an_evaluation_of_it_leaves_it_as_it_is(shipped, data, monkeypatch):
    before, places = files(shipped), []
    monkeypatch.setattr(evaluate, "measure_run", lambda run, place, *others: places.append(place))
    evaluate.main(["--run", str(shipped), "--data", str(data), "--split", "test"])
    assert files(shipped) == before and places == [shipped / "evaluation"]
    assert len(pd.read_csv(shipped / "evaluation" / "test_looks.csv")) == 1


def test_a_run_that_starts_from_it_is_no_shipped_one(shipped, data, tmp_path):
    config = resolve_config({"data": str(data)}, run=str(tmp_path / "new"), vqvae=str(shipped))[1]
    assert "shipped" not in config and config["data"] == str(data)


# ---- what is shipped here -----------------------------------------------------------------------


@pytest.mark.skipif(not SHIPPED, reason="this copy of the code came without weights")
def test_the_runs_that_come_with_the_code_are_those_that_its_pages_name():
    assert sum(path.stat().st_size for folder in SHIPPED for path in folder.glob("*.keras")) <= shipping.MOST
    assert all(open_run(folder)[1]["shipped"] for folder in SHIPPED)
    pages = (ROOT / name for name in ("README.md", "docs/colab.ipynb"))
    named = [re.findall(r"ReducedResults/(\w+)(?=[\s\"\\])", page.read_text(encoding="utf-8")) for page in pages]
    assert all(names and set(names) <= {folder.name for folder in SHIPPED} for names in named)
