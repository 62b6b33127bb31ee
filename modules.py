"""The models: a VQ-VAE that turns images into grids of codes, a gated PixelCNN prior over them, and a refiner.

How they are trained (losses, moving-average codebook, steps) is in training/.

VQ-VAE: van den Oord, Vinyals & Kavukcuoglu, "Neural Discrete Representation Learning", 2017
(arXiv:1711.00937). Prior: van den Oord et al., "Conditional Image Generation with PixelCNN Decoders",
2016 (arXiv:1606.05328). In shape comments B is the batch, (H, W) the image, (h, w) the code grid,
K the number of codes in a codebook, D their dimension and C a width in channels. A code of the grid has ``depth``
digits in base K, each of a codebook of its own, the coarsest first; with a depth of 1 it is its only digit.
"""

from functools import partial

import keras
import tensorflow as tf
import tensorflow_probability as tfp
from keras import layers, ops

from utils import digits_of, from_digits

STEM = 4  # the encoder starts, and the decoder ends, by trading 4x4 pixels for channels
LOG_2 = 0.6931471805599453
SCORED = 8  # drawn grids whose likelihood is computed together
TOP_WRONGLY_TOLD = 0.02  # share of the top codes that are random in training
TOP_SEEDS = (256, 512 + 256, 512 + 257)  # beside the seed of a step: of the top level, and of what is wrongly told
BLACK = 5 / 255  # what is no lighter is outside the brain, and is not refined

registered = keras.saving.register_keras_serializable("brains")


# ---- building blocks of both --------------------------------------------------------------------


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


# ---- building blocks of the VQ-VAE ------------------------------------------------------------


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


def level_widths(downsample, width):
    """Channels at 1/4, 1/8, … of the image's resolution, down to 1/downsample."""
    return [width if reduction == STEM else 2 * width for reduction in (4, 8, 16) if reduction <= downsample]


class Encoder(keras.Sequential):
    """Images (B, H, W, 1) float in [0, 1] -> z_e (B, H/downsample, W/downsample, code_dim).

    Residual, as in van den Oord et al. 2017 §4.1, with a space-to-depth stem: one-channel convolutions
    at full resolution cost more than all the rest.
    """

    def __init__(self, downsample, width, residual_blocks, code_dim, dtype):
        conv = partial(layers.Conv2D, padding="same", dtype=dtype)
        widths = level_widths(downsample, width)
        steps = [SpaceToDepth(STEM, name="pixels_to_channels", dtype=dtype), conv(widths[0], 3, name="stem")]
        for level, channels in enumerate(widths):
            if level > 0:
                steps.append(conv(channels, 4, strides=2, name=f"down_{level}"))
            steps += [
                ResidualBlock(channels, name=f"residual_{level}_{block}", dtype=dtype)
                for block in range(residual_blocks)
            ]
        steps += [layers.ReLU(name="relu", dtype=dtype), conv(code_dim, 1, name="to_code")]
        super().__init__(steps, name="encoder")


