"""Are bad generators caught? Seven of them, judged by evaluate.py folder; run by hand.

    python experiments/cheats.py --run brains --out ReducedResults/cheats.csv

Real are the run's validation and test people; its training people are halved: one half is --train, the
other, which --train does not know, is the control: what a perfect generator would make.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from utils import Parser, load_json, random_generator, run_script, shell, whole_file

# ---- the generators -----------------------------------------------------------------------------


def make_generators(training, reconstructions, control, reference):
    """Name -> images (N, H, W) uint8 that stand for the slices of ``reference`` one by one; all are ImageSets."""
    import numpy as np
    from scipy import ndimage

    from metrics.nulls import draw_null, gaussian_images
    from slices.frame import to_bytes

    people, rows = draw_null(training, reference, 0, 0)
    others = draw_null(training, reference, 0, 1)[0]
    decoded = reconstructions.images[rows]
    random = random_generator(0, "cheats")
    displaced = displace(reference, random)
    return {
        "control: slices of other people": draw_null(control, reference, 0, 0)[0].images,
        "Gaussian in the PCA space of training slices": gaussian_images(training, reference.position, 0),
        "training reconstructions, shifted 2 px, gain 2 %": to_bytes(np.roll(decoded, 2, axis=2) / 255 * 1.02),
        "blurred training slices": np.stack([ndimage.gaussian_filter(image, 1.5) for image in people.images]),
        "means of two people": to_bytes((people.images / 255 + others.images / 255) / 2),
        "one person repeated": repeat_one(training, people.person[0], reference.position),
        "reconstructions plus noise with the missing spectrum": noisy(people.images, decoded, random),
        "right slices at wrong positions": draw_null(training, displaced, 0, 0)[0].images,
    }


def displace(reference, random):
    """The reference with positions that none of its slices has: each position becomes another one."""
    import numpy as np

    from metrics.sets import replace_images

    elsewhere = random.permutation(np.unique(reference.position))
    moved = dict(zip(np.unique(reference.position), np.roll(elsewhere, 1)[np.argsort(elsewhere)], strict=True))
    displaced = replace_images(reference, reference.images)
    displaced.position = np.array([moved[position] for position in reference.position])
    return displaced


def repeat_one(training, person, position):
    """The slices of one person that are nearest to the positions (N,)."""
    import numpy as np

    one = training.take(training.person == person)
    return one.images[np.abs(one.position[:, None] - position).argmin(axis=0)]


def noisy(originals, reconstructions, random):
    """Reconstructions with noise in the brain that has the power which they lack: (N, H, W) uint8, all three."""
    import numpy as np

    from metrics.images import mean_spectrum, ring_numbers
    from slices.frame import brain_mask, to_bytes

    shape, count = originals.shape[1:], len(originals)
    power = [mean_spectrum(images, count)[1] for images in (originals, reconstructions)]
    missing = np.maximum(power[0] - power[1], 0)
    amplitude = np.append(np.sqrt(missing), 0)[ring_numbers(shape, len(missing))] / np.sqrt(np.prod(shape))
    images = []
    for original, image in zip(originals, reconstructions, strict=True):
        mask = brain_mask(original)
        noise = np.fft.ifft2(np.fft.fft2(random.standard_normal(shape)) * amplitude).real
        images.append(to_bytes(image / 255 + noise * mask / np.sqrt(max(mask.mean(), 1e-3))))
    return np.stack(images)


# ---- judging them -------------------------------------------------------------------------------


def load_sets(name, data, command):
    """The slices of a run's training people, their reconstructions, its other people's slices: ImageSets; the labels.

    Args:
        command: what to note as the look at test people.
    """
    import numpy as np

    from evaluate import note_look
    from metrics.parts import Cache, check_people, load_part
    from sampling.run import Run

    run = Run(name, data=data)
    run.needs_data()
    check_people(run, "validation")
    note_look(run.folder, command)
    cache = Cache(run)
    parts = {split: load_part(run, cache, split) for split in ("train", "validation", "test")}
    training, *real = (part.image_set(part.crops) for part in parts.values())
    reference = type(training)(*(np.concatenate([getattr(part, name) for part in real]) for name in vars(training)))
    return training, parts["train"].image_set(parts["train"].reconstructions), reference, run.labels


def write(folder, images, labels):
    """An ImageSet in the ADNI layout, slices of a person numbered by position."""
    from slices.images import save_png

    for image, label, position, person in zip(images.images, images.label, images.position, images.person, strict=True):
        place = folder / labels[label - 1]
        place.mkdir(parents=True, exist_ok=True)
        save_png(place / f"{person}_{position:03d}.png", image)


def judge(folder, number, name, images, reference, labels):
    """A row of the table: what evaluate.py makes of these images, beside real/ and train/ in the folder."""
    import numpy as np

    from evaluate import evaluate_folder
    from metrics.sets import replace_images

    cheat = replace_images(reference, images)
    cheat.person = np.array([f"g{person}" for person in reference.person])
    generated, out = folder / f"cheat{number}", folder / f"out{number}"
    write(generated, cheat, labels)
    evaluate_folder(str(generated), str(folder / "real"), str(folder / "train"), out=out)
    return summarise(name, load_json(out / "metrics.json"))


def summarise(name, metrics):
    """OF_SAMPLES of a metrics.json, by how much each exceeds its null band, and those beyond by more than its width."""
    from metrics.comparison import OF_SAMPLES
    from report.numbers import excess, value_of

    row, caught_by = {"generator": name}, []
    for key in OF_SAMPLES:
        section, metric = key.split(".")
        value, null = metrics[section][metric], metrics[section][f"{metric}_null"]
        row[metric] = value_of(value)
        row[f"{metric}_excess"] = excess(metric, value, null)
        if row[f"{metric}_excess"] > 1:
            caught_by.append(metric)
    return row | {"copies_found": metrics["memorisation"]["flagged"], "caught_by": ", ".join(caught_by)}


def main(argv):
    """Make and judge them; see ``python experiments/cheats.py --help``."""
    parser = Parser(prog="experiments/cheats.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", required=True, help="a finished run")
    parser.add_argument("--data", metavar="DIR", help="where the run's slices are now (default: where they were)")
    parser.add_argument("--out", required=True, metavar="CSV")
    flags = parser.parse_args(argv)
    import numpy as np
    import pandas as pd

    training, reconstructions, reference, labels = load_sets(
        flags.run, flags.data, shell("experiments/cheats.py", *argv)
    )
    known = np.isin(training.person, np.unique(training.person)[::2])
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder / "real", reference, labels)
        write(folder / "train", training.take(known), labels)
        generators = make_generators(
            training.take(known), reconstructions.take(known), training.take(~known), reference
        )
        for number, (name, images) in enumerate(generators.items()):
            rows.append(judge(folder, number, name, images, reference, labels))
            print(f"{name}: caught by {rows[-1]['caught_by'] or 'nothing'}", flush=True)
    with whole_file(flags.out) as path:
        pd.DataFrame(rows).round(4).to_csv(path, index=False)


if __name__ == "__main__":
    run_script(main)
