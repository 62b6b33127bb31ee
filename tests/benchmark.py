"""How fast is it, beside what a user would pick instead, and beside the machine itself? Run by hand.

    python tests/benchmark.py --run brains

--run is a finished run of the default preset: its config says which nets are timed, its slices feed them. Every
number comes from a process of its own with as many threads as there are cores; ours and theirs take turns, and of
each the fastest step of all turns counts. PyTorch's rows need PyTorch (pip install torch), the rest does not.

Into --out go benchmark_<cpu>.csv (what, against, ours, theirs, ratio, target, met), benchmark_<cpu>_growth.csv
(seconds and memory over image area, batch, grid area and K), benchmark_<cpu>_profile.csv (where a step's time goes,
by tf.profiler) and benchmark_<cpu>.png. Targets are those of a CPU without AMX unless it has AMX. Rows already in
a table are replaced by new ones.
"""

import argparse
import csv
import importlib.util
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from utils import open_run, processor, whole_file

REPOSITORY = Path(__file__).parent.parent
CORES = len(os.sched_getaffinity(0))
AMX = "amx_bf16" in processor()
FULL_GRID = (30, 32)  # the whole frame at 8x
GRIDS = 64
GROWTH = ("what", "by", "size", "seconds", "memory")
PROFILE = ("what", "precision", "operation", "share")
COLUMNS = ("what", "against", "ours", "theirs", "ratio", "target", "met")


# ---- the parts of the table: each yields rows ----------------------------------------------------


class Bench:
    """Runs tasks in processes of their own and remembers what they measured."""

    def __init__(self, flags):
        self.flags, self.seen = flags, {}
        self.torch = importlib.util.find_spec("torch") is not None
        folder, self.config = open_run(flags.run)
        self.folder = str(folder.absolute())
        self.precision = self.config["precision_resolved"]
        self.growth, self.profiles = [], []

    def run(self, task, **options):
        """What a task returned, with the peak memory of its process in megabytes."""
        environment = os.environ | {"OMP_NUM_THREADS": str(CORES), "TF_NUM_INTRAOP_THREADS": str(CORES)}
        command = [sys.executable, REPOSITORY / "tests" / "timings.py", json.dumps([task, options])]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"{task} {options} failed:\n{done.stderr[-3000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def in_turns(self, **tasks):
        """name → the best of what each task measured over the rounds; the tasks take turns."""
        measured = {name: [] for name in tasks}
        for _ in range(self.flags.rounds):
            for name, (task, options) in tasks.items():
                measured[name].append(self.run(task, **options))
        better = {"seconds": min, "waiting": statistics.median, "memory": statistics.median}
        return {name: {key: better.get(key, max)(result[key] for result in results) for key in results[0]}
                for name, results in measured.items()}

    def peak(self, precision):
        """The convolution peak in operations/s, measured once a sitting for each precision."""
        precision = "bfloat16" if precision == "mixed_bfloat16" else precision
        if precision not in self.seen:
            self.seen[precision] = self.run("peak", precision=precision)
        return self.seen[precision]


def row(what, against, ours, theirs, target=None, smaller_is_better=False, ratio=None):
    """One row; the ratio says how many times better ours is, and the target is the least that it may be."""
    ratio = ratio if ratio is not None else theirs / ours if smaller_is_better else ours / theirs
    return {"what": what, "against": against, "ours": ours, "theirs": theirs, "ratio": ratio,
            "target": "" if target is None else target, "met": "" if target is None else ratio >= target}


def machine_part(bench):
    """The machine's own peak."""
    candidates = ["float32", *["bfloat16"] * ("bf16" in processor())]
    peaks = {precision: bench.peak(precision) for precision in candidates}
    for kind in ("convolution", "product"):
        best = max(peaks, key=lambda precision: peaks[precision][kind])
        yield row(f"peak of the machine, {kind}, {best}, GFLOP/s", f"{kind}, float32", peaks[best][kind] / 1e9,
                  peaks["float32"][kind] / 1e9)


