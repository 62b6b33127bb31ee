"""What experiments/benchmark.py times, each in a process of its own.

    python experiments/timings.py '["peak", {"precision": "float32"}]'

Every function here returns a dict of numbers: ``rate`` in images per second, or ``seconds``, and what else its
docstring says; the process adds ``memory``, its peak in megabytes, and prints them as JSON.
"""

import json
import math
import os
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.tasks import do_task
from training.folder import open_run
from training.options import share_augmented, with_defaults
from utils import run_script

PASSES = 16


def timed(work, images, seconds=4.0, least=4):
    """Images per second of the fastest of the calls that fit into ``seconds``, after two that trace and warm up."""
    work(), work()
    taken, end = [], time.perf_counter() + seconds
    while len(taken) < least or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return {"rate": images / min(taken)}


def forward_flops(function, *specs):
    """Floating-point operations of one call, as TensorFlow counts them; a multiplication and an addition are two."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    graph = convert_variables_to_constants_v2(tf.function(function).get_concrete_function(*specs)).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder(tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
    with graph.as_default():
        return tf.compat.v1.profiler.profile(graph, options=options.with_empty_output().build()).total_float_ops


def peak(precision):
    """The machine's own: the fastest 3x3 convolution, forward and backward, and the fastest matrix product."""
    from training.workers import start_tensorflow

    tf = start_tensorflow(deterministic=False)
    convolutions = ((64, 64, 8), (128, 64, 8), (256, 32, 8))
    return {
        "convolution": max(convolution_rate(tf, precision, *shape) for shape in convolutions),
        "product": max(product_rate(tf, precision, size) for size in (1024, 2048)),
    }


def convolution_rate(tf, precision, channels, side, batch):
    """Operations per second of a 3x3 convolution, forward and backward."""
    images = tf.cast(tf.random.normal((batch, side, side, channels)), precision)
    kernel = tf.cast(tf.random.normal((3, 3, channels, channels)), precision)

    @tf.function
    def convolve():
        with tf.GradientTape() as tape:
            tape.watch((images, kernel))
            result = tf.nn.conv2d(images, kernel, 1, "SAME")
        return tape.gradient(result, (images, kernel), output_gradients=result)

    return timed(lambda: convolve()[0].numpy(), 3 * 2 * 9 * channels**2 * side**2 * batch, 2)["rate"]


def product_rate(tf, precision, size):
    """Operations per second of a matrix product."""
    matrix = tf.cast(tf.random.normal((size, size)), precision)
    multiply = tf.function(lambda: matrix @ matrix)
    return timed(lambda: multiply().numpy(), 2 * size**3, 2)["rate"]


# ---- ours ---------------------------------------------------------------------------------------


def our_models(run, precision, **changes):
    """TensorFlow, config, crop box and fresh models of a run's config, some of it changed."""
    from slices.frame import Box
    from training.workers import start_tensorflow

    config = with_defaults(open_run(run)[1]) | changes
    tf, box = start_tensorflow(config["deterministic"]), Box(*config["crop_box"])
    from training.optimisation import build_prior, build_vqvae

    return tf, config, box, build_vqvae(config, box, precision), build_prior(config, precision)


def step_flops(tf, config, box, vqvae, prior):
    """Operations a training slice: three times the forward pass of what is trained; stage 2 encodes as well."""
    (h, w), one = config["code_grid"], tf.TensorSpec((1,), tf.int32)
    image, grid = tf.TensorSpec((1, box.height, box.width, 1)), tf.TensorSpec((1, h, w), tf.int32)
    return {
        "vqvae": 3 * forward_flops(lambda x: vqvae.decode(vqvae.encode(x)), image),
        "prior": 3 * forward_flops(lambda codes, label, position: prior(codes, label, position), grid, one, one)
        + forward_flops(vqvae.encode, image),
    }


