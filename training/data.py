"""The slices of a run: found, split, checked, loaded, and fed to training."""

from pathlib import Path

import numpy as np

import dataset
from slices.contents import check_contents
from slices.frame import Box, brain_crop, outside, whole_frame
from slices.images import digests_of, load_images
from slices.index import condition_ids, find_slices, read_slices
from slices.memory import check_cache
from slices.names import are_image_ids
from slices.neighbours import slices_below
from slices.splits import split_by_subject, warn_of_leakage
from training.folder import white_of
from training.options import share_augmented
from utils import UserError, evenly, load_json

SMALLEST_BOX = 11  # pixels: the window of SSIM
VALIDATION_SLICES = 256  # looked at during training; the closing measurement uses all of them


def prepare_data(config, known=None, beside=None):
    """Find, split, check and load the slices; complete the config with what was found.

    Args:
        known: folder of the run whose slices.csv and config hold all that already.
        beside: where decoded slices lie unasked, when memory is short for them.

    Returns:
        slices: DataFrame (path, subject, scan, slice, position, label, split) of every usable slice.
        parts: for train and validation, a dict of images uint8 (N, H, W, 1), their rows of slices, and
            columns, the conditions of the prior (label and position, (N,) int32).

    Raises:
        UserError: no person is left in a split, there is nothing to learn from, or the slices are not those that the
            run was trained on.
    """
    if config["data"] is None:
        config["data"] = make_demo(config["demo_people"], config["image_size"])
    check_cache(config["cache"])
    manifest = Path(config["data"]) / "manifest.json"
    config["simulated"] = manifest.is_file() and bool(load_json(manifest).get("simulated"))
    slices = read_slices(Path(known)) if known else find_people(config)
    slices, used_rows, loaded = load_used(config, slices, known, beside)
    parts = cut_parts(config["data"], used_rows, loaded)
    if not known:
        check_contents(config["data"], used_rows, loaded)
        warn_of_leakage(used_rows, loaded, *digests_of_test(config, slices, loaded))
        config.update(
            describe_data(config, slices, parts["train"]),
            data_fingerprint=loaded.fingerprint,
            white_of_16_bits=loaded.white,
        )
    elif config["data_fingerprint"] != loaded.fingerprint:
        raise UserError(
            f"the slices in {config['data']} are not those that {known} was trained on: put them back, or "
            "start a new run"
        )
    for part in parts.values():
        part["columns"] = condition_ids(part["slices"], config["labels"])
    say_cut_off(outside(loaded.brain_boxes, Box(*config["crop_box"])))
    return slices, parts


def say_cut_off(outside_box):
    """Tell how many slices, (N,) bool, do not fit into the crop box."""
    if outside_box.any():
        print(
            f"{outside_box.sum()} of {len(outside_box)} slices have brain outside the crop box, which is cut off "
            "(--no-crop keeps it)"
        )


def make_demo(people, image_size):
    """Make the demo cohort under data/, unless it is there already; returns its folder as a string."""
    from slices.cohort import demo_folder, make_cohort

    print("no --data: the demo cohort; its people are simulated, and nothing about disease follows from them")
    size = tuple(image_size or (240, 256))
    return str(make_cohort(demo_folder(people, size), people, 0, size))


def find_people(config):
    """The index of the slices, split by person."""
    slices = find_slices(config["data"], config["subject_pattern"], config["metadata"])
    if config["metadata"] is None and not config["simulated"] and are_image_ids(slices["subject"]):
        print("people = image ids; repeat visits of one person may straddle splits (--metadata groups them)")
    return split_by_subject(slices, config["seed"], allow_overlap=config["allow_overlap"])


def load_used(config, slices, known=None, beside=None):
    """Load what training uses; and where that is not all there is, again without what cannot be used.

    So whoever reads slices.csv picks the same.

    Args:
        known: whether the config says which value of 16-bit files is white; the training slices tell it otherwise.
        beside: as in ``prepare_data``.

    Returns:
        the index without the unusable slices, its rows that are used (train, then validation), and their LoadedImages.
    """

    def picked(slices):
        splits = slices["split"].to_numpy()
        rows = [evenly(np.flatnonzero(splits == split), config["slice_limit"]) for split in ("train", "validation")]
        return slices.iloc[np.concatenate(rows)]

    while True:
        rows = picked(slices)
        loaded = load_images(
            config["data"],
            rows["path"].tolist(),
            config["image_size"],
            config["cache"],
            white=white_of(config) if known else None,
            white_from=rows["split"] == "train",
            beside=beside,
        )
        slices, rows = slices.drop(index=rows.index[~loaded.usable]), rows[loaded.usable]
        if picked(slices).index.equals(rows.index):  # always, without a limit
            return slices, rows, loaded


def digests_of_test(config, slices, loaded):
    """The test slices whose pixels are compared with those of training, and their digests.

    Args:
        loaded: the LoadedImages of the others, in whose frame they are compared.
    """
    test = slices.iloc[evenly(np.flatnonzero(slices["split"] == "test"), config["slice_limit"])]
    return test, digests_of(config["data"], test["path"].tolist(), loaded.images.shape[1:3], loaded.white)


