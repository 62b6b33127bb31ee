"""Do improbable codes show lesions? Synthetic ones, in the slices of test people; run by hand.

    python tests/lesions.py --run brains --heal --out ReducedResults/lesions.csv --examples lesions

Bright and dark, sharp and smooth, small and large, always in the same place of a slice. How well a map tells the pixels
of the lesion from the rest of the brain is measured as AUC and as average precision, beside the error of the plain
reconstruction; both are also blurred to the coarseness of the codes. As a control the same pixels are looked for in the
slices without a lesion. Slices are averaged within a person first; intervals are over people. The examples are one
slice's, for predict.py --score, with a sheet of what the maps make of them.
"""

import hashlib
import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parent.parent))

import evaluate
import predict
from utils import Parser, image_sheet, new_folder, progress, random_generator, save_png, to_bytes, whole_file

RADII = (3, 6, 12)  # pixels, which are 1 mm in ADNI's slices and in the shared ones
SIGNS = {"bright": 1, "dark": -1}
EDGES = ("sharp", "smooth")
CONTRAST = 0.3  # of full white


class Lesion(NamedTuple):
    """What was done to one slice: its row, and the sign, edge and radius of the lesion, NONE for none."""

    row: int
    radius: int
    sign: str
    edge: str


def profile(shape, centre, radius, edge):
    """(H, W) in [0, 1]: how much of the contrast each pixel gets; half of it at the radius."""
    distance = np.hypot(*(np.indices(shape) - np.reshape(centre, (2, 1, 1))))
    return np.clip(radius + 0.5 - distance, 0, 1) if edge == "sharp" else 0.5 ** ((distance / radius) ** 2)


def draw_centre(brain, row):
    """A pixel of the brain (H, W) bool so deep inside that the largest lesion fits, or the deepest one."""
    depth = ndimage.distance_transform_edt(brain)
    places = np.argwhere(depth >= min(max(RADII) + 1, depth.max()))
    return places[random_generator(0, "lesions", row).integers(len(places))]


def paint(crop, brain, lesion, centre):
    """The slice (H, W) uint8 with a lesion in its brain, and where it is, (H, W) bool."""
    shape = profile(crop.shape, centre, lesion.radius, lesion.edge) * brain
    return to_bytes(crop / 255 + SIGNS.get(lesion.sign, 0) * CONTRAST * shape), shape >= 0.5


def choose_slices(part, count):
    """The rows of a part of a run: ``count`` slices of each person, evenly spread over the positions."""
    from metrics import evenly

    return [row for rows in part["slices"].groupby("subject").indices.values() for row in evenly(np.sort(rows), count)]


def maps_of(images, reconstructions, bits, z_scores):
    """Name -> (N, H, W): by how much each pixel of the images (N, H, W) uint8 stands out."""
    from metrics import over_pixels

    shape = images.shape[1:]
    return {**differences("reconstruction error", images, reconstructions, bits.shape[1:]),
            "bits": over_pixels(bits, shape), "z": over_pixels(z_scores, shape),
            "z, blurred": over_pixels(z_scores, shape, blurred=True), "|z|": over_pixels(np.abs(z_scores), shape)}


def differences(name, images, others, grid):
    """Absolute differences of images (N, H, W) uint8, and the same blurred by half a patch of the code grid."""
    difference = np.abs(images / 255 - others / 255)
    return {name: difference, f"{name}, blurred": ndimage.gaussian_filter(
        difference, (0, *np.array(images.shape[1:]) / grid / 2))}


def larger(lesions, row):
    """The numbers of the lesions of a slice that are not of the smallest size."""
    return [i for i, lesion in enumerate(lesions)
            if lesion.row == row and lesion.sign != predict.NONE and lesion.radius > min(RADII)]


def heal_slices(run, lesions, codes, z_scores, known):
    """The larger lesions of one slice of each person, healed: their numbers, and images (M, H, W) uint8.

    The codes are kept in the run's cache person by person, so that this can be stopped and gone on with.
    """
    from metrics import condition_ids

    columns, healed, numbers = condition_ids(known, run.config["labels"]), [], []
    for person in known["subject"].unique():
        row = [lesion.row for lesion, subject in zip(lesions, known["subject"], strict=True) if subject == person][0]
        mine = larger(lesions, row)
        content = hashlib.sha256(codes[mine].tobytes() + z_scores[mine].tobytes()).hexdigest()
        healed.append(run.cached("healed", content, lambda mine=mine: predict.heal(
            run.prior, codes[mine], z_scores[mine], {name: ids[mine] for name, ids in columns.items()}, 0)))
        numbers += mine
    return numbers, run.decode(np.concatenate(healed), "healed slices")


