"""Small random movements of the slices that are trained on: drawn by number, so that resuming is counting."""

import math

import numpy as np

from utils import purpose_id

# What a parameter of 1 means.
ROTATION = 6.0  # degrees
SCALE = 0.06
SHIFT = 0.04  # of the side of the box
GAIN = 0.10


def draw_augmentations(seed, purpose, first, count, flip=False, augmented=1.0):
    """Parameters of augmentation number first, first + 1, … of a run.

    Philox counts: row i takes two of its blocks of four words, so it is a function of (seed, purpose,
    first + i) alone, and a whole batch is one call.

    Args:
        flip: whether half of the slices are mirrored; it erases laterality.
        augmented: the probability that a slice is augmented at all; a row of another one is 0.

    Returns:
        (count, 6) float32: rotation, scale, shift down, shift right, gain in [-1, 1]; flip, 0 or 1.
    """
    key = np.array([seed, purpose_id(purpose)], np.uint64)
    words = np.random.Philox(key=key, counter=2 * int(first)).random_raw(8 * count).reshape(count, 8)
    uniforms = (words >> np.uint64(11)) * 2.0**-53  # (count, 8) in [0, 1)
    parameters = 2 * uniforms[:, :6] - 1
    parameters[:, 5] = flip & (uniforms[:, 5] < 0.5)
    parameters[uniforms[:, 6] >= augmented] = 0
    return parameters.astype(np.float32)


def in_whole_pixels(parameters, box):
    """Augmentations (B, 6) without what resamples: no rotation, no scale, and shifts by whole pixels of the box."""
    reach = SHIFT * np.array([box.height, box.width], np.float32)  # pixels of a shift of 1
    moved = parameters.copy()
    moved[:, :2] = 0
    moved[:, 2:4] = np.round(parameters[:, 2:4] * reach) / reach
    return moved


def augment(images, parameters, box, whole_pixels=False):
    """Rotate, scale, shift, mirror about the centre of the box, crop to it, and brighten or darken.

    Args:
        images: (B, H, W, 1) uint8 tensor, whole frames.
        parameters: (B, 6) float32, see ``draw_augmentations``; zeros change nothing.
        whole_pixels: whether they are as ``in_whole_pixels`` makes them. No place between pixels is asked for then,
            and the result is the same in half the time.

    Returns:
        (B, box.height, box.width, 1) float32 in [0, 1].
    """
    import tensorflow as tf

    rotation, scale, shift_y, shift_x, gain, flip = tf.unstack(parameters, axis=1)  # (B,) each
    angle, size, mirror = rotation * math.radians(ROTATION), 1 + SCALE * scale, 1 - 2 * flip
    cosine, sine = tf.cos(angle) / size, tf.sin(angle) / size
    half_height, half_width = (box.height - 1) / 2, (box.width - 1) / 2
    y = -half_height - SHIFT * box.height * shift_y  # the first pixel of the crop, seen from the moved centre
    x = -half_width - SHIFT * box.width * shift_x
    # a pixel (x', y') of the crop shows the frame at (a x' + b y' + c, d x' + e y' + f)
    a, b, d, e = cosine * mirror, -sine, sine * mirror, cosine
    c = box.left + half_width + a * x + b * y
    f = box.top + half_height + d * x + e * y
    pixels, fineness = tf.cast(images, tf.float32), 1
    if not whole_pixels:
        pixels, fineness = twice_as_fine(pixels), 2
    crops = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels,
        transforms=fineness * tf.stack([a, b, c, d, e, f, 0 * a, 0 * a], axis=1),
        fill_value=0.0,
        output_shape=[box.height, box.width],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    brightness = (1 + GAIN * gain)[:, None, None, None]
    return tf.clip_by_value(crops / 255 * brightness, 0, 1)


def twice_as_fine(images):
    """Images with pixels between their pixels, by a Lanczos window of three lobes (Duchon 1979).

    Sampling an image bilinearly between its pixels halves its finest detail, and who trains on such images
    learns to blur; sampling this one keeps most of it. Where a sample falls on a pixel it is that pixel, exactly.

    Args:
        images: (B, H, W, 1) float32 tensor.

    Returns:
        (B, 2H, 2W, 1) float32; its pixel (2i, 2j) is the pixel (i, j) of the image.
    """
    import tensorflow as tf

    places = np.arange(-2.5, 3)
    lobes = np.sinc(places) * np.sinc(places / 3)
    taps = np.zeros(11, np.float32)
    taps[::2] = lobes / lobes.sum()  # of the pixels around a place halfway between two
    taps[5] = 1  # of a pixel itself
    _, height, width, _ = images.shape
    batch = tf.shape(images)[0]
    taller = tf.nn.conv2d_transpose(
        images, taps[:, None, None, None], (batch, 2 * height + 9, width, 1), (2, 1), "VALID"
    )[:, 5:-4]  # (B, 2H, W, 1)
    return tf.nn.conv2d_transpose(
        taller, taps[None, :, None, None], (batch, 2 * height, 2 * width + 9, 1), (1, 2), "VALID"
    )[:, :, 5:-4]  # (B, 2H, 2W, 1)