def our_training(run, precision, stage, **changes):
    """A training step of a stage on random images, as train.py takes it."""
    from training.timing import stage_steps

    tf, config, box, vqvae, prior = our_models(run, precision, **changes)
    step = stage_steps(tf, config, vqvae, prior, box)[stage]
    return timed(step, config["batch_size"]) | {
        "flops": step_flops(tf, config, box, *our_models(run, "float32", **changes)[3:])[stage]
    }


def batches_of(opened, stage):
    """The batches of a stage on the real slices of a Run, as train.py makes them."""
    import dataset
    from experiments.peer import load_split
    from slices.frame import Box
    from slices.index import condition_ids
    from slices.neighbours import slices_below

    config, (images, slices) = with_defaults(opened.config), load_split(opened, "train")
    others, gaps = slices_below(slices, config["prior_slices_below"] if stage == "prior" else 0)
    return dataset.training_batches(
        images,
        condition_ids(slices, config["labels"]) | {"there": others >= 0, "gaps": gaps},
        config["batch_size"],
        config["seed"],
        Box(*config["crop_box"]),
        augmented=share_augmented(config, stage),
        flip=config["flip"],
        purpose=stage,
        whole_pixels=stage == "vqvae",
        others=others,
    )


def our_pipeline(run, precision, stage, turns=8, steps=6):
    """The same on real slices, augmented, in turns with one batch in memory; whole turns, waiting included."""
    import numpy as np

    from sampling.run import Run
    from training.timing import stage_step

    tf, config, _, vqvae, prior = our_models(run, precision)
    batches = iter(batches_of(Run(run), stage))
    constant, step = next(batches), stage_step(tf, stage, config, vqvae, prior)
    step(constant)["loss"].numpy()

    def seconds(source):
        start = time.perf_counter()
        for _ in range(steps):
            step(source())["loss"].numpy()
        return (time.perf_counter() - start) / steps

    pairs = np.array([(seconds(lambda: next(batches)), seconds(lambda: constant)) for _ in range(turns)])
    return {
        "rate": config["batch_size"] / float(np.median(pairs[:, 0])),
        "constant": config["batch_size"] / float(np.median(pairs[:, 1])),
        "waiting": float(np.median(pairs[:, 0] / pairs[:, 1]) - 1),
    }


def our_pipeline_alone(run, stage, seconds=20.0):
    """The pipeline of a stage on real slices, with nothing that trains: as ``lasting``, and the number of cores."""
    from sampling.run import Run
    from slices.machine import cores
    from training.workers import start_tensorflow

    start_tensorflow()
    opened = Run(run)
    return lasting(batches_of(opened, stage), opened.config["batch_size"], seconds) | {"cores": cores()}


def lasting(batches, batch_size, seconds):
    """Slices per second of all batches that come in ``seconds``, after 20 that trace, and use up what was made ahead.

    Args:
        batches: an endless iterable; of what is done with them, where that is to be timed as well.

    Returns:
        dict of rate, and core_ms, the milliseconds of one core that a slice takes, which other work hardly changes.
    """
    source = iter(batches)
    for _ in range(20):
        next(source)
    count, start, worked = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() < start + seconds:
        next(source)
        count += batch_size
    return {"rate": count / (time.perf_counter() - start), "core_ms": 1e3 * (time.process_time() - worked) / count}


def our_reconstructions(run, batch_size):
    """Encoding and decoding, in float32 as predict.py does."""
    tf, _, box, vqvae, _ = our_models(run, "float32")
    images = tf.random.uniform((batch_size, box.height, box.width, 1))
    reconstruct = tf.function(vqvae.call)
    return timed(lambda: reconstruct(images).numpy(), batch_size)


