"""Is the yardstick calibrated? A perfect generator is judged hundreds of times; run by hand.

    python dataset.py demo --people 400 --out demo400 --image-size 120 128
    python experiments/calibration.py --data demo400 --out ReducedResults/calibration.json

The generator's samples are slices of fresh simulated people, each of another person as far as they last: nothing is
better. In every repetition people are drawn anew: some to train on, of whom half fit the yardstick; some to be the
split; the rest play the generator. Counted is how often any number is told apart though nothing differs, how often the
95 % intervals of the distances hold the truth, which is 0, and how often the audit takes samples for copies.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from utils import Parser, number, random_generator, run_script, tracker

BLOCK = 10  # repetitions at a time in one process
DISTANCES = ("frechet", "kid", "patches")  # whose truth is 0, for a perfect generator


def load_people(data):
    """All slices of a folder as an ImageSet, in the crop box."""
    from metrics.folders import load_folder
    from metrics.measured import ImageSet
    from slices.frame import brain_crop, crop

    loaded = load_folder(data)
    slices, images = loaded["slices"], loaded["images"]
    return ImageSet(
        crop(images, brain_crop(loaded["brain_boxes"], images.shape[1:3], 8))[..., 0],
        slices["label"].map(sorted(set(slices["label"])).index).to_numpy() + 1,
        slices["position"].to_numpy(int),
        slices["subject"].to_numpy().astype(str),
    )


def draw_roles(everyone, training, split, random):
    """Rows of three groups of people, half of each label: to train on, of the split, and the rest."""
    import numpy as np

    from metrics.nulls import people_of_labels

    groups = [], [], []
    for names in people_of_labels(everyone.person, everyone.label).values():
        names = random.permutation(names)
        for group, chosen in zip(groups, np.split(names, [training // 2, training // 2 + split // 2]), strict=True):
            group += list(chosen)
    return [np.flatnonzero(np.isin(everyone.person, group)) for group in groups]


def sets_of(everyone, roles, seed, random):
    """The Sets of one repetition, without an audit: the generator draws slices of the last of the roles."""
    from metrics.measured import sample_names
    from metrics.nulls import halve, independent_rows
    from metrics.samples import Sets

    training, reference, rest = roles
    halves = halve(everyone.person[training], everyone.label[training], seed)
    fitted, pool = (everyone.take(training[half]) for half in halves)
    originals = everyone.take(reference)
    samples = everyone.take(independent_rows(everyone, reference, rest, random))
    samples.person = sample_names(len(reference))
    nothing = originals.take(slice(0, 0))
    return Sets(
        reference=originals,
        originals=originals,
        fitted=fitted,
        pool=pool,
        pool_originals=pool,
        samples=samples,
        search=nothing,
        all_samples=samples,
        planted=nothing,
        labels=["AD", "NC"],
    )


def repeat(everyone, measured, sizes, repetitions, audits):
    """Some repetitions, a list of dicts: what was told apart, the distances, and the audit's alarm.

    Args:
        everyone, measured: all people as an ImageSet, and as a MeasuredSet.
        sizes: how many people to train on, and in the split.
        repetitions: range; what is random depends on their numbers.
        audits: how many of all repetitions, the first, search for copies, too.
    """
    return [repeat_once(everyone, measured, sizes, number, number < audits) for number in repetitions]


def repeat_once(everyone, measured, sizes, repetition, audit):
    """One row of ``repeat``."""
    from metrics.samples import measure_samples

    roles = draw_roles(everyone, *sizes, random_generator(0, "calibration", repetition))
    sets = sets_of(measured, roles, repetition, random_generator(0, "perfect generator", repetition))
    against = measure_samples(sets, repetition, [], other_people=False)[0]["against_real"]
    row = {name: against[name] for name in ("told_apart", "tests", *DISTANCES)}
    if audit:
        same = sets_of(everyone, roles, repetition, random_generator(0, "perfect generator", repetition))
        row["alarm"] = audited(everyone.take(roles[0]), same, repetition)
    return row


def audited(training, sets, repetition):
    """Whether the audit flags copies of training slices among samples that are none."""
    from dataclasses import replace

    from metrics.folders import softened_copies
    from metrics.memorisation import measure_memorisation

    sets = replace(sets, search=training, planted=softened_copies(training, repetition))
    return measure_memorisation(sets, repetition)[0]["flagged"]


def summarise(rows):
    """The table of calibration.json, with 95 % intervals of Clopper and Pearson of the shares."""
    from scipy.stats import binomtest

    def share(happened):
        interval = binomtest(sum(happened), len(happened)).proportion_ci()
        return {"value": sum(happened) / len(happened), "low": float(interval.low), "high": float(interval.high)}

    def covers(interval):
        return interval["low"] <= 0 <= interval["high"]

    told = [name for row in rows for name in row["told_apart"]]
    alarms = [row["alarm"] for row in rows if "alarm" in row]
    return {
        "false_red": share([bool(row["told_apart"]) for row in rows]),
        "told_apart": {name: told.count(name) for name in sorted(set(told))},
        "coverage": {name: share([covers(row[name]) for row in rows]) for name in DISTANCES},
        "mean_distance": {name: sum(row[name]["value"] for row in rows) / len(rows) for name in DISTANCES},
        "audit_false_alarm": share(alarms) if alarms else None,
        "audits": len(alarms),
        "repetitions": len(rows),
        "tests": rows[0]["tests"],
    }


def main(argv):
    """Repeat and count; see ``python experiments/calibration.py --help``."""
    parser = Parser(prog="experiments/calibration.py", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="slices of simulated people, in one or more folders"
    )
    parser.add_argument("--out", required=True, metavar="JSON")
    parser.add_argument("--repetitions", type=number(int, 1, 100000), default=200, metavar="N", help="(default 200)")
    parser.add_argument("--training", type=number(int, 4, 1000), default=48, metavar="N", help="people (default 48)")
    parser.add_argument("--split", type=number(int, 2, 1000), default=14, metavar="N", help="people (default 14)")
    parser.add_argument(
        "--audits", type=number(int, 0, 100000), default=60, metavar="N", help="repetitions that audit (60)"
    )
    flags = parser.parse_args(argv)
    from experiments.results import replace_sections
    from metrics.measured import measure_slices
    from slices.processes import in_processes

    everyone = load_people(flags.data)
    measured = measure_slices(everyone, tracker("measuring slices", len(everyone.images)))
    sizes = flags.training, flags.split
    blocks = [range(start, min(start + BLOCK, flags.repetitions)) for start in range(0, flags.repetitions, BLOCK)]
    jobs, rows = [(everyone, measured, sizes, block, flags.audits) for block in blocks], []
    for block in in_processes(repeat, jobs):
        rows += block
        replace_sections(flags.out, {"training_people": sizes[0], "split_people": sizes[1]} | summarise(rows))


if __name__ == "__main__":
    run_script(main)
