"""Are bad generators caught? Seven of them, judged by evaluate.py --generated; run by hand.

    python tests/cheats.py --run brains --out ReducedResults/cheats.csv

Real are the run's validation and test people; its training people are halved: one half is --train, the
other, which --train does not know, is the control: what a perfect generator would make.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parent.parent))

import evaluate
import report
from utils import load_json, random_generator, save_png, to_bytes, whole_file

NUMBERS = ("samples.frechet", "samples.kid", "samples.c2st", "samples.patches", "samples.diversity",
           "memorisation.nn_ratio", "memorisation.copies_fraction")


def make_generators(training, reconstructions, control, reference):
    """Name → images (N, H, W) uint8 that stand for the slices of ``reference`` one by one."""
    def drawn(draw, images=training):
        return evaluate.draw_null(images, reference, 0, draw)

    people, rows = drawn(0)
    decoded = reconstructions.images[rows]
    random = random_generator(0, "cheats")
    one = training.take(training.person == people.person[0])
    elsewhere = random.permutation(np.unique(reference.position))
    moved = dict(zip(np.unique(reference.position), np.roll(elsewhere, 1)[np.argsort(elsewhere)], strict=True))
    displaced = evaluate.replace_images(reference, reference.images)
    displaced.position = np.array([moved[position] for position in reference.position])
    return {
        "control: slices of other people": drawn(0, control)[0].images,
        "Gaussian in the PCA space of training slices": evaluate.gaussian_images(training, reference, 0),
        "training reconstructions, shifted 2 px, gain 2 %": to_bytes(np.roll(decoded, 2, axis=2) / 255 * 1.02),
        "blurred training slices": np.stack([ndimage.gaussian_filter(image, 1.5) for image in people.images]),
        "means of two people": to_bytes((people.images / 255 + drawn(1)[0].images / 255) / 2),
        "one person repeated": one.images[np.abs(one.position[:, None] - reference.position).argmin(axis=0)],
        "reconstructions plus noise with the missing spectrum": noisy(people.images, decoded, random),
        "right slices at wrong positions": evaluate.draw_null(training, displaced, 0, 0)[0].images,
    }


def noisy(originals, reconstructions, random):
    """Reconstructions with noise in the brain that has the power which they lack."""
    from metrics import brain_mask, ring_numbers, ring_sums

    shape, bands = originals.shape[1:], min(originals.shape[1:]) // 2
    power = [sum(ring_sums(np.abs(np.fft.fft2(image / 255)) ** 2, bands) for image in images) / len(images)
             for images in (originals, reconstructions)]
    missing = np.maximum(power[0] - power[1], 0) / np.maximum(ring_sums(np.ones(shape), bands), 1)
    amplitude = np.append(np.sqrt(missing), 0)[ring_numbers(shape, bands)] / np.sqrt(np.prod(shape))
    images = []
    for original, image in zip(originals, reconstructions, strict=True):
        mask = brain_mask(original)
        noise = np.fft.ifft2(np.fft.fft2(random.standard_normal(shape)) * amplitude).real
        images.append(to_bytes(image / 255 + noise * mask / np.sqrt(max(mask.mean(), 1e-3))))
    return np.stack(images)


def write(folder, images, labels):
    """An ImageSet in the ADNI layout, slices of a person numbered by position."""
    for image, label, position, person in zip(images.images, images.label, images.position, images.person, strict=True):
        place = folder / labels[label - 1]
        place.mkdir(parents=True, exist_ok=True)
        save_png(place / f"{person}_{position:03d}.png", image)


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--data")
    parser.add_argument("--out", required=True)
    flags = parser.parse_args(argv)
    run = evaluate.Run(evaluate.parse_flags(["--run", flags.run] + (["--data", flags.data] if flags.data else [])))
    evaluate.note_look(run.folder, f"cheats.py {' '.join(argv)}")
    parts = {split: run.load(split) for split in ("train", "validation", "test")}

    def image_set(split, name):
        return run.image_set(parts[split], parts[split][name])

    training, reconstructions = image_set("train", "crops"), image_set("train", "reconstructions")
    real = [image_set(split, "crops") for split in ("validation", "test")]
    reference = type(training)(*(np.concatenate([getattr(part, name) for part in real]) for name in vars(training)))
    known = np.isin(training.person, np.unique(training.person)[::2])
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder / "real", reference, run.config["labels"])
        write(folder / "train", training.take(known), run.config["labels"])
        generators = make_generators(training.take(known), reconstructions.take(known), training.take(~known),
                                     reference)
        for number, (name, images) in enumerate(generators.items()):
            cheat = evaluate.replace_images(reference, images)
            cheat.person = np.array([f"g{person}" for person in reference.person])
            write(folder / f"cheat{number}", cheat, run.config["labels"])
            out = folder / f"out{number}"
            evaluate.main(["--real", str(folder / "real"), "--train", str(folder / "train"), "--out", str(out),
                           "--generated", str(folder / f"cheat{number}")])
            metrics = load_json(out / "metrics.json")
            row = {"generator": name}
            for key in NUMBERS:
                section, metric = key.split(".")
                value, null = metrics[section][metric], metrics[section][f"{metric}_null"]
                row[metric] = value["value"] if isinstance(value, dict) else value
                row[f"{metric}_excess"] = report.excess(metric, value, null)
            row["copies_found"] = metrics["memorisation"]["flagged"]
            row["caught_by"] = ", ".join(key.split(".")[1] for key in NUMBERS if row[f"{key.split('.')[1]}_excess"] > 1)
            rows.append(row)
            print(f"{name}: caught by {row['caught_by'] or 'nothing'}", flush=True)
    with whole_file(flags.out) as path:
        pd.DataFrame(rows).round(4).to_csv(path, index=False)


if __name__ == "__main__":
    main(sys.argv[1:])
