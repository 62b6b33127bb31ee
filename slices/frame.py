"""Where the brain is in its frame: masks, the box that is cut out, grey levels."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

BRAIN_THRESHOLD = 0.05  # of full white: above the noise that JPEG leaves in the black


# ---- the brain --------------------------------------------------------------------------------


def brain_mask(image):
    """Where the brain is in a slice on black: the pixels that count in brain-only measures.

    The rule: pixels brighter than BRAIN_THRESHOLD; opened by a 3 × 3 cross, which drops specks and
    threads; of these the largest component (4-connected); its holes filled, so dark ventricles count.
    What is not stripped from the image (skull, scalp) belongs to the mask.

    Args:
        image: (H, W) or (H, W, 1), float in [0, 1] or uint8.

    Returns:
        (H, W) bool; all False for a black image.
    """
    image = image[..., 0] if image.ndim == 3 else image
    threshold = BRAIN_THRESHOLD * 255 if image.dtype == np.uint8 else BRAIN_THRESHOLD
    components, count = ndimage.label(opened(image > threshold))
    if count == 0:
        return np.zeros(image.shape, bool)
    sizes = np.bincount(components.ravel())[1:]  # component 0 is the background
    return filled(components == 1 + sizes.argmax())


def eroded(mask, times=1):
    """(H, W) bool, eroded by a 3 × 3 cross: ``ndimage.binary_erosion``, many times as fast."""
    for _ in range(times):
        inner = np.zeros_like(mask)
        inner[1:-1, 1:-1] = (
            mask[1:-1, 1:-1] & mask[2:, 1:-1] & mask[:-2, 1:-1] & mask[1:-1, 2:] & mask[1:-1, :-2]
        )  # beyond the edges is nothing
        mask = inner
    return mask


def dilated(mask):
    """(H, W) bool, dilated by a 3 × 3 cross: ``ndimage.binary_dilation``."""
    outer = mask.copy()
    outer[1:] |= mask[:-1]
    outer[:-1] |= mask[1:]
    outer[:, 1:] |= mask[:, :-1]
    outer[:, :-1] |= mask[:, 1:]
    return outer


def opened(mask):
    """(H, W) bool, opened by a 3 × 3 cross: ``ndimage.binary_opening``."""
    return dilated(eroded(mask))


def filled(mask):
    """(H, W) bool with its holes filled: ``ndimage.binary_fill_holes``, which takes a step for every pixel inwards."""
    background, _ = ndimage.label(np.pad(~mask, 1, constant_values=True))  # joined around the edges
    return (background != background[0, 0])[1:-1, 1:-1]


def brain_box(image):
    """(top, left, height, width) in pixels of the brain in an image as in ``brain_mask``; zeros where there is none."""
    mask = brain_mask(image)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


# ---- the crop box -----------------------------------------------------------------------------


class Box(NamedTuple):
    """A box of pixels; it may stick out of the frame, and holds zeros there."""

    top: int
    left: int
    height: int
    width: int


def brain_crop(brain_boxes, frame, multiple, margin=4):
    """The Box around all brains plus a margin, its sides rounded up to multiples of ``multiple``.

    Args:
        brain_boxes: (N, 4) int: top, left, height, width; rows of height 0 do not count.
        frame: (height, width) of the images.
        margin: pixels on each side, as far as the frame goes.

    Returns:
        Box inside the frame wherever its rounded sides fit; the whole frame where there is no brain.
    """
    boxes = brain_boxes[brain_boxes[:, 2] > 0]
    if not len(boxes):
        return whole_frame(frame, multiple)
    low = boxes[:, :2].min(axis=0) - margin
    high = (boxes[:, :2] + boxes[:, 2:]).max(axis=0) + margin
    top, height = _rounded_up(max(int(low[0]), 0), min(int(high[0]), frame[0]), frame[0], multiple)
    left, width = _rounded_up(max(int(low[1]), 0), min(int(high[1]), frame[1]), frame[1], multiple)
    return Box(top, left, height, width)


def whole_frame(frame, multiple):
    """The Box around the whole frame, its sides rounded up to multiples of ``multiple``."""
    top, height = _rounded_up(0, frame[0], frame[0], multiple)
    left, width = _rounded_up(0, frame[1], frame[1], multiple)
    return Box(top, left, height, width)


def _rounded_up(low, high, side, multiple):
    """Start and length of the interval [low, high) made a multiple, inside [0, side) where it fits."""
    length = -(-(high - low) // multiple) * multiple
    if length > side:
        return -((length - int(side)) // 2), length
    return min(max(low - (length - (high - low)) // 2, 0), int(side) - length), length


def crop(images, box):
    """(…, H, W, 1) → (…, box.height, box.width, 1): what the box shows, with zeros outside the frame."""
    crops = np.zeros((*images.shape[:-3], box.height, box.width, images.shape[-1]), images.dtype)
    in_frame, in_box = _overlap(box, images.shape[-3:-1])
    crops[in_box] = images[in_frame]
    return crops


def paste(crops, box, frame):
    """(…, box.height, box.width, 1) → zeros (…, H, W, 1) with the crops in their place; undoes ``crop``."""
    images = np.zeros((*crops.shape[:-3], *frame, crops.shape[-1]), crops.dtype)
    in_frame, in_box = _overlap(box, frame)
    images[in_frame] = crops[in_box]
    return images


def _overlap(box, frame):
    """Where box and frame overlap: the index into images and the index into crops."""
    top, left = max(box.top, 0), max(box.left, 0)
    bottom, right = min(box.top + box.height, frame[0]), min(box.left + box.width, frame[1])
    return (
        (..., slice(top, max(bottom, top)), slice(left, max(right, left)), slice(None)),
        (
            ...,
            slice(top - box.top, max(bottom, top) - box.top),
            slice(left - box.left, max(right, left) - box.left),
            slice(None),
        ),
    )


def outside(brain_boxes, box):
    """(N,) bool: whether the brain of each (top, left, height, width) sticks out of the box."""
    top, left, height, width = brain_boxes.T
    return (height > 0) & (
        (top < box.top)
        | (top + height > box.top + box.height)
        | (left < box.left)
        | (left + width > box.left + box.width)
    )


# ---- grey levels ------------------------------------------------------------------------------


def as_grey(image):
    """(H, W) or (H, W, 1), uint8 or float in [0, 1] → (H, W) float64 in [0, 1]."""
    image = np.asarray(image)
    image = image[..., 0] if image.ndim == 3 else image
    return image / 255.0 if image.dtype == np.uint8 else image.astype(np.float64)


def to_bytes(images):
    """Float in [0, 1] → uint8, rounded; uint8 stays; (…, 1) → (…)."""
    images = images[..., 0] if images.shape[-1] == 1 else images
    return images if images.dtype == np.uint8 else np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