def stage1_part(bench):
    """Stage 1: the peer's net, ours, the tutorial's, and reconstructions."""
    run, height, width = bench.folder, *bench.config["frame"]
    tasks = {"ours": ("our_peer", dict(size=256, batch_size=32))}
    settings = ("default", "channels_last", *["bfloat16"] * ("bf16" in processor())) if bench.torch else ()
    for setting in settings:
        tasks[setting] = ("rival", dict(name="torch_vqvae", work="training", height=256, width=256,
                                        batch_size=32, setting=setting))
    found = bench.in_turns(**tasks)
    for name, shown, target in (("default", "PyTorch default", 6 if AMX else 1.6),
                                ("fastest", "PyTorch fastest", 1.5 if AMX else 1.1)) if settings else ():
        theirs = found["default"] if name == "default" else max(
            (found[setting] for setting in settings), key=lambda result: result["rate"])
        yield row("stage 1 training, the peer's own net, 256x256, images/s", shown, found["ours"]["rate"],
                  theirs["rate"], target)
        yield row("stage 1 training, the peer's own net, peak memory, MB", shown, found["ours"]["memory"],
                  theirs["memory"], smaller_is_better=True)
    tasks = {"ours": ("our_training", dict(run=run, precision=bench.precision, stage="vqvae")),
             "keras": ("rival", dict(name="keras_vqvae", work="training", height=height, width=width,
                                     batch_size=8))}
    found = bench.in_turns(**tasks)
    yield row("stage 1 training, default net, images/s", "Keras tutorial's net, whole frame", found["ours"]["rate"],
              found["keras"]["rate"])
    yield row("stage 1 training, default net, peak memory, MB", "Keras tutorial's net, whole frame",
              found["ours"]["memory"], found["keras"]["memory"], smaller_is_better=True)
    real = bench.in_turns(ours=("our_pipeline", dict(run=run, precision=bench.precision, stage="vqvae")))["ours"]
    yield share("stage 1 training, default net, real pipeline, GFLOP/s", real["rate"] * found["ours"]["flops"],
                bench, bench.precision, 0.35 if AMX else 0.55)
    yield waiting("stage 1", real)
    tasks = {"ours": ("our_reconstructions", dict(run=run, batch_size=32)),
             "keras": ("rival", dict(name="keras_vqvae", work="reconstructing", height=height, width=width,
                                     batch_size=32))}
    if bench.torch:
        tasks["torch"] = ("rival", dict(name="torch_vqvae", work="reconstructing", height=height, width=width,
                                        batch_size=32,
                                        setting="bfloat16" if "bf16" in processor() else "channels_last"))
    found = bench.in_turns(**tasks)
    for name in list(tasks)[1:]:
        shown = {"keras": "Keras tutorial's net, whole frame", "torch": "PyTorch fastest, whole frame"}[name]
        yield row("reconstructions/s, default net", shown, found["ours"]["rate"], found[name]["rate"])


def share(what, operations, bench, precision, target):
    """A row against the machine's convolution peak."""
    return row(what, f"convolution peak, {precision.removeprefix('mixed_')}", operations / 1e9,
               bench.peak(precision)["convolution"] / 1e9, target)


def waiting(stage, real):
    """A row on what the input pipeline costs."""
    return row(f"{stage} training, real pipeline, images/s", "the same batch in memory (at most 5 % apart)",
               real["rate"], real["constant"], 1 / 1.05, ratio=1 / (1 + real["waiting"]))


def stage2_part(bench):
    """Stage 2, as trained: slices augmented and encoded afresh."""
    run = bench.folder
    tasks = {"ours": ("our_training", dict(run=run, precision=bench.precision, stage="prior")),
             "float32": ("our_training", dict(run=run, precision="float32", stage="prior"))}
    if bench.torch:
        tasks["torch"] = ("rival", dict(name="torch_pixelcnn", work="training", count=1, batch_size=8,
                                        grid=bench.config["code_grid"]))
    tasks["keras"] = ("rival", dict(name="keras_pixelcnn", work="training", count=1, batch_size=8,
                                    grid=bench.config["code_grid"]))
    found = bench.in_turns(**tasks)
    for precision in dict.fromkeys((bench.precision, "float32")):
        ours = found["ours" if precision == bench.precision else "float32"]
        yield share(f"stage 2 training, default net, {precision}, GFLOP/s", ours["rate"] * ours["flops"], bench,
                    precision, 0.30 if AMX else 0.85)
    names = {"torch": "PyTorch, 15 x 64, codes given", "keras": "Keras tutorial's prior, codes given"}
    for name in names.keys() & tasks.keys():
        yield row("stage 2 training, default net, slices encoded afresh, images/s", names[name], found["ours"]["rate"],
                  found[name]["rate"])
        yield row("stage 2 training, default net, peak memory, MB", names[name], found["ours"]["memory"],
                  found[name]["memory"], smaller_is_better=True)
    real = bench.in_turns(ours=("our_pipeline", dict(run=run, precision=bench.precision, stage="prior")))["ours"]
    yield waiting("stage 2", real)


