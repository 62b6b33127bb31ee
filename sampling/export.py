"""A run as a SavedModel, of which TensorFlow alone can encode, decode and sample."""

import math
import shutil
from functools import partial
from pathlib import Path

from sampling.draws import BLOCK
from utils import new_folder, save_json

ABOUT = ("labels", "num_positions", "frame", "crop_box", "code_grid", "num_codes", "data_fingerprint", "simulated")


def export(run, folder):
    """Write both models as a SavedModel with the endpoints of ``export_archive``, about.json and the model card.

    Args:
        run: Run.
        folder: a new folder.

    Returns:
        The folder, a Path.

    Raises:
        UserError: the folder is there already.
    """
    out = Path(folder)
    with new_folder(out, flag=None) as unfinished:
        archive = export_archive(
            run.vqvae, run.prior, run.box, run.frame, BLOCK, run.sharpening, run.refiner, run.equaliser
        )
        archive.write_out(str(unfinished), verbose=False)
        about = {name: run.config[name] for name in ABOUT} | {"run": run.name, "block": BLOCK}
        about["uniforms_shape"] = list(run.prior.uniforms_shape)
        save_json(unfinished / "about.json", about)
        if (run.folder / "MODEL_CARD.md").is_file():
            shutil.copy2(run.folder / "MODEL_CARD.md", unfinished)
    print(f"{out}: a SavedModel with encode, decode and sample; about.json names the labels, MODEL_CARD.md the terms")
    return out


def export_archive(vqvae, prior, crop_box, frame, block, sharpening=None, refiner=None, equaliser=None):
    """Both models as a keras.export.ExportArchive.

    Images are (N, H, W, 1) float32 in [0, 1] in the full frame: cropping and pasting back are inside. The endpoints:

    encode(images) -> codes, (N, h, w) int32.
    decode(codes) -> images.
    sample(uniforms, (N, *uniforms_shape) float32 in [0, 1); label, position, (N,) int32 with 0 for none; temperature,
    float32) -> images, sharpened and so in steps of 1/255, codes, and log_likelihood_bits, (N,) float32.

    What an endpoint returns is a dict of these names.

    Args:
        crop_box: top, left, height and width of the box in the frame that the models see.
        frame: (H, W).
        block: grids that are sampled together; sums, and so codes, can differ in another company.
        sharpening, refiner, equaliser: the Sharpening and the Refiner of what is drawn, and the Sharpening after them;
            each may be None.
    """
    import keras
    import tensorflow as tf

    top, left, *_ = crop_box

    def encode(images):
        return {"codes": vqvae.encode(window(images, *crop_box))}

    def in_frame(crops):
        return {"images": window(crops, -top, -left, *frame)}

    def decode(codes):
        return in_frame(vqvae.decode(codes))

    def decode_drawn(codes):
        crops = vqvae.decode(codes)
        crops = sharpening.sharpen_tensor(crops) if sharpening else crops
        crops = tf.round(255 * refiner.refine(crops)) / 255 if refiner else crops
        return in_frame(equaliser.sharpen_tensor(crops) if equaliser else crops)

    def sample(uniforms, label, position, temperature):
        def sample_block(inputs):
            codes, log_likelihood = prior.sample(*inputs, temperature)
            return {**decode_drawn(codes), "codes": codes, "log_likelihood_bits": log_likelihood / math.log(2)}

        return in_blocks(
            sample_block,
            (uniforms, label, position),
            block,
            {"images": tf.float32, "codes": tf.int32, "log_likelihood_bits": tf.float32},
        )

    archive = keras.export.ExportArchive()  # finds the variables of its endpoints; track() would store them twice
    grids = partial(tf.TensorSpec, (None, *prior.grid))
    condition = partial(tf.TensorSpec, (None,), tf.int32)
    archive.add_endpoint("encode", encode, [tf.TensorSpec((None, *frame, 1), tf.float32, "images")])
    archive.add_endpoint("decode", decode, [grids(tf.int32, "codes")])
    archive.add_endpoint(
        "sample",
        sample,
        [
            tf.TensorSpec((None, *prior.uniforms_shape), tf.float32, "uniforms"),
            condition("label"),
            condition("position"),
            tf.TensorSpec((), tf.float32, "temperature"),
        ],
    )
    return archive


def in_blocks(function, inputs, block, dtypes):
    """A graph that maps a function of tensors (block, …) over tensors (N, …), the last block filled up with zeros.

    Args:
        dtypes: of what the function returns, a dict.
    """
    import tensorflow as tf

    count = tf.shape(inputs[0])[0]

    def blocks(x):  # (N, …) -> (N / block, block, …)
        filled = tf.pad(x, [[0, -count % block]] + [[0, 0]] * (x.shape.rank - 1))
        return tf.reshape(filled, (-1, block, *x.shape[1:]))

    results = tf.map_fn(function, tuple(map(blocks, inputs)), fn_output_signature=dtypes)
    return {name: tf.reshape(x, (-1, *x.shape[2:]))[:count] for name, x in results.items()}


def window(images, top, left, height, width):
    """(N, H, W, C) -> (N, height, width, C): what a box shows that may stick out of the images, with zeros there."""
    from keras import ops

    below, right = top + height - images.shape[1], left + width - images.shape[2]
    padded = ops.pad(images, ((0, 0), (max(-top, 0), max(below, 0)), (max(-left, 0), max(right, 0)), (0, 0)))
    top, left = max(top, 0), max(left, 0)
    return padded[:, top : top + height, left : left + width]
