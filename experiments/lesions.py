"""Do improbable codes show lesions? Synthetic ones, in the slices of test people; run by hand.

    python experiments/lesions.py --run brains --heal --out ReducedResults/lesions.csv

Bright and dark, sharp and smooth, small and large, always in the same place of a slice. How well a map tells the pixels
of the lesion from the rest of the brain is measured as AUC and as average precision, beside the error of the plain
reconstruction; both are also blurred to the coarseness of the codes. As a control the same pixels are looked for in the
slices without a lesion. Slices are averaged within a person first; intervals are over people.
"""

import hashlib
import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from utils import Parser, evenly, new_folder, number, progress, random_generator, run_script, shell, whole_file

RADII = (3, 6, 12)  # pixels, which are 1 mm in ADNI's slices and in the shared ones
SIGNS = {"bright": 1, "dark": -1}
NONE = "none"  # the sign of a slice without a lesion
EDGES = ("sharp", "smooth")
CONTRAST = 0.3  # of full white
KINDS = [*((radius, NONE, "sharp") for radius in RADII), *product(RADII, SIGNS, EDGES)]


class Lesion(NamedTuple):
    """What was done to one slice: its row, and the radius, sign and edge of the lesion, sign NONE for none."""

    row: int
    radius: int
    sign: str
    edge: str


# ---- lesions ------------------------------------------------------------------------------------


def profile(shape, centre, radius, edge):
    """(H, W) in [0, 1]: how much of the contrast each pixel gets; half of it at the radius."""
    import numpy as np

    distance = np.hypot(*(np.indices(shape) - np.reshape(centre, (2, 1, 1))))
    return np.clip(radius + 0.5 - distance, 0, 1) if edge == "sharp" else 0.5 ** ((distance / radius) ** 2)


def draw_centre(brain, row):
    """A pixel of the brain (H, W) bool so deep inside that the largest lesion fits, or the deepest one."""
    import numpy as np
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(brain)
    places = np.argwhere(depth >= min(max(RADII) + 1, depth.max()))
    return places[random_generator(0, "lesions", row).integers(len(places))]


def paint(crop, brain, lesion, centre):
    """The slice (H, W) uint8 with a lesion in its brain, and where it is, (H, W) bool."""
    from slices.frame import to_bytes

    shape = profile(crop.shape, centre, lesion.radius, lesion.edge) * brain
    return to_bytes(crop / 255 + SIGNS.get(lesion.sign, 0) * CONTRAST * shape), shape >= 0.5


class Painted(NamedTuple):
    """Slices with lesions.

    Attributes:
        lesions: list of N Lesions.
        images: (N, H, W) uint8.
        truths: (N, H, W) bool, where the lesions are.
        brains: dict of row -> (H, W) bool.
        known: DataFrame of their N rows of the index.
    """

    lesions: list
    images: object
    truths: object
    brains: dict
    known: object


def paint_all(part, count):
    """All KINDS of lesions in ``count`` slices of each person of a Part, evenly spread over the positions."""
    import numpy as np

    from slices.frame import brain_mask

    people = part.slices.groupby("subject").indices.values()
    chosen = [row for rows in people for row in evenly(np.sort(rows), count)]
    lesions = [Lesion(row, *kind) for row in chosen for kind in KINDS]
    brains = {row: brain_mask(part.crops[row]) for row in chosen}
    centres = {row: draw_centre(brains[row], row) for row in chosen}
    painted = [paint(part.crops[lesion.row], brains[lesion.row], lesion, centres[lesion.row]) for lesion in lesions]
    known = part.slices.iloc[[lesion.row for lesion in lesions]].reset_index(drop=True)
    return Painted(lesions, *(np.stack(column) for column in zip(*painted, strict=True)), brains, known)


def larger(lesions, row):
    """The numbers of the lesions of a slice that are not of the smallest size."""
    return [
        i
        for i, lesion in enumerate(lesions)
        if lesion.row == row and lesion.sign != NONE and lesion.radius > min(RADII)
    ]


# ---- maps ---------------------------------------------------------------------------------------


