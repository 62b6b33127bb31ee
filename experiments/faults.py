"""Kill a training anywhere, resume it, and compare every byte with one that was left alone; run by hand.

    python experiments/faults.py --kills 30 --out ReducedResults/reliability.json

Smoke runs of the demo cohort that save a checkpoint at every step. Each run is killed (SIGKILL) and resumed until it
is finished; by turns at any time, soon after a step of either stage that is drawn, and in the first write after
such a step. Then: a small file system (tmpfs, where the system lets us mount one) that fills up in mid-training,
bytes flipped in checkpoints, and the files of tests/test_fuzz.py.
"""

import contextlib
import datetime
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.results import REPOSITORY, replace_sections
from slices.machine import processor
from training.checkpoints import checkpoints
from training.options import preset_values
from utils import Parser, git_commit, number, run_script

SMOKE = ["--preset", "smoke", "--checkpoint-minutes", "0"]
STEPS = [
    (stage, f"{step:09d}")
    for stage in ("vqvae", "prior")
    for step in range(1, preset_values("smoke")[f"{stage}_steps"] + 1)
]
KINDS = ("after a step", "in a write", "any time")


def start(folder, *flags):
    """A process of train.py in this folder."""
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *flags],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(run, folder):
    """Everything that must be the same: weights, histories without timings, samples."""
    import pandas as pd

    out = folder / f"samples-{run.name}"
    subprocess.run(
        [sys.executable, REPOSITORY / "predict.py", "--run", run, "--num-images", "4", "--out", out],
        check=True,
        capture_output=True,
    )
    found = {path.name: path.read_bytes() for path in sorted(out.glob("brain_*.png"))}
    for name in ("vqvae", "prior"):
        found[name] = (run / f"{name}.keras").read_bytes()
        history = pd.read_csv(run / f"history_{name}.csv").drop(columns=["seconds", "slices_per_second"])
        found[f"history of {name}"] = history.to_csv().encode()
    return found


def half_written(run):
    """The files that are being written, or were when their process was killed."""
    return set(run.rglob(".unfinished-*"))


def state_of(run, before=frozenset()):
    """What a killed run had got to; ``before``: what was half written before its process began."""
    if not (run / "config.json").is_file():
        return "before the run folder"
    newest = next(iter(checkpoints(run / "checkpoints")), None)
    half = "in a write, " if half_written(run) - before else ""
    return half + ("before the first checkpoint" if newest is None else f"after {newest.stem.rpartition('-')[0]}")


def steps_done(run):
    """The place in STEPS of a run's newest checkpoint, -1 without any."""
    newest = next(iter(checkpoints(run / "checkpoints")), None)
    return -1 if newest is None else STEPS.index(tuple(newest.stem.split("-")[:2]))


