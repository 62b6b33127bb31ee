"""Whole people as a folder each: slices, a volume, views from the front and the side; with their table and sheets."""

import numpy as np

from sampling.draws import output_folder
from sampling.people import is_told, people_blocks, slice_names
from sampling.people_completion import CANDIDATES, completed_blocks, read_given
from slices.frame import crop
from slices.images import save_nifti, save_png
from slices.sheets import image_sheet
from slices.views import coronal_views, sagittal_views, stacked
from utils import UserError, counted, new_folder, warn, write_csv

SHOWN = 8  # people on the sheets
COLUMNS = 10  # slices per row of the montages
SHEET = "contact_sheet"  # how a picture's name begins that is no slice: what reads folders leaves it out


def write_people(
    run,
    num_people=8,
    label=None,
    seed=0,
    shard=(1, 1),
    pixel_size=1.0,
    spacing=1.0,
    out=None,
    complete=None,
    positions=None,
    candidates=CANDIDATES,
    block=None,
    **draw,
):
    """Write what ``Run.sample_people`` makes of the same arguments into a new folder, with people.csv and two sheets.

    Each person has a folder: slices <id>_<slice>.png, <id>.nii.gz with the stack, and views of it.

    Args:
        run: Run.
        pixel_size, spacing: mm, of a pixel and from one slice to the next.
        out: a new folder (default: <run>/samples/people-<time>).
        complete: given slices of one person, a list of a folder or of files: the people are what
            ``Run.complete_person`` makes of them, and people.csv says at which positions slices are given.
        positions: list of int, where the given slices are (default: see ``people_completion.read_given``).
        candidates: for the slices below each given one.
        block, draw: block, temperature, top_k, top_p, guidance: as in ``Run.sample``.

    Returns:
        The folder, a Path.

    Raises:
        UserError: as ``Run.sample_people`` or ``Run.complete_person``, or the folder is there already.
    """
    if complete:
        known, label = read_given(run, complete, positions, label)
        blocks = completed_blocks(run, known, num_people, label, seed, shard, candidates, block, **draw)
        title = f"completions by {run.name}: of the model, but for the given slices"
    elif positions is not None:
        raise UserError("--positions says where the slices of --complete are: give both")
    else:
        blocks = people_blocks(run, num_people, label, seed, shard, block, **draw)
        title = f"people drawn by {run.name}: a scan of nobody"
    part, parts = shard
    out = output_folder(out, run, "people-{time}" + (f"-{part}of{parts}" if parts > 1 else ""))
    with new_folder(out) as unfinished:
        rows, montages, views = [], [], []
        for people in blocks:
            for row, stack in zip(people.rows, people.images, strict=True):
                view = write_person(unfinished / row["person"], row, stack, run.box, pixel_size, spacing)
                rows.append(row)
                if len(rows) <= SHOWN:
                    montages.append(crop(stack[..., None], run.box))  # (S, h, w, 1)
                    views.append(view)
        write_csv(unfinished / "people.csv", rows)
        montage_sheet(unfinished / f"{SHEET}.png", montages, rows, title)
        save_png(unfinished / f"{SHEET}_views.png", stacked(views))
    say_whether_told(run)
    print(f"{counted(len(rows), 'person')} of {run.num_positions} slices: {out / f'{SHEET}.png'}, {out / 'people.csv'}")
    return out


def write_person(folder, row, stack, box, pixel_size, spacing):
    """Write the slices (S, H, W) uint8 of one person, the volume, and the views, which are returned as one picture.

    Args:
        folder: Path, a new one.
        row: what people.csv says of the person, whose name the names of the files begin with.
        box: the Box of the frame that the views show.
    """
    person, given = row["person"], given_positions(row)
    what = "completed by a model: not all is of a scan" if given else "sampled from a model: a scan of nobody"
    folder.mkdir()
    write_slices(folder, person, stack)
    save_nifti(folder / f"{person}.nii.gz", stack.transpose(1, 2, 0), pixel_size, spacing, what)
    cropped = crop(stack[..., None], box)[..., 0]
    views = [make(cropped, pixel_size, spacing) for make in (coronal_views, sagittal_views)]
    for name, view in zip(("coronal", "sagittal"), views, strict=True):
        save_png(folder / f"{SHEET}_{name}.png", view)
    return stacked(views)


def given_positions(row):
    """The positions whose slices were given and not drawn, by a row of people.csv: a list of int."""
    return [int(position) for position in row.get("given", "").split()]


def write_slices(folder, person, stack):
    """Write the slices (S, H, W) uint8 of one person, the lowest first, in the ADNI course layout."""
    for name, image in zip(slice_names(person, len(stack)), stack, strict=True):
        save_png(folder / name, image)


def montage_sheet(path, montages, rows, title):
    """Write the slices of some people, a list of (S, h, w, 1) uint8, COLUMNS in a row, each person from a new row.

    Args:
        rows: what people.csv says of them, and maybe of more.
    """
    count = len(montages[0])
    lines = -(-count // COLUMNS)  # of each person
    blank = np.zeros((lines * COLUMNS - count, *montages[0].shape[1:]), np.uint8)
    names = [f"{row['person']}\n{row['label']}" for row in rows[: len(montages)]]
    captions = [
        "given" if position in given_positions(row) else ""
        for row in rows[: len(montages)]
        for position in range(lines * COLUMNS)
    ]
    image_sheet(
        path,
        np.concatenate([part for montage in montages for part in (montage, blank)]),
        COLUMNS,
        row_names=[name for person in names for name in (person, *[""] * (lines - 1))],
        captions=captions if any(captions) else (),
        title=title,
    )


def say_whether_told(run):
    """Warn where the prior draws every slice by itself."""
    if not is_told(run):
        warn(
            f"the prior of {run.name} was not told other slices of a person: the slices of each of these people are "
            "drawn one by one and do not agree"
        )
