"""How improbable the codes of given slices are beside other people's, as maps; and slices with those drawn anew."""

import math
from functools import cached_property
from pathlib import Path

import numpy as np

from metrics.codes import UsualBits, brain_cells, over_pixels
from sampling.completion import CHAINS, TILE, complete_codes
from sampling.draws import NONE, look_up, output_folder, say_outside
from sampling.run import prior_bits
from slices import frame
from slices.images import save_png
from slices.index import condition_ids, given_slices
from slices.sheets import around_black, number_sheet
from utils import UserError, counted, new_folder, progress, write_csv

UNLIKELY = 3.0  # standard deviations from which on a code is unlikely, and drawn anew in healing


def score(run, images, heal=False, label=None, position=None, seed=0, out=None):
    """Write scores.csv and a map of every image given, and the images without unlikely codes.

    Args:
        run: Run, whose slices must be there: those of validation people say what is usual.
        images: a folder of PNG or JPEG files, of any size, or one such file.
        heal: draw the unlikely codes anew and write what that changes.
        label, position: of all images, as in ``Run.bits`` (default: what slices.csv says of each).
        seed: int from 0, of healing.
        out: a new folder (default: <run>/samples/score-<time>).

    Returns:
        The folder, a Path.

    Raises:
        UserError: no readable image, the run's slices are not there, or fewer than two validation people are.
    """
    (folder, files), validation = given_slices(images, run.config["subject_pattern"]), load_validation(run)
    loaded = run.load(folder, files["path"])
    known = look_up(run, [folder / path for path in loaded.paths], label, position)
    outside_box = frame.outside(loaded.brain_boxes, run.box)
    say_outside(outside_box)
    out = output_folder(out, run, "score-{time}")
    with new_folder(out) as unfinished:
        codes, crops = run.encode(loaded.images), frame.crop(loaded.images, run.box)[..., 0]
        bits, z_scores, compared = compare_codes(run, known, codes, validation)
        columns = condition_ids(known, run.labels)
        rows = score_rows(
            loaded.paths,
            columns,
            run.labels,
            bits,
            z_scores,
            brain_cells(crops, codes.shape[1:]),
            compared,
            outside_box,
        )
        healed = [None] * len(codes)
        if heal:  # each decoded on its own, whatever their number
            healed = run.decode_crops(heal_codes(run.prior, codes, z_scores, columns, seed), "healed slices", 1)
        for i, path in enumerate(progress(loaded.paths, desc="drawing", unit=" maps")):
            stem = unfinished / f"{i:05d}_{Path(path).stem}"
            draw_map(f"{stem}_map.png", run, crops[i], bits[i], z_scores[i], healed[i], rows[i])
            if heal:
                save_png(f"{stem}_healed.png", frame.paste(healed[i][..., None], run.box, run.frame))
        write_csv(unfinished / "scores.csv", rows)
    print(f"{counted(len(rows), 'map')} of improbable codes, no diagnosis: {out / 'scores.csv'}, {out}/*_map.png")
    return out


class Validation:
    """The slices of validation people, who say what is usual.

    Args:
        run: Run.
        slices: their rows of the index.
        images: (M, H, W, 1) uint8 in the frame.
    """

    def __init__(self, run, slices, images):
        self.run, self.slices, self.images, self._usual = run, slices, images, {}
        self.columns, self.people = condition_ids(slices, run.labels), slices["subject"]

    @cached_property
    def codes(self):
        """(M, h, w) int32."""
        return self.run.encode(self.images)

    def usual(self, told):
        """What their codes cost where the prior is told (label, position), two bool, as UsualBits; counted once."""
        if told not in self._usual:
            given = {name: ids * is_told for (name, ids), is_told in zip(self.columns.items(), told, strict=True)}
            bits = prior_bits(self.run.prior, self.codes, given)
            self._usual[told] = UsualBits(bits, self.columns["position"], self.people.to_numpy())
        return self._usual[told]


