"""What is looked at while a model trains: measures of held-out people, by which the best weights are kept; pictures."""

import numpy as np
import tensorflow as tf

from metrics.codes import codebook_metrics
from metrics.images import image_metrics, mean_spectrum
from metrics.measured import slice_noise
from metrics.people import mean_by_person, value_of
from report.codebook import code_patches, write_projector
from slices.frame import to_bytes
from training.losses import reconstruction_error
from utils import digits_of

PATCHED_SLICES = 64  # validation slices whose patches show in TensorBoard what a code stands for


def judge_vqvae(vqvae, originals, codes, images, subjects):
    """Held-out metrics of reconstructions: the loss that chooses the best weights, likeness, and use of the codebook.

    Args:
        originals, images: (N, H, W, 1) float32 in [0, 1].
        codes: (N, h, w) int32.
        subjects: whose slices they are, (N,).
    """
    rows = [image_metrics(*pair) for pair in zip(originals, images, strict=True)]
    means = mean_by_person(rows, subjects)
    return {
        "loss": float(reconstruction_error(vqvae, originals, images)),
        **{
            key: float("nan") if means[key] is None else value_of(means[key])  # None: no brain in any of them
            for key in ("ssim", "psnr", "ssim_brain")
        },
        "codes_used": codebook_metrics(codes, vqvae.settings["num_codes"], vqvae.settings["depth"])["used_fraction"],
    }


def show_vqvae(vqvae, folder, originals, codes, images):
    """Write to TensorBoard: slices, their reconstructions, and the first codebook with what its codes stand for."""
    tf.summary.image("originals", originals, max_outputs=8)
    tf.summary.image("reconstructions", images, max_outputs=8)
    num_codes = vqvae.settings["num_codes"]
    codes = digits_of(codes, num_codes, vqvae.settings["depth"])[0]
    uses = np.bincount(codes.ravel(), minlength=num_codes)
    tf.summary.histogram("uses of a code over the mean", uses / uses.mean())
    patches = code_patches(codes[:PATCHED_SLICES], images[:PATCHED_SLICES], num_codes)
    write_projector(folder / "tensorboard" / "vqvae", vqvae.quantizer.codebook.numpy().T, uses, patches)


def judge_refined(originals, refined):
    """Held-out metrics of refined images: power in the upper half of frequencies, and noise in flat tissue.

    A critic's loss says who is ahead, not how good. So the best weights are those whose images are nearest to slices in
    these two, as factors: "loss" is the sum of their |log10|.

    Args:
        originals: (N, H, W) uint8.
        refined: (M, H, W, 1) float32 in [0, 1].
    """
    sides = originals, to_bytes(refined)
    powers = [mean_spectrum(images, len(images))[1] for images in sides]
    upper = slice(len(powers[0]) // 2, None)
    missing = float(np.abs(np.log10(powers[1] / powers[0]))[upper].mean())
    noises = [np.median([noise for noise in map(slice_noise, images) if noise > 0] or [1.0]) for images in sides]
    ratio = float(noises[1] / noises[0])
    return {"loss": missing + abs(np.log10(ratio)), "missing_power": missing, "noise_ratio": ratio}
