"""What is to be seen of a brain in a slice: tissues, ventricles, areas, asymmetry; and how labels differ in them."""

import numpy as np
import pandas as pd
from scipy import ndimage, stats
from skimage.filters import threshold_multiotsu

from slices.frame import as_grey, dilated, opened

ANATOMY = ("brain_area", "csf_fraction", "grey_fraction", "white_fraction", "ventricle_area", "asymmetry")


def segment(image, mask):
    """Three tissue classes of a T1-weighted slice by Otsu's method, and its lateral ventricles.

    The ventricles are dark bodies a quarter of the greatest depth below the surface of the brain whose
    centre lies in the middle of its bounding box.

    Args:
        image: (H, W) float in [0, 1].
        mask: (H, W) bool, the brain.

    Returns:
        tissues (H, W) int: 0 outside, 1 CSF, 2 grey matter, 3 white matter; ventricles (H, W) bool.
    """
    image = ndimage.gaussian_filter(image, 0.7)
    inside = image[mask]
    if len(np.unique(inside[:1000])) < 4 and len(np.unique(inside)) < 4:  # the first tell nearly always
        return 2 * mask.astype(int), np.zeros_like(mask)
    csf, white = threshold_multiotsu(inside, 3)
    tissues = np.where(mask, 1 + (image > csf).astype(int) + (image > white), 0)
    depth = ndimage.distance_transform_edt(mask)
    dark = (image < 0.8 * csf) & (depth > 0.25 * depth.max())
    bodies, count = ndimage.label(opened(dark))
    places = np.nonzero(bodies)
    labels = bodies[places]
    sizes = np.bincount(labels, minlength=count + 1)
    y, x = (np.bincount(labels, place, count + 1) / np.maximum(sizes, 1) for place in places)  # the centre of each
    rows, columns = np.nonzero(mask)
    height = (y - rows.min()) / max(np.ptp(rows), 1)  # 0 at the front, 1 at the back
    aside = np.abs((x - columns.min()) / max(np.ptp(columns), 1) - 0.5)
    kept = (sizes >= 0.001 * mask.sum()) & (height > 0.25) & (height < 0.65) & (aside < 0.2)
    ventricles = kept[bodies] & (bodies > 0)
    return tissues, ventricles | (dilated(ventricles) & (tissues == 1))  # out to the edge that 0.8 left out


def dice(first, second):
    """Overlap of two masks, 2 |A ∩ B| / (|A| + |B|); NaN where both are empty."""
    total = first.sum() + second.sum()
    return float(2 * (first & second).sum() / total) if total else float("nan")


def anatomy(image, mask):
    """What ANATOMY names, of one slice (H, W) uint8 and its brain (H, W) bool: (6,) float, NaN without a brain.

    Brain area is a share of the frame; ventricle area and tissues are shares of the brain; the asymmetry is
    the mean absolute difference from the mirror image about the middle of the brain, over the mean grey.
    """
    if not mask.any():
        return np.full(len(ANATOMY), np.nan)
    image = as_grey(image)
    tissues, ventricles = segment(image, mask)
    area = mask.sum()
    columns = np.flatnonzero(mask.any(axis=0))
    brain = ndimage.gaussian_filter(image * mask, 2)[:, columns[0] : columns[-1] + 1]
    asymmetry = np.abs(brain - brain[:, ::-1]).mean() / max(brain.mean(), 1e-9)
    return np.array(
        [mask.mean(), *((tissues == tissue).sum() / area for tissue in (1, 2, 3)), ventricles.sum() / area, asymmetry]
    )


def anatomy_effects(samples, real):
    """The effect size of each of ANATOMY, of z-scores, samples against real; None where no brain was found.

    It is the difference of the means over people in units of the spread of the real slices.
    """
    result = {}
    for column, name in enumerate(ANATOMY):
        sides = [side.anatomy[:, column] for side in (samples, real)]
        means = [mean_over_people(values, side.person) for values, side in zip(sides, (samples, real), strict=True)]
        found = sides[1][np.isfinite(sides[1])]
        spread = np.std(found) if len(found) > 1 else 0
        known = spread > 1e-6 and all(map(np.isfinite, means))
        result[f"{name}_effect"] = float((means[0] - means[1]) / spread) if known else None
    return result


def lopsided(samples, real):
    """The share of samples that are more lopsided than 99 of 100 real slices at their positions, or None.

    Args:
        samples, real: DescribedSets.
    """
    drawn, found = (side.anatomy[:, ANATOMY.index("asymmetry")] for side in (samples, real))
    drawn, found = drawn[np.isfinite(drawn)], found[np.isfinite(found)]
    return float((drawn > np.percentile(found, 99)).mean()) if len(drawn) and len(found) else None


def mean_over_people(values, person):
    """Mean over people of the means of their slices, NaN left out; NaN where there are none."""
    known = np.isfinite(values)
    _, which = np.unique(person[known], return_inverse=True)
    counts = np.bincount(which)
    return float((np.bincount(which, values[known]) / counts).mean()) if len(counts) else np.nan


def mean_difference(values, label, person):
    """Mean over people of the first label minus that of the second, with Welch's 95 % interval, or None.

    Labels are ids from 1; a person's slices are averaged first; NaN values are left out.
    """
    people = pd.DataFrame({"value": values, "label": label}).groupby(person).agg({"value": "mean", "label": "first"})
    sides = [people["value"][people["label"] == which].dropna() for which in (1, 2)]
    if min(map(len, sides)) < 2 or all(side.var() == 0 for side in sides):
        return None
    interval = stats.ttest_ind(*sides, equal_var=False).confidence_interval(0.95)
    return {"value": float(sides[0].mean() - sides[1].mean()), "low": float(interval.low), "high": float(interval.high)}


def label_effects(real, samples, labels):
    """The difference of the first two labels in each of ANATOMY, in real people and in samples, z-scores."""
    sides = {"real": real, "samples": samples}
    result = {"label_effect": f"{labels[0]} minus {labels[1]}" if len(labels) > 1 else "there is one label"}
    for column, name in enumerate(ANATOMY):
        for side, images in sides.items():
            two = len(labels) > 1
            value = mean_difference(images.anatomy[:, column], images.label, images.person) if two else None
            result[f"{name}_label_effect_{side}"] = value
            if value is None:
                result[f"{name}_label_effect_{side}_why"] = "needs two people of each of two labels"
    return result
