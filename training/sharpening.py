"""Sharpening: gives every frequency of a decoded image the strength that it has in slices.

A decoder draws the mean of what a slice may look like, given its codes, and a mean is smooth. Its edges are where they
should be, so their strength can be given back by a filter; noise of the missing strength looks like noise on a blur.

The same filter, fitted to refined images of drawn codes, is an equaliser: they lack strength in other frequencies than
reconstructions do, and a refiner leaves some too weak.
"""

from dataclasses import dataclass

import numpy as np

from utils import load_json, save_json

RINGS = 24  # of frequencies from 0 to half a cycle a pixel
BLACK = 5  # grey levels: what is no lighter is outside the brain, and stays as it is
LARGEST_GAIN = 4.0  # over it there is nothing worth amplifying
EQUALISER_GAIN = 0.5  # the least of an equaliser, which weakens what a refiner made too strong


@dataclass
class Sharpening:
    """A filter of rings of frequencies.

    Attributes:
        gain: (RINGS,) float, what the amplitudes of each ring are multiplied by.
    """

    gain: np.ndarray

    def sharpen(self, images):
        """Images (N, H, W) uint8 -> the same, sharper."""
        return np.stack([self.sharpen_one(image) for image in images])

    def sharpen_one(self, image):
        """One image (H, W) uint8."""
        sharp = np.fft.irfft2(np.fft.rfft2(image) * self.gains(image.shape), image.shape)
        return np.where(image > BLACK, np.clip(np.rint(sharp), 0, 255), image).astype(np.uint8)

    def sharpen_tensor(self, images):
        """A tensor (N, H, W, 1) in [0, 1] -> float32 that as bytes is what ``sharpen`` makes of its bytes."""
        import tensorflow as tf

        image = tf.cast(tf.round(255 * tf.clip_by_value(images[..., 0], 0, 1)), tf.float64)
        gains = tf.constant(self.gains(image.shape[1:]), tf.complex128)
        sharp = tf.signal.irfft2d(tf.signal.rfft2d(image) * gains, image.shape[1:])
        sharp = tf.where(image > BLACK, tf.clip_by_value(tf.round(sharp), 0, 255), image)
        return tf.cast(sharp[..., None] / 255, tf.float32)

    def gains(self, shape):
        """What every term of ``rfft2`` of an image of that shape is multiplied by."""
        return np.interp(frequencies(shape) * 2 * RINGS - 0.5, np.arange(RINGS), self.gain)

    def save(self, path):
        """Write the gains as JSON."""
        save_json(path, {"gain": self.gain.tolist()})


def load_sharpening(path):
    """The Sharpening in a JSON file, or None where there is no such file."""
    return Sharpening(np.array(load_json(path)["gain"])) if path.is_file() else None


def fit_sharpening(originals, others, smallest_gain=1.0):
    """The Sharpening that gives images the mean power spectrum of slices.

    Args:
        originals, others: (N, H, W) uint8, the slices and as many images.
        smallest_gain: no ring is made weaker than by this.
    """
    wanted, found = (sum(map(ring_powers, images)) for images in (originals, others))
    return Sharpening(np.clip(np.sqrt(wanted / np.maximum(found, 1e-9)), smallest_gain, LARGEST_GAIN))


def frequencies(shape):
    """The frequency of every term of ``rfft2``, in cycles a pixel."""
    return np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))


def ring_powers(image):
    """The mean power of an image (H, W) in RINGS rings of frequencies."""
    rings = np.minimum((frequencies(image.shape) * 2 * RINGS).astype(int), RINGS - 1)
    power = np.abs(np.fft.rfft2(image)) ** 2
    return np.bincount(rings.ravel(), power.ravel(), RINGS) / np.maximum(np.bincount(rings.ravel(), minlength=RINGS), 1)
