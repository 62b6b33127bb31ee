"""The demo cohort: simulated people, warped from the one ICBM152 brain template that nilearn ships.

Each person is a pull-back: an affine map, a smooth random displacement and a growth of the ventricles carry
every pixel of a slice to the point of the template whose tissue it shows. People labelled AD have larger
ventricles and wider sulci on average, so that the label means something that a figure can show. Nothing about
disease follows from them.
"""

import hashlib
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.interpolate import BSpline

from slices.processes import in_processes
from utils import UserError, load_json, new_folder, progress, random_generator, save_json

GENERATOR_VERSION = 1  # to be raised whenever the same arguments make other pictures
STATEMENT = "Simulated people: warps of one template (ICBM152). Nothing about disease follows from them."
LABELS = ("AD", "NC")
FIRST_SUBJECT = 100001
TEST_SHARE = 0.2

SLICES = 20
FRAME = (240, 256)  # of the slice as it is rendered, in pixels of 1 mm
BELOW_TOP = 57.5  # mm from the top of the brain down to the middle of the slices
ORIGIN = np.array([98, 134, 72])  # the voxel of the 1 mm template at (0, 0, 0) mm
CENTRE = np.array([0, -17, 0])  # mm; the middle of the template's brain in the axial plane
TOP = 80  # mm; the top of the template's cortex
SLAB = (slice(24, 173), slice(25, 210), slice(48, 118))  # the voxels that the slices of anyone can reach
BOX = (192, 160)  # pixels of the frame that anyone's brain can reach

VENTRICLE_RADIUS = 5  # mm; a ventricle_scale of s moves the wall outwards by about (s - 1) times this
VENTRICLE_REACH = 14  # mm over which the push on the tissue around fades
GROWTH_STEPS = 2  # small ones, so that no point shoots through a thin ventricle and out on the other side


def make_cohort(folder, people=100, seed=0, image_size=(240, 256), workers=None):
    """Make ``folder`` hold a cohort of simulated people, in the layout of the ADNI course data.

    The slices are ``folder/{train,test}/{AD,NC}/<subject>_<slice>.png``: 8-bit grey, skull-stripped with a
    background of exactly 0, anterior at the top, the subject's left at the left; 20 axial slices per person,
    1 mm apart, the lowest first, around the lateral ventricles. ``folder/manifest.json`` tells what was made,
    with a fingerprint of all files and the true area of the lateral ventricles in every slice: in mm²,
    whatever the pixel size, and 0 where a slice passes below or above small ones.

    Person i (anatomy, contrast, noise, label, numbers in the file names) depends on (seed, i) alone, and the
    pixels on image_size besides; only who is in ``test`` depends on the number of people. Even i are AD,
    odd i NC; a fifth of each label is in ``test``. The same call makes the same bytes, with any number of
    workers.

    Args:
        folder: where to make it; it appears whole or not at all. A finished cohort with the same arguments is
            returned as it is.
        people: int ≥ 4.
        seed: int ≥ 0.
        image_size: (height, width) in pixels, each ≥ 32. The field of view is always 240 mm by 256 mm, so
            that (240, 256) has pixels of 1 mm and (120, 128) of 2 mm.
        workers: number of processes; by default one per core, at most 8.

    Returns:
        The folder, a Path.

    Raises:
        UserError: an argument is out of range, the folder holds something else or cannot be written, or
            nilearn is missing.
    """
    folder, image_size = Path(folder), [int(side) for side in image_size]
    arguments = {"generator_version": GENERATOR_VERSION, "people": people, "seed": seed, "image_size": image_size}
    _check_arguments(people, seed, image_size)
    if not holds_cohort(folder, arguments):
        _make(folder, arguments, workers)
    return folder


def demo_folder(people, image_size, seed=0):
    """Where a demo cohort is made when nobody says where: data/demo-100-240x256-seed0, under the current folder."""
    height, width = image_size
    return Path("data", f"demo-{people}-{height}x{width}-seed{seed}")


def _check_arguments(people, seed, image_size):
    if people < 4:
        raise UserError(f"a cohort needs at least 4 people, not {people}: two of each label")
    if seed < 0:
        raise UserError(f"the seed of a cohort must be at least 0, not {seed}")
    if len(image_size) != 2 or min(image_size) < 32:
        raise UserError(f"the images of a cohort must be at least 32 pixels a side, not {image_size}")


