"""Make brain images and answers with a finished run, and what lets others look at it.

Samples are drawn code by code from the prior and decoded by the VQ-VAE. Image i of a run of this script
depends on the seed and on i alone, whatever the number of images.
"""

import argparse
import datetime
import os
import re
import shutil
import time
from pathlib import Path

from utils import (
    Parser,
    UserError,
    around_black,
    image_sheet,
    load_models,
    new_folder,
    number,
    number_sheet,
    open_run,
    progress,
    random_generator,
    read_slices,
    run_name,
    run_script,
    save_animation,
    save_json,
    save_nifti,
    save_png,
    start_tensorflow,
    to_bytes,
    write_csv,
)

BLOCK = 32  # images per sampling call, always: floating-point sums differ with the shape of the batch
COLUMNS = 8  # images per row of a sheet
NONE = "none"
MOST_LABELS = 4  # on the poster
COMPLETED = 3  # slices on the poster
ABOUT = ("labels", "num_positions", "frame", "crop_box", "code_grid", "num_codes", "data_fingerprint", "simulated")
NUM_IMAGES = {"complete": 8, "compare_labels": 8, "sweep_positions": 4, "temperature_sweep": 8, "interpolate": 9}
ONLY_WITH = {"keep": ("complete",), "paste": ("complete",), "heal": ("score",)}
OF_SAMPLES = "shard", "format", "pixel_size"
GOES_NOT_WITH = {
    "complete": OF_SAMPLES, "score": (*OF_SAMPLES, "num_images", "temperature", "top_k", "top_p"),
    "compare_labels": (*OF_SAMPLES, "label"), "sweep_positions": (*OF_SAMPLES, "position"),
    "temperature_sweep": (*OF_SAMPLES, "temperature"),
    "interpolate": (*OF_SAMPLES, "temperature", "top_k", "top_p")}
CHAINS, CANDIDATES = 8, 4  # grids completed side by side, always, and candidates for each: a BLOCK in all
WHOLE_STEPS, SWEEPS, TILE = 8, 4, 4  # of masked Gibbs sweeps: steps that redraw everything, then sweeps of tiles
UNLIKELY = 3.0  # standard deviations from which on --heal draws a code anew
ROWS = 8  # of conditions on a sheet
TEMPERATURES = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3)


def parse_flags(argv):
    """The flags as a namespace."""
    parser = Parser(description=__doc__.split("\n\n")[0],
                    epilog="examples: python predict.py --run demo --num-images 32 --label AD --seed 1\n"
                           "          python predict.py --run demo --complete SLICE.png --keep top\n"
                           "          python predict.py --run demo --score DIR --heal\n"
                           "          python predict.py --run demo --gallery\n"
                           "          python predict.py --run demo --export demo-model")
    parser.add_argument("--run", metavar="NAME", help="name under runs/, or a path (default: the newest finished run)")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: <run>/samples/<date-time>)")
    parser.add_argument("--seed", type=number(int, 0, 2**31 - 1), default=0, metavar="N",
                        help="of everything random (default 0)")
    parser.add_argument("--data", metavar="DIR", help="where the run's slices are now (default: where they were)")
    group = parser.add_argument_group("what to make (default: samples)").add_mutually_exclusive_group()
    group.add_argument("--reconstruct", metavar="DIR", help="reconstructions of the images in DIR")
    group.add_argument("--complete", metavar="SLICE", help="what could stand where --keep does not keep the slice")
    group.add_argument("--score", metavar="DIR", help="how improbable each code of the images in DIR is, as maps")
    group.add_argument("--compare-labels", action="store_true", help="the same random numbers under each label")
    group.add_argument("--sweep-positions", action="store_true",
                       help="the same random numbers at each position, with an animation")
    group.add_argument("--temperature-sweep", action="store_true", help="the same random numbers at six temperatures")
    group.add_argument("--interpolate", action="store_true", help="two ways from one sample to another")
    group.add_argument("--gallery", action="store_true",
                       help="gallery.png, a poster of the run: samples, completions, codes, numbers")
    group.add_argument("--export", metavar="DIR",
                       help="a SavedModel in DIR that encodes, decodes and samples without this code")
    group.add_argument("--reader-study", type=number(int, 1, 1000), metavar="N",
                       help="a page that asks which of N real slices of validation people and N samples are real")
    group.add_argument("--reader-score", metavar="FILE", help="how many a reader told, from the answers of that page")
    group = parser.add_argument_group("given slices")
    group.add_argument("--keep", metavar="top|bottom|left|right|MASK.png",
                       help="with --complete: the half of the frame to keep, or an image as large as the slice, white "
                            "where to keep it")
    group.add_argument("--paste", action="store_true", help="with --complete: put the original pixels back where kept")
    group.add_argument("--heal", action="store_true", help="with --score: draw the least likely codes anew")
    group = parser.add_argument_group("sampling")
    group.add_argument("--num-images", type=number(int, 1, 1000000), metavar="N",
                       help="images, completions, or steps of --interpolate (default: 16 samples, else "
                            + ", ".join(f"{count} with {flag_of(mode)}" for mode, count in NUM_IMAGES.items()) + ")")
    group.add_argument("--label", help="a label of the run, or none for the unconditional model "
                                       "(default: drawn from the training mix; for given slices, what slices.csv says)")
    group.add_argument("--position", help="0 (lowest slice) upwards, or none (default: as for the label)")
    group.add_argument("--temperature", type=number(float, 0.01, 100), default=1.0, metavar="T",
                       help="of the distribution that codes are drawn from: lower is tamer (default 1)")
    group.add_argument("--top-k", type=number(int, 1), metavar="K", help="draw from the K likeliest codes only")
    group.add_argument("--top-p", type=number(float, 0.001, 1), metavar="P",
                       help="draw from the likeliest codes that reach probability P only")
    group.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N",
                       help="make the I-th of N parts of the images, as one process would make them (default: all)")
    group.add_argument("--format", choices=("png", "npy", "nifti"), default="png",
                       help="a PNG each, one array (N, H, W) uint8, or a NIfTI volume of one slice each (default png)")
    group.add_argument("--pixel-size", type=number(float, 0.001, 1000), default=1.0, metavar="MM",
                       help="side of a pixel, for --format nifti (default 1 mm)")
    group = parser.add_argument_group("reader study")
    group.add_argument("--cc0", action="store_true",
                       help="the run's slices are in the public domain: leave out the mark that says do not share")
    flags = parser.parse_args(argv)
    if flags.export and flags.out:
        parser.error("--export DIR says where to write: leave out --out")
    mode = next((name for name in MODES if getattr(flags, name)), None)
    for name, modes in ONLY_WITH.items():
        if getattr(flags, name) and mode not in modes:
            parser.error(f"{flag_of(name)} goes with {' and '.join(map(flag_of, modes))} only")
    for name in GOES_NOT_WITH.get(mode, ()):
        if getattr(flags, name) != parser.get_default(name):
            parser.error(f"{flag_of(name)} does not go with {flag_of(mode)}")
    if mode == "complete" and not flags.keep:
        parser.error("--complete needs --keep to say what to keep: top, bottom, left, right or MASK.png")
    flags.num_images = flags.num_images or NUM_IMAGES.get(mode, 16)
    return flags


