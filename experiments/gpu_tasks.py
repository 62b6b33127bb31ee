"""What experiments/gpu.py measures, each task in a process of its own.

    python experiments/gpu_tasks.py '["training", {"preset": "smoke", "deterministic": true, "precisions": ["tf32"]}]'

Every task yields rows, as ``row`` makes them; the process prints each as a line of JSON as soon as it is known, so
that what was measured before the time is up is not lost. Nothing here needs slices or a finished run: images and
weights are random, and sizes are those of ReducedResults/brains with the options of a preset.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.results import REDUCED, REPOSITORY
from experiments.tasks import do_task
from experiments.timings import PASSES, lasting, own_times, timed, trace
from training.options import preset_values, share_augmented
from utils import load_json, run_script

TINY_SIZES = {"frame": [60, 64], "crop_box": [0, 0, 56, 64], "code_grid": [14, 16]}  # of the preset smoke
SLICES = 512  # random ones that the pipeline draws from
RATE_BAR = 1500  # slices/s of either stage of the default net with the pipeline, on an H100
CHECKED_IMAGES = 32
PROFILED = 64  # grids that are sampled
PEER_SIZE, PEER_BATCH = 256, 32


# ---- rows ---------------------------------------------------------------------------------------


def row(part, what, setting, value, unit, least=None, most=None, memory=None):
    """One row of the table.

    Args:
        value: a number, or "" where none could be had.
        least, most: the bar that it is held to, if any.
        memory: the peak of the GPU's memory in MB, or None.
    """
    bar = f"at least {least:g}" if least is not None else f"at most {most:g}" if most is not None else ""
    met = "" if not bar or value == "" else value >= least if least is not None else value <= most
    memory = "" if memory is None else memory
    return dict(part=part, what=what, setting=setting, value=value, unit=unit, bar=bar, met=met, memory=memory)


def attempt(measure, part, what, setting, unit, **bar):
    """The row of what ``measure()`` returns; where it fails, one that says why: the rest is still worth having."""
    try:
        return row(part, what, setting, measure(), unit, **bar)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        return row(part, what, f"{setting}: failed, {reason[:100]}", "", unit, **bar)


# ---- nets ---------------------------------------------------------------------------------------


def config_of(preset, way="dilated"):
    """The config of a run of a preset on slices such as those of ReducedResults/brains.

    Args:
        way: of the prior's convolutions, "dilated" or "shifted".
    """
    config = load_json(REDUCED / "brains" / "config.json") | preset_values(preset)
    config["prior_vertical_width"] = config["prior_vertical_width"] or config["prior_width"] // 2
    return config | {"prior_convolution_resolved": way} | (TINY_SIZES if preset == "smoke" else {})


def start(deterministic=True, tf32=False):
    """TensorFlow as train.py starts it, TF32 aside."""
    from training.workers import start_tensorflow

    tf = start_tensorflow(deterministic)
    tf.config.experimental.enable_tensor_float_32_execution(tf32)
    return tf


def models(config, precision="float32"):
    """The crop box, a VQ-VAE and a prior of a config; the prior's logits are not all 0, so samples differ."""
    import tensorflow as tf

    from slices.frame import Box
    from training.optimisation import build_prior, build_vqvae

    box = Box(*config["crop_box"])
    vqvae, prior = build_vqvae(config, box, precision), build_prior(config, precision)
    for level in prior.levels():
        level.logits_kernel.assign(tf.random.stateless_normal(level.logits_kernel.shape, (0, 0), stddev=0.1))
    return box, vqvae, prior


# ---- memory -------------------------------------------------------------------------------------


def forget_peak(tf):
    """Count the peak of the GPU's memory from here."""
    with suppress(ValueError, tf.errors.OpError):  # there is none
        tf.config.experimental.reset_memory_stats("GPU:0")


def peak_memory(tf):
    """The peak of the GPU's memory in MB; None without a GPU."""
    with suppress(ValueError, tf.errors.OpError):
        return round(tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20)
    return None


# ---- is it right? -------------------------------------------------------------------------------


