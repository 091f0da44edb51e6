"""Samples of an institution in their file: read when they are needed, prepared once all know how, and let go when memory is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from dictpfl.client.data.lazy import LazySamples
from dictpfl.client.data.opening import opened
from dictpfl.client.data.raw import Table
from dictpfl.client.data.samples import Samples
from dictpfl.common.errors import DataError
from dictpfl.common.law.state import SharedState
from dictpfl.common.settings import Data


class Preparing(Protocol):
    """Preparation of a table by statistics in shared state (`dictpfl.client.data.preparing.preparation`)."""

    def ready(self, state: SharedState) -> bool:
        """Tell whether shared state holds all statistics."""
        ...

    def samples(self, table: Samples, state: SharedState) -> Samples:
        """Prepare the rows of a table."""
        ...

    def nothing(self, table: Samples) -> Samples:
        """No sample, of the shape that samples will have."""
        ...


class Stored:
    """Samples in a file; checked once at the start, in memory until `close`, and read again by the next `open`."""

    def __init__(
        self, path: Path, classes: Sequence[int] = (), preparing: Preparing | None = None, data: Data | None = None
    ) -> None:
        """Read and check the file; of samples that are read when they are needed, a few.

        Args:
            path: file of samples, of a table, or an index.
            classes: only samples of these are looked at, maybe none; empty: all samples.
            preparing: what makes samples of the table; None: the file holds samples.
            data: section of the federation's configuration; None: the file is no index.

        Raises:
            DataError: missing, damaged or of other content.
        """
        self._path, self._classes, self._preparing, self._data = path, tuple(classes), preparing, data
        self._raw: Samples | None = self._read()
        if isinstance(self._raw, LazySamples):
            self._raw.check()
        self._samples: Samples | None = None
        self._count = len(self._raw)

    def __len__(self) -> int:
        """Number of samples."""
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes in memory now."""
        held = [samples for samples in (self._raw, self._samples) if samples is not None]
        return sum(samples.nbytes for samples in held)

    def open(self, state: SharedState | None = None) -> Samples:
        """Return the samples; none of them, as long as shared state does not say how to prepare them.

        Args:
            state: shared state, where the file holds a table.

        Raises:
            DataError: the file is not readable any more, or has another number of samples than at the start.
        """
        if self._preparing is None:
            return self.raw()
        if self._samples is None:
            if state is None or not self._preparing.ready(state):
                return self._preparing.nothing(self.raw())
            # Statistics are opened once in a federation, so that these stay right.
            self._samples = self._preparing.samples(self.raw(), state)
            self._raw = None
        return self._samples

    def raw(self) -> Samples:
        """Return what the file holds.

        Raises:
            DataError: as `open`.
        """
        if self._raw is None:
            raw = self._read()
            if len(raw) != self._count:
                raise DataError(
                    f"{self._path} had {self._count} samples when this institution began and has {len(raw)} now; what it "
                    "weighs and what privacy it spends go by their number. Start it again with the new file"
                )
            self._raw = raw
        return self._raw

    def close(self) -> None:
        """Let go of the samples in memory."""
        self._raw = self._samples = None

    def _read(self) -> Samples:
        if self._data is not None:
            return opened(self._path, self._data).of_classes(self._classes)
        kind = Samples if self._preparing is None else Table
        return kind.load(self._path).of_classes(self._classes)