def cut_parts(data, used_rows, loaded):
    """The loaded images by split: dicts of images (N, H, W, 1) uint8, slices and brain_boxes (N, 4) int."""
    parts, start = {}, 0
    for split in ("train", "validation"):
        rows = used_rows[used_rows["split"] == split]
        if rows.empty:
            raise UserError(f"no {split} person is left in {data}: at least one label needs two people")
        parts[split] = {
            "images": loaded.images[start : start + len(rows)],
            "slices": rows,
            "brain_boxes": loaded.brain_boxes[start : start + len(rows)],
        }
        start += len(rows)
    return parts


def describe_data(config, slices, training):
    """What the models need to know of the data: frame, crop box, code grid, labels, positions."""
    frame, downsample = training["images"].shape[1:3], config["downsample"]
    side = downsample * config["prior_patch"]  # pixels of a cell of the prior
    box = brain_crop(training["brain_boxes"], frame, side) if config["crop"] else whole_frame(frame, side)
    if min(*box[2:], *frame) < SMALLEST_BOX:
        raise UserError(
            f"the slices in {config['data']} have {frame[1]}x{frame[0]} pixels, the crop box "
            f"{box.width}x{box.height}: nothing below {SMALLEST_BOX}x{SMALLEST_BOX} can be measured; choose a larger "
            "--image-size"
        )
    return {
        "frame": [int(side) for side in frame],
        "crop_box": [int(side) for side in box],
        "code_grid": [box.height // downsample, box.width // downsample],
        "labels": sorted(set(slices["label"][slices["split"] == "train"])),
        "num_positions": int(slices["position"].max()) + 1,
    }


# ---- what a stage takes -------------------------------------------------------------------------


def stage_batches(team, config, train, box, purpose):
    """first step (counted from 0) -> the batches of a stage from there on, each replica's part to each.

    Args:
        train: the training part of ``prepare_data``.
        purpose: "vqvae" or "prior". The prior's batches have the slices below, too, as many as it is told.
    """
    others, gaps = slices_below(train["slices"], config["prior_slices_below"] if purpose == "prior" else 0)
    columns = train["columns"] | {"there": others >= 0, "gaps": gaps}

    def pipeline(first, parts, own):
        return dataset.training_batches(
            train["images"],
            columns,
            config["batch_size"],
            config["seed"],
            box,
            first,
            share_augmented(config, purpose),
            config["flip"],
            purpose,
            parts,
            own,
            whole_pixels=purpose == "vqvae",
            others=others,
        )  # who learns to draw must not learn from resampled slices

    return fed(team, pipeline)


def refining_batches(team, config, train, box, drawn):
    """first step (counted from 0) -> the batches of the refiner's stage: slices as they are, and drawn images.

    Args:
        train: the training part of ``prepare_data``.
        drawn: (N, box height, box width, 1) uint8, decoded images of drawn codes.
    """

    def pipeline(first, parts, own):
        def batches(purpose, images, box):
            return dataset.training_batches(
                images, {}, config["batch_size"], config["seed"], box, first, 0.0, False, purpose, parts, own
            )

        import tensorflow as tf

        sides = (
            batches("refined slices", train["images"], box),
            batches("refined", drawn, whole_frame(drawn.shape[1:3], 1)),
        )
        return tf.data.Dataset.zip(*sides).map(lambda real, drawn: {"image": real["image"], "drawn": drawn["image"]})

    return fed(team, pipeline)


def fed(team, pipeline):
    """first step (counted from 0) -> its batches and those that follow, each replica's part to each.

    Args:
        pipeline: (first step, number of parts of a batch, the numbers of this process's parts) -> tf.data.Dataset.
    """

    def batches_from(first):
        def own_pipeline(context):
            parts = team.strategy.num_replicas_in_sync
            here = parts // context.num_input_pipelines  # replicas of this process
            return pipeline(
                first, parts, range(context.input_pipeline_id * here, (context.input_pipeline_id + 1) * here)
            )

        return team.strategy.distribute_datasets_from_function(own_pipeline)

    return batches_from


def thinned(part, contexts=0):
    """At most VALIDATION_SLICES of a part, evenly spaced, each with as many of the slices below as are wanted.

    Returns:
        dict of images (N, H, W, 1) and others (N, contexts, H, W, 1) uint8, slices, and columns, with which of the
        others are there and how far below.
    """
    rows = evenly(np.arange(len(part["images"])), VALIDATION_SLICES)
    others, gaps = (each[rows] for each in slices_below(part["slices"], contexts))
    columns = {name: column[rows] for name, column in part["columns"].items()}
    return {
        "images": part["images"][rows],
        "others": part["images"][others],
        "slices": part["slices"].iloc[rows],
        "columns": columns | {"there": others >= 0, "gaps": gaps},
    }