def checks(preset, tf32):
    """Codes and logits by every way that they are computed."""
    tf = start(tf32=tf32)
    config = config_of(preset)
    box, vqvae, prior = models(config)
    images = tf.random.stateless_uniform((CHECKED_IMAGES, box.height, box.width, 1), (0, 1))
    codes = vqvae.encode(images)
    with tf.device("CPU"):
        on_cpu = vqvae.encode(tf.identity(images))
    by_eights = tf.concat([tf.function(vqvae.encode)(part) for part in tf.split(images, CHECKED_IMAGES // 8)], 0)
    ids = tf.ones(8, tf.int32)
    prior = prior.levels()[-1]
    logits = prior(codes[:8], ids, ids)
    shifted = models(config_of(preset, "shifted"))[2].levels()[-1](codes[:8], ids, ids)
    setting = f"TF32 {'on' if tf32 else 'off'}"
    for what, other in (("in batches of 8, as a graph", by_eights), ("on the CPU", on_cpu)):
        share = float(tf.reduce_mean(tf.cast(codes != other, tf.float32)))
        yield row("checks", f"share of codes that differ {what}", setting, share, "of all", most=0)
    for what, other, most in (
        ("cached logits, largest difference from a full pass", prior.cached_logits(codes[:8], ids, ids), 1e-4),
        ("shifted convolutions, largest difference from dilated ones in logits", shifted, 1e-4),
    ):
        yield row("checks", what, setting, float(tf.reduce_max(tf.abs(logits - other))), "", most=most)


def tests(tf32, seconds=60):
    """The repository's tests of the models, in one process that may take so long."""
    environment = os.environ | ({} if tf32 else {"NVIDIA_TF32_OVERRIDE": "0"})
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", "tests/test_modules.py"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=seconds)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    wrong = sum(counts.values()) - counts.get("passed", 0) if counts else ""
    setting = f"TF32 {'on' if tf32 else 'off'}, {counts.get('passed', 0)} passed"
    yield row("checks", "tests/test_modules.py", setting, wrong, "failed", most=0)


# ---- training -----------------------------------------------------------------------------------


def training(preset, deterministic, precisions, ways=("dilated", "shifted"), seconds=1.0):
    """Steps of both stages on one random batch in memory.

    Args:
        precisions: of "float32", "tf32", "mixed_bfloat16", "mixed_float16".
        ways: of the prior's convolutions.
        seconds: that each is timed for, after two steps that trace and warm up.
    """
    tf = start(deterministic)
    for precision in precisions:
        tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
        for stage, way in (("vqvae", "dilated"), *(("prior", way) for way in ways)):
            config = config_of(preset, way)
            setting = [
                precision,
                "deterministic" if deterministic else "any order of sums",
                *[way] * (stage == "prior"),
            ]
            forget_peak(tf)
            found = attempt(
                lambda config=config, stage=stage, precision=precision: step_rate(
                    tf, config, stage, precision, seconds
                ),
                "step",
                f"{stage}, {preset}, batch {config['batch_size']}",
                ", ".join(setting),
                "slices/s",
            )
            yield found | {"memory": peak_memory(tf) or ""}


def step_of(tf, config, stage, precision):
    """A traced step of a stage, and the crop box. The VQ-VAE that encodes for the prior is in float32, as in train.py.

    Args:
        precision: "tf32" is float32 here.
    """
    from training.timing import stage_step

    precision = precision.replace("tf32", "float32")
    box, vqvae, prior = models(config, precision)
    if stage == "prior":
        vqvae = models(config)[1]
    return stage_step(tf, stage, config, vqvae, prior), box


def step_rate(tf, config, stage, precision, seconds):
    """Slices per second of a stage on one random batch."""
    from training.timing import random_batch

    step, box = step_of(tf, config, stage, precision)
    batch = random_batch(tf, config, box)
    return timed(lambda: step(batch)["loss"].numpy(), config["batch_size"], seconds)["rate"]


def batches_of(config, stage, box):
    """The real pipeline of a stage on random slices in the whole frame."""
    import numpy as np

    import dataset

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (SLICES, *config["frame"], 1), np.uint8)
    columns = {name: random.integers(1, 3, SLICES, np.int32) for name in ("label", "position")}
    others = random.integers(0, SLICES, (SLICES, config["prior_slices_below"] if stage == "prior" else 0))
    columns |= {"there": others >= 0, "gaps": np.ones(others.shape, np.int32)}
    return dataset.training_batches(
        images,
        columns,
        config["batch_size"],
        0,
        box,
        augmented=share_augmented(config, stage),
        flip=config["flip"],
        purpose=stage,
        whole_pixels=stage == "vqvae",
        others=others,
    )


def pipeline(preset, precision, way="dilated", seconds=4.0):
    """The pipeline alone, and each stage fed by it."""
    from slices.machine import cores

    tf = start()
    config = config_of(preset, way)
    for stage in ("vqvae", "prior"):
        step, box = step_of(tf, config, stage, precision)
        batches = batches_of(config, stage, box)
        alone = lasting(batches, config["batch_size"], seconds)
        for name, unit in (("rate", "slices/s"), ("core_ms", "ms of a core a slice")):
            yield row("pipeline", f"{stage}, the pipeline alone", f"{cores()} cores", alone[name], unit)
        losses = (step(batch)["loss"].numpy() for batch in batches)
        yield attempt(
            lambda losses=losses: lasting(losses, config["batch_size"], seconds)["rate"],
            "pipeline",
            f"{stage}, {preset}, fed by the pipeline",
            f"{precision}, {way}, {cores()} cores",
            "slices/s",
            least=RATE_BAR,
        )


def fingerprint(preset, precision, steps, way="dilated"):
    """The digest of both models after so many steps; two processes should say the same."""
    tf = start()
    config = config_of(preset, way)
    for stage in ("vqvae", "prior"):
        from training.timing import stage_step

        box, vqvae, prior = models(config, precision)
        step = stage_step(tf, stage, config, vqvae, prior)
        for _, batch in zip(range(steps), batches_of(config, stage, box), strict=False):
            step(batch)
        model = vqvae if stage == "vqvae" else prior
        digest = hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in model.weights)).hexdigest()
        yield row("repeat", f"{stage}, weights after {steps} steps", f"{precision}, {way}", digest, "sha256")