def maps_of(images, reconstructions, bits, z_scores):
    """Name -> (N, H, W): by how much each pixel of the images (N, H, W) uint8 stands out."""
    import numpy as np

    from metrics.codes import over_pixels

    shape = images.shape[1:]
    return {
        **differences("reconstruction error", images, reconstructions, bits.shape[1:]),
        "bits": over_pixels(bits, shape),
        "z": over_pixels(z_scores, shape),
        "z, blurred": over_pixels(z_scores, shape, blurred=True),
        "|z|": over_pixels(np.abs(z_scores), shape),
    }


def differences(name, images, others, grid):
    """Absolute differences of images (N, H, W) uint8, and the same blurred by half a patch of the code grid."""
    import numpy as np
    from scipy import ndimage

    difference = np.abs(images / 255 - others / 255)
    return {
        name: difference,
        f"{name}, blurred": ndimage.gaussian_filter(difference, (0, *np.array(images.shape[1:]) / grid / 2)),
    }


def heal_slices(run, cache, painted, codes, z_scores):
    """The larger lesions of one slice of each person, healed: their numbers, and images (M, H, W) uint8.

    The codes are kept in the run's cache person by person, so that this can be stopped and gone on with.
    """
    import numpy as np

    from sampling.scoring import heal_codes
    from slices.index import condition_ids

    columns, healed, numbers = condition_ids(painted.known, run.labels), [], []
    for person in painted.known["subject"].unique():
        first = int(np.flatnonzero(painted.known["subject"] == person)[0])
        mine = larger(painted.lesions, painted.lesions[first].row)
        content = hashlib.sha256(codes[mine].tobytes() + z_scores[mine].tobytes()).hexdigest()
        given = {name: ids[mine] for name, ids in columns.items()}
        healed.append(
            cache.kept(
                "healed",
                content,
                lambda mine=mine, given=given: heal_codes(run.prior, codes[mine], z_scores[mine], given, 0),
            )
        )
        numbers += mine
    return numbers, run.decode_crops(np.concatenate(healed), "healed slices")


# ---- how well they tell -------------------------------------------------------------------------


def measure(lesions, subjects, truths, brains, maps):
    """AUC and average precision of every map for every lesion: a DataFrame of a row each."""
    import pandas as pd
    from sklearn.metrics import average_precision_score, roc_auc_score

    rows = []
    for i, lesion in enumerate(progress(lesions, desc="measuring")):
        brain = brains[lesion.row]
        truth = truths[i][brain]
        rows += [
            {
                "person": subjects[lesion.row],
                **lesion._asdict(),
                "map": name,
                "lesion_share": truth.mean(),
                "auc": roc_auc_score(truth, values[i][brain]),
                "average_precision": average_precision_score(truth, values[i][brain]),
            }
            for name, values in maps.items()
        ]
    return pd.DataFrame(rows)


