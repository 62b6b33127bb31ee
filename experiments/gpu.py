"""What a GPU does with our models: is it right, how fast is it, and what bounds it? Run by hand, where there is one.

    python experiments/gpu.py

In the order of what matters most, each in a process of its own: codes and logits by every way that they are
computed, with TF32 on and off; steps of both stages of the presets default and large, in float32, TF32, bfloat16 and
float16, deterministic or not, with the prior's convolutions dilated or as products of shifted copies; the pipeline
alone and as it feeds a stage; sampling in blocks of several sizes, with XLA or not; two trainings of 200 steps
compared byte for byte; the PyTorch peer's steps and sampling, where PyTorch is installed; the first brains after the
start. Rows are printed and written as they come. When --minutes are over, what is left is named and left out.

--tiny tries all of it on small nets, on a CPU, too: its numbers mean nothing. It needs no slices and no run.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.results import REDUCED, REPOSITORY, write_rows
from utils import Parser, number, run_script, warn

COLUMNS = ("part", "what", "setting", "value", "unit", "bar", "met", "memory")
PRECISIONS = ("float32", "tf32", "mixed_bfloat16", "mixed_float16")
FAST = dict(precision="mixed_bfloat16", way="shifted")  # what a GPU is thought to train fastest with


# ---- what is measured ---------------------------------------------------------------------------


def plan():
    """The tasks of gpu_tasks.py, the dearest question first: list of (name, options)."""
    step = dict(preset="default", precisions=PRECISIONS)
    twice = ("fingerprint", dict(preset="default", steps=200) | FAST)
    return [
        ("checks", dict(preset="default", tf32=False)),
        ("training", step | dict(deterministic=True)),
        ("sampling", dict(preset="default", blocks=(8, 64, 512), xla=False)),
        ("pipeline", dict(preset="default") | FAST),
        twice,
        twice,
        ("first_brain", dict(preset="default")),
        ("checks", dict(preset="default", tf32=True)),
        ("peer_ours", {}),
        ("peer_theirs", {}),
        ("training", dict(preset="large", deterministic=True, precisions=("float32", FAST["precision"]))),
        ("training", step | dict(deterministic=False)),
        *(("profile", dict(preset="default", stage=stage) | FAST) for stage in ("prior", "vqvae", "sampling")),
        ("training", dict(preset="large", deterministic=False, precisions=(FAST["precision"],))),
        ("sampling", dict(preset="default", blocks=(64, 512), xla=True)),
        ("tests", dict(tf32=False)),
        ("tests", dict(tf32=True)),
    ]


def tiny_plan():
    """Every task once, on small nets."""
    small, twice = dict(preset="smoke"), ("fingerprint", dict(preset="smoke", precision="float32", steps=3))
    step = small | dict(seconds=0.1)
    return [
        ("checks", small | dict(tf32=False)),
        ("training", step | dict(deterministic=True, precisions=PRECISIONS[:2])),
        ("training", step | dict(deterministic=False, precisions=PRECISIONS[2:], ways=("shifted",))),
        ("pipeline", step | dict(precision="float32")),
        ("sampling", step | dict(blocks=(4, 64), xla=False)),
        ("sampling", step | dict(blocks=(4,), xla=True)),
        twice,
        twice,
        *(("profile", small | dict(precision="float32", stage=stage)) for stage in ("prior", "sampling")),
        ("first_brain", small),
        ("peer_ours", dict(size=32, batch_size=2)),
        ("peer_theirs", dict(size=32, batch_size=2, grid=(7, 8), count=4, seconds=0.1)),
    ]


# ---- how it is measured -------------------------------------------------------------------------


def measure(task, options, seconds):
    """The rows that a task printed before the time was up, and why there are no more of them, or None."""
    command = [sys.executable, REPOSITORY / "experiments" / "gpu_tasks.py", json.dumps([task, options])]
    environment = os.environ | {"STARTED": f"{time.time()}"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds)
        printed, trouble = done.stdout, last_line(done.stderr) if done.returncode else None
    except subprocess.TimeoutExpired as expired:
        printed, trouble = (expired.stdout or b"").decode(), f"it was stopped after {seconds:.0f} s"
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{") and line.endswith("}")], trouble


def last_line(text):
    """The last line of what a process complained about."""
    return next(iter(text.strip().splitlines()[::-1]), "it ended without a word")


def run_all(tasks, minutes, keep):
    """Run the tasks in order until the time is up; after each print its rows, and give all so far to ``keep``."""
    found, kept, end = [], [], time.perf_counter() + 60 * minutes
    for task, options in tasks:
        left = end - time.perf_counter()
        if left < 1:
            warn(f"no time is left for {task} {options}: give it more --minutes")
            continue
        rows, trouble = measure(task, options, left)
        if trouble:
            warn(f"{task} {options}: {trouble}")
        found += rows
        before, kept = kept, with_comparison(found)
        for line in kept:
            if line not in before:
                print(shown(line), flush=True)
        keep(kept)


def with_comparison(rows):
    """The rows, with one for each pair of fingerprints in place of those: 1 where they are the same, byte for byte."""
    rest, seen = [line for line in rows if line["unit"] != "sha256"], {}
    for line in rows:
        if line["unit"] == "sha256":
            seen.setdefault((line["what"], line["setting"]), []).append(line["value"])
    for (what, setting), digests in seen.items():
        if len(digests) == 2:
            same = int(digests[0] == digests[1])
            told = dict(value=same, unit="same bytes in two processes", bar="at least 1", met=bool(same), memory="")
            rest.append(dict(part="repeat", what=what, setting=setting) | told)
    return rest


def shown(line):
    """A row as a line of text."""
    value = f"{line['value']:.4g}" if isinstance(line["value"], int | float) else str(line["value"])[:12]
    bar = f"{line['bar']}{'' if line['met'] in ('', True) else ', MISSED'}"
    memory = f"{line['memory']} MB" if line["memory"] != "" else ""
    return " | ".join((line["part"], line["what"], line["setting"], f"{value} {line['unit']}", bar, memory))


# ---- the script ---------------------------------------------------------------------------------


def main(argv):
    """Measure; see ``python experiments/gpu.py --help``."""
    parser = Parser(prog="experiments/gpu.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", metavar="CSV", help="the table (default ReducedResults/gpu.csv; with --tiny none)")
    parser.add_argument("--tiny", action="store_true", help="try it on small nets, on a CPU, too")
    parser.add_argument(
        "--minutes", type=number(float, 0, 1000), default=8, help="what is not measured by then is left out (default 8)"
    )
    flags = parser.parse_args(argv)
    out = flags.out or (None if flags.tiny else REDUCED / "gpu.csv")

    def keep(rows):
        if out:
            write_rows(out, [line | {"value": brief(line["value"])} for line in rows], COLUMNS)

    run_all(tiny_plan() if flags.tiny else plan(), flags.minutes, keep)


def brief(value):
    """A number in four digits, for the table."""
    return f"{value:.4g}" if isinstance(value, float) else value


if __name__ == "__main__":
    run_script(main)
