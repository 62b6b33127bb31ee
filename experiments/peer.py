"""The peer: the widely used PyTorch VQ-VAE's design and recipe, on the people of one of our runs; run by hand.

    python experiments/peer.py --run brains --out ReducedResults/peer.csv
    python experiments/peer.py --run brains --out ReducedResults/peer.csv --equal steps

Rebuilt in plain Keras from https://github.com/MishaLaskin/vqvae as its code has it: 128 channels, residual blocks
of 32, two of them, a codebook of 512 x 64 trained by gradients, squared error over the variance of the pixels in
[0, 1] of images in [-1, 1], weight 1 on the encoder's and 0.25 on the codebook's pull to each other, PyTorch's
initial weights, Adam with AMSGrad at 3e-4, batches of 32, the whole frame, nothing augmented. A third stride-2
convolution makes its codes as many as ours would be on the whole frame: 32 x 30 of 9 bits, 8,640 bits. Its two
residual blocks have weights of their own (there they are one block, by an oversight). With --codebook ema it gets
our moving averages and revival instead, so that its codes stay in use. It trains for as long, or for as many steps,
as stage 1 of the run did: as long by the seconds of a step of either, taken in turns, for other work on the machine
slows both. It is measured by evaluate.py's functions on the split on which the run was evaluated; differences are
paired by person. What it has learnt is kept in the run's folder, and more steps go on from there.
"""

import datetime
import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.results import read_rows
from utils import Parser, random_generator, run_script, shell, whole_file

CHANNELS, RESIDUAL, BLOCKS, NUM_CODES, CODE_DIM = 128, 32, 2, 512, 64
BATCH_SIZE, LEARNING_RATE, CODEBOOK_COST = 32, 3e-4, 0.25
COMPARED = ("ssim_brain", "psnr_brain", "spectrum_gap", "frc_resolution", "tissue_dice")


# ---- the peer -----------------------------------------------------------------------------------


def build(height, width, variance, downsample=8, ema=False):
    """The training step of a batch (B, H, W, 1) in [0, 1], its reconstructions and codes, and all variables.

    ``downsample`` is 4 as published, or 8 with the third stride-2 convolution; ``ema`` replaces the gradients of the
    codebook by our moving averages. ``variance`` is that of the pixels in [0, 1].
    """
    import keras
    import tensorflow as tf

    from training.codebook import update_codebook

    encoder, decoder = build_nets(height, width, downsample)
    quantizer = build_quantizer(ema)
    weights = encoder.trainable_variables + decoder.trainable_variables + quantizer.trainable_variables
    optimizer = keras.optimizers.Adam(LEARNING_RATE, amsgrad=True)
    optimizer.build(weights)

    @tf.function
    def train_step(batch):
        with tf.GradientTape() as tape:
            z_e = encoder(2 * batch - 1)
            codes, embedded = quantizer(z_e)
            reconstructions = decoder(z_e + tf.stop_gradient(embedded - z_e))
            loss = tf.reduce_mean((2 * batch - 1 - reconstructions) ** 2) / variance + tf.reduce_mean(
                (z_e - tf.stop_gradient(embedded)) ** 2
            )
            if not ema:
                loss += CODEBOOK_COST * tf.reduce_mean((embedded - tf.stop_gradient(z_e)) ** 2)
        step = tf.cast(optimizer.iterations, tf.int32)
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        if ema:
            update_codebook(quantizer, z_e, codes, tf.stack([0, step]), revive=True)
        return loss

    @tf.function
    def reconstruct(batch):
        codes, embedded = quantizer(encoder(2 * batch - 1))
        return tf.clip_by_value((decoder(embedded) + 1) / 2, 0, 1), codes

    return train_step, reconstruct, [*encoder.variables, *decoder.variables, *quantizer.variables, *optimizer.variables]


