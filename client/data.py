"""Samples of an institution, and the data sets that a configuration can name (`[data]`)."""

from __future__ import annotations

import gzip
import inspect
import io
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError, DataError
from common.files import write_private
from common.seams import load_seam
from common.settings import Data

_DIGITS = (0.305, 0.376)  # mean and deviation of the published digits, over 16
_FASHION = (0.286, 0.353)  # mean and deviation of the published Fashion-MNIST, over 255
PADDING = -1
"""Token id that stands for no token; `client.batches` masks it."""
IGNORED = -100
"""Label of a token that is not learnt, as in torch and transformers."""
_IDX_BYTES = 0x08  # IDX's code of unsigned bytes


@dataclass(frozen=True, eq=False)
class Samples:
    """Features and labels of the same samples, checked.

    `features`: float32 (n, ...), or int64 (n, tokens) for token ids with `PADDING` behind the last one. `labels`:
    int64 (n,) classes from 0 on, or int64 (n, tokens) token ids with `IGNORED` where nothing is to be learnt (a language
    model), or float32 (n,) or (n, targets). Other widths of the same kinds are cast.

    Raises:
        DataError: different counts, another kind of number, a negative class, or values that are not finite.
    """

    features: NDArray[Any]
    labels: NDArray[Any]

    def __post_init__(self) -> None:
        """Check, and cast."""
        for name in ("features", "labels"):
            object.__setattr__(self, name, _checked(name, getattr(self, name)))
        if len(self.features) != len(self.labels):
            raise DataError(f"{len(self.features)} samples but {len(self.labels)} labels; each sample needs one")
        if self.labels.dtype == np.int64 and not _are_classes(self.labels) and not _are_tokens(self):
            raise DataError(
                f"labels of shape {self.labels.shape}: expected one class from 0 on for each sample; "
                "number the classes 0, 1, 2, ..., give floats for a regression, or a token for each token of the features"
            )

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.features)

    def take(self, indices: NDArray[Any]) -> Self:
        """The samples at these indices, in their order; a copy."""
        return type(self)(self.features[indices], self.labels[indices])

    def save(self, path: Path | str) -> None:
        """Write an .npz file, mode 0600."""
        buffer = io.BytesIO()
        np.savez(buffer, features=self.features, labels=self.labels)
        write_private(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote; nothing in the file is executed.

        Raises:
            DataError: missing, damaged or of other content.
        """
        try:
            with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return cls(file["features"], file["labels"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"cannot read samples from {path}: {error}; expected an .npz file with `features` and `labels`"
            ) from error


@dataclass(frozen=True, eq=False)
class Dataset:
    """All samples of a source, before they are divided.

    Raises:
        DataError: no samples, labels out of range, or another number of groups than of samples.
    """

    samples: Samples
    outputs: int
    """Classes, or targets of a regression."""
    groups: NDArray[np.str_] | None = None
    """Name of each sample's institution, for `partition = "column"`; shape (n,)."""
    name: str = ""
    feature_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        """Check."""
        labels = self.samples.labels
        if not len(self.samples):
            raise DataError(f"data set {self.name!r} has no samples")
        if self.outputs < 1:
            raise DataError(f"data set {self.name!r}: outputs is {self.outputs}; expected at least 1")
        if labels.dtype == np.int64 and labels.max() >= self.outputs:
            raise DataError(
                f"data set {self.name!r}: label {labels.max()} with {self.outputs} classes; "
                f"expected labels in 0..{self.outputs - 1}"
            )
        if self.groups is not None and len(self.groups) != len(self.samples):
            raise DataError(f"data set {self.name!r}: {len(self.groups)} groups for {len(self.samples)} samples")

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(int(d) for d in self.samples.features.shape[1:])


def load_dataset(data: Data, seed: int) -> Dataset:
    """Read the source that the configuration names, at most `data.limit` samples of it, drawn by seed.

    Features are scaled by constants that are public, never by statistics of private data, which
    would tell about it unencrypted (and differ between institutions): see `client.tables`.

    Raises:
        ConfigError: unknown source or option, or a missing path.
        DataError: unreadable, empty, or values that no model can learn from.
    """
    from client.columns import read_columns  # these build on this module
    from client.images import image_folder

    known: Mapping[str, Callable[[Data], Dataset]] = {
        "digits": _digits,
        "breast_cancer": _breast_cancer,
        "fashion_mnist": _fashion_mnist,
        "imagefolder": image_folder,
        **dict.fromkeys(("csv", "parquet", "jsonl", "datasets"), partial(read_columns, seed=seed)),
    }
    load = load_seam(data.source, known, "data.source")
    if data.source not in known:
        require_bindable(load, data.options, f"data.options of {data.source!r}")
    dataset = load(data) if data.source in known else load(**data.options)
    if not isinstance(dataset, Dataset):
        raise DataError(
            f"data.source {data.source!r} returned {type(dataset).__name__}; expected a client.data.Dataset"
        )
    kept = drawn(len(dataset.samples), data.limit, seed)
    if kept is None:
        return dataset
    groups = None if dataset.groups is None else dataset.groups[kept]
    return replace(dataset, samples=dataset.samples.take(kept), groups=groups)


def drawn(count: int, limit: int, seed: int) -> NDArray[np.int64] | None:
    """Which of `count` samples stay under `data.limit`, in their order; None: all."""
    if not limit or limit >= count:
        return None
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def _digits(data: Data) -> Dataset:
    from sklearn.datasets import load_digits

    require_options(data, ())
    found = load_digits()
    images = found.images.astype(np.float32)[:, None] / 16
    samples = Samples((images - _DIGITS[0]) / _DIGITS[1], found.target.astype(np.int64))
    return Dataset(samples, 10, name="digits", class_names=tuple("0123456789"))


def _breast_cancer(data: Data) -> Dataset:
    # Standardised by the statistics of the whole published set: it is public, so they are too.
    from sklearn.datasets import load_breast_cancer

    require_options(data, ())
    found = load_breast_cancer()
    scaled = (found.data - found.data.mean(axis=0)) / found.data.std(axis=0)
    return Dataset(
        Samples(scaled, found.target.astype(np.int64)),
        2,
        name="breast_cancer",
        feature_names=tuple(str(n) for n in found.feature_names),
        class_names=tuple(str(n) for n in found.target_names),
    )


def _fashion_mnist(data: Data) -> Dataset:
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


def require_bindable(function: Callable[..., Any], options: Mapping[str, Any], what: str) -> None:
    """Refuse options that a function does not take, before it runs and fails in words of its own.

    Raises:
        ConfigError: an option unknown or missing.
    """
    signature = inspect.signature(function)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ConfigError(f"{what}: {error}; it takes {signature}") from error


def _are_classes(labels: NDArray[Any]) -> bool:
    return labels.ndim == 1 and not (labels < 0).any()


def _are_tokens(samples: Samples) -> bool:
    labels = samples.labels
    same = labels.ndim > 1 and labels.shape == samples.features.shape and samples.features.dtype == np.int64
    return same and bool(((labels >= 0) | (labels == IGNORED)).all())


def _checked(name: str, array: NDArray[Any]) -> NDArray[Any]:
    kind = array.dtype.kind
    if kind not in "fiu" or array.ndim == 0:
        raise DataError(f"{name}: expected numbers in an array, found {array.dtype} of shape {array.shape}")
    if kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{name}: {int((~np.isfinite(array)).sum())} values are not finite; fill or drop those samples")
    return np.ascontiguousarray(array, dtype=np.float32 if kind == "f" else np.int64)


def path_of(data: Data) -> Path:
    """`data.path`.

    Raises:
        ConfigError: empty.
    """
    if not data.path:
        raise ConfigError(f"data.path is empty; data.source {data.source!r} reads from there")
    return Path(data.path).expanduser()


def require_options(data: Data, known: tuple[str, ...]) -> dict[str, Any]:
    """`data.options`, all of them known to the source.

    Raises:
        ConfigError: not so.
    """
    unknown = sorted(data.options.keys() - set(known))
    if unknown:
        raise ConfigError(
            f"data.options: unknown {', '.join(unknown)}; {data.source!r} takes {', '.join(known) or 'no options'}"
        )
    return data.options