def wait_for_instant(process, kind, run, seconds, numbers, before):
    """Return at an instant of the kind "any time", "after a step" or "in a write", or when the process ended."""
    done = steps_done(run)
    if kind == "any time" or done >= len(STEPS) - 2:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(numbers.uniform(0, seconds))
        return
    target = numbers.randrange(done + 1, min(done + 1 + len(STEPS) // 2, len(STEPS) - 1))
    while process.poll() is None and steps_done(run) < target:
        time.sleep(0.001)
    if kind == "after a step":
        time.sleep(numbers.uniform(0, 0.05))
    while kind == "in a write" and process.poll() is None and not half_written(run) - before:
        time.sleep(0.0001)


def kill_and_resume(folder, kills, seconds, numbers, expected):
    """Kill runs at random instants until there were so many kills; returns the report."""
    instants, runs, different = [], 0, []
    while len(instants) < kills:
        run = folder / "runs" / f"killed-{runs}"
        while True:
            flags = ["--resume", str(run)] if (run / "config.json").is_file() else ["--run", str(run), *SMOKE]
            before = half_written(run)
            process = start(folder, *flags)
            if len(instants) < kills:
                wait_for_instant(process, KINDS[len(instants) % len(KINDS)], run, seconds, numbers, before)
            if len(instants) < kills and process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
                instants.append(state_of(run, before))
                print(f"kill {len(instants)}: {instants[-1]}", flush=True)
                continue
            said = process.communicate()[1]
            if process.returncode:
                raise SystemExit(f"resuming failed with status {process.returncode}: {said}")
            break
        found = contents(run, folder)
        different += [f"{run.name}: {name}" for name in expected if found.get(name) != expected[name]]
        runs += 1
    return {
        "kills": len(instants),
        "in_a_write": sum("in a write" in instant for instant in instants),
        "instants": instants,
        "runs": runs,
        "files_compared": runs * len(expected),
        "different": different,
    }


def full_file_system(folder, expected):
    """Train on a tmpfs that fills up, then give it room and resume; or why it could not be tried."""
    small, options = folder / "small", ("mount", "-t", "tmpfs", "tmpfs")
    small.mkdir()
    if subprocess.run([*options, str(small), "-o", "size=2500k"], capture_output=True).returncode:
        return {"tried": False, "why": "no file system could be mounted here"}
    try:
        run = small / "run"
        process = start(folder, "--run", str(run), *SMOKE)
        said = process.communicate()[1].strip().splitlines()
        report = {
            "tried": True,
            "status": process.returncode,
            "stopped": state_of(run),
            "sentence": said[-1].replace(f"{small}/", "") if said else "",
            "half_written": [path.name for path in small.rglob(".unfinished-*")],
        }
        subprocess.run(["mount", "-o", "remount,size=100m", str(small)], check=True)
        resumed = start(folder, "--resume", str(run))
        report["resumed"] = resumed.wait()
        found = contents(run, folder)
        return report | {"different": [name for name in expected if found.get(name) != expected[name]]}
    finally:
        subprocess.run(["umount", str(small)], check=False)


def flipped_bytes(folder, numbers, expected, times):
    """Stop a run, flip one byte of its newest checkpoint, resume; ``times`` times, through both stages."""
    passed_over, different = 0, []
    for time_ in range(times):
        run = folder / "runs" / f"flipped-{time_}"
        process = start(folder, "--run", str(run), *SMOKE)
        stage = ("vqvae", "prior")[time_ % 2]
        while len(checkpoints(run / "checkpoints", stage)) < 2 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        newest = checkpoints(run / "checkpoints")[0]
        content = bytearray(newest.read_bytes())
        content[numbers.randrange(len(content))] ^= 1 << numbers.randrange(8)
        newest.write_bytes(content)
        resumed = start(folder, "--resume", str(run))
        passed_over += "is damaged and is passed over" in resumed.communicate()[1]
        found = contents(run, folder)
        different += [f"{run.name}: {name}" for name in expected if found.get(name) != expected[name]]
    return {"flips": times, "passed_over_aloud": passed_over, "different": different}


def odd_files(folder):
    """The files of the fuzz set: how many there are, are used, are skipped and named."""
    sys.path.append(str(REPOSITORY / "tests"))
    from test_fuzz import SIZE, write_fuzz_set

    from slices.images import load_images
    from slices.index import find_slices

    folder.mkdir()
    expected = write_fuzz_set(folder)
    loaded = load_images(folder, find_slices(folder)["path"].tolist(), SIZE)
    return {
        "inputs": len(expected),
        "used": len(loaded.paths),
        "skipped": len(loaded.problems),
        "crashed": len(expected) - len(loaded.paths) - len(loaded.problems),
        "reasons": {path: reason.replace(f"{folder}/", "") for path, reason in loaded.problems},
    }


def whole_run(folder):
    """Train one run that is left alone: how many seconds it took, and its contents."""
    began = time.perf_counter()
    process = start(folder, "--run", "runs/whole", *SMOKE)
    said = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"the smoke run failed: {said}")
    return time.perf_counter() - began, contents(folder / "runs/whole", folder)


def main(argv):
    """Kill, fill, flip and fuzz; see ``python experiments/faults.py --help``."""
    parser = Parser(prog="experiments/faults.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=number(int, 1), default=30, metavar="N", help="in all runs (default 30)")
    parser.add_argument(
        "--seed", type=number(int, 0), default=0, metavar="N", help="of the instants and the bytes (default 0)"
    )
    parser.add_argument(
        "--flips",
        type=number(int, 0),
        default=4,
        metavar="N",
        help="checkpoints in which a byte is flipped (default 4)",
    )
    parser.add_argument("--out", required=True, metavar="JSON", help="its sections faults and fuzz are replaced")
    flags = parser.parse_args(argv)
    numbers = random.Random(flags.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        seconds, expected = whole_run(folder)
        faults = {
            "date": f"{datetime.date.today()}",
            "processor": processor(),
            "git_commit": git_commit(),
            "seed": flags.seed,
            "killed": kill_and_resume(folder, flags.kills, seconds, numbers, expected),
            "flipped_bytes": flipped_bytes(folder, numbers, expected, flags.flips),
            "full_file_system": full_file_system(folder, expected),
        }
        fuzz = odd_files(folder / "fuzz")
    replace_sections(flags.out, {"faults": faults, "fuzz": fuzz})


if __name__ == "__main__":
    run_script(main)
