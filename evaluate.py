"""Measure a finished run, or any folder of images, on held-out people: how good, how varied, how new.

Choosing between models is done on validation people (the default). Every look at test people is appended
to the run's test_looks.csv, so that their number can be stated. A number of samples is never set against a
perfect value but against what a perfect prior would score: the same number with slices of people on whom
nothing was fitted in place of the samples.
"""

import csv
import datetime
import os
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from utils import (
    Command,
    UserError,
    git_commit,
    load_json,
    making_folder,
    new_folder,
    number,
    run_commands,
    run_script,
    save_json,
    shell,
    sweep,
    warn,
    whole_file,
    writing,
)

FEW_PEOPLE = 30
EVALUATION = {  # what there is of one in a folder
    "metrics.json",
    "people.csv",
    "figures",
    "report.html",
    "report_shareable.html",
    "MODEL_CARD.md",
    "test_looks.csv",
    "cache",
}
A_CALL = "a call from Python"  # stands for the command line where there is none


# ---- a run ------------------------------------------------------------------------------------


def evaluate_run(
    run=None,
    split="validation",
    seed=0,
    num_samples=1000,
    quick=False,
    data=None,
    metadata=None,
    shareable=False,
    features=None,
    out=None,
    cache=None,
    command=A_CALL,
):
    """Measure one run and write metrics.json, people.csv, figures and report.html into its folder, or into ``out``.

    Args:
        run: name under runs/, or a path (default: the newest finished run, or else
            the one that comes with the code).
        split: "validation" or "test", the people to measure on; looks at test people are counted.
        seed: int from 0, of everything random.
        num_samples: int from 1, samples for the memorisation search and the figures.
        quick: draw only as many samples as the split has slices.
        data: the folder of the run's slices, where they have moved.
        metadata: an ADNI search CSV, for tables by sex and age.
        shareable: write report_shareable.html, too.
        features: a .npy file of features, or "inception", for one more Fréchet distance.
        out: where to write instead, where the run's folder cannot be written: a new folder, or one with an earlier
            evaluation of the run. Of a run that came with the code it is evaluation/ in its folder.
        cache: the folder for files of decoded slices, when memory is short for them (default: the run's own).
        command: what was typed.

    Raises:
        UserError: there is no such run, it has too few people, its folder cannot be written, another process
            evaluates it, or no shareable report can be written.
    """
    from sampling.run import Run

    run = Run(run, data=data, cache=cache)  # a wrong one is answered before what measures is loaded
    from metrics.participants import read_metadata
    from metrics.parts import check_people
    from slices.processes import held

    check_people(run, split)
    run.needs_data()
    known = read_metadata(metadata, run)  # before the look: a mistake in it costs none
    place = place_for(run, out)
    with ExitStack() as stack:
        with writing(place):
            for folder in (place, place / "cache"):
                stack.enter_context(making_folder(folder))
            for folder in (place, place / "cache", place / "figures"):
                sweep(folder)
        stack.enter_context(held(place / "cache", "being used for an evaluation", needed=False))
        if split == "test":
            note_look(place if run.config.get("shipped") else run.folder, command, place)
        measure_run(run, place, split, seed, num_samples, quick, known, shareable, features, command)


def place_for(run, out):
    """The folder that an evaluation of a run is written into, a Path: its own, or one in it where it is shipped.

    Raises:
        UserError: it cannot be written, or holds something other than an evaluation of this run.
    """
    if out is None and run.config.get("shipped"):
        out = run.folder / "evaluation"  # what came with the code stays as it is
    if out is None:
        if not os.access(run.folder, os.W_OK):
            raise UserError(f"the run folder {run.folder} cannot be written: say with --out where the evaluation goes")
        return run.folder
    place = Path(out)
    if place.resolve() == run.folder.resolve():
        return run.folder
    if place.exists() and not place.is_dir():
        raise UserError(f"--out {out} is a file: choose a new folder")
    there = {path.name for path in place.iterdir() if not path.name.startswith(".")} if place.is_dir() else set()
    earlier = load_json(place / "metrics.json") if "metrics.json" in there else {"run": run.name}
    if not there <= EVALUATION or not isinstance(earlier, dict) or earlier.get("run") != run.name:
        raise UserError(f"--out {out} holds something other than an evaluation of {run.name}: choose a new folder")
    return place


