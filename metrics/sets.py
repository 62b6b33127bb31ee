"""What sets of slices are measured with, fitted on some people: principal components, z-scores, shares of patches."""

from dataclasses import dataclass, fields

import numpy as np
from sklearn.decomposition import PCA

from metrics.images import half_size
from metrics.measured import PATCH, ImageSet, MeasuredSet, measure_slices
from utils import random_generator

COMPONENTS = 32  # of the principal components that describe a slice; the Fréchet distance takes the first 16
DIRECTIONS, THRESHOLDS = 24, 24  # that patches are projected on, and counted below
PATCH_SLICES = 200  # that thresholds are chosen on


@dataclass
class DescribedSet(ImageSet):
    """A set as a Yardstick sees it; the images at half size.

    Attributes:
        shape: (N, C) principal components of the half-size slice, the mean of its position removed.
        texture, noise: as in MeasuredSet.
        anatomy: (N, 6) z-scores among the people it was fitted on, at that position; NaN where there is no brain.
        patches: (N, PATCH_LEVELS, DIRECTIONS · THRESHOLDS) float32, the share of a slice's patches that fall below each
            threshold in each direction; NaN where none fits into the brain.
    """

    shape: np.ndarray
    texture: np.ndarray
    anatomy: np.ndarray
    patches: np.ndarray
    noise: np.ndarray


class Yardstick:
    """What sets are measured with, fitted once on some people and then left alone.

    Args:
        fitted: ImageSet or MeasuredSet.
        seed: int, of the randomised principal components.
        track: wraps an iterable in a progress bar.
    """

    def __init__(self, fitted, seed=0, track=iter):
        fitted = as_measured(fitted, track)
        self._fit_shape(fitted, seed)
        self._fit_anatomy(fitted)
        self._fit_patches(fitted.patches[:: max(1, len(fitted.patches) // PATCH_SLICES)])

    def _fit_shape(self, fitted, seed):
        """Set the means of positions (P, pixels), the principal components, and their RMS (C,)."""
        small = small_vectors(fitted)
        overall = small.mean(axis=0)
        self.position_means = np.stack(
            [
                small[fitted.position == position].mean(axis=0) if (fitted.position == position).any() else overall
                for position in range(int(fitted.position.max()) + 1)
            ]
        )
        degrees_of_freedom = len(small) - len(np.unique(fitted.position))
        components = max(1, min(COMPONENTS, degrees_of_freedom, small.shape[1]))
        self.pca = PCA(components, svd_solver="randomized", random_state=seed)
        self.pca.fit(small - self.position_means[fitted.position])
        self.shape_rms = np.sqrt((self.shape_of(fitted) ** 2).mean(axis=0)) + 1e-9

    def _fit_anatomy(self, fitted):
        """Set the mean and the deviation of the anatomy at each position, (P, 6)."""
        values = fitted.anatomy
        at_positions = [fitted.position == position for position in range(len(self.position_means))]
        groups = [values[here] if here.sum() > 2 else values for here in at_positions]
        self.anatomy_means, deviations = (
            np.stack([statistic(group, axis=0) for group in groups]) for statistic in (np.nanmean, np.nanstd)
        )
        pooled = np.nanstd(values, axis=0)  # (6,); a floor where all of a position have none, such as ventricles
        self.anatomy_sds = np.maximum(deviations, np.where(pooled > 0, 0.1 * pooled, 1))

    def _fit_patches(self, patches):
        """Set the RMS of each level's patches, random directions (PATCH², DIRECTIONS), and THRESHOLDS along them."""
        count = np.isfinite(patches).sum(axis=(0, 2, 3))[:, None, None]
        self.patch_rms = np.sqrt(np.nansum(patches**2, axis=(0, 2, 3))[:, None, None] / np.maximum(count, 1)) + 1e-9
        directions = random_generator(0, "patch directions").standard_normal((PATCH**2, DIRECTIONS))
        self.directions = (directions / np.linalg.norm(directions, axis=0)).astype(np.float32)
        projected = (patches / self.patch_rms) @ self.directions  # (N, PATCH_LEVELS, PATCHES, DIRECTIONS)
        found = projected[np.isfinite(projected)]
        ranks = (np.arange(THRESHOLDS) + 0.5) / THRESHOLDS
        self.thresholds = np.quantile(found if len(found) else np.zeros(1), ranks).astype(np.float32)

    def patch_shares(self, patches):
        """Patches (N, PATCH_LEVELS, PATCHES, PATCH²) → shares (N, PATCH_LEVELS, DIRECTIONS · THRESHOLDS) below each."""
        shares = np.empty((*patches.shape[:2], DIRECTIONS, THRESHOLDS), np.float32)
        for row, slice_patches in enumerate(patches):
            projected = (slice_patches / self.patch_rms) @ self.directions  # (PATCH_LEVELS, PATCHES, DIRECTIONS)
            shares[row] = (projected[..., None] < self.thresholds).mean(axis=1, dtype=np.float32)
            shares[row, np.isnan(projected).any(axis=(1, 2))] = np.nan
        return shares.reshape(*patches.shape[:2], -1)

    def shape_of(self, images):
        """The principal components of an ImageSet, (N, C) float."""
        small = small_vectors(images)
        return self.pca.transform(small - self.position_means[images.position.clip(0, len(self.position_means) - 1)])

    def describe(self, images, track=iter):
        """An ImageSet or a MeasuredSet as a DescribedSet."""
        measured = as_measured(images, track)
        place = measured.position.clip(0, len(self.position_means) - 1)
        plain = {field.name: getattr(measured, field.name) for field in fields(ImageSet)}
        return DescribedSet(
            **plain,
            shape=self.shape_of(measured),
            texture=measured.texture,
            anatomy=(measured.anatomy - self.anatomy_means[place]) / self.anatomy_sds[place],
            patches=self.patch_shares(measured.patches),
            noise=measured.noise,
        )


def as_measured(images, track=iter):
    """An ImageSet as a MeasuredSet, unless it is one."""
    return images if isinstance(images, MeasuredSet) else measure_slices(images, track)


def small_vectors(images):
    """An ImageSet or a MeasuredSet as (N, H W / 4) float32 in [0, 1], at half size."""
    if isinstance(images, MeasuredSet):
        small = images.images / np.float32(255)
    else:
        blocks = (images.images[start : start + 256] for start in range(0, max(len(images.images), 1), 256))
        small = np.concatenate([half_size(block / np.float32(255)) for block in blocks])
    return small.reshape(len(small), -1)
