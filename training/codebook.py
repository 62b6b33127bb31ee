"""The codebook in training: its start, its moving averages (van den Oord et al. 2017, appendix A.1), its revival."""

import tensorflow as tf
from keras import ops

from modules import own_uniforms
from training.replicas import sum_over_replicas, whole_batch


def initialise_codebooks(vqvae, images):
    """Set each codebook to K of what it has to quantize of images (B, H, W, 1) float32 in [0, 1]."""
    z_e = ops.cast(vqvae.encoder(images), "float32")  # (B, h, w, D)
    for depth, quantizer in enumerate(vqvae.quantizers()):
        flat = ops.reshape(z_e, (-1, quantizer.code_dim))
        order = tf.argsort(tf.random.stateless_uniform((flat.shape[0],), (vqvae.settings["seed"], depth)))
        chosen = ops.take(order, ops.arange(quantizer.num_codes) % flat.shape[0])  # (K,), repeated if there are too few
        quantizer.codebook.assign(ops.transpose(ops.take(flat, chosen, axis=0)))
        if quantizer.ema:
            quantizer.counts.assign(ops.ones_like(quantizer.counts))
            quantizer.sums.assign(quantizer.codebook)
        z_e = z_e - quantizer(z_e)[1]


def update_codebook(quantizer, z_e, codes, seed, revive):
    """One step of the moving averages; ``revive`` (bool) also replaces the codes that died.

    A code is dead when its count falls below ``revival`` times the mean. It is put on a vector of this batch, with
    embedding, count and sum reset together. Each of many replicas gives its part of the batch, and all do the same.
    A batch with a vector that is not finite changes nothing: an average would never be rid of it.

    Args:
        z_e: (B, h, w, D) float32.
        codes: (B, h, w) int, the nearest codes.
        seed: pair of ints.
    """
    flat = ops.reshape(z_e, (-1, quantizer.code_dim))  # (N, D)
    assigned = ops.one_hot(ops.reshape(codes, (-1,)), quantizer.num_codes)  # (N, K)
    seen, total = sum_over_replicas((ops.sum(assigned, axis=0), ops.matmul(ops.transpose(flat), assigned)))
    counts = quantizer.decay * quantizer.counts + (1 - quantizer.decay) * seen  # (K,)
    sound = ops.all(ops.isfinite(total))  # infinity times 0 is no number, so one such vector shows in every code
    sums = quantizer.decay * quantizer.sums + (1 - quantizer.decay) * total  # (D, K)
    codebook = ops.where(counts > 1e-6, sums / ops.maximum(counts, 1e-6), quantizer.codebook)  # (D, K)

    mean_count = ops.sum(counts) / quantizer.num_codes
    dead = ops.logical_and(counts < quantizer.revival * mean_count, revive)  # (K,)
    replacement = draw_replacements(quantizer, flat, assigned, seed)  # (D, K)
    for weight, revived, moved in (
        (quantizer.counts, mean_count, counts),
        (quantizer.sums, replacement * mean_count, sums),
        (quantizer.codebook, replacement, codebook),
    ):
        weight.assign(ops.where(sound, ops.where(dead, revived, moved), weight))


def draw_replacements(quantizer, flat, assigned, seed):
    """Vectors of the batch, (D, K), drawn in proportion to their squared error, as k-means++ seeds its centres.

    After Arthur & Vassilvitskii 2007; by the Gumbel trick, without replacement as far as the vectors last.

    Args:
        flat: (N, D) float32, the encoder's outputs.
        assigned: (N, K) float32, one-hot codes.
    """
    num_codes = quantizer.num_codes
    error = ops.sum((flat - ops.matmul(assigned, ops.transpose(quantizer.codebook))) ** 2, axis=-1)  # (N,)
    uniform = 1e-12 + (1 - 1e-12) * own_uniforms((flat.shape[0],), seed)
    gumbel = -ops.log(-ops.log(uniform))
    scores, chosen = ops.top_k(ops.log(error + 1e-12) + gumbel, min(num_codes, flat.shape[0]))  # distinct rows
    scores, candidates = whole_batch(scores), whole_batch(ops.take(flat, chosen, axis=0))  # of every replica
    _, chosen = ops.top_k(scores, min(num_codes, scores.shape[0]))
    chosen = ops.take(chosen, ops.arange(num_codes) % chosen.shape[0])
    return ops.transpose(ops.take(candidates, chosen, axis=0))