def measure_run(run, place, split, seed, num_samples, quick, known, shareable, features, command):
    """Measure a Run and write what came out into the folder ``place``; ``known`` is a table of the people, or None."""
    from metrics.codes import count_codes
    from metrics.membership import measure_membership
    from metrics.parts import Cache, load_parts
    from metrics.samples import gather_sets, spectra_of
    from report.page import write_report
    from sampling.people import is_told

    kept = Cache(run, seed, place / "cache")
    parts = load_parts(run, kept, split)
    held_out = parts[split]
    metrics = {"run": run.name, "split": split, **count_people(held_out.slices["subject"]), **heading(seed, command)}
    note_few_people(metrics)
    per_slice, bits, baseline = measure_models(run, kept, parts, split, metrics)
    rows = rows_for_sets(parts, split, bits[split], seed, metrics["notes"])
    sets = gather_sets(run, kept, parts, split, rows, baseline, seed, num_samples, quick)
    neighbours = measure_sets(sets, seed, metrics, features, kept.folder / "features_images.npy")
    metrics["memorisation"]["membership"] = measure_membership(run, kept, parts, bits, split, sets.codes.samples, seed)
    if is_told(run):  # else each slice is drawn by itself, and nobody is whole
        measure_stacks(run, kept, parts, split, seed, metrics)
    measure_people(run, place, per_slice, known, metrics)
    save_json(place / "metrics.json", metrics)
    pictures = {
        "sets": sets,
        "neighbours": neighbours,
        "spectra": spectra_of(sets),
        "bits_map": bits[split].prior.mean(axis=0),
        "code_counts": count_codes(held_out.codes, run.config["num_codes"], run.depth).ravel(),
    }
    finish(place, metrics, write_report(place, run.config, metrics, pictures, shareable, run.folder))


def heading(seed, command):
    """What tells how numbers came about; the notes are filled on the way."""
    return {"seed": seed, "commit": git_commit(), "date": f"{datetime.date.today()}", "command": command, "notes": []}


def count_people(subjects):
    """How many people and slices there are."""
    return {"people": len(set(subjects)), "slices": len(subjects)}


def note_few_people(metrics):
    """Note that there are few, where there are."""
    if metrics["people"] < FEW_PEOPLE:
        metrics["notes"].append(f"n = {metrics['people']} people: exploratory")


def note_look(folder, command, place=None):
    """Append this look at the test people to test_looks.csv of the run in ``folder``, or in ``place`` if need be."""
    try:
        _append_look(folder / "test_looks.csv", command)
    except OSError as error:
        if place in (None, folder):
            raise
        _append_look(place / "test_looks.csv", command)
        warn(
            f"the look at test people is noted in {place / 'test_looks.csv'}, for {folder} cannot be written "
            f"({error.strerror}): count it with the others of the run"
        )


def _append_look(path, command):
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        looks = csv.writer(file)
        if new:
            looks.writerow(["date", "commit", "command"])
        looks.writerow([f"{datetime.datetime.now():%Y-%m-%d %H:%M}", git_commit(), command])


def measure_models(run, cache, parts, split, metrics):
    """Reconstructions and likelihood: the sections reconstruction, rate, codebook and prior.

    Returns:
        DataFrame of the measures of each slice; dict of split → CodeBits; PositionalBaseline.
    """
    from metrics.codes import PositionalBaseline, measure_codes
    from metrics.reconstruction import measure_reconstruction

    per_slice, metrics["reconstruction"] = measure_reconstruction(parts[split], run.box, metrics["notes"])
    baseline = PositionalBaseline(parts["train"], parts.get("validation"), run.config["num_codes"], run.depth)
    bits, metrics["rate"], metrics["codebook"], metrics["prior"] = measure_codes(run, cache, parts, split, baseline)
    per_slice.loc[bits[split].kept, "bits_per_code"] = bits[split].prior.mean(axis=(1, 2))
    return per_slice, bits, baseline


def rows_for_sets(parts, split, bits, seed, notes):
    """The rows of a split that sets are compared on, (N,) int; where they are not all, the notes say so."""
    import numpy as np

    from metrics.people import for_sets
    from metrics.samples import half_rows, no_more_than_the_pool

    part, training = parts[split], parts["train"]
    rows = np.flatnonzero(for_sets(part.slices["subject"].to_numpy()))
    sides = (
        one.image_set(np.arange(len(one.slices)), which)
        for one, which in ((part, rows), (training, half_rows(training, seed)[1]))
    )
    rows = rows[no_more_than_the_pool(*sides)]
    if len(rows) < len(part.slices):
        notes.append(
            f"sets are compared on {len(rows)} slices of {part.slices['subject'].iloc[rows].nunique()} evenly drawn "
            f"people, and bits are counted on {bits.kept.sum()}, of the {len(part.slices)} slices of the split"
        )
    return rows