def _make(folder, arguments, workers):
    """Make a cohort with these ``arguments`` of its manifest, whole or not at all."""
    if find_spec("nilearn") is None:
        raise UserError("the demo cohort needs nilearn, which ships the template: pip install nilearn")
    try:
        with new_folder(folder) as built:
            subjects = build(built, arguments["people"], arguments["seed"], arguments["image_size"], workers)
            manifest = {
                "simulated": True,
                "statement": STATEMENT,
                **arguments,
                "fingerprint": fingerprint(built, subjects),
                "subjects": subjects,
            }
            save_json(built / "manifest.json", manifest)
    except BrokenProcessPool:
        raise UserError(
            "a worker was killed, as the system does when memory is short: free some, or make fewer people"
        ) from None
    except UserError as error:
        if not holds_cohort(folder, arguments):  # another process was not faster
            raise UserError(f"the demo cohort cannot be made: {error}") from None


def holds_cohort(folder, arguments):
    """Whether ``folder`` is a finished cohort made with these arguments; False if there is nothing.

    Raises:
        UserError: it holds anything else.
    """
    try:
        if not any(folder.iterdir()):
            return False
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"{folder} cannot be a folder for the demo cohort ({error.strerror})") from None
    manifest = load_json(folder / "manifest.json") if (folder / "manifest.json").is_file() else None
    if not isinstance(manifest, dict) or "generator_version" not in manifest:
        raise UserError(f"{folder} holds something other than a demo cohort: choose a new or empty folder")
    for name, value in arguments.items():
        if manifest.get(name) != value:
            raise UserError(
                f"{folder} holds a demo cohort with {name} {manifest.get(name)}, not {value}: "
                f"choose another folder, or delete that one"
            )
    return True


def fingerprint(folder, subjects):
    """The sha256 over the names and bytes of all slices, in the order of the manifest, in hexadecimal."""
    digest = hashlib.sha256()
    for record in subjects:
        for entry in record["slices"]:
            digest.update(entry["file"].encode() + b"\0" + (folder / entry["file"]).read_bytes())
    return digest.hexdigest()


def build(folder, people, seed, image_size, workers=None):
    """Write everybody's slices below ``folder``; returns the ``subjects`` of the manifest, in order."""
    splits = split_people(people, seed)
    for split in ("train", "test"):
        for label in LABELS:
            (folder / split / label).mkdir(parents=True)
    write = partial(write_person, folder, seed, image_size)
    with closing(in_processes(write, list(enumerate(splits)), workers)) as results:
        records = list(progress(results, total=people, desc="cohort", unit="person"))
    return sorted(records, key=lambda record: record["subject"])


def split_people(people, seed):
    """ "train" or "test" for every person: a fifth of each label, at least one, drawn at random, is "test"."""
    splits = ["train"] * people
    for group in range(len(LABELS)):
        members = np.arange(group, people, len(LABELS))
        tested = random_generator(seed, "cohort split", group).permutation(members)
        for i in tested[: max(1, round(TEST_SHARE * len(members)))]:
            splits[i] = "test"
    return splits


def write_person(folder, seed, image_size, i, split):
    """Write the 20 slices of person i below ``folder``; returns the person's entry of the manifest."""
    person = draw_person(seed, i)
    images, ventricles = render(person, template(), random_generator(seed, "cohort noise", i))
    areas = ventricles.sum((1, 2), dtype=np.float64)
    subject, label, files = str(FIRST_SUBJECT + i), LABELS[i % len(LABELS)], []
    for number, image, area in zip(range(person.first_slice, 1000), images, areas, strict=False):
        file = f"{split}/{label}/{subject}_{number}.png"
        resized = Image.fromarray(image).resize(image_size[::-1], Image.Resampling.HAMMING)
        Image.fromarray(np.rint(np.asarray(resized) * 255).astype(np.uint8)).save(folder / file)
        files.append({"file": file, "ventricle_area_mm2": round(float(area), 1)})
    return {
        "subject": subject,
        "label": label,
        "split": split,
        "ventricle_scale": round(float(person.ventricle_scale), 4),
        "slices": files,
    }


# ---- the person -----------------------------------------------------------------------------


