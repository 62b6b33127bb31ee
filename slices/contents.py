"""What decoded slices show: told before anything is trained on them, and refused where there is nothing to learn."""

import numpy as np

from slices.images import first_of
from utils import UserError, counted, warn


def check_contents(data, slices, loaded):
    """Refuse slices without a brain in a whole split, or all alike; tell the odd ones, and who is missing, once.

    Args:
        data: the folder they are in.
        slices: the index of the N usable images, with their splits.
        loaded: their LoadedImages.

    Raises:
        UserError: a split shows no brain, or all training slices are the same.
    """
    without = loaded.brain_boxes[:, 2] == 0
    for split in (None, "train", "validation", "test"):
        rows = np.flatnonzero(slices["split"] == split) if split else np.arange(len(slices))
        if len(rows) and without[rows].all():
            raise UserError(
                f"none of the {len(rows)} {f'{split} ' if split else ''}slices in {data} shows a brain: "
                f"{_how_dark(loaded.images, rows)}; save them as grey images of 8 bits, a bright brain on black"
            )
    training = np.flatnonzero(slices["split"] == "train")
    if len(training) > 1 and len({loaded.digests[i] for i in training}) == 1:
        raise UserError(
            f"all {len(training)} training slices in {data} have the same pixels: there is nothing to learn from them; "
            "look how they were made"
        )
    if "validation" not in set(slices["split"]):
        warn("nobody is left for validation, without whom nothing is trained: at least one label needs two people")
    if loaded.turned:
        print(f"{loaded.turned} of {len(slices)} files are turned, as their EXIF orientation says")
    _warn_of_repeats(slices, loaded, without)
    _warn(loaded, without, "show no brain, nothing but black or specks, and are used all the same")
    _warn(
        loaded,
        loaded.to_the_edges,
        "are bright up to all four edges, so that the whole of each counts as brain; where that is a white "
        "background, make it black",
    )


def _warn_of_repeats(slices, loaded, without):
    """Warn of images that are in one split a second time, by their pixels; those ``without`` a brain do not count."""
    table = slices.assign(digest=loaded.digests)[~without]
    first = table.groupby(["split", "digest"])["path"].transform("first")
    again = (first + " = " + table["path"])[first != table["path"]].tolist()
    if again:
        warn(
            f"{counted(len(again), 'image')} found again in one split under another name: keep one of "
            f"each{first_of(again)}"
        )


def _how_dark(images, rows):
    """The brightest value of some images, in words."""
    brightest = max(int(images[row].max()) for row in rows)
    return "all of them are black" if brightest == 0 else f"their brightest value is {brightest} of 255"


def _warn(loaded, odd, what):
    """Warn of the images that are ``odd``, (N,) bool: how many, what they are, which."""
    if odd.any():
        names = [loaded.paths[i] for i in np.flatnonzero(odd)]
        warn(f"{odd.sum()} of {len(odd)} slices {what}:{first_of(names)}")
