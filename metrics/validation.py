"""What a run scores on held-out people at the end of its training."""

import numpy as np

from metrics.codes import codebook_metrics, unigram_bits_per_code
from metrics.images import image_metrics
from metrics.people import mean_by_person, value_of
from sampling.draws import BLOCK
from sampling.run import encode_images, prior_bits
from slices.frame import paste, to_bytes
from utils import block_starts, evenly

UNIGRAM_SLICES = 2000  # training slices that the code frequencies are counted on, evenly spaced


def measure(models, training, held_out, box, split):
    """What a run scores on held-out people, unaugmented, conditions given.

    Args:
        models: [VQVAE] or [VQVAE, Prior].
        training, held_out: dicts of images uint8 (N, H, W, 1), slices (DataFrame) and columns of conditions.
        box: the run's crop box.
        split: the name of the held-out split.

    Returns:
        dict of ``split``, ``people``, ``slices``, ``reconstruction``, ``rate``, ``codebook`` and ``prior``,
        with the names of metrics.json.
    """
    vqvae = models[0]
    num_codes, depth, grid = vqvae.settings["num_codes"], vqvae.settings["depth"], vqvae.code_grid
    uniform = depth * float(np.log2(num_codes))  # bits of a code
    codes = encode_images(vqvae, held_out["images"], box)  # (N, h, w)
    subjects = held_out["slices"]["subject"].to_numpy()
    rows = measure_reconstructions(vqvae, codes, held_out["images"], box)
    metrics = {
        "split": split,
        "people": len(set(subjects)),
        "slices": len(codes),
        "reconstruction": mean_by_person(rows, subjects),
        "rate": {"bits_per_image": grid[0] * grid[1] * uniform},
        "codebook": codebook_metrics(codes, num_codes, depth),
    }
    if len(models) == 2:
        few = evenly(np.arange(len(training["images"])), UNIGRAM_SLICES)
        training_codes = encode_images(vqvae, training["images"][few], box)
        bits = prior_bits(models[1], codes, held_out["columns"]).mean(axis=(1, 2))  # (N,) per code
        by_person = mean_by_person([{"bits": value} for value in bits], subjects)["bits"]
        metrics["prior"] = {
            f"bits_per_code_{split}": by_person,
            "unigram_bits_per_code": unigram_bits_per_code(training_codes, codes, num_codes, depth),
            "uniform_bits_per_code": uniform,
        }
        metrics["rate"]["bits_per_image_prior"] = value_of(by_person) * grid[0] * grid[1]
    return metrics


def measure_reconstructions(vqvae, codes, images, box):
    """``image_metrics`` of each image (N, H, W, 1) uint8 and what its codes (N, h, w) decode to: a list of dicts."""
    rows = []
    for start in block_starts(len(codes), "measuring", BLOCK):
        crops = to_bytes(np.asarray(vqvae.decode(codes[start : start + BLOCK])))[..., None]
        pasted = paste(crops, box, images.shape[1:3])
        rows += [image_metrics(*pair) for pair in zip(images[start : start + BLOCK], pasted, strict=True)]
    return rows
