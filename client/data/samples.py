"""Samples of an institution, and data sets before they are divided."""

from __future__ import annotations

import glob
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.files import expanded, is_pattern, write_private
from dictpfl.common.settings import Data

PADDING = -1
"""Token id that stands for no token; `dictpfl.client.training.calling` masks it."""


TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")
"""Words for what a row of a table is for (`data.split_column`)."""


TABLE = "table"
"""Array of an .npz file with columns that are not prepared yet (`dictpfl.client.data.raw`)."""


NUMBERS = "numbers"
"""Array of an .npz file with numbers of samples that are read when they are needed (`dictpfl.client.data.lazy`)."""


IGNORED = -100
"""Label of a token that is not learnt, as in torch and transformers."""


UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""Errors of an .npz file that is missing, damaged or of other content."""
_TRIED = 16  # samples of which none can be read, before the form of one is given up


class TornError(DataError):
    """Part of a file, such as a row group, that cannot be read: one fault, however many samples are in it."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Features and labels of the same samples, checked. Other widths of the same kinds of numbers are cast.

    Attributes:
        features: float32 (n, ...), or int64 (n, tokens) for token ids with `PADDING` behind the last one.
        labels: int64 (n,) classes from 0 on; or int64 (n, tokens) token ids, with `IGNORED` where nothing is to be
            learnt (a language model); or float32 (n,) or (n, targets).

    Raises:
        DataError: different counts, another kind of number, a negative class, or values that are not finite.
    """

    features: NDArray[Any]
    labels: NDArray[Any]

    def __post_init__(self) -> None:
        """Check and cast."""
        object.__setattr__(self, "features", _checked("features", self._checked_features()))
        object.__setattr__(self, "labels", _checked("labels", self.labels))
        if len(self.features) != len(self.labels):
            raise DataError(f"{len(self.features)} samples but {len(self.labels)} labels; each sample needs one")
        if self.labels.dtype == np.int64 and not _are_classes(self.labels) and not _are_tokens(self):
            raise DataError(
                f"labels of shape {self.labels.shape}: expected one class from 0 on for each sample; "
                "number the classes 0, 1, 2, ..., give floats for a regression, or a token for each token of the features"
            )

    def _checked_features(self) -> NDArray[Any]:
        """Features as they are checked."""
        return self.features

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.features)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return int(self.features.nbytes + self.labels.nbytes)

    def take(self, indices: NDArray[Any]) -> Self:
        """Copy the samples at these indices, in their order."""
        return type(self)(self.features[indices], self.labels[indices])

    def of_classes(self, classes: Sequence[int]) -> Self:
        """Copy the samples of these classes, in their order, maybe none; all where no class is named.

        Raises:
            DataError: labels that are no classes, one a sample.
        """
        if not classes:
            return self
        if self.labels.dtype != np.int64 or self.labels.ndim != 1:
            raise DataError(
                f"classes {list(classes)} are asked of samples whose labels are {self.labels.dtype} of shape {self.labels.shape}; "
                "expected one class for each sample"
            )
        return self.take(np.flatnonzero(np.isin(self.labels, classes)))

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
        with samples_in(path) as file:
            if TABLE in file:
                raise DataError(
                    f"{path} holds a table that is prepared by its federation's statistics (data.preprocessing), which this cannot do; "
                    "expected prepared samples"
                )
            if NUMBERS in file:
                raise DataError(
                    f"{path} is an index of samples that are read when they are needed (data.lazy), which this cannot do; expected samples "
                    "themselves: name the data they are read from"
                )
            return cls(file["features"], file["labels"])


@contextmanager
def samples_in(path: Path | str) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Open a file of samples as `arrays_in` does, for who reads a part of it.

    Raises:
        DataError: missing, damaged or of other content.
    """
    try:
        with arrays_in(path) as file:
            yield file
    except UNREADABLE as error:
        raise DataError(
            f"cannot read samples from {path}: {error}; expected an .npz file with `features` and `labels`"
        ) from error


