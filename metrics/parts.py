"""A split of a run, encoded and decoded, and samples that go with it; what took long is kept."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from metrics.array_file import ArrayFile
from metrics.measured import ImageSet
from sampling.draws import draw_codes
from sampling.run import encode_crops
from slices.frame import crop
from slices.index import condition_ids
from slices.memory import file_folder
from utils import UserError, file_sha256, whole_file

SAMPLE_BLOCK = 64  # grids per sampling call, always: floating-point sums differ with the shape of the batch


@dataclass
class Part:
    """The slices of one split of a run.

    Attributes:
        slices: DataFrame, their rows of the index.
        columns: dict of label and position, (N,) int32: the prior's conditions, ids from 1, 0 for an unknown label.
        codes: (N, h, w) int32.
        crops, reconstructions: ArrayFiles (N, H, W) uint8, in the crop box.
        error: (N,) float32, the mean absolute difference of crop and reconstruction in grey levels, 0 … 255.
        fingerprint: str, of the pixels.
        images: ArrayFile (N, frame, 1) uint8, as they are on disk. These, reconstructions and error are None where
            nobody asked for them.
    """

    slices: pd.DataFrame
    columns: dict
    codes: np.ndarray
    crops: ArrayFile
    reconstructions: ArrayFile | None
    error: np.ndarray | None
    fingerprint: str
    images: ArrayFile | None = None

    def image_set(self, images, rows=slice(None)):
        """Some rows of the part, an index or a mask, as an ImageSet with these images (N, H, W) uint8, in memory."""
        return self.searched_set(images).take(rows)

    def searched_set(self, images):
        """The whole part as an ImageSet whose images stay where they are."""
        return ImageSet(
            images, self.columns["label"], self.columns["position"] - 1, self.slices["subject"].to_numpy().astype(str)
        )


class Cache:
    """Arrays kept in a folder, by the hash of the models, the seed and what they are made from.

    Args:
        run: sampling.run.Run.
        seed: int, of what is random in them.
        folder: Path (default: cache/ in the run's folder).
    """

    def __init__(self, run, seed=0, folder=None):
        files = ("vqvae.keras", "prior.keras")[: 1 + (run.stage == "prior")]
        self.folder = folder or run.folder / "cache"
        self.key = "".join(file_sha256(run.folder / name) for name in files) + f" {seed}"

    def kept(self, name, content, compute):
        """``compute()``, an array: computed once for each ``content``, a str, then read.

        Codes lie there as int16 where they fit, half of what the models take.
        """
        digest = hashlib.sha256(f"{self.key} {content}".encode()).hexdigest()[:16]
        path = self.folder / f"{name}-{digest}.npz"
        if path.is_file():
            values = np.load(path, allow_pickle=False)["values"]
            return values.astype(np.int32) if values.dtype == np.int16 else values
        values = compute()
        is_short = values.dtype == np.int32 and values.max(initial=0) < 2**15
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as temporary:
            np.savez_compressed(temporary, values=values.astype(np.int16) if is_short else values)
        return values


def check_people(run, split):
    """Raise a UserError unless the run has two training people and two of the split ``split``."""
    for name in ("train", split):
        if run.slices["subject"][run.slices["split"] == name].nunique() < 2:
            raise UserError(f"the run {run.folder} has fewer than two {name} people: nothing can be measured")


def load_parts(run, cache, split):
    """The Parts of train, validation and ``split`` by name; images as on disk for ``split`` alone.

    Validation people are not decoded unless they are the split: only their codes are asked for.

    Raises:
        UserError: too few slices can be read.
    """
    return {
        name: load_part(run, cache, name, frames=name == split, decoded=name in ("train", split))
        for name in dict.fromkeys(("train", "validation", split))
        if (run.slices["split"] == name).any()
    }


def load_part(run, cache, split, frames=False, decoded=True):
    """The Part of one split. What there is of every slice goes into files block by block: it need not fit into memory.

    Args:
        run: sampling.run.Run.
        cache: Cache of the run.
        split: str.
        frames: whether to have the images as they are on disk, too.
        decoded: whether to have the reconstructions, and their error.

    Raises:
        UserError: fewer than two people of a split that is needed have readable slices, or there is no room for a file.
    """
    slices = run.slices[run.slices["split"] == split]

    def array_file(*shape):
        return ArrayFile((len(slices), *shape), np.uint8, file_folder(run.cache, cache.folder.absolute()))

    crops = array_file(*run.box[2:])
    reconstructions = array_file(*run.box[2:]) if decoded else None
    images = array_file(*run.frame, 1) if frames else None

    def keep(block):
        crops.append(crop(block, run.box)[..., 0])
        if frames:
            images.append(block)

    loaded = run.load_blocks(run.data, slices["path"], keep)
    slices = slices[loaded.usable].reset_index(drop=True)
    if (frames or split == "train") and slices["subject"].nunique() < 2:
        raise UserError(f"fewer than two {split} people in {run.data} have readable slices: nothing can be measured")
    codes = cache.kept(f"codes-{split}", loaded.fingerprint, lambda: encode_file(run.vqvae, crops))
    return Part(
        slices=slices,
        columns=condition_ids(slices, run.labels),
        codes=codes,
        crops=crops,
        reconstructions=reconstructions,
        error=decode_file(run, codes, crops, reconstructions, split) if decoded else None,
        fingerprint=loaded.fingerprint,
        images=images,
    )


def encode_file(vqvae, crops):
    """The codes (N, h, w) int32 of crops (N, H, W) uint8, an ArrayFile."""
    return encode_crops(vqvae, lambda rows: crops[rows][..., None], len(crops))


def decode_file(run, codes, crops, reconstructions, split):
    """Append what codes (N, h, w) are decoded to; the mean absolute error (N,) float32 of each against its crop."""
    errors = []
    for decoded in run.decode_blocks(codes, split):
        reconstructions.append(decoded)
        originals = crops[len(reconstructions) - len(decoded) : len(reconstructions)]
        errors.append(np.abs(originals.astype(np.int16) - decoded).mean(axis=(1, 2), dtype=np.float64))
    return np.concatenate(errors).astype(np.float32)


def sample_codes(run, cache, label, position, count, seed=0, **sampling):
    """Codes (count, h, w) int32 of samples whose conditions repeat those given.

    Args:
        label, position: (N,) int32 ids.
        seed: int; sample i depends on it and on i alone.
        sampling: temperature, top_k, top_p, guidance: as in ``Run.sample``; the cache does not tell them apart.
    """

    def compute():
        repeated = np.arange(-(-count // SAMPLE_BLOCK) * SAMPLE_BLOCK) % len(label)
        how = {"block": SAMPLE_BLOCK, "scored": False, **sampling}
        blocks = draw_codes(run.prior, label[repeated], position[repeated], seed, "evaluation codes", **how)
        return np.concatenate([codes for _, codes, _ in blocks])[:count]

    conditions = hashlib.sha256(label.tobytes() + position.tobytes()).hexdigest()
    return cache.kept("samples", f"{conditions} {count}", compute)
