"""Small models with random weights, and small inputs for them."""

import numpy as np

import modules

GRID = (5, 4)  # not square, so that swapped axes show
CODES = 7


def randomise(model, scale=0.3, seed=0):
    """Give every weight a random value: nothing is zero, so nothing is hidden, and float16 holds it exactly."""
    random = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(random.normal(size=weight.shape, scale=scale).astype(np.float16))
    return model


def small_prior(grid=GRID, layers=4, vertical_width=4, **options):
    return randomise(
        modules.GatedPixelCNN(grid, CODES, 2, 3, num_layers=layers, width=8, vertical_width=vertical_width, **options)
    )


def small_vqvae(**options):
    return modules.VQVAE((16, 24, 1), num_codes=CODES, code_dim=3, width=8, residual_blocks=1, **options)


def some_codes(batch, grid=GRID, seed=0):
    return np.random.default_rng(seed).integers(0, CODES, (batch, *grid)).astype(np.int32)


def some_images(batch=2, seed=0):
    return np.random.default_rng(seed).random((batch, 16, 24, 1), np.float32)


def ids(batch, value=1):
    return np.full(batch, value, np.int32)


def prior_batch(batch=3):
    return {
        "codes": some_codes(batch),
        "label": ids(batch),
        "position": ids(batch, 2),
        "augmentation": np.zeros((batch, 6), np.float32),
    }