def build_nets(height, width, downsample):
    """Images (B, H, W, 1) -> z_e (B, h, w, D), and back again: two models."""
    import keras
    from keras import layers

    def torch_uniform(seed):
        return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", seed)

    def conv(kind, channels, *options, **named):
        return kind(channels, *options, padding="same", kernel_initializer=torch_uniform(next(seeds)), **named)

    def residual_stack(x):
        for _ in range(BLOCKS):
            inner = conv(layers.Conv2D, RESIDUAL, 3, use_bias=False)(layers.ReLU()(x))
            x = x + conv(layers.Conv2D, CHANNELS, 1, use_bias=False)(layers.ReLU()(inner))
        return layers.ReLU()(x)

    seeds = iter(range(100))
    deeper = [CHANNELS] * (downsample == 8)
    images = x = keras.Input((height, width, 1))
    for channels in (CHANNELS // 2, CHANNELS, *deeper):
        x = conv(layers.Conv2D, channels, 4, strides=2, activation="relu")(x)
    x = residual_stack(conv(layers.Conv2D, CHANNELS, 3)(x))
    encoder = keras.Model(images, conv(layers.Conv2D, CODE_DIM, 1, dtype="float32")(x))  # (B, h, w, D)

    codes = keras.Input((height // downsample, width // downsample, CODE_DIM))
    x = residual_stack(conv(layers.Conv2DTranspose, CHANNELS, 3)(codes))
    for channels in (*deeper, CHANNELS // 2):
        x = conv(layers.Conv2DTranspose, channels, 4, strides=2, activation="relu")(x)
    return encoder, keras.Model(codes, conv(layers.Conv2DTranspose, 1, 4, strides=2, dtype="float32")(x))


def build_quantizer(ema):
    """The codebook, trained by gradients or, with ``ema``, by our moving averages."""
    import tensorflow as tf

    from modules import VectorQuantizer

    quantizer = VectorQuantizer(NUM_CODES, CODE_DIM, ema)
    quantizer.build((None, None, None, CODE_DIM))
    quantizer.codebook.assign(tf.random.stateless_uniform((CODE_DIM, NUM_CODES), (0, 0), -1 / NUM_CODES, 1 / NUM_CODES))
    if ema:
        quantizer.sums.assign(quantizer.codebook)
    return quantizer


def fit(train_step, images, steps, seconds=float("inf"), done=0, save=None):
    """Train from step ``done`` until the steps or the seconds, tracing aside, are over; returns both as they came out.

    ``save`` is called with the number of steps after every hundredth and the last.
    """
    in_epoch, start = len(images) // BATCH_SIZE, None
    while done < steps and (start is None or time.perf_counter() - start < seconds):
        epoch, place = divmod(done, in_epoch)
        order = random_generator(0, "peer order", epoch * in_epoch).permutation(len(images))
        batch = images[order[place * BATCH_SIZE : (place + 1) * BATCH_SIZE]].astype("float32") / 255
        loss, done = float(train_step(batch)), done + 1
        start = start or time.perf_counter()
        if done % 100 == 0 or done == steps:
            print(f"{done} steps, {time.perf_counter() - start:.0f} s, loss {loss:.4f}", flush=True)
            if save:
                save(done)
    return done, 0.0 if start is None else time.perf_counter() - start


def step_ratio(tf, config, train_step, images):
    """The seconds of one step of the peer over those of one step of our stage 1, in turns, the least of each."""
    from slices.frame import Box
    from training.optimisation import build_vqvae
    from training.options import with_defaults
    from training.timing import random_batch, stage_step, time_steps

    config, box = with_defaults(config), Box(*config["crop_box"])
    our_step = stage_step(tf, "vqvae", config, build_vqvae(config, box, config["precision_resolved"]))
    ours, theirs = random_batch(tf, config, box), images[:BATCH_SIZE].astype("float32") / 255
    calls = (lambda: float(train_step(theirs))), (lambda: our_step(ours)["loss"].numpy())
    for call in calls:
        call()
    pairs = [[time_steps(call, 1) for call in calls] for _ in range(10)]
    return min(peer for peer, _ in pairs) / min(our for _, our in pairs)


# ---- training it, and going on ------------------------------------------------------------------


def train_peer(run, images, equal="time", codebook="gradient", state=None):
    """Train the peer, or train it further.

    Args:
        run: sampling.run.Run, whose stage 1 says how long.
        images: (N, H, W, 1) uint8, the training slices in the whole frame.
        equal: "time" or "steps".
        codebook: "gradient" or "ema".
        state: the file of its weights (default: peer_<codebook>.npz in the run's folder).

    Returns:
        its reconstruct, and what the rows say of its training, a dict.
    """
    import numpy as np

    from training.timing import low_precision_candidate
    from training.workers import start_tensorflow

    tf = start_tensorflow(deterministic=False)
    import keras

    precision = run.config["precision_resolved"] if low_precision_candidate(tf) else "float32"
    keras.config.set_dtype_policy(precision)
    train_step, reconstruct, variables = build(
        *images.shape[1:3], variance=float(np.var(images / np.float32(255))), ema=codebook == "ema"
    )
    values = [variable.numpy() for variable in variables]
    ratio = step_ratio(tf, run.config, train_step, images)  # which trains it a little
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    our_steps = int(read_rows(run.folder / "history_vqvae.csv")[-1]["step"])
    steps = our_steps if equal == "steps" else round(our_steps / ratio)
    print(f"a step takes {ratio:.3g} times one of ours: {steps} steps, where ours took {our_steps}", flush=True)
    kept = Path(state or run.folder / f"peer_{codebook}.npz")
    done, steps = restore(kept, variables, steps, near_enough=equal == "time")
    fit(train_step, images, steps, done=done, save=lambda done: save(kept, variables, done))
    return reconstruct, {
        "precision": precision,
        "peer_steps": steps,
        "our_steps": our_steps,
        "seconds_of_a_step_over_ours": ratio,
    }


def restore(kept, variables, steps, near_enough):
    """Give the variables the values in a file, if it is there and has no more than ``steps``.

    Returns:
        the steps done, and the steps wanted: with ``near_enough`` those of the file, where they are 3 % apart.
    """
    import numpy as np

    if not kept.exists():
        return 0, steps
    with np.load(kept) as stored:
        done = int(stored["steps"])
        if near_enough and abs(done / steps - 1) < 0.03:  # the ratio is not known better
            steps = done
        if done > steps:
            return 0, steps
        for i, variable in enumerate(variables):
            variable.assign(stored[f"{i}"])
    return done, steps


def save(kept, variables, done):
    """Write the variables and the number of steps done."""
    import numpy as np

    with whole_file(kept) as temporary, open(temporary, "wb") as file:
        np.savez(file, steps=done, **{f"{i}": variable.numpy() for i, variable in enumerate(variables)})


# ---- comparing ----------------------------------------------------------------------------------


def load_split(run, split):
    """The slices of a split of a Run, whole frames (N, H, W, 1) uint8, and their rows of its index."""
    rows = run.slices[run.slices["split"] == split]
    loaded = run.load(run.data, rows["path"])
    return loaded.images, rows[loaded.usable]


def reconstruct_all(reconstruct, images):
    """Images (N, H, W, 1) uint8 -> the peer's reconstructions of them (N, H, W) uint8 and codes (N, h, w)."""
    import numpy as np

    from slices.frame import to_bytes

    pairs = [reconstruct(images[start : start + 16].astype("float32") / 255) for start in range(0, len(images), 16)]
    return (
        np.concatenate([to_bytes(np.asarray(decoded)) for decoded, _ in pairs]),
        np.concatenate([codes for _, codes in pairs]),
    )


def measure(images, decoded, subjects):
    """The metrics of evaluate.py of reconstructions (N, H, W) uint8, a mean for each person: a DataFrame."""
    import pandas as pd

    from metrics.images import detail_metrics, image_metrics
    from slices.processes import parallel

    rows = parallel(
        lambda i: image_metrics(images[i], decoded[i]) | detail_metrics(images[i], decoded[i]), range(len(images))
    )
    return pd.DataFrame(rows).groupby(subjects.to_numpy()).mean()


def used_fraction(codes, num_codes):
    """The share of a codebook that codes use."""
    from metrics.codes import codebook_metrics

    return codebook_metrics(codes, num_codes)["used_fraction"]


def compare(theirs, ours):
    """A row for each metric: the means over people, and their difference paired by person with its t interval."""
    from scipy import stats

    for name in COMPARED:
        difference = ours[name] - theirs[name]
        margin = stats.t.ppf(0.975, len(difference) - 1) * difference.sem()
        yield {
            "metric": name,
            "peer": theirs[name].mean(),
            "ours": ours[name].mean(),
            "difference": difference.mean(),
            "low": difference.mean() - margin,
            "high": difference.mean() + margin,
        }


def compare_with_peer(name, out, command, split="test", equal="time", codebook="gradient", state=None):
    """Train the peer, measure both on a split of a run, and add rows to a CSV; see ``--help`` for the arguments.

    Args:
        command: what to note as the look at test people.
    """
    import pandas as pd

    from evaluate import note_look
    from sampling.run import Run

    run = Run(name, stage="vqvae")
    images, rows = load_split(run, split)
    reconstruct, training = train_peer(run, load_split(run, "train")[0], equal, codebook, state)
    if split == "test":
        note_look(run.folder, command)
    decoded, codes = reconstruct_all(reconstruct, images)
    our_codes = run.encode(images)
    ours = run.decode(our_codes)
    pairs = [measure(images, stack, rows["subject"]) for stack in (decoded, ours)]
    table = pd.DataFrame(compare(*pairs))
    print(table.to_string(index=False, float_format="%.4f"))
    row = {
        "date": f"{datetime.date.today()}",
        "run": run.name,
        "split": split,
        "people": len(pairs[0]),
        "equal": equal,
        "codebook": codebook,
        **training,
        "peer_bits_per_image": codes[0].size * math.log2(NUM_CODES),
        "our_bits_per_image": run.config["bits_per_image"],
        "peer_codes_used": used_fraction(codes, NUM_CODES),
        "our_codes_used": used_fraction(our_codes, run.config["num_codes"]),
    }
    table = pd.DataFrame([row | measured for measured in table.to_dict("records")])
    if Path(out).exists():
        table = pd.concat([pd.read_csv(out), table])
    table.to_csv(out, index=False, float_format="%.5g")


def main(argv):
    """Compare; see ``python experiments/peer.py --help``."""
    parser = Parser(prog="experiments/peer.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", dest="name", required=True, help="a run of ours whose VQ-VAE is finished")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="whose slices are compared")
    parser.add_argument("--equal", choices=("time", "steps"), default="time", help="as long as its stage 1, or as many")
    parser.add_argument(
        "--codebook",
        choices=("gradient", "ema"),
        default="gradient",
        help="trained as published, or by our moving averages with revival",
    )
    parser.add_argument(
        "--state", metavar="NPZ", help="its weights, to go on from (default: peer_<codebook>.npz in the run's folder)"
    )
    parser.add_argument("--out", required=True, metavar="CSV", help="rows are added")
    flags = parser.parse_args(argv)
    compare_with_peer(**vars(flags), command=shell("experiments/peer.py", *argv))


if __name__ == "__main__":
    run_script(main)