def sampling_part(bench):
    """64 grids of the whole frame: cached, by full passes, and theirs."""
    run = bench.folder
    found = bench.in_turns(**{kind: ("our_sampling", dict(run=run, kind=kind, grid=FULL_GRID, count=GRIDS))
                              for kind in ("cached", "forced")})
    cached, forced = found["cached"]["seconds"], found["forced"]["seconds"]
    what = f"sampling {GRIDS} grids of {FULL_GRID[1]}x{FULL_GRID[0]}, cached, s"
    yield row(what, "one teacher-forced pass over them, same net (at most twice)", cached, forced, 1 / 2, True)
    yield row(what, "one full pass per code, same net and precision", cached, forced * math.prod(FULL_GRID), 300, True)
    yield row(f"sampling {GRIDS} grids, peak memory, MB", "one teacher-forced pass over them",
              found["cached"]["memory"], found["forced"]["memory"], smaller_is_better=True)
    rivals = {"keras_pixelcnn": "Keras tutorial's prior and loop, 128 codes"}
    if bench.torch:
        rivals["torch_pixelcnn"] = "PyTorch, 15 x 64, 512 codes"
    for name, shown in rivals.items():
        theirs = bench.run("rival", name=name, work="sampling", grid=FULL_GRID, batch_size=8, count=GRIDS)
        yield row(what, f"{shown}, one pass per code, reckoned from 16 of them", cached, theirs["seconds"],
                  smaller_is_better=True)


def growth_part(bench):
    """How training and sampling grow: by what factor when a size doubles, fitted over all sizes."""
    run, box = bench.folder, bench.config["crop_box"]

    def grow(what, by, sizes, measure, target=None):
        points = []
        for size in sizes:
            x, found = measure(size)
            bench.growth.append({"what": what, "by": by, "size": x} | {
                name: found[name] for name in ("seconds", "memory")})
            points.append((math.log(x), math.log(found["seconds"])))
        factor = 2 ** statistics.linear_regression(*zip(*points, strict=True)).slope
        return row(f"{what}, growth when {by} doubles", "linear growth", factor, 2.0, target, True)

    def training(stage, **changes):
        found = bench.run("our_training", run=run, precision=bench.precision, stage=stage, **changes)
        return found | {"seconds": changes.get("batch_size", bench.config["batch_size"]) / found["rate"]}

    def of_area(stage):
        def measure(side):
            changes = dict(crop_box=[*box[:2], side, side], code_grid=[side // 8, side // 8])
            return side**2, training(stage, **changes)
        return measure

    def of_batch(stage):
        return lambda size: (size, training(stage, batch_size=size))

    def of_codes(stage):
        return lambda count: (count, training(stage, num_codes=count))

    for stage, name in (("vqvae", "stage 1 training, s a step"), ("prior", "stage 2 training, s a step")):
        yield grow(name, "image area", (96, 160, 256), of_area(stage))
        yield grow(name, "batch size", (2, 8, 32), of_batch(stage))
        yield grow(name, "number of codes", (128, 2048), of_codes(stage))
    what = f"sampling {GRIDS} grids, s"
    yield grow(what, "grid area", ((8, 8), (16, 16), (24, 24), FULL_GRID), lambda grid: (
        math.prod(grid), bench.run("our_sampling", run=run, kind="cached", grid=grid, count=GRIDS)), 1 / 1.1)
    yield grow(what, "number of codes", (128, 2048), lambda count: (
        count, bench.run("our_sampling", run=run, kind="cached", grid=(16, 16), count=GRIDS, num_codes=count)))
    yield grow("sampling, s", "number of grids", (8, 32, 128), lambda count: (
        count, bench.run("our_sampling", run=run, kind="cached", grid=(16, 16), count=count)))


def startup_part(bench):
    """How long a user waits for an answer."""
    def seconds(*command):
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], cwd=REPOSITORY, capture_output=True)
            taken.append(time.perf_counter() - start)
        return min(taken)

    least = seconds("-c", "import argparse")
    commands = [(f"{script}.py", "--help") for script in ("train", "predict", "evaluate", "dataset")]
    commands += [("train.py", "--bad"), ("train.py", "--batch-size", "none"), ("train.py", "--data", "nowhere"),
                 ("predict.py", "--run", "nowhere"), ("predict.py", "--bad"),
                 ("evaluate.py", "--run", "nowhere"), ("evaluate.py", "--bad"), ("dataset.py", "--data", "nowhere")]
    for command in commands:
        yield row(f"python {' '.join(command)}, s", "python -c 'import argparse' (at most ten times)",
                  seconds(*command), least, 1 / 10, True)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([sys.executable, "predict.py", "--run", bench.folder, "--num-images", "1", "--out",
                        f"{folder}/out"], cwd=REPOSITORY, check=True, capture_output=True)
        yield row("the first brain of predict.py, s", "15 s", time.perf_counter() - start, 15, 1, True)


