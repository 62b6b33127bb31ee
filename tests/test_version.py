"""One version, in every place that tells it."""

import json
import re
from pathlib import Path

import pytest

import dataset
import evaluate
import predict
import train
from utils import version

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("script", [dataset, train, predict, evaluate], ids=lambda script: script.__name__)
def test_every_script_tells_the_version(script, capsys):
    with pytest.raises(SystemExit) as ended:
        script.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"{version()}\n"


def test_a_run_says_which_version_trained_it(finished_run):
    assert json.loads((finished_run / "config.json").read_text())["versions"]["this code"] == version()


def test_citation_and_changelog_are_of_this_version():
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == version()
    assert re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version()