def profile(preset, precision, stage, way="dilated"):
    """What the GPU is busy with (without a GPU, the threads), and how much of the time.

    Args:
        stage: "vqvae" or "prior", one step of it; or "sampling", a block of PROFILED grids, always in float32.
    """
    from training.timing import random_batch

    tf = start()
    config = config_of(preset, way)
    if stage == "sampling":
        prior = models(config)[2]
        uniforms = tf.random.stateless_uniform((PROFILED, *prior.uniforms_shape), (0, 1))
        ids = tf.ones(PROFILED, tf.int32)

        def work():
            prior.sample(uniforms, ids, ids)[0].numpy()
    else:
        step, box = step_of(tf, config, stage, precision)
        batch = random_batch(tf, config, box)

        def work():
            step(batch)["loss"].numpy()

    for _ in range(3):
        work()
    _, planes = trace(tf, work)
    seconds = 1 / timed(work, 1, 0.5)["rate"]
    of_gpu = [plane for plane in planes if "/device:GPU" in plane.name]
    totals = own_times(of_gpu or planes)  # kernel: ms
    total = sum(totals.values()) or 1.0
    if of_gpu:
        yield row(
            "profile", f"{stage}, {preset}, {way}", "all kernels", total / 1e3 / seconds, "of the time without profiler"
        )
    for kernel in sorted(totals, key=totals.get, reverse=True)[:5]:
        yield row("profile", f"{stage}, {preset}, {way}", kernel[:60], totals[kernel] / total, "of the time")


# ---- sampling -----------------------------------------------------------------------------------


