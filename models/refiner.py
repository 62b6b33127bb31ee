"""The refiner: the detail of slices for images of drawn codes."""

from functools import partial

import keras
from keras import layers, ops

from models.layers import DepthToSpace, ResidualBlock, registered, space_to_depth

BLACK = 5 / 255  # what is no lighter is outside the brain, and is not refined


@registered
class Refiner(keras.Model):
    """Images of drawn codes, decoded and sharpened -> the same with the detail of slices.

    A decoder draws the mean of all that its codes may stand for, and a mean is smooth; drawn codes fit each other less
    well than those of slices. This net adds a correction, which it learns against a critic (Shrivastava et al. 2017,
    arXiv:1612.07828; training/refining.py). It has two levels, half and a quarter of the resolution. Nothing is random
    in it: an image has one refined image.

    Args:
        image_shape: (H, W, 1), each side a multiple of 4.
        width: channels at half the resolution, twice as many at a quarter.
        seed: of its first weights.
        vqvae_sha256: of the file of the VQ-VAE whose images it refines.
    """

    def __init__(self, image_shape, width=32, seed=0, vqvae_sha256="", **options):
        super().__init__(**options)
        self.image_shape, self.vqvae_sha256 = tuple(image_shape), vqvae_sha256
        self.settings = dict(width=width, seed=seed)
        policy = self.dtype_policy
        conv = partial(layers.Conv2D, padding="same", dtype=policy)
        block = partial(ResidualBlock, dtype=policy)
        small = keras.initializers.RandomNormal(stddev=1e-3, seed=seed)
        self.enter = conv(width, 3, name="enter")
        self.below = keras.Sequential(
            [
                conv(2 * width, 4, strides=2, name="down"),
                block(2 * width, name="residual_quarter_0"),
                block(2 * width, name="residual_quarter_1"),
                layers.ReLU(name="relu", dtype=policy),
                conv(4 * width, 3, name="up"),
                DepthToSpace(2, name="upsample", dtype=policy),
            ],
            name="below",
        )
        self.leave = keras.Sequential(
            [
                block(width, name="residual_half_0"),
                block(width, name="residual_half_1"),
                layers.LeakyReLU(0.2, name="leaky_relu", dtype=policy),
                conv(4, 3, kernel_initializer=small, name="to_pixels"),
                DepthToSpace(2, name="channels_to_pixels", dtype=policy),
            ],
            name="leave",
        )
        self.build()

    def build(self, shape=None):
        if self.built:
            return
        height, width, channels = self.image_shape
        half = (None, height // 2, width // 2, self.settings["width"])
        self.enter.build((None, height // 2, width // 2, 4 * channels))
        self.below.build(half)
        self.leave.build(half)
        self.built = True

    def call(self, images):
        """Images (B, H, W, 1) float32 in [0, 1] -> refined, float32, unbounded; what is black stays as it is."""
        seen = space_to_depth(4 * images - 1, 2)  # (B, H/2, W/2, 4)
        half = self.enter(ops.cast(seen, self.compute_dtype))  # (B, H/2, W/2, C)
        correction = self.leave(half + self.below(half))  # (B, H, W, 1)
        return images + ops.where(images > BLACK, ops.cast(correction, "float32"), 0.0)

    def refine(self, images):
        """Images (B, H, W, 1) float32 in [0, 1] -> refined, the same."""
        return ops.clip(self.call(images), 0.0, 1.0)

    def get_config(self):
        return {
            **super().get_config(),
            "image_shape": self.image_shape,
            **self.settings,
            "vqvae_sha256": self.vqvae_sha256,
        }

    def fits(self, config):
        """Whether this is a model of that run's crop box."""
        return self.image_shape[:2] == tuple(config["crop_box"][2:])
