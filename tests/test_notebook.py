"""The notebook for Colab: it holds no results, and runs from top to bottom."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "colab.ipynb"
CHANGES = {  # what a user changes, for a run of seconds
    'PRESET = "demo"': 'PRESET = "smoke"',
    'DATA = ""': 'DATA = "own slices"',
    'OPTIONS = ""': 'OPTIONS = "--preset smoke"',
}


def cells(kind):
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def test_it_holds_no_results():
    assert cells("code") and cells("markdown")
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells("code"))


def test_what_a_user_changes_stands_there_once():
    text = "\n".join("".join(cell["source"]) for cell in cells("code"))
    assert all(len(re.findall(f"^{re.escape(line)}$", text, re.MULTILINE)) == 1 for line in CHANGES)


def checked(source):
    """A cell as it is run here: with CHANGES, and stopped by the first line of a shell that fails."""
    for line, other in CHANGES.items():
        source = source.replace(line, other)
    return re.sub(r"^( *)!.*$", r"\g<0>\n\1assert _exit_code == 0", source, flags=re.MULTILINE)


@pytest.mark.slow
def test_it_runs(finished_run, slices_folder, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    ignored = shutil.ignore_patterns(".*", "runs", "data", "__pycache__", "ReducedResults")
    shutil.copytree(ROOT, tmp_path / "brains", ignore=ignored)
    shutil.copytree(finished_run, tmp_path / "brains" / "ReducedResults" / "brains")
    shutil.copytree(slices_folder, tmp_path / "brains" / "own slices")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = checked(cell.source)
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    said = "".join(output.get("text", "") for output in outputs)
    assert "computing on " in said and "finished in" in said
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    assert (tmp_path / "brains" / "runs.zip").is_file()
