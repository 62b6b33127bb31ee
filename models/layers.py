"""Building blocks that several models share."""

from functools import partial

import keras
import tensorflow as tf
from keras import layers, ops

registered = keras.saving.register_keras_serializable("brains")


def own_uniforms(shape, seed):
    """Uniforms in [0, 1) for this replica's part of the batch, the same that one replica would draw for all of it."""
    strategy, rows = tf.distribute.get_strategy(), shape[0]
    first = rows * tf.distribute.get_replica_context().replica_id_in_sync_group
    uniforms = tf.random.stateless_uniform((rows * strategy.num_replicas_in_sync, *shape[1:]), seed)
    return uniforms[first : first + rows]


def with_errors(codes, share, num_codes, seeds):
    """Codes of any shape, a ``share`` of them redrawn evenly from ``num_codes``; ``seeds``: of which, and of what."""
    right = own_uniforms(ops.shape(codes), seeds[0]) >= share
    random = ops.cast(own_uniforms(ops.shape(codes), seeds[1]) * num_codes, "int32")
    return ops.where(right, codes, random)


def space_to_depth(x, block):
    """(B, H, W, C) -> (B, H/block, W/block, block² C)."""
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height // block, block, width // block, block, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height // block, width // block, block * block * channels))


def depth_to_space(x, block):
    """The inverse of ``space_to_depth``: (B, h, w, block² C) -> (B, h block, w block, C)."""
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height, width, block, block, channels // block**2))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height * block, width * block, channels // block**2))


@registered
class SpaceToDepth(layers.Layer):
    """Trades pixels for channels, so that no layer works at full resolution."""

    def __init__(self, block, **options):
        super().__init__(**options)
        self.block = block

    def call(self, x):
        return space_to_depth(x, self.block)

    def get_config(self):
        return {**super().get_config(), "block": self.block}


@registered
class DepthToSpace(SpaceToDepth):
    """Trades channels for pixels: sub-pixel upsampling (Shi et al. 2016)."""

    def call(self, x):
        return depth_to_space(x, self.block)


@registered
class ResidualBlock(layers.Layer):
    """x + conv(relu(conv(relu(x)))), the identity at the start because the last kernel starts at zero."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.width = width
        conv = partial(layers.Conv2D, width, 3, padding="same", dtype=self.dtype_policy)
        self.first = conv(kernel_initializer="he_normal", name="first")
        self.second = conv(kernel_initializer="zeros", name="second")

    def build(self, shape):
        self.first.build(shape)
        self.second.build(shape)

    def call(self, x):
        return x + self.second(ops.relu(self.first(ops.relu(x))))

    def get_config(self):
        return {**super().get_config(), "width": self.width}