def measure_sets(sets, seed, metrics, features=None, images_path=None):
    """Samples against people: the sections samples and, where there are training people, memorisation and usefulness.

    Returns:
        the ten samples nearest to training slices: (sample, row of ``sets.search``, distance).
    """
    from metrics.features import other_features
    from metrics.memorisation import measure_memorisation
    from metrics.samples import measure_samples
    from metrics.usefulness import measure_usefulness

    extra = other_features(features, sets.originals.images, sets.samples.images, images_path) if features else {}
    metrics["samples"], yardstick = measure_samples(sets, seed, metrics["notes"])
    metrics["samples"] |= extra
    if not len(sets.search.images):
        return []
    metrics["memorisation"], neighbours = measure_memorisation(sets, seed)
    metrics["usefulness"] = measure_usefulness(sets, yardstick)
    return neighbours


def measure_stacks(run, cache, parts, split, seed, metrics):
    """Whole people that the run draws: the section stacks, or its reason."""
    from metrics.reasons import put
    from metrics.whole_people import measure_people

    threshold = metrics["memorisation"].get("threshold")
    put(metrics, "stacks", *measure_people(run, cache, parts, split, threshold, seed))


def measure_people(run, place, per_slice, known, metrics):
    """Write people.csv into ``place``; measure by sex and age what is ``known``, or note that it is gone."""
    from metrics.participants import measure_cohort

    people = per_slice.groupby("subject").agg(
        {"label": "first", **dict.fromkeys(per_slice.columns.difference(["subject", "label"]), "mean")}
    )
    if known is not None:
        metrics["cohort"] = measure_cohort(known, people)
    elif run.config["metadata"]:
        metrics["notes"].append("the metadata that the run was trained with is not there: no tables by sex and age")
    with whole_file(place / "people.csv") as temporary:
        people.to_csv(temporary)


# ---- images of any generator --------------------------------------------------------------------


def evaluate_folder(
    generated, real, train=None, seed=0, num_samples=1000, shareable=False, out=None, cache=None, command=A_CALL
):
    """Judge a folder of images against real slices of unseen people, with what needs no codes.

    Args:
        generated: folder of the images to judge.
        real: folder of real slices of unseen people.
        train: folder of the slices that the generator was trained on.
        seed: int from 0, of everything random.
        num_samples: int from 1, images for the memorisation search and the figures.
        shareable: write report_shareable.html, too.
        out: where to write (default: under runs/).
        cache: the folder for a file of decoded images, when memory is short for them.
        command: what was typed.

    Raises:
        UserError: the folders do not go together, or no shareable report can be written.
    """
    from metrics.folders import folder_sets, load_folders
    from metrics.samples import spectra_of
    from report.page import write_report

    if shareable and not train:
        raise UserError("--shareable needs --train: without training slices there is no audit")
    metrics = {"run": Path(generated).name, "split": "folder", **heading(seed, command)}
    sets = folder_sets(load_folders(real, generated, train, cache), seed, num_samples, metrics["notes"])
    metrics |= count_people(sets.reference.person)
    note_few_people(metrics)
    out = Path(out or f"runs/generated-{datetime.datetime.now():%Y%m%d-%H%M%S}")
    with new_folder(out) as unfinished:
        neighbours = measure_sets(sets, seed, metrics)
        save_json(unfinished / "metrics.json", metrics)
        refusal = write_report(
            unfinished,
            {"real": real, "generated": generated, "train": train},
            metrics,
            {"sets": sets, "neighbours": neighbours, "spectra": spectra_of(sets)},
            shareable,
        )
    finish(out, metrics, refusal)


def finish(folder, metrics, refusal):
    """Print the summary and where the report is; raise a UserError for why a shareable one was refused, if it was."""
    from report.numbers import print_summary

    print_summary(metrics)
    print(folder / "report.html")
    if refusal:
        raise UserError(refusal)


# ---- several runs -------------------------------------------------------------------------------


