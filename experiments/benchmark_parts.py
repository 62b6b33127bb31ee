"""The parts of the table of experiments/benchmark.py: each takes its Bench and yields rows."""

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from experiments.results import REPOSITORY

FULL_GRID = (30, 32)  # the whole frame at 8x
GRIDS = 64
TUTORIAL = "Keras tutorial's net, whole frame"


# ---- rows ---------------------------------------------------------------------------------------


def row(what, against, ours, theirs, target=None, smaller_is_better=False, ratio=None):
    """One row; the ratio says how many times better ours is, and the target is the least that it may be."""
    ratio = ratio if ratio is not None else theirs / ours if smaller_is_better else ours / theirs
    return {
        "what": what,
        "against": against,
        "ours": ours,
        "theirs": theirs,
        "ratio": ratio,
        "target": "" if target is None else target,
        "met": "" if target is None else ratio >= target,
    }


def share(what, operations, bench, precision, target):
    """A row against the machine's convolution peak."""
    return row(
        what,
        f"convolution peak, {precision.removeprefix('mixed_')}",
        operations / 1e9,
        bench.peak(precision)["convolution"] / 1e9,
        target,
    )


def waiting(stage, real):
    """A row on what the input pipeline costs."""
    return row(
        f"{stage} training, real pipeline, images/s",
        "the same batch in memory (at most 5 % apart)",
        real["rate"],
        real["constant"],
        1 / 1.05,
        ratio=1 / (1 + real["waiting"]),
    )


def machine_part(bench):
    """The machine's own peak."""
    candidates = ["float32", *["bfloat16"] * bench.bf16]
    peaks = {precision: bench.peak(precision) for precision in candidates}
    for kind in ("convolution", "product"):
        best = max(peaks, key=lambda precision: peaks[precision][kind])
        yield row(
            f"peak of the machine, {kind}, {best}, GFLOP/s",
            f"{kind}, float32",
            peaks[best][kind] / 1e9,
            peaks["float32"][kind] / 1e9,
        )


# ---- stage 1 ------------------------------------------------------------------------------------


def stage1_part(bench):
    """Stage 1: the peer's net, ours, the tutorial's, and reconstructions."""
    yield from train_the_peers_net(bench)
    yield from train_the_default_net(bench)
    yield from reconstruct(bench)


def train_the_peers_net(bench):
    """The PyTorch peer's own net at 256x256, built in Keras, against PyTorch."""
    if not bench.torch:
        return
    settings = ("default", "channels_last", *["bfloat16"] * bench.bf16)
    found = bench.in_turns(
        ours=("our_peer", dict(size=256, batch_size=32)),
        **{
            setting: (
                "rival",
                dict(name="torch_vqvae", work="training", height=256, width=256, batch_size=32, setting=setting),
            )
            for setting in settings
        },
    )
    fastest = max((found[setting] for setting in settings), key=lambda result: result["rate"])
    for theirs, shown, target in (
        (found["default"], "PyTorch default", 6 if bench.amx else 1.6),
        (fastest, "PyTorch fastest", 1.5 if bench.amx else 1.1),
    ):
        yield row(
            "stage 1 training, the peer's own net, 256x256, images/s",
            shown,
            found["ours"]["rate"],
            theirs["rate"],
            target,
        )
        yield row(
            "stage 1 training, the peer's own net, peak memory, MB",
            shown,
            found["ours"]["memory"],
            theirs["memory"],
            smaller_is_better=True,
        )


