"""Fashion-MNIST from its published IDX files: 70,000 images of 28 x 28, ten classes."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.samples import Dataset, Samples, path_of, require_options
from dictpfl.client.data.source import SOURCES
from dictpfl.common.errors import DataError
from dictpfl.common.settings import Data

_FASHION = (0.286, 0.353)  # mean and deviation of the published Fashion-MNIST, over 255


_IDX_BYTES = 0x08  # IDX's code of unsigned bytes


@SOURCES.register("fashion_mnist")
def fashion_mnist(data: Data, _seed: int) -> Dataset:
    """Both published parts in one, 70,000 samples, when both are there: the split is this project's own."""
    require_options(data, ())
    folder = path_of(data)
    parts = [p for p in ("train", "t10k") if _idx_path(folder, f"{p}-images-idx3-ubyte")] or ["train"]
    images = np.concatenate([read_idx(folder, f"{p}-images-idx3-ubyte", 3) for p in parts])
    labels = np.concatenate([read_idx(folder, f"{p}-labels-idx1-ubyte", 1) for p in parts])
    scaled = (images.astype(np.float32)[:, None] / 255 - _FASHION[0]) / _FASHION[1]
    return Dataset(Samples(scaled, labels.astype(np.int64)), 10, name="fashion_mnist")


def read_idx(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes, plain or as .gz.

    Raises:
        DataError: missing, another magic number, or another length than its header says.
    """
    path = _idx_path(folder, name)
    if path is None:
        raise DataError(f"neither {name} nor {name}.gz in {folder}; data.path must be the folder of the IDX files")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; download it again") from error
    magic, head = bytes([0, 0, _IDX_BYTES, dimensions]), 4 + 4 * dimensions
    if raw[:4] != magic:
        raise DataError(f"{path}: expected an IDX file that begins {magic.hex()}, found {raw[:4].hex()}")
    shape = tuple(int(d) for d in np.frombuffer(raw[4:head].ljust(4 * dimensions, b"\0"), dtype=">u4"))
    if len(raw) != head + math.prod(shape):
        raise DataError(
            f"{path}: its header promises {head + math.prod(shape)} bytes, found {len(raw)}; download it again"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=head).reshape(shape)


def _idx_path(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