def flag_of(name):
    """num_images -> --num-images."""
    return f"--{name.replace('_', '-')}"


def shard(text):
    """An argparse type: "2/8" -> (2, 8)."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    part, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"must be I/N with 1 <= I <= N, such as 2/8, not {text}")
    return part, parts


# ---- sampling ---------------------------------------------------------------------------------


def choose_conditions(flags, config, slices):
    """The label and position of every image, as ids from 1 with 0 for none: two (N,) int32 arrays.

    What is not given is drawn, label and position together, from the training slices.

    Raises:
        UserError: a label or position that the run does not know.
    """
    import numpy as np

    from metrics import condition_ids

    training = condition_ids(slices[slices["split"] == "train"], config["labels"])
    draws = [int(random_generator(flags.seed, "conditions", i).integers(len(training["label"])))
             for i in range(flags.num_images)]
    label, position = training["label"][draws], training["position"][draws]
    wanted_label, wanted_position = wanted_conditions(flags, config)
    if wanted_label is not None:
        label = np.full_like(label, wanted_label)
    if wanted_position is not None:
        position = np.full_like(position, wanted_position)
    return label, position


def wanted_conditions(flags, config):
    """The label and the position that the flags ask for, as ids from 1 with 0 for none; None where they do not say.

    Raises:
        UserError: the run does not know it.
    """
    label = position = None
    if flags.label is not None:
        if flags.label not in (*config["labels"], NONE):
            raise UserError(f"unknown --label {flags.label}: this run has {', '.join(config['labels'])} and none")
        label = 0 if flags.label == NONE else config["labels"].index(flags.label) + 1
    if flags.position is not None:
        known = [str(i) for i in range(config["num_positions"])]
        if flags.position not in (*known, NONE):
            raise UserError(f"unknown --position {flags.position}: this run has 0 to {known[-1]} and none")
        position = 0 if flags.position == NONE else int(flags.position) + 1
    return label, position


def shard_of(count, part, parts):
    """The first image of a part and the one after its last; parts differ by one image at most."""
    return (part - 1) * count // parts, part * count // parts


def sample_images(models, config, flags, label, position):
    """Yield (index, image uint8 (H, W, 1) in the full frame, log-likelihood in bits) of every sample of the shard.

    Blocks begin at multiples of BLOCK whatever the shard, so that an image always has the same slot.
    """
    import math

    import numpy as np

    import dataset

    vqvae, prior = models
    box = dataset.Box(*config["crop_box"])
    first, end = shard_of(len(label), *flags.shard)
    starts = range(first - first % BLOCK, end, BLOCK)
    began = None
    for start in progress(starts, desc="sampling", unit=" blocks", leave=None):
        indices = range(start, start + BLOCK)  # the last block is padded
        uniforms = np.stack([random_generator(flags.seed, "codes", i).random(prior.grid, np.float32) for i in indices])
        conditions = [np.pad(ids[start: start + BLOCK], (0, BLOCK - len(ids[start: start + BLOCK])), mode="edge")
                      for ids in (label, position)]
        codes, log_likelihood = prior.sample(uniforms, *conditions, flags.temperature, flags.top_k, flags.top_p)
        crops = to_bytes(np.asarray(vqvae.decode(codes)))[..., None]
        images = dataset.paste(crops, box, config["frame"])  # (BLOCK, H, W, 1)
        began = began or time.perf_counter()  # start-up and tracing are over with the first block
        for i in range(max(first, start), min(end, start + BLOCK)):
            yield i, images[i - start], float(log_likelihood[i - start]) / math.log(2)
    if len(starts) > 1:
        rate = BLOCK * (len(starts) - 1) / (time.perf_counter() - began)
        print(f"{rate:.1f} samples/s, start-up and the first {BLOCK} aside")


def image_saver(flags, config, folder):
    """A function that saves image number i, (H, W, 1) uint8, as ``--format`` says and returns the file's name."""
    import numpy as np

    first, end = shard_of(flags.num_images, *flags.shard)
    if flags.format == "npy":
        stack = np.lib.format.open_memmap(folder / "brains.npy", "w+", np.uint8, (end - first, *config["frame"]))

    def save(i, image):
        if flags.format == "npy":
            stack[i - first] = image[..., 0]
            return "brains.npy"
        if flags.format == "nifti":
            save_nifti(folder / f"brain_{i:05d}.nii.gz", image, flags.pixel_size)
            return f"brain_{i:05d}.nii.gz"
        save_png(folder / f"brain_{i:05d}.png", image)
        return f"brain_{i:05d}.png"

    return save


def output_folder(flags, run, name):
    """Where to write: ``--out``, or a folder of the run, in whose name {time} stands for now."""
    return Path(flags.out or run / "samples" / name.format(time=f"{datetime.datetime.now():%Y%m%d-%H%M%S}"))


def sample_row(config, flags, file, i, label, position, bits):
    """What samples.csv says of image i; label and position are ids."""
    return {"file": file, "index": i, "seed": flags.seed, "label": config["labels"][label - 1] if label else NONE,
            "position": position - 1 if position else NONE, "log_likelihood_bits": f"{bits:.4f}"}


