"""A person of whom some slices are given: the others are drawn, told those below, and chosen by the given one above."""

import math
from pathlib import Path

import numpy as np

from sampling.draws import check_block, look_up, names_in_run, say_outside, shard_of, wanted_conditions
from sampling.people import People, check_people, draw_slice, is_told, join_people, person_row
from slices.frame import outside
from slices.index import find_slices
from utils import UserError, check_folder, counted, progress, random_generator

CANDIDATES = 8  # for the slices between two given ones

# ---- which slices are given ---------------------------------------------------------------------


def read_given(run, paths, positions=None, label=None):
    """The given slices of one person, from files.

    Where they are in the head is said by ``positions``; or by the run's slices.csv, when they are in it; or by their
    rank, when their whole stack lies in the folder; or by their numbers, when these reach from end to end as far apart
    as the run's.

    Args:
        run: Run.
        paths: a list of one folder with slices of one person, or of files in one folder.
        positions: list of int from 0, one for each file; for a folder in the order of the numbers in the names.
        label: a label of the run or "none" (default: what slices.csv says).

    Returns:
        dict of position → image (H, W) uint8 in the run's frame; and the label.

    Raises:
        UserError: they are no slices of one person, or nothing tells their positions.
    """
    root, names = folder_and_names([Path(path) for path in paths])
    scan, rows = rows_of_one_scan(run, root, names)
    files = [scan["path"].iloc[row] for row in rows]
    known = look_up(run, [root / file for file in files], label, position=0)  # where they are is found out here
    places, how = place(run, root, scan, rows, positions)
    loaded = run.load(root, files)
    if len(loaded.images) < len(files):
        raise UserError(f"{len(files) - len(loaded.images)} of the {len(files)} given slices cannot be used")
    say_outside(outside(loaded.brain_boxes, run.box))
    check_positions(run, places)
    print(
        f"{counted(len(files), 'slice')} given, at positions {spelled(places)} of 0 to {run.num_positions - 1} ({how})"
    )
    return dict(zip(places, loaded.images[..., 0], strict=True)), known["label"].iloc[0]


def folder_and_names(paths):
    """The folder in which given slices lie, and their names in it; None for all of them."""
    if len(paths) == 1 and paths[0].is_dir():
        return paths[0], None
    missing = next((path for path in paths if not path.is_file()), None)
    if missing:
        raise UserError(f"--complete {missing} is neither a folder of slices nor a file")
    if len({path.parent.resolve() for path in paths}) > 1:
        raise UserError("--complete takes the files of one person, in one folder: these lie in several")
    return paths[0].parent, [path.name for path in paths]


def rows_of_one_scan(run, root, names):
    """The index of a scan in the order of the head, and the rows of it that are given: all, or those of these names."""
    check_folder(root)
    slices = find_slices(root, run.config["subject_pattern"], run.config["metadata"], say_whose=False)
    given = slices if names is None else slices.set_index("path", drop=False).reindex(names)
    if given["path"].isna().any():
        no_slice = next(name for name, path in zip(names, given["path"], strict=True) if path != name)
        raise UserError(f"--complete {root / no_slice} is no PNG or JPEG slice")
    scans = given.drop_duplicates("scan")
    if len(scans) > 1:
        first, second = scans["path"].iloc[:2]
        raise UserError(
            f"--complete {root} is of {len(scans)} people or scans, such as those of {first} and {second}: give slices "
            "of one, named <id>_<number>.png"
        )
    scan = slices[slices["scan"] == scans["scan"].iloc[0]].reset_index(drop=True)
    row_of = {path: row for row, path in enumerate(scan["path"])}
    return scan, [row_of[path] for path in given["path"]]


