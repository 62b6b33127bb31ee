"""The peer: the widely used PyTorch VQ-VAE's design and recipe, on the people of one of our runs; run by hand.

    python tests/peer.py --run brains --out ReducedResults/peer.csv
    python tests/peer.py --run brains --out ReducedResults/peer.csv --equal steps

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

import argparse
import csv
import datetime
import shlex
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from evaluate import note_look
from utils import (
    low_precision_candidate,
    open_run,
    random_generator,
    read_slices,
    start_tensorflow,
    whole_file,
)

CHANNELS, RESIDUAL, BLOCKS, NUM_CODES, CODE_DIM = 128, 32, 2, 512, 64
BATCH_SIZE, LEARNING_RATE, CODEBOOK_COST = 32, 3e-4, 0.25
COMPARED = ("ssim_brain", "psnr_brain", "spectrum_gap", "frc_resolution", "tissue_dice")


def build(height, width, variance, downsample=8, ema=False):
    """The training step of a batch (B, H, W, 1) in [0, 1], its reconstructions and codes, and all variables.

    ``downsample`` is 4 as published, or 8 with the third stride-2 convolution; ``ema`` replaces the gradients of the
    codebook by our moving averages. ``variance`` is that of the pixels in [0, 1].
    """
    import keras
    import tensorflow as tf
    from keras import layers

    from modules import VectorQuantizer

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
    decoder = keras.Model(codes, conv(layers.Conv2DTranspose, 1, 4, strides=2, dtype="float32")(x))

    quantizer = VectorQuantizer(NUM_CODES, CODE_DIM, ema)
    quantizer.build((None, None, None, CODE_DIM))
    quantizer.codebook.assign(tf.random.stateless_uniform((CODE_DIM, NUM_CODES), (0, 0), -1 / NUM_CODES, 1 / NUM_CODES))
    if ema:
        quantizer.sums.assign(quantizer.codebook)
    weights = encoder.trainable_variables + decoder.trainable_variables + quantizer.trainable_variables
    optimizer = keras.optimizers.Adam(LEARNING_RATE, amsgrad=True)
    optimizer.build(weights)

    @tf.function
    def train_step(batch):
        with tf.GradientTape() as tape:
            z_e = encoder(2 * batch - 1)
            codes, embedded = quantizer(z_e)
            reconstructions = decoder(z_e + tf.stop_gradient(embedded - z_e))
            loss = (tf.reduce_mean((2 * batch - 1 - reconstructions) ** 2) / variance
                    + tf.reduce_mean((z_e - tf.stop_gradient(embedded)) ** 2))
            if not ema:
                loss += CODEBOOK_COST * tf.reduce_mean((embedded - tf.stop_gradient(z_e)) ** 2)
        step = tf.cast(optimizer.iterations, tf.int32)
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        if ema:
            quantizer.update(z_e, codes, tf.stack([0, step]), revive=True)
        return loss

    @tf.function
    def reconstruct(batch):
        codes, embedded = quantizer(encoder(2 * batch - 1))
        return tf.clip_by_value((decoder(embedded) + 1) / 2, 0, 1), codes

    return train_step, reconstruct, [*encoder.variables, *decoder.variables, *quantizer.variables, *optimizer.variables]


def fit(train_step, images, steps, seconds=float("inf"), done=0, save=None):
    """Train from step ``done`` until the steps or the seconds, tracing aside, are over; returns both as they came out.

    ``save`` is called with the number of steps after every hundredth and the last.
    """
    in_epoch, start = len(images) // BATCH_SIZE, None
    while done < steps and (start is None or time.perf_counter() - start < seconds):
        epoch, place = divmod(done, in_epoch)
        order = random_generator(0, "peer order", epoch * in_epoch).permutation(len(images))
        batch = images[order[place * BATCH_SIZE: (place + 1) * BATCH_SIZE]].astype("float32") / 255
        loss, done = float(train_step(batch)), done + 1
        start = start or time.perf_counter()
        if done % 100 == 0 or done == steps:
            print(f"{done} steps, {time.perf_counter() - start:.0f} s, loss {loss:.4f}", flush=True)
            if save:
                save(done)
    return done, 0.0 if start is None else time.perf_counter() - start


def step_ratio(tf, config, train_step, images):
    """The seconds of one step of the peer over those of one step of our stage 1, in turns, the least of each."""
    import dataset
    import train

    box, precision = dataset.Box(*config["crop_box"]), config["precision_resolved"]
    models = train.build_vqvae(config, box, precision), train.build_prior(config, precision)
    ours = train.stage_steps(tf, config, *models, box)["vqvae"]
    batch = images[:BATCH_SIZE].astype("float32") / 255
    calls = (lambda: float(train_step(batch))), ours
    for call in calls:
        call()
    pairs = [[train.time_steps(call, 1) for call in calls] for _ in range(10)]
    return min(peer for peer, _ in pairs) / min(our for _, our in pairs)


def measure(reconstruct, images, slices, num_codes=NUM_CODES):
    """The metrics of evaluate.py by person (DataFrame), the share of codes used, and the reconstructions."""
    import numpy as np
    import pandas as pd

    from metrics import detail_metrics, image_metrics, parallel
    from utils import to_bytes

    pairs = [reconstruct(images[start: start + 16].astype("float32") / 255) for start in range(0, len(images), 16)]
    decoded = np.concatenate([to_bytes(np.asarray(block)) for block, _ in pairs])
    used = len(np.unique(np.concatenate([codes for _, codes in pairs]))) / num_codes
    rows = parallel(lambda i: image_metrics(images[i], decoded[i]) | detail_metrics(images[i], decoded[i]),
                    range(len(images)))
    return pd.DataFrame(rows).groupby(slices["subject"].to_numpy()).mean(), used, decoded


def our_reconstruct(folder, config):
    """The same of our VQ-VAE in this folder: whole frames (B, H, W, 1) through its crop box."""
    import dataset
    from utils import load_models

    box, (vqvae,) = dataset.Box(*config["crop_box"]), load_models(folder, prior=False)

    def reconstruct(batch):
        codes = vqvae.encode(dataset.crop(batch, box))
        return dataset.paste(vqvae.decode(codes).numpy(), box, tuple(config["frame"])), codes

    return reconstruct


def train_peer(flags, folder, config, images):
    """Train the peer, or train it further; returns its reconstruct, and what the row says of its training."""
    tf = start_tensorflow(deterministic=False)
    import keras
    import numpy as np

    precision = config["precision_resolved"] if low_precision_candidate(tf) else "float32"
    keras.config.set_dtype_policy(precision)
    train_step, reconstruct, variables = build(*images.shape[1:3], variance=float(np.var(images / np.float32(255))),
                                               ema=flags.codebook == "ema")
    values = [variable.numpy() for variable in variables]
    ratio = step_ratio(tf, config, train_step, images)  # which trains it a little
    with open(folder / "history_vqvae.csv", encoding="utf-8") as file:
        our_steps = int(list(csv.DictReader(file))[-1]["step"])
    steps = our_steps if flags.equal == "steps" else round(our_steps / ratio)
    print(f"a step takes {ratio:.3g} times one of ours: {steps} steps, where ours took {our_steps}", flush=True)
    kept, done = Path(flags.state or folder / f"peer_{flags.codebook}.npz"), 0
    if kept.exists():
        with np.load(kept) as stored:
            if flags.equal == "time" and abs(stored["steps"] / steps - 1) < 0.03:  # the ratio is not known better
                steps = int(stored["steps"])
            if stored["steps"] <= steps:
                done, values = int(stored["steps"]), [stored[f"{i}"] for i in range(len(variables))]
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)

    def save(done):
        with whole_file(kept) as temporary, open(temporary, "wb") as file:
            np.savez(file, steps=done, **{f"{i}": variable.numpy() for i, variable in enumerate(variables)})

    fit(train_step, images, steps, done=done, save=save)
    return reconstruct, {"precision": precision, "peer_steps": steps, "our_steps": our_steps,
                         "seconds_of_a_step_over_ours": ratio}


def compare(theirs, ours):
    """A row for each metric: the means over people, and their difference paired by person with its t interval."""
    from scipy import stats

    for name in COMPARED:
        difference = ours[name] - theirs[name]
        margin = stats.t.ppf(0.975, len(difference) - 1) * difference.sem()
        yield {"metric": name, "peer": theirs[name].mean(), "ours": ours[name].mean(), "difference": difference.mean(),
               "low": difference.mean() - margin, "high": difference.mean() + margin}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", required=True, help="a run of ours whose VQ-VAE is finished")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="whose slices are compared")
    parser.add_argument("--equal", choices=("time", "steps"), default="time", help="as long as its stage 1, or as many")
    parser.add_argument("--codebook", choices=("gradient", "ema"), default="gradient",
                        help="trained as published, or by our moving averages with revival")
    parser.add_argument("--state", metavar="NPZ",
                        help="its weights, to go on from (default: peer_<codebook>.npz in the run's folder)")
    parser.add_argument("--out", required=True, metavar="CSV", help="rows are added")
    parser.add_argument("--figure", metavar="PNG", help="originals, the peer's and our reconstructions")
    flags = parser.parse_args()
    folder, config = open_run(flags.run, stage="vqvae")
    import numpy as np
    import pandas as pd

    import dataset

    slices, parts = read_slices(folder), {}
    for split in ("train", flags.split):
        rows = slices[slices["split"] == split]
        loaded = dataset.load_images(config["data"], rows["path"].tolist(), tuple(config["frame"]))
        parts[split] = loaded.images[loaded.usable], rows[loaded.usable]
    reconstruct, training = train_peer(flags, folder, config, parts["train"][0])
    if flags.split == "test":
        note_look(folder, shlex.join(["python", "tests/peer.py", *sys.argv[1:]]))
    images, shown = parts[flags.split]
    theirs, used, decoded = measure(reconstruct, images, shown)
    ours, our_used, mine = measure(our_reconstruct(folder, config), images, shown, config["num_codes"])
    height, width = images.shape[1:3]
    table = pd.DataFrame(compare(theirs, ours))
    print(table.to_string(index=False, float_format="%.4f"))
    row = {"date": f"{datetime.date.today()}", "run": folder.name, "split": flags.split, "people": len(ours),
           "equal": flags.equal, "codebook": flags.codebook, **training,
           "peer_bits_per_image": height // 8 * (width // 8) * float(np.log2(NUM_CODES)),
           "our_bits_per_image": config["bits_per_image"], "peer_codes_used": used, "our_codes_used": our_used}
    table = pd.DataFrame([row | measured for measured in table.to_dict("records")])
    out = Path(flags.out)
    if out.exists():
        table = pd.concat([pd.read_csv(out), table])
    table.to_csv(out, index=False, float_format="%.5g")
    if flags.figure:
        from utils import image_sheet

        middle = np.flatnonzero(shown["position"] == shown["position"].median().round())[:6]
        sheet = [dataset.crop(stack[middle].reshape(-1, height, width, 1) / 255, dataset.Box(*config["crop_box"]))
                 for stack in (images, decoded, mine)]
        image_sheet(flags.figure, np.concatenate(sheet), len(middle), row_names=("original", "peer", "ours"))


if __name__ == "__main__":
    main()
