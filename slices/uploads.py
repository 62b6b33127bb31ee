"""The slices of one file that somebody hands over, from its bytes: nothing is written, nothing is kept."""

import io
import zlib

import nibabel
import numpy as np
from PIL import Image, UnidentifiedImageError

from slices.grey import Tally, decode, into_frame, reason_of
from slices.images import quiet_decoders
from utils import UserError

LARGEST = 20  # MB of a file
LARGEST_UNPACKED = 512  # MB of a NIfTI volume
GZIP, NIFTI = b"\x1f\x8b", {348: nibabel.Nifti1Image, 540: nibabel.Nifti2Image}  # by the size of their headers
PERCENTILES = (0.5, 99.5)  # of a volume's voxels over 0 become black and white, unless they are bytes


def read_upload(name, data, white=None):
    """The slices of a PNG, JPEG or NIfTI file: a list of (H, W) uint8, of a volume the lowest first.

    Rows of a volume's run from anterior to posterior, columns from the person's left to the right.

    Args:
        name: what the sentences call the file.
        data: its bytes.
        white: the value of 16-bit PNG files that becomes 255 (default: by ``slices.grey.Tally``).

    Raises:
        UserError: it is larger than LARGEST, or is no such file.
    """
    if len(data) > LARGEST * 2**20:
        raise UserError(f"{name} has {len(data) / 2**20:.0f} MB: no file over {LARGEST} MB is taken")
    if data[:2] == GZIP:
        data = _unpacked(name, data)
    kind = NIFTI.get(int.from_bytes(data[:4], "little")) or NIFTI.get(int.from_bytes(data[:4], "big"))
    try:
        return _planes(kind, data) if kind else [_picture(data, white)]
    except UserError as error:
        raise UserError(f"{name} cannot be used: {error}") from None
    except Exception as error:  # whatever a decoder makes of broken bytes
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "not a PNG, JPEG or NIfTI file" if unknown else reason_of(error)
        raise UserError(f"{name} cannot be read ({reason})") from None


def in_frame(grey, frame):
    """A slice (H', W') uint8 of any size in (height, width), as ``slices.images.load_images`` brings it there."""
    return np.asarray(into_frame(Image.fromarray(grey), frame))


def _picture(data, white):
    """A PNG or JPEG file as (H, W) uint8."""
    tally = Tally()
    with quiet_decoders():
        grey = decode(io.BytesIO(data), None, white, tally).grey
        return decode(io.BytesIO(data), None, tally.white).grey if grey is None else grey


def _unpacked(name, data):
    """The content of a gzip file, of which LARGEST_UNPACKED at most is unpacked."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        content = unpacker.decompress(data, LARGEST_UNPACKED * 2**20)
    except zlib.error:
        raise UserError(f"{name} cannot be read (its compression is damaged)") from None
    if unpacker.unconsumed_tail:
        raise UserError(f"{name} unpacks to more than {LARGEST_UNPACKED} MB: give it slice by slice")
    return content


def _planes(kind, data):
    """The axial planes of a NIfTI volume: list of (H, W) uint8.

    Raises:
        UserError: it is not one grey volume.
    """
    image = nibabel.as_closest_canonical(kind.from_bytes(data))
    shape = (*image.shape, 1)[:3]
    if len(image.shape) not in (2, 3) and set(image.shape[3:]) != {1}:
        raise UserError(f"it holds {'x'.join(map(str, image.shape))} voxels, not one volume")
    if image.get_data_dtype().kind not in "iuf":
        raise UserError("its voxels are no grey values")
    voxels = np.asanyarray(image.dataobj).reshape(shape)  # (X, Y, Z): x to the right, y to the front, z up
    if voxels.dtype != np.uint8:
        voxels = _as_bytes(voxels.astype(np.float32))
    return list(np.ascontiguousarray(voxels[:, ::-1].transpose(2, 1, 0)))


def _as_bytes(voxels):
    """Voxels of any range as uint8, by PERCENTILES of those over 0."""
    voxels = np.where(np.isfinite(voxels), voxels, 0)
    if not (voxels > 0).any():
        raise UserError("none of its voxels is over 0")
    low, high = np.percentile(voxels[voxels > 0], PERCENTILES)
    return np.rint(255 * np.clip((voxels - low) / max(high - low, 1e-12), 0, 1)).astype(np.uint8)
