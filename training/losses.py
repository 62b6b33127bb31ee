"""What the VQ-VAE is trained by: the terms of equation 3 of van den Oord et al. 2017, and the reconstruction errors."""

from keras import ops

from modules import space_to_depth

COARSE_STRENGTH_WEIGHTS = (0.5, 0.5)  # of the bands whose detail the codes can hold; the finest has detail_weight
STRENGTH_FLOOR = 3e-3  # power: asked for the grain of even tissue, which is far below, a decoder draws a grid
SLICE_VARIANCE = 0.11  # of the intensities in the box that holds the brains


def losses_of(vqvae, images):
    """The terms of the loss of a batch (B, H, W, 1) float32 in [0, 1], and what the codebook's averages need.

    Returns:
        dict of scalars: reconstruction, commitment, codebook (where it is trained by gradients), and squared, which
        nothing is trained by; and what ``VQVAE.quantize_residuals`` made of its z_e.
    """
    z_e = ops.cast(vqvae.encoder(images), "float32")  # (B, h, w, D)
    quantized = vqvae.quantize_residuals(z_e)
    z_q = sum(embedded for _, _, embedded in quantized)
    straight_through = z_e + ops.stop_gradient(z_q - z_e)  # value of the codes, gradient of z_e
    reconstructions = ops.cast(vqvae.decoder(straight_through), "float32")
    terms = {
        "reconstruction": reconstruction_error(vqvae, images, reconstructions),
        "commitment": mean_distance((given, ops.stop_gradient(embedded)) for given, _, embedded in quantized),
    }
    if not vqvae.quantizer.ema:
        terms["codebook"] = mean_distance((ops.stop_gradient(given), embedded) for given, _, embedded in quantized)
    terms["squared"] = ops.stop_gradient(ops.mean((images - reconstructions) ** 2))
    return terms, quantized


def mean_distance(pairs):
    """The mean squared difference of pairs of (B, h, w, D), and over them (Lee et al. 2022, §3.1, adds them up)."""
    distances = [ops.mean((first - second) ** 2) for first, second in pairs]
    return sum(distances) / len(distances)


def total_loss(vqvae, terms):
    """Reconstruction + β commitment (+ codebook)."""
    return (
        terms["reconstruction"] + vqvae.settings["commitment_cost"] * terms["commitment"] + terms.get("codebook", 0.0)
    )


def reconstruction_error(vqvae, images, reconstructions):
    """The one that this model is trained by and judged by in training: (B, H, W, 1), twice -> a number."""
    loss = vqvae.settings["loss"]
    options = {"detail_weight": vqvae.settings["detail_weight"]} if loss == "pyramid" else {}
    return RECONSTRUCTION_ERRORS[loss](images, reconstructions, **options)


def pyramid_error(images, reconstructions, detail_weight=4.0):
    """Mean absolute error, plus that of each band of a Laplacian pyramid, plus that of each band's strength.

    Both (B, H, W, 1) float32. The bands (Burt & Adelson 1983) make edges and folds count, which the plain
    error trades for smoothness. Their local strength, the root mean square over about 3x3 places and a floor,
    makes detail count where its place is lost: without it the best guess at texture that the codes cannot hold is
    a blur.
    ``detail_weight`` is the weight of the finest band's strength, which codes hold least of.
    """
    error = ops.mean(ops.abs(images - reconstructions))
    pair = images, reconstructions
    for strength_weight in (detail_weight, *COARSE_STRENGTH_WEIGHTS):
        coarse = [ops.average_pool(x, 2, 2) for x in pair]
        bands = [space_to_depth(x, 2) - low for x, low in zip(pair, coarse, strict=True)]  # (B, H/2, W/2, 4): each
        error += ops.mean(ops.abs(bands[0] - bands[1]))  # pixel - its block's mean
        strengths = [local_strength(band) for band in bands]
        error += strength_weight * ops.mean(ops.abs(strengths[0] - strengths[1]))
        pair = coarse
        if coarse[0].shape[1] % 2 or coarse[0].shape[2] % 2:
            break
    return error


def local_strength(band):
    """Root of the mean square over channels and 3x3 places, and a floor: (B, h, w, C) -> (B, h, w, 1)."""
    power = ops.average_pool(ops.mean(band**2, axis=-1, keepdims=True), 3, 1, padding="same")
    return ops.sqrt(power + STRENGTH_FLOOR)


def squared_error(images, reconstructions):
    """Mean squared error over the variance of brain slices, as van den Oord et al. (2017) trained."""
    return ops.mean((images - reconstructions) ** 2) / SLICE_VARIANCE


RECONSTRUCTION_ERRORS = {"pyramid": pyramid_error, "squared": squared_error}