def compare_runs(runs, out=None):
    """A table, a CSV and a figure of runs that were evaluated on the same split, and their differences by person.

    What else they differ in (data, people, frame, seed, number of slices) is warned of, and stands in the CSV.

    Args:
        runs: list of str, names under runs/ or paths; the others are compared with the first.
        out: a new folder (default: under runs/).

    Raises:
        UserError: they cannot be compared, or share no person, or ``out`` holds something.
    """
    from metrics.comparison import differences, pair_people, read_evaluations, side_by_side
    from report.figures import comparison_figure

    evaluations = read_evaluations(runs)
    table, paired = side_by_side(evaluations), pair_people(list(evaluations))
    for sentence in differences(table):
        warn(sentence)
    out = Path(out or f"runs/comparison-{datetime.datetime.now():%Y%m%d-%H%M%S}")
    with new_folder(out) as unfinished:
        table.to_csv(unfinished / "comparison.csv")
        paired.to_csv(unfinished / "paired.csv")
        comparison_figure(unfinished / "comparison.png", list(evaluations.values()))
    print(table.T.to_string(float_format=lambda value: f"{value:.4g}"))
    print("\nagainst the first run, paired by person: mean difference and 95 % t interval")
    print(paired.to_string(float_format=lambda value: f"{value:.4g}"))
    print(out / "comparison.csv")


# ---- the command line ---------------------------------------------------------------------------


def add_run_flags(parser):
    parser.add_argument(
        "--run",
        metavar="NAME",
        help="name under runs/, or a path (default: the newest finished run, or else the one that comes with the code)",
    )
    parser.add_argument(
        "--split",
        choices=("validation", "test"),
        default="validation",
        help="the people to measure on; looks at test people are counted (default validation)",
    )
    add_measuring_flags(parser)
    parser.add_argument("--quick", action="store_true", help="draw only as many samples as the split has slices")
    parser.add_argument("--data", metavar="DIR", help="where the run's slices are now (default: where they were)")
    parser.add_argument("--metadata", metavar="CSV", help="ADNI search CSV, for tables by sex and age")
    parser.add_argument(
        "--features",
        metavar="FILE.npy|inception",
        help="one more Fréchet distance, of these features or of Keras InceptionV3's",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where to write (default: the run's folder; in it, evaluation/ of a shipped run)"
    )
    add_cache_flag(parser, "the run's")


def add_compare_flags(parser):
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs already evaluated, two or more")
    add_out_flag(parser)


def add_folder_flags(parser):
    parser.add_argument("generated", metavar="IMAGES", help="folder of the images to judge")
    parser.add_argument("--real", metavar="DIR", required=True, help="real slices of unseen people")
    parser.add_argument("--train", metavar="DIR", help="the slices that the generator was trained on")
    add_measuring_flags(parser)
    add_cache_flag(parser, "that of temporary files, on a disk")
    add_out_flag(parser)


def add_cache_flag(parser, default):
    parser.add_argument(
        "--cache", metavar="DIR", help=f"folder for a file of decoded slices when memory is short (default: {default})"
    )


def add_measuring_flags(parser):
    parser.add_argument(
        "--seed", type=number(int, 0, 2**31 - 1), default=0, metavar="N", help="of everything random (default 0)"
    )
    parser.add_argument(
        "--num-samples",
        type=number(int, 1, 1000000),
        default=1000,
        metavar="N",
        help="samples for the memorisation search and the figures (default 1000)",
    )
    parser.add_argument(
        "--shareable",
        action="store_true",
        help="write report_shareable.html too: aggregate numbers and samples, no participant's image",
    )


def add_out_flag(parser):
    parser.add_argument("--out", metavar="DIR", help="where to write (default: under runs/)")


COMMANDS = (
    Command(
        "run",
        "measure a finished run on held-out people",
        add_run_flags,
        evaluate_run,
        ("python evaluate.py --run brains --split test",),
    ),
    Command(
        "compare",
        "set runs that were evaluated beside each other, paired by person",
        add_compare_flags,
        compare_runs,
        ("python evaluate.py compare runs/a runs/b",),
    ),
    Command(
        "folder",
        "judge images of any generator against real slices",
        add_folder_flags,
        evaluate_folder,
        ("python evaluate.py folder IMAGES --real SLICES/test --train SLICES/train",),
    ),
)


def main(argv):
    """Measure; see ``python evaluate.py --help``."""
    typed = shell("evaluate.py", *argv)
    commands = [
        command if command.run is compare_runs else replace(command, run=partial(command.run, command=typed))
        for command in COMMANDS
    ]
    run_commands("evaluate.py", __doc__.split("\n\n")[0], commands, argv, default="run")


if __name__ == "__main__":
    run_script(main)