def load_validation(run):
    """The Validation of a Run.

    Raises:
        UserError: there are fewer than two such people, or the run's slices are not there.
    """
    slices = run.slices[run.slices["split"] == "validation"]
    if slices["subject"].nunique() < 2:
        raise UserError("the run has fewer than two validation people: there is nobody to compare with")
    run.needs_data()
    loaded = run.load(run.data, slices["path"])
    return Validation(run, slices[loaded.usable], loaded.images)


def compare_codes(run, known, codes, validation):
    """The bits of given codes and how unusual they are.

    Args:
        known: DataFrame of ``look_up``, a row for each slice.
        codes: (N, h, w) int.
        validation: Validation.

    Returns:
        bits and z-scores (N, h, w) float, and a list of dicts: how many people and slices each was compared with,
        and the bits that these have (median).
    """
    columns = condition_ids(known, run.labels)
    bits = prior_bits(run.prior, codes, columns)
    z_scores, compared = np.zeros_like(bits), []
    for i, (label, position, person) in enumerate(zip(*columns.values(), known["subject"], strict=True)):
        usual = validation.usual((bool(label), bool(position)))  # others are given what the slice is given
        z_scores[i] = usual.z_scores(bits[i], position, person)
        rows = usual.compared(position, person)
        compared.append(
            {
                "compared_people": validation.people[rows].nunique(),
                "compared_slices": int(rows.sum()),
                "usual_bits": f"{np.median(usual.bits[rows].sum(axis=(1, 2))):.1f}",
            }
        )
    return bits, z_scores, compared


def heal_codes(prior, codes, z_scores, columns, seed):
    """Draw the codes (N, h, w) anew whose z-scores are UNLIKELY or more, given all others.

    After Naval Marimont & Tarroni 2021 (arXiv:2012.06765), who draw them given those before them.
    """
    healed = []
    for first in progress(range(0, len(codes), CHAINS), desc="healing", unit=" blocks"):
        rows = np.minimum(np.arange(first, first + CHAINS), len(codes) - 1)  # the last block is padded
        healed.append(
            complete_codes(
                prior,
                codes[rows],
                z_scores[rows] < UNLIKELY,
                {name: ids[rows] for name, ids in columns.items()},
                seed,
                "healing",
                first,
                tile_side=2 * TILE,
            )
        )
    return np.concatenate(healed)[: len(codes)]


def score_rows(paths, columns, labels, bits, z_scores, brain, compared, outside_box):
    """The rows of scores.csv, a list of dicts; the largest and least z are those in the brain (N, h, w) bool."""
    rows = []
    for i, path in enumerate(paths):
        inside = z_scores[i][brain[i] if brain[i].any() else np.ones_like(brain[i])]
        label, position = columns["label"][i], columns["position"][i]
        rows.append(
            {
                "file": path,
                "label": labels[label - 1] if label else NONE,
                "position": position - 1 if position else NONE,
                "bits": f"{bits[i].sum():.1f}",
                **compared[i],
                "largest_z": f"{inside.max():.2f}",
                "least_z": f"{inside.min():.2f}",
                "unlikely_share": f"{(inside >= UNLIKELY).mean():.4f}",
                "outside_box": bool(outside_box[i]),
            }
        )
    return rows


def draw_map(path, run, crop, bits, z_scores, healed, row):
    """Draw a slice (H, W) uint8, the bits and z-scores (h, w) of its codes, and the healed slice unless it is None."""
    z, blurred = (over_pixels(z_scores[None], crop.shape, blurred=how)[0] for how in (False, True))
    most = 1.5 * math.log2(run.code_values)
    pictures = [
        ("slice", crop / 255, None, 0, 1),
        ("bits per code", over_pixels(bits[None], crop.shape)[0], "magma", 0, most),
        ("z (blue: likelier than usual)", z, around_black(), -6, 6),
        ("z, blurred", blurred, around_black(), -3, 3),
    ]
    if healed is not None:
        pictures += [
            ("healed", healed / 255, None, 0, 1),
            ("slice - healed", (crop - healed.astype(float)) / 255, around_black(), -0.25, 0.25),
        ]
    number_sheet(
        path,
        pictures,
        f"improbable codes by {run.name}, beside {row['compared_slices']} slices of "
        f"{row['compared_people']} people: not a diagnosis",
    )
