"""What an evaluation costs: its memory as the training set grows, its time on a study of the usual size; run by hand.

    python experiments/evaluation_cost.py --out ReducedResults/evaluation_cost.json

Memory: one smoke run on 23,040 training slices of 120x128, evaluated with all of them and with 1,440, on the same
held-out people. Time: 6,400 slices of 208x176, of 135 people with 41 in the test set, as in the study that the
first evaluation was timed on. The people are simulated, and the models are trained for a few steps: what they are
like changes no number here. Both evaluations are processes of their own, without a cache from earlier ones.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.results import REPOSITORY, replace_sections
from utils import Parser, run_script

HELD_OUT = 6  # people of each of validation and test
STEPS = ["--vqvae-steps", "100", "--prior-steps", "20"]


# ---- data -----------------------------------------------------------------------------------------


def write_people(folder, count, size=(120, 128), models=8):
    """Simulated people in the ADNI layout: a few of the demo cohort, each in many gains, so that each is new."""
    import numpy as np
    from PIL import Image

    from slices.images import save_png
    from utils import progress

    cohort = folder.parent / "models"
    script("dataset.py", "demo", "--people", models, "--out", cohort, "--image-size", *size)
    originals = {}  # (label, person) → the slices by number
    for path in sorted(cohort.rglob("*.png")):
        person, number = path.stem.split("_")
        originals.setdefault((path.parent.name, person), {})[number] = np.asarray(Image.open(path).convert("L"))
    originals = list(originals.items())
    for i in progress(range(count), desc="writing people", unit=" people"):
        (label, _), slices = originals[i % len(originals)]
        gain = 0.7 + 0.6 * i / count
        place = folder / ("train", "test")[i < HELD_OUT] / label
        place.mkdir(parents=True, exist_ok=True)
        for number, image in slices.items():
            save_png(place / f"{10000 + i}_{number}.png", np.clip(image * gain, 0, 255).astype(np.uint8))


def keep_training(run, count):
    """Split the index of a run anew: HELD_OUT people of test and of validation, and ``count`` slices of others."""
    import numpy as np

    from slices.index import read_slices

    slices = read_slices(run).sort_values(["subject", "position"], ignore_index=True)
    person = slices.groupby("subject").ngroup()
    split = np.select([person < HELD_OUT, person < 2 * HELD_OUT], ["test", "validation"], "train")
    kept = (split != "train") | ((split == "train").cumsum() <= count)
    slices.assign(split=split)[kept].to_csv(run / "slices.csv", index=False)


def regroup(run, people=135, test=41, validation=15):
    """Make the slices of a run those of other people, with many slices each."""
    import numpy as np

    from slices.index import read_slices

    slices = read_slices(run).sort_values(["label", "subject", "position"], ignore_index=True)
    person = np.arange(len(slices)) * people // len(slices)
    order = np.random.default_rng(0).permutation(people)[person]  # of both labels in every split
    split = np.select([order < test, order < test + validation], ["test", "validation"], "train")
    slices.assign(subject=[f"{9000 + i}" for i in person], split=split).to_csv(run / "slices.csv", index=False)


# ---- processes --------------------------------------------------------------------------------------


def script(name, *flags):
    """Run a script of this repository."""
    subprocess.run([sys.executable, str(REPOSITORY / name), *map(str, flags)], check=True)


def measured(run):
    """Evaluate a run on its test people: minutes, those of all cores together, and the peak memory in megabytes."""
    shutil.rmtree(run / "cache", ignore_errors=True)
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, str(REPOSITORY / "evaluate.py"), "--run", str(run), "--split", "test"])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"the evaluation of {run} failed with status {child.returncode}")
    return {
        "minutes": round((time.perf_counter() - start) / 60, 2),
        "minutes_of_cores": round((usage.ru_utime + usage.ru_stime) / 60, 2),
        "megabytes": round(usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)),
    }


def memory(folder, few=1440, many=23040):
    """The peak with few and with many training slices, and their ratio."""
    if not (folder / "many").is_dir():
        write_people(folder / "slices", many // 20 + 2 * HELD_OUT)
        flags = ["--preset", "smoke", "--image-size", 120, 128, "--data", folder / "slices"]
        script("train.py", *flags, "--run", folder / "many")
    found = {}
    for count in (few, many):
        run = folder / f"of-{count}"
        if not run.is_dir():
            shutil.copytree(folder / "many", run)
            keep_training(run, count)
        found[f"{count} training slices"] = measured(run)
    peaks = [one["megabytes"] for one in found.values()]
    return found | {"ratio of memory": round(peaks[1] / peaks[0], 3)}


def seconds(folder):
    """The time of one evaluation of 6,400 slices."""
    run = folder / "study"
    if not run.is_dir():
        script("dataset.py", "demo", "--people", 320, "--out", folder / "cohort", "--image-size", 208, 176)
        script("train.py", "--preset", "default", *STEPS, "--data", folder / "cohort", "--run", run)
        regroup(run)
    return {"6400 slices of 208x176, 41 test people": measured(run)}


TASKS = {"memory": memory, "time": seconds}


def main(argv):
    """Measure; see ``python experiments/evaluation_cost.py --help``."""
    parser = Parser(prog="experiments/evaluation_cost.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), help="what to measure (default both)")
    parser.add_argument("--work", metavar="DIR", help="keep data and runs here, and use those of an earlier call")
    parser.add_argument("--out", required=True, metavar="JSON", help="its sections of these names are replaced")
    flags = parser.parse_args(argv)
    with ExitStack() as stack:
        folder = Path(flags.work or stack.enter_context(tempfile.TemporaryDirectory())).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        report = {name: TASKS[name](folder) for name in flags.only}
    replace_sections(flags.out, report)


if __name__ == "__main__":
    run_script(main)
