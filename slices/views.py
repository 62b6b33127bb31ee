"""Coronal and sagittal views through a stack of axial slices, in square pixels, nothing smoothed."""

import numpy as np

from slices.frame import brain_mask

CORONAL = (0.3, 0.45, 0.6)  # of the brain's length from the front: where it is cut
SAGITTAL = (0.35, 0.45, 0.7)  # of its width from the left
GAP = 4  # pixels between views


def coronal_views(stack, pixel_size=1.0, spacing=1.0, scale=3):
    """Views from the front at CORONAL, side by side, the left at the left and the highest slice at the top.

    Every slice stays a band of its own, repeated to its thickness: where slices disagree, edges are jagged.

    Args:
        stack: (S, H, W) uint8, the lowest first.
        pixel_size, spacing: mm, of a pixel and from one slice to the next.
        scale: how many pixels stand for the smaller of the two.

    Returns:
        (height, width) uint8.
    """
    rows, columns = brain_range(stack)
    planes = [stack[::-1, row, columns] for row in places(rows, CORONAL)]  # (S, width) each
    return beside([square(plane, pixel_size, spacing, scale) for plane in planes])


def sagittal_views(stack, pixel_size=1.0, spacing=1.0, scale=3):
    """Views from the person's side at SAGITTAL, side by side, the front at the right; else as ``coronal_views``."""
    rows, columns = brain_range(stack)
    planes = [stack[::-1, rows, column][:, ::-1] for column in places(columns, SAGITTAL)]  # (S, length) each
    return beside([square(plane, pixel_size, spacing, scale) for plane in planes])


def brain_range(stack):
    """The rows and the columns that the brain takes in a stack (S, H, W), two slices; all of them without a brain."""
    mask = np.any([brain_mask(image) for image in stack], axis=0)  # (H, W)
    if not mask.any():
        return slice(0, stack.shape[1]), slice(0, stack.shape[2])
    found = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return tuple(slice(int(line[0]), int(line[-1]) + 1) for line in found)


def places(lines, shares):
    """The rows or columns at some shares of a slice of them: a list of int."""
    return [lines.start + int(share * (lines.stop - lines.start)) for share in shares]


def square(plane, pixel_size, spacing, scale):
    """A plane (S, width) of slices with square pixels, the nearest one taken: (height, width') uint8."""
    unit = min(pixel_size, spacing) / scale
    rows, columns = (
        np.minimum((np.arange(round(count * side / unit)) + 0.5) * unit / side, count - 1).astype(int)
        for count, side in zip(plane.shape, (spacing, pixel_size), strict=True)
    )
    return plane[rows][:, columns]


def beside(pictures):
    """Pictures (height, width) uint8 of one height side by side, GAP pixels of grey between them."""
    gap = np.full((len(pictures[0]), GAP), 64, np.uint8)
    return np.hstack([part for picture in pictures for part in (gap, picture)][1:])


def stacked(pictures):
    """Pictures of any width below each other, each centred on black, GAP pixels of black between them."""
    width = max(picture.shape[1] for picture in pictures)

    def centred(picture):
        left = (width - picture.shape[1]) // 2
        return np.pad(picture, ((0, GAP), (left, width - picture.shape[1] - left)))

    return np.vstack([centred(picture) for picture in pictures])[:-GAP]