@contextmanager
def arrays_in(path: Path | str) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Open an .npz file, whose arrays are read when they are asked for; nothing in it is executed. Raises one of `UNREADABLE`."""
    with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        yield file


@dataclass(frozen=True, eq=False)
class Dataset:
    """Data set: all samples of a source, before they are divided.

    Raises:
        DataError: no samples, labels out of range, or another number of groups than of samples.
    """

    samples: Samples
    outputs: int
    """Classes, or targets of a regression."""
    groups: NDArray[np.str_] | None = None
    """Name of each sample's institution, for `partition = "column"`; shape (n,)."""
    splits: NDArray[np.str_] | None = None
    """Purpose of each sample, one of `SPLITS`, where the data say it themselves; shape (n,)."""
    name: str = ""
    feature_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = field(default=())
    made_by: str = ""
    """SHA-256 of what made features of files (`dictpfl.client.data.features.Recipe`), hexadecimal; empty: they are what was read."""
    picture: tuple[int, ...] = ()
    """Shape (C, H, W) of the picture that each sample begins with, a question's tokens behind it; empty: samples are of another kind."""

    def __post_init__(self) -> None:
        """Check."""
        for name in ("groups", "splits"):  # a list of words serves as well
            if getattr(self, name) is not None:
                object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.str_))
        labels = self.samples.labels
        if not len(self.samples):
            raise DataError(f"data set {self.name!r} has no samples")
        if self.outputs < 1:
            raise DataError(f"data set {self.name!r}: outputs is {self.outputs}; expected at least 1")
        # Labels that are as large as features may be on disk, and are looked at when they are read.
        if isinstance(labels, np.ndarray) and labels.dtype == np.int64 and labels.max() >= self.outputs:
            raise DataError(
                f"data set {self.name!r}: label {labels.max()} with {self.outputs} classes; "
                f"expected labels in 0..{self.outputs - 1}"
            )
        for what, values in (("groups", self.groups), ("splits", self.splits)):
            if values is not None and len(values) != len(self.samples):
                raise DataError(f"data set {self.name!r}: {len(values)} {what} for {len(self.samples)} samples")
        if self.splits is not None and (unknown := sorted(set(self.splits.tolist()) - set(SPLITS))):
            raise DataError(
                f"data set {self.name!r}: rows are marked {', '.join(map(repr, unknown[:5]))}; expected {', '.join(SPLITS)}"
            )

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(int(d) for d in self.samples.features.shape[1:])

    def take(self, indices: NDArray[Any]) -> Dataset:
        """Copy the samples at these indices, with what is known of each."""
        groups = None if self.groups is None else self.groups[indices]
        splits = None if self.splits is None else self.splits[indices]
        return replace(self, samples=self.samples.take(indices), groups=groups, splits=splits)


def drawn(count: int, data: Data, seed: int, splits: NDArray[np.str_] | None = None) -> NDArray[np.int64] | None:
    """Draw the indices of the samples, out of `count`, that `data.limit` keeps, int64, rising; None: all.

    Where the data say what each sample is for (`splits`), test samples are drawn for themselves, by `data.test_limit`.
    A second draw from what was drawn keeps all of it.
    """
    if splits is None:
        return _first(count, data.limit, seed)
    is_test = splits == TEST
    places = (np.flatnonzero(~is_test), np.flatnonzero(is_test))
    kept = [
        rows if (some := _first(len(rows), limit, seed)) is None else rows[some]
        for rows, limit in zip(places, (data.limit, data.test_limit), strict=True)
    ]
    return None if sum(map(len, kept)) == count else np.sort(np.concatenate(kept))


def spread(count: int) -> NDArray[np.int64]:
    """Numbers of a few of so many samples, int64: the first, then from beginning to end, for what cannot be read may be many in a row."""
    return np.unique(np.linspace(0, count - 1, _TRIED).astype(np.int64)) if count else np.zeros(0, np.int64)