def draw_person(seed, i):
    """What makes person i: a function of (seed, i) alone; lengths in mm, intensities in [0, 1]."""
    random = random_generator(seed, "cohort person", i)
    patient = LABELS[i % len(LABELS)] == "AD"
    return SimpleNamespace(
        first_slice=int(random.integers(72, 85)),
        ventricle_scale=np.clip(random.normal(1.65 if patient else 1.15, 0.22), 0.8, 2.3),
        sulcus_depth=np.clip(random.normal(1.3 if patient else 0.8, 0.2), 0.3, 1.8),
        # the template is larger than people are, and its ventricles lie higher below the top
        size=np.array([0.88, 0.88, 0.845]) * random.normal(1, 0.025) * random.normal(1, 0.02, 3),
        tilt=np.radians(random.normal(0, [2.0, 1.5, 2.0])),  # about the axes x, y, z
        # control values of splines, which average them: the fields spread about 0.4 times as far
        coarse=random.normal(0, 5.5, (3, 9, 11, 9)),
        fine=random.normal(0, 2.5, (3, 20, 24, 20)),
        bias=random.normal(0, 0.12, (4, 4, 4)),
        folds=random.normal(0, 1.0, (20, 24, 20)),
        tissues=np.array([0.07, 0.43, 0.86]) + random.normal(0, [0.015, 0.025, 0.02]),  # CSF, grey, white
        noise=random.uniform(0.012, 0.03),
    )


# ---- the template ---------------------------------------------------------------------------


@lru_cache(maxsize=1)
def template():
    """The slab of the ICBM152 template that the slices lie in: float32 volumes (X, Y, Z), 1 mm voxels."""
    from nilearn import datasets

    t1, brain = (
        np.ascontiguousarray(load(resolution=1).get_fdata(dtype=np.float32)[SLAB])
        for load in (datasets.load_mni152_template, datasets.load_mni152_brain_mask)
    )
    depth = ndimage.distance_transform_edt(brain)  # mm below the brain's surface
    ventricles = lateral_ventricles(t1, depth)
    outside = ndimage.distance_transform_edt(~ventricles) - ndimage.distance_transform_edt(ventricles)
    distance = ndimage.gaussian_filter(outside.astype(np.float32), 0.7)
    towards = -np.stack(np.gradient(ndimage.gaussian_filter(distance, 1.5)))  # (3, X, Y, Z)
    valleys = ndimage.grey_closing(t1, 9) - t1  # dark and narrow: sulci, fissures, edges of ventricles
    sulci = np.clip(valleys / 0.25, 0, 1) * np.clip(distance / 8, 0, 1)
    sharp = t1 + 0.8 * (t1 - ndimage.gaussian_filter(t1, 2.0))  # an average of 152 people is blurred
    return SimpleNamespace(
        brain=brain,
        distance=distance,
        sulci=sulci,
        towards=towards * np.exp(-np.abs(distance) / VENTRICLE_REACH),
        t1=ndimage.spline_filter(sharp, order=3, output=np.float32),
    )


def lateral_ventricles(t1, depth):
    """The mask of the two lateral ventricles: the largest dark bodies deep in the brain, off the midline."""
    bodies, _ = ndimage.label((t1 < 0.45) & (depth > 12))
    midline = ORIGIN[0] - SLAB[0].start
    sizes = np.bincount(bodies.ravel())
    sizes[np.unique(bodies[midline])] = 0  # the third ventricle and the cisterns, and what is not dark
    cores = np.isin(bodies, np.argsort(sizes)[-2:])
    return ndimage.binary_dilation(cores, iterations=2, mask=t1 < 0.58)


# ---- the picture ----------------------------------------------------------------------------


