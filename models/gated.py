"""The layers of the PixelCNN: gated units in two stacks, and how far they see."""

import tensorflow as tf
from keras import layers, ops

from models.layers import own_uniforms, registered


def choose_dilations(grid, num_layers):
    """Dilations for which the PixelCNN's receptive field covers the grid (h, w), as small as possible.

    Every layer adds its dilation to the reach, upwards and to both sides. One layer at a time is doubled,
    every second one first, as long as every distance in between stays reachable.

    Raises:
        ValueError: too few layers to cover the grid.
    """
    dilations = [1] * num_layers
    while sum(dilations) < max(grid) - 1:
        for layer in sorted(range(num_layers), key=lambda i: (i % 2 == 0, dilations[i])):
            doubled = dilations[:layer] + [2 * dilations[layer]] + dilations[layer + 1 :]
            if leaves_no_gap(doubled):
                dilations = doubled
                break
        else:
            raise ValueError(f"{num_layers} prior layers cannot see the whole {grid[0]}x{grid[1]} grid")
    return dilations


def leaves_no_gap(dilations):
    """Whether their partial sums make every distance from 0 to their total."""
    reach = 0
    for dilation in sorted(dilations):
        if dilation > reach + 1:
            return False
        reach += dilation
    return True


def receptive_field(dilations):
    """(rows up, columns to each side) that the prior sees from a code."""
    return 1 + sum(dilations), sum(dilations)


def gate(x):
    """tanh(first half) · sigmoid(second half) of the channels (equation 2): (…, 2C) -> (…, C)."""
    features, gates = ops.split(x, 2, axis=-1)
    return ops.tanh(features) * ops.sigmoid(gates)


def dense(x, kernel):
    """(…, A) by (A, B) as one flat product: batched ones are several times slower on a CPU."""
    flat = ops.matmul(ops.reshape(x, (-1, x.shape[-1])), kernel)
    return ops.reshape(flat, (*ops.shape(x)[:-1], kernel.shape[-1]))


def dilated(x, kernel, dilation):
    """A dilated convolution of x (B, H, W, A), padded already, with a kernel (rows, columns, A, C).

    Returns (B, H − (rows − 1) dilation, W − (columns − 1) dilation, C).
    """
    return ops.conv(x, kernel, padding="valid", dilation_rate=dilation)


def shifted(x, kernel, dilation):
    """What ``dilated`` gives, as one product with shifted copies of its input, side by side in channels."""
    rows, columns, _, channels = kernel.shape
    h, w = x.shape[1] - (rows - 1) * dilation, x.shape[2] - (columns - 1) * dilation
    places = ((i * dilation, j * dilation) for i in range(rows) for j in range(columns))
    copies = [x[:, top : top + h, left : left + w] for top, left in places]  # (B, h, w, A) each
    return dense(ops.concatenate(copies, axis=-1), ops.reshape(kernel, (-1, channels)))


CONVOLUTIONS = {"dilated": dilated, "shifted": shifted}  # the same to 1e-5; which is faster depends on the device