def sample(flags):
    """Write the samples (brain_00000.png …, or in another format), sheet.png and samples.csv into a new folder."""
    import numpy as np

    import dataset

    folder, config = open_run(flags.run)
    part, parts = flags.shard
    if parts > flags.num_images:
        raise UserError(f"--shard {part}/{parts}: {flags.num_images} images make {flags.num_images} parts at most")
    label, position = choose_conditions(flags, config, read_slices(folder))
    out = output_folder(flags, folder, "{time}" + (f"-{part}of{parts}" if parts > 1 else ""))
    with new_folder(out) as unfinished:
        start_tensorflow()
        models = load_models(folder)
        save = image_saver(flags, config, unfinished)
        rows, shown = [], []
        for i, image, bits in sample_images(models, config, flags, label, position):
            rows.append(sample_row(config, flags, save(i, image), i, label[i], position[i], bits))
            if len(shown) < 64:
                shown.append(image)
        write_csv(unfinished / "samples.csv", rows)
        captions = [f"{row['label']}, {row['position']}" for row in rows[: len(shown)]]
        shown = dataset.crop(np.stack(shown), dataset.Box(*config["crop_box"]))
        image_sheet(unfinished / "sheet.png", shown, min(COLUMNS, len(shown)), captions=captions,
                    title=f"samples of {folder.name} (label, position)")
    print(f"{len(rows)} samples: {out / 'sheet.png'}, {out / 'samples.csv'}")
    print(f"next: python evaluate.py --run {run_name(folder)}")


# ---- reconstruction ---------------------------------------------------------------------------


def reconstruct(flags):
    """Write originals, reconstructions and differences of the images in a folder, and their metrics."""
    import numpy as np

    import dataset
    from metrics import encode_images, evenly, image_metrics, mean_by_person, value_of

    folder, config = open_run(flags.run, stage="vqvae")
    slices = dataset.find_slices(flags.reconstruct, config["subject_pattern"], config["metadata"])
    out = output_folder(flags, folder, "reconstruct-{time}")
    with new_folder(out) as unfinished:
        start_tensorflow()
        (vqvae,) = load_models(folder, prior=False)
        loaded = dataset.load_images(flags.reconstruct, slices["path"].tolist(), tuple(config["frame"]))
        box, frame = dataset.Box(*config["crop_box"]), config["frame"]
        outside = dataset.outside(loaded.brain_boxes, box)
        slices = slices[loaded.usable].reset_index(drop=True)
        chosen = set(evenly(np.arange(len(slices)), COLUMNS))
        rows, shown = [], []
        for start in progress(range(0, len(slices), BLOCK), desc="reconstructing", unit=" blocks"):
            originals = loaded.images[start: start + BLOCK]
            crops = to_bytes(np.asarray(vqvae.decode(encode_images(vqvae, originals, box))))[..., None]
            images = dataset.paste(crops, box, frame)  # (B, H, W, 1)
            for i, (original, image) in enumerate(zip(originals, images, strict=True), start):
                difference = (image.astype(float) - original) / 255  # in [-1, 1]
                stem = f"{i:05d}_{Path(slices['path'][i]).stem}"
                save_png(unfinished / f"{stem}_original.png", original)
                save_png(unfinished / f"{stem}_reconstruction.png", image)
                save_png(unfinished / f"{stem}_difference.png", (difference + 1) / 2)
                rows.append({"file": slices["path"][i], "outside_box": bool(outside[i]),
                             **image_metrics(original, image)})
                if i in chosen:
                    shown.append((original / 255, image / 255, difference))
        write_csv(unfinished / "reconstructions.csv", rows)
        shown = np.stack([image for row in zip(*shown, strict=True) for image in row])
        image_sheet(unfinished / "sheet.png", dataset.crop(shown, box), len(shown) // 3,
                    ("originals", "reconstructions", "differences"), differences=(2,),
                    title=f"reconstructions by {folder.name}")
    say_outside(outside)
    metrics = [{key: value for key, value in row.items() if isinstance(value, float)} for row in rows]
    means = {key: value_of(value) for key, value in mean_by_person(metrics, slices["subject"]).items()}
    print(f"{len(rows)} images of {slices['subject'].nunique()} people; means over people: "
          + ", ".join(f"{key} {value:.4g}" for key, value in means.items() if value is not None))
    print(f"{out / 'sheet.png'}, {out / 'reconstructions.csv'}")


# ---- given slices and their conditions ----------------------------------------------------------


def look_up(flags, config, index, paths):
    """What is known of given slices: a DataFrame of label, position, subject, split, a row for each path.

    It is read from the run's slices.csv when the file is in it; a flag overrules it. Unknown are the label NONE, the
    position -1, and "". What is not known is said.
    """
    label, position = wanted_conditions(flags, config)
    root = Path(flags.data or config["data"]).resolve()
    names = [Path(os.path.relpath(Path(path).resolve(), root)).as_posix() for path in paths]
    known = index.set_index("path")[["label", "position", "subject", "split"]].reindex(names).reset_index(drop=True)
    known = known.fillna({"label": NONE, "position": -1, "subject": "", "split": ""}).astype({"position": int})
    if label is not None:
        known["label"] = flags.label
    if position is not None:
        known["position"] = position - 1
    for column, unknown, flag in (("label", ~known["label"].isin(config["labels"]), label),
                                  ("position", known["position"] < 0, position)):
        if unknown.any() and flag is None:
            print(f"the {column} of {unknown.sum()} of {len(known)} slices is not known: the model without it is used "
                  f"({flag_of(column)} tells it)")
    trained = known["split"] == "train"
    if trained.any():
        print(f"{trained.sum()} of {len(known)} slices are of people that the run was trained on: it knows them better "
              "than others")
    return known


def say_outside(outside):
    """Tell how many images, (N,) bool, do not fit into the crop box."""
    if outside.any():
        print(f"{outside.sum()} of {len(outside)} images have brain outside the run's crop box; it is cut off")


# ---- completion ---------------------------------------------------------------------------------


