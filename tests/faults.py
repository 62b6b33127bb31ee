"""Kill a training anywhere, resume it, and compare every byte with one that was left alone; run by hand.

    python tests/faults.py --kills 30 --out ReducedResults/reliability.json

Smoke runs of the demo cohort that save a checkpoint at every step, so that most kills (SIGKILL, at random
instants from a seed) fall into a write. Each run is killed and resumed until it is finished. Then: a small full
file system (tmpfs, where the system lets us mount one), and flipped bytes in the newest checkpoint.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from utils import checkpoints, save_json

ROOT = Path(__file__).parent.parent
SMOKE = ["--preset", "smoke", "--checkpoint-minutes", "0"]


def start(folder, *flags):
    return subprocess.Popen([sys.executable, str(ROOT / "train.py"), *flags], cwd=folder, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)


def contents(run, folder):
    """Everything that must be the same: weights, histories without timings, samples."""
    import zipfile

    import pandas as pd

    out = folder / f"samples-{run.name}"
    command = [sys.executable, str(ROOT / "predict.py"), "--run", str(run), "--num-images", "4", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    found = {path.name: path.read_bytes() for path in sorted(out.glob("brain_*.png"))}
    for name in ("vqvae", "prior"):
        with zipfile.ZipFile(run / f"{name}.keras") as archive:
            found[name] = archive.read("model.weights.h5")
        history = pd.read_csv(run / f"history_{name}.csv").drop(columns=["seconds", "slices_per_second"])
        found[f"history of {name}"] = history.to_csv().encode()
    return found


def state_of(run):
    """What a killed run had got to."""
    if not (run / "config.json").is_file():
        return "before the run folder"
    newest = next(iter(checkpoints(run / "checkpoints")), None)
    half = "in a write, " if list(run.rglob(".unfinished-*")) else ""
    return half + ("before the first checkpoint" if newest is None else f"after {newest.stem.rpartition('-')[0]}")


def kill_and_resume(folder, kills, seconds, numbers, expected):
    """Kill runs at random instants until there were so many kills; returns the report."""
    instants, runs, different = [], 0, []
    while len(instants) < kills:
        run = folder / "runs" / f"killed-{runs}"
        while True:
            flags = ["--resume", str(run)] if (run / "config.json").is_file() else ["--run", str(run), *SMOKE]
            process = start(folder, *flags)
            try:
                if len(instants) >= kills:
                    process.wait()
                else:
                    process.wait(numbers.uniform(1, seconds))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                instants.append(state_of(run))
                print(f"kill {len(instants)}: {instants[-1]}", flush=True)
                continue
            if process.returncode:
                raise SystemExit(f"resuming failed with status {process.returncode}: {process.stderr.read()}")
            break
        found = contents(run, folder)
        different += [f"{run.name}: {name}" for name in expected if found.get(name) != expected[name]]
        runs += 1
    return {"kills": len(instants), "in_a_write": sum("in a write" in instant for instant in instants),
            "instants": instants, "runs": runs, "files_compared": runs * len(expected), "different": different}


def full_file_system(folder, finished):
    """Resume on a tmpfs that is too small; returns what was said, or why it could not be tried."""
    small = folder / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(small)], capture_output=True).returncode:
        return {"tried": False, "why": "no file system could be mounted here"}
    try:
        process = start(folder, "--run", str(small / "run"), *SMOKE)
        said = process.communicate()[1].strip().splitlines()
        left = [path.name for path in small.rglob(".unfinished-*")]
        return {"tried": True, "status": process.returncode, "sentence": said[-1] if said else "", "half_written": left}
    finally:
        subprocess.run(["umount", str(small)], check=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, metavar="JSON", help="its section faults is replaced")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        began = time.perf_counter()
        if start(folder, "--run", "runs/whole", *SMOKE).wait():
            raise SystemExit("the smoke run failed")
        seconds = time.perf_counter() - began
        expected = contents(folder / "runs/whole", folder)
        report = kill_and_resume(folder, flags.kills, seconds, random.Random(flags.seed), expected)
        report["full_file_system"] = full_file_system(folder, folder / "runs/whole")
        shutil.rmtree(folder / "runs")
    out = Path(flags.out)
    sections = json.loads(out.read_text()) if out.exists() else {}
    save_json(out, sections | {"faults": report})
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