def data_part(bench):
    """A million names, and memory that does not grow."""
    with tempfile.TemporaryDirectory() as folder:
        for subject in range(50000):
            parent = Path(folder, "train" if subject < 40000 else "test", "AD" if subject % 2 else "NC")
            parent.mkdir(parents=True, exist_ok=True)
            for number in range(20):
                os.close(os.open(parent / f"{subject}_{60 + number}.png", os.O_CREAT))
        found = bench.run("index", folder=folder)
    assert found["slices"] == 1_000_000
    yield row("index of 1,000,000 file names, s", "20 s", found["seconds"], 20, 1, True)
    yield row("index of 1,000,000 file names, peak memory, MB", "1,000 MB", found["memory"], 1000, 1, True)
    sizes = []
    for copies in (1, 8):
        with tempfile.TemporaryDirectory() as folder:
            sizes.append(bench.run("cached_in_a_file", folder=folder, copies=copies, run=bench.folder))
    yield row(f"training, cache in a file, memory with {sizes[1]['slices']:,} slices, MB",
              f"with {sizes[0]['slices']:,} (at most 10 % more)", sizes[1]["megabytes"], sizes[0]["megabytes"], 1 / 1.1,
              True)


def profile_part(bench):
    """Where the time of a step goes; fills the table of the profile."""
    for what, precision in (("vqvae", bench.precision), ("prior", bench.precision), ("prior", "float32"),
                            ("sampling", "float32")):
        found = bench.run("profile", run=bench.folder, precision=precision, what=what, count=GRIDS)
        total = sum(found["operations"].values())
        kinds = sorted(found["operations"], key=found["operations"].get, reverse=True)[:12]
        bench.profiles += [{"what": what, "precision": precision, "operation": kind,
                            "share": found["operations"][kind] / total} for kind in kinds]
    return []


def quality_part(bench):
    """Minutes until ours is as good as the peer is after 20, with its codebook as published and with one kept alive."""
    for codebook in bench.flags.codebooks:
        yield from time_to_quality(bench, bench.flags.minutes, codebook)


def time_to_quality(bench, minutes, codebook):
    """The first of ever longer trainings of ours, each with its own schedule, that is as good as the peer."""
    theirs = bench.run("quality_of_the_peer", run=bench.folder, minutes=minutes, codebook=codebook)
    print(theirs, flush=True)
    peer = f"the peer's, {codebook} codebook"
    for steps in (300, 600, 1200, 2400, 4800):
        with tempfile.TemporaryDirectory() as folder:
            trained = f"{folder}/run"
            start = time.perf_counter()
            subprocess.run([sys.executable, REPOSITORY / "train.py", "--data", bench.config["data"], "--run", trained,
                            "--stage", "vqvae", "--vqvae-steps", str(steps), "--precision", bench.precision,
                            "--seed", str(bench.config["seed"])], check=True, capture_output=True)
            ours = {"minutes": (time.perf_counter() - start) / 60} | bench.run(
                "quality_of_ours", run=bench.folder, trained=trained)
        print(steps, ours, flush=True)
        if all(ours[name] >= theirs[name] for name in ("ssim_brain", "frc_resolution")):
            break
    for name in ("ssim_brain", "frc_resolution", "codes_used"):  # the last as a share of all
        yield row(f"stage 1, {name} on validation people, at the time below", f"{peer}, after {minutes:g} minutes",
                  ours[name], theirs[name])
    yield row("stage 1 time to the peer's quality, the whole command, minutes",
              f"{peer}, {theirs['steps']} steps (at most a third)", ours["minutes"], minutes, 3, True)


