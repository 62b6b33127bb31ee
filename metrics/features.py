"""One more Fréchet distance, of features from a file or of Keras' InceptionV3."""

import numpy as np

from metrics.distances import frechet_distance
from utils import UserError, whole_file


def other_features(source, originals, samples, images_path):
    """The Fréchet distance of samples from originals by other features: a dict of one float.

    Args:
        source: "inception", or a .npy file of features (2 N, C): those of the images (2 N, H, W) uint8 that are
            written to ``images_path``, the originals and then the samples.
        originals, samples: (N, H, W) uint8.

    Raises:
        UserError: the file does not fit, the weights cannot be had, or there are too few images.
    """
    if source == "inception":
        return {"frechet_keras_inception": inception_distance(originals, samples)}
    n = len(originals)
    with whole_file(images_path) as temporary, open(temporary, "wb") as file:
        np.save(file, np.concatenate([originals, samples]))
    try:
        features = np.load(source, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--features {source} cannot be read as a .npy file ({error}): make it from the {2 * n} "
            f"images of {images_path}"
        ) from None
    if features.ndim != 2 or len(features) != 2 * n:
        raise UserError(
            f"--features {source} must have a row for each of the {2 * n} images of {images_path}, "
            f"not the shape {features.shape}"
        )
    return {"frechet_features": frechet_distance(features[n:], features[:n])}


def inception_distance(originals, samples):
    """The Fréchet distance of samples from originals, (N, H, W) uint8, by the features of InceptionV3."""
    if len(originals) < 2048:
        raise UserError(
            f"--features inception needs 2,048 images a set, and the split has {len(originals)}: leave it out"
        )
    import keras

    try:
        network = keras.applications.InceptionV3(include_top=False, pooling="avg")
    except Exception:  # whatever a download raises
        raise UserError(
            "the weights of InceptionV3 cannot be had here: leave out --features, or give a .npy file of features"
        ) from None

    def features(images):
        blocks = [
            np.repeat(images[start : start + 32, ..., None], 3, axis=-1) / 127.5 - 1
            for start in range(0, len(images), 32)
        ]
        return np.concatenate([network.predict_on_batch(block) for block in blocks])

    return frechet_distance(features(samples), features(originals))
