"""Make brain images with a finished run: sample new ones, or reconstruct given ones.

Samples are drawn code by code from the prior and decoded by the VQ-VAE. Image i of a run of this script
depends on the seed and on i alone, whatever the number of images.
"""

import argparse
import datetime
import re
import time
from pathlib import Path

from utils import (
    Parser,
    UserError,
    image_sheet,
    load_models,
    new_folder,
    number,
    open_run,
    progress,
    random_generator,
    read_slices,
    run_script,
    save_png,
    start_tensorflow,
    to_bytes,
    write_csv,
)

BLOCK = 32  # images per sampling call, always: floating-point sums differ with the shape of the batch
COLUMNS = 8  # images per row of a sheet
NONE = "none"


def parse_flags(argv):
    """The flags as a namespace."""
    parser = Parser(description=__doc__.split("\n\n")[0],
                    epilog="example: python predict.py --run demo --num-images 32 --label AD --seed 1")
    parser.add_argument("--run", metavar="NAME", help="name under runs/, or a path (default: the newest finished run)")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: <run>/samples/<date-time>)")
    parser.add_argument("--reconstruct", metavar="DIR", help="reconstruct the images in DIR instead of sampling")
    group = parser.add_argument_group("sampling")
    group.add_argument("--num-images", type=number(int, 1, 1000000), default=16, metavar="N", help="(default 16)")
    group.add_argument("--label", help="a label of the run, or none for the unconditional model "
                                       "(default: drawn from the training mix)")
    group.add_argument("--position", help="0 (lowest slice) upwards, or none (default: drawn from the training mix)")
    group.add_argument("--temperature", type=number(float, 0.01, 100), default=1.0, help="(default 1)")
    group.add_argument("--top-k", type=number(int, 1), metavar="K", help="draw from the K likeliest codes only")
    group.add_argument("--top-p", type=number(float, 0.001, 1), metavar="P",
                       help="draw from the likeliest codes that reach probability P only")
    group.add_argument("--seed", type=number(int, 0, 2**31 - 1), default=0, help="(default 0)")
    group.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N",
                       help="make the I-th of N parts of the images, as one process would make them")
    return parser.parse_args(argv)


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
    if flags.label is not None:
        if flags.label not in (*config["labels"], NONE):
            raise UserError(f"unknown --label {flags.label}: this run has {', '.join(config['labels'])} and none")
        label = np.full_like(label, 0 if flags.label == NONE else config["labels"].index(flags.label) + 1)
    if flags.position is not None:
        known = [str(i) for i in range(config["num_positions"])]
        if flags.position not in (*known, NONE):
            raise UserError(f"unknown --position {flags.position}: this run has 0 to {known[-1]} and none")
        position = np.full_like(position, 0 if flags.position == NONE else int(flags.position) + 1)
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
    for start in progress(starts, desc="sampling", unit=" blocks"):
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


def sample(flags):
    """Write brain_00000.png …, sheet.png and samples.csv into a new folder."""
    import numpy as np

    import dataset

    folder, config = open_run(flags.run)
    part, parts = flags.shard
    if parts > flags.num_images:
        raise UserError(f"--shard {part}/{parts}: {flags.num_images} images make {flags.num_images} parts at most")
    label, position = choose_conditions(flags, config, read_slices(folder))
    name = f"{datetime.datetime.now():%Y%m%d-%H%M%S}" + (f"-{part}of{parts}" if parts > 1 else "")
    out = Path(flags.out) if flags.out else folder / "samples" / name
    with new_folder(out) as unfinished:
        start_tensorflow()
        models = load_models(folder)
        rows, shown = [], []
        for i, image, bits in sample_images(models, config, flags, label, position):
            row = {"file": f"brain_{i:05d}.png", "index": i, "seed": flags.seed,
                   "label": config["labels"][label[i] - 1] if label[i] else NONE,
                   "position": position[i] - 1 if position[i] else NONE, "log_likelihood_bits": f"{bits:.4f}"}
            save_png(unfinished / row["file"], image)
            rows.append(row)
            if len(shown) < 64:
                shown.append(image)
        write_csv(unfinished / "samples.csv", rows)
        captions = [f"{row['label']}, {row['position']}" for row in rows[: len(shown)]]
        shown = dataset.crop(np.stack(shown), dataset.Box(*config["crop_box"]))
        image_sheet(unfinished / "sheet.png", shown, min(COLUMNS, len(shown)), captions=captions,
                    title=f"samples of {folder.name} (label, position)")
    print(f"{len(rows)} samples: {out / 'sheet.png'}, {out / 'samples.csv'}")


# ---- reconstruction ---------------------------------------------------------------------------


def reconstruct(flags):
    """Write originals, reconstructions and differences of the images in a folder, and their metrics."""
    import numpy as np

    import dataset
    from metrics import encode_images, evenly, image_metrics, mean_by_person, value_of

    folder, config = open_run(flags.run, stage="vqvae")
    slices = dataset.find_slices(flags.reconstruct, config["subject_pattern"], config["metadata"])
    out = Path(flags.out) if flags.out else folder / "samples" / f"reconstruct-{datetime.datetime.now():%Y%m%d-%H%M%S}"
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
    if outside.any():
        print(f"{outside.sum()} of {len(outside)} images have brain outside the run's crop box; it is cut off")
    metrics = [{key: value for key, value in row.items() if isinstance(value, float)} for row in rows]
    means = {key: value_of(value) for key, value in mean_by_person(metrics, slices["subject"]).items()}
    print(f"{len(rows)} images of {slices['subject'].nunique()} people; means over people: "
          + ", ".join(f"{key} {value:.4g}" for key, value in means.items() if value is not None))
    print(f"{out / 'sheet.png'}, {out / 'reconstructions.csv'}")


# ---- the script -------------------------------------------------------------------------------


def main(argv):
    """Sample or reconstruct; see ``python predict.py --help``."""
    flags = parse_flags(argv)
    (reconstruct if flags.reconstruct else sample)(flags)


if __name__ == "__main__":
    run_script(main)
