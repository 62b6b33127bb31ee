"""Which label and position images are drawn under, and the codes that the prior draws for them.

Image i depends on the seed and on i alone, whatever the number of images.
"""

import datetime
import itertools
import math
import numbers
import os
from pathlib import Path
from unicodedata import normalize

import numpy as np

from slices.index import condition_ids
from utils import UserError, progress, random_generator

BLOCK = 32  # images per call of a model, always: floating-point sums differ with the shape of the batch
GPU_BLOCK = 512  # grids drawn together on a GPU, where launches are the cost and not arithmetic
LARGEST_BLOCK = 4096
NONE = "none"  # the model without a label, or without a position
PLAIN = {"temperature": 1.0, "top_k": None, "top_p": None, "guidance": 1.0}  # the model as it is; see Run.sample


def wanted_conditions(labels, num_positions, label=None, position=None):
    """The ids of a label and of a position: from 1, 0 for "none", None where none is given.

    Args:
        labels: the labels that the run knows.
        num_positions: how many positions it knows.
        label: one of them, "none", or None.
        position: 0 to num_positions - 1 as int or str, "none", or None.

    Raises:
        UserError: the run does not know it.
    """
    label_id = position_id = None
    if label is not None:
        label = next((name for name in labels if normalize("NFC", name) == normalize("NFC", str(label))), label)
        if label not in (*labels, NONE):
            raise UserError(f"unknown --label {label}: this run has {', '.join(labels)} and none")
        label_id = 0 if label == NONE else labels.index(label) + 1
    if position is not None:
        known = [str(i) for i in range(num_positions)]
        if str(position) not in (*known, NONE):
            raise UserError(f"unknown --position {position}: this run has 0 to {known[-1]} and none")
        position_id = 0 if position == NONE else int(position) + 1
    return label_id, position_id


def choose_conditions(run, num_images, label=None, position=None, seed=0):
    """The label and position of every image, as ids from 1 with 0 for none: two (N,) int32 arrays.

    What is not given is drawn, label and position together, from the training slices of ``run``, a Run.

    Raises:
        UserError: a label or position that the run does not know.
    """
    label_id, position_id = wanted_conditions(run.labels, run.num_positions, label, position)
    alike = [name for name in run.labels if name.casefold() == NONE]
    if label == NONE and alike:
        print(f"--label {NONE} is the model without a label; the label {alike[0]} is another")
    training = condition_ids(run.slices[run.slices["split"] == "train"], run.labels)
    draws = [int(random_generator(seed, "conditions", i).integers(len(training["label"]))) for i in range(num_images)]
    labels, positions = training["label"][draws], training["position"][draws]
    if label_id is not None:
        labels = np.full_like(labels, label_id)
    if position_id is not None:
        positions = np.full_like(positions, position_id)
    return labels, positions


def names_in_run(run, paths):
    """What the run's slices.csv calls the files at some paths, where it has them: a list of str."""
    root = run.data.resolve()
    return [Path(os.path.relpath(Path(path).resolve(), root)).as_posix() for path in paths]


def look_up(run, paths, label=None, position=None):
    """What is known of given slices: a DataFrame of label, position, subject, split, a row for each path.

    It is read from the run's slices.csv when the file is in it; ``label`` and ``position`` overrule that. Unknown
    are the label "none", the position -1, and "". What is not known is said.
    """
    label_id, position_id = wanted_conditions(run.labels, run.num_positions, label, position)
    names = names_in_run(run, paths)
    index = run.slices.set_index("path")[["label", "position", "subject", "split"]]
    known = index.reindex(names).reset_index(drop=True)
    known = known.fillna({"label": NONE, "position": -1, "subject": "", "split": ""}).astype({"position": int})
    if label_id is not None:
        known["label"] = run.labels[label_id - 1] if label_id else NONE
    if position_id is not None:
        known["position"] = position_id - 1
    for column, unknown, given in (
        ("label", ~known["label"].isin(run.labels), label),
        ("position", known["position"] < 0, position),
    ):
        if unknown.any() and given is None:
            print(
                f"the {column} of {unknown.sum()} of {len(known)} slices is not known: the model without it is used "
                f"(--{column} tells it)"
            )
    trained = known["split"] == "train"
    if trained.any():
        print(
            f"{trained.sum()} of {len(known)} slices are of people that the run was trained on: it knows them better "
            "than others"
        )
    return known


def say_outside(outside):
    """Tell how many images, (N,) bool, do not fit into the crop box."""
    if outside.any():
        print(f"{outside.sum()} of {len(outside)} images have brain outside the run's crop box; it is cut off")


def draw_held_out(run, count, seed=0):
    """``count`` slices of validation people, of as many people as there are, drawn by the seed.

    Returns:
        Their rows of the index, and the images (count, H, W, 1) uint8 in the run's frame.

    Raises:
        UserError: there are not so many, or the run's data is not there.
    """
    run.needs_data()
    slices = run.slices[run.slices["split"] == "validation"]
    shuffled = slices.sample(frac=1, random_state=random_generator(seed, "held-out slices"))
    turn = shuffled.groupby("subject").cumcount()  # 0 for the first slice of each person, 1 for the second …
    drawn = shuffled.iloc[turn.argsort(kind="stable")][:count]
    loaded = run.load(run.data, drawn["path"])
    if len(loaded.images) < count:
        raise UserError(
            f"the run has {len(loaded.images)} usable slices of validation people, not {count}: ask for fewer"
        )
    return drawn, loaded.images