def train_the_default_net(bench):
    """Our default net against the tutorial's, against the machine, and with the real pipeline."""
    run, height, width = bench.folder, *bench.config["frame"]
    found = bench.in_turns(
        ours=("our_training", dict(run=run, precision=bench.precision, stage="vqvae")),
        keras=("rival", dict(name="keras_vqvae", work="training", height=height, width=width, batch_size=8)),
    )
    yield row("stage 1 training, default net, images/s", TUTORIAL, found["ours"]["rate"], found["keras"]["rate"])
    yield row(
        "stage 1 training, default net, peak memory, MB",
        TUTORIAL,
        found["ours"]["memory"],
        found["keras"]["memory"],
        smaller_is_better=True,
    )
    real = bench.in_turns(ours=("our_pipeline", dict(run=run, precision=bench.precision, stage="vqvae")))["ours"]
    yield share(
        "stage 1 training, default net, real pipeline, GFLOP/s",
        real["rate"] * found["ours"]["flops"],
        bench,
        bench.precision,
        0.35 if bench.amx else 0.55,
    )
    yield waiting("stage 1", real)


def reconstruct(bench):
    """Encoding and decoding with our default net, the tutorial's and PyTorch's."""
    height, width = bench.config["frame"]
    options = dict(work="reconstructing", height=height, width=width, batch_size=32)
    tasks = {
        "ours": ("our_reconstructions", dict(run=bench.folder, batch_size=32)),
        "keras": ("rival", dict(name="keras_vqvae", **options)),
    }
    shown = {"keras": TUTORIAL}
    if bench.torch:
        setting = "bfloat16" if bench.bf16 else "channels_last"
        tasks["torch"] = ("rival", dict(name="torch_vqvae", setting=setting, **options))
        shown["torch"] = "PyTorch fastest, whole frame"
    found = bench.in_turns(**tasks)
    for name, against in shown.items():
        yield row("reconstructions/s, default net", against, found["ours"]["rate"], found[name]["rate"])


# ---- stage 2 and sampling -----------------------------------------------------------------------


def stage2_part(bench):
    """Stage 2, as trained: slices augmented and encoded afresh."""
    run = bench.folder
    names = {"torch": "PyTorch, 15 x 64, codes given"} if bench.torch else {}
    names |= {"keras": "Keras tutorial's prior, codes given"}
    found = bench.in_turns(
        ours=("our_training", dict(run=run, precision=bench.precision, stage="prior")),
        float32=("our_training", dict(run=run, precision="float32", stage="prior")),
        **{
            name: (
                "rival",
                dict(name=f"{name}_pixelcnn", work="training", count=1, batch_size=8, grid=bench.config["code_grid"]),
            )
            for name in names
        },
    )
    for precision in dict.fromkeys((bench.precision, "float32")):
        ours = found["ours" if precision == bench.precision else "float32"]
        yield share(
            f"stage 2 training, default net, {precision}, GFLOP/s",
            ours["rate"] * ours["flops"],
            bench,
            precision,
            0.30 if bench.amx else 0.85,
        )
    for name, against in names.items():
        yield row(
            "stage 2 training, default net, slices encoded afresh, images/s",
            against,
            found["ours"]["rate"],
            found[name]["rate"],
        )
        yield row(
            "stage 2 training, default net, peak memory, MB",
            against,
            found["ours"]["memory"],
            found[name]["memory"],
            smaller_is_better=True,
        )
    real = bench.in_turns(ours=("our_pipeline", dict(run=run, precision=bench.precision, stage="prior")))["ours"]
    yield waiting("stage 2", real)


def sampling_part(bench):
    """64 grids of the whole frame: cached, by full passes, and theirs."""
    run = bench.folder
    found = bench.in_turns(
        **{
            kind: ("our_sampling", dict(run=run, kind=kind, grid=FULL_GRID, count=GRIDS))
            for kind in ("cached", "forced")
        }
    )
    cached, forced = found["cached"]["seconds"], found["forced"]["seconds"]
    what = f"sampling {GRIDS} grids of {FULL_GRID[1]}x{FULL_GRID[0]}, cached, s"
    yield row(what, "one teacher-forced pass over them, same net (at most twice)", cached, forced, 1 / 2, True)
    yield row(what, "one full pass per code, same net and precision", cached, forced * math.prod(FULL_GRID), 300, True)
    yield row(
        f"sampling {GRIDS} grids, peak memory, MB",
        "one teacher-forced pass over them",
        found["cached"]["memory"],
        found["forced"]["memory"],
        smaller_is_better=True,
    )
    rivals = {"keras_pixelcnn": "Keras tutorial's prior and loop, 128 codes"}
    if bench.torch:
        rivals["torch_pixelcnn"] = "PyTorch, 15 x 64, 512 codes"
    for name, shown in rivals.items():
        theirs = bench.run("rival", name=name, work="sampling", grid=FULL_GRID, batch_size=8, count=GRIDS)
        yield row(
            what,
            f"{shown}, one pass per code, reckoned from 16 of them",
            cached,
            theirs["seconds"],
            smaller_is_better=True,
        )


