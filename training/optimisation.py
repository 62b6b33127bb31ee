"""The models as they are trained: compiled with their optimizer, beside the average of their weights."""

from functools import partial

import keras
import tensorflow as tf

import modules
from training.replicas import replicas

TOP_PIXELS = 16  # along each side of what a top code of the prior stands for


def build_vqvae(config, box, precision):
    """A compiled VQ-VAE of this config, with weights that depend on the seed alone.

    Args:
        box: the Box of pixels that it sees.
        precision: "float32", "mixed_bfloat16" or "mixed_float16".
    """
    keras.utils.set_random_seed(config["seed"])
    vqvae = modules.VQVAE(
        (box.height, box.width, 1),
        config["downsample"],
        config["num_codes"],
        config["code_dim"],
        config["commitment_cost"],
        not config["gradient_codebook"],
        config["vqvae_width"],
        config["residual_blocks"],
        config["seed"],
        config["loss"],
        config["detail_weight"],
        config["code_depth"],
        name="vqvae",
        dtype=precision,
    )
    vqvae.compile(optimizer=optimizer(config["learning_rate"], config["vqvae_steps"]))
    return vqvae


def build_prior(config, precision, vqvae_sha256=""):
    """A compiled prior of this config, with weights that depend on the seed alone."""
    keras.utils.set_random_seed(config["seed"] + 1)
    two_levels = config.get("prior_levels", 1) == 2
    kind = partial(modules.TwoLevelPrior, top_block=top_block(config)) if two_levels else modules.GatedPixelCNN
    prior = kind(
        config["code_grid"],
        config["num_codes"],
        len(config["labels"]),
        config["num_positions"],
        num_contexts=config["prior_slices_below"],
        patch=config["prior_patch"],
        depth=config["code_depth"],
        num_layers=config["prior_layers"],
        width=config["prior_width"],
        vertical_width=config.get("prior_vertical_width"),
        dropout=config["prior_dropout"],
        context_dropout=1 - config["prior_told"],
        seed=config["seed"],
        vqvae_sha256=vqvae_sha256,
        convolution=config.get("prior_convolution_resolved", "dilated"),
        name="prior",
        dtype=precision,
    )
    prior.compile(optimizer=optimizer(config["learning_rate"], config["prior_steps"]))
    return prior


def top_block(config):
    """Codes along each side of the block of a top code, which is TOP_PIXELS wide, or a code."""
    return max(1, TOP_PIXELS // config["downsample"])


def optimizer(learning_rate, steps, warmup_steps=100, beta_1=0.9, clipped=True):
    """Adam with linear warm-up and cosine decay to zero over ``steps``; ``clipped``: gradients are, to norm 1."""
    warmup_steps = min(warmup_steps, steps // 4)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup_steps), warmup_target=learning_rate, warmup_steps=warmup_steps
    )
    clip = 1.0 / replicas() if clipped else None
    return keras.optimizers.Adam(schedule, beta_1, beta_2=0.99, global_clipnorm=clip, name="adam")


class WeightAverage:
    """Exponential moving average of a model's weights, for evaluation.

    Of all of them: a codebook that is itself a moving average is averaged once more, as slowly as the encoder and the
    decoder. It then belongs to them as the live one belongs to the live ones.

    The decay is warmed up, min(decay, (1 + n) / (10 + n)) after n updates: an average that starts from
    the first weights with full decay is worse than the live ones for thousands of steps.
    """

    def __init__(self, model, decay):
        self.weights = [weight.value for weight in model.weights]
        self.updates = tf.Variable(
            0, trainable=False, dtype=tf.int64, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        )
        self.average = tf.train.ExponentialMovingAverage(decay, self.updates)
        self.average.apply(self.weights)  # makes the averages, equal to the weights
        self.averages = [self.average.average(weight) for weight in self.weights]

    def update(self):
        """Move every average towards its weight; to be called inside the training step's graph."""
        self.updates.assign_add(1)
        self.average.apply(self.weights)

    def swap(self):
        """Exchange the averages with the live weights; a second call exchanges them back."""
        for average, weight in zip(self.averages, self.weights, strict=True):
            live = tf.identity(weight)
            weight.assign(average)
            average.assign(live)
