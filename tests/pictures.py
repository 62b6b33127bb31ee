"""Tiny pictures that several tests are made of."""

import numpy as np
from PIL import Image

from slices.frame import Box

BOXES = [Box(2, 3, 5, 4), Box(-3, -2, 18, 15), Box(0, 0, 12, 10), Box(-4, 5, 7, 9), Box(20, 20, 3, 3)]


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def brain(index=0, height=24, width=20):
    """A grey rectangle on black, of a shade and place that tell the index."""
    image = np.zeros((height, width), np.uint8)
    image[4 + index % 5 : 16, 5 : 15 - index % 3] = 100 + index
    return image


def good_files(root, count=4):
    """Write ``count`` brains under ``root``; returns their names."""
    for index in range(count):
        save(root / f"{index}_7.png", brain(index))
    return [f"{index}_7.png" for index in range(count)]


def random_images(count=7, height=12, width=10):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 1), dtype=np.uint8)