def our_sampling(run, kind, grid, count, **changes):
    """Seconds for ``count`` grids: "cached"; "forced", one full pass over them; or "full", one such pass per code."""
    import numpy as np

    tf, config, _, vqvae, prior = our_models(run, "float32", code_grid=list(grid), **changes)
    for level in prior.levels():
        level.logits_kernel.assign(tf.random.stateless_normal(level.logits_kernel.shape, (0, 0), stddev=0.1))
    zeros = np.zeros(count, np.int32)
    uniforms = np.random.default_rng(0).random((count, *prior.uniforms_shape), np.float32)
    codes = tf.random.stateless_uniform((count, *grid), (0, 1), 0, config["num_codes"], tf.int32)
    if kind == "cached":
        return {"seconds": count / timed(lambda: prior.sample(uniforms, zeros, zeros)[0].numpy(), count, 8)["rate"]}
    blocks = [slice(start, start + 16) for start in range(0, count, 16)]  # the fastest of 8, 16, 32 and 64
    one_pass = tf.function(lambda codes, ids: prior.log_likelihood(codes, ids, ids))
    seconds = count / timed(lambda: [one_pass(codes[block], zeros[block]).numpy() for block in blocks], count)["rate"]
    return {"seconds": seconds * (math.prod(grid) if kind == "full" else 1)}


def our_peer(size, batch_size):
    """The PyTorch peer's own net, built by experiments/peer.py, in the faster of the precisions."""
    from experiments.peer import build
    from training.timing import low_precision_candidate
    from training.workers import start_tensorflow

    tf = start_tensorflow(deterministic=False)
    import keras

    batch, rates = tf.random.uniform((batch_size, size, size, 1)), []
    for precision in filter(None, ("float32", low_precision_candidate(tf))):
        keras.config.set_dtype_policy(precision)
        train_step, _, _ = build(size, size, 0.05, downsample=4)
        rates.append(timed(lambda step=train_step: float(step(batch)), batch_size)["rate"])
    return {"rate": max(rates)}


def index(folder):
    """The index of all file names under a folder."""
    from slices.index import find_slices
    from slices.splits import split_by_subject

    start = time.perf_counter()
    slices = split_by_subject(find_slices(folder), 0)
    return {"seconds": time.perf_counter() - start, "slices": len(slices)}


def cached_in_a_file(folder, copies, run):
    """Memory of training when the images lie in a file: that of the process alone, file pages aside."""
    import dataset
    from sampling.run import Run
    from slices import images, memory
    from training.timing import stage_step

    memory.MEMORY_SHARE = 0.0
    tf, config, box, vqvae, _ = our_models(run, "float32")
    opened = Run(run)
    paths = copies * opened.slices["path"].tolist()
    loaded = images.load_images(opened.data, paths, opened.frame, folder)
    step = stage_step(tf, "vqvae", config, vqvae)
    batches = dataset.training_batches(loaded.images, {}, config["batch_size"], 0, box)
    for _, batch in zip(range(20), batches, strict=False):
        step(batch)
    own = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]
    return {"megabytes": int(own) / 1024, "slices": len(paths)}


# ---- theirs -------------------------------------------------------------------------------------