def measure(lesions, subjects, truths, brains, maps):
    """AUC and average precision of every map for every lesion: a DataFrame of a row each."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    rows = []
    for i, lesion in enumerate(progress(lesions, desc="measuring")):
        brain = brains[lesion.row]
        truth = truths[i][brain]
        rows += [{"person": subjects[lesion.row], **lesion._asdict(), "map": name, "lesion_share": truth.mean(),
                  "auc": roc_auc_score(truth, values[i][brain]),
                  "average_precision": average_precision_score(truth, values[i][brain])}
                 for name, values in maps.items()]
    return pd.DataFrame(rows)


def likelier(lesions, truths, bits):
    """Whether the codes that a lesion touches are likelier than those of the same slice without it, per lesion."""
    without = {lesion.row: i for i, lesion in enumerate(lesions) if lesion.sign == predict.NONE}
    (h, w), (height, width) = bits.shape[1:], truths.shape[1:]
    touched = truths.reshape(-1, h, height // h, w, width // w).any(axis=(2, 4))
    return [bits[i][cells].sum() < bits[without[lesion.row]][cells].sum()
            for i, (lesion, cells) in enumerate(zip(lesions, touched, strict=True))]


def summarise(table, groups):
    """Means over people with their intervals, a row for each of the groups (names of columns) and each map."""
    from metrics import mean_by_person, value_of

    rows = []
    for keys, part in table.groupby(["slices", *groups, "map"], sort=False):
        row = {**dict.fromkeys(("slices", "person", "radius", "sign", "edge"), "all"),
               **dict(zip(["slices", *groups, "map"], keys, strict=True))}
        numbers = ["auc", "average_precision", "lesion_share", "likelier"]
        for name, metric in mean_by_person(part[numbers].to_dict("records"), part["person"]).items():
            row[name] = value_of(metric)
            if isinstance(metric, dict) and name in ("auc", "average_precision"):
                row |= {f"{name}_low": metric["low"], f"{name}_high": metric["high"]}
        rows.append(row | {"people": part["person"].nunique(), "lesions": part[["row", "radius", "sign", "edge"]]
                           .drop_duplicates().shape[0]})
    return rows


def write_examples(folder, run, lesions, images, maps):
    """Write slices with lesions in the run's frame, and a sheet of them and of what two of the maps make of them."""
    import dataset

    with new_folder(folder) as unfinished:
        for lesion, image in zip(lesions, images, strict=True):
            name = f"{lesion.sign}_{lesion.edge}_{lesion.radius:02d}.png"
            save_png(unfinished / name, dataset.paste(image[..., None], run.box, run.frame))
        error, z = maps["reconstruction error, blurred"], maps["z"]
        shown = np.concatenate([images / 255, error / error.max(), z / 24])[..., None]  # the colours end at 0.25
        image_sheet(Path(folder).with_suffix(".png"), shown, len(images), ("slice", "error,\nblurred", "z of codes"),
                    differences=(2,), title="synthetic lesions in a test person's slice: what the error and the codes' "
                    "likelihood show of them; red: z up to 6, blue: likelier than usual")


def main(argv):
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--data")
    parser.add_argument("--slices", type=int, default=3, help="of each person (default %(default)s)")
    parser.add_argument("--out", required=True, metavar="CSV")
    parser.add_argument("--examples", metavar="DIR")
    parser.add_argument("--heal", action="store_true", help="one slice of each person, too; takes long")
    flags = parser.parse_args(argv)
    import dataset
    from metrics import brain_mask, encode_images

    run = evaluate.Run(evaluate.parse_flags(["--run", flags.run, "--split", "test"]
                                            + (["--data", flags.data] if flags.data else [])))
    evaluate.note_look(run.folder, f"lesions.py {' '.join(argv)}")
    part = run.load("test")
    crops, subjects = part["crops"], part["slices"]["subject"].to_numpy()
    chosen = choose_slices(part, flags.slices)
    kinds = [(radius, predict.NONE, "sharp") for radius in RADII] + list(product(RADII, SIGNS, EDGES))
    lesions = [Lesion(row, *kind) for row in chosen for kind in kinds]
    brains = {row: brain_mask(crops[row]) for row in chosen}
    centres = {row: draw_centre(brains[row], row) for row in chosen}
    painted, truths = (np.stack(column) for column in zip(*(
        paint(crops[lesion.row], brains[lesion.row], lesion, centres[lesion.row]) for lesion in lesions), strict=True))
    codes = encode_images(run.vqvae, painted[..., None], dataset.Box(0, 0, *crops.shape[1:]))
    known = part["slices"].iloc[[lesion.row for lesion in lesions]].reset_index(drop=True)
    validation = predict.load_validation(flags, run.config, run.slices)
    bits, z_scores, _ = predict.compare_codes((run.vqvae, run.prior), run.config, known, codes, validation)
    maps = maps_of(painted, run.decode(codes, "lesions"), bits, z_scores)
    table = measure(lesions, subjects, truths, brains, maps)
    table["likelier"] = np.repeat(likelier(lesions, truths, bits), len(maps)).astype(float)
    table["slices"] = "all"
    if flags.heal:  # the other maps of the same lesions beside it
        numbers, healed = heal_slices(run, lesions, codes, z_scores, known)
        same = table[np.isin(np.arange(len(table)) // len(maps), numbers)]
        table = pd.concat([table, pd.concat([same, measure(
            [lesions[i] for i in numbers], subjects, truths[numbers], brains,
            differences("slice - healed", painted[numbers], healed, codes.shape[1:]))]).assign(slices="healed")])
    real = table[table["sign"] != predict.NONE]
    rows = (summarise(real, []) + summarise(real, ["sign"]) + summarise(real, ["sign", "edge"])
            + summarise(table, ["radius", "sign", "edge"]) + summarise(real, ["person"]))
    with whole_file(flags.out) as path:
        pd.DataFrame(rows).round(4).to_csv(path, index=False)
    print(pd.DataFrame(summarise(real, ["sign", "edge"])).round(3).to_string())
    if flags.examples:
        shown = larger(lesions, chosen[len(chosen) // 2])
        print(part["slices"]["path"][lesions[shown[0]].row])
        write_examples(flags.examples, run, [lesions[i] for i in shown], painted[shown],
                       {name: values[shown] for name, values in maps.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