# ---- growth -------------------------------------------------------------------------------------


def growth_part(bench):
    """How training and sampling grow: by what factor when a size doubles, fitted over all sizes."""
    for stage, name in (("vqvae", "stage 1 training, s a step"), ("prior", "stage 2 training, s a step")):
        yield grow(bench, name, "image area", (96, 160, 256), partial(train_on_area, bench, stage))
        yield grow(
            bench,
            name,
            "batch size",
            (2, 8, 32),
            lambda size, stage=stage: (size, time_training(bench, stage, batch_size=size)),
        )
        yield grow(
            bench,
            name,
            "number of codes",
            (128, 2048),
            lambda count, stage=stage: (count, time_training(bench, stage, num_codes=count)),
        )
    what, sample = f"sampling {GRIDS} grids, s", partial(bench.run, "our_sampling", run=bench.folder, kind="cached")
    yield grow(
        bench,
        what,
        "grid area",
        ((8, 8), (16, 16), (24, 24), FULL_GRID),
        lambda grid: (math.prod(grid), sample(grid=grid, count=GRIDS)),
        1 / 1.1,
    )
    yield grow(
        bench,
        what,
        "number of codes",
        (128, 2048),
        lambda count: (count, sample(grid=(16, 16), count=GRIDS, num_codes=count)),
    )
    yield grow(
        bench, "sampling, s", "number of grids", (8, 32, 128), lambda count: (count, sample(grid=(16, 16), count=count))
    )


def grow(bench, what, by, sizes, measure, target=None):
    """A row on the factor by which seconds grow, and a row of the table of growth for each size.

    ``measure`` gives a size as a number, and what was found there.
    """
    points = []
    for size in sizes:
        x, found = measure(size)
        bench.growth.append({"what": what, "by": by, "size": x} | {name: found[name] for name in ("seconds", "memory")})
        points.append((math.log(x), math.log(found["seconds"])))
    factor = 2 ** statistics.linear_regression(*zip(*points, strict=True)).slope
    return row(f"{what}, growth when {by} doubles", "linear growth", factor, 2.0, target, True)


def time_training(bench, stage, **changes):
    """What a training step of a changed config takes: its seconds, too."""
    found = bench.run("our_training", run=bench.folder, precision=bench.precision, stage=stage, **changes)
    return found | {"seconds": changes.get("batch_size", bench.config["batch_size"]) / found["rate"]}


def train_on_area(bench, stage, side):
    """The area of a square crop box, and what a training step takes there."""
    cells = side // bench.config["downsample"]
    changes = dict(crop_box=[*bench.config["crop_box"][:2], side, side], code_grid=[cells, cells])
    return side**2, time_training(bench, stage, **changes)


# ---- what a user waits for ----------------------------------------------------------------------


def startup_part(bench):
    """How long a user waits for an answer."""
    least = seconds_of("-c", "import argparse")
    commands = [(f"{script}.py", "--help") for script in ("train", "predict", "evaluate", "dataset")]
    commands += [
        ("train.py", "--bad"),
        ("train.py", "--batch-size", "none"),
        ("train.py", "--data", "nowhere"),
        ("predict.py", "--run", "nowhere"),
        ("predict.py", "--bad"),
        ("predict.py", "score", "--help"),
        ("evaluate.py", "--run", "nowhere"),
        ("evaluate.py", "--bad"),
        ("dataset.py", "check", "--data", "nowhere"),
    ]
    for command in commands:
        yield row(
            f"python {' '.join(command)}, s",
            "python -c 'import argparse' (at most ten times)",
            seconds_of(*command),
            least,
            1 / 10,
            True,
        )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "predict.py", "--run", bench.folder, "--num-images", "1", "--out", f"{folder}/out"],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
        )
        yield row("the first brain of predict.py, s", "15 s", time.perf_counter() - start, 15, 1, True)


