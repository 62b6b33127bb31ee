"""Are bad generators caught, and a perfect one let pass? Seven, and two perfect ones, judged twice; run by hand.

    python experiments/cheats.py --run brains --out ReducedResults/cheats.csv

They stand for slices of the run's validation and test people, and are set against these slices and against their
reconstructions. Two thirds of the run's training people are what the generators were made of; the others, of whom the
judge knows nothing, play a perfect generator: their slices that of slices, their reconstructions that of
reconstructions.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from utils import Parser, random_generator, run_script, shell, whole_file

# ---- the generators -----------------------------------------------------------------------------


def make_generators(slices, reconstructions, control, decoded_control, reference):
    """Name -> ImageSet that stands for the slices of ``reference`` one by one.

    Args:
        slices, reconstructions: ImageSets of the people that the generators were made of.
        control, decoded_control: the same, of the people who play a perfect generator.
        reference: ImageSet of slices of unseen people.
    """
    import numpy as np
    from scipy import ndimage

    from metrics.measured import as_samples, join
    from metrics.nulls import gaussian_images, independent_rows
    from slices.frame import to_bytes

    random = random_generator(0, "cheats")
    count = len(control.person), len(reference.person)
    perfect = independent_rows(join(control, reference), count[0] + np.arange(count[1]), np.arange(count[0]), random)
    rows = stand_ins(slices, reference, random)
    others = stand_ins(slices, reference, random, slices.person[rows])
    images, decoded = slices.images[rows], reconstructions.images[rows]
    places = {"label": reference.label, "position": reference.position}
    cheats = {
        "Gaussian in the PCA space of training slices": gaussian_images(slices, reference.position, 0),
        "training reconstructions, shifted 2 px, gain 2 %": to_bytes(np.roll(decoded, 2, axis=2) / 255 * 1.02),
        "blurred training slices": np.stack([ndimage.gaussian_filter(image, 1.5) for image in images]),
        "means of two people": to_bytes((images / 255 + slices.images[others] / 255) / 2),
        "one person repeated": repeat_one(slices, slices.person[rows[0]], reference.position),
        "reconstructions plus noise with the missing spectrum": noisy(images, decoded, random),
        "right slices at wrong positions": slices.images[stand_ins(slices, displace(reference, random), random)],
    }
    return {  # slices of one person stay known as such in the control: there are too few people for one each
        "control: slices of other people": replace(control.take(perfect), **places),
        "control: reconstructions of other people": replace(decoded_control.take(perfect), **places),
        **{name: as_samples(reference, images) for name, images in cheats.items()},
    }


def stand_ins(pool, reference, random, not_of=None):
    """A row of the pool for each slice of the reference, each drawn for itself: of its label, at the nearest position.

    Args:
        pool, reference: ImageSets.
        not_of: (N,) of str, whose slice must not stand for which.
    """
    import numpy as np

    rows = []
    for i, (label, position) in enumerate(zip(reference.label, reference.position, strict=True)):
        fits = (pool.label == label) if (pool.label == label).any() else np.ones(len(pool.label), bool)
        if not_of is not None:
            fits = fits & (pool.person != not_of[i])
        distance = np.where(fits, np.abs(pool.position - position), np.inf)
        rows.append(random.choice(np.flatnonzero(distance == distance.min())))
    return np.array(rows)


def displace(reference, random):
    """The reference with positions that none of its slices has: each position becomes another one."""
    import numpy as np

    from metrics.measured import replace_images

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


def load_people(name, data, command):
    """A run's training people and all its others, each as slices and as reconstructions, ImageSets; and its labels.

    Args:
        command: what to note as the look at test people.
    """
    import numpy as np

    from evaluate import note_look
    from metrics.measured import ImageSet
    from metrics.parts import Cache, check_people, load_part
    from sampling.run import Run

    run = Run(name, data=data)
    run.needs_data()
    check_people(run, "validation")
    note_look(run.folder, command)
    cache = Cache(run)
    training, *others = (
        [part.image_set(part.crops), part.image_set(part.reconstructions)]
        for part in (load_part(run, cache, split) for split in ("train", "validation", "test"))
    )
    names = ("images", "label", "position", "person")
    unseen = [
        ImageSet(*(np.concatenate([getattr(images, name) for images in sides]) for name in names))
        for sides in zip(*others, strict=True)
    ]
    return training, unseen, run.labels


def sets_of(known, unseen, labels):
    """The Sets that generators are judged with, whose samples are still those of nobody: the reference itself.

    Args:
        known, unseen: slices and reconstructions, ImageSets, of the people that generators were made of, and of those
            that they stand for.
    """
    from metrics.folders import softened_copies
    from metrics.measured import as_samples
    from metrics.nulls import halve
    from metrics.samples import Sets, no_more_than_the_pool

    slices, reconstructions = known
    fitted, drawn = halve(slices.person, slices.label, 0)
    kept = no_more_than_the_pool(unseen[0], slices.take(drawn))
    originals, reference = (images.take(kept) for images in unseen)
    nobody = as_samples(reference, reference.images)
    return Sets(
        reference=reference,
        originals=originals,
        fitted=slices.take(fitted),
        pool=reconstructions.take(drawn),
        pool_originals=slices.take(drawn),
        samples=nobody,
        search=slices,
        all_samples=nobody,
        planted=softened_copies(slices, 0),
        labels=labels,
    )


def judge(sets, name, cheat):
    """The rows of the table for one generator, a row for each reference.

    Args:
        sets: Sets, in which the generator takes the place of the samples.
        cheat: ImageSet.
    """
    from metrics.memorisation import measure_memorisation
    from metrics.samples import measure_samples

    sets = replace(sets, samples=cheat, all_samples=cheat)
    slices_alone = replace(sets, reference=sets.originals, pool=sets.pool_originals)  # what copies are searched among
    return summarise(name, measure_samples(sets, 0, [])[0], measure_memorisation(slices_alone, 0)[0])


def summarise(name, samples, memorisation):
    """What the sections samples and memorisation of metrics.json say of a generator: a row for each reference.

    A generator is caught by the numbers that are told apart, and by an audit that flags copies.
    """
    from report.numbers import REFERENCES, TOLD_APART, judged, value_of

    rows = []
    for reference, (against, _) in REFERENCES.items():
        found = list(judged(samples[reference]))
        told_apart = [key for key, section, name in found if section[f"{name}_verdict"] == TOLD_APART]
        caught_by = told_apart + ["copies"] * memorisation["flagged"]
        row = {"generator": name, "against": against, "numbers": len(found), "told_apart": len(told_apart)}
        row |= {"copies_found": memorisation["flagged"], "caught_by": ", ".join(caught_by)}
        row |= {name: value_of(memorisation[name]) for name in ("nn_ratio", "copies_fraction")}
        rows.append(row | {f"{key}_p": section[f"{name}_p"] for key, section, name in found})
    return rows


def main(argv):
    """Make and judge them; see ``python experiments/cheats.py --help``."""
    parser = Parser(prog="experiments/cheats.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", required=True, help="a finished run")
    parser.add_argument("--data", metavar="DIR", help="where the run's slices are now (default: where they were)")
    parser.add_argument("--out", required=True, metavar="CSV")
    flags = parser.parse_args(argv)
    import numpy as np
    import pandas as pd

    training, unseen, labels = load_people(flags.run, flags.data, shell("experiments/cheats.py", *argv))
    people = np.unique(training[0].person)
    is_known = np.isin(training[0].person, people[np.arange(len(people)) % 3 > 0])
    known, control = ([images.take(which) for images in training] for which in (is_known, ~is_known))
    sets = sets_of(known, unseen, labels)
    rows = []
    for name, cheat in make_generators(*known, *control, sets.originals).items():
        rows += judge(sets, name, cheat)
        for row in rows[-2:]:
            print(f"{name}, against {row['against']}: caught by {row['caught_by'] or 'nothing'}", flush=True)
    with whole_file(flags.out) as path:
        pd.DataFrame(rows).round(6).to_csv(path, index=False)


if __name__ == "__main__":
    run_script(main)
