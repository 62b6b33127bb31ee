"""Batches of brain slices for training; and the script that checks a folder, cuts scans, or makes the demo cohort.

How file names are read, people split, images decoded and augmented is told in slices/.
"""

from functools import lru_cache

from utils import Command, check_folder, number, random_generator, run_commands, run_script, shell

# ---- array → batches --------------------------------------------------------------------------


def training_batches(
    images,
    columns,
    batch_size,
    seed,
    box,
    first_step=0,
    augmented=1.0,
    flip=False,
    purpose="train",
    parts=1,
    own=None,
    whole_pixels=False,
    others=None,
):
    """Batches for ever; step s is a function of (seed, purpose, s) alone, so resuming is counting.

    The rows are shuffled anew for every epoch, and the epochs follow each other without a seam: step s
    takes the rows s B … s B + B − 1 of that endless sequence.

    Args:
        images: (N, H, W, 1) uint8, in memory or memory-mapped.
        columns: dict of (N,) int arrays that go with the images, such as label and position.
        batch_size: int, B.
        seed: int ≥ 0.
        box: the Box of the frame that is seen.
        first_step: int, the step to begin with.
        augmented: the probability that a slice is augmented at all.
        flip: whether half of the augmented slices are mirrored.
        purpose: str; each has an order and augmentations of its own.
        parts: int, a divisor of the batch size: every batch is cut into so many, one for each replica.
        own: the numbers of the parts that are wanted, from 0; they follow each other step by step. Default: all.
        whole_pixels: whether augmented slices are only moved by whole pixels, brightened and mirrored.
        others: (N, n) int, rows of other slices that go with each, -1 for none; augmented as it is.

    Returns:
        tf.data.Dataset of dicts: image (B / parts, box.height, box.width, 1) float32 in [0, 1], others (B / parts, n,
        box.height, box.width, 1), augmentation (B / parts, 6) float32, and the columns (B / parts, …).
    """
    import numpy as np
    import tensorflow as tf

    from slices.augmentation import augment, draw_augmentations, in_whole_pixels

    own, part_size = list(range(parts) if own is None else own), batch_size // parts
    rows_at = endless_order(len(images), seed, purpose)
    others = np.zeros((len(images), 0), int) if others is None else others
    number = 1 + others.shape[1]  # of images a row

    def gather(count):
        step, turn = divmod(int(count), len(own))
        first = step * batch_size + own[turn] * part_size
        rows = rows_at(first, part_size)
        parameters = draw_augmentations(seed, f"{purpose} augmentation", first, part_size, flip, augmented)
        if whole_pixels:
            parameters = in_whole_pixels(parameters, box)
        wanted = np.concatenate([rows[:, None], others[rows]], axis=1).ravel()
        return np.asarray(images[wanted]), parameters, rows

    def load(count):
        batch, parameters, rows = tf.numpy_function(gather, [count], (tf.uint8, tf.float32, tf.int64), stateful=False)
        batch = tf.ensure_shape(batch, (part_size * number, *images.shape[1:]))
        parameters = tf.ensure_shape(parameters, (part_size, 6))
        rows = tf.ensure_shape(rows, (part_size,))
        crops = tf.reshape(
            augment(batch, tf.repeat(parameters, number, axis=0), box, whole_pixels),
            (part_size, number, box.height, box.width, 1),
        )
        return {
            "image": crops[:, 0],
            "others": crops[:, 1:],
            "augmentation": parameters,
            **{name: tf.gather(column, rows) for name, column in columns.items()},
        }

    return _loaded_ahead(tf.data.Dataset.counter(start=first_step * len(own)), load)


