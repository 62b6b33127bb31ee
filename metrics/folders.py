"""Folders of images of any generator, and the sets that they are judged with."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from metrics.copies import shift_and_gain
from metrics.measured import ImageSet, as_samples, replace_images
from metrics.nulls import halve
from metrics.people import SET_SLICES, for_nulls
from metrics.samples import Sets, no_more_than_the_pool
from slices.frame import brain_crop, crop
from slices.images import load_images
from slices.index import find_slices
from slices.names import ids_of
from slices.tables import read_search
from utils import UserError, counted, random_generator

PLANTED = 200  # copies that the search must find


def load_folders(real, generated, train=None, cache=None):
    """The images of the folders, by "real", "generated" and, where it is given, "train".

    Real files of 16 bits have one scale, that of "train" where it is given; generated ones have their own.

    Args:
        cache: the folder for a file of decoded images, when memory is short for them.

    Returns:
        dict of name → dict of folder, slices (DataFrame), images (N, H, W, 1) uint8 and brain_boxes (N, 4) int.

    Raises:
        UserError: the folders do not go together, or there is too little in one of them.
    """
    folders = {"real": real, "generated": generated} | ({"train": train} if train else {})
    loaded, white = {}, None
    for name in sorted(folders, key=("train", "real", "generated").index):
        generated = name == "generated"
        loaded[name] = load_folder(folders[name], generated, cache, None if generated else white)
        own = loaded[name].pop("white")
        white = white or own
    loaded = {name: loaded[name] for name in folders}
    frames = {name: part["images"].shape[1:3] for name, part in loaded.items()}
    if len(set(frames.values())) > 1:
        sizes = ", ".join(f"{width}x{height} in {folders[name]}" for name, (height, width) in frames.items())
        raise UserError(f"the folders hold images of different sizes ({sizes}): make them the same")
    people = {name: set(part["slices"]["subject"]) for name, part in loaded.items()}
    for name in people.keys() - {"generated"}:
        if len(people[name]) < 2:
            raise UserError(f"{folders[name]} holds fewer than two people: nothing can be measured")
    for name, part in loaded.items():  # and their ids, whoever they are taken for
        people[name] = people[name].union(*part["slices"]["path"].map(ids_of))
    shared = people["real"] & people["train"] if train else ()
    if shared:
        raise UserError(
            f"{real} and {train} share {counted(len(shared), 'person')}, such as {min(shared)}: "
            "nothing unseen would be left to compare with"
        )
    return loaded


def load_folder(folder, generated=False, cache=None, white=None):
    """The images of a folder with their labels and positions; those of predict.py are in its samples.csv."""
    slices = find_slices(folder, say_whose=not generated)
    table = Path(folder) / "samples.csv"
    if generated and table.is_file():
        told = read_search(table)
        slices = slices[slices["path"] != "sheet.png"].reset_index(drop=True)  # predict.py's contact sheet
        if not {"file", "label", "position"} <= set(told.columns) or not set(slices["path"]) <= set(told["file"]):
            raise UserError(f"{table} does not give the label and position of every image in {folder}")
        told = told.drop_duplicates("file").set_index("file").loc[slices["path"]]
        slices = slices.assign(
            label=told["label"].to_numpy(),
            subject=slices["path"],
            position=pd.to_numeric(told["position"], errors="coerce").fillna(-1).to_numpy(int),
        )
    loaded = load_images(folder, slices["path"].tolist(), cache_folder=cache, white=white)
    return {
        "folder": folder,
        "slices": slices[loaded.usable].reset_index(drop=True),
        "images": loaded.images,
        "brain_boxes": loaded.brain_boxes,
        "white": loaded.white,
    }


def folder_sets(loaded, seed, num_samples, notes):
    """The Sets of what ``load_folders`` read; the originals take the place of reconstructions.

    Args:
        seed: int from 0, of who stands for whom and of the planted copies.
        num_samples: how many images copies are searched for in.
        notes: list of str, to which is added what a reader must know.

    Raises:
        UserError: there are too few generated images.
    """
    images = image_sets(loaded, notes)
    candidates, training = images["generated"], images.get("train")
    count = len(candidates.images)
    reference = images["real"].take(people_that_fit(images["real"], min(SET_SLICES, count), seed))
    tell_who_is_left_out(images["real"].person, reference.person, count, notes)
    if len(reference.images) > count:
        raise UserError(f"{loaded['generated']['folder']} holds too few images ({count}) to stand for two people")
    if training is None:
        notes.append("no --train: components are fitted on the real people, and there are no null bands and no audit")
        training = drawn = planted = reference.take(slice(0, 0))
        fitted = reference
    else:
        few = training.take(for_nulls(training.person))
        fitted, drawn = (few.take(half) for half in halve(few.person, few.label, seed))
        reference = reference.take(no_more_than_the_pool(reference, drawn))
        planted = softened_copies(training, seed)
    rows = match(reference, candidates, random_generator(seed, "matching"))
    everyone = as_samples(candidates, candidates.images)
    samples = everyone.take(rows)
    samples.label, samples.position = reference.label, reference.position
    return Sets(
        reference=reference,
        originals=reference,
        fitted=fitted,
        pool=drawn,
        pool_originals=drawn,
        samples=samples,
        search=training,
        planted=planted,
        labels=labels_of(loaded),
        all_samples=everyone.take(even_draw(everyone.label, max(num_samples, len(rows)), seed)),
    )


def tell_who_is_left_out(people, chosen, count, notes):
    """Add to the notes that fewer people are compared than there are, for so few images, or for SET_SLICES.

    Args:
        people, chosen: (N,) str, whose each real slice is: of all, and of those compared.
        count: int, of the generated images.
    """
    total, kept = len(np.unique(people)), len(np.unique(chosen))
    if kept < total:
        limit = f"{count} images stand for no more" if count < SET_SLICES else f"{SET_SLICES} slices are enough"
        notes.append(f"{kept} of {total} real people are compared: {limit}")


def people_that_fit(images, limit, seed):
    """(N,) bool: the slices of whole people, no more than ``limit`` where two people allow it.

    People are taken at random, each label as often as it comes among all people. Who does not fit is passed over.
    """
    people, first, counts = np.unique(images.person, return_index=True, return_counts=True)
    random = random_generator(seed, "people of the reference")
    turn = np.empty(len(people))  # the share of the label's people who come before, and half of oneself
    for label in np.unique(images.label[first]):
        same = random.permutation(np.flatnonzero(images.label[first] == label))
        turn[same] = (np.arange(len(same)) + 0.5) / len(same)
    chosen, total = [], 0
    for one in np.argsort(turn, kind="stable"):
        if len(chosen) < 2 or total + counts[one] <= limit:
            chosen.append(one)
            total += counts[one]
    return np.isin(images.person, people[chosen])


def even_draw(label, count, seed):
    """The rows (M,) int, in order, of at most ``count`` images, as many of each label (N,) as there are of it."""
    random = random_generator(seed, "images that copies are searched for")
    turn = np.empty(len(label), int)  # how many of the same label come before
    for one in np.unique(label):
        same = random.permutation(np.flatnonzero(label == one))
        turn[same] = np.arange(len(same))
    return np.sort(np.argsort(turn, kind="stable")[:count])


def labels_of(loaded):
    """The labels of the real slices, in the order of their ids."""
    return sorted(set(loaded["real"]["slices"]["label"]))


def image_sets(loaded, notes):
    """The folders as ImageSets by name, in the crop box; labels or positions that one side lacks are not used."""
    real, generated = loaded["real"]["slices"], loaded["generated"]["slices"]
    labels = labels_of(loaded)
    label_known = set(generated["label"]) <= set(labels)
    position_known = set(generated["position"]) <= set(real["position"]) and (
        generated["position"].nunique() > 1 or real["position"].nunique() == 1
    )
    for known, what in ((label_known, "labels"), (position_known, "positions")):
        if not known:
            why = "unknown, or one for all of them" if what == "positions" else "unknown"
            notes.append(f"the {what} of the generated images are {why}: they are not used on any side")
    people = loaded.get("train", loaded["real"])
    box = brain_crop(people["brain_boxes"], people["images"].shape[1:3], 8)

    def image_set(slices, images):
        label = slices["label"].map({label: i + 1 for i, label in enumerate(labels)}).fillna(0).to_numpy(int)
        position = slices["position"].to_numpy(int)
        return ImageSet(
            crop(images, box)[..., 0],
            label if label_known else np.zeros_like(label),
            position if position_known else np.zeros_like(position),
            slices["subject"].to_numpy().astype(str),
        )

    return {name: image_set(part["slices"], part["images"]) for name, part in loaded.items()}


def softened_copies(pool, seed):
    """Copies that a search must find: training slices, blurred as a decoder would, shifted, and with another gain."""
    random = random_generator(seed, "planted copies")
    rows = random.choice(len(pool.images), min(PLANTED, len(pool.images)), replace=False)
    blur = pool.images.shape[1] / 160  # pixels
    softened = ndimage.gaussian_filter(pool.images[rows], (0, blur, blur))
    planted = replace_images(pool.take(rows), shift_and_gain(softened, random))
    planted.person = np.full(len(rows), "planted copy")
    return planted


def match(reference, candidates, random):
    """A row of the candidates for each slice of the reference: same label and position while they last."""
    free = np.ones(len(candidates.images), bool)
    order = random.permutation(len(free))
    rows = []
    for label, position in zip(reference.label, reference.position, strict=True):
        same_position = candidates.position[order] == position
        fits = [
            free[order] & same_position & (candidates.label[order] == label),
            free[order] & same_position,
            free[order],
        ]
        row = order[next(fit for fit in fits if fit.any()).argmax()]
        free[row] = False
        rows.append(row)
    return np.array(rows)