def seconds_of(*command):
    """The least that a Python command took, of five times."""
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=REPOSITORY, capture_output=True)
        taken.append(time.perf_counter() - start)
    return min(taken)


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
    yield row(
        f"training, cache in a file, memory with {sizes[1]['slices']:,} slices, MB",
        f"with {sizes[0]['slices']:,} (at most 10 % more)",
        sizes[1]["megabytes"],
        sizes[0]["megabytes"],
        1 / 1.1,
        True,
    )


# ---- where the time goes, and what it buys ------------------------------------------------------


def profile_part(bench):
    """Where the time of a step goes; fills the table of the profile."""
    for what, precision in (
        ("vqvae", bench.precision),
        ("prior", bench.precision),
        ("prior", "float32"),
        ("sampling", "float32"),
    ):
        found = bench.run("profile", run=bench.folder, precision=precision, what=what, count=GRIDS)
        total = sum(found["operations"].values())
        kinds = sorted(found["operations"], key=found["operations"].get, reverse=True)[:12]
        bench.profiles += [
            {"what": what, "precision": precision, "operation": kind, "share": found["operations"][kind] / total}
            for kind in kinds
        ]
    return []


def quality_part(bench):
    """Minutes until ours is as good as the peer is after 20, with its codebook as published and with one kept alive."""
    for codebook in bench.codebooks:
        yield from time_to_quality(bench, bench.minutes, codebook)


def time_to_quality(bench, minutes, codebook):
    """The first of ever longer trainings of ours, each with its own schedule, that is as good as the peer."""
    theirs = bench.run("quality_of_the_peer", run=bench.folder, minutes=minutes, codebook=codebook)
    print(theirs, flush=True)
    peer = f"the peer's, {codebook} codebook"
    for steps in (300, 600, 1200, 2400, 4800):
        ours = train_ours(bench, steps)
        print(steps, ours, flush=True)
        if all(ours[name] >= theirs[name] for name in ("ssim_brain", "frc_resolution")):
            break
    for name in ("ssim_brain", "frc_resolution", "codes_used"):  # the last as a share of all
        yield row(
            f"stage 1, {name} on validation people, at the time below",
            f"{peer}, after {minutes:g} minutes",
            ours[name],
            theirs[name],
        )
    yield row(
        "stage 1 time to the peer's quality, the whole command, minutes",
        f"{peer}, {theirs['steps']} steps (at most a third)",
        ours["minutes"],
        minutes,
        3,
        True,
    )


def train_ours(bench, steps):
    """The minutes that train.py takes for so many steps of stage 1, and the quality of what comes out."""
    data, seed = bench.config["data"], str(bench.config["seed"])
    options = ["--vqvae-steps", str(steps), "--precision", bench.precision, "--seed", seed]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = ["train.py", "--data", Path(data).absolute(), "--run", f"{folder}/run", "--stage", "vqvae", *options]
        subprocess.run([sys.executable, *command], cwd=REPOSITORY, check=True, capture_output=True)
        minutes = (time.perf_counter() - start) / 60
        return {"minutes": minutes} | bench.run("quality_of_ours", trained=f"{folder}/run")


PARTS = {
    "machine": machine_part,
    "stage1": stage1_part,
    "stage2": stage2_part,
    "sampling": sampling_part,
    "growth": growth_part,
    "startup": startup_part,
    "data": data_part,
    "profile": profile_part,
    "quality": quality_part,
}
