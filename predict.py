"""Make brain images with a finished run, and what lets others look at it: a poster, an export, a reader study.

Samples are drawn code by code from the prior and decoded by the VQ-VAE. Image i of a run of this script
depends on the seed and on i alone, whatever the number of images.
"""

import argparse
import datetime
import re
import shutil
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
    run_name,
    run_script,
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


def parse_flags(argv):
    """The flags as a namespace."""
    parser = Parser(description=__doc__.split("\n\n")[0],
                    epilog="examples: python predict.py --run demo --num-images 32 --label AD --seed 1\n"
                           "          python predict.py --run demo --gallery\n"
                           "          python predict.py --run demo --export demo-model")
    parser.add_argument("--run", metavar="NAME", help="name under runs/, or a path (default: the newest finished run)")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: <run>/samples/<date-time>)")
    parser.add_argument("--seed", type=number(int, 0, 2**31 - 1), default=0, metavar="N",
                        help="of everything random (default 0)")
    parser.add_argument("--data", metavar="DIR", help="where the run's slices are now (default: where they were)")
    group = parser.add_argument_group("what to make (default: samples)").add_mutually_exclusive_group()
    group.add_argument("--reconstruct", metavar="DIR", help="reconstructions of the images in DIR")
    group.add_argument("--gallery", action="store_true",
                       help="gallery.png, a poster of the run: samples, completions, codes, numbers")
    group.add_argument("--export", metavar="DIR",
                       help="a SavedModel in DIR that encodes, decodes and samples without this code")
    group.add_argument("--reader-study", type=number(int, 1, 1000), metavar="N",
                       help="a page that asks which of N real slices of validation people and N samples are real")
    group.add_argument("--reader-score", metavar="FILE", help="how many a reader told, from the answers of that page")
    group = parser.add_argument_group("sampling")
    group.add_argument("--num-images", type=number(int, 1, 1000000), default=16, metavar="N",
                       help="samples (default 16)")
    group.add_argument("--label", help="a label of the run, or none for the unconditional model "
                                       "(default: drawn from the training mix)")
    group.add_argument("--position", help="0 (lowest slice) upwards, or none (default: drawn from the training mix)")
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
    return flags


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
            row = {"file": save(i, image), "index": i, "seed": flags.seed,
                   "label": config["labels"][label[i] - 1] if label[i] else NONE,
                   "position": position[i] - 1 if position[i] else NONE, "log_likelihood_bits": f"{bits:.4f}"}
            rows.append(row)
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
    if outside.any():
        print(f"{outside.sum()} of {len(outside)} images have brain outside the run's crop box; it is cut off")
    metrics = [{key: value for key, value in row.items() if isinstance(value, float)} for row in rows]
    means = {key: value_of(value) for key, value in mean_by_person(metrics, slices["subject"]).items()}
    print(f"{len(rows)} images of {slices['subject'].nunique()} people; means over people: "
          + ", ".join(f"{key} {value:.4g}" for key, value in means.items() if value is not None))
    print(f"{out / 'sheet.png'}, {out / 'reconstructions.csv'}")


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

MODES = {"reconstruct": reconstruct, "gallery": gallery, "export": export, "reader_study": reader_study,
         "reader_score": reader_score}


def main(argv):
    """Make what the flags ask for, by default samples; see ``python predict.py --help``."""
    flags = parse_flags(argv)
    mode = next((name for name in MODES if getattr(flags, name)), None)
    MODES.get(mode, sample)(flags)


if __name__ == "__main__":
    run_script(main)
