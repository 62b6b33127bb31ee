"""What the tests share: a tiny data set of their own, and one tiny run on it."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
PEOPLE, SLICES = 8, 4
TINY = ["--preset", "smoke", "--vqvae-steps", "6", "--prior-steps", "6", "--prior-layers", "4", "--prior-width", "8",
        "--vqvae-width", "8", "--image-size", "32", "40", "--batch-size", "4"]


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


@pytest.fixture(scope="session")
def slices_folder(tmp_path_factory):
    """A folder of 8 people with 4 slices each."""
    return make_slices(tmp_path_factory.mktemp("slices"))


@pytest.fixture(scope="session")
def finished_run(slices_folder, tmp_path_factory):
    """A run of both stages, a few steps each."""
    import train

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train.main(["--data", str(slices_folder), "--run", str(folder), *TINY])
    return folder