def _first(count: int, limit: int, seed: int) -> NDArray[np.int64] | None:
    if not limit or limit >= count:
        return None
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def _are_classes(labels: NDArray[Any]) -> bool:
    return labels.ndim == 1 and not (labels < 0).any()


def _are_tokens(samples: Samples) -> bool:
    labels = samples.labels
    same = labels.ndim > 1 and labels.shape == samples.features.shape and samples.features.dtype == np.int64
    return same and bool(((labels >= 0) | (labels == IGNORED)).all())


def _checked(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if not isinstance(array, np.ndarray):
        raise DataError(f"{name}: expected an array of numpy, found {type(array).__name__}; give numpy.asarray of it")
    kind = array.dtype.kind
    if kind not in "fiu" or array.ndim == 0:
        raise DataError(f"{name}: expected numbers in an array, found {array.dtype} of shape {array.shape}")
    if kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{name}: {int((~np.isfinite(array)).sum())} values are not finite; fill or drop those samples")
    with np.errstate(over="ignore"):  # told below, with what to do
        cast: NDArray[Any] = np.ascontiguousarray(array, dtype=np.float32 if kind == "f" else np.int64)
    lost = ~np.isfinite(cast) if kind == "f" else (cast < 0) if kind == "u" else np.zeros(0, bool)
    if lost.any():
        raise DataError(
            f"{name}: {int(lost.sum())} values are beyond what {cast.dtype} holds ({array[lost].flat[0]!s}, for one); scale them, or drop "
            "those samples"
        )
    return cast


def path_of(data: Data) -> Path:
    """Return `data.path` as a path, with `~` expanded.

    Raises:
        ConfigError: the setting is empty.
    """
    if not data.path:
        raise ConfigError(f"data.path is empty; data.source {data.source!r} reads from there")
    return expanded(data.path)


def sites_of(data: Data) -> dict[str, Path]:
    """Return the file or folder of each institution, by its name, where the section names several; empty: there is one for all.

    Raises:
        ConfigError: a pattern that no file has, or two files of one name.
    """
    if isinstance(data.paths, dict):
        named = {name: expanded(path) for name, path in data.paths.items()}
        if named:
            return named
    paths = [expanded(path) for path in data.paths]
    if not paths and is_pattern(data.path):
        paths = sorted(Path(found) for found in glob.glob(str(expanded(data.path))))  # noqa: PTH207 -- of an absolute path, too
        if not paths:
            raise ConfigError(f"data.path: no file is named like {data.path!r}; expected one for each institution")
    sites = {path.stem if path.suffix else path.name: path for path in paths}
    if len(sites) < len(paths):
        raise ConfigError(
            f"data.paths: two of {', '.join(path.name for path in paths[:10])} have one name; give names, as in "
            'paths = { north = "a/data.csv", south = "b/data.csv" }'
        )
    return sites


def classes_said(data: Data) -> tuple[str, ...]:
    """Names of the classes that `data.options.classes` lists, in the order of their numbers; none where it is left out.

    Raises:
        ConfigError: no list, or a class that stands in it twice.
    """
    said = data.options.get("classes", [])
    if not isinstance(said, list | tuple):
        raise ConfigError(f'data.options.classes is {said!r}; expected a list, such as ["no", "yes"]')
    classes = tuple(map(str, said))
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise ConfigError(f"data.options.classes has {twice!r} twice; a class has one number, so name each once")
    return classes


def require_options(data: Data, known: tuple[str, ...]) -> dict[str, Any]:
    """Return `data.options`, once all of them are known to the source.

    Raises:
        ConfigError: an unknown option.
    """
    unknown = sorted(data.options.keys() - set(known))
    if unknown:
        raise ConfigError(
            f"data.options: unknown {', '.join(unknown)}; {data.source!r} takes {', '.join(known) or 'no options'}"
        )
    return data.options