PARTS = {"machine": machine_part, "stage1": stage1_part, "stage2": stage2_part, "sampling": sampling_part,
         "growth": growth_part, "startup": startup_part, "data": data_part, "profile": profile_part,
         "quality": quality_part}


# ---- the script ---------------------------------------------------------------------------------


def write(path, rows, columns, key):
    """Put rows into a CSV, in the place of older ones that are the same in the columns of ``key``."""
    found, old = {tuple(str(line[name]) for name in key) for line in rows}, []
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            old = [line for line in csv.DictReader(file) if tuple(line[name] for name in key) not in found]
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for line in [*old, *rows]:
            writer.writerow({name: f"{value:.4g}" if isinstance(value, float) else value
                             for name, value in line.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", required=True, help="a finished run of the default preset")
    parser.add_argument("--out", default=str(REPOSITORY / "ReducedResults"), metavar="DIR")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="some parts of the table")
    parser.add_argument("--rounds", type=int, default=3, help="turns that ours and theirs take")
    parser.add_argument("--minutes", type=float, default=20, help="of the peer's training, for the time to its quality")
    parser.add_argument("--codebooks", nargs="+", choices=("gradient", "ema"), default=["gradient", "ema"],
                        help="of that peer: as published, and kept alive by our moving averages")
    flags = parser.parse_args()
    bench = Bench(flags)
    stem = Path(flags.out) / f"benchmark_{'-'.join(re.findall(r'[a-z0-9_]+', processor().lower()))}"
    for part in flags.only:
        rows = []
        for found in PARTS[part](bench):
            rows.append(found)
            print(" | ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in found.values()),
                  flush=True)
        for suffix, lines, columns, key in (
                (".csv", rows, COLUMNS, ("what", "against")), ("_growth.csv", bench.growth, GROWTH, GROWTH[:3]),
                ("_profile.csv", bench.profiles, PROFILE, PROFILE[:3])):
            if lines:
                write(stem.with_name(stem.name + suffix), lines, columns, key)
    if bench.growth:
        draw(stem)


def draw(stem):
    """The ratios of the table beside their targets, and the curves of growth."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    import pandas as pd

    table, growth = (pd.read_csv(stem.with_name(stem.name + suffix)) for suffix in (".csv", "_growth.csv"))
    shown = table["against"].str.contains("PyTorch|Keras|pass|peak,|peer") & ~table["what"].str.contains("memory")
    table = table[shown]
    figure, (bars, curves) = plt.subplots(1, 2, figsize=(13, 0.4 * len(table) + 1.5), width_ratios=(3, 2),
                                          layout="constrained")
    places = np.arange(len(table))[::-1]
    bars.barh(places, table["ratio"], color=["#b55" if met is False else "#478" for met in table["met"]])
    bars.plot(table["target"], places, "k|", markersize=14, label="target")
    bars.set(xscale="log", xlabel="times better than what it is compared with", yticks=places)
    bars.set_yticklabels([f"{line.what}\nagainst {line.against}" for line in table.itertuples()], fontsize=6)
    bars.axvline(1, color="0.6", linewidth=0.8)
    bars.legend(fontsize=7)
    for (what, by), points in growth.groupby(["what", "by"]):
        curves.plot(points["size"], points["seconds"], "o-", markersize=3, label=f"{what} by {by}")
    curves.set(xscale="log", yscale="log", xlabel="size", ylabel="seconds")
    curves.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.06))
    figure.savefig(stem.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
