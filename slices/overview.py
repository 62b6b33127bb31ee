"""Who and what there is in a folder of slices, in words."""

from slices.frame import brain_crop, outside
from slices.images import size_counts


def overview(slices, loaded):
    """People and slices by split and label, the sizes, and where the brains lie: a str of some lines.

    Args:
        slices: the index of the N usable images, with their splits.
        loaded: their LoadedImages.
    """
    by = ["split", "label"]
    table = slices.groupby(by).agg(people=("subject", "nunique"), slices=("path", "size"))
    scans = slices.groupby([*by, "subject"]).size().groupby(by)
    table["slices per person"] = [
        f"{low}" if low == high else f"{low} to {high}" for low, high in zip(scans.min(), scans.max(), strict=True)
    ]
    height, width = loaded.images.shape[1:3]
    box = brain_crop(loaded.brain_boxes[(slices["split"] == "train").to_numpy()], (height, width), 1, margin=0)
    return (
        f"{table.reset_index().to_string(index=False)}\n"
        f"in all: {slices['subject'].nunique()} people, {len(slices)} slices in {slices['position'].max() + 1} "
        f"positions; {len(loaded.problems)} files cannot be used\n"
        f"sizes: {size_counts(loaded.sizes)}; used at {width}x{height}\n"
        f"the brains of train lie in {box.width}x{box.height} pixels from row {box.top}, column {box.left}; "
        f"{outside(loaded.brain_boxes, box).sum()} other slices reach beyond"
    )
