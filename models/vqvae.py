"""The VQ-VAE: encoder, vector quantizer, decoder (van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937)."""

from functools import partial

import keras
from keras import layers, ops

from models.layers import DepthToSpace, ResidualBlock, SpaceToDepth, registered
from utils import digits_of, from_digits

STEM = 4  # the encoder starts, and the decoder ends, by trading 4x4 pixels for channels


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