def place(run, root, scan, rows, positions=None):
    """The positions of the given rows of a scan, list of int, and in words what says so."""
    wanted = run.num_positions
    if positions is not None:
        if len(positions) != len(rows):
            raise UserError(
                f"--positions has {counted(len(positions), 'number')} for {counted(len(rows), 'slice')}: give "
                "one for each"
            )
        return list(positions), "--positions"
    names = names_in_run(run, [root / path for path in scan["path"].iloc[rows]])
    known = run.slices.set_index("path")["position"].reindex(names)
    if known.notna().all():
        return known.astype(int).tolist(), "the run's slices.csv"
    if len(scan) >= wanted:
        return [row * wanted // len(scan) for row in rows], "their rank in the whole stack"
    numbers, step = scan["slice"].to_numpy(), number_step(run.slices)
    above, odd = np.divmod(numbers - numbers[0], step)
    if above[-1] != wanted - 1 or odd.any():
        raise UserError(
            f"the numbers of the given slices, {numbers[0]} to {numbers[-1]}, do not reach from end to end in steps of "
            f"{step}, as the run's do, and so do not tell where they are: say it with --positions, a number from 0 "
            f"(lowest) to {wanted - 1} for each"
        )
    return [int(above[row]) for row in rows], "their numbers"


def number_step(slices):
    """How far the numbers in the names of neighbouring slices of a scan lie apart, mostly."""
    steps = slices.sort_values(["scan", "slice"]).groupby("scan")["slice"].diff().dropna()
    return max(int(steps.mode().iloc[0]), 1) if len(steps) else 1


def check_positions(run, positions):
    """Raise a UserError unless positions of given slices are some, but not all, of the run's, and each once."""
    count, wrong = run.num_positions, [one for one in positions if not 0 <= one < run.num_positions]
    twice = sorted({one for one in positions if list(positions).count(one) > 1})
    if not len(positions):
        raise UserError("no slice is given: there is nothing to complete")
    if len(positions) > count:
        raise UserError(f"{len(positions)} slices are given, and the run knows {count} positions")
    if wrong:
        raise UserError(f"the run has no position {wrong[0]}: it has 0 to {count - 1}")
    if twice:
        raise UserError(f"two slices are given for position {twice[0]}: give one")
    if len(positions) == count:
        raise UserError(f"a slice is given for each of the {count} positions: there is nothing to draw")


def spelled(positions):
    """Positions in their order, as a text: "0 5 10"."""
    return " ".join(map(str, sorted(positions)))


# ---- drawing the others -------------------------------------------------------------------------


def complete_person(
    run, known, num_people=8, label=None, seed=0, shard=(1, 1), candidates=CANDIDATES, block=None, **draw
):
    """What ``Run.complete_person`` gives; see there."""
    return join_people(completed_blocks(run, known, num_people, label, seed, shard, candidates, block, **draw))


def completed_blocks(
    run, known, num_people=8, label=None, seed=0, shard=(1, 1), candidates=CANDIDATES, block=None, **draw
):
    """``complete_person`` as an iterable of People, block by block; wrong arguments are refused at once."""
    check_people(run, num_people, seed, **draw)
    check_block(block)
    check_positions(run, list(known))
    if not 1 <= candidates <= 1000:
        raise UserError(f"candidates must be a whole number from 1 to 1000, not {candidates}")
    if not is_told(run):
        raise UserError(f"the prior of {run.name} was not told other slices of a person: it cannot complete one")
    label_id = wanted_conditions(run.labels, run.num_positions, label)[0] or 0
    known = dict(sorted(known.items()))
    codes = dict(zip(known, run.encode(np.stack(list(known.values()))), strict=True))
    first, end = shard_of(num_people, *shard)
    size = block or run.block
    starts = progress(range(first - first % size, end, size), desc="completing", unit=" blocks", leave=None)

    def people_from(start):
        numbers = range(start, min(end, start + size))
        wanted = slice(max(first - start, 0), None)
        drawn, bits = complete_stacks(run, codes, label_id, numbers, seed, candidates, size, **draw)
        images = np.stack([run.decode_person(person, known) for person in drawn[wanted]])  # (P, S, H, W)
        rows = [
            person_row(run, i, seed, label_id, bits[i - start].sum())
            | {"person": f"completed{i:05d}", "given": spelled(known), "block": size}
            for i in numbers[wanted]
        ]
        return People(images, drawn[wanted], bits[wanted], np.full(len(rows), label_id, np.int32), rows)

    return map(people_from, starts)


def complete_stacks(run, known, label, numbers, seed, candidates, block, **draw):
    """The stacks of people who have some slices in common, from the lowest position upwards.

    The slices between two given ones are drawn as those of a person are, ``candidates`` times, and one of these is
    chosen in proportion to the likelihood of the given slice above, told what was drawn below it (sampling importance
    resampling). The more candidates, the nearer is that to a draw that knows the slice above; a single one knows
    nothing of it. Below the lowest given slice it is the same; above the highest there is nothing to choose by.

    Args:
        run: Run.
        known: dict of position → codes (h, w), at one position or more.
        label: id, 0 for none.
        numbers: range of the people; person i depends on the seed and on i alone.
        candidates: int from 1.
        block: how many slices are drawn together.
        draw: temperature, top_k, top_p, guidance: as in ``Run.sample``; choices know none.

    Returns:
        codes (P, S, h, w) int32 and the log-likelihood of each slice in bits, (P, S) float.
    """
    people, bits, shape = len(numbers), [], run.prior.uniforms_shape
    below = []  # codes (P, h, w) of every position so far
    for missing, given in stretches(known, run.num_positions):
        count = candidates if missing and given is not None else 1
        branches = [np.repeat(codes, count, axis=0) for codes in below]  # (P count, h, w)
        gained = []  # (P count,), in bits
        for position in (*missing, *([] if given is None else [given])):
            uniforms = np.stack(
                [
                    random_generator(seed, "completed people", i, position, candidate).random(shape, np.float32)
                    for i in numbers
                    for candidate in range(count)
                ]
            )
            codes, log_likelihood = draw_slices(
                run.prior, branches, label, position, uniforms, block, known.get(position), **draw
            )
            branches.append(codes)
            gained.append(log_likelihood / math.log(2))
        chosen = np.arange(people) * count
        if count > 1:
            uniforms = np.array([random_generator(seed, "chosen candidates", i, given).random() for i in numbers])
            chosen += choose(math.log(2) * gained[-1].reshape(people, count), uniforms)
        below = [codes[chosen] for codes in branches]
        bits += [one[chosen] for one in gained]
    return np.stack(below, axis=1), np.stack(bits, axis=1)


def stretches(known, num_positions):
    """The missing positions, a list of ranges, each with the given position that is above it; None above the last."""
    starts = [0, *(position + 1 for position in sorted(known))]
    ends = [*sorted(known), num_positions]
    pairs = [(range(*pair), pair[1] if pair[1] < num_positions else None) for pair in zip(starts, ends, strict=True)]
    return [(missing, given) for missing, given in pairs if missing or given is not None]


def draw_slices(prior, below, label, position, uniforms, block, given=None, **draw):
    """``draw_slice`` of any number of people, block by block; of a given slice its codes and their likelihood.

    Args:
        below: list of codes (N, h, w), the people's slices below.
        label: id, 0 for none.
        uniforms: (N, *uniforms_shape) float32 in [0, 1).
        block: how many are drawn together.
        given: codes (h, w), or None where they are drawn.

    Returns:
        codes (N, h, w) int32, natural log-likelihood (N,) float.
    """
    count, found = len(uniforms), []
    if given is not None:
        shape = (block, *given.shape)
        draw = draw | {"known": np.broadcast_to(given, shape), "mask": np.ones(shape, bool)}
    for start in range(0, count, block):
        rows = np.minimum(np.arange(start, start + block), count - 1)  # the last is repeated
        labels = np.full(block, label, np.int32)
        found.append(draw_slice(prior, [codes[rows] for codes in below], labels, position, uniforms[rows], **draw))
    return tuple(np.concatenate(parts)[:count] for parts in zip(*found, strict=True))


def choose(log_weights, uniforms):
    """One candidate of each person in proportion to its weight: (P, N) natural logs, (P,) in [0, 1) → (P,) int."""
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    cumulative = np.cumsum(weights, axis=1)
    return (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(axis=1)