class Decoder(keras.Sequential):
    """z_q (B, h, w, code_dim) -> images (B, h·downsample, w·downsample, 1), unbounded.

    The mirror of the encoder, with sub-pixel upsampling and one residual block at half resolution.
    """

    def __init__(self, downsample, width, residual_blocks, code_dim, dtype):
        conv = partial(layers.Conv2D, kernel_size=3, padding="same", dtype=dtype)
        widths = level_widths(downsample, width)[::-1]
        steps = [conv(widths[0], name="from_code")]
        for level, channels in enumerate(widths):
            steps += [
                ResidualBlock(channels, name=f"residual_{level}_{block}", dtype=dtype)
                for block in range(residual_blocks)
            ]
            following = widths[level + 1] if level + 1 < len(widths) else width // 2
            steps += [
                conv(4 * following, name=f"up_{level}"),
                DepthToSpace(2, name=f"upsample_{level}", dtype=dtype),
            ]  # (B, 2h, 2w, C)
        steps += [
            ResidualBlock(width // 2, name="residual_half", dtype=dtype),
            layers.ReLU(name="relu", dtype=dtype),
            conv(4, name="to_pixels"),
            DepthToSpace(2, name="channels_to_pixels", dtype=dtype),
        ]
        super().__init__(steps, name="decoder")


@registered
class VectorQuantizer(layers.Layer):
    """The nearest of K codes for every vector (van den Oord et al. 2017 §3.1), always in float32.

    With ``ema`` the codebook is the moving average of the vectors assigned to each code (appendix A.1);
    otherwise it is trained by gradients (equation 3). Nothing here moves by itself: training/codebook.py moves it.

    Weights: ``codebook`` (D, K), stored so that the distances need no transpose; ``counts`` (K,) and
    ``sums`` (D, K), the averages it is made of, which start at 1 and at the codebook: counts that start
    at 0 throw unused codes to norms of a million on the first step.
    """

    def __init__(self, num_codes=128, code_dim=16, ema=True, decay=0.99, revival=0.1, **options):
        options["dtype"] = "float32"
        super().__init__(**options)
        self.num_codes, self.code_dim, self.ema = num_codes, code_dim, ema
        self.decay, self.revival = decay, revival

    def build(self, shape):
        # All replicas compute the same averages, of the whole batch, so the first one's are everybody's.
        weight = partial(self.add_weight, autocast=False, aggregation="only_first_replica")
        self.codebook = weight(
            name="codebook",
            shape=(self.code_dim, self.num_codes),
            initializer=keras.initializers.RandomNormal(stddev=1.0, seed=0),
            trainable=not self.ema,
        )
        if self.ema:
            self.counts = weight(name="counts", shape=(self.num_codes,), initializer="ones", trainable=False)
            self.sums = weight(name="sums", shape=(self.code_dim, self.num_codes), initializer="zeros", trainable=False)
            self.sums.assign(self.codebook)

    def call(self, z_e):
        """z_e (B, h, w, D) -> codes (B, h, w) int32 and their embeddings (B, h, w, D) float32."""
        codes = self.nearest(z_e)
        return codes, self.embed(codes)

    def nearest(self, z_e):
        """The code of least squared distance: argmax of z·c − ‖c‖²/2, for ‖z‖² is the same for all."""
        flat = ops.reshape(z_e, (-1, self.code_dim))  # (B h w, D)
        scores = ops.matmul(flat, self.codebook) - 0.5 * ops.sum(self.codebook**2, axis=0)  # (B h w, K)
        return ops.reshape(ops.cast(ops.argmax(scores, axis=-1), "int32"), ops.shape(z_e)[:-1])

    def embed(self, codes):
        """codes (B, h, w) int -> (B, h, w, D) float32."""
        return ops.take(ops.transpose(self.codebook), codes, axis=0)

    def get_config(self):
        return {
            **super().get_config(),
            "num_codes": self.num_codes,
            "code_dim": self.code_dim,
            "ema": self.ema,
            "decay": self.decay,
            "revival": self.revival,
        }


@registered
class VQVAE(keras.Model):
    """Encoder, vector quantizer and decoder (van den Oord et al. 2017).

    Args:
        image_shape: (H, W, 1), each side a multiple of ``downsample``.
        downsample: pixels per code along each side: 4, 8 or 16.
        num_codes, code_dim: K and D.
        commitment_cost: β of equation 3; it moves the encoder only.
        ema: whether the codebook is a moving average (else gradient-trained).
        width, residual_blocks: of encoder and decoder.
        seed: of everything drawn in training, together with the step.
        loss: the reconstruction error that it is trained by, "pyramid" or "squared" (training/losses.py).
        detail_weight: of the pyramid error; the squared one has none.
        depth: how many codebooks there are, each of what the ones before it leave (residual quantisation: Lee et al.
            2022, arXiv:2203.01941, §3.1; there all share one codebook).
    """

    def __init__(
        self,
        image_shape,
        downsample=8,
        num_codes=128,
        code_dim=16,
        commitment_cost=0.25,
        ema=True,
        width=64,
        residual_blocks=2,
        seed=0,
        loss="pyramid",
        detail_weight=4.0,
        depth=1,
        **options,
    ):
        super().__init__(**options)
        self.image_shape = tuple(image_shape)
        self.settings = dict(
            downsample=downsample,
            num_codes=num_codes,
            code_dim=code_dim,
            commitment_cost=commitment_cost,
            ema=ema,
            width=width,
            residual_blocks=residual_blocks,
            seed=seed,
            loss=loss,
            detail_weight=detail_weight,
            depth=depth,
        )
        self.encoder = Encoder(downsample, width, residual_blocks, code_dim, self.dtype_policy)
        self.quantizer = VectorQuantizer(num_codes, code_dim, ema, name="quantizer")
        self.finer = [VectorQuantizer(num_codes, code_dim, ema, name=f"quantizer_{i}") for i in range(1, depth)]
        self.decoder = Decoder(downsample, width, residual_blocks, code_dim, self.dtype_policy)
        self.build()

    def build(self, shape=None):
        if self.built:
            return
        height, width, channels = self.image_shape
        downsample = self.settings["downsample"]
        self.code_grid = (height // downsample, width // downsample)
        codes = (None, *self.code_grid, self.settings["code_dim"])
        self.encoder.build((None, height, width, channels))
        for quantizer in self.quantizers():
            quantizer.build(codes)
        self.decoder.build(codes)
        self.built = True

    def quantizers(self):
        """Its vector quantizers, a tuple: each quantizes what the ones before it leave of z_e."""
        return (self.quantizer, *self.finer)

    def quantize_residuals(self, z_e):
        """z_e (B, h, w, D) -> for each quantizer what it was given, its digits (B, h, w) int32, and their embeddings.

        What one leaves moves with z_e: no gradient goes through its embeddings to the next.
        """
        steps = []
        for quantizer in self.quantizers():
            digits, embedded = quantizer(z_e)
            steps.append((z_e, digits, embedded))
            z_e = z_e - ops.stop_gradient(embedded)
        return steps

    def call(self, images):
        """Images (B, H, W, 1) in [0, 1] -> reconstructions, the same."""
        return self.decode(self.encode(images))

    def encode(self, images):
        """Images (B, H, W, 1) in [0, 1] -> codes (B, h, w) int32."""
        return self.nearest(ops.cast(self.encoder(images), "float32"))

    def nearest(self, z_e):
        """z_e (B, h, w, D) float32 -> codes (B, h, w) int32."""
        return from_digits([digits for _, digits, _ in self.quantize_residuals(z_e)], self.settings["num_codes"])

    def embed(self, codes):
        """Codes (B, h, w) int -> z_q (B, h, w, D) float32, the sum of what their digits stand for."""
        digits = digits_of(ops.cast(codes, "int32"), self.settings["num_codes"], self.settings["depth"])
        return sum(quantizer.embed(digit) for quantizer, digit in zip(self.quantizers(), digits, strict=True))

    def decode(self, codes):
        """Codes (B, h, w) int -> images (B, H, W, 1) float32 in [0, 1]."""
        return ops.clip(ops.cast(self.decoder(self.embed(codes)), "float32"), 0.0, 1.0)

    def get_config(self):
        return {**super().get_config(), "image_shape": self.image_shape, **self.settings}

    def fits(self, config):
        """Whether this is a model of that run's crop box, code grid and codebooks."""
        return [self.image_shape[:2], self.code_grid, self.settings["num_codes"], self.settings["depth"]] == [
            tuple(config["crop_box"][2:]),
            tuple(config["code_grid"]),
            config["num_codes"],
            config.get("code_depth", 1),
        ]


# ---- the refiner ------------------------------------------------------------------------------


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


# ---- the prior --------------------------------------------------------------------------------


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


class Prior(keras.Model):
    """What every prior over code grids does with its own ``log_likelihood``, ``draw_levels`` and ``drawn_cells``.

    Attributes:
        grid: (h, w) of the codes.
        num_codes, depth: K, and how many digits a code has.
        num_contexts: how many grids of other slices it is told.
        patch: codes along each side of the cells in which it draws.
        uniforms_shape: of the numbers that a grid is drawn from.
        vqvae_sha256: of the file of the VQ-VAE whose codes these are.
    """

    @property
    def code_values(self):
        """How many codes there are, of all their digits together."""
        return self.num_codes**self.depth

    def bits_per_code(self, codes, label, position, context=None):
        """Mean over each grid of −log2 p, (B,) float32; the conditions are 0 where unknown."""
        return -ops.mean(self.log_likelihood(codes, label, position, context=context), axis=(1, 2)) / LOG_2

    def sample(
        self,
        uniforms,
        label,
        position,
        temperature=1.0,
        top_k=None,
        top_p=None,
        known=None,
        mask=None,
        context=None,
        guidance=1.0,
        scored=None,
    ):
        """Draw code grids, one row and one column at a time, each from cached features.

        Args:
            uniforms: (B, *uniforms_shape) float32 in [0, 1): the draws are by inverse CDF, so grid i depends on its
                own uniforms alone.
            label, position: (B,) int, 0 for none.
            temperature, top_k, top_p: of the distribution drawn from; likelihoods stay those of the model.
            known, mask: (B, h, w) int codes and bool: where the mask is true the code is kept.
            context: the other grids, as in ``condition``.
            guidance: classifier-free (Ho & Salimans 2022, arXiv:2207.12598): the logits drawn from are those without
                label and position, and this many times what the two change in them. 1 is the model as it is, and
                costs half as much.
            scored: a slice of the batch, whose likelihood is wanted (default: all); where it costs a pass of its own
                that of the others is NaN.

        It computes in float32 whatever the precision of training.

        Returns:
            codes (B, h, w) int32 and their natural log-likelihood (B,) float32 under the model.
        """
        codes, levels = self.draw_levels(
            uniforms, label, position, known, mask, context, temperature, top_k, top_p, guidance
        )
        return codes, sum(tf.reduce_sum(log_likelihood, axis=(1, 2)) for log_likelihood in levels)

    def redraw(self, codes, cells, uniforms, choice, label, position, context=None):
        """Draw some cells of code grids anew, given all other codes, those that come later too.

        One step of iterated sampling importance resampling (Andrieu, Lee & Vihola 2018, arXiv:1312.6432): N - 1
        candidates are drawn in raster order, the grid as it is being the N-th, and one of the N is chosen in
        proportion to the likelihood of the codes outside ``cells``. It leaves p(cells | other codes) as it is, exactly,
        whatever N; how soon a chain of such steps gets there from elsewhere, nothing says.

        Args:
            codes: (B, h, w) int.
            cells: (B, h, w) bool; nothing else changes.
            uniforms: (B, N, *uniforms_shape) float32 in [0, 1), for the candidates; those of the first, the grid as it
                is, are not used.
            choice: (B,) float32 in [0, 1), for the choice.
            label, position: (B,) int, 0 for none.
            context: the other grids, as in ``condition``.

        Returns:
            codes (B, h, w) int32.
        """
        batch, count = uniforms.shape[:2]

        def repeated(x):  # (B, …) -> (B N, …)
            return tf.repeat(tf.convert_to_tensor(x), count, axis=0)

        cells = repeated(cells)
        as_it_is = tf.reshape(tf.range(batch * count) % count == 0, (-1, 1, 1))
        candidates, levels = self.draw_levels(
            tf.reshape(uniforms, (-1, *self.uniforms_shape)),
            repeated(label),
            repeated(position),
            repeated(codes),
            as_it_is | ~cells,
            context and tuple(map(repeated, context)),
        )
        weights = sum(
            tf.reduce_sum(tf.where(drawn, 0.0, log_likelihood), axis=(1, 2))
            for drawn, log_likelihood in zip(self.drawn_cells(cells), levels, strict=True)
        )  # (B N,)
        chosen = draw(tf.reshape(weights, (batch, count)), tf.convert_to_tensor(choice, tf.float32))  # (B,)
        candidates = tf.reshape(candidates, (batch, count, *self.grid))
        return tf.gather(candidates, chosen, batch_dims=1)


@registered
class GatedPixelCNN(Prior):
    """p(codes | label, position, other grids), code by code (van den Oord et al. 2016).

    Its two stacks go over the grid in raster order, cell by cell. A cell holds ``patch`` x ``patch`` codes, which the
    head draws one after another, each told the ones before it in its cell: four codes for little more than the price
    of one, and a step of the stacks is twice as long a way in the image. With a patch of 1 a cell is a code.
    The digits of a code are drawn in the same way (Lee et al. 2022, §3.2). The P = ``patch``² ``depth`` places of a
    cell are those of its digits, code by code.

    Args:
        grid: (h, w) of the codes, multiples of ``patch``.
        num_codes: K.
        num_labels, num_positions: conditions are given as 1 … n; 0 means none, the unconditional model.
        num_augmentations: length of the vector that tells how a training image was augmented, zeros for
            an image as it is: so the prior learns from augmented codes without sampling them (Jun et
            al., "Distribution Augmentation for Generative Modeling", 2020).
        num_contexts: how many other grids of codes it is told as a whole, by a condition of every place (§2.3,
            ``s = m(h)``); they are of other slices of the same person.
        patch: codes along each side of a cell.
        depth: digits of a code.
        num_layers, width: of the two stacks.
        vertical_width: of the vertical stack, where it is not the same.
        dropout: rate of the spatial dropout in every layer's horizontal unit.
        condition_dropout: how often training drops the label, and independently the position.
        context_dropout: how often it hides all other grids: so the model draws single ones, too.
        seed: of everything drawn in training, together with the step.
        vqvae_sha256: of the file of the VQ-VAE whose codes these are.
        convolution: how the layers convolve, one of CONVOLUTIONS; where sampling goes code by code, none does.
    """

    def __init__(
        self,
        grid,
        num_codes,
        num_labels=0,
        num_positions=0,
        num_augmentations=6,
        num_contexts=0,
        patch=1,
        depth=1,
        num_layers=12,
        width=128,
        vertical_width=None,
        dropout=0.0,
        condition_dropout=0.1,
        context_dropout=0.3,
        seed=0,
        vqvae_sha256="",
        convolution="dilated",
        **options,
    ):
        super().__init__(**options)
        self.vqvae_sha256 = vqvae_sha256
        self.grid, self.num_codes, self.width = tuple(grid), num_codes, width
        self.patch, self.depth, self.num_contexts = patch, depth, num_contexts
        self.cells = (grid[0] // patch, grid[1] // patch)  # rows and columns of the stacks
        self.places = patch**2 * depth  # of a cell: P
        self.settings = dict(
            num_labels=num_labels,
            num_positions=num_positions,
            num_augmentations=num_augmentations,
            num_contexts=num_contexts,
            patch=patch,
            depth=depth,
            num_layers=num_layers,
            width=width,
            vertical_width=vertical_width or width,
            dropout=dropout,
            condition_dropout=condition_dropout,
            context_dropout=context_dropout,
            seed=seed,
            convolution=convolution,
        )
        layer = partial(GatedLayer, width, vertical_width, dropout=dropout, convolution=convolution)
        self.stack = [
            layer(dilation, name=f"gated_{i}", dtype=self.dtype_policy)
            for i, dilation in enumerate(choose_dilations(self.cells, num_layers))
        ]
        if num_contexts:
            self.context_block = ResidualBlock(width, name="context_block", dtype=self.dtype_policy)
        self.build()

    def build(self, shape=None):
        if self.built:
            return
        width, settings, places = self.width, self.settings, self.places
        normal = keras.initializers.RandomNormal(stddev=0.5 / places**0.5, seed=settings["seed"])
        small = keras.initializers.RandomNormal(stddev=0.05, seed=settings["seed"])

        def weight(name, shape, initializer="glorot_uniform"):
            return self.add_weight(name=name, shape=shape, initializer=initializer, dtype="float32", autocast=False)

        self.code_embedding = weight("code_embedding", (places * self.num_codes, width), normal)
        self.start = weight("start", (2, width), normal)  # what lies above the first row, left of the first column
        self.grid_embedding = weight("grid_embedding", (*self.cells, width), small)
        self.label_embedding = weight("label_embedding", (settings["num_labels"] + 1, width), small)
        self.position_embedding = weight("position_embedding", (settings["num_positions"] + 1, width), small)
        self.augmentation_kernel = weight("augmentation_kernel", (settings["num_augmentations"], width), small)
        self.hidden_kernel = weight("hidden_kernel", (width, places * width))
        self.hidden_bias = weight("hidden_bias", (places * width,), "zeros")
        self.logits_kernel = weight("logits_kernel", (width, places * self.num_codes), "zeros")
        self.logits_bias = weight("logits_bias", (places * self.num_codes,), "zeros")
        if places > 1:  # what a code tells the hidden units of the places after it in its cell
            self.told = weight("told", ((places - 1) * self.num_codes, places * width), small)
        if self.num_contexts:
            rows = self.num_contexts * (places * self.num_codes + 1)  # the last of each grid's stands for no grid
            self.context_embedding = weight("context_embedding", (rows, width), small)
            gaps = self.num_contexts * (settings["num_positions"] + 1)
            self.gap_embedding = weight("gap_embedding", (gaps, width), small)
            self.context_block.build((None, *self.cells, width))
        for layer, below in zip(self.stack, [width] + [settings["vertical_width"]] * len(self.stack), strict=False):
            layer.build((None, *self.cells, below))
        self.built = True

    def levels(self):
        """Its PixelCNNs, a tuple, the one for the codes last: itself."""
        return (self,)

    @property
    def uniforms_shape(self):
        """One for each digit: a grid for each place that it has in a code, one below the other."""
        return self.depth * self.grid[0], self.grid[1]

    @property
    def receptive_field(self):
        """(rows up, columns to each side) seen from a code, at least."""
        return tuple(self.patch * reach for reach in receptive_field([layer.dilation for layer in self.stack]))

    # ---- what it is told ------------------------------------------------------------------------

    def condition(self, label, position, augmentation=None, context=None):
        """The condition of every place, (B, 1, 1, C), or (B, rows, columns, C) where the model is told other grids.

        Args:
            label, position: (B,) int, 0 for none.
            augmentation: (B, A) float.
            context: (codes, gaps) of the other grids; None for none of them. Codes (B, N, h, w) int; a grid whose
                first code is -1 is not there. Gaps (B, N) int, how many positions its slice lies below, in 0 … n.
        """
        total = ops.take(self.label_embedding, label, axis=0) + ops.take(self.position_embedding, position, axis=0)
        if augmentation is not None:
            total = total + ops.matmul(augmentation, self.augmentation_kernel)
        total = total[:, None, None]  # (B, 1, 1, C)
        if self.num_contexts:
            total = total + self.context_map(context)
        return total

    def context_map(self, context=None):
        """What the other grids tell every place: looked up, added up, and a residual block.

        Returns:
            (B, rows, columns, C); of no other grids (1, rows, columns, C), the same for all.
        """
        grids, positions = self.num_contexts, self.settings["num_positions"]
        if context is None:
            codes, gaps = ops.full((1, grids, *self.grid), -1, "int32"), ops.zeros((1, grids), "int32")
        else:
            codes, gaps = (ops.cast(x, "int32") for x in context)
        rows = self.places * self.num_codes + 1  # of the table of a grid
        tables = rows * ops.arange(grids)  # (N,), where each begins
        there = codes[:, :, :1, :1, None] >= 0  # (B, N, 1, 1, 1)
        places = self.by_cell(ops.reshape(codes, (-1, *self.grid))) + self.num_codes * ops.arange(self.places)
        places = ops.reshape(places, (-1, grids, *self.cells, self.places))  # (B, N, rows, columns, P)
        indices = ops.where(there, places, rows - 1) + tables[:, None, None, None]
        told = ops.sum(ops.take(self.context_embedding, indices, axis=0), axis=(1, 4))  # (B, rows, columns, C)
        gaps = ops.take(self.gap_embedding, gaps + (positions + 1) * ops.arange(grids), axis=0)  # (B, N, C)
        told = told + ops.sum(gaps, axis=1)[:, None, None]
        return ops.cast(self.context_block(ops.cast(told, self.compute_dtype)), "float32")

    # ---- likelihood -----------------------------------------------------------------------------

    def by_cell(self, codes):
        """Codes (B, h, w) int -> (B, rows, columns, P): the digits of each cell, of the codes in raster order."""
        return space_to_depth(ops.stack(digits_of(codes, self.num_codes, self.depth), axis=-1), self.patch)

    def embed(self, digits):
        """Digits by cell (…, P) int -> (…, C), the sum of what each place of the cell has for its digit."""
        places = digits + self.num_codes * ops.arange(self.places)
        return ops.sum(ops.take(self.code_embedding, places, axis=0), axis=-2)

    def call(self, codes, label, position, augmentation=None, context=None, seed=None):
        """codes (B, h, w) int -> logits (B, h, w, depth K) float32 of their digits, each from what is before it."""
        digits = self.by_cell(ops.cast(codes, "int32"))  # (B, rows, columns, P)
        return self.logits(digits, self.embed(digits), self.condition(label, position, augmentation, context), seed)

    def logits(self, digits, cells, condition, seed=None):
        """Digits by cell (B, rows, columns, P), embedded (…, C), and their condition -> logits, as ``call``."""
        batch, (rows, columns) = ops.shape(cells)[0], self.cells
        above = ops.broadcast_to(self.start[0], (batch, 1, columns, self.width))
        left = ops.broadcast_to(self.start[1], (batch, rows, 1, self.width))
        vertical = ops.concatenate([above, cells[:, :-1]], axis=1) + self.grid_embedding
        horizontal = ops.concatenate([left, cells[:, :, :-1]], axis=2) + self.grid_embedding
        vertical, horizontal, condition = (ops.cast(x, self.compute_dtype) for x in (vertical, horizontal, condition))
        total = 0.0
        for i, layer in enumerate(self.stack):
            layer_seed = None if seed is None else ops.stack([seed[0], seed[1] + i])
            vertical, horizontal, skip = layer(vertical, horizontal, condition, seed=layer_seed)
            total = total + skip
        hidden = self.hidden(total)
        logits = []
        for place in range(self.places):
            logits.append(self.head(hidden, place))
            if place + 1 < self.places:
                hidden = hidden + ops.cast(self.tell(digits[..., place], place), hidden.dtype)
        return depth_to_space(ops.concatenate(logits, axis=-1), self.patch)

    # ---- the head: the digits of a cell ---------------------------------------------------------

    def hidden(self, skips):
        """The sum of the skip outputs (…, C) -> the hidden units of all places of the cell (…, P C)."""
        kernel, bias = (ops.cast(x, skips.dtype) for x in (self.hidden_kernel, self.hidden_bias))
        return dense(ops.relu(skips), kernel) + bias

    def tell(self, digits, place):
        """What the digits (…) at a place of their cells add to the hidden units (…, P C) of the places after it."""
        return ops.take(self.told, digits + place * self.num_codes, axis=0)

    def head(self, hidden, place):
        """The hidden units of a cell (…, P C) -> the logits (…, K) float32 of one place in it."""
        own = hidden[..., place * self.width : (place + 1) * self.width]
        digits = slice(place * self.num_codes, (place + 1) * self.num_codes)
        kernel = ops.cast(self.logits_kernel[:, digits], own.dtype)
        return ops.cast(dense(ops.relu(own), kernel), "float32") + self.logits_bias[digits]

    def log_likelihood(self, codes, label, position, augmentation=None, context=None, seed=None):
        """Natural log-likelihood of every code given those before it: (B, h, w) float32."""
        logits = self.call(codes, label, position, augmentation, context, seed)
        logits = ops.split(logits, self.depth, axis=-1)  # of each digit (B, h, w, K)
        digits = digits_of(ops.cast(codes, "int32"), self.num_codes, self.depth)
        return sum(
            tfp.distributions.Categorical(logits=of_digit).log_prob(digit)
            for of_digit, digit in zip(logits, digits, strict=True)
        )

    # ---- sampling -------------------------------------------------------------------------------

    def draw_levels(self, *arguments):
        """Codes (B, h, w) int32 for the arguments of ``sample``, and in a tuple the log-likelihood of each."""
        codes, _, log_likelihood = self._draw(*arguments)
        return codes, (log_likelihood,)

    def drawn_cells(self, cells):
        """What of each level is drawn anew where ``cells`` (B, h, w) are."""
        return (cells,)

    def cached_logits(self, codes, label, position, context=None):
        """The logits (B, h, w, depth K) that sampling computes along the way to ``codes``: for tests."""
        codes = tf.convert_to_tensor(codes, tf.int32)
        everywhere, uniforms = tf.ones(codes.shape, tf.bool), tf.zeros((codes.shape[0], *self.uniforms_shape))
        return self._draw(uniforms, label, position, codes, everywhere, context, keep_logits=True)[1]

    def _draw(
        self,
        uniforms,
        label,
        position,
        known=None,
        mask=None,
        context=None,
        temperature=1.0,
        top_k=None,
        top_p=None,
        guidance=1.0,
        keep_logits=False,
    ):
        """``_sample`` with all its arguments as tensors of the right kind."""
        return self._sample(
            tf.convert_to_tensor(uniforms, tf.float32),
            tf.convert_to_tensor(label, tf.int32),
            tf.convert_to_tensor(position, tf.int32),
            None if known is None else tf.convert_to_tensor(known, tf.int32),
            None if mask is None else tf.convert_to_tensor(mask, tf.bool),
            context and tuple(tf.convert_to_tensor(x, tf.int32) for x in context),
            tf.convert_to_tensor(temperature, tf.float32),
            top_k,
            top_p,
            None if guidance == 1 else tf.convert_to_tensor(guidance, tf.float32),
            keep_logits,
        )

    @tf.function
    def _sample(
        self, uniforms, label, position, known, mask, context, temperature, top_k, top_p, guidance, keep_logits
    ):
        condition = self.condition(label, position, context=context)
        if guidance is not None:  # a second half of the batch goes the same way without the two
            nothing = tf.zeros_like(label)
            condition = tf.concat([condition, self.condition(nothing, nothing, context=context)], axis=0)
        halves = 1 if guidance is None else 2
        images, batch, (rows, columns), width = uniforms.shape[0], halves * uniforms.shape[0], self.cells, self.width
        places = range(self.places)
        uniforms = tf.stack(tf.split(uniforms, self.depth, axis=1), axis=-1)  # (B, h, w, depth)
        uniforms = space_to_depth(uniforms, self.patch)  # (B, rows, columns, P)
        if mask is not None:
            known, mask = self.by_cell(known), space_to_depth(tf.repeat(mask[..., None], self.depth, -1), self.patch)
        condition = tf.broadcast_to(condition, (batch, rows, *condition.shape[2:]))
        # the last ``dilation`` inputs of every layer, the oldest first: of the vertical stack rows, else cells
        row_caches = [
            [tf.zeros((batch, columns, layer.vertical_kernel.shape[2]))] * layer.dilation for layer in self.stack
        ]
        cells = tf.broadcast_to(self.start[0], (batch, columns, width))  # the row above, embedded
        digit_rows = tf.TensorArray(tf.int32, rows, element_shape=(columns, images, len(places)))
        likelihood_rows = tf.TensorArray(tf.float32, rows, element_shape=(columns, images, len(places)))
        logit_rows = tf.TensorArray(tf.float32, rows, element_shape=(columns, images, len(places), self.num_codes))
        for r in tf.range(rows):
            row = cells + self.grid_embedding[r]  # (B, columns, C)
            contexts, caches = [], []
            for layer, cache in zip(self.stack, row_caches, strict=True):
                caches.append([*cache[1:], row])
                row, told = layer.row(cache[0], row, condition[:, r])
                contexts.append(tf.transpose(told, (1, 0, 2)))  # (columns, B, 2C)
            row_caches = caches
            cell_caches = [[tf.zeros((batch, width))] * layer.dilation for layer in self.stack]
            left = tf.broadcast_to(self.start[1], (batch, width))  # the cell to the left, embedded
            digits_of_row = tf.TensorArray(tf.int32, columns, element_shape=(images, len(places)))
            logits_of_row = tf.TensorArray(tf.float32, columns, element_shape=(images, len(places), self.num_codes))
            for c in tf.range(columns):
                cell = left + self.grid_embedding[r, c]  # (B, C)
                total, caches = tf.zeros((batch, width)), []
                for layer, cache, told in zip(self.stack, cell_caches, contexts, strict=True):
                    caches.append([*cache[1:], cell])
                    cell, skip = layer.column(cache[0], cell, told[c])
                    total += skip
                cell_caches = caches
                hidden, digits, logits = self.hidden(total), [], []
                for place in places:
                    logits.append(self.head(hidden, place))  # (B, K)
                    guided = guide(logits[-1], guidance)
                    digit = draw(truncate(guided / temperature, top_k, top_p), uniforms[:, r, c, place])  # (B,)
                    if mask is not None:
                        digit = tf.where(mask[:, r, c, place], known[:, r, c, place], digit)
                    digits.append(digit)
                    if place < places[-1]:
                        hidden += tf.tile(self.tell(digit, place), (halves, 1))
                digits = tf.stack(digits, axis=1)  # (B, P)
                left = tf.tile(self.embed(digits), (halves, 1))
                digits_of_row = digits_of_row.write(c, digits)
                logits_of_row = logits_of_row.write(c, tf.stack(logits, axis=1)[:images])
            digits_of_row, logits_of_row = digits_of_row.stack(), logits_of_row.stack()  # (columns, B, P), (…, K)
            digit_rows = digit_rows.write(r, digits_of_row)
            log_likelihood = tfp.distributions.Categorical(logits=logits_of_row).log_prob(digits_of_row)
            likelihood_rows = likelihood_rows.write(r, log_likelihood)
            if keep_logits:
                logit_rows = logit_rows.write(r, logits_of_row)
            cells = tf.tile(tf.transpose(self.embed(digits_of_row), (1, 0, 2)), (halves, 1, 1))
        digits, log_likelihood = (self.from_cells(x.stack()[..., None]) for x in (digit_rows, likelihood_rows))
        codes = from_digits(tf.unstack(digits, axis=-1), self.num_codes)  # (B, h, w)
        logits = self.from_cells(logit_rows.stack()) if keep_logits else tf.zeros(())
        return codes, logits, tf.reduce_sum(log_likelihood, axis=-1)

    def from_cells(self, x):
        """(rows, columns, B, P, X) -> (B, h, w, depth X)."""
        x = tf.transpose(x, (2, 0, 1, 3, 4))
        return depth_to_space(tf.reshape(x, (*x.shape[:3], -1)), self.patch)

    def get_config(self):
        return {
            **super().get_config(),
            "grid": self.grid,
            "num_codes": self.num_codes,
            **self.settings,
            "vqvae_sha256": self.vqvae_sha256,
        }

    def fits(self, config):
        """Whether this is a model of that run's code grid, codebooks, labels and positions."""
        sizes = [self.grid, self.num_codes, self.depth, self.settings["num_labels"], self.settings["num_positions"]]
        return sizes == [
            tuple(config["code_grid"]),
            config["num_codes"],
            config.get("code_depth", 1),
            len(config["labels"]),
            config["num_positions"],
        ]


@registered
class TwoLevelPrior(Prior):
    """A prior in two levels: a coarse grid of top codes is drawn first, for shape, then the codes, told all of it.

    As in VQ-VAE-2 (Razavi, van den Oord & Vinyals 2019, arXiv:1906.00446) the level below is told the one above by a
    condition of every place. There the encoder makes both. Here a top code is the nearest of ``top_codes`` patterns of
    grey to a block of ``top_block`` x ``top_block`` codes: it follows from the codes, and the VQ-VAE has one level.

    log p(codes) is that of the top codes and that of the codes, told them. This is a bound, for a draw need not come
    out with the very top codes that it was told: bits are never too low.

    Args:
        grid, num_codes, settings: as of ``GatedPixelCNN``, for both levels; ``patch`` and ``depth`` are of the codes
            alone. A top code is of their first digits.
        top_block: codes along each side of the block of a top code.
        top_codes: how many top codes there are, at most K.
        vqvae_sha256: of the file of the VQ-VAE whose codes these are.
    """

    def __init__(
        self,
        grid,
        num_codes,
        num_labels=0,
        num_positions=0,
        top_block=4,
        top_codes=64,
        num_contexts=0,
        patch=1,
        depth=1,
        vqvae_sha256="",
        **settings,
    ):
        dtype = settings.pop("dtype", None)
        super().__init__(name=settings.pop("name", None), dtype=dtype)
        self.vqvae_sha256 = vqvae_sha256
        self.grid, self.num_codes, self.depth = tuple(grid), num_codes, depth
        self.num_contexts, self.patch = num_contexts, patch
        self.top_block, self.top_codes = top_block, min(top_codes, num_codes)
        self.top_grid = tuple(-(-side // top_block) for side in grid)  # (H, W)
        settings |= dict(num_labels=num_labels, num_positions=num_positions, dtype=self.dtype_policy)
        self.top = GatedPixelCNN(self.top_grid, self.top_codes, num_contexts=num_contexts, name="top", **settings)
        self.bottom = GatedPixelCNN(
            grid, num_codes, num_contexts=num_contexts + 1, patch=patch, depth=depth, name="bottom", **settings
        )
        self.settings = self.bottom.settings
        self.build()

    def build(self, shape=None):
        if self.built:
            return
        fixed = dict(dtype="float32", trainable=False, autocast=False, initializer="zeros")
        self.greys = self.add_weight(name="greys", shape=(self.num_codes,), **fixed)
        self.patterns = self.add_weight(name="patterns", shape=(self.top_block**2, self.top_codes), **fixed)
        self.built = True

    def levels(self):
        """Its PixelCNNs, a tuple: the one that is drawn first, and that of the codes, which is told what it drew."""
        return self.top, self.bottom

    @property
    def uniforms_shape(self):
        """Those of the codes, and as many rows more as the top codes need."""
        (height, width), (rows, columns) = self.bottom.uniforms_shape, self.top_grid
        return height - (-rows * columns // width), width

    @property
    def receptive_field(self):
        """(rows up, columns to each side) seen from a code, at least, by the codes alone."""
        return self.bottom.receptive_field

    # ---- from codes to top codes ----------------------------------------------------------------

    def by_block(self, x):
        """(B, h, w) -> (B, H, W, ``top_block``²), what each block holds; zeros where one reaches beyond the grid."""
        margins = [(0, self.top_block * many - side) for many, side in zip(self.top_grid, self.grid, strict=True)]
        return space_to_depth(ops.pad(x[..., None], ((0, 0), *margins, (0, 0))), self.top_block)

    def blocks(self, codes):
        """The greys of codes (B, h, w) block by block: (B, H, W, ``top_block``²)."""
        return self.by_block(ops.take(self.greys, digits_of(codes, self.num_codes, self.depth)[0], axis=0))

    def top_of(self, codes):
        """Codes (B, h, w) int -> top codes (B, H, W) int32, each the pattern that is nearest to its block."""
        patterns = ops.convert_to_tensor(self.patterns)
        closeness = ops.matmul(self.blocks(codes), patterns) - ops.sum(patterns**2, axis=0) / 2  # (B, H, W, top codes)
        return ops.cast(ops.argmax(closeness, axis=-1), "int32")

    def spread(self, top):
        """(B, H, W) -> (B, h, w): every place has what its block has."""
        whole = ops.repeat(ops.repeat(top, self.top_block, axis=1), self.top_block, axis=2)
        return whole[:, : self.grid[0], : self.grid[1]]

    def top_context(self, context):
        """The other grids (codes, gaps) as the top level is told them: (B, N, H, W) and (B, N)."""
        if context is None or not self.num_contexts:
            return None
        codes, gaps = context
        top = self.top_of(ops.reshape(ops.maximum(codes, 0), (-1, *self.grid)))
        top = ops.reshape(top, (-1, self.num_contexts, *self.top_grid))
        return ops.where(codes[:, :, :1, :1] < 0, -1, top), gaps

    def bottom_context(self, top, context):
        """What the codes are told: the other grids, and the top codes (B, H, W) as one more, (B, N + 1, h, w)."""
        codes, batch = self.spread(top)[:, None], ops.shape(top)[0]
        if context is None:
            nothing = (batch, self.num_contexts)
            context = ops.full((*nothing, *self.grid), -1, "int32"), ops.zeros(nothing, "int32")
        others, gaps = (ops.cast(x, "int32") for x in context)
        return ops.concatenate([others, codes], axis=1), ops.pad(gaps, ((0, 0), (0, 1)))

    # ---- likelihood -----------------------------------------------------------------------------

    def log_likelihood(self, codes, label, position, augmentation=None, context=None, seed=None):
        """Natural log-likelihood of every code (B, h, w) float32, with its share of that of its block's top code."""
        top = told = self.top_of(codes)
        seeds = [None if seed is None else ops.stack([seed[0], seed[1] + i]) for i in TOP_SEEDS]
        of_top = self.top.log_likelihood(top, label, position, augmentation, self.top_context(context), seeds[0])
        if seed is not None:  # what is drawn is not always right, either
            told = with_errors(top, TOP_WRONGLY_TOLD, self.top_codes, seeds[1:])
        context = self.bottom_context(told, context)
        of_codes = self.bottom.log_likelihood(codes, label, position, augmentation, context, seed)
        sizes = ops.sum(self.by_block(ops.ones((1, *self.grid))), axis=-1)  # (1, H, W), at the edge they hold fewer
        return of_codes + self.spread(of_top / sizes)

    # ---- sampling -------------------------------------------------------------------------------

    def draw_levels(self, uniforms, label, position, known=None, mask=None, context=None, *how):
        """Codes (B, h, w) int32 for the arguments of ``sample``; the log-likelihood of each, and of each top code.

        A top code is kept where all codes of its block are.
        """
        uniforms = tf.convert_to_tensor(uniforms, tf.float32)
        (height, _), (rows, columns) = self.bottom.uniforms_shape, self.top_grid
        of_top = tf.reshape(uniforms[:, height:], (tf.shape(uniforms)[0], -1))[:, : rows * columns]
        top_known = top_mask = None
        if mask is not None:
            known = tf.convert_to_tensor(known, tf.int32)
            top_known, top_mask = self.top_of(known), ~self.drawn_cells(~tf.convert_to_tensor(mask, tf.bool))[1]
        if context is not None:
            context = tuple(tf.convert_to_tensor(x, tf.int32) for x in context)
        top, (of_top,) = self.top.draw_levels(
            tf.reshape(of_top, (-1, rows, columns)),
            label,
            position,
            top_known,
            top_mask,
            self.top_context(context),
            *how,
        )
        codes, (of_codes,) = self.bottom.draw_levels(
            uniforms[:, :height], label, position, known, mask, self.bottom_context(top, context), *how
        )
        return codes, (of_codes, of_top)

    def sample(self, uniforms, label, position, *arguments, context=None, scored=None, **options):
        """As ``Prior.sample``; the log-likelihood is that of the codes as they came out, and of their top codes."""
        codes, _ = super().sample(uniforms, label, position, *arguments, context=context, **options)
        batch = codes.shape[0]
        first, end, _ = (scored or slice(None)).indices(batch)
        total = [tf.fill((min(SCORED, batch - start),), float("nan")) for start in range(0, batch, SCORED)]
        for part in range(first // SCORED, -(-end // SCORED)):  # the same sums, whichever others are wanted
            rows = slice(part * SCORED, (part + 1) * SCORED)
            told = context and tuple(x[rows] for x in context)
            total[part] = self._total(codes[rows], label[rows], position[rows], told)
        return codes, tf.concat(total, axis=0)

    @tf.function
    def _total(self, codes, label, position, context):
        """The log-likelihood of grids, (B,)."""
        return tf.reduce_sum(self.log_likelihood(codes, label, position, context=context), axis=(1, 2))

    def drawn_cells(self, cells):
        """What of each level is drawn anew where ``cells`` (B, h, w) are: these, and every block that has one."""
        return cells, tf.reduce_any(self.by_block(tf.cast(cells, tf.int32)) > 0, axis=-1)

    def get_config(self):
        own = {"top_block": self.top_block, "top_codes": self.top_codes, "num_contexts": self.num_contexts}
        return {**self.bottom.get_config(), "name": self.name, **own, "vqvae_sha256": self.vqvae_sha256}

    def fits(self, config):
        """Whether this is a model of that run's code grid, codebooks, labels and positions."""
        return self.bottom.fits(config)


def guide(logits, guidance=None):
    """Logits (2B, K), of which the second half is of the model without its conditions -> those to draw from, (B, K)."""
    if guidance is None:
        return logits
    told, untold = tf.split(logits, 2)
    return untold + guidance * (told - untold)


def truncate(logits, top_k=None, top_p=None):
    """Logits (B, K) with those outside the top k, or outside the top-p nucleus, set to −infinity.

    The nucleus (Holtzman et al. 2020) is the smallest set of likeliest codes whose probabilities reach p.
    """
    if top_k is not None:
        least = tf.math.top_k(logits, min(top_k, logits.shape[-1])).values[:, -1:]
        logits = tf.where(logits < least, -float("inf"), logits)
    if top_p is not None:
        ordered = tf.sort(logits, direction="DESCENDING")
        probabilities = tf.nn.softmax(ordered)
        inside = tf.cumsum(probabilities, axis=-1, exclusive=True) < top_p  # the likeliest always is
        least = tf.reduce_min(tf.where(inside, ordered, float("inf")), axis=-1, keepdims=True)
        logits = tf.where(logits < least, -float("inf"), logits)
    return logits


def draw(logits, uniforms):
    """Codes (B,) int32 from logits (B, K) by inverse CDF of uniforms (B,) in [0, 1)."""
    cumulative = tf.cumsum(tf.nn.softmax(logits), axis=-1)  # (B, K)
    threshold = uniforms[:, None] * cumulative[:, -1:]  # rounding can leave the last sum short of 1
    return tf.reduce_sum(tf.cast(cumulative <= threshold, tf.int32), axis=-1)
