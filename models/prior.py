"""What all priors over code grids have in common."""

import keras
import tensorflow as tf
from keras import ops

from models.drawing import draw

LOG_2 = 0.6931471805599453


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