def likelier(lesions, truths, bits):
    """Whether the codes that a lesion touches are likelier than those of the same slice without it, per lesion."""
    without = {lesion.row: i for i, lesion in enumerate(lesions) if lesion.sign == NONE}
    (h, w), (height, width) = bits.shape[1:], truths.shape[1:]
    touched = truths.reshape(-1, h, height // h, w, width // w).any(axis=(2, 4))
    return [
        bits[i][cells].sum() < bits[without[lesion.row]][cells].sum()
        for i, (lesion, cells) in enumerate(zip(lesions, touched, strict=True))
    ]


def summarise(table, groups):
    """Means over people with their intervals, a row for each of the groups (names of columns) and each map."""
    from metrics.people import mean_by_person, value_of

    rows = []
    for keys, part in table.groupby(["slices", *groups, "map"], sort=False):
        row = {
            **dict.fromkeys(("slices", "person", "radius", "sign", "edge"), "all"),
            **dict(zip(["slices", *groups, "map"], keys, strict=True)),
        }
        numbers = ["auc", "average_precision", "lesion_share", "likelier"]
        for name, metric in mean_by_person(part[numbers].to_dict("records"), part["person"]).items():
            row[name] = value_of(metric)
            if isinstance(metric, dict) and name in ("auc", "average_precision"):
                row |= {f"{name}_low": metric["low"], f"{name}_high": metric["high"]}
        rows.append(
            row
            | {
                "people": part["person"].nunique(),
                "lesions": part[["row", "radius", "sign", "edge"]].drop_duplicates().shape[0],
            }
        )
    return rows


def write_examples(folder, run, path, names):
    """Write one of a run's slices with a lesion painted into it, once for each name, into a new folder.

    Args:
        run: sampling.run.Run, whose slices must be there.
        path: of the slice, as in the run's slices.csv.
        names: such as "dark_sharp_12": sign, edge and radius; the files are called so.

    Returns:
        label and position of the slice.
    """
    from slices.frame import brain_mask, crop, paste
    from slices.images import save_png

    pixels = crop(run.load(run.data, [f"{path}"]).images, run.box)[0, ..., 0]  # (H, W) of the crop box
    brain = brain_mask(pixels)
    centre = draw_centre(brain, 0)
    with new_folder(folder) as unfinished:
        for name in names:
            sign, edge, radius = name.split("_")
            painted, _ = paint(pixels, brain, Lesion(0, int(radius), sign, edge), centre)
            save_png(unfinished / f"{name}.png", paste(painted[None, ..., None], run.box, run.frame)[0])
    known = run.slices[run.slices["path"] == f"{path}"].iloc[0]
    return known["label"], int(known["position"])


# ---- the script ---------------------------------------------------------------------------------


def find_lesions(name, out, command, data=None, slices=3, heal=False):
    """Paint lesions into test people's slices and measure how well they are found; see ``--help``.

    Args:
        command: what to note as the look at test people.
    """
    import pandas as pd

    from evaluate import note_look
    from metrics.parts import Cache, check_people, load_part
    from sampling.run import Run, encode_images
    from sampling.scoring import compare_codes, load_validation
    from slices.frame import Box

    run = Run(name, data=data)
    check_people(run, "test")
    cache, validation = Cache(run), load_validation(run)
    note_look(run.folder, command)
    part = load_part(run, cache, "test")
    painted = paint_all(part, slices)
    codes = encode_images(run.vqvae, painted.images[..., None], Box(0, 0, *part.crops.shape[1:]))
    bits, z_scores, _ = compare_codes(run, painted.known, codes, validation)
    maps = maps_of(painted.images, run.decode_crops(codes, "lesions"), bits, z_scores)
    table = measure_all(run, cache, painted, part.slices["subject"].to_numpy(), codes, bits, z_scores, maps, heal)
    real = table[table["sign"] != NONE]
    rows = (
        summarise(real, [])
        + summarise(real, ["sign"])
        + summarise(real, ["sign", "edge"])
        + summarise(table, ["radius", "sign", "edge"])
        + summarise(real, ["person"])
    )
    with whole_file(out) as path:
        pd.DataFrame(rows).round(4).to_csv(path, index=False)
    print(pd.DataFrame(summarise(real, ["sign", "edge"])).round(3).to_string())


def measure_all(run, cache, painted, subjects, codes, bits, z_scores, maps, heal):
    """The table of ``measure`` for all lesions, and with ``heal`` beside it that of the healed ones by all maps."""
    import numpy as np
    import pandas as pd

    lesions, images, truths, brains, _ = painted
    table = measure(lesions, subjects, truths, brains, maps)
    table["likelier"] = np.repeat(likelier(lesions, truths, bits), len(maps)).astype(float)
    table["slices"] = "all"
    if not heal:
        return table
    numbers, healed = heal_slices(run, cache, painted, codes, z_scores)
    same = table[np.isin(np.arange(len(table)) // len(maps), numbers)]  # the other maps of the same lesions
    of_healed = measure(
        [lesions[i] for i in numbers],
        subjects,
        truths[numbers],
        brains,
        differences("slice - healed", images[numbers], healed, codes.shape[1:]),
    )
    return pd.concat([table, pd.concat([same, of_healed]).assign(slices="healed")])


def main(argv):
    """Paint and find; see ``python experiments/lesions.py --help``."""
    parser = Parser(prog="experiments/lesions.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", dest="name", required=True, help="a finished run")
    parser.add_argument("--data", metavar="DIR", help="where the run's slices are now (default: where they were)")
    parser.add_argument("--slices", type=number(int, 1), default=3, metavar="N", help="of each person (default 3)")
    parser.add_argument("--out", required=True, metavar="CSV")
    parser.add_argument("--heal", action="store_true", help="one slice of each person, too; takes long")
    flags = parser.parse_args(argv)
    find_lesions(**vars(flags), command=shell("experiments/lesions.py", *argv))


if __name__ == "__main__":
    run_script(main)
