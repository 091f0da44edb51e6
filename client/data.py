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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError, DataError
from common.files import write_private
from common.seams import load_seam
from common.settings import Data

if TYPE_CHECKING:
    import pandas as pd

_DIGITS = (0.305, 0.376)  # mean and deviation of the published digits, over 16
_FASHION = (0.286, 0.353)  # mean and deviation of the published Fashion-MNIST, over 255
_IDX_BYTES = 0x08  # IDX's code of unsigned bytes


@dataclass(frozen=True, eq=False)
class Samples:
    """Features and labels of the same samples, checked.

    `features`: float32 (n, ...), or int64 (n, tokens) for token ids. `labels`: int64 (n,) classes from 0 on,
    or float32 (n,) or (n, targets). Other widths of the same kinds are cast.

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
        if self.labels.dtype == np.int64 and (self.labels.ndim != 1 or (self.labels < 0).any()):
            raise DataError(
                f"labels of shape {self.labels.shape}: expected one class from 0 on for each sample; "
                "number the classes 0, 1, 2, ..., or give floats for a regression"
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
    would tell about it unencrypted (and differ between institutions): see `_table` for `csv` and `parquet`.

    Raises:
        ConfigError: unknown source or option, or a missing path.
        DataError: unreadable, empty, or values that no model can learn from.
    """
    known: Mapping[str, Callable[[Data], Dataset]] = {
        "digits": _digits,
        "breast_cancer": _breast_cancer,
        "fashion_mnist": _fashion_mnist,
        "csv": _table,
        "parquet": _table,
    }
    load = load_seam(data.source, known, "data.source")
    if data.source not in known:
        require_bindable(load, data.options, f"data.options of {data.source!r}")
    dataset = load(data) if data.source in known else load(**data.options)
    if not isinstance(dataset, Dataset):
        raise DataError(
            f"data.source {data.source!r} returned {type(dataset).__name__}; expected a client.data.Dataset"
        )
    count = len(dataset.samples)
    if not data.limit or data.limit >= count:
        return dataset
    kept = np.sort(np.random.default_rng(seed).permutation(count)[: data.limit])
    groups = None if dataset.groups is None else dataset.groups[kept]
    return replace(dataset, samples=dataset.samples.take(kept), groups=groups)


def _digits(data: Data) -> Dataset:
    from sklearn.datasets import load_digits

    _require_options(data, ())
    found = load_digits()
    images = found.images.astype(np.float32)[:, None] / 16
    samples = Samples((images - _DIGITS[0]) / _DIGITS[1], found.target.astype(np.int64))
    return Dataset(samples, 10, name="digits", class_names=tuple("0123456789"))


def _breast_cancer(data: Data) -> Dataset:
    # Standardised by the statistics of the whole published set: it is public, so they are too.
    from sklearn.datasets import load_breast_cancer

    _require_options(data, ())
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
    _require_options(data, ())
    folder = _path(data)
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


def _table(data: Data) -> Dataset:
    """A table of numbers, one row a sample; every column but label and `data.column` is a feature.

    `data.options`:

    - `scale`: `{age = [50, 12]}`: subtract the first, divide by the second. Constants that all institutions
      agree on from public knowledge; columns not named stay as they are. Nothing is fitted to the data.
    - `classes`: the classes in their order. In a deployment set it: an institution sees only its own labels, and
      without it numbers those it sees (text sorted; integers as they are).
    - `target`: `classes` or `regression`; by default regression for labels that are not whole numbers.
    - `shape`: of one sample, for instance `[1, 8, 8]`; by default (features,).
    """
    options = _require_options(data, ("scale", "classes", "target", "shape"))
    frame = _read_frame(data)
    for column in [data.label, *([data.column] if data.column else [])]:
        if column not in frame.columns:
            raise DataError(f"{data.path}: no column {column!r}; it has {', '.join(map(str, frame.columns))}")
        if frame[column].isna().any():
            raise DataError(f"{data.path}: column {column!r} has missing values; fill or drop those rows")
    groups = frame[data.column].astype(str).to_numpy(dtype=np.str_) if data.column else None
    features = frame.drop(columns=[data.label, *([data.column] if data.column else [])])
    values = _scaled(_numbers(features, data.path), tuple(map(str, features.columns)), options.get("scale", {}))
    labels, classes = _labels(frame[data.label], options, data)
    shape = [int(d) for d in options.get("shape", [values.shape[1]])]
    if math.prod(shape) != values.shape[1]:
        raise DataError(f"{data.path}: data.options.shape {shape} does not hold {values.shape[1]} feature columns")
    return Dataset(
        Samples(values.reshape(-1, *shape), labels),
        len(classes) or 1,
        groups,
        name=Path(data.path).name,
        feature_names=tuple(map(str, features.columns)),
        class_names=classes,
    )


