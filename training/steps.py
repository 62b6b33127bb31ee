"""One optimizer step of each model, on one device or as one of many replicas."""

import tensorflow as tf
from keras import ops

from modules import LOG_2, own_uniforms, with_errors
from training.codebook import update_codebook
from training.losses import losses_of, total_loss
from training.replicas import mean_over_replicas, replicas, whole_batch

REVIVING = 0.75  # of the steps; after them no code is revived: the decoder needs time to learn a moved code
SEEDS_PER_STEP = 1024  # of which the last half is for what the prior is told
WRONGLY_TOLD = 0.04  # share of the other slices' codes that are random: so a stack of draws does not drift


def vqvae_step(vqvae, batch, planned_steps=0):
    """One step of the VQ-VAE on ``batch["image"]``, (B, H, W, 1) float32 in [0, 1].

    Args:
        planned_steps: how long the training will be; codes are revived in its first three quarters.

    Returns:
        dict of the loss and its terms, scalars of all replicas, and the digits of the codes seen, each (B, h, w) int32.
    """
    with tf.GradientTape() as tape:
        terms, quantized = losses_of(vqvae, batch["image"])
        loss = total_loss(vqvae, terms)
        scaled_loss = vqvae.optimizer.scale_loss(loss)  # for float16; the same otherwise
    step = ops.cast(vqvae.optimizer.iterations, "int32")
    apply_gradients(vqvae, tape.gradient(scaled_loss, vqvae.trainable_variables))
    if vqvae.quantizer.ema:
        revive = step < tf.cast(REVIVING * planned_steps, tf.int32)
        seed = ops.stack([vqvae.settings["seed"], step])
        for quantizer, (given, digits, _) in zip(vqvae.quantizers(), quantized, strict=True):
            update_codebook(quantizer, given, digits, seed, revive)
    digits = [whole_batch(digits) for _, digits, _ in quantized]
    return {**mean_over_replicas({"loss": loss, **terms}), "codes": digits}


def with_codes(vqvae, batch):
    """A batch for the prior: its codes (B, h, w), and those of the other slices (B, N, h, w), -1 where there is none.

    Args:
        batch: dict of image (B, H, W, 1) float32 in [0, 1]; others (B, N, H, W, 1), the same; there (B, N) bool.
    """
    coded = {**batch, "codes": vqvae.encode(batch["image"])}
    if count := batch["others"].shape[1]:
        others = ops.reshape(batch["others"], (-1, *vqvae.image_shape))  # (B N, H, W, 1)
        codes = ops.reshape(vqvae.encode(others), (-1, count, *vqvae.code_grid))
        coded["other_codes"] = ops.where(batch["there"][..., None, None], codes, -1)
    return coded


def prior_step(prior, batch):
    """One step of the prior.

    Args:
        batch: dict of codes (B, h, w) int, label and position (B,) int with 0 for none, augmentation (B, A) float;
            and where the prior is told other slices their codes (B, N, h, w), -1 where there is none, and gaps (B, N).

    Returns:
        dict of the loss, in bits per code, of all replicas.
    """
    step = ops.cast(prior.optimizer.iterations, "int32")
    seed = ops.stack([prior.settings["seed"], step * SEEDS_PER_STEP])
    label, position = (
        drop_condition(prior, batch[name], seed + ops.array([0, i], dtype="int32"))
        for i, name in ((512, "label"), (513, "position"))
    )
    context = None
    if prior.num_contexts:
        context = unsure_context(prior, batch["other_codes"], batch["gaps"], seed + ops.array([0, 514], dtype="int32"))
    with tf.GradientTape() as tape:
        log_likelihood = prior.log_likelihood(batch["codes"], label, position, batch["augmentation"], context, seed)
        loss = -ops.mean(log_likelihood) / LOG_2
        scaled_loss = prior.optimizer.scale_loss(loss)  # for float16; the same otherwise
    apply_gradients(prior, tape.gradient(scaled_loss, prior.trainable_variables))
    return {"loss": mean_over_replicas(loss)}


def drop_condition(prior, condition, seed):
    """(B,) int -> the same, each set to 0 (none) with probability ``condition_dropout``."""
    kept = own_uniforms((tf.shape(condition)[0],), seed) >= prior.settings["condition_dropout"]
    return ops.where(kept, condition, 0)


def unsure_context(prior, codes, gaps, seed):
    """Other slices' codes (B, N, h, w) and gaps (B, N) -> the same, sometimes hidden, and some of the codes wrong."""
    batch, seeds = tf.shape(codes)[0], [seed + ops.array([0, i], dtype="int32") for i in range(3)]
    told = own_uniforms((batch,), seeds[0]) >= prior.settings["context_dropout"]  # (B,)
    there = told[:, None] & (codes[:, :, 0, 0] >= 0)  # (B, N)
    codes = ops.where(there[:, :, None, None], with_errors(codes, WRONGLY_TOLD, prior.code_values, seeds[1:]), -1)
    return codes, ops.where(there, gaps, 0)


def apply_gradients(model, gradients):
    """One optimizer step with the gradients of the whole batch.

    Those of embeddings come as rows, one each time that a code occurs. Adam would square such rows before it adds
    them up, and the clipping would take their norms one by one, so they are added up first.

    Keras clips what each replica gives and then adds up, so each gives its share of the whole, and ``optimizer``
    clips at the share of the norm: clipping and adding are then those of the whole batch.
    """
    gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
    if replicas() > 1:
        gradients = [gradient / replicas() for gradient in mean_over_replicas(gradients)]
    model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
