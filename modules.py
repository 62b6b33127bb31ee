"""The models: a VQ-VAE that turns images into grids of codes, a gated PixelCNN prior over them, and a refiner.

This is their door; each has a file in models/. How they are trained (losses, moving-average codebook, steps) is in
training/.

    images (B, H, W, 1) -> VQVAE.encode -> codes (B, h, w) -> VQVAE.decode -> images
    uniforms, label, position -> Prior.sample -> codes; codes -> Prior.bits_per_code
    images of drawn codes -> Refiner.refine -> images

VQ-VAE: van den Oord, Vinyals & Kavukcuoglu, "Neural Discrete Representation Learning", 2017
(arXiv:1711.00937). Prior: van den Oord et al., "Conditional Image Generation with PixelCNN Decoders",
2016 (arXiv:1606.05328). In shape comments B is the batch, (H, W) the image, (h, w) the code grid,
K the number of codes in a codebook, D their dimension and C a width in channels. A code of the grid has ``depth``
digits in base K, each of a codebook of its own, the coarsest first; with a depth of 1 it is its only digit.
"""

from models.drawing import draw, truncate
from models.gated import CONVOLUTIONS, GatedLayer, choose_dilations, receptive_field
from models.layers import SpaceToDepth, depth_to_space, own_uniforms, space_to_depth, with_errors
from models.pixelcnn import GatedPixelCNN
from models.prior import LOG_2, Prior
from models.refiner import BLACK, Refiner
from models.two_levels import TwoLevelPrior
from models.vqvae import VQVAE, Decoder, Encoder, VectorQuantizer

__all__ = [
    "BLACK",
    "CONVOLUTIONS",
    "LOG_2",
    "Decoder",
    "Encoder",
    "GatedLayer",
    "GatedPixelCNN",
    "Prior",
    "Refiner",
    "SpaceToDepth",
    "TwoLevelPrior",
    "VQVAE",
    "VectorQuantizer",
    "choose_dilations",
    "depth_to_space",
    "draw",
    "own_uniforms",
    "receptive_field",
    "space_to_depth",
    "truncate",
    "with_errors",
]