def _read_frame(data: Data) -> pd.DataFrame:
    import pandas as pd

    path = _path(data)
    try:
        frame: pd.DataFrame = pd.read_csv(path) if data.source == "csv" else pd.read_parquet(path)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"cannot read {path} as {data.source}: {error}") from error
    if frame.empty:
        raise DataError(f"{path}: no rows; expected at least one sample")
    return frame


def _numbers(features: pd.DataFrame, path: str) -> NDArray[np.float64]:
    text = [str(c) for c in features.columns if features[c].dtype.kind not in "biuf"]
    if text:
        raise DataError(
            f"{path}: columns {', '.join(text)} are not numbers; encode them (everywhere in the same way) or drop them"
        )
    if not len(features.columns):
        raise DataError(f"{path}: no feature columns beside the label; expected at least one")
    values: NDArray[np.float64] = features.to_numpy(dtype=np.float64)
    bad = [str(c) for c, column in zip(features.columns, values.T, strict=True) if not np.isfinite(column).all()]
    if bad:
        raise DataError(f"{path}: missing or infinite values in {', '.join(bad)}; fill or drop those rows")
    return values


def _scaled(values: NDArray[np.float64], names: tuple[str, ...], scale: Mapping[str, Any]) -> NDArray[np.float64]:
    for name, pair in scale.items():
        if name not in names or len(pair) != 2 or not pair[1]:  # noqa: PLR2004 -- a pair
            raise ConfigError(
                f"data.options.scale.{name}: expected a feature column and [centre, spread], found {pair}"
            )
        values[:, names.index(name)] = (values[:, names.index(name)] - pair[0]) / pair[1]
    return values


def _labels(column: pd.Series[Any], options: Mapping[str, Any], data: Data) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Labels and the names of the classes; no names for a regression."""
    numeric = column.dtype.kind in "biuf"
    whole = numeric and bool((column == column.round()).all())
    target = options.get("target", "regression" if numeric and not whole else "classes")
    if target not in ("classes", "regression"):
        raise ConfigError(f"data.options.target is {target!r}; expected `classes` or `regression`")
    if target == "regression":
        if not numeric:
            raise DataError(f"{data.path}: label {data.label!r} is text; a regression needs numbers")
        return column.to_numpy(dtype=np.float32), ()
    if numeric and not whole:
        raise DataError(f"{data.path}: label {data.label!r} has fractions; classes are whole numbers or text")
    values = [str(int(v)) if numeric else str(v) for v in column]
    if "classes" in options:
        classes = tuple(str(c) for c in options["classes"])
    elif numeric:
        if column.min() < 0:
            raise DataError(
                f"{data.path}: label {column.min()} is negative; classes count from 0, or set options.classes"
            )
        classes = tuple(str(c) for c in range(int(column.max()) + 1))
    else:
        classes = tuple(sorted(set(values)))
    unknown = sorted(set(values) - set(classes))
    if unknown:
        raise DataError(f"{data.path}: labels {', '.join(unknown[:5])} are not in data.options.classes")
    number = {c: i for i, c in enumerate(classes)}
    return np.array([number[v] for v in values], dtype=np.int64), classes


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


def _checked(name: str, array: NDArray[Any]) -> NDArray[Any]:
    kind = array.dtype.kind
    if kind not in "fiu" or array.ndim == 0:
        raise DataError(f"{name}: expected numbers in an array, found {array.dtype} of shape {array.shape}")
    if kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{name}: {int((~np.isfinite(array)).sum())} values are not finite; fill or drop those samples")
    return np.ascontiguousarray(array, dtype=np.float32 if kind == "f" else np.int64)


def _path(data: Data) -> Path:
    if not data.path:
        raise ConfigError(f"data.path is empty; data.source {data.source!r} reads from there")
    return Path(data.path)


def _require_options(data: Data, known: tuple[str, ...]) -> dict[str, Any]:
    unknown = sorted(data.options.keys() - set(known))
    if unknown:
        raise ConfigError(
            f"data.options: unknown {', '.join(unknown)}; {data.source!r} takes {', '.join(known) or 'no options'}"
        )
    return data.options