def kept_pixels(flags, frame):
    """What ``--keep`` keeps of the slice: (H, W) bool in the run's frame."""
    import numpy as np

    import dataset

    (height, width), (rows, columns) = frame, np.indices(frame)
    halves = {"top": rows < height // 2, "bottom": rows >= height // 2,
              "left": columns < width // 2, "right": columns >= width // 2}
    if flags.keep in halves:
        return halves[flags.keep]
    return dataset.load_mask(flags.keep, flags.complete, frame)


def kept_cells(pixels, box, grid):
    """(h, w) bool: the codes whose whole patches are kept, from the pixels (H, W) bool of the frame."""
    import dataset

    (h, w), lost = grid, dataset.crop(~pixels[..., None], box)[..., 0]  # what is not in the frame is not lost
    return ~lost.reshape(h, box.height // h, w, box.width // w).any(axis=(1, 3))


def in_raster_order(keep):
    """(B,) bool: whether all kept codes of keep (B, h, w) come before all others, so that a plain draw is exact."""
    flat = keep.reshape(len(keep), -1)
    return ~(flat[:, 1:] & ~flat[:, :-1]).any(axis=1)


def gibbs_cells(unknown, tile_side):
    """Yield the cells (B, h, w) bool to draw together: some times all of them, then sweeps of tiles that shift."""
    import numpy as np

    yield from [unknown] * WHOLE_STEPS
    for sweep in range(SWEEPS):
        shift = sweep % 2 * (tile_side // 2)
        for top in range(-shift, unknown.shape[1], tile_side):
            for left in range(-shift, unknown.shape[2], tile_side):
                tile = np.zeros_like(unknown)
                tile[:, max(top, 0): top + tile_side, max(left, 0): left + tile_side] = True
                yield tile & unknown


def complete_codes(prior, codes, keep, columns, seed, purpose, first, options=(1.0, None, None), tile_side=TILE):
    """Draw what is not kept of code grids, given what is kept.

    Where all kept codes come first in raster order this is an exact draw. Elsewhere it is an approximate one: the
    others are drawn in raster order, and then again and again with an eye on the codes that follow
    (``GatedPixelCNN.redraw``), first all of them and then tile by tile. That leaves their distribution given the
    kept ones as it is and moves towards it, but stops after a few sweeps.

    Args:
        codes, keep: (CHAINS, h, w) int and bool.
        columns: dict of label and position, (CHAINS,) int, 0 for none.
        purpose: what the random numbers are for; grid i depends on the seed, on them and on first + i alone.
        options: temperature, top k and top p of a draw in raster order; the sweeps know none.
        tile_side: in codes; where few of a tile are to be drawn it can be large.

    Returns:
        codes (CHAINS, h, w) int32.
    """
    import numpy as np

    def uniforms(step, count):
        return np.stack([random_generator(seed, purpose, first + i, step).random(count, np.float32)
                         for i in range(len(codes))])

    conditions, size = (columns["label"], columns["position"]), prior.grid[0] * prior.grid[1]
    drawn, _ = prior.sample(uniforms(0, size).reshape(codes.shape), *conditions, *options, known=codes, mask=keep)
    unknown = ~keep & ~in_raster_order(keep)[:, None, None]
    steps = list(gibbs_cells(unknown, tile_side)) if unknown.any() else []
    for step, cells in enumerate(progress(steps, desc="Gibbs sweeps", unit=" steps", leave=False), 1):
        if cells.any():
            numbers = uniforms(step, CANDIDATES * size + 1)
            candidates = numbers[:, 1:].reshape(len(codes), CANDIDATES, *prior.grid)
            drawn = prior.redraw(drawn, cells, candidates, numbers[:, 0], *conditions)
    return np.asarray(drawn)


def read_given_slice(flags, config):
    """The slice to complete and what ``--keep`` keeps of it.

    Returns:
        LoadedImages of one image, its kept pixels (H, W) bool in the frame, and its kept codes (h, w) bool.

    Raises:
        UserError: there is no such slice or mask, nothing is kept, or the flags do not go with what is kept.
    """
    path = Path(flags.complete)
    if not path.is_file():
        raise UserError(f"there is no slice {path}: give --complete a PNG or JPEG file")
    if flags.num_images < 2:
        raise UserError("--complete needs --num-images 2 or more: spread.png is how they differ")
    import dataset

    frame, side = tuple(config["frame"]), config["downsample"]
    original = dataset.load_images(path.parent, [path.name], frame)
    pixels = kept_pixels(flags, frame)
    keep = kept_cells(pixels, dataset.Box(*config["crop_box"]), config["code_grid"])
    if not keep.any():
        raise UserError(f"--keep {flags.keep} keeps no patch of {side}x{side} pixels whole, and so no code: keep more")
    if not in_raster_order(keep[None])[0] and (flags.temperature, flags.top_k, flags.top_p) != (1.0, None, None):
        raise UserError(f"--keep {flags.keep} needs Gibbs sweeps, which know no --temperature, --top-k or --top-p: "
                        "leave them out, or keep the top")
    return original, pixels, keep


def complete(flags):
    """Write alternatives.png, spread.png, completions.csv and completion_00000.png … of one slice."""
    import numpy as np

    folder, config = open_run(flags.run)
    original, pixels, keep = read_given_slice(flags, config)
    known = look_up(flags, config, read_slices(folder), [flags.complete])
    import dataset
    from metrics import condition_ids, encode_images, prior_bits

    box, frame = dataset.Box(*config["crop_box"]), config["frame"]
    say_outside(dataset.outside(original.brain_boxes, box))
    how = "drawn exactly" if in_raster_order(keep[None])[0] else "approximate, by masked Gibbs sweeps"
    out = output_folder(flags, folder, "complete-{time}")
    with new_folder(out) as unfinished:
        start_tensorflow()
        vqvae, prior = load_models(folder)
        codes, kept = (np.repeat(x, CHAINS, axis=0) for x in (encode_images(vqvae, original.images, box), keep[None]))
        columns = {name: np.repeat(ids, CHAINS) for name, ids in condition_ids(known, config["labels"]).items()}
        options, drawn = (flags.temperature, flags.top_k, flags.top_p), []  # drawn: list of (CHAINS, h, w)
        for first in progress(range(0, flags.num_images, CHAINS), desc="completing", unit=" blocks"):
            drawn.append(complete_codes(prior, codes, kept, columns, flags.seed, "completions", first, options))
        crops = np.concatenate([to_bytes(np.asarray(vqvae.decode(block))) for block in (codes, *drawn)])
        images = dataset.paste(crops[..., None], box, frame)  # (N, H, W, 1); CHAINS reconstructions come first
        reconstruction, images = images[:1], images[CHAINS: CHAINS + flags.num_images]
        if flags.paste:
            images = np.where(pixels[..., None], original.images, images)
        bits = np.concatenate([-prior_bits(prior, block, columns).sum(axis=(1, 2)) for block in drawn])
        rows = [sample_row(config, flags, f"completion_{i:05d}.png", i, columns["label"][0], columns["position"][0],
                           bits[i]) for i in range(len(images))]
        for row, image in zip(rows, images, strict=True):
            save_png(unfinished / row["file"], image)
        write_csv(unfinished / "completions.csv", rows)
        seen = np.where(pixels[..., None], original.images, original.images // 4)  # darker where it is not kept
        draw_completions(unfinished, f"{len(images)} completions by {folder.name}, {how}: of the model, not of people",
                         dataset.crop(np.concatenate([original.images, seen, reconstruction, images]), box))
    print(f"{len(rows)} completions, {how}: {out / 'alternatives.png'}, {out / 'spread.png'}")


def draw_completions(folder, title, images):
    """Draw alternatives.png and spread.png of a slice, its kept part, its reconstruction and its completions."""
    completions = images[3:, ..., 0] / 255  # (N, H, W)
    names = ["slice", "kept: bright", "reconstruction", *(f"completion {i}" for i in range(len(completions)))]
    image_sheet(folder / "alternatives.png", images, min(COLUMNS, len(images)), captions=names, title=title)
    spread = completions.std(axis=0)
    number_sheet(folder / "spread.png", [
        ("slice", images[0, ..., 0] / 255, None, 0, 1), ("kept: bright", images[1, ..., 0] / 255, None, 0, 1),
        ("mean of completions", completions.mean(axis=0), None, 0, 1),
        ("standard deviation", spread, "inferno", 0, max(spread.max(), 0.01))], title=title)


# ---- scoring ------------------------------------------------------------------------------------


def load_validation(flags, config, index):
    """The validation people's slices: their rows of the index, and images (M, H, W, 1) uint8 in the frame.

    Raises:
        UserError: there are fewer than two such people, or the run's slices are not there.
    """
    import dataset

    slices, root = index[index["split"] == "validation"], flags.data or config["data"]
    if slices["subject"].nunique() < 2:
        raise UserError("the run has fewer than two validation people: there is nobody to compare with")
    if not Path(root).is_dir():
        raise UserError(f"the run's slices {root} are not there, and --score compares with them: say where with --data")
    loaded = dataset.load_images(root, slices["path"].tolist(), tuple(config["frame"]))
    return slices[loaded.usable], loaded.images


def compare_codes(models, config, known, codes, validation):
    """The bits of given codes and how unusual they are.

    Args:
        known: DataFrame of ``look_up``, a row for each slice.
        codes: (N, h, w) int.
        validation: what ``load_validation`` returns.

    Returns:
        bits and z-scores (N, h, w) float, and a list of dicts: how many people and slices each was compared with,
        and the bits that these have (median).
    """
    import numpy as np

    import dataset
    from metrics import UsualBits, condition_ids, encode_images, prior_bits

    (vqvae, prior), (slices, images) = models, validation
    columns = condition_ids(known, config["labels"])
    usual_codes = encode_images(vqvae, images, dataset.Box(*config["crop_box"]))
    usual_columns = condition_ids(slices, config["labels"])
    bits, usual = prior_bits(prior, codes, columns), {}
    z_scores, compared = np.zeros_like(bits), []
    for i, (label, position, person) in enumerate(zip(*columns.values(), known["subject"], strict=True)):
        told = bool(label), bool(position)  # others are given what the slice is given
        if told not in usual:
            given = {name: ids * is_told for (name, ids), is_told in zip(usual_columns.items(), told, strict=True)}
            usual[told] = UsualBits(prior_bits(prior, usual_codes, given), usual_columns["position"],
                                    slices["subject"].to_numpy())
        z_scores[i] = usual[told].z_scores(bits[i], position, person)
        rows = usual[told].compared(position, person)
        compared.append({"compared_people": slices["subject"][rows].nunique(), "compared_slices": int(rows.sum()),
                         "usual_bits": f"{np.median(usual[told].bits[rows].sum(axis=(1, 2))):.1f}"})
    return bits, z_scores, compared


def heal(prior, codes, z_scores, columns, seed):
    """Draw the codes (N, h, w) anew whose z-scores are UNLIKELY or more, given all others.

    After Naval Marimont & Tarroni 2021 (arXiv:2012.06765), who draw them given those before them.
    """
    import numpy as np

    healed = []
    for first in progress(range(0, len(codes), CHAINS), desc="healing", unit=" blocks"):
        rows = np.minimum(np.arange(first, first + CHAINS), len(codes) - 1)  # the last block is padded
        healed.append(complete_codes(prior, codes[rows], z_scores[rows] < UNLIKELY,
                                     {name: ids[rows] for name, ids in columns.items()}, seed, "healing", first,
                                     tile_side=2 * TILE))
    return np.concatenate(healed)[: len(codes)]


def score(flags):
    """Write scores.csv and a map of every image in a folder, and with --heal the images without unlikely codes."""
    import numpy as np

    import dataset
    from metrics import brain_cells, condition_ids, encode_images

    folder, config = open_run(flags.run)
    slices, index = dataset.find_slices(flags.score, config["subject_pattern"]), read_slices(folder)
    box, frame = dataset.Box(*config["crop_box"]), tuple(config["frame"])
    validation = load_validation(flags, config, index)
    loaded = dataset.load_images(flags.score, slices["path"].tolist(), frame)
    known = look_up(flags, config, index, [Path(flags.score) / path for path in loaded.paths])
    outside = dataset.outside(loaded.brain_boxes, box)
    say_outside(outside)
    out = output_folder(flags, folder, "score-{time}")
    with new_folder(out) as unfinished:
        start_tensorflow()
        models = load_models(folder)
        codes = encode_images(models[0], loaded.images, box)  # (N, h, w)
        bits, z_scores, compared = compare_codes(models, config, known, codes, validation)
        columns, crops = condition_ids(known, config["labels"]), dataset.crop(loaded.images, box)[..., 0]
        brain = brain_cells(crops, codes.shape[1:])
        healed = heal(models[1], codes, z_scores, columns, flags.seed) if flags.heal else None
        rows = []
        for i, path in enumerate(progress(loaded.paths, desc="drawing", unit=" maps")):
            inside = z_scores[i][brain[i] if brain[i].any() else np.ones_like(brain[i])]
            rows.append({"file": path, "label": known["label"][i] if columns["label"][i] else NONE,
                         "position": known["position"][i] if columns["position"][i] else NONE,
                         "bits": f"{bits[i].sum():.1f}", **compared[i],
                         "largest_z": f"{inside.max():.2f}", "least_z": f"{inside.min():.2f}",
                         "unlikely_share": f"{(inside >= UNLIKELY).mean():.4f}", "outside_box": bool(outside[i])})
            stem = f"{i:05d}_{Path(path).stem}"
            pictures = score_pictures(crops[i], bits[i], z_scores[i], config["num_codes"])
            if flags.heal:
                image = to_bytes(np.asarray(models[0].decode(healed[i: i + 1])))[0]
                pictures += [("healed", image / 255, None, 0, 1),
                             ("slice - healed", (crops[i] - image.astype(float)) / 255, around_black(), -0.25, 0.25)]
                save_png(unfinished / f"{stem}_healed.png", dataset.paste(image[..., None], box, frame))
            number_sheet(unfinished / f"{stem}_map.png", pictures,
                         f"improbable codes by {folder.name}, beside {rows[-1]['compared_slices']} slices of "
                         f"{rows[-1]['compared_people']} people: not a diagnosis")
        write_csv(unfinished / "scores.csv", rows)
    print(f"{len(rows)} maps of improbable codes, which are no diagnosis: {out / 'scores.csv'}, {out}/*_map.png")


def score_pictures(crop, bits, z_scores, num_codes):
    """What ``number_sheet`` draws of a slice (H, W) uint8 and the bits and z-scores (h, w) of its codes."""
    import math

    from metrics import over_pixels

    z, blurred = (over_pixels(z_scores[None], crop.shape, blurred=how)[0] for how in (False, True))
    return [("slice", crop / 255, None, 0, 1),
            ("bits per code", over_pixels(bits[None], crop.shape)[0], "magma", 0, 1.5 * math.log2(num_codes)),
            ("z (blue: likelier than usual)", z, around_black(), -6, 6),
            ("z, blurred", blurred, around_black(), -3, 3)]


# ---- the same random numbers under other conditions -----------------------------------------------


def compare_labels(flags):
    """The same random numbers under each label; see ``vary``."""
    import numpy as np

    folder, config = open_run(flags.run)
    if len(config["labels"]) < 2:
        raise UserError("the run has fewer than two labels: there is nothing to compare")
    label, position = choose_conditions(flags, config, read_slices(folder))
    variants = {name: (np.full_like(label, i + 1), position, flags.temperature)
                for i, name in enumerate(config["labels"])}
    vary(flags, folder, config, "compare-labels", variants, "the same random numbers under each label, by "
         f"{folder.name}: not what one person would look like with a disease")


def sweep_positions(flags):
    """The same random numbers at each position, with sweep.gif; see ``vary``."""
    import numpy as np

    folder, config = open_run(flags.run)
    label, position = choose_conditions(flags, config, read_slices(folder))
    variants = {f"position {i}": (label, np.full_like(position, i + 1), flags.temperature)
                for i in range(config["num_positions"])}
    vary(flags, folder, config, "sweep-positions", variants, "the same random numbers at each position, by "
         f"{folder.name}: a column is not one person", animation="sweep.gif")


def temperature_sweep(flags):
    """The same random numbers at TEMPERATURES; see ``vary``."""
    folder, config = open_run(flags.run)
    conditions = choose_conditions(flags, config, read_slices(folder))
    variants = {f"temperature\n{temperature:g}": (*conditions, temperature) for temperature in TEMPERATURES}
    vary(flags, folder, config, "temperature-sweep", variants, "the same random numbers at each temperature, by "
         f"{folder.name}: likelier or rarer codes, not healthier or sicker people")


def vary(flags, folder, config, name, variants, title, animation=None):
    """Draw the same random numbers under other conditions: sheet.png, samples.csv, brain_<image>_<variant>.png.

    Image i is the one that sampling with the same seed and these conditions makes.

    Args:
        variants: dict of name -> (label (N,) ids, position (N,) ids, temperature), the rows of the sheet. The
            differences of two are its third row.
        animation: the name of a GIF of the rows one after another, or None.
    """
    import numpy as np

    import dataset
    from metrics import evenly

    out = output_folder(flags, folder, f"{name}-{{time}}")
    with new_folder(out) as unfinished:
        start_tensorflow()
        models, rows, images = load_models(folder), [], []
        for number, (label, position, temperature) in enumerate(progress(variants.values(), desc=name)):
            changed = argparse.Namespace(**vars(flags) | {"temperature": temperature})
            for i, image, bits in sample_images(models, config, changed, label, position):
                file = f"brain_{i:05d}_{number:02d}.png"
                rows.append(sample_row(config, flags, file, i, label[i], position[i], bits)
                            | {"temperature": temperature})
                save_png(unfinished / file, image)
                images.append(image)
        write_csv(unfinished / "samples.csv", rows)
        crops = dataset.crop(np.stack(images), dataset.Box(*config["crop_box"])) / 255
        crops = crops.reshape(len(variants), -1, *crops.shape[1:])[:, :COLUMNS]  # (variants, N, H, W, 1)
        shown, names = evenly(np.arange(len(variants)), ROWS), list(variants)
        sheet, row_names = list(crops[shown]), [names[i] for i in shown]
        if len(variants) == 2:
            sheet, row_names = [*sheet, crops[1] - crops[0]], [*row_names, "difference"]
        image_sheet(unfinished / "sheet.png", np.concatenate(sheet), crops.shape[1], row_names, title=title,
                    differences=(2,) if len(variants) == 2 else ())
        if animation:
            frames = [unfinished / f"frame_{i:03d}.png" for i in range(len(variants))]
            for frame, row, row_name in zip(frames, crops, names, strict=True):
                image_sheet(frame, row, len(row), title=f"{row_name}; {title}")
            save_animation(unfinished / animation, frames, milliseconds=300)
    print(f"{len(rows)} images; {title}: {out / 'sheet.png'}" + (f", {out / animation}" if animation else ""))


def interpolate(flags):
    """Write sheet.png, interpolation.csv and the images of two ways from one sample to another.

    Mixed are the vectors of their codes, step by step, and each is put on its nearest code: no slices of the model.
    Turned are the normal numbers behind their uniform ones, along an arc that leaves them normal: each is a sample.
    """
    import numpy as np
    from scipy.stats import norm

    import dataset
    from metrics import prior_bits

    folder, config = open_run(flags.run)
    if flags.num_images < 3:
        raise UserError("--interpolate needs --num-images 3 or more: two are the ends")
    conditions = [int(ids[0]) for ids in choose_conditions(flags, config, read_slices(folder))]
    out = output_folder(flags, folder, "interpolate-{time}")
    with new_folder(out) as unfinished:
        start_tensorflow()
        vqvae, prior = load_models(folder)
        count, steps = flags.num_images, np.linspace(0, 1, flags.num_images)[:, None, None]  # (N, 1, 1)
        columns = {name: np.full(count, value, np.int32) for name, value in zip(("label", "position"), conditions,
                                                                                strict=True)}
        ends = [random_generator(flags.seed, "codes", i).random(prior.grid, np.float32) for i in range(2)]
        normal = norm.ppf(np.clip(ends, 1e-7, 1 - 1e-7).astype(np.float64))  # (2, h, w)
        angles = steps * np.pi / 2
        uniforms = norm.cdf(np.cos(angles) * normal[0] + np.sin(angles) * normal[1]).astype(np.float32)
        turned = np.asarray(prior.sample(uniforms, columns["label"], columns["position"])[0])  # (N, h, w)
        first, last = (np.asarray(vqvae.quantizer.embed(codes)) for codes in (turned[0], turned[-1]))  # (h, w, D)
        mixed = (1 - steps[..., None]) * first + steps[..., None] * last  # (N, h, w, D)
        mixed = np.asarray(vqvae.quantizer.nearest(mixed.astype(np.float32)))
        rows, images, captions = [], [], []
        for way, codes in (("mixed", mixed), ("turned", turned)):
            bits = prior_bits(prior, codes, columns).sum(axis=(1, 2))
            crops = to_bytes(np.asarray(vqvae.decode(codes)))[..., None]  # (N, H, W, 1)
            for i, image in enumerate(dataset.paste(crops, dataset.Box(*config["crop_box"]), config["frame"])):
                file = f"{way}_{i:05d}.png"
                rows.append({**sample_row(config, flags, file, i, *conditions, -bits[i]), "way": way,
                             "step": f"{steps[i, 0, 0]:.4f}"})
                save_png(unfinished / file, image)
            images.append(crops)
            captions += [f"{value:.0f} bits" for value in bits]
        write_csv(unfinished / "interpolation.csv", rows)
        title = f"two ways between two samples by {folder.name}: no step is a person between two people"
        image_sheet(unfinished / "sheet.png", np.concatenate(images), count, ("codes\nmixed", "numbers\nturned"),
                    captions, title)
    print(f"{len(rows)} images; {title}: {out / 'sheet.png'}")


# ---- slices that the models have not been fitted to ---------------------------------------------


def draw_held_out(flags, config, slices, count):
    """``count`` slices of validation people, of as many people as there are, drawn by the seed.

    Returns:
        Their rows of the index, and the images (count, H, W, 1) uint8 in the run's frame.

    Raises:
        UserError: there are not so many, or the run's data is not there.
    """
    import dataset

    root = flags.data or config["data"]
    if not Path(root).is_dir():
        raise UserError(f"the run's data {root} is not there: say where with --data")
    slices = slices[slices["split"] == "validation"]
    shuffled = slices.sample(frac=1, random_state=random_generator(flags.seed, "held-out slices"))
    turn = shuffled.groupby("subject").cumcount()  # 0 for the first slice of each person, 1 for the second …
    drawn = shuffled.iloc[turn.argsort(kind="stable")][:count]
    loaded = dataset.load_images(root, drawn["path"].tolist(), tuple(config["frame"]))
    if len(loaded.images) < count:
        raise UserError(f"the run has {len(loaded.images)} usable slices of validation people, not {count}: ask for "
                        "fewer")
    return drawn, loaded.images


# ---- the poster ---------------------------------------------------------------------------------


def gallery(flags):
    """Write gallery.png: samples by label and position, completions, the codes, and what was measured."""
    import numpy as np

    import dataset
    from metrics import condition_ids, encode_images, evenly

    folder, config = open_run(flags.run)
    slices = read_slices(folder)
    try:
        given, originals = draw_held_out(flags, config, slices, COMPLETED)
    except UserError as error:
        given, originals = None, None
        print(f"{error}; samples are completed instead")
    out = output_folder(flags, folder, "gallery-{time}")
    with new_folder(out) as unfinished:
        start_tensorflow()
        import report

        vqvae, prior = load_models(folder)
        box = dataset.Box(*config["crop_box"])
        labels = 1 + np.arange(min(len(config["labels"]), MOST_LABELS))
        rows = np.repeat(labels, 2 if len(labels) < 3 else 1)  # labels of the poster's rows
        positions = evenly(1 + np.arange(config["num_positions"]), COLUMNS)
        label, position = (ids.ravel().astype(np.int32) for ids in np.meshgrid(rows, positions, indexing="ij"))
        samples = np.stack([image for _, image, _ in sample_images((vqvae, prior), config, flags, label, position)])
        if originals is None:
            originals, columns = samples[:COMPLETED], {"label": label[:COMPLETED], "position": position[:COMPLETED]}
        else:
            columns = condition_ids(given, config["labels"])
        completions = complete_top(vqvae, prior, flags.seed, encode_images(vqvae, originals, box), columns)
        everything = dataset.crop(np.concatenate([samples, originals]), box)  # (N, h, w, 1) uint8
        codes = encode_images(vqvae, np.concatenate([samples, originals]), box)
        report.write_gallery(unfinished / "gallery.png", folder, config, {
            "samples": everything[: len(samples)], "rows": [config["labels"][i - 1] for i in rows],
            "positions": positions - 1, "originals": everything[len(samples):], "completions": completions,
            "completed": "samples" if given is None else "validation slices",
            "uses": np.bincount(codes.ravel(), minlength=config["num_codes"]),
            "patches": report.code_patches(codes, everything / 255, config["num_codes"])})
    print(out / "gallery.png")


def complete_top(vqvae, prior, seed, codes, columns):
    """Keep the upper half of each grid (N, h, w) and draw the rest: (N, COLUMNS - 2, H, W, 1) uint8."""
    import numpy as np

    count, (h, w) = COLUMNS - 2, codes.shape[1:]
    known = np.repeat(codes, count, axis=0)  # (N count, h, w)
    mask = np.broadcast_to(np.arange(h)[:, None] < h // 2, known.shape)
    uniforms = np.stack([random_generator(seed, "completions", i).random((h, w), np.float32)
                         for i in range(len(known))])
    label, position = (np.repeat(columns[name], count) for name in ("label", "position"))
    drawn, _ = prior.sample(uniforms, label, position, known=known, mask=mask)
    images = to_bytes(np.asarray(vqvae.decode(drawn)))[..., None]  # (N count, H, W, 1)
    return images.reshape(len(codes), count, *images.shape[1:])


# ---- export -------------------------------------------------------------------------------------


def export(flags):
    """Write the models as a SavedModel with the endpoints encode, decode and sample, and what they are about."""
    folder, config = open_run(flags.run)
    out = Path(flags.export)
    with new_folder(out) as unfinished:
        start_tensorflow()
        import modules

        models = load_models(folder)
        archive = modules.export_archive(*models, config["crop_box"], config["frame"], BLOCK)
        archive.write_out(str(unfinished), verbose=False)
        save_json(unfinished / "about.json", {name: config[name] for name in ABOUT} | {"run": folder.name})
        if (folder / "MODEL_CARD.md").is_file():
            shutil.copy2(folder / "MODEL_CARD.md", unfinished)
    print(f"{out}: a SavedModel with encode, decode and sample; about.json names the labels, MODEL_CARD.md the terms")


# ---- the reader study -----------------------------------------------------------------------------


def reader_study(flags):
    """Write study.html, a blinded page of real slices and samples, and key.csv, which tells them apart.

    Each real slice has a sample of its label and position; both are cropped and stored alike.
    """
    import numpy as np

    import dataset
    from metrics import condition_ids

    folder, config = open_run(flags.run)
    count = flags.reader_study
    real, originals = draw_held_out(flags, config, read_slices(folder), count)
    out = output_folder(flags, folder, "reader-study-{time}")
    with new_folder(out) as unfinished:
        start_tensorflow()
        import report

        columns = condition_ids(real, config["labels"])
        samples = [image for _, image, _ in
                   sample_images(load_models(folder), config, flags, columns["label"], columns["position"])]
        images = dataset.crop(np.concatenate([originals, samples]), dataset.Box(*config["crop_box"]))  # (2N, h, w, 1)
        order = random_generator(flags.seed, "reader study").permutation(2 * count)
        mark = report.SIMULATED if config["simulated"] else None if flags.cc0 else report.MARK
        study = report.write_reader_study(unfinished / "study.html", images[order], mark)
        write_csv(unfinished / "key.csv", [
            {"study": study, "image": place + 1, "truth": "real" if i < count else "sampled",
             "source": real["path"].iloc[i] if i < count else f"sample {i - count} of seed {flags.seed}",
             "label": real["label"].iloc[i % count], "position": real["position"].iloc[i % count]}
            for place, i in enumerate(order)])
    print(f"{out / 'study.html'} is for the reader; {out / 'key.csv'} tells which are real: keep it to yourself\n"
          f"next: put the reader's answers beside the key, and python predict.py --reader-score {out}/answers.csv")


def reader_score(flags):
    """Print how many slices a reader told right, with Wilson intervals (Wilson 1927)."""
    import pandas as pd

    answers = read_columns(Path(flags.reader_score), ("study", "image", "answer"))
    key = read_columns(Path(flags.reader_score).with_name("key.csv"), ("study", "image", "truth"))
    if set(answers["study"]) != set(key["study"]):
        raise UserError(f"{flags.reader_score} answers another study than the key.csv beside it")
    both = pd.merge(answers, key, on="image", how="left")
    if both["truth"].isna().any() or not set(answers["answer"]) <= {"real", "sampled"}:
        raise UserError(f"{flags.reader_score} is not as the page wrote it: each answer must be real or sampled, and "
                        "each image one of the key's")
    if answers["image"].duplicated().any():
        raise UserError(f"{flags.reader_score} answers image {answers['image'][answers['image'].duplicated()].iloc[0]} "
                        "twice: score one reader at a time")
    right = both["answer"] == both["truth"]
    print(f"accuracy: {proportion(right)}; guessing is 0.5")
    for truth in ("real", "sampled"):
        print(f"{truth} slices told: {proportion(right[both['truth'] == truth])}")
    print(f"{len(key) - len(answers)} of {len(key)} images were not answered; intervals are Wilson's, 95 %, and take "
          "the answers for independent")


def read_columns(path, names):
    """A CSV with these columns, all of them text but ``image``.

    Raises:
        UserError: it is not there, or has not these columns.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return table.assign(image=table["image"].astype(int))[list(names)]
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read as a table of {', '.join(names)} ({reason})") from None


def proportion(right):
    """A Series of bool as text: how many, their share, its Wilson interval."""
    from scipy.stats import binomtest

    if not len(right):
        return "none answered"
    share = binomtest(int(right.sum()), len(right))
    low, high = share.proportion_ci(method="wilson")
    return f"{right.sum()} of {len(right)}, {right.mean():.3f} [{low:.3f}, {high:.3f}]"


# ---- the script -------------------------------------------------------------------------------

MODES = {"reconstruct": reconstruct, "complete": complete, "score": score, "compare_labels": compare_labels,
         "sweep_positions": sweep_positions, "temperature_sweep": temperature_sweep, "interpolate": interpolate,
         "gallery": gallery, "export": export, "reader_study": reader_study, "reader_score": reader_score}


def main(argv):
    """Make what the flags ask for, by default samples; see ``python predict.py --help``."""
    flags = parse_flags(argv)
    mode = next((name for name in MODES if getattr(flags, name)), None)
    MODES.get(mode, sample)(flags)


if __name__ == "__main__":
    run_script(main)
