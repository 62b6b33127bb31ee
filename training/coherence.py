"""Coherence: what slices of one head have in common, frequency by frequency, and how drawn stacks are given it.

A prior draws each code of a slice anew, and a refiner each slice's detail. So neighbouring slices of a drawn person
agree in their shapes, but less than people's in what is fine: a stack seen from the side is rough.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import toeplitz

from slices.frame import brain_mask
from training.sharpening import BLACK, frequencies
from utils import load_json, save_json

RINGS = 16  # of frequencies from 0 to half a cycle a pixel
ALONE = 1e-4  # share of a slice that is taken to be its own, so that nothing is divided by nothing


@dataclass
class Coherence:
    """The correlation of slices that lie 0, 1, … S − 1 positions apart, in each ring of frequencies.

    Attributes:
        drawn: (RINGS, S) float, of drawn people; the first column is 1.
        wanted: the same of real people, and as much beyond as drawn people who aim at that fall short of it.
    """

    drawn: np.ndarray
    wanted: np.ndarray

    def join(self, stack):
        """The slices of a drawn person, the lowest first: (S, H, W) uint8 -> the same, as coherent as people's.

        Each slice keeps its strength in every ring, and what is black but for its outline, which is made even.
        """
        spectrum, rings = np.fft.rfft2(stack.astype(np.float32)), rings_of(stack.shape[1:])
        for ring, transport in enumerate(self.transports):
            here = spectrum[:, rings == ring]  # (S, terms of the ring)
            spectrum[:, rings == ring] = strengths(here) * (transport @ (here / strengths(here)))
        joined = np.clip(np.rint(np.fft.irfft2(spectrum, stack.shape[1:])), 0, 255)
        masks = np.stack([brain_mask(image) for image in stack])  # (S, H, W)
        even = even_outlines(masks)
        joined = np.where((stack > BLACK) | (even & ~masks), joined, stack)
        return np.where(masks & ~even, 0, joined).astype(np.uint8)

    @cached_property
    def transports(self):
        """(RINGS, S, S): the least change that gives slices of one correlation the other."""
        return np.stack([transport(*pair) for pair in zip(self.drawn, self.wanted, strict=True)])

    def save(self, path):
        """Write the correlations as JSON."""
        save_json(path, {name: np.round(getattr(self, name), 6).tolist() for name in ("drawn", "wanted")})


def even_outlines(masks):
    """Masks (S, H, W) bool -> the same, of what two of a slice and those below and above it hold; the ends stay."""
    below, here, above = masks[:-2], masks[1:-1], masks[2:]
    last = masks[1:][-1:]  # none where it is the first as well
    return np.concatenate([masks[:1], below & here | here & above | below & above, last])


def load_coherence(path):
    """The Coherence in a JSON file, or None where there is no such file."""
    return Coherence(**{name: np.array(rows) for name, rows in load_json(path).items()}) if path.is_file() else None


def fit_coherence(drawn, real):
    """The Coherence that gives drawn people the correlation of real ones.

    Args:
        drawn, real: (P, S, H, W) and (Q, S, H, W) uint8, stacks of slices, the lowest first.
    """
    found, wanted = mean_correlations(drawn), mean_correlations(real)
    joined = mean_correlations([Coherence(found, wanted).join(stack) for stack in drawn])  # less: black stays black
    return Coherence(found, np.clip(2 * wanted - joined, -1, 1))


def mean_correlations(stacks):
    """(RINGS, S): the mean over people of what ``correlations`` gives."""
    return np.mean([correlations(stack) for stack in stacks], axis=0)


def correlations(stack):
    """(RINGS, S): that of the slices of a stack (S, H, W) uint8 which lie 0, 1, … apart.

    What is correlated is what the ring holds of the image, in the pixels of both brains; 0 where there are none.
    """
    spectrum, rings = np.fft.rfft2(stack.astype(np.float32)), rings_of(stack.shape[1:])
    masks = np.stack([brain_mask(image) for image in stack]).reshape(len(stack), -1).astype(np.float32)  # (S, H · W)
    found = np.zeros((RINGS, len(stack)))
    for ring in range(RINGS):
        band = np.fft.irfft2(np.where(rings == ring, spectrum, 0), stack.shape[1:]).reshape(masks.shape) * masks
        products, power = band @ band.T, band**2 @ masks.T  # (S, S): in the pixels of both, of the first's terms
        for apart in range(len(stack)):
            both = np.sqrt(np.trace(power, apart) * np.trace(power.T, apart))
            found[ring, apart] = np.trace(products, apart) / both if both else 0.0
    return found


def rings_of(shape):
    """The ring of every term of ``rfft2``, int from 0."""
    return np.minimum((frequencies(shape) * 2 * RINGS).astype(int), RINGS - 1)


def strengths(terms):
    """(S, 1): the root mean square of each slice's terms (S, n) complex, 1 where all are 0."""
    power = np.mean(np.abs(terms) ** 2, axis=1, keepdims=True)
    return np.sqrt(np.where(power > 0, power, 1))


def transport(drawn, wanted):
    """The linear map (S, S) that changes normal vectors of one covariance least, so that they have the other.

    Olkin & Pukelsheim, "The distance between two random vectors with given dispersion matrices", 1982.

    Args:
        drawn, wanted: (S,) correlations of what lies 0, 1, … apart.
    """
    root, inverse = roots(covariance(drawn))
    return inverse @ roots(root @ covariance(wanted) @ root)[0] @ inverse


def covariance(correlation):
    """The covariance (S, S) nearest to these correlations (S,), a small part of which is each slice's own."""
    values, vectors = np.linalg.eigh(toeplitz(correlation))
    nearest = (vectors * np.maximum(values, 0)) @ vectors.T
    return (nearest + ALONE * np.eye(len(nearest))) / (1 + ALONE)


def roots(matrix):
    """The square root of a symmetric positive definite matrix, and the inverse of it."""
    values, vectors = np.linalg.eigh(matrix)
    root = np.sqrt(np.maximum(values, 1e-12))
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T
