"""What a NIfTI file says about itself: whether it is one grey scan of a head, and where its voxels lie, in mm."""

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from utils import UserError

SIDES = (30, 700)  # mm that a volume can measure
UNITS = {1.0: "mm", 1000.0: "metres", 0.001: "microns"}  # so many mm each; SIDES lets one of them be right
TEMPLATE = (3, 4)  # codes of an affine that leads to the space of a template, not of the patient
SHIFT, TURN, STRETCH = 2.0, 2.0, 0.02  # mm, degrees, share: two affines that differ by more do not agree
FEW, SOME = 16, 64  # distinct whole numbers that no scan has; and that none has in patches
LARGEST = float(np.finfo(np.float32).max)


def check_volume(image):
    """The same image in three dimensions with float32 voxels, its affine in mm, and what was odd about it.

    Args:
        image: what nibabel loads.

    Returns:
        A nibabel.Nifti1Image; how many of its voxels were not finite (now 0); and what was odd and has been seen to,
        a list of str.

    Raises:
        UserError: it is not one grey volume of a head, or its header does not tell reliably where left is.
    """
    if isinstance(image, nibabel.AnalyzeImage) and not isinstance(image, nibabel.Nifti1Pair):
        raise UserError("it is ANALYZE, not NIfTI, and does not tell left from right: convert it with what made it")
    if not isinstance(image, nibabel.Nifti1Pair):
        raise UserError(f"it is of the kind {type(image).__name__}, not NIfTI")
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise UserError(f"it has {len(shape)} dimensions ({'x'.join(map(str, shape))}), not 3: give one volume")
    affine, remarks = _affine(image, shape)
    voxels, not_finite = _voxels(image, shape)
    return nibabel.Nifti1Image(voxels, affine), not_finite, remarks


# ---- voxels -----------------------------------------------------------------------------------


def _voxels(image, shape):
    """The grey values as float32, those that are not finite as 0, and how many these were.

    Raises:
        UserError: they are no grey values of a scan.
    """
    kind = image.get_data_dtype()
    if kind.fields:
        raise UserError("its voxels are colours (RGB), as in a screenshot or a colour map: give the grey scan")
    if kind.kind == "c":
        raise UserError("its voxels are complex numbers, magnitude and phase in one: give the magnitude")
    with np.errstate(over="ignore"):
        voxels = image.get_fdata(dtype=np.float32).reshape(shape)
    finite = np.isfinite(voxels)
    if not finite.all():
        _refuse_overflow(np.asanyarray(image.dataobj).reshape(shape), finite)
    voxels = np.where(finite, voxels, 0)
    if np.ptp(voxels) == 0:
        raise UserError("all its voxels are the same")
    _refuse_labels(voxels)
    return voxels, int((~finite).sum())


def _refuse_overflow(raw, finite):
    """Refuse voxels that are numbers in the file, ``raw``, and too large to be so in 32 bits."""
    too_large = np.isfinite(raw) & ~finite
    if too_large.any():
        raise UserError(
            f"{too_large.sum()} of its voxels are larger than 32-bit numbers can be (up to "
            f"{np.abs(raw[too_large]).max():.2g}, where {LARGEST:.2g} is the most): divide them all by one number"
        )


