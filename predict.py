"""Make brain images and answers with a finished run, and what lets others look at it.

Samples are drawn code by code from the prior and decoded by the VQ-VAE. Each command is a function that a notebook
can call, too: they lie in sampling/, and take a ``sampling.run.Run``.
"""

import argparse
import re

from utils import Command, number, run_commands, run_script


def of_run(function, room, stage="prior"):
    """What does a command: opens the Run of the flags and calls ``sampling.<room>.<function>`` with it and the others.

    A run that is none is answered before anything heavy is loaded.
    """

    def use(run, data=None, sharpen=True, **flags):
        from importlib import import_module

        from training.folder import open_run

        folder, _ = open_run(run, stage)
        from sampling.run import Run

        return getattr(import_module(f"sampling.{room}"), function)(Run(folder, stage, data, sharpen=sharpen), **flags)

    return use


def reader_score(answers):
    """Print how many a reader told."""
    from sampling.reader_study import reader_score

    reader_score(answers)


# ---- their flags ------------------------------------------------------------------------------


def add_run(parser, out="<time>", data=False, seed="of everything random"):
    """--run, and where they are wanted --out, --data and --seed."""
    parser.add_argument(
        "--run",
        metavar="NAME",
        help="name under runs/, or a path (default: the newest finished run, or else the one that comes with the code)",
    )
    if data:
        parser.add_argument("--data", metavar="DIR", help="where the run's slices are now (default: where they were)")
    if out:
        parser.add_argument("--out", metavar="DIR", help=f"where to write (default: <run>/samples/{out})")
    if seed:
        parser.add_argument(
            "--seed", type=number(int, 0, 2**31 - 1), default=0, metavar="N", help=f"{seed} (default 0)"
        )


def add_count(parser, default, what="images", least=None):
    """--num-images."""
    parser.add_argument(
        "--num-images",
        type=number(int, 1, 1000000),
        default=default,
        metavar="N",
        help=f"{what} (default {least or default})",
    )


def add_conditions(parser, default="drawn from the training mix"):
    """--label and --position."""
    parser.add_argument("--label", help=f"a label of the run, or none for the model without (default: {default})")
    parser.add_argument("--position", help="0 (lowest slice) upwards, or none (default: as --label)")


def add_draw(parser):
    """--temperature, --top-k, --top-p, --guidance and --no-sharpen."""
    parser.add_argument(
        "--temperature",
        type=number(float, 0.01, 100),
        default=1.0,
        metavar="T",
        help="of the distribution that codes are drawn from: lower is tamer (default 1)",
    )
    parser.add_argument("--top-k", type=number(int, 1), metavar="K", help="draw from the K likeliest codes only")
    parser.add_argument(
        "--top-p",
        type=number(float, 0.001, 1),
        metavar="P",
        help="draw from the likeliest codes that reach probability P only",
    )
    parser.add_argument(
        "--guidance",
        type=number(float, 0, 20),
        default=1.0,
        metavar="G",
        help="how strongly label and position are followed: 1 as the model has learnt them, more is more typical and "
        "less varied; costs twice (default 1)",
    )
    parser.add_argument(
        "--no-sharpen",
        dest="sharpen",
        action="store_false",
        help="leave the detail as weak as the decoder draws it (default: as strong as in training slices)",
    )