def render(person, volumes, random):
    """A person's slices, float32 (20, 240, 256) in [0, 1], 1 mm pixels; and how much of each is ventricle."""
    places, fields = warp(person)  # (3, 20, 192, 160) voxels of the slab; bias and folds, (20, 192, 160)
    brain = ndimage.map_coordinates(volumes.brain, places, order=1) > 0.5
    places = places[:, brain]  # (3, N): only the brain is worth the work
    bias, folds = (field[brain] for field in fields)

    growth = np.float32((person.ventricle_scale - 1) * VENTRICLE_RADIUS)
    for _ in range(GROWTH_STEPS):
        places += (
            growth
            / GROWTH_STEPS
            * np.stack([ndimage.map_coordinates(part, places, order=1) for part in volumes.towards])
        )
    ventricles = np.clip(0.5 - ndimage.map_coordinates(volumes.distance, places, order=1), 0, 1)
    t1 = ndimage.map_coordinates(volumes.t1, places, order=3, prefilter=False, mode="nearest")
    t1 -= 0.11 * person.sulcus_depth * (1 + folds) * ndimage.map_coordinates(volumes.sulci, places, order=1)

    csf, grey, white = person.tissues
    tissue = np.interp(t1, [0.2, 0.38, 0.56, 0.7, 0.89, 1.1], [0.02, csf, grey - 0.06, grey + 0.06, white, 1])
    tissue = (1 - ventricles) * tissue + ventricles * csf
    signal = tissue * np.exp(bias) + person.noise * random.standard_normal(tissue.shape)
    magnitude = np.hypot(signal, person.noise * random.standard_normal(tissue.shape))  # Rician

    frames = np.zeros((2, SLICES, *FRAME), np.float32)
    top, left = (FRAME[0] - BOX[0]) // 2, (FRAME[1] - BOX[1]) // 2
    inside = frames[:, :, top : top + BOX[0], left : left + BOX[1]]
    inside[0][brain] = np.clip(magnitude, 1 / 255, 1)
    inside[1][brain] = ventricles
    return frames


def warp(person):
    """Where in the slab the pixels of a person's slices come from, and the person's smooth fields there.

    Returns:
        places: float32 (3, 20, 192, 160), voxels of the slab, before the growth of the ventricles.
        fields: the bias field (a logarithm) and the modulation of the sulci, each float32 (20, 192, 160).
    """
    # rows run from anterior to posterior, columns from the subject's left to right, slices upwards
    upwards = TOP * person.size[2] - BELOW_TOP + np.arange(SLICES) - (SLICES - 1) / 2
    rows, columns = ((side - 1) / 2 - np.arange(side) for side in BOX)
    z, y, x = np.meshgrid(upwards, rows, -columns, indexing="ij")  # mm about the centre of the brain
    turned = np.einsum("ij,j...->i...", rotation(*person.tilt), np.stack([x, y, z])).astype(np.float32)

    axes = (-columns / 100, rows / 110, upwards / 100)  # the control grids span ±100, ±110 and ±100 mm
    shift = np.stack(
        [smooth_field(a, axes) + smooth_field(b, axes) for a, b in zip(person.coarse, person.fine, strict=True)]
    )  # (3, 20, 192, 160)
    origin = ORIGIN + CENTRE - [side.start for side in SLAB]
    scale, origin = (np.float32(value).reshape(3, 1, 1, 1) for value in (person.size, origin))
    fields = smooth_field(person.bias, axes), smooth_field(person.folds, axes)
    return turned / scale + shift + origin, fields


def rotation(about_x, about_y, about_z):
    """The rotation matrix (3, 3) of three angles in radians, z first."""

    def plane(angle, i, j):
        matrix = np.eye(3)
        matrix[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        return matrix

    return plane(about_x, 1, 2) @ plane(about_y, 2, 0) @ plane(about_z, 0, 1)


def smooth_field(control, axes):
    """A cubic B-spline of control values (X, Y, Z) over [-1, 1]³, on the axes (x, y, z): float32 (z, y, x)."""
    along_x, along_y, along_z = (
        spline_weights(np.clip(axis, -1, 1), count) for axis, count in zip(axes, control.shape, strict=True)
    )
    # plain einsum, one axis at a time: the threads of a BLAS get in the way of the other workers
    field = np.einsum("zk,ijk->zij", along_z, control)
    field = np.einsum("yj,zij->zyi", along_y, field)
    return np.einsum("zyi,xi->zyx", field, along_x).astype(np.float32)


def spline_weights(axis, count):
    """The weights (P, count) of ``count`` uniform cubic B-splines at P places in [-1, 1]."""
    step = 2 / (count - 3)
    knots = -1 + step * np.arange(-3, count + 1)
    return BSpline.design_matrix(np.clip(axis, -1, 1 - 1e-9), knots, 3).toarray()
