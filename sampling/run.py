"""A finished run as an object: what everything after training starts from, in the scripts and in a notebook."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from sampling.draws import (
    BLOCK,
    check_block,
    check_draw,
    choose_conditions,
    draw_codes,
    sample_row,
    shard_of,
    usual_block,
    wanted_conditions,
)
from sampling.people import sample_people
from sampling.people_completion import complete_person
from slices.frame import Box, crop, paste, to_bytes
from slices.images import load_blocks, load_images
from slices.index import read_slices
from slices.memory import check_cache
from training.coherence import load_coherence
from training.folder import check_data, find_beside, load_models, load_refiner, open_run, white_of
from training.sharpening import load_sharpening
from training.workers import start_tensorflow
from utils import UserError, block_starts, progress

WORTH_TRACING = 8  # blocks: for fewer, a graph is not made


@dataclass
class Samples:
    """Images that a run drew.

    Attributes:
        images: (N, H, W) uint8, in the full frame.
        codes: (N, h, w) int32.
        bits: (N,) float, the log-likelihood of each under the model, in bits.
        rows: list of dicts, what samples.csv says of each.
    """

    images: np.ndarray
    codes: np.ndarray
    bits: np.ndarray
    rows: list

    @property
    def table(self):
        """samples.csv as a DataFrame: file, index, seed, label, position, log_likelihood_bits, block."""
        return pd.DataFrame(self.rows).astype({"log_likelihood_bits": float})


class Run:
    """A finished run. Models and slices are loaded when they are first asked for.

    Args:
        name: name under runs/, or a path: str with a separator, or Path (default: the newest finished
            run, or else the one that comes with the code).
        stage: "prior", or "vqvae" where the VQ-VAE is all that is needed.
        data: the folder of the run's slices, where they have moved.
        cache: the folder for files of decoded slices, when memory is short for them (default: the run's own).
        sharpen: whether what is drawn is given the detail that slices have, and people the coherence of theirs.

    Attributes:
        folder: Path.
        name: str, the last part of its folder.
        config: dict, config.json.
        data: Path, the folder of its slices.
        labels: list of str.
        num_positions: int.
        frame: (H, W) of an image.
        box: the Box of the frame that the models see.
        code_grid: (h, w).

    Raises:
        UserError: there is no such run, or its ``stage`` is not finished.
    """

    def __init__(self, name=None, stage="prior", data=None, cache=None, sharpen=True):
        if isinstance(name, Path):
            name = f"./{name}" if len(name.parts) == 1 else str(name)
        self.folder, self.config = open_run(name, stage)
        self.stage, self.name = stage, self.folder.name
        self.data = Path(data) if data else find_beside(self.folder, self.config["data"])
        self.labels, self.num_positions = self.config["labels"], self.config["num_positions"]
        self.frame, self.code_grid = tuple(self.config["frame"]), tuple(self.config["code_grid"])
        self.depth = self.config.get("code_depth", 1)  # digits of a code; earlier versions had one
        self.box = Box(*self.config["crop_box"])
        check_cache(cache)
        self.cache = cache
        self.sharpening = load_sharpening(self.folder / "sharpening.json") if sharpen else None
        self.equaliser = load_sharpening(self.folder / "equalising.json") if sharpen else None
        self.coherence = load_coherence(self.folder / "coherence.json") if sharpen else None

    @property
    def code_values(self):
        """How many codes there are, of all their digits together."""
        return self.config["num_codes"] ** self.depth

    @cached_property
    def slices(self):
        """The index of its slices, a DataFrame of path, subject, scan, slice, position, label, split."""
        return read_slices(self.folder)

    @cached_property
    def models(self):
        """(VQVAE, Prior), in float32; without the second for the stage "vqvae"."""
        start_tensorflow()
        return tuple(load_models(self.folder, prior=self.stage == "prior"))

    @property
    def vqvae(self):
        """The VQ-VAE."""
        return self.models[0]

    @property
    def prior(self):
        """The gated PixelCNN.

        Raises:
            UserError: the run was opened for the stage "vqvae".
        """
        if self.stage != "prior":
            raise UserError(f'the run {self.folder} was opened without its prior: open it with stage="prior"')
        return self.models[1]

    @cached_property
    def refiner(self):
        """The Refiner of what is drawn; None where the run has none, or it is not wanted."""
        return load_refiner(self.folder) if self.sharpening else None

    @cached_property
    def block(self):
        """How many grids are drawn together unless told otherwise: 32, on a GPU 512."""
        return usual_block(start_tensorflow())

    def needs_data(self):
        """Raise a UserError unless the run's slices are there."""
        check_data(self.folder, self.config, self.data)

    def load(self, root, paths):
        """The LoadedImages (``slices.images.load_images``) of files, brought into the run's frame and scale of grey.

        Args:
            root: folder that the paths are relative to.
            paths: list of str, PNG or JPEG files of any size.

        Raises:
            UserError: none of them is readable.
        """
        return load_images(
            root, list(paths), self.frame, self.cache, white=white_of(self.config), beside=self.folder.absolute()
        )

    def load_blocks(self, root, paths, use):
        """What ``load`` does, without keeping the images: ``use`` is called with those (n, H, W, 1) of every block.

        Returns:
            the LoadedImages without images.

        Raises:
            UserError: none of them is readable.
        """
        return load_blocks(root, paths, self.frame, use, white_of(self.config))

    def encode(self, images):
        """Images (N, H, W) or (N, H, W, 1) uint8 in the run's frame -> codes (N, h, w) int32.

        Raises:
            UserError: they are no such images.
        """
        images = np.asarray(images)
        images = images[..., None] if images.ndim == 3 else images
        if images.shape[1:] != (*self.frame, 1) or images.dtype != np.uint8 or not len(images):
            raise UserError(
                f"images must be uint8 of shape {(1, *self.frame)} or more of them, not {images.dtype} of "
                f"shape {images.shape}: run.load(folder, names).images are so"
            )
        return encode_images(self.vqvae, images, self.box)

    def decode(self, codes):
        """Codes (N, h, w) int -> images (N, H, W) uint8 in the full frame."""
        return paste(self.decode_crops(codes)[..., None], self.box, self.frame)[..., 0]

    def decode_drawn(self, codes):
        """Codes (N, h, w) int that were drawn -> images (N, H, W) uint8 in the full frame, sharpened."""
        return paste(self.sharpened(self.decode_crops(codes, "samples"))[..., None], self.box, self.frame)[..., 0]

    def decode_person(self, codes, given=None):
        """Codes (S, h, w) int of a person who was drawn -> images (S, H, W) uint8 in the full frame.

        Sharpened, and as coherent as the slices of people are.

        Args:
            given: dict of position → image (H, W) uint8 in the full frame, which stands there in the end.
        """
        crops, given = self.sharpened(self.decode_crops(codes, "samples")), given or {}
        for position, image in given.items():
            crops[position] = crop(image[..., None], self.box)[..., 0]
        images = paste(self.joined(crops)[..., None], self.box, self.frame)[..., 0]
        for position, image in given.items():
            images[position] = image
        return images

    def joined(self, stack):
        """The slices (S, box height, box width) uint8 of a drawn person, as coherent as people's where it is wanted."""
        return self.coherence.join(stack) if self.coherence else stack

    def sharpened(self, images):
        """Images (N, box height, box width) uint8, sharpened, refined and equalised where the run knows how."""
        images = self.sharpening.sharpen(images) if self.sharpening else images
        images = images if self.refiner is None else self.refined(images)
        return self.equaliser.sharpen(images) if self.equaliser else images

    def refined(self, images):
        """Sharpened images (N, box height, box width) uint8 of drawn codes, refined."""
        refine = traced(self.refiner.refine)
        blocks = (images[start : start + BLOCK, ..., None] for start in range(0, len(images), BLOCK))
        return np.concatenate([to_bytes(np.asarray(refine(block.astype(np.float32) / 255))) for block in blocks])

    def decode_crops(self, codes, what="codes", block=BLOCK):
        """Codes (N, h, w) int -> images (N, box height, box width) uint8 in the crop box.

        Args:
            what: they are, for the progress bar.
            block: how many at a time: floating-point sums differ with the shape of the batch.

        Raises:
            UserError: they are no codes of this run.
        """
        return np.concatenate(list(self.decode_blocks(codes, what, block)))

    def decode_blocks(self, codes, what="codes", block=BLOCK):
        """What ``decode_crops`` gives, as an iterable of a block each."""
        codes = self._checked(codes)
        starts = range(0, len(codes), block)
        starts = progress(starts, desc=f"decoding {what}", unit=" blocks", leave=None) if len(starts) > 1 else starts
        decode = self.vqvae.decode if len(starts) < WORTH_TRACING else traced(self.vqvae.decode)
        return (to_bytes(np.asarray(decode(codes[start : start + block]))) for start in starts)

    def bits(self, codes, label=None, position=None):
        """-log2 p of every code given those before it: (N, h, w) float.

        Args:
            codes: (N, h, w) int.
            label: a label of the run, None or "none" where it is not known; for all grids, or a list with one for each.
            position: 0 to num_positions - 1, None or "none", likewise.

        Raises:
            UserError: the run does not know a label or a position, or they are no codes of this run.
        """
        codes = self._checked(codes)
        given = zip(*(np.broadcast_to(np.array(value, object), len(codes)) for value in (label, position)), strict=True)
        ids = [wanted_conditions(self.labels, self.num_positions, *pair) for pair in given]
        label_ids, position_ids = np.array([[i or 0 for i in pair] for pair in ids], np.int32).T
        return prior_bits(self.prior, codes, {"label": label_ids, "position": position_ids})

    def _checked(self, codes):
        """The codes as an array (N, h, w) int32, all of them of the codebooks."""
        codes, code_values = np.asarray(codes), self.code_values
        if (
            codes.shape[1:] != self.code_grid
            or not len(codes)
            or codes.dtype.kind not in "iu"
            or (codes.min() < 0 or codes.max() >= code_values)
        ):
            raise UserError(
                f"codes must be whole numbers from 0 to {code_values - 1} of shape {(1, *self.code_grid)} or "
                f"more of them, not {codes.dtype} of shape {codes.shape}"
            )
        return codes.astype(np.int32, copy=False)

    def sample(
        self,
        num_images=16,
        label=None,
        position=None,
        seed=0,
        temperature=1.0,
        top_k=None,
        top_p=None,
        guidance=1.0,
        shard=(1, 1),
        block=None,
    ):
        """Samples: image i depends on the seed and on i alone, and is what predict.py makes of the same arguments.

        Args:
            num_images: from 1.
            label: a label of the run, or "none" for the model without (default: drawn from the training mix).
            position: 0 (lowest slice) to num_positions - 1, or "none" (default: drawn with the label).
            seed: int from 0, of everything random.
            temperature: over 0, of the distribution that codes are drawn from; lower is tamer.
            top_k: int from 1, draws from the k likeliest codes only.
            top_p: in (0, 1], draws from the likeliest codes that reach this probability only.
            guidance: 0 to 20, how strongly label and position are followed: 1 as the model has learnt them, more is
                more typical and less varied, 0 is the model without them. All but 1 take twice the time.
            shard: (I, N), the I-th of N parts of the images, as one call would make them.
            block: how many grids are drawn together, 1 to 4096 (default: ``Run.block``). Image i is the same in any
                number of images, but a code of it may be another in blocks of another size.

        Raises:
            UserError: the run does not know the label or the position, or there are more parts than images.
        """
        draw = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
        blocks = list(self.sample_blocks(num_images, label, position, seed, shard, block, **draw))
        return Samples(
            *(np.concatenate([getattr(block, name) for block in blocks]) for name in ("images", "codes", "bits")),
            [row for block in blocks for row in block.rows],
        )

    def sample_people(self, num_people=8, label=None, seed=0, shard=(1, 1), block=None, **draw):
        """Whole people, one slice at each position, as ``sampling.people.People``.

        Person i depends on the seed and on i alone, and is what ``predict.py people`` makes of the same arguments.

        Args:
            num_people: from 1.
            label: a label of the run, or "none" for the model without (default: drawn from the training people).
            seed, shard, block: as in ``sample``, of people.
            draw: temperature, top_k, top_p, guidance: as in ``sample``.

        Raises:
            UserError: the run does not know the label, has one position, or there are more parts than people.
        """
        return sample_people(self, num_people, label, seed, shard, block, **draw)

    def complete_person(self, known, num_people=8, label=None, seed=0, shard=(1, 1), candidates=8, block=None, **draw):
        """Whole people who have some slices in common: a person's given ones, and others drawn to go with them.

        Completion i depends on the seed and on i alone, and is what ``predict.py people --complete`` makes of the same.

        Args:
            known: dict of position, from 0, the lowest → image (H, W) uint8 in the run's frame; it comes out as it is.
            num_people: how many completions, from 1.
            label: of the person, a label of the run; None or "none" where it is not known.
            candidates: from 1; for the slices below each given one, of which one is chosen by its likelihood.
            seed, shard, block, draw: as in ``sample_people``.

        Raises:
            UserError: no slice is given or all are, a position or an image is none of the run's, or its prior was not
                told other slices of a person.
        """
        return complete_person(self, known, num_people, label, seed, shard, candidates, block, **draw)

    def sample_blocks(self, num_images=16, label=None, position=None, seed=0, shard=(1, 1), block=None, **draw):
        """What ``sample`` gives, as an iterable of Samples of a block each, none of which is drawn before its turn.

        Mistakes in the arguments are found at once.
        """
        check_draw(num_images, seed, **draw)
        check_block(block)
        shard_of(num_images, *shard)
        conditions = choose_conditions(self, num_images, label, position, seed)
        return self.draw(*conditions, seed, shard, block, **draw)

    def draw(self, label, position, seed=0, shard=(1, 1), block=None, **draw):
        """Yield Samples, block by block, with conditions (N,) int32 as ids from 1, 0 for none; see ``sample``."""
        first, end = shard_of(len(label), *shard)
        block = block or self.block
        for start, codes, bits in draw_codes(
            self.prior, label, position, seed, first=first, end=end, block=block, **draw
        ):
            numbers = range(max(first, start), min(end, start + block))
            slots = slice(numbers.start - start, numbers.stop - start)
            decoded = slots.start - slots.start % BLOCK  # decoding has blocks of its own, however codes are drawn
            images = self.decode_drawn(codes[decoded : slots.stop + -slots.stop % BLOCK])[slots.start - decoded :]
            rows = [
                sample_row(self.labels, f"brain_{i:05d}.png", i, seed, label[i], position[i], bits[i - start])
                | {"block": block}
                for i in numbers
            ]
            yield Samples(images[: len(numbers)], codes[slots], bits[slots], rows)


def encode_images(vqvae, images, box):
    """Whole frames uint8 (N, H, W, 1) -> codes (N, h, w) int32, block by block."""
    return encode_crops(vqvae, lambda rows: crop(images[rows], box), len(images))


def encode_crops(vqvae, crops, count):
    """Crops uint8 -> codes (N, h, w) int32, block by block.

    Args:
        crops: function of a slice of rows to crops (B, box height, box width, 1) uint8.
        count: N.
    """
    starts = block_starts(count, "encoding", BLOCK)
    encode = vqvae.encode if len(starts) < WORTH_TRACING else traced(vqvae.encode)
    blocks = (crops(slice(start, start + BLOCK)).astype(np.float32) / 255 for start in starts)
    return np.concatenate([np.asarray(encode(block)) for block in blocks])


def prior_bits(prior, codes, columns, block=BLOCK, context=None):
    """-log2 p of every code given those before it, with label and position given: (N, h, w) float.

    Args:
        codes: (N, h, w) int.
        columns: dict of label and position, (N,) int ids, 0 for none.
        block: grids per call: floating-point sums differ with the shape of the batch.
        context: the other slices that the prior is told, (N, n, h, w) and (N, n) int; None for none.
    """
    log_likelihood = traced(prior.log_likelihood)

    def block_bits(rows):
        told = context and tuple(x[rows] for x in context)
        return log_likelihood(codes[rows], columns["label"][rows], columns["position"][rows], context=told)

    blocks = [block_bits(slice(start, start + block)) for start in block_starts(len(codes), "likelihood", block)]
    return -np.concatenate(blocks) / np.log(2)


@lru_cache(maxsize=3)  # of the last run's models: tracing takes a second for each shape of a batch
def traced(method):
    """A method of a model as a graph: it gives the same, in a sixth less time."""
    import tensorflow as tf

    return tf.function(method)
