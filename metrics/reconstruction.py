"""The section reconstruction of metrics.json."""

import pandas as pd

from metrics.images import detail_metrics, image_metrics, ms_ssim_scales
from metrics.people import mean_by_person
from slices.frame import paste
from slices.processes import parallel
from utils import finite, tracker


def measure_reconstruction(part, box, notes):
    """How close the reconstructions of a part are to its slices, in the full frame.

    Args:
        part: Part with the images as they are on disk.
        box: the run's crop box.
        notes: list of str, to which is added what a reader must know.

    Returns:
        DataFrame of a row per slice, with subject and label; and the summary over people, a dict.
    """
    frame = part.images.shape[1:3]

    def measure(row):
        reconstruction = paste(part.reconstructions[row][..., None], box, frame)
        return image_metrics(part.images[row], reconstruction) | detail_metrics(part.images[row], reconstruction)

    rows = parallel(measure, range(len(part.codes)), tracker("reconstructions", len(part.codes)))
    subjects = part.slices["subject"]
    summary = mean_by_person(rows, subjects)
    deviations = pd.DataFrame(rows).groupby(subjects.to_numpy()).mean().std()
    for name in list(summary):
        if summary[name] is None:
            summary[f"{name}_why"] = "no slice has what this measures"
        summary[f"{name}_sd"] = finite(deviations[name])
        if summary[f"{name}_sd"] is None:
            summary[f"{name}_sd_why"] = "needs two people"
    summary["ms_ssim_scales"] = ms_ssim_scales(frame)
    if summary["ms_ssim_scales"] < 5:
        notes.append(f"MS-SSIM on {summary['ms_ssim_scales']} of 5 scales, which is what the frame has room for")
    return pd.DataFrame(rows).assign(subject=subjects, label=part.slices["label"]), summary
