"""Samples that are read when a batch needs them: an institution holds their numbers and their labels, not their features."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.samples import NUMBERS, Samples, TornError, spread
from dictpfl.common.errors import DataError
from dictpfl.common.files import expanded, write_private
from dictpfl.common.settings import Data

MOST_AT_ONCE = 2 << 30
"""Bytes that whoever wants all samples in one array may have; more is refused, or a step that was not made for large data would fill memory."""
INDEX_FORMAT = "dictpfl-index-1"
SUSPICIOUS = 8  # samples of which nothing can be read: then it is not single files that are broken
Numbers = NDArray[np.int64]
Room = Callable[[int], NDArray[Any]]
"""Makes an array for the features of so many samples."""


@dataclass(frozen=True)
class Known:
    """Facts of all samples of a reader, without their features.

    Attributes:
        outputs: classes, or targets of a regression.
        labels: int64 (n,) or float32 (n,) or (n, targets); None: as large as features, and read with them.
        groups: name of each sample's institution, (n,); None: not known.
        splits: purpose of each sample, (n,); None: not known.
        kept: numbers of the samples that there are, rising; None: all. The others could not be read, and `data.skip_broken` is set.
        name, feature_names, class_names, made_by, picture: as of `dictpfl.client.data.samples.Dataset`.
    """

    outputs: int
    labels: NDArray[Any] | None
    groups: NDArray[np.str_] | None = None
    splits: NDArray[np.str_] | None = None
    kept: Numbers | None = None
    name: str = ""
    feature_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    made_by: str = ""
    picture: tuple[int, ...] = ()


class Reader(Protocol):
    """Reads samples by number, in whatever process asks: it holds nothing that grows with what was read."""

    steady: bool
    """False: a sample may be another one each time, as with random transforms; it is then the same for the same seed."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    @property
    def digest(self) -> str:
        """Digest of what numbers stand for, such as the names of files: with another one, saved numbers mean nothing."""
        ...

    def read(self, numbers: Numbers, seed: int, room: Room | None = None) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Read some samples, in this order.

        Args:
            numbers: of the samples.
            seed: of what a reader that is not steady draws.
            room: makes an array of the form of so many samples' features, which a reader may fill and return, to save a copy.

        Returns:
            Features (k, ...), and labels (k, ...) where they are read with the features.

        Raises:
            DataError: one cannot be read; if it was asked for alone, the message names it.
        """
        ...


class Source(Reader, Protocol):
    """Reads all samples of a source, and tells what is known of them."""

    def known(self) -> Known:
        """Find out what is known of all samples; asked once, when data are divided."""
        ...


@dataclass(frozen=True)
class Read:
    """Samples that were read.

    Attributes:
        features: (k, ...).
        labels: (k, ...).
        broken: what was wrong with those that were left out, by number in the reader; k is smaller by so many.
    """

    features: NDArray[Any]
    labels: NDArray[Any]
    broken: tuple[tuple[int, str], ...] = ()


class LazySamples(Samples):
    """Samples of a reader, in an order: numbers and labels in memory, everything else read when it is asked for.

    `features` is an array to look at (`shape`, `dtype`) and to take a few rows from; all of it only up to `MOST_AT_ONCE`.
    """

    def __init__(
        self, reader: Reader, data: Data, numbers: Numbers, labels: NDArray[Any] | None, form: Form | None = None
    ) -> None:
        """Take samples of a reader.

        Args:
            reader: reads them.
            data: section that the reader was made by.
            numbers: of the samples in the reader.
            labels: of these samples; None: read with features.
            form: of features and labels; None: the first sample is read, which tells.

        Raises:
            DataError: the first samples cannot be read.
        """
        held = None if labels is None else Samples(np.zeros(len(numbers), np.float32), labels).labels
        values = {"reader": reader, "data": data, "numbers": numbers, "_held": held}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "form", form or self._first_form())

    reader: Reader
    data: Data
    numbers: Numbers
    form: Form
    _held: NDArray[Any] | None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.numbers)

    @property
    def features(self) -> NDArray[Any]:
        """Features, as an array that reads the rows that are taken from it."""
        return cast("NDArray[Any]", Rows(self, of_labels=False))

    @property
    def labels(self) -> NDArray[Any]:
        """Labels: in memory, but for those that are as large as features."""
        return cast("NDArray[Any]", Rows(self, of_labels=True)) if self._held is None else self._held

    @property
    def holds_labels(self) -> bool:
        """Tell whether labels are in memory."""
        return self._held is not None

    @property
    def nbytes(self) -> int:
        """Bytes in memory: of numbers and labels."""
        return self.numbers.nbytes + (0 if self._held is None else self._held.nbytes)

    def take(self, indices: NDArray[Any]) -> Self:
        """Take the samples at these indices, in their order: nothing is read or copied but their numbers and labels."""
        held = None if self._held is None else self._held[indices]
        return type(self)(self.reader, self.data, self.numbers[indices], held, self.form)

    def read(self, places: NDArray[Any] | Sequence[int], seed: int = 0, room: Room | None = None) -> Read:
        """Read samples by their places here.

        Args:
            places: numbers among these samples.
            seed: of what a reader that is not steady draws.
            room: see `Reader.read`.

        Raises:
            DataError: one cannot be read, or is not what it was: the message names it. With `data.skip_broken` it is left out
                and named in `broken`, but for a batch of which nothing can be read.
        """
        places = np.asarray(places, dtype=np.int64)
        try:
            return self._checked(places, seed, room)
        except DataError:
            if len(places) == 1 and not self.data.skip_broken:
                raise
        found, broken, faults = list[Read](), list[tuple[int, str]](), set[str]()
        for place in places:
            try:
                found.append(self._checked(place[None], seed))
            except DataError as error:
                if not self.data.skip_broken:
                    raise
                broken.append((int(self.numbers[place]), str(error)))
                faults.add(str(error.__cause__ if isinstance(error.__cause__, TornError) else error))
        if not found and len(faults) >= SUSPICIOUS:
            raise DataError(f"none of {len(places)} samples can be read, the first because: {broken[0][1]}")
        if not found:
            return Read(self.form.empty, self.form.empty_labels, tuple(broken))
        return Read(
            np.concatenate([one.features for one in found]),
            np.concatenate([one.labels for one in found]),
            tuple(broken),
        )

    def check(self, count: int = 3) -> None:
        """Read a few samples from beginning to end, so that what cannot be trained on is said at once.

        Raises:
            DataError: as `read`.
        """
        if len(self):
            self.read(np.unique(np.linspace(0, len(self) - 1, count).astype(np.int64)))

    def save(self, path: Path | str) -> None:
        """Write an index, mode 0600: the numbers of the samples, their labels, and where they are read from."""
        about = {
            "format": INDEX_FORMAT,
            "data": _anywhere(self.data).model_dump(mode="json"),
            "digest": self.reader.digest,
            "shape": list(self.form.shape),
            "dtype": self.form.dtype,
            "label_shape": list(self.form.label_shape),
            "label_dtype": self.form.label_dtype,
        }
        arrays: dict[str, Any] = {NUMBERS: self.numbers, "about": np.array(json.dumps(about))}
        if self._held is not None:
            arrays["labels"] = self._held
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_private(Path(path), buffer.getvalue())

    def _checked(self, places: Numbers, seed: int, room: Room | None = None) -> Read:
        numbers = self.numbers[places]
        features, labels = self.reader.read(numbers, seed, room)
        held = None if self._held is None else self._held[places]
        if held is not None and labels is not None and not np.array_equal(held, labels):
            raise DataError(
                f"sample {numbers[0]} of {self.data.source} has the label {labels[0]}, and had {held[0]} when the data were divided; "
                "divide them again"
            )
        checked = Samples(features, labels if held is None else held)  # type: ignore[arg-type]  # one of the two is there
        if Form.of(checked) != self.form:
            raise DataError(
                f"sample {numbers[0]} of {self.data.source} is {Form.of(checked).words}; expected {self.form.words}, as the others"
            )
        return Read(checked.features, checked.labels)

    def _first_form(self) -> Form:
        tried = spread(len(self.numbers))
        for place in tried:
            try:
                features, labels = self.reader.read(self.numbers[place : place + 1], 0)
            except DataError:
                if not self.data.skip_broken:
                    raise
                continue
            one = Samples(features, self._held[place : place + 1] if self._held is not None else labels)  # type: ignore[arg-type]
            return Form.of(one)
        raise DataError(
            f"{self.data.source}: none of {len(tried)} samples from beginning to end can be read; look at them with "
            "data.skip_broken = false, which says why"
        )


def _anywhere(data: Data) -> Data:
    """The section with whole paths: whoever opens an index may do so from another folder."""

    def whole(path: str) -> str:
        there = expanded(path)
        return str(there.resolve()) if path and there.exists() else path

    paths = data.paths
    named = {name: whole(path) for name, path in paths.items()} if isinstance(paths, dict) else list(map(whole, paths))
    options = dict(data.options)
    if data.source == "videofolder" and "features" in options:
        library, _, name = str(options["features"]).partition(":")
        options["features"] = f"{library}:{whole(name)}"
        if kept := options.get("features_folder"):
            options["features_folder"] = str(expanded(kept).resolve())
    return data.model_copy(
        update={"path": whole(data.path), "paths": named, "test_path": whole(data.test_path), "options": options}
    )


@dataclass(frozen=True)
class Form:
    """Form that all samples have: shape and type of one's features and labels."""

    shape: tuple[int, ...]
    dtype: str
    label_shape: tuple[int, ...]
    label_dtype: str

    @classmethod
    def of(cls, samples: Samples) -> Form:
        """Form of samples in memory."""
        x, y = samples.features, samples.labels
        return cls(tuple(map(int, x.shape[1:])), x.dtype.name, tuple(map(int, y.shape[1:])), y.dtype.name)

    @property
    def words(self) -> str:
        """For messages."""
        return f"{self.dtype} {list(self.shape)} with a label {self.label_dtype} {list(self.label_shape)}"

    @property
    def empty(self) -> NDArray[Any]:
        """Features of no sample."""
        return np.zeros((0, *self.shape), self.dtype)

    @property
    def empty_labels(self) -> NDArray[Any]:
        """Labels of no sample."""
        return np.zeros((0, *self.label_shape), self.label_dtype)