def rival(name, work, **options):
    """What a function of rivals.py returns at work: "training", "reconstructing", or "sampling".

    Sampling is the ``seconds`` of as many passes as a grid has codes, reckoned from PASSES evenly spread ones.
    """
    from experiments import rivals

    if "torch" in name:
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
    else:
        from training.workers import start_tensorflow

        start_tensorflow(deterministic=False)
    train_step, infer = getattr(rivals, name)(**options)
    if work != "sampling":
        return timed(train_step if work == "training" else infer, options["batch_size"])
    h, w = options["grid"]
    infer(0, 0)
    start = time.perf_counter()
    for i in range(PASSES):
        infer(*divmod(i * h * w // PASSES, w))
    return {"seconds": (time.perf_counter() - start) / PASSES * h * w}


# ---- where the time of a step goes --------------------------------------------------------------


def profile(run, precision, what, count):
    """Milliseconds of the operations of one call, summed over threads, by kind: tf.profiler's trace."""
    import numpy as np

    from training.timing import stage_steps

    tf, config, box, vqvae, prior = our_models(run, precision)
    if what == "sampling":
        zeros = np.zeros(count, np.int32)
        uniforms = np.random.default_rng(0).random((count, *prior.uniforms_shape), np.float32)

        def work():
            prior.sample(uniforms, zeros, zeros)[0].numpy()
    else:
        work = stage_steps(tf, config, vqvae, prior, box)[what]
    work(), work()
    seconds, planes = trace(tf, work)
    return {"milliseconds": 1e3 * seconds, "operations": own_times(planes)}


def trace(tf, work):
    """The seconds of a call, and the planes of its trace."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with tf.profiler.experimental.Profile(folder):
            work()
        seconds = time.perf_counter() - start
        return seconds, xplane_pb2.XSpace.FromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes()).planes


def own_times(planes):
    """Milliseconds of every kind of event of a trace, those inside it not counted; what only waits is left out."""
    totals = {}
    for plane in planes:
        for line in plane.lines:
            add_own_times(totals, line.events, plane.event_metadata)
    return {kind: total for kind, total in totals.items() if not kind.startswith(("Run", "Process", "ParallelFor"))}


def add_own_times(totals, events, names):
    """Add each event's time without that of the events inside it, in ms, to the total of its kind."""
    open_events = []
    for event in sorted(events, key=lambda event: (event.offset_ps, -event.duration_ps)):
        kind = names[event.metadata_id].name.split(":")[-1].removeprefix("_Mkl").removeprefix("Native")
        while open_events and open_events[-1][0] <= event.offset_ps:
            open_events.pop()
        totals[kind] = totals.get(kind, 0.0) + event.duration_ps / 1e9
        if open_events:
            totals[open_events[-1][1]] -= event.duration_ps / 1e9
        open_events.append((event.offset_ps + event.duration_ps, kind))


# ---- time to quality ----------------------------------------------------------------------------


def quality_of_the_peer(run, minutes, codebook):
    """Validation SSIM and resolution of the peer's net and recipe, in its faster precision, after so many minutes.

    ``codebook``: "gradient", as published, or "ema", our moving averages with revival.
    """
    import numpy as np

    from experiments import peer
    from sampling.run import Run
    from training.timing import low_precision_candidate
    from training.workers import start_tensorflow

    tf = start_tensorflow(deterministic=False)
    import keras

    keras.config.set_dtype_policy(low_precision_candidate(tf) or "float32")
    opened = Run(run)
    images = peer.load_split(opened, "train")[0]
    train_step, reconstruct, _ = peer.build(
        *images.shape[1:3], float(np.var(images / np.float32(255))), ema=codebook == "ema"
    )
    steps, seconds = peer.fit(train_step, images, sys.maxsize, 60 * minutes)
    images, rows = peer.load_split(opened, "validation")
    decoded, codes = peer.reconstruct_all(reconstruct, images)
    return {"steps": steps, "seconds": seconds, **quality(images, rows, decoded, codes, peer.NUM_CODES)}


def quality_of_ours(trained):
    """The same of a run of ours whose stage 1 is trained."""
    from experiments.peer import load_split
    from sampling.run import Run

    run = Run(trained, stage="vqvae")
    images, rows = load_split(run, "validation")
    codes = run.encode(images)
    return quality(images, rows, run.decode(codes), codes, run.config["num_codes"])


def quality(images, rows, decoded, codes, num_codes):
    """Means over people, and the share of codes used."""
    from experiments import peer

    people = peer.measure(images, decoded, rows["subject"])
    return {
        "codes_used": peer.used_fraction(codes, num_codes),
        **people[["ssim_brain", "frc_resolution"]].mean().to_dict(),
    }


# ---- the script ---------------------------------------------------------------------------------


TASKS = {
    function.__name__: function
    for function in (
        peak,
        our_training,
        our_pipeline,
        our_pipeline_alone,
        our_reconstructions,
        our_sampling,
        our_peer,
        index,
        cached_in_a_file,
        rival,
        profile,
        quality_of_the_peer,
        quality_of_ours,
    )
}


def main(argv):
    """Do one task; see ``python experiments/timings.py --help``."""
    found = do_task("timings.py", __doc__, TASKS, argv)
    print(json.dumps(found | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    run_script(main)