def sampling(preset, blocks, xla, seconds=2.0):
    """Seconds for a block of grids, and what whole jobs take in such blocks."""
    import numpy as np

    tf = start()
    config = config_of(preset)
    prior = models(config)[2]
    for block in blocks:
        uniforms = tf.constant(np.random.default_rng(0).random((block, *prior.uniforms_shape), np.float32))
        ids = tf.ones(block, tf.int32)
        draw = tf.function(lambda uniforms, ids=ids: prior.sample(uniforms, ids, ids)[0], jit_compile=xla or None)
        setting = f"float32, block {block}, {'XLA' if xla else 'no XLA'}"
        forget_peak(tf)
        found = attempt(
            lambda draw=draw, uniforms=uniforms: 1 / timed(lambda: draw(uniforms).numpy(), 1, seconds, 2)["rate"],
            "sampling",
            f"a block of grids, {preset}",
            setting,
            "s",
        )
        yield found | {"memory": peak_memory(tf) or ""}
        for grids, most in ((64, 2), (1024, 6)):
            if found["value"] != "" and grids % block == 0:
                whole = found["value"] * grids / block
                yield row("sampling", f"{grids:,} grids, reckoned from a block", setting, whole, "s", most=most)


def first_brain(preset):
    """From the start of the process to the first image, decoded: no weights are read, for there is no run here."""
    import numpy as np

    from sampling.draws import BLOCK, usual_block

    block = usual_block(start())
    _, vqvae, prior = models(config_of(preset))
    ids = np.ones(block, np.int32)
    codes, _ = prior.sample(np.random.default_rng(0).random((block, *prior.uniforms_shape), np.float32), ids, ids)
    vqvae.decode(codes[:BLOCK]).numpy()
    seconds = time.time() - float(os.environ.get("STARTED", time.time()))
    yield row(
        "start",
        f"the first {BLOCK} brains of a block of {block}, {preset}",
        "from the start of Python",
        seconds,
        "s",
        most=15,
    )


# ---- the peer -----------------------------------------------------------------------------------


def peer_ours(size=PEER_SIZE, batch_size=PEER_BATCH):
    """The PyTorch peer's own net, as experiments/peer.py builds it, in the faster precision."""
    from experiments.timings import our_peer

    yield attempt(
        lambda: our_peer(size, batch_size)["rate"], "peer", peers_net(size, batch_size), "TensorFlow", "slices/s"
    )


def peers_net(size, batch_size):
    """What the two rows of the peer's net have in common."""
    return f"stage 1, the peer's own net, {size}x{size}, batch {batch_size}"


def peer_theirs(size=PEER_SIZE, batch_size=PEER_BATCH, grid=(24, 21), count=64, seconds=2.0):
    """The PyTorch peer: its VQ-VAE in every setting, its prior's step and its sampling, reckoned from some passes."""
    import torch

    from experiments import rivals

    place = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_device(place)
    torch.backends.cudnn.benchmark = True
    for tf32 in (False, True):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        for setting in ("default", "channels_last", "bfloat16"):
            named = f"PyTorch, {place}, {setting}{', TF32' * tf32}"
            yield attempt(
                lambda setting=setting: timed(
                    rivals.torch_vqvae(size, size, batch_size, setting)[0], batch_size, seconds
                )["rate"],
                "peer",
                peers_net(size, batch_size),
                named,
                "slices/s",
            )
        if place == "cpu":
            break  # which knows no TF32
    train, sample = rivals.torch_pixelcnn(tuple(grid), batch_size, count)
    rate = timed(train, batch_size, seconds)["rate"]
    yield row("peer", "stage 2, 15 x 64, codes given", f"PyTorch, {place}", rate, "slices/s")
    yield row("peer", f"{count} grids, reckoned", f"PyTorch, {place}", time_passes(torch, sample, grid), "s")


def time_passes(torch, sample, grid):
    """Seconds for all codes of a grid, from PASSES evenly spread ones."""
    h, w = grid
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    sample(0, 0), wait()
    start = time.perf_counter()
    for i in range(PASSES):
        sample(*divmod(i * h * w // PASSES, w))
    wait()
    return (time.perf_counter() - start) / PASSES * h * w


# ---- the script ---------------------------------------------------------------------------------


TASKS = {
    function.__name__: function
    for function in (
        checks,
        tests,
        training,
        pipeline,
        fingerprint,
        profile,
        sampling,
        first_brain,
        peer_ours,
        peer_theirs,
    )
}


def main(argv):
    """Do one task; see ``python experiments/gpu_tasks.py --help``."""
    for found in do_task("gpu_tasks.py", __doc__, TASKS, argv):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    run_script(main)
