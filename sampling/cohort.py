"""A data set of sampled people in the layout of ADNI's course data, made in parts and gone on with after a stop."""

import csv
import shutil
import signal
from pathlib import Path

import numpy as np

from report.cohort_page import write_cohort_page
from sampling.draws import BLOCK, PLAIN, check_block, shard_of
from sampling.people import check_people, choose_labels, draw_people, is_told, person_name
from sampling.people_folder import SHEET, montage_sheet, say_whether_told, write_slices
from slices.frame import crop
from utils import (
    Interrupted,
    Terminated,
    UserError,
    counted,
    file_sha256,
    load_json,
    making_folder,
    progress,
    save_json,
    shell,
    sweep,
    unfinished_prefix,
    write_csv,
    writing,
)

TEST_EVERY = 5  # every fifth person is of test, whatever the label
ATTEMPTS = 10  # for a person whose slices are copies
SHOWN = 8  # people on the sheet
PARTS = ".parts"  # the folder of the finished parts' tables; a hidden one is no folder of slices


def write_cohort(run, out, num_people=400, seed=0, shard=(1, 1), reject_copies=False, block=None, **draw):
    """Write out/{train,test}/<label>/<id>_<slice>.png of sampled people in the training mix, with README.md and a card.

    The same call goes on after an interruption, on another device, too: people are drawn in the blocks that the data
    set was begun with. Parts of one data set go into one folder, in any order or at once; the last to finish writes
    what tells of all of them.

    Args:
        run: Run.
        out: a new folder, or one that the same call has begun.
        num_people: from 1, of all parts.
        seed, shard: as in ``Run.sample_people``.
        reject_copies: draw people anew who have a slice as near to a training slice as the audit's planted copies.
        block, draw: block, temperature, top_k, top_p, guidance: as in ``Run.sample``.

    Returns:
        The folder, a Path.

    Raises:
        UserError: as ``Run.sample_people``; ``out`` holds something else, or a data set of other arguments; or the
            run was not evaluated and copies are to be rejected.
    """
    out = Path(out)
    check_people(run, num_people, seed, **draw)
    check_block(block)
    first, end = shard_of(num_people, *shard)
    settings = {
        "run": run.name,
        "prior": file_sha256(run.folder / "prior.keras"),
        "num_people": num_people,
        "seed": seed,
        **PLAIN,
        **draw,
        "no_sharpen": run.sharpening is None,
        "reject_copies": reject_copies,
        "block": block,
    }
    begun = begin(out, settings)
    is_copy = copy_finder(run) if reject_copies else None
    labels = choose_labels(run, num_people, None, seed)
    settings["block"] = block = begun or block or run.block
    with writing(out), making_folder(out / PARTS):
        for folder in (out, out / PARTS, *out.glob("*/*")):
            sweep(folder)
        save_json(out / "cohort.json", settings | {"finished": False})
        write_missing(out, first, end, run, labels, seed, draw | {"block": block}, is_copy)
        rows = finished_rows(out)
        if len(rows) < num_people:
            print(f"{out}: {len(rows)} of {num_people} people are there; the other parts write what tells of all")
            return out
        finish(out, run, settings, rows)
    say_whether_told(run)
    print(f"{counted(num_people, 'person')} in {out}, of whom {out / 'README.md'} tells")
    print(f"next: {shell('python', 'dataset.py', 'check', '--data', out)}")
    return out


def begin(out, settings):
    """The block of the unfinished data set that a place holds, None where it is new.

    Raises:
        UserError: it holds anything else, or a data set of other settings; a block of None is any.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: choose a new folder")
    if not out.is_dir() or not any(out.iterdir()):
        return None
    earlier = load_json(out / "cohort.json") if (out / "cohort.json").is_file() else None
    if not isinstance(earlier, dict) or "finished" not in earlier:
        raise UserError(f"--out {out} holds something other than sampled people: choose a new folder")
    if earlier["finished"]:
        raise UserError(f"--out {out} holds a finished data set and is left alone: choose another folder")
    block = earlier.setdefault("block", BLOCK)  # older ones do not tell it
    settings = settings | {"block": settings["block"] or block}
    other = next((name for name, value in settings.items() if earlier.get(name) != value), None)
    if other:
        flag = "weights of the run" if other == "prior" else f"--{other.replace('_', '-')} {earlier.get(other)}"
        raise UserError(f"--out {out} was begun with other flags or weights ({flag}): give the same, or another --out")
    return block


def write_missing(out, first, end, run, labels, seed, draw, is_copy):
    """Write the people first … end − 1 who are not there yet, block by block.

    Args:
        draw: dict of block and of what ``Run.sample`` knows.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM.
    """
    done, block = {row["person"] for row in finished_rows(out)}, draw["block"]
    try:
        for start in progress(range(first - first % block, end, block), desc="drawing people", unit=" blocks"):
            numbers = range(max(first, start), min(end, start + block))
            if not done.issuperset(map(person_name, numbers)):
                write_part(out, numbers, run, labels, seed, draw, is_copy)
    except KeyboardInterrupt as stopped:
        number = signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT
        raise Interrupted(number, "stopped: the same command goes on from there") from None


# ---- a part -----------------------------------------------------------------------------------


def write_part(out, numbers, run, labels, seed, draw, is_copy):
    """Write the people of some numbers of one block, and then their rows: without rows nobody counts as written."""
    people, rejected = draw_accepted(numbers, run, labels, seed, draw, is_copy)
    for i, row, stack, count in zip(numbers, people.rows, people.images, rejected, strict=True):
        row |= {"split": split_of(i), "rejected": count}
        write_person(out / row["split"] / row["label"], row["person"], stack)
    write_csv(out / PARTS / f"{numbers.start:07d}-{numbers.stop:07d}.csv", people.rows)


def write_person(folder, person, stack):
    """Write a person's slices (S, H, W) uint8, each whole or not at all, for they are renamed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{unfinished_prefix()}{person}"  # hidden: what reads folders leaves it out
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        write_slices(unfinished, person, stack)
        for path in sorted(unfinished.iterdir()):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def split_of(i):
    """The split of person i: one in TEST_EVERY is of test."""
    return "test" if i % TEST_EVERY == TEST_EVERY - 1 else "train"


