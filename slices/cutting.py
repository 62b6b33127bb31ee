"""One volume in, its slices out: turned to the patient's axes at 1 mm, windowed, cut; nothing is registered."""

import nibabel
import numpy as np
from nibabel.processing import resample_to_output
from scipy import ndimage

from slices.headers import check_volume
from slices.skull import background_of, bright_body, extract_brain
from utils import UserError

PERCENTILES = (0.5, 99.5)  # of the brain's voxels become black and white
LARGEST_BRAIN = 2500  # ml; a brighter body than that has its skull on: a head has 3000 and more
SMALLEST_BRAIN = 200  # ml
SIDES_OF_VIEW = (256, 256, 240)  # mm of the head, along x, y, z, that the pictures show


def cut(image, slices=20, spacing=1.0, depth=57.5, image_size=(240, 256)):
    """Axial slices of a head: rows from anterior to posterior, columns from the patient's left to right.

    Args:
        image: nibabel NIfTI image of one head, in any orientation, oblique or not, with voxels of any size.
        slices: int, how many (N).
        spacing: mm between them, at least 1; each is the nearest plane of 1 mm.
        depth: mm from the top of the brain down to the middle of the slices.
        image_size: (height, width) in pixels of 1 mm; the brain is centred in it.

    Returns:
        images: (N, H, W) uint8, 0 outside the brain, the lowest slice first.
        heights: (N,) int, mm of each above the lowest plane of the volume.
        views: (3, 240, 256) uint8: the middle slice; a coronal and a sagittal view of what was read, with the outline
            of the brain and the range of the slices.
        facts: dict, for the manifest; with a reason where something was odd and has been seen to.

    Raises:
        UserError: it holds no brain, or the slices do not fit into it or it into them.
    """
    image, not_finite, remarks = check_volume(image)
    head = _at_one_millimetre(image, order=3)  # (X, Y, Z) float32: x to the right, y to anterior, z up
    brain, stripped = _brain_of(image, head)
    grey, black, white = _windowed(head, brain)
    if white < background_of(image.get_fdata(dtype=np.float32)):
        remarks.append("its brain is darker than what surrounds it, which may mean that black and white are exchanged")
    heights = _heights(brain, slices, spacing, depth)
    inside = brain[:, :, heights]
    images = _framed(np.where(inside, grey[:, :, heights], 0), inside, image_size)
    facts = {
        "orientation": "".join(nibabel.aff2axcodes(image.affine)),
        "voxel_mm": "x".join(f"{side:.3g}" for side in nibabel.affines.voxel_sizes(image.affine)),
        "not_finite": not_finite,
        "brain": "already stripped" if stripped else "extracted",
        "brain_ml": int(brain.sum() // 1000),
        "black": f"{black:.6g}",
        "white": f"{white:.6g}",
        "first_slice": int(heights[0]),
        "last_slice": int(heights[-1]),
    }
    if remarks:
        facts["reason"] = "; ".join(remarks)
    return images, heights, _views(grey, brain, heights), facts


def _at_one_millimetre(image, order):
    """The voxels of an image on the axes R, A, S of the patient, 1 mm apart: (X, Y, Z) float32."""
    return resample_to_output(image, 1.0, order=order).get_fdata(dtype=np.float32)


# ---- the brain, its greys, its planes ---------------------------------------------------------


def _brain_of(image, head):
    """Where the brain is in ``head``, the image at 1 mm: (X, Y, Z) bool; and whether its skull was off already.

    Raises:
        UserError: there is none.
    """
    body = bright_body(image.get_fdata(dtype=np.float32))
    litres = body.sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1e6
    stripped = litres * 1000 <= LARGEST_BRAIN
    if stripped:
        body = nibabel.Nifti1Image(body.astype(np.float32), image.affine)
        brain = _at_one_millimetre(body, order=1) > 0.5
    else:
        brain = extract_brain(head)
    if brain.sum() < SMALLEST_BRAIN * 1000:
        raise UserError(f"no brain is found in it: what is bright measures {brain.sum() / 1000:.0f} ml")
    return brain, stripped


def _windowed(head, brain):
    """The head as uint8, and the intensities that became black and white: PERCENTILES of the brain's."""
    low, high = np.percentile(head[brain], PERCENTILES)
    return np.rint(255 * np.clip((head - low) / max(high - low, 1e-12), 0, 1)).astype(np.uint8), low, high


def _heights(brain, slices, spacing, depth):
    """The planes to cut, (N,) int, the lowest first.

    Raises:
        UserError: they reach beyond the brain.
    """
    planes = np.flatnonzero(brain.any((0, 1)))
    heights = np.floor(planes[-1] - depth + spacing * (np.arange(slices) - (slices - 1) / 2) + 0.5).astype(int)
    if heights[0] < planes[0] or heights[-1] > planes[-1]:
        raise UserError(
            f"its brain is {planes[-1] - planes[0] + 1} mm high and the slices reach from "
            f"{planes[-1] - heights[-1]} to {planes[-1] - heights[0]} mm below the top: choose another "
            "--depth or fewer --slices"
        )
    return heights


def _framed(planes, inside, size):
    """Planes (X, Y, N) as images (N, height, width), anterior at the top, left at the left, the brain centred."""
    (box,) = ndimage.find_objects(inside.any(2).astype(int))
    width, height = (side.stop - side.start for side in box)
    if height > size[0] or width > size[1]:
        raise UserError(
            f"its brain measures {height}x{width} mm and does not fit into --image-size {size[0]} "
            f"{size[1]}, of 1 mm pixels (train.py --image-size makes them smaller)"
        )
    images = np.zeros((planes.shape[2], *size), np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    images[:, top : top + height, left : left + width] = planes[box].transpose(2, 1, 0)[:, ::-1]
    return images


def _views(grey, brain, heights):
    """The middle slice, and a coronal and a sagittal plane with the outline of the brain and the range of the slices.

    The left is at the left of the first two, the front at the right of the third: (3, 240, 256) uint8.
    """
    outlined = np.where(brain & ~ndimage.binary_erosion(brain), 255, grey)
    centre = [int(place) for place in ndimage.center_of_mass(brain)]
    x, y, z = (
        slice(place + side // 2, place + side // 2 + side)  # of planes with a margin of ``side``
        for place, side in zip(centre, SIDES_OF_VIEW, strict=True)
    )
    middle = heights[len(heights) // 2]
    axial = np.pad(np.where(brain[:, :, middle], grey[:, :, middle], 0), SIDES_OF_VIEW[0])[x, y]  # (256, 256)
    views = [axial.T[::-1][8:-8]]
    for plane, across in ((outlined[:, centre[1]], x), (outlined[centre[0]], y)):  # (X, Z) and (Y, Z)
        plane[::3, [heights[0], heights[-1]]] = 255
        views.append(np.pad(plane, [(SIDES_OF_VIEW[0],) * 2, (SIDES_OF_VIEW[2],) * 2])[across, z].T[::-1])
    return np.stack(views)
