"""Two ways from one sample to another."""

import numpy as np
from scipy.stats import norm

from sampling.draws import choose_conditions, output_folder, own_numbers, sample_row
from sampling.run import prior_bits
from slices.frame import paste
from slices.images import save_png
from slices.sheets import image_sheet
from utils import UserError, counted, new_folder, write_csv


def interpolate(run, num_images=9, label=None, position=None, seed=0, out=None):
    """Write the images of two ways from one sample to another, interpolation.csv and sheet.png.

    Mixed are the vectors of their codes, step by step, and each is put on its nearest code: no slices of the model.
    Turned are the normal numbers behind their uniform ones, along an arc that leaves them normal: each is a sample.

    Args:
        run: Run.
        num_images: steps of each way, from 3: two are the ends, samples 0 and 1 of the seed.
        label, position: of them all, as in ``Run.sample`` (default: those of sample 0).
        seed: int from 0.
        out: a new folder (default: <run>/samples/interpolate-<time>).

    Returns:
        The folder, a Path.

    Raises:
        UserError: fewer than 3 steps, or the run does not know the label or the position.
    """
    if num_images < 3:
        raise UserError("an interpolation needs --num-images 3 or more: two are the ends")
    ids = [int(column[0]) for column in choose_conditions(run, num_images, label, position, seed)]
    out = output_folder(out, run, "interpolate-{time}")
    with new_folder(out) as unfinished:
        steps = np.linspace(0, 1, num_images)
        columns = {
            name: np.full(num_images, value, np.int32) for name, value in zip(("label", "position"), ids, strict=True)
        }
        turned = turn(run.prior, steps, columns, seed)
        rows, images, captions = [], [], []
        for way, codes in (("mixed", mix(run.vqvae, steps, turned[0], turned[-1])), ("turned", turned)):
            bits = prior_bits(run.prior, codes, columns).sum(axis=(1, 2))
            images.append(run.sharpened(run.decode_crops(codes, block=num_images))[..., None])  # (N, H, W, 1)
            captions += [f"{value:.0f} bits" for value in bits]
            rows += [
                {
                    **sample_row(run.labels, f"{way}_{i:05d}.png", i, seed, *ids, -bits[i]),
                    "way": way,
                    "step": f"{steps[i]:.4f}",
                }
                for i in range(num_images)
            ]
        for row, image in zip(rows, paste(np.concatenate(images), run.box, run.frame), strict=True):
            save_png(unfinished / row["file"], image)
        write_csv(unfinished / "interpolation.csv", rows)
        title = f"two ways between two samples by {run.name}: no step is a person between two people"
        image_sheet(
            unfinished / "sheet.png",
            np.concatenate(images),
            num_images,
            ("codes\nmixed", "numbers\nturned"),
            captions,
            title,
        )
    print(f"{counted(len(rows), 'image')}; {title}: {out / 'sheet.png'}")
    return out


def turn(prior, steps, columns, seed):
    """Samples (N, h, w) int32 whose normal numbers turn from those of sample 0 to those of sample 1.

    Args:
        steps: (N,) float in [0, 1].
        columns: dict of label and position, (N,) int32 ids.
    """
    ends = own_numbers(range(2), prior.uniforms_shape, seed, "codes")
    normal = norm.ppf(np.clip(ends, 1e-7, 1 - 1e-7).astype(np.float64))  # (2, h, w)
    angles = steps[:, None, None] * np.pi / 2
    uniforms = norm.cdf(np.cos(angles) * normal[0] + np.sin(angles) * normal[1]).astype(np.float32)
    return np.asarray(prior.sample(uniforms, columns["label"], columns["position"], scored=slice(0))[0])


def mix(vqvae, steps, first, last):
    """Codes (N, h, w) int32 nearest to the mixtures of the vectors of two grids (h, w); steps (N,) in [0, 1]."""
    first, last = (np.asarray(vqvae.embed(codes)) for codes in (first, last))  # (h, w, D)
    steps = steps[:, None, None, None]
    return np.asarray(vqvae.nearest(((1 - steps) * first + steps * last).astype(np.float32)))