def _refuse_labels(voxels):
    """Refuse a mask, or a map of labels: few whole numbers, or some of them in patches."""
    if not _few_whole_numbers(voxels.ravel()[:: max(1, voxels.size // 10000)]):
        return  # a look at a part is enough for most
    values, counts = np.unique(voxels, return_counts=True)
    if not _few_whole_numbers(values):
        return
    if len(values) <= FEW or _in_patches(voxels, counts[values != 0]):
        shown = ", ".join(f"{value:.0f}" for value in values[:5])
        raise UserError(
            f"it holds {len(values)} whole numbers only ({shown}{' …' if len(values) > 5 else ''}), as a mask or a map "
            "of labels does: give the scan"
        )


def _few_whole_numbers(values):
    return bool((values == np.rint(values)).all()) and len(np.unique(values)) <= SOME


def _in_patches(voxels, counts):
    """Whether most neighbours are alike although no single value fills the head, as a drawn one could have it."""
    inside = (voxels[1:] != 0) & (voxels[:-1] != 0)
    alike = (voxels[1:] == voxels[:-1]) & inside
    return alike.sum() > 0.8 * inside.sum() and counts.max() < 0.7 * counts.sum()


# ---- where the voxels lie ---------------------------------------------------------------------


def _affine(image, shape):
    """The affine to use, (4, 4) in mm, and what was odd about the header.

    The sform, or the qform where there is none, or an empty one, or one that leads to a template.

    Raises:
        UserError: there is none, or there are two that contradict each other, or it does not measure a head.
    """
    remarks = []
    forms = _forms(image, remarks)
    units = {name: _unit(shape, nibabel.affines.voxel_sizes(affine)) for name, (affine, _) in forms.items()}
    for unit in sorted(set(units.values()) - {1.0}):
        names = [name for name in units if units[name] == unit]
        remarks.append(f"its {' and its '.join(names)}, in {UNITS[unit]}, became mm")
        forms |= {name: (np.diag([unit, unit, unit, 1]) @ forms[name][0], forms[name][1]) for name in names}
    codes = {name: "".join(map(str, nibabel.aff2axcodes(affine))) for name, (affine, _) in forms.items()}
    if len(set(codes.values())) > 1 and not _point_alike(*(affine for affine, _ in forms.values()), shape):
        raise UserError(
            f"its two affines disagree on where left is (qform {codes['qform']}, sform {codes['sform']}): "
            "find out which is right, and set the other to it"
        )
    name = _choice(image, shape, forms, remarks)
    affine = forms[name][0]
    extent = np.array(shape) * nibabel.affines.voxel_sizes(affine)
    if extent.min() < SIDES[0] or extent.max() > SIDES[1]:
        raise UserError(f"it measures {'x'.join(f'{side:.0f}' for side in extent)} mm, which no scan of a head does")
    return affine, remarks


def _forms(image, remarks):
    """The affines that the header gives, {"qform": (affine, code), "sform": …}, without empty and damaged ones."""
    forms, why = {}, {}
    for name in ("qform", "sform"):
        try:
            affine, code = getattr(image, f"get_{name}")(coded=True)
        except (HeaderDataError, ValueError):  # a quaternion that is none
            why[name] = "damaged"
            continue
        if affine is not None and _is_singular(affine):
            why[name] = "empty"
        elif affine is not None:
            forms[name] = affine, int(code)
    if not forms and not why:
        raise UserError("it has no affine (qform and sform codes are 0), so nobody can tell left from right")
    if not forms:
        raise UserError(f"its affine is singular (its {' and its '.join(map(' is '.join, why.items()))})")
    for name, what in why.items():
        remarks.append(f"its {name} is {what}, and its {next(iter(forms))} was used")
    return forms


def _is_singular(affine):
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not sizes.all():
        return True
    return abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3


def _unit(shape, sizes):
    """How many mm its unit is, of UNITS, whatever it says of it: the one in which it measures a head, else 1."""
    extent = np.array(shape) * sizes
    fitting = [unit for unit in UNITS if SIDES[0] <= unit * extent.min() and unit * extent.max() <= SIDES[1]]
    return fitting[0] if fitting else 1.0


def _choice(image, shape, forms, remarks):
    """Which of the affines to use, "sform" or "qform".

    Raises:
        UserError: they contradict each other, or the size of the voxels in the header.
    """
    if "sform" not in forms:
        return "qform"
    (sform, code), (qform, qform_code) = forms["sform"], forms.get("qform", (None, 0))
    shift, turn = _apart(qform, sform, shape) if qform is not None else (0.0, 0.0)
    own, told = nibabel.affines.voxel_sizes(sform), np.abs(image.header["pixdim"][1:4].astype(float))
    stretch = 0.0
    if np.isfinite(told).all() and told.all():
        told = told * _unit(shape, told)
        stretch = np.abs(own / told - 1).max()
    if turn <= TURN and stretch <= STRETCH:
        if shift > SHIFT:
            remarks.append(f"its qform and sform are {shift:.0f} mm apart, which moves the head and nothing else")
        return "sform"
    if code in TEMPLATE and qform is not None and qform_code not in TEMPLATE:
        remarks.append("its sform leads to a template, and its qform, the patient's own space, was used")
        return "qform"
    if stretch > STRETCH:
        raise UserError(
            f"its sform and its pixdim differ by {stretch:.0%} in the size of the voxels ({_by(own)} and {_by(told)} "
            "mm): find out which is right, and set the other to it"
        )
    raise UserError(
        f"its qform and its sform differ by {turn:.1f} degrees and {shift:.0f} mm: find out which is right, and set "
        "the other to it, such as with fslorient -copysform2qform"
    )


def _point_alike(one, other, shape):
    """Whether two affines agree although their axes are named differently, as those halfway between two are."""
    same_hand = np.linalg.det(one[:3, :3]) * np.linalg.det(other[:3, :3]) > 0
    return same_hand and _apart(one, other, shape)[1] <= TURN


def _apart(one, other, shape):
    """How far the middle of the volume lies apart in two affines, in mm, and how far its axes do, in degrees."""
    middle = np.append((np.array(shape) - 1) / 2, 1)
    turns = [np.linalg.svd(affine[:3, :3]) for affine in (one, other)]  # the nearest rotations are U V
    (first, second) = (u @ v for u, _, v in turns)
    cosine = (np.trace(first.T @ second) - 1) / 2
    shift = np.linalg.norm(((one - other) @ middle)[:3])
    return float(shift), float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _by(sizes):
    return "x".join(f"{size:.3g}" for size in sizes)
