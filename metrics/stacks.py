"""Stacks of slices of one person each, and how well the slices of a stack agree with each other."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import ndimage

from metrics.anatomy import dice, segment
from metrics.images import ssim_of_moments, ssim_window
from metrics.nulls import people_of_labels
from slices.frame import brain_mask
from slices.processes import parallel
from utils import random_generator

DISTANCES = (1, 2, 5, 10)  # slices from one to the other of those that are compared
END = 5  # slices at either end, which are set against each other for drift
AGREEMENT = ("ssim", "information", "overlap", "ventricle_change")  # of two slices, at each distance
PROFILES = ("grey", "detail", "brain", "ventricles")  # what is followed from the lowest slice to the highest
GREYS = 32  # grey levels that mutual information tells apart


@dataclass
class Stacks:
    """P people of S slices each, one at each position, the lowest first.

    Attributes:
        images: (P, S, H, W) uint8, in the crop box.
        label: (P,) int.
        person: (P,) of str.
    """

    images: np.ndarray
    label: np.ndarray
    person: np.ndarray

    @property
    def position(self):
        """(P,) of zeros: what draws null splits of slices draws those of stacks."""
        return np.zeros(len(self.person), int)

    def take(self, rows):
        """Those of these rows, an index or a mask."""
        return replace(self, **{name: value[rows] for name, value in vars(self).items()})


def stacks_of(images, num_positions):
    """The people of an ImageSet who have a slice at every position, as Stacks; of several the first is taken."""
    table = pd.DataFrame({"person": images.person, "position": images.position})
    first = table.drop_duplicates(["person", "position"])
    rows = first.pivot(index="person", columns="position", values="position").notna()
    whole = rows.index[rows.sum(axis=1) == num_positions]
    chosen = first[first["person"].isin(whole)].sort_values(["person", "position"]).index.to_numpy()
    chosen = chosen.reshape(-1, num_positions)  # (P, S)
    taken = np.stack([images.images[row] for row in chosen]) if len(chosen) else images.images[:0][:, None]
    return Stacks(taken, images.label[chosen[:, 0]], images.person[chosen[:, 0]])


def independent_stacks(stacks, seed=0):
    """Stacks whose slices are of different people of one label, as drawn one by one from a perfect prior.

    Each slice of a stack is of another person than the one below it, where the label has two people. All slices are
    used once.
    """
    images = np.empty_like(stacks.images)
    for label, names in people_of_labels(stacks.person, stacks.label).items():
        rows = np.flatnonzero(np.isin(stacks.person, names))
        random, turn = random_generator(seed, "independent stacks", int(label)), 0
        rows = random.permutation(rows)
        for position in range(stacks.images.shape[1]):
            images[rows, position] = stacks.images[np.roll(rows, turn), position]
            turn += int(random.integers(1, len(rows))) if len(rows) > 1 else 0
    return replace(stacks, images=images, person=np.char.add("mixed ", stacks.person.astype(str)))


# ---- what is measured on a stack ----------------------------------------------------------------


def measure_stacks(stacks, track=iter):
    """What ``measure_stack`` gives of every stack: a DataFrame (P, numbers)."""
    return pd.DataFrame(parallel(measure_stack, stacks.images, track))


def measure_stack(stack):
    """How one person's slices (S, H, W) uint8 agree, by name: a dict of float, NaN where there is no brain.

    ssim_d: likeness of slices d apart in both brains, the mean of the map of SSIM.
    information_d: what one tells of the other, in bits a pixel (mutual information of grey levels, in both brains).
    overlap_d: of their outlines, by Dice.
    ventricle_change_d: the absolute change of the area of the ventricles, a share of the mean area of the brain.
    coronal_roughness, outline_jags: see the functions of these names.
    brain_volume, ventricle_volume: shares of the crop box, and of the brain.
    low_…, high_…: means of the lowest and the highest END slices: of the grey in the brain, the strength of its finest
    detail, and the areas of brain and ventricles, shares of the crop box and of the mean area of the brain.
    """
    grey = stack.astype(np.float32) / 255  # (S, H, W)
    masks = np.stack([brain_mask(image) for image in stack])
    if not masks.any(axis=(1, 2)).all():
        return dict.fromkeys(numbers_of(len(stack)), np.nan)
    ventricles = np.array([segment(one, mask)[1].sum() for one, mask in zip(grey.astype(float), masks, strict=True)])
    brain, frame = masks.sum(axis=(1, 2)), masks[0].size
    profiles = {  # (S,) each
        "grey": np.array([one[mask].mean() for one, mask in zip(grey, masks, strict=True)]),
        "detail": np.array([detail_strength(one, mask) for one, mask in zip(grey, masks, strict=True)]),
        "brain": brain / frame,
        "ventricles": ventricles / brain.mean(),
    }
    return {
        **similarities(grey, masks),
        **informations(stack, masks),
        **overlaps(masks),
        **changes(profiles["ventricles"]),
        "coronal_roughness": coronal_roughness(grey, masks),
        "outline_jags": outline_jags(masks),
        "brain_volume": float(profiles["brain"].mean()),
        "ventricle_volume": float(ventricles.sum() / brain.sum()),
        **{f"{end}_{name}": value for name, profile in profiles.items() for end, value in ends(profile).items()},
    }


def numbers_of(count):
    """The names of what is measured on a stack of so many slices, in their order."""
    by_distance = [f"{name}_{gap}" for name in AGREEMENT for gap in distances(count)]
    of_ends = [f"{end}_{name}" for name in PROFILES for end in ("low", "high")]
    return [*by_distance, "coronal_roughness", "outline_jags", "brain_volume", "ventricle_volume", *of_ends]


def distances(count):
    """Those of DISTANCES that lie within a stack of so many slices."""
    return [gap for gap in DISTANCES if gap < count]


def similarities(grey, masks):
    """ssim_d of a stack (S, H, W) in [0, 1] and its brains (S, H, W) bool."""
    means = ssim_window(grey)
    variances = ssim_window(grey**2) - means**2
    found = {}
    for gap in distances(len(grey)):
        covariance = ssim_window(grey[:-gap] * grey[gap:]) - means[:-gap] * means[gap:]
        luminance, structure = ssim_of_moments(
            means[:-gap], means[gap:], variances[:-gap] + variances[gap:], covariance
        )
        either = masks[:-gap] | masks[gap:]
        found[f"ssim_{gap}"] = float(((luminance * structure * either).sum((1, 2)) / either.sum((1, 2))).mean())
    return found


def informations(stack, masks):
    """information_d of a stack (S, H, W) uint8 and its brains (S, H, W) bool."""
    levels = (stack // (256 // GREYS)).astype(np.int64)
    return {
        f"information_{gap}": float(
            np.mean(
                [
                    mutual_information(levels[low], levels[low + gap], masks[low] | masks[low + gap])
                    for low in range(len(stack) - gap)
                ]
            )
        )
        for gap in distances(len(stack))
    }


def mutual_information(first, second, mask):
    """Bits that the level, 0 … GREYS − 1, of a pixel in one image (H, W) tells of that in the other, in a mask."""
    joint = np.bincount(first[mask] * GREYS + second[mask], minlength=GREYS**2).reshape(GREYS, GREYS) / mask.sum()
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log2(joint[there] / apart[there])).sum())


def overlaps(masks):
    """overlap_d of the brains (S, H, W) bool."""
    return {
        f"overlap_{gap}": float(np.mean([dice(*pair) for pair in zip(masks[:-gap], masks[gap:], strict=True)]))
        for gap in distances(len(masks))
    }


def changes(areas):
    """ventricle_change_d of the areas (S,) of the ventricles."""
    return {
        f"ventricle_change_{gap}": float(np.abs(areas[gap:] - areas[:-gap]).mean()) for gap in distances(len(areas))
    }


def coronal_roughness(grey, masks):
    """How jagged the edges of coronal and sagittal views are, 0 for planes that change evenly from slice to slice.

    The mean absolute second difference of grey from slice to slice, over the difference of slices two apart; 1.7 where
    slices have nothing to do with each other. Counted are pixels in the brain of three slices. NaN without any.

    Args:
        grey: (S, H, W) in [0, 1].
        masks: (S, H, W) bool.
    """
    inside = masks[:-2] & masks[1:-1] & masks[2:]
    if not inside.any():
        return float("nan")
    bend = np.abs(grey[:-2] - 2 * grey[1:-1] + grey[2:])[inside].mean()
    return float(bend / max(np.abs(grey[2:] - grey[:-2])[inside].mean(), 1e-6))


def outline_jags(masks):
    """How far, in pixels, the outline of a slice lies from half-way between those below and above it, at either side.

    The mean over the rows that cross the brain in all three. NaN of fewer than three slices.

    Args:
        masks: (S, H, W) bool.
    """
    crossed = masks.any(axis=2)  # (S, H)
    rows = crossed[:-2] & crossed[1:-1] & crossed[2:]
    if not rows.any():
        return float("nan")
    left, right = masks.argmax(axis=2), masks.shape[2] - masks[:, :, ::-1].argmax(axis=2)  # (S, H)
    jags = [np.abs(side[:-2] - 2 * side[1:-1] + side[2:])[rows].mean() / 2 for side in (left, right)]
    return float(np.mean(jags))


def detail_strength(grey, mask):
    """The deviation of the finest detail in the brain of a slice (H, W) in [0, 1]."""
    return float((grey - ndimage.gaussian_filter(grey, 1))[mask].std())


def ends(profile):
    """The means of a number (S,) in the lowest and the highest END slices, or in the halves of fewer: low and high."""
    end = max(min(END, len(profile) // 2), 1)
    return {"low": float(profile[:end].mean()), "high": float(profile[-end:].mean())}