class Rows:
    """Features, or labels, of lazy samples as an array: shape and type are known, rows are read when they are taken."""

    def __init__(self, samples: LazySamples, *, of_labels: bool) -> None:
        form = samples.form
        self._samples, self._of_labels = samples, of_labels
        self.shape = (len(samples), *(form.label_shape if of_labels else form.shape))
        self.dtype = np.dtype(form.label_dtype if of_labels else form.dtype)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes that all rows would take."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __getitem__(self, index: Any) -> NDArray[Any]:
        if isinstance(index, tuple):
            found: NDArray[Any] = np.asarray(self)[index]
            return found
        places = np.arange(len(self))[index]
        rows = self._read(np.atleast_1d(places))
        return rows if np.ndim(places) else cast("NDArray[Any]", rows[0])

    def reshape(self, *shape: Any) -> NDArray[Any]:
        """All rows in another shape; see `__array__`."""
        return np.asarray(self).reshape(*shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001 -- numpy's protocol
        """Read all rows.

        Raises:
            DataError: more than `MOST_AT_ONCE`.
        """
        rows = self._read(np.arange(len(self)))
        return rows if dtype is None else rows.astype(dtype)

    def _read(self, places: Numbers) -> NDArray[Any]:
        wanted = self.nbytes * len(places) // max(1, len(self))
        if wanted > MOST_AT_ONCE:
            raise DataError(
                f"{len(places)} samples of {self._samples.data.source} are wanted at once, {wanted / 1e9:.1f} GB, and this step reads no data by the "
                f"batch; it takes at most {MOST_AT_ONCE / 1e9:.1f} GB: give it fewer samples (data.limit)"
            )
        found = self._samples.read(places)
        if found.broken:
            raise DataError(f"{found.broken[0][1]}; a step that wants these samples at once cannot skip it")
        return found.labels if self._of_labels else found.features


class Chain:
    """Samples of several readers, one after the other."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._readers = tuple(readers)
        self._ends = np.cumsum([len(reader) for reader in readers])
        self.steady = all(reader.steady for reader in readers)

    def __len__(self) -> int:
        """Number of samples."""
        return int(self._ends[-1])

    @property
    def digest(self) -> str:
        """See `Reader`."""
        return "+".join(reader.digest for reader in self._readers)

    def read(self, numbers: Numbers, seed: int, room: Room | None = None) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """See `Reader`."""
        if len(self._readers) == 1:
            return self._readers[0].read(numbers, seed, room)
        which = np.searchsorted(self._ends, numbers, side="right")
        parts = []
        for reader in np.unique(which):
            start = int(self._ends[reader - 1]) if reader else 0
            parts.append(self._readers[reader].read(numbers[which == reader] - start, seed))
        order = np.argsort(np.argsort(which, kind="stable"), kind="stable")
        features = np.concatenate([x for x, _ in parts])[order]
        labels = [y for _, y in parts if y is not None]
        return features, np.concatenate(labels)[order] if len(labels) == len(parts) else None
