"""Whole people: the slices of one imaginary head, drawn one after the other from the lowest upwards.

Person i depends on the seed and on i alone, whatever the number of people.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sampling.draws import BLOCK, NONE, check_block, check_draw, own_numbers, shard_of, wanted_conditions
from slices.index import condition_ids
from slices.neighbours import NO_SLICE, ranks_told
from utils import UserError, progress, random_generator


@dataclass
class People:
    """P people of S slices each, the lowest first, that a run drew.

    Attributes:
        images: (P, S, H, W) uint8, in the full frame.
        codes: (P, S, h, w) int32.
        bits: (P, S) float, the log-likelihood of each slice under the model, in bits.
        label: (P,) int32, ids from 1, 0 for none.
        rows: list of dicts, what people.csv says of each.
    """

    images: np.ndarray
    codes: np.ndarray
    bits: np.ndarray
    label: np.ndarray
    rows: list

    @property
    def table(self):
        """people.csv as a DataFrame: person, index, seed, label, log_likelihood_bits, block."""
        return pd.DataFrame(self.rows).astype({"log_likelihood_bits": float})


def is_told(run):
    """Whether the prior of a Run is told other slices of a person, so that those of one drawn person can agree."""
    return run.prior.num_contexts > 0


def sample_people(run, num_people=8, label=None, seed=0, shard=(1, 1), block=None, **draw):
    """What ``Run.sample_people`` gives; see there."""
    return join_people(people_blocks(run, num_people, label, seed, shard, block, **draw))


def join_people(blocks):
    """An iterable of People as one."""
    blocks = list(blocks)
    return People(
        *(np.concatenate([getattr(block, name) for block in blocks]) for name in ("images", "codes", "bits", "label")),
        [row for block in blocks for row in block.rows],
    )


def people_blocks(run, num_people=8, label=None, seed=0, shard=(1, 1), block=None, **draw):
    """``sample_people`` as an iterable of People, block by block; wrong arguments are refused at once."""
    check_people(run, num_people, seed, **draw)
    check_block(block)
    labels = choose_labels(run, num_people, label, seed)
    first, end = shard_of(num_people, *shard)

    def blocks():
        size = block or run.block
        for start in progress(
            range(first - first % size, end, size), desc="drawing people", unit=" blocks", leave=None
        ):
            numbers = range(max(first, start), min(end, start + size))
            yield draw_people(run, labels, numbers, seed, block=size, **draw)

    return blocks()


def check_people(run, num_people, seed, **draw):
    """Raise a UserError where a number that people are asked for with is none or out of its range."""
    try:
        check_draw(num_people, seed, **draw)
    except UserError as error:
        raise UserError(str(error).replace("num_images", "num_people")) from None
    if run.num_positions < 2:
        raise UserError(f"the run {run.folder} was trained on one slice of each person: it draws no stacks")


def choose_labels(run, num_people, label=None, seed=0):
    """The label of every person, ids from 1 with 0 for none: (P,) int32.

    Without one each is that of a training person, drawn by the seed and the person's number alone.

    Raises:
        UserError: the run does not know the label.
    """
    label_id, _ = wanted_conditions(run.labels, run.num_positions, label)
    if label_id is not None:
        return np.full(num_people, label_id, np.int32)
    training = run.slices[run.slices["split"] == "train"].drop_duplicates("subject").sort_values("subject")
    known = condition_ids(training, run.labels)["label"]
    drawn = [int(random_generator(seed, "people labels", i).integers(len(known))) for i in range(num_people)]
    return known[drawn]


def draw_people(run, labels, numbers, seed, attempt=0, block=BLOCK, **draw):
    """The people of some numbers of one block, as People; the whole block is drawn, each in its own slot.

    Args:
        labels: (P,) int32 ids of all people.
        numbers: range of the wanted ones, within one block.
        seed: of the random numbers; person i depends on it and on i alone.
        attempt: int from 0; each gives the same people other random numbers.
        block: how many people are drawn together.
        draw: temperature, top_k, top_p, guidance: as in ``Run.sample``.
    """
    start = numbers.start - numbers.start % block
    slots = slice(numbers.start - start, numbers.stop - start)
    codes, bits = draw_block(run, labels[start : start + block], start, seed, attempt, block, scored=slots, **draw)
    images = np.stack([run.decode_person(person) for person in codes[slots]])  # (P, S, H, W)
    rows = [person_row(run, i, seed, labels[i], bits[i - start].sum()) | {"block": block} for i in numbers]
    return People(images, codes[slots], bits[slots], labels[numbers.start : numbers.stop], rows)


def draw_block(run, labels, start, seed, attempt=0, block=BLOCK, **draw):
    """A whole block of people whose first is number ``start``: codes (block, S, h, w) int32 and bits (block, S) float.

    Args:
        labels: (n,) int32 ids, ``block`` at most; the last is repeated for the slots that are left.
        seed, attempt, block, draw: as in ``draw_people``.
    """
    shape = (run.num_positions, *run.prior.uniforms_shape)
    purpose = "people codes" + (f", attempt {attempt}" if attempt else "")
    uniforms = own_numbers(range(start, start + block), shape, seed, purpose)  # (block, S, *uniforms_shape)
    return draw_stack(run, np.pad(labels, (0, block - len(labels)), mode="edge"), uniforms, **draw)


def draw_stack(run, labels, uniforms, **draw):
    """The slices of a block of people, position by position from the lowest upwards.

    Args:
        run: Run.
        labels: (B,) int32 ids.
        uniforms: (B, S, *uniforms_shape) float32 in [0, 1).
        draw: temperature, top_k, top_p, guidance: as in ``Run.sample``; scored: as in ``Prior.sample``.

    Returns:
        codes (B, S, h, w) int32 and the log-likelihood of each in bits, (B, S) float.
    """
    drawn, bits = [], []  # (B, h, w) and (B,) of every position so far
    for position in range(uniforms.shape[1]):
        codes, log_likelihood = draw_slice(run.prior, drawn, labels, position, uniforms[:, position], **draw)
        drawn.append(codes)
        bits.append(log_likelihood / math.log(2))
    return np.stack(drawn, axis=1), np.stack(bits, axis=1)


def draw_slice(prior, drawn, labels, position, uniforms, **draw):
    """The slices of a block of people at one position: codes (B, h, w) int32, natural log-likelihood (B,) float.

    Args:
        drawn: the people's code grids (B, h, w) at the positions 0 … position − 1, a list.
        uniforms: (B, *uniforms_shape) float32 in [0, 1).
    """
    positions = np.full(len(labels), position + 1, np.int32)
    codes, log_likelihood = prior.sample(uniforms, labels, positions, **draw, context=slices_told(prior, drawn))
    return np.asarray(codes), np.asarray(log_likelihood, float)


def slices_told(prior, drawn):
    """What a prior is told of the slices below, a list of codes (B, h, w) from the lowest: codes and gaps; or None."""
    if not drawn or not prior.num_contexts:
        return None
    ranks, nothing = ranks_told(len(drawn), prior.num_contexts), np.full_like(drawn[0], NO_SLICE)
    told = [nothing if rank == NO_SLICE else drawn[rank] for rank in ranks]
    gaps = [0 if rank == NO_SLICE else len(drawn) - rank for rank in ranks]
    return np.stack(told, axis=1), np.tile(np.int32(gaps), (len(nothing), 1))


def person_name(i):
    """What person i is called in names of files: it says that nobody was scanned."""
    return f"sampled{i:05d}"


def slice_names(person, count):
    """The files of a person's slices in the ADNI course layout, <id>_<slice>.png, the lowest first: a list."""
    width = len(str(count - 1))  # in the order of the head also where names are sorted as text
    return [f"{person}_{position:0{width}d}.png" for position in range(count)]


def person_row(run, i, seed, label, bits):
    """What people.csv says of person i; the label is an id."""
    return {
        "person": person_name(i),
        "index": i,
        "seed": seed,
        "label": run.labels[label - 1] if label else NONE,
        "log_likelihood_bits": f"{bits:.4f}",
    }