def finished_rows(out):
    """The rows of all people who are written, in their order: a list of dicts of str."""
    rows = {}
    for path in sorted((out / PARTS).glob("*.csv")):
        with open(path, newline="", encoding="utf-8") as file:
            rows |= {row["person"]: row for row in csv.DictReader(file)}
    return [rows[person] for person in sorted(rows)]


# ---- copies -----------------------------------------------------------------------------------


def draw_accepted(numbers, run, labels, seed, draw, is_copy=None):
    """The People of some numbers of one block, and how many drawn in the place of each were rejected, a list of int.

    Who is rejected is drawn anew from other random numbers, so that a person still depends on the seed and the number
    alone, and on whom the run was trained on.

    Args:
        is_copy: function of images (N, H, W) uint8 to (N,) bool, or None where nobody is rejected. It is given images
            that are not sharpened: the audit's threshold is of such.

    Raises:
        UserError: somebody was a copy ATTEMPTS times.
    """
    people, rejected = draw_people(run, labels, numbers, seed, **draw), np.zeros(len(numbers), int)
    pending = np.arange(0 if is_copy is None else len(numbers))
    for attempt in range(ATTEMPTS):
        if attempt:
            replace_people(people, pending, draw_people(run, labels, numbers, seed, attempt, **draw))
        if len(pending):
            pending = pending[is_copy_of(run, people.codes[pending], is_copy)]
        if not len(pending):
            return people, rejected.tolist()
        rejected[pending] += 1
    raise UserError(
        f"{person_name(numbers[pending[0]])} was a copy of a training slice {ATTEMPTS} times: the run copies too much "
        "for a data set without copies"
    )


def replace_people(people, places, others):
    """Put the people at some places, (n,) int, of ``others`` in the place of those of ``people``."""
    for name in ("images", "codes", "bits"):
        getattr(people, name)[places] = getattr(others, name)[places]
    for place in places:
        people.rows[place] = others.rows[place]


def is_copy_of(run, stacks, is_copy):
    """(P,) bool: whether any slice of each stack of codes (P, S, h, w) is decoded to a copy."""
    images = np.concatenate([run.decode(codes) for codes in stacks])  # (P S, H, W)
    return is_copy(images).reshape(stacks.shape[:2]).any(axis=1)


def copy_finder(run):
    """A function of images (N, H, W) uint8 that tells which are as near to a training slice as planted copies: (N,).

    The threshold is that of the run's last evaluation, below which its search found 95 % of the copies planted.

    Raises:
        UserError: the run was not evaluated, or its slices are not there.
    """
    from metrics.copies import CopySearch
    from metrics.measured import ImageSet, sample_names
    from metrics.parts import Cache, load_part

    run.needs_data()
    path = run.folder / "metrics.json"
    metrics = load_json(path) if path.is_file() else {}
    threshold = metrics.get("memorisation", {}).get("threshold")
    if threshold is None:
        evaluate = shell("python", "evaluate.py", "--run", run.folder)
        raise UserError(f"--reject-copies needs the threshold of the audit: {evaluate} measures it")
    part = load_part(run, Cache(run, metrics["seed"]), "train")
    search = CopySearch(part.searched_set(part.reconstructions))

    def is_copy(images):
        crops, none = crop(images[..., None], run.box)[..., 0], np.zeros(len(images), int)
        distance, _ = search.nearest(ImageSet(crops, none, none, sample_names(len(images))), "sampled people")
        return distance <= threshold

    return is_copy


# ---- what tells of all of them ----------------------------------------------------------------


def finish(out, run, settings, rows):
    """Write people.csv, the sheet, README.md and the model card; say that the data set is finished."""
    write_csv(out / "people.csv", rows)
    shown = [row for row in rows if row["split"] == "train"][:SHOWN]
    montage_sheet(
        out / f"{SHEET}.png",
        [read_stack(out, row, run.box) for row in shown],
        shown,
        f"people drawn by {run.name}: scans of nobody",
    )
    if (run.folder / "MODEL_CARD.md").is_file():
        shutil.copy2(run.folder / "MODEL_CARD.md", out)
    write_cohort_page(out, run, settings, rows, is_told(run))
    save_json(out / "cohort.json", settings | {"finished": True})


def read_stack(out, row, box):
    """The slices of a person who is written, in the crop box: (S, h, w, 1) uint8."""
    from PIL import Image

    paths = sorted((out / row["split"] / row["label"]).glob(f"{row['person']}_*.png"))
    return crop(np.stack([np.asarray(Image.open(path)) for path in paths])[..., None], box)
