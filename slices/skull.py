"""Finding the brain in a volume: what is bright, and taking the skull off."""

from importlib.util import find_spec

import numpy as np
from scipy import ndimage

from utils import UserError

FAINT = 0.02  # of the brightness of the brightest: less is background
OPENING = 8  # mm; bridges narrower than twice that are cut between brain and scalp


def background_of(voxels):
    """What surrounds a head, which is what the corners of (X, Y, Z) voxels show."""
    return np.median(voxels[:: voxels.shape[0] - 1, :: voxels.shape[1] - 1, :: voxels.shape[2] - 1])


def bright_body(voxels):
    """The largest connected body that differs from the background, which is what the corners show.

    Args:
        voxels: (X, Y, Z) float32.

    Returns:
        (X, Y, Z) bool.
    """
    contrast = np.abs(voxels - background_of(voxels))
    return largest(contrast > FAINT * np.percentile(contrast, 99.5))


def largest(mask):
    """The largest connected body of a mask, its holes filled."""
    bodies, _ = ndimage.label(mask)
    sizes = np.bincount(bodies.ravel())
    sizes[0] = 0
    return ndimage.binary_fill_holes(bodies == sizes.argmax()) if sizes.any() else mask


def extract_brain(head):
    """The brain in a head with its skull on, by dipy and an opening.

    Skull and the fluid around the brain are dark in T1: Otsu's threshold leaves brain and scalp, joined by threads that
    the opening cuts. Some mm of cortex may go and some muscle stay; the contact sheet shows it.

    Args:
        head: (X, Y, Z) float32, 1 mm voxels.

    Returns:
        (X, Y, Z) bool.

    Raises:
        UserError: dipy is not installed.
    """
    if find_spec("dipy") is None:
        raise UserError("it has its skull on; taking it off needs dipy: pip install dipy==1.12.1")
    from dipy.segment.mask import median_otsu

    coarse = ndimage.zoom(head, 0.5, order=1, grid_mode=True, mode="nearest")  # (X / 2, Y / 2, Z / 2), 2 mm
    tissue = np.pad(median_otsu(coarse, median_radius=1, numpass=1)[1], OPENING)
    core = largest(2 * ndimage.distance_transform_edt(tissue) > OPENING)
    brain = tissue & (2 * ndimage.distance_transform_edt(~core) <= OPENING)
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(brain, iterations=3))  # sulci and ventricles, too
    brain = brain[OPENING:-OPENING, OPENING:-OPENING, OPENING:-OPENING]
    return (
        ndimage.zoom(
            brain.astype(np.float32), np.array(head.shape) / brain.shape, order=1, grid_mode=True, mode="nearest"
        )
        > 0.5
    )
