"""What each code stands for, and the codebook for TensorBoard's embedding projector."""

import numpy as np
from scipy.sparse import csr_matrix

from slices.images import save_png
from utils import whole_file

PROJECTOR = """embeddings {{
  tensor_name: "codebook"
  tensor_path: "codebook.tsv"
  metadata_path: "codebook_uses.tsv"
  sprite {{ image_path: "codebook.png" single_image_dim: {size} single_image_dim: {size} }}
}}
"""


def code_patches(codes, images, num_codes):
    """What each code stands for: the mean of all that is drawn around the cells that hold it.

    Args:
        codes: (N, h, w) int.
        images: (N, h d, w d, 1) float in [0, 1], decoded from them; d pixels are one cell.
        num_codes: K.

    Returns:
        (K, 2d, 2d) float32: a cell with half a cell around it; black where no cell holds the code.
    """
    d = images.shape[1] // codes.shape[1]
    padded = np.pad(np.asarray(images)[..., 0], ((0, 0), (d // 2, d - d // 2), (d // 2, d - d // 2)))
    around = np.lib.stride_tricks.sliding_window_view(padded, (2 * d, 2 * d), axis=(1, 2))[:, ::d, ::d][
        :, : codes.shape[1], : codes.shape[2]
    ]  # (N, h, w, 2d, 2d)
    cells = np.asarray(codes).ravel()  # (N h w,)
    held_by = csr_matrix((np.ones(len(cells), np.float32), (cells, np.arange(len(cells)))), (num_codes, len(cells)))
    counts = np.maximum(np.bincount(cells, minlength=num_codes), 1)
    return (held_by @ around.reshape(len(cells), -1) / counts[:, None]).reshape(num_codes, 2 * d, 2 * d)


def mosaic(images, columns, gap=0):
    """Images (N, H, W) in rows of ``columns`` on black, as one image (rows (H + gap), columns (W + gap))."""
    images = np.pad(images, ((0, -len(images) % columns), (0, gap), (0, gap)))
    _, height, width = images.shape
    rows = images.reshape(-1, columns, height, width)  # (rows, columns, H, W)
    return rows.transpose(0, 2, 1, 3).reshape(-1, columns * width)


def write_projector(folder, codebook, uses, patches):
    """The codebook for TensorBoard's embedding projector, which reads projector_config.pbtxt beside the events.

    Args:
        codebook: (K, D) float.
        uses: (K,) int, how many cells hold each code.
        patches: (K, P, P) float in [0, 1], what each code stands for.
    """
    columns = int(np.ceil(np.sqrt(len(codebook))))
    square = np.pad(patches, ((0, columns**2 - len(patches)), (0, 0), (0, 0)))  # as the projector wants its pictures
    rows = [("code", "cells"), *enumerate(uses)]
    with whole_file(folder / "codebook.tsv") as temporary:
        np.savetxt(temporary, codebook, "%.6g", "\t")
    with whole_file(folder / "codebook_uses.tsv") as temporary:
        temporary.write_text("".join(f"{code}\t{cells}\n" for code, cells in rows), encoding="utf-8")
    with whole_file(folder / "codebook.png") as temporary:
        save_png(temporary, mosaic(square, columns))
    with whole_file(folder / "projector_config.pbtxt") as temporary:
        temporary.write_text(PROJECTOR.format(size=patches.shape[1]), encoding="utf-8")
