"""How the refiner learns: against a critic that tells refined images from slices, and held to what it was given.

Shrivastava et al., "Learning from Simulated and Unsupervised Images through Adversarial Training", 2017
(arXiv:1612.07828): a refiner, a critic of many patches, and a term that keeps what the image shows. No pairs are
needed: drawn images have no slice that they should be.
"""

from functools import partial

import keras
import tensorflow as tf
from keras import layers, ops

from modules import Refiner, SpaceToDepth
from training.replicas import mean_over_replicas
from training.steps import apply_gradients

CRITIC_WIDTH = 64
KEPT = 4  # pixels: the means of blocks of this side are to stay; what is finer is the refiner's to change
KEEPING = 3.0  # weight of the change of these means
RATE = 0.25  # times the learning rate of the other stages
DETAIL_SIDES = (3, 7)  # pixels: the critic sees how they differ from the means of squares of such sides around them,
DETAIL = 12.0  # times this, and nothing else: by the coarse faults of drawn codes it would always win


class Critic(keras.Sequential):
    """The detail of images, (B, H, W, 2) -> how much each place looks like one of a slice.

    Logits (B, H/8, W/8, 1) float32, each of about 60x60 pixels (PatchGAN, Isola et al. 2017, arXiv:1611.07004).
    """

    def __init__(self, width, dtype):
        conv = partial(layers.Conv2D, padding="same", dtype=dtype)
        leaky = partial(layers.LeakyReLU, 0.2, dtype=dtype)
        super().__init__(
            [
                SpaceToDepth(2, name="pixels_to_channels", dtype=dtype),
                conv(width, 3, name="stem"),
                leaky(name="leaky_relu_0"),
                conv(width, 4, strides=2, name="down_0"),
                leaky(name="leaky_relu_1"),
                conv(2 * width, 4, strides=2, name="down_1"),
                leaky(name="leaky_relu_2"),
                conv(2 * width, 3, name="look"),
                leaky(name="leaky_relu_3"),
                conv(1, 3, name="to_logits"),
            ],
            name="critic",
        )


class Refining(keras.Model):
    """A refiner in training and its critic."""

    def __init__(self, refiner, **options):
        super().__init__(**options)
        self.refiner = refiner
        self.critic = Critic(CRITIC_WIDTH, self.dtype_policy)
        height, width, _ = refiner.image_shape
        self.critic.build((None, height, width, 2))
        self.built = True

    def judge(self, images):
        """Images (B, H, W, 1) float32 -> logits of being slices, (B, H/8, W/8, 1) float32."""
        details = [images - ops.average_pool(images, side, 1, padding="same") for side in DETAIL_SIDES]
        seen = DETAIL * ops.concatenate(details, axis=-1)  # (B, H, W, 2)
        return ops.cast(self.critic(ops.cast(seen, self.compute_dtype)), "float32")


def build_refining(config, box, precision, vqvae_sha256=""):
    """A compiled Refining of this config, with weights that depend on the seed alone."""
    from training.optimisation import optimizer

    keras.utils.set_random_seed(config["seed"] + 2)
    refiner = Refiner(
        (box.height, box.width, 1), seed=config["seed"], vqvae_sha256=vqvae_sha256, name="refiner", dtype=precision
    )
    refining = Refining(refiner, name="refining", dtype=precision)
    rate = RATE * config["learning_rate"]
    refining.compile(optimizer=optimizer(rate, config["refiner_steps"], clipped=False, beta_1=0.5))
    return refining


def refining_step(refining, batch):
    """One step of the refiner and one of its critic, at once.

    Args:
        batch: dict of image, slices, and drawn, decoded images of drawn codes: (B, H, W, 1) float32 in [0, 1] each.

    Returns:
        dict of the refiner's loss, its terms, and the critic's, scalars of all replicas.
    """
    refiner = refining.refiner
    with tf.GradientTape() as of_refiner, tf.GradientTape() as of_critic:
        refined = refiner.call(batch["drawn"])  # as they are: Keras would cast them
        taken_for_drawn = refining.judge(refined)
        fooled = ops.mean(ops.softplus(-taken_for_drawn))
        changed = ops.mean(ops.abs(ops.average_pool(refined - batch["drawn"], KEPT, KEPT)))
        loss = fooled + KEEPING * changed
        critic = ops.mean(ops.softplus(taken_for_drawn)) + ops.mean(ops.softplus(-refining.judge(batch["image"])))
        scaled = [refining.optimizer.scale_loss(each) for each in (loss, critic)]  # for float16; the same otherwise
    gradients = of_refiner.gradient(scaled[0], refiner.trainable_variables)
    gradients += of_critic.gradient(scaled[1], refining.critic.trainable_variables)
    apply_gradients(refining, gradients)
    return mean_over_replicas({"loss": loss, "fooled": fooled, "changed": changed, "critic": critic})
