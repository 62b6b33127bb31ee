"""Which precision and which way to convolve are faster here, and how long a run will take: measured, not guessed."""

import time

from slices.machine import cpu_flags

EPOCHS, FEW_EPOCHS = 10, 5  # how often every slice should be seen, and what is said aloud to be too seldom
PAYS = 1.3  # times as fast as what is plainly right, or it is not worth it, nor sure to be faster the next time


def low_precision_candidate(tf):
    """The precision worth timing against float32 on this machine, or None.

    bfloat16 is several times faster on a CPU with AMX and over ten times slower on one with AVX2 only.
    """
    if tf.config.list_physical_devices("GPU"):
        return "mixed_bfloat16"
    return "mixed_bfloat16" if {"amx_bf16", "avx512_bf16"} & set(cpu_flags()) else None


def choose_precision(tf, config, box):
    """Resolve --precision auto: bfloat16 only where a step of it was timed PAYS times as fast."""
    if config["precision"] != "auto":
        return config["precision"]
    candidate = low_precision_candidate(tf)
    if candidate is None:
        return "float32"
    from training.optimisation import build_vqvae

    steps = [
        stage_step(tf, "vqvae", config, build_vqvae(config, box, precision)) for precision in ("float32", candidate)
    ]
    return faster("precision", ("float32", candidate), time_in_turns(steps, random_batch(tf, config, box)))


def choose_convolution(tf, config, box):
    """Resolve --prior-convolution auto: as shifted copies only where a step so was timed PAYS times as fast.

    That can be on a GPU, where dilated convolutions that sum in a fixed order are slow. On a CPU it was not.
    """
    if config["prior_convolution"] != "auto":
        return config["prior_convolution"]
    if not tf.config.list_physical_devices("GPU"):
        return "dilated"
    from training.optimisation import build_prior, build_vqvae

    vqvae, ways = build_vqvae(config, box, "float32"), ("dilated", "shifted")
    priors = [build_prior(config | {"prior_convolution_resolved": way}, config["precision_resolved"]) for way in ways]
    steps = [stage_step(tf, "prior", config, vqvae, prior) for prior in priors]
    return faster("convolutions of the prior", ways, time_in_turns(steps, random_batch(tf, config, box)))


def faster(what, names, seconds):
    """The name of the second of two ways where it is PAYS times as fast as the first, else that of the first; said."""
    ratio = seconds[0] / seconds[1]
    chosen = names[ratio >= PAYS]
    print(f"{what}: {chosen} ({names[1]} is {ratio:.2f} times as fast as {names[0]} here)")
    return chosen


def time_in_turns(steps, batch, turns=4):
    """The least seconds of each of some steps on a batch; they take turns, for other work comes and goes."""
    taken = [
        [time_steps(lambda step=step: step(batch)["loss"].numpy(), 1) for step in steps] for _ in range(turns)
    ]  # turns x steps
    return [min(seconds) for seconds in zip(*taken[1:], strict=True)]  # the first turn traces


def time_steps(step, steps):
    """The least seconds of ``steps`` calls."""
    taken = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return min(taken)


def stage_steps(tf, config, vqvae, prior, box, refining=None):
    """For each stage a call without arguments that takes one step on random images, and waits for it."""
    from training.refining import refining_step

    batch = random_batch(tf, config, box)
    steps = {"vqvae": stage_step(tf, "vqvae", config, vqvae), "prior": stage_step(tf, "prior", config, vqvae, prior)}
    if refining:
        steps["refiner"] = tf.function(lambda batch: refining_step(refining, batch))
    return {name: lambda step=step: step(batch)["loss"].numpy() for name, step in steps.items()}


def stage_step(tf, name, config, vqvae, prior=None):
    """One traced step of a stage, "vqvae" or "prior": batch -> dict with its loss."""
    from training.steps import prior_step, vqvae_step, with_codes

    if name == "vqvae":
        return tf.function(lambda batch: vqvae_step(vqvae, batch, config["vqvae_steps"]))
    return tf.function(lambda batch: prior_step(prior, with_codes(vqvae, batch)))


def random_batch(tf, config, box):
    """A batch of random images in the crop box, without conditions, as all stages take it."""
    size, others = config["batch_size"], config["prior_slices_below"]
    return {
        "image": tf.random.stateless_uniform((size, box.height, box.width, 1), (0, 0)),
        "drawn": tf.random.stateless_uniform((size, box.height, box.width, 1), (0, 1)),
        "label": tf.zeros(size, tf.int32),
        "position": tf.zeros(size, tf.int32),
        "augmentation": tf.zeros((size, 6)),
        "others": tf.zeros((size, others, box.height, box.width, 1)),
        "there": tf.ones((size, others), tf.bool),
        "gaps": tf.ones((size, others), tf.int32),
    }


def estimate_time(tf, config, vqvae, prior, refining, box, training_slices):
    """Measure a few steps of all stages; print what they see, how long they take, and whether that is too little."""
    total = 0.0
    for name, step in stage_steps(tf, config, vqvae, prior, box, refining).items():
        step()
        seconds = time_steps(step, 4)
        total += seconds * config[f"{name}_steps"]
        print(cost_of_stage(name, config[f"{name}_steps"], config["batch_size"], seconds, training_slices))
    print(f"in all about {total / 60:.1f} minutes, evaluations and early stopping aside")


def cost_of_stage(name, steps, batch_size, seconds, training_slices):
    """In words: what so many steps of a stage see and take, and how many would be more fitting.

    Args:
        seconds: of a step.
        training_slices: how many there are.
    """
    epochs = steps * batch_size / training_slices
    said = (
        f"{name}: {batch_size / seconds:.1f} slices/s; {steps} steps see {steps * batch_size:,} slices, "
        f"{epochs:.1f} epochs of {training_slices:,}, in about {seconds * steps / 60:.1f} minutes"
    )
    if epochs >= FEW_EPOCHS or name == "refiner":  # whose critic needs to see detail, not every slice
        return said
    wanted = -(-EPOCHS * training_slices // batch_size // 100) * 100  # rounded up to hundreds
    return (
        f"{said}\n{name}: that is few epochs; --{name}-steps {wanted} are {EPOCHS}, in about "
        f"{seconds * wanted / 60:.1f} minutes"
    )
