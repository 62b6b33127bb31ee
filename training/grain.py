"""Grain: the fine detail that codes do not hold, as noise of the same strength and spectrum.

The mean of what a slice may look like is smooth, and no slice is. As film grain is sent beside a film (Norkin &
Birkbeck, "Film Grain Synthesis for AV1 Video Codec", 2018), a few numbers say how strong the missing detail is, by
intensity and by edge, and which frequencies it has; noise is drawn from them when an image is decoded.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from utils import load_json, save_json

INTENSITIES = np.array([0.05, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85])  # of full white, where strengths are given
EDGES = np.array([0.01, 0.03, 0.06, 0.12])  # mean gradient a pixel around a place, of full white
SMOOTHING = 1.5  # pixels: detail is what this takes away
RINGS = 24  # of frequencies from 0 to half a cycle a pixel
DARK = 0.02  # of full white: nothing is drawn where an image is black
LARGEST_SPREAD = 0.5


@dataclass
class Grain:
    """What is known of the missing detail.

    Attributes:
        strength: (INTENSITIES, EDGES) float, root mean square of the detail that is missing, of full white.
        spectrum: (RINGS,) float, its mean power by frequency, up to a factor.
        spread: float, the standard deviation between slices of the logarithm of their strength.
    """

    strength: np.ndarray
    spectrum: np.ndarray
    spread: float

    def add(self, images, randoms):
        """Images (N, H, W) uint8 with grain, each from a generator of its own."""
        return np.stack([self.add_to_one(*pair) for pair in zip(images, randoms, strict=True)])

    def add_to_one(self, image, random):
        """One image (H, W) uint8 with grain from a numpy Generator."""
        image = image / 255
        scale = np.exp(self.spread * random.standard_normal() - self.spread**2)  # of mean square 1
        noise = scale * self.strength_at(image) * self.noise(image.shape, random)
        return np.clip(np.rint(255 * (image + noise)), 0, 255).astype(np.uint8)

    def noise(self, shape, random):
        """Noise (H, W) of the grain's spectrum, whose detail has a root mean square of 1."""
        white = np.fft.rfft2(random.standard_normal(shape))
        coloured = np.fft.irfft2(white * np.sqrt(at_rings(self.spectrum, shape)), shape)
        return coloured / detail(coloured).std()

    def strength_at(self, image):
        """The strength at every place of an image (H, W) float in [0, 1], by bilinear interpolation of the table."""
        places = [np.interp(x, knots, np.arange(len(knots))) for x, knots in zip(features(image), KNOTS, strict=True)]
        return ndimage.map_coordinates(self.strength, places, order=1) * (image > DARK)

    def save(self, path):
        """Write the numbers as JSON."""
        save_json(path, {"strength": self.strength.tolist(), "spectrum": self.spectrum.tolist(), "spread": self.spread})


KNOTS = (INTENSITIES, EDGES)


def load_grain(path):
    """The Grain in a JSON file, or None where there is no such file."""
    if not path.is_file():
        return None
    numbers = load_json(path)
    return Grain(np.array(numbers["strength"]), np.array(numbers["spectrum"]), numbers["spread"])


def fit_grain(originals, reconstructions):
    """The Grain that slices have and their reconstructions lack.

    What is missing is the difference of the powers, not the power of the difference: a decoder may draw detail of its
    own that lies elsewhere than the slice's.

    Args:
        originals, reconstructions: (N, H, W) uint8.
    """
    powers, counts = np.zeros((len(INTENSITIES), len(EDGES))), np.zeros((len(INTENSITIES), len(EDGES)))
    spectrum, strengths = np.zeros(RINGS), []
    for original, reconstruction in zip(originals / 255, reconstructions / 255, strict=True):
        bins = tuple(
            np.abs(x[..., None] - knots).argmin(axis=-1)
            for x, knots in zip(features(reconstruction), KNOTS, strict=True)
        )
        inside = reconstruction > DARK
        missing = detail(original) ** 2 - detail(reconstruction) ** 2  # (H, W)
        np.add.at(powers, bins, missing * inside)
        np.add.at(counts, bins, inside)
        spectrum += ring_powers(original) - ring_powers(reconstruction)
        strengths.append((detail(original) ** 2)[inside].mean())
    strength = np.sqrt(np.maximum(powers, 0) / np.maximum(counts, 1))
    spread = min(float(np.std(np.log(strengths)) / 2), LARGEST_SPREAD)
    return Grain(strength, np.maximum(spectrum, 0) / len(originals), spread)


def features(image):
    """What the strength depends on, of an image (H, W) float: intensity and edge around every place, (H, W) each."""
    smooth = ndimage.gaussian_filter(image, 1.0)
    return smooth, ndimage.gaussian_filter(np.hypot(*np.gradient(smooth)), 1.0)


def detail(image):
    """An image (H, W) without what is smooth in it."""
    return image - ndimage.gaussian_filter(image, SMOOTHING)


def frequencies(shape):
    """The frequency of every term of ``rfft2``, in cycles a pixel."""
    return np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))


def ring_powers(image):
    """The mean power of an image (H, W) in RINGS rings of frequencies."""
    rings = np.minimum((frequencies(image.shape) * 2 * RINGS).astype(int), RINGS - 1)
    power = np.abs(np.fft.rfft2(image)) ** 2
    return np.bincount(rings.ravel(), power.ravel(), RINGS) / np.maximum(np.bincount(rings.ravel(), minlength=RINGS), 1)


def at_rings(spectrum, shape):
    """A spectrum (RINGS,) at every term of ``rfft2`` of an image of that shape."""
    return np.interp(frequencies(shape) * 2 * RINGS - 0.5, np.arange(RINGS), spectrum)