def endless_order(count, seed, purpose):
    """A function of (first, number) that gives places first, first + 1, … of the shuffled epochs of ``count`` rows."""
    import numpy as np

    @lru_cache(maxsize=4)
    def order(epoch):
        return random_generator(seed, f"{purpose} order", epoch).permutation(count)

    def rows_at(first, number):
        return np.array([order(place // count)[place % count] for place in range(first, first + number)])

    return rows_at


def evaluation_batches(images, columns, batch_size, box, others=None):
    """All images once, in order, not augmented; the last batch may be smaller.

    Args:
        images, columns, batch_size, box: as in ``training_batches``.
        others: (N, n, H, W, 1) uint8, images that go with each.

    Returns:
        tf.data.Dataset of dicts: image (B, box.height, box.width, 1) float32 in [0, 1], others (B, n, box.height,
        box.width, 1), and the columns (B, …).
    """
    import numpy as np
    import tensorflow as tf

    from slices.frame import crop

    constants = {name: tf.constant(column) for name, column in columns.items()}
    count = 0 if others is None else others.shape[1]

    def gather(start):
        rows = slice(start, start + batch_size)
        parts = [images[rows], *(others[rows, i] for i in range(count))]
        return np.stack([crop(part, box) for part in parts], axis=1)

    def load(start):
        batch = tf.numpy_function(gather, [start], tf.uint8, stateful=False)
        batch = tf.cast(tf.ensure_shape(batch, (None, 1 + count, box.height, box.width, 1)), tf.float32) / 255
        return {
            "image": batch[:, 0],
            "others": batch[:, 1:],
            **{name: column[start : start + batch_size] for name, column in constants.items()},
        }

    return _loaded_ahead(tf.data.Dataset.range(0, len(images), batch_size), load)


def _loaded_ahead(dataset, load):
    import tensorflow as tf

    return dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


# ---- check: is this folder fit for training? --------------------------------------------------


def check(
    data, out=None, metadata=None, subject_pattern=None, allow_overlap=False, image_size=None, seed=0, cache=None
):
    """Decode every slice under a folder, print who and what there is by split and label, and draw a contact sheet.

    Args:
        data: folder of PNG or JPEG slices.
        out: where the contact sheet goes, a .png (default: a new contact_sheet.png in the current folder).
        metadata, subject_pattern: as in ``slices.index.find_slices``.
        allow_overlap, seed: as in ``slices.splits.split_by_subject``.
        image_size: (height, width) in pixels (default: the data's own).
        cache: the folder for a file of decoded slices, when memory is short for them (default: that of the sheet).

    Raises:
        UserError: the folder cannot be trained on as it is, or the sheet not be written.
    """
    check_folder(data)
    from slices.contents import check_contents
    from slices.images import load_images
    from slices.index import find_slices
    from slices.memory import check_cache
    from slices.names import are_image_ids
    from slices.overview import overview, reading
    from slices.sheets import contact_sheet, sheet_path
    from slices.splits import split_by_subject, warn_of_leakage

    sheet = sheet_path(out)
    check_cache(cache)
    slices = split_by_subject(find_slices(data, subject_pattern, metadata), seed, allow_overlap=allow_overlap)
    print(reading(slices, subject_pattern, metadata))
    if metadata is None and are_image_ids(slices["subject"]):
        print("people = image ids; repeat visits of one person may straddle splits (--metadata groups them)")
    files, training = slices["path"].tolist(), slices["split"] == "train"
    loaded = load_images(data, files, image_size, cache, white_from=training, beside=sheet.absolute().parent)
    slices = slices[loaded.usable].reset_index(drop=True)
    print(overview(slices, loaded))
    check_contents(data, slices, loaded)
    warn_of_leakage(slices, loaded)
    contact_sheet(sheet, slices, loaded.images)
    print(f"contact sheet: {sheet}")
    empty = [split for split in ("train", "validation") if split not in set(slices["split"])]
    if empty:
        print(f"train.py would refuse it: no {empty[0]} person is left, for at least one label needs two people")
    else:
        words = ["--metadata", metadata] if metadata else []  # whatever was needed here is needed there
        words += ["--subject-pattern", subject_pattern] if subject_pattern else []
        words += ["--allow-overlap"] if allow_overlap else []
        words += ["--image-size", *image_size] if image_size else []
        words += ["--seed", seed] if seed else []
        print(f"next, when it looks right: {shell('python', 'train.py', '--data', data, *words, '--dry-run')}")


# ---- cut and demo: where slices come from -----------------------------------------------------


def cut(
    volumes,
    out,
    metadata=None,
    label_column=None,
    slices=20,
    spacing=1.0,
    depth=57.5,
    image_size=(240, 256),
    workers=None,
):
    """Cut the scans under a folder into slices in a new one; the same call goes on after an interruption.

    Args:
        volumes: folder of NIfTI files (plain, BIDS or ADNI's tree) or DICOM series, T1-weighted.
        out: the new folder.
        metadata, label_column: as in ``slices.scans.find_scans``.
        slices, spacing, depth, image_size: as in ``slices.cutting.cut``.
        workers: number of processes, of 1 GB or so each (default: one per core, at most 8).

    Raises:
        UserError: nothing can be cut, or ``out`` holds something already.
    """
    check_folder(volumes)
    from slices.volumes import make_slices, summary

    rows = make_slices(volumes, out, metadata, label_column, workers, slices, spacing, depth, image_size)
    print(summary(rows, out))


def demo(people=100, out=None, image_size=(240, 256), seed=0):
    """Make the demo cohort of simulated people, in the layout of the ADNI slices.

    Args:
        people, image_size, seed: as in ``slices.cohort.make_cohort``.
        out: a new folder (default: the one where train.py looks for it).
    """
    from pathlib import Path

    from slices.cohort import demo_folder, make_cohort

    folder = Path(out) if out else demo_folder(people, image_size, seed)
    print(f"demo cohort: {make_cohort(folder, people, seed, tuple(image_size))}")
    print(f"next: {shell('python', 'train.py', '--data', folder)}")


# ---- the script -------------------------------------------------------------------------------


def check_flags(parser):
    """Add the flags of ``check``."""
    parser.add_argument(
        "--data", metavar="DIR", required=True, help="folder of PNG or JPEG slices; every file is decoded"
    )
    parser.add_argument(
        "--out", metavar="FILE.png", help="the contact sheet, never overwritten (default: a new contact_sheet.png)"
    )
    parser.add_argument("--metadata", metavar="CSV", help="ADNI search CSV that tells which images are one person's")
    parser.add_argument(
        "--subject-pattern",
        metavar="REGEX",
        help="how a name, or the path below DIR, tells its (?P<subject>…) and (?P<slice>…)",
    )
    parser.add_argument(
        "--allow-overlap", action="store_true", help="go on although the folders share people between train and test"
    )
    image_size_flag(parser, None, "in pixels (default: the data's own)")
    parser.add_argument(
        "--seed", type=number(int, 0, 2**31 - 1), default=0, metavar="N", help="of the splits (default %(default)s)"
    )
    parser.add_argument(
        "--cache", metavar="DIR", help="folder for a file of decoded slices when memory is short (default: the sheet's)"
    )


def cut_flags(parser):
    """Add the flags of ``cut``."""
    parser.add_argument(
        "--volumes",
        metavar="DIR",
        required=True,
        help="NIfTI files (plain, BIDS or ADNI's tree) or DICOM series, T1-weighted",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="a new folder")
    parser.add_argument(
        "--slices",
        type=number(int, 1, 400),
        default=20,
        metavar="N",
        help="axial slices of each scan (default %(default)s)",
    )
    parser.add_argument(
        "--spacing",
        type=number(float, 1, 50),
        default=1.0,
        metavar="MM",
        help="between slices, in mm (default %(default)g)",
    )
    parser.add_argument(
        "--depth",
        type=number(float, 0, 200),
        default=57.5,
        metavar="MM",
        help="from the top of the brain down to the middle of the slices, in mm (default %(default)g)",
    )
    parser.add_argument(
        "--metadata",
        metavar="TABLE",
        help="participants.tsv or ADNI search CSV, for the labels (default: DIR/participants.tsv)",
    )
    parser.add_argument(
        "--label-column",
        metavar="NAME",
        help="column of the labels (default: group, research group, diagnosis, dx or label)",
    )
    image_size_flag(parser, (240, 256), "in pixels of 1 mm (default 240 256)")
    parser.add_argument(
        "--workers",
        type=number(int, 1, 256),
        metavar="N",
        help="processes, of 1 GB or so each (default: one per core, at most 8)",
    )


def demo_flags(parser):
    """Add the flags of ``demo``."""
    parser.add_argument(
        "--people", type=number(int, 4, 100000), default=100, metavar="N", help="simulated people (default %(default)s)"
    )
    parser.add_argument("--out", metavar="DIR", help="a new folder (default: where train.py looks for it, under data)")
    image_size_flag(parser, (240, 256), "in pixels (default 240 256)")
    parser.add_argument(
        "--seed", type=number(int, 0, 2**31 - 1), default=0, metavar="N", help="of the cohort (default %(default)s)"
    )


def image_size_flag(parser, default, what):
    """Add ``--image-size H W``."""
    parser.add_argument(
        "--image-size",
        nargs=2,
        type=number(int, 16, 4096),
        metavar=("H", "W"),
        default=default,
        help=f"height and width {what}",
    )


COMMANDS = [
    Command(
        "check",
        "check a folder of brain slices before training on it",
        check_flags,
        check,
        ("python dataset.py check --data AD_NC --out sheet.png",),
    ),
    Command(
        "cut",
        "cut slices from scans; the same command goes on after an interruption",
        cut_flags,
        cut,
        ("python dataset.py cut --volumes BIDS --out cut-slices",),
    ),
    Command(
        "demo",
        "make the demo cohort of simulated people",
        demo_flags,
        demo,
        ("python dataset.py demo --people 100 --out data/demo",),
    ),
]


def main(argv):
    """Check a folder, cut scans, or make the demo cohort; see ``python dataset.py --help``."""
    run_commands(
        "dataset.py", "Check a folder of brain slices, cut slices from scans, or make the demo cohort.", COMMANDS, argv
    )


if __name__ == "__main__":
    run_script(main)