def check_draw(num_images=1, seed=0, temperature=1.0, top_k=None, top_p=None, guidance=1.0):
    """Raise a UserError where a number that samples are asked for with is none or out of its range.

    Functions that take ``**draw`` call it first: a name that is none of these is a TypeError before any work.
    """
    for name, value, kind, least, most in (
        ("num_images", num_images, numbers.Integral, 1, 10**6),
        ("seed", seed, numbers.Integral, 0, 2**31 - 1),
        ("temperature", temperature, numbers.Real, 0.01, 100),
        ("top_k", top_k, numbers.Integral, 1, 10**9),
        ("top_p", top_p, numbers.Real, 0.001, 1),
        ("guidance", guidance, numbers.Real, 0, 20),
    ):
        optional = value is None and name.startswith("top")
        if not optional and not (isinstance(value, kind) and least <= value <= most):
            kind = "whole number" if kind is numbers.Integral else "number"
            raise UserError(f"{name} must be a {kind} from {least} to {most}, not {value!r}")


def usual_block(tf):
    """How many grids are drawn together unless told otherwise, by what there is to draw them on."""
    return GPU_BLOCK if tf.config.get_visible_devices("GPU") else BLOCK


def check_block(block):
    """Raise a UserError unless so many grids can be drawn together; None leaves it to the device (``Run.block``)."""
    if block is not None and not (isinstance(block, numbers.Integral) and 1 <= block <= LARGEST_BLOCK):
        raise UserError(f"block must be a whole number from 1 to {LARGEST_BLOCK}, not {block!r}")


def shard_of(count, part, parts):
    """The first image of part 1 … parts of ``count`` images, and the one after its last; parts differ by one at most.

    Raises:
        UserError: there are more parts than images, or there is no such part.
    """
    if not 1 <= part <= parts:
        raise UserError(f"a shard must be (I, N) with 1 <= I <= N, not {part, parts}")
    if parts > count:
        raise UserError(f"--shard {part}/{parts}: {count} images make {count} parts at most")
    return (part - 1) * count // parts, part * count // parts


def own_numbers(numbers, shape, seed, purpose, *more):
    """Uniform numbers in [0, 1), (N, *shape) float32: those of image i depend on the seed, the purpose, i and ``more``.

    Args:
        numbers: N ints, of the images.
    """
    return np.stack([random_generator(seed, purpose, i, *more).random(shape, np.float32) for i in numbers])


def draw_codes(prior, label, position, seed, purpose="codes", first=0, end=None, block=BLOCK, scored=True, **draw):
    """Draw code grids block by block.

    Blocks begin at multiples of ``block`` whatever ``first`` is, so that a grid always has the same slot, and the
    last one is padded. In blocks of another size sums can differ in their last bit, and so, seldom, can a code.

    Args:
        label, position: (N,) int ids, 0 for none.
        seed, purpose: of the random numbers; grid i depends on them and on i alone.
        first, end: the first grid that is wanted and the one after the last (default: all N).
        scored: whether their likelihood is wanted, too.
        draw: temperature, top_k, top_p, guidance: as in ``Run.sample``.

    Yields:
        The number of the block's first grid, codes (block, h, w) int32, and their log-likelihood in bits, (block,), of
        those that are not wanted NaN.
    """
    end = len(label) if end is None else end
    for start in progress(range(first - first % block, end, block), desc="sampling", unit=" blocks", leave=None):
        uniforms = own_numbers(range(start, start + block), prior.uniforms_shape, seed, purpose)
        conditions = [
            np.pad(ids[start : start + block], (0, block - len(ids[start : start + block])), mode="edge")
            for ids in (label, position)
        ]
        wanted = slice(max(first - start, 0), max(end - start, 0)) if scored else slice(0)
        codes, log_likelihood = prior.sample(uniforms, *conditions, scored=wanted, **draw)
        yield start, np.asarray(codes), np.asarray(log_likelihood, float) / math.log(2)


def sample_row(labels, file, i, seed, label, position, bits):
    """What samples.csv says of image i; label and position are ids."""
    return {
        "file": file,
        "index": i,
        "seed": seed,
        "label": labels[label - 1] if label else NONE,
        "position": position - 1 if position else NONE,
        "log_likelihood_bits": f"{bits:.4f}",
    }


def output_folder(out, run, name):
    """Where to write: ``out``, or a new folder of the run, in whose name {time} stands for now."""
    if out:
        return Path(out)
    name = name.format(time=f"{datetime.datetime.now():%Y%m%d-%H%M%S}")
    names = (f"{name}{f'-{i}' if i > 1 else ''}" for i in itertools.count(1))  # a second holds more than one call
    return next(path for path in map((run.folder / "samples").joinpath, names) if not path.exists())