@registered
class GatedLayer(layers.Layer):
    """One layer of both stacks (van den Oord et al. 2016, figure 2), conditional as in §2.3.

    The model has shifted its inputs by one row (vertical stack) and one column (horizontal stack), so
    each layer may look at its own place: the vertical kernel covers this row and the one ``dilation``
    above it, three columns wide; the horizontal kernel this column and the one ``dilation`` to the left.
    Nothing is masked, so nothing can leak. The vertical stack may be narrower, (…, V) where the horizontal one
    is (…, C): its kernel is the dearest part of the layer. ``convolution`` is one of CONVOLUTIONS.
    """

    def __init__(self, width, vertical_width=None, dilation=1, dropout=0.0, convolution="dilated", **options):
        super().__init__(**options)
        self.width, self.vertical_width = width, vertical_width or width
        self.dilation, self.dropout, self.convolution = dilation, dropout, convolution

    def build(self, shape):
        """``shape`` is that of the vertical stack's input, which in the first layer has C channels."""
        width, vertical_width, weight = self.width, self.vertical_width, self.add_weight
        self.vertical_kernel = weight(name="vertical_kernel", shape=(2, 3, shape[-1], 2 * vertical_width))
        self.horizontal_kernel = weight(name="horizontal_kernel", shape=(1, 2, width, 2 * width))
        self.vertical_to_horizontal = weight(name="vertical_to_horizontal", shape=(2 * vertical_width, 2 * width))
        self.condition_kernel = weight(name="condition_kernel", shape=(width, 2 * vertical_width + 2 * width))
        self.vertical_bias = weight(name="vertical_bias", shape=(2 * vertical_width,), initializer="zeros")
        self.horizontal_bias = weight(name="horizontal_bias", shape=(2 * width,), initializer="zeros")
        self.out_kernel = weight(name="out_kernel", shape=(width, 2 * width))
        self.out_bias = weight(name="out_bias", shape=(2 * width,), initializer="zeros")

    def leave(self, horizontal, gated):
        """The residual connection and the skip output, from one product."""
        residual, skip = ops.split(dense(gated, self.out_kernel) + self.out_bias, 2, axis=-1)
        return horizontal + residual, skip

    def call(self, vertical, horizontal, condition, seed=None):
        """vertical (B, h, w, V), horizontal (B, h, w, C) -> the next two and the skip output.

        ``condition`` is (B, h, w, C), or (B, 1, 1, C) where it is the same everywhere; ``seed`` (a pair of ints)
        turns the dropout on.
        """
        d, convolve = self.dilation, CONVOLUTIONS[self.convolution]
        told = dense(condition, self.condition_kernel)  # (B, h or 1, w or 1, 2V + 2C)
        to_vertical, to_horizontal = ops.split(told, [2 * self.vertical_width], axis=-1)
        padded = ops.pad(vertical, ((0, 0), (d, 0), (d, d), (0, 0)))
        v = convolve(padded, self.vertical_kernel, d)  # (B, h, w, 2V)
        v = v + self.vertical_bias + to_vertical
        padded = ops.pad(horizontal, ((0, 0), (0, 0), (d, 0), (0, 0)))
        h = convolve(padded, self.horizontal_kernel, d)  # (B, h, w, 2C)
        h = h + dense(v, self.vertical_to_horizontal) + self.horizontal_bias + to_horizontal
        gated = gate(h)
        if seed is not None and self.dropout:
            gated = drop_channels(gated, self.dropout, seed)
        return gate(v), *self.leave(horizontal, gated)

    def row(self, above, row, condition):
        """The vertical stack for one row, from the row ``dilation`` above: (B, w, V) each.

        ``condition`` is the row's: (B, w or 1, C).

        Returns the row's output (B, w, V) and what it adds to the horizontal units (B, w, 2C).
        """
        d, w = self.dilation, row.shape[1]
        kernels = ops.split(self.condition_kernel, [2 * self.vertical_width], axis=-1)
        to_vertical, to_horizontal = (dense(condition, kernel) for kernel in kernels)  # (B, w or 1, 2V), (…, 2C)
        above, row = (ops.pad(x, ((0, 0), (d, d), (0, 0))) for x in (above, row))
        seen = ops.concatenate([x[:, i * d : i * d + w] for x in (above, row) for i in range(3)], axis=-1)
        v = dense(seen, ops.reshape(self.vertical_kernel, (-1, 2 * self.vertical_width)))  # (B, w, 2V)
        v = v + self.vertical_bias + to_vertical
        context = dense(v, self.vertical_to_horizontal) + self.horizontal_bias + to_horizontal
        return gate(v), context

    def column(self, left, cell, context):
        """The horizontal stack for one code, from the cell ``dilation`` to the left: (B, C) each."""
        kernel = ops.reshape(self.horizontal_kernel, (2 * self.width, 2 * self.width))
        h = ops.matmul(ops.concatenate([left, cell], axis=-1), kernel) + context
        return self.leave(cell, gate(h))

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "vertical_width": self.vertical_width,
            "dilation": self.dilation,
            "dropout": self.dropout,
            "convolution": self.convolution,
        }


def drop_channels(x, rate, seed):
    """Spatial dropout (Tompson et al. 2015): whole channels of an image at once, from a stateless seed."""
    kept = own_uniforms((tf.shape(x)[0], 1, 1, x.shape[-1]), seed) >= rate
    return x * ops.cast(kept, x.dtype) / (1 - rate)
