"""The gated PixelCNN (van den Oord et al. 2016, arXiv:1606.05328): its likelihood, and its cached sampling."""

from functools import partial

import keras
import tensorflow as tf
import tensorflow_probability as tfp
from keras import ops

from models.drawing import draw, guide, truncate
from models.gated import GatedLayer, choose_dilations, dense, receptive_field
from models.layers import ResidualBlock, depth_to_space, registered, space_to_depth
from models.prior import Prior
from utils import digits_of, from_digits


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