def shard(text):
    """An argparse type: "2/8" -> (2, 8)."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    part, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"must be I/N with 1 <= I <= N, such as 2/8, not {text}")
    return part, parts


def add_shard(parser, what="images"):
    """--shard."""
    parser.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help=f"make the I-th of N parts of the {what}, as one process would make them (default: all)",
    )


def add_block(parser, kept_in="samples.csv"):
    """--block."""
    parser.add_argument(
        "--block",
        type=number(int, 1, 4096),
        metavar="N",
        help="how many are drawn together; rounding, and so a rare code, depends on it: for the very same ones give "
        f"that which {kept_in} names (default: 32, on a GPU 512)",
    )


def sample_flags(parser):
    add_run(parser)
    add_count(parser, 16)
    add_conditions(parser)
    add_draw(parser)
    add_shard(parser)
    add_block(parser)
    parser.add_argument(
        "--format",
        choices=("png", "npy", "nifti"),
        default="png",
        help="a PNG each, one array (N, H, W) uint8, or a NIfTI volume of one slice each (default png)",
    )
    parser.add_argument(
        "--pixel-size",
        type=number(float, 0.001, 1000),
        default=1.0,
        metavar="MM",
        help="side of a pixel, for --format nifti (default 1 mm)",
    )


def add_people(parser, default):
    """--num-people."""
    parser.add_argument(
        "--num-people",
        type=number(int, 1, 1000000),
        default=default,
        metavar="N",
        help=f"people, a slice at each position (default {default})",
    )


def add_given(parser):
    """--complete, --positions and --candidates."""
    parser.add_argument(
        "--complete",
        nargs="+",
        metavar="PATH",
        help="a folder of some slices of one person, or files: they stay, and people are drawn around them",
    )
    parser.add_argument(
        "--positions",
        nargs="+",
        type=number(int, 0),
        metavar="P",
        help="where they are, 0 (lowest slice) upwards (default: what slices.csv says, or their numbers, when these "
        "reach from end to end)",
    )
    parser.add_argument(
        "--candidates",
        type=number(int, 1, 1000),
        default=8,
        metavar="N",
        help="draw what is missing below a given slice so often, and choose what makes that one likely (default 8)",
    )


def people_flags(parser):
    add_run(parser, "people-<time>", data=True)
    add_people(parser, 8)
    parser.add_argument(
        "--label",
        help="a label of the run, or none for the model without (default: drawn; of --complete: as slices.csv says)",
    )
    add_given(parser)
    add_draw(parser)
    add_shard(parser, "people")
    add_block(parser, "people.csv")
    for flag, what in (("--pixel-size", "side of a pixel"), ("--spacing", "from one slice to the next")):
        parser.add_argument(
            flag, type=number(float, 0.001, 1000), default=1.0, metavar="MM", help=f"{what} (default 1 mm)"
        )


def cohort_flags(parser):
    parser.add_argument("--out", metavar="DIR", required=True, help="a new folder, or an unfinished one to go on with")
    add_run(parser, out=None, data=True)
    add_people(parser, 400)
    add_draw(parser)
    add_shard(parser, "people")
    add_block(parser, "cohort.json")
    parser.add_argument(
        "--reject-copies",
        action="store_true",
        help="draw people anew who have a slice as near to a training slice as the audit's planted copies",
    )


def reconstruct_flags(parser):
    parser.add_argument("images", metavar="SLICES", help="a folder of PNG or JPEG files, or one file, of any size")
    add_run(parser, "reconstruct-<time>", seed=None)


def complete_flags(parser):
    parser.add_argument("slice", metavar="SLICE", help="a PNG or JPEG file")
    parser.add_argument(
        "--keep",
        required=True,
        metavar="top|bottom|left|right|MASK.png",
        help="the half of the frame to keep, or an image as large as the slice, white where to keep it",
    )
    parser.add_argument("--paste", action="store_true", help="put the original pixels back where kept")
    add_run(parser, "complete-<time>", data=True)
    add_count(parser, 8, "completions, 2 or more")
    add_conditions(parser, "what slices.csv says")
    add_draw(parser)


def score_flags(parser):
    parser.add_argument("images", metavar="SLICES", help="a folder of PNG or JPEG files, or one file, of any size")
    parser.add_argument("--heal", action="store_true", help="draw the least likely codes anew")
    add_run(parser, "score-<time>", data=True, seed="of --heal")
    add_conditions(parser, "what slices.csv says")


def vary_flags(parser):
    parser.add_argument(
        "what",
        metavar="label|position|temperature",
        choices=("label", "position", "temperature"),
        help="what varies: each label, each position (with an animation), or six temperatures",
    )
    add_run(parser, "vary-<what>-<time>")
    add_count(parser, None, "images of each variant", "8, or 4 at each position")
    add_conditions(parser)
    add_draw(parser)
    add_block(parser)


def interpolate_flags(parser):
    add_run(parser, "interpolate-<time>")
    add_count(parser, 9, "steps of each way, 3 or more")
    add_conditions(parser, "that of sample 0")


def gallery_flags(parser):
    add_run(parser, "gallery-<time>", data=True)
    add_draw(parser)


def export_flags(parser):
    parser.add_argument("folder", metavar="DIR", help="a new folder for the SavedModel")
    add_run(parser, out=None, seed=None)


def explore_flags(parser):
    add_run(parser, out=None, data=True, seed=None)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=number(int, 1, 65535), default=8501, metavar="N", help="(default 8501)")


def reader_study_flags(parser):
    parser.add_argument("count", type=number(int, 1, 1000), metavar="N", help="real slices, and as many samples")
    add_run(parser, "reader-study-<time>", data=True)
    parser.add_argument(
        "--cc0",
        action="store_true",
        help="the run's slices are in the public domain: leave out the mark that says do not share",
    )
    add_draw(parser)


def reader_score_flags(parser):
    parser.add_argument("answers", metavar="FILE", help="the CSV that the page gave, with key.csv beside it")


# ---- the script -------------------------------------------------------------------------------


COMMANDS = (
    Command(
        "sample",
        "samples, with their table and a sheet",
        sample_flags,
        of_run("write_samples", "samples_folder"),
        ("python predict.py --run demo --num-images 32 --label AD --seed 1",),
    ),
    Command(
        "people",
        "whole people: a slice at each position, as PNGs, a volume, and views from the front and the side",
        people_flags,
        of_run("write_people", "people_folder"),
        ("python predict.py people --run demo --num-people 8 --label AD",),
    ),
    Command(
        "cohort",
        "a data set of sampled people, for training and testing, in the layout of ADNI's course data",
        cohort_flags,
        of_run("write_cohort", "cohort"),
        ("python predict.py cohort --run demo --num-people 400 --out sampled-people",),
    ),
    Command(
        "reconstruct",
        "reconstructions of the images in a folder",
        reconstruct_flags,
        of_run("reconstruct", "reconstruction", "vqvae"),
        ("python predict.py reconstruct SLICES --run demo",),
    ),
    Command(
        "complete",
        "what could stand where a slice is not kept",
        complete_flags,
        of_run("complete", "completion"),
        ("python predict.py complete SLICE.png --run demo --keep top",),
    ),
    Command(
        "score",
        "how improbable each code of the images in a folder is, as maps",
        score_flags,
        of_run("score", "scoring"),
        ("python predict.py score SLICES --run demo --heal",),
    ),
    Command(
        "vary",
        "the same random numbers under each label, at each position or temperature",
        vary_flags,
        of_run("vary", "comparisons"),
        ("python predict.py vary label --run demo --position 12",),
    ),
    Command(
        "interpolate",
        "two ways from one sample to another",
        interpolate_flags,
        of_run("interpolate", "interpolation"),
        ("python predict.py interpolate --run demo",),
    ),
    Command(
        "gallery",
        "a poster of the run: samples, completions, codes, numbers",
        gallery_flags,
        of_run("gallery", "gallery"),
        ("python predict.py gallery --run demo",),
    ),
    Command(
        "explore",
        "a page to play with the run, on this machine: draw, ask about a slice, paint what to complete",
        explore_flags,
        of_run("explore", "serving"),
        ("python predict.py explore --run demo",),
    ),
    Command(
        "export",
        "a SavedModel that encodes, decodes and samples without this code",
        export_flags,
        of_run("export", "export"),
        ("python predict.py export demo-model --run demo",),
    ),
    Command(
        "reader-study",
        "a page that asks which of N real slices of validation people and N samples are real",
        reader_study_flags,
        of_run("reader_study", "reader_study"),
        ("python predict.py reader-study 20 --run demo --out study",),
    ),
    Command(
        "reader-score",
        "how many a reader told, from the answers of that page",
        reader_score_flags,
        reader_score,
        ("python predict.py reader-score study/answers.csv",),
    ),
)


def main(argv):
    """Make what the command says, by default samples; see ``python predict.py --help``."""
    run_commands("predict.py", __doc__.split("\n\n")[0], COMMANDS, argv, default="sample")


if __name__ == "__main__":
    run_script(main)
