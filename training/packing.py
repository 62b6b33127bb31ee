"""A .keras file made small, and the same bytes for the same weights."""

import io
import json
import zipfile

import h5py
import numpy as np

WEIGHTS, METADATA = "model.weights.h5", "metadata.json"  # as Keras calls them in its archive
NO_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can tell


def rounded(values):
    """An array as float16; as it is where that cannot hold it: whole numbers, and what is too large.

    Args:
        values: array of any shape and dtype.
    """
    if values.dtype != np.float32:
        return values
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.isfinite(half).all() else values


def pack(path):
    """Rewrite a .keras file: its weights rounded to float16 and compressed, and no date in it.

    Keras opens it as before, and reads the weights into float32.
    """
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts[WEIGHTS] = packed(parts[WEIGHTS])
    parts[METADATA] = undated(parts[METADATA])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name, NO_DATE), content, zipfile.ZIP_DEFLATED)


def packed(content):
    """The bytes of an HDF5 file -> those of one with the same groups, its arrays rounded and compressed."""
    smaller = io.BytesIO()
    with h5py.File(io.BytesIO(content)) as old, h5py.File(smaller, "w") as new:

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                values = rounded(item[()])
                whole = {"chunks": values.shape, "compression": 9, "shuffle": True} if values.size > 1 else {}
                made = new.create_dataset(name, data=values, **whole)
            else:
                made = new.create_group(name)
            made.attrs.update(item.attrs)

        old.visititems(copy)
    return smaller.getvalue()


def undated(content):
    """The bytes of metadata.json without the time of saving."""
    metadata = json.loads(content)
    metadata.pop("date_saved", None)
    return json.dumps(metadata).encode()
