"""What the tests share: a tiny data set of their own, and one tiny run on it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
PEOPLE, SLICES = 8, 4
TINY = [
    "--preset",
    "smoke",
    "--vqvae-steps",
    "6",
    "--prior-steps",
    "6",
    "--refiner-steps",
    "6",
    "--prior-layers",
    "4",
    "--prior-width",
    "8",
    "--vqvae-width",
    "8",
    "--image-size",
    "32",
    "40",
    "--batch-size",
    "4",
]


def make_slices(folder, people=PEOPLE, size=(40, 48), splits=("train",) * 6 + ("test",) * 2):
    """Ellipses with a dark middle in the ADNI layout: people alternate between the labels AD and NC."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    for person in range(people):
        random = np.random.default_rng(person)
        path = Path(folder) / splits[person % len(splits)] / ("AD", "NC")[person % 2]
        path.mkdir(parents=True, exist_ok=True)
        for number in range(SLICES):
            radius = np.hypot((rows - size[0] / 2) / (13 + number), (columns - size[1] / 2) / 17)
            image = 200 * (radius < 1) - 150 * (radius < 0.2 + 0.1 * (person % 2))
            image = np.clip(image + random.normal(0, 8, size) * (radius < 1), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(path / f"{100 + person}_{70 + number}.png")
    return Path(folder)


def made_once(tmp_path_factory, name, make):
    """A folder that the first of the processes that run tests makes by ``make(folder)``, and all others find."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with FileLock(root / f"{name}.lock"):
        if not (root / name).is_dir():
            make(root / name)
    return root / name


@pytest.fixture(scope="session")
def slices_folder(tmp_path_factory):
    """A folder of 8 people with 4 slices each; nobody writes into it."""
    return made_once(tmp_path_factory, "slices", make_slices)


@pytest.fixture(scope="session")
def finished_run(slices_folder, tmp_path_factory):
    """A run of both stages, a few steps each; the tests of one process have a copy of their own."""
    import train

    def make(folder):
        train.main(["--data", str(slices_folder), "--run", str(folder), *TINY])

    return shutil.copytree(made_once(tmp_path_factory, "tiny", make), tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session", autouse=True)
def models_are_loaded_and_traced_once():
    """A Run of the same files has the same models in all tests: they are known by the bytes they are loaded from."""
    import sampling.run
    from utils import file_sha256

    load, loaded = sampling.run.load_models, {}

    def load_once(folder, prior=True):
        files = [folder / name for name in ("config.json", "vqvae.keras", "prior.keras")]
        key = prior, *(file_sha256(path) if path.is_file() else None for path in files)
        if key not in loaded:
            loaded[key] = load(folder, prior)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling.run, "load_models", load_once)
        yield


@pytest.fixture
def conditions_matter(finished_run):
    """The tiny run's prior has hardly learnt them: here they tell it a hundred times as much, and logits are larger."""
    from sampling.run import Run

    prior = Run(finished_run).prior
    tables = {"label_embedding": 100, "position_embedding": 100, "context_embedding": 20, "logits_kernel": 50}
    factors = [(getattr(level, name), factor) for level in prior.levels() for name, factor in tables.items()]
    learnt = [(table, np.array(table)) for table, _ in factors]
    for table, factor in factors:
        table.assign(factor * table)
    yield
    for table, values in learnt:
        table.assign(values)


@pytest.fixture
def run_predict(finished_run, tmp_path):
    """predict.py on the tiny run: a function of a command with its flags that returns the folder that it wrote."""
    import predict

    def run(*words, out="out"):
        predict.main([*map(str, words), "--run", str(finished_run), "--out", str(tmp_path / out)])
        return tmp_path / out

    return run


@pytest.fixture
def slice_path(slices_folder):
    """A slice of a test person with the label AD at position 1."""
    return slices_folder / "test" / "AD" / "106_71.png"
