"""A prior in two levels: a coarse grid first, for shape, then the codes."""

import tensorflow as tf
from keras import ops

from models.layers import registered, space_to_depth, with_errors
from models.pixelcnn import GatedPixelCNN
from models.prior import Prior
from utils import digits_of

SCORED = 8  # drawn grids whose likelihood is computed together
TOP_WRONGLY_TOLD = 0.02  # share of the top codes that are random in training
TOP_SEEDS = (256, 512 + 256, 512 + 257)  # beside the seed of a step: of the top level, and of what is wrongly told


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
