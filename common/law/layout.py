"""The shared vector's layout: which tensors are trained and shared, in which order, at which offsets."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.errors import LayoutError


class Kind(StrEnum):
    """Kind of a tensor of the shared vector."""

    TABLE = "table"
    """Lookup table T of a decomposed weight (arXiv 2510.21086, section 4.1)."""
    DENSE = "dense"
    """A parameter trained as it is: head, bias, norm, position, or any weight of a full method."""
    STATISTIC = "statistic"
    """A running statistic (BatchNorm); averaged, never pruned."""
    GATE = "gate"
    """Factors of units in front of their out-projection (`dictpfl.client.model.gates`); never pruned."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the shared vector.

    Attributes:
        name: name of the tensor.
        shape: its shape.
        kind: its kind.
        offset: number of values before it in the shared vector.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    offset: int = 0

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def span(self) -> slice:
        """Place of the tensor in the shared vector."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class Layout:
    """All tensors of the shared vector in their agreed order.

    Offsets are assigned by `Layout.of`; names are unique; a layout may be empty.
    """

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, tuple[int, ...], Kind]]) -> Self:
        """Lay out `(name, shape, kind)` triples in the given order.

        Raises:
            LayoutError: a name twice, or a shape with a non-positive dimension.
        """
        entries: list[Entry] = []
        offset = 0
        for name, shape, kind in tensors:
            if any(d <= 0 for d in shape):
                raise LayoutError(f"tensor {name!r} has shape {shape}: every dimension must be positive")
            entry = Entry(name, tuple(int(d) for d in shape), Kind(kind), offset)
            entries.append(entry)
            offset += entry.size
        if len({e.name for e in entries}) != len(entries):
            raise LayoutError("two tensors of the shared vector have the same name; names must be unique")
        return cls(tuple(entries))

    @cached_property
    def size(self) -> int:
        """Number of values in the shared vector."""
        return sum(e.size for e in self.entries)

    @cached_property
    def tensor_of(self) -> NDArray[np.int32]:
        """Index of each coordinate's tensor, int32, shape (size,)."""
        return np.repeat(np.arange(len(self.entries), dtype=np.int32), [e.size for e in self.entries])

    def coordinates(self, *kinds: Kind) -> NDArray[np.bool_]:
        """Mask, shape (size,), of the coordinates whose tensor is of one of the kinds."""
        chosen = np.array([e.kind in kinds for e in self.entries], dtype=bool)
        return np.repeat(chosen, [e.size for e in self.entries])

    def flatten(self, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Concatenate named arrays into the shared vector, float64, shape (size,).

        Raises:
            LayoutError: a tensor is missing, or has another shape.
        """
        out = np.empty(self.size, dtype=np.float64)
        for e in self.entries:
            try:
                value = tensors[e.name]
            except KeyError:
                raise LayoutError(f"tensor {e.name!r} is missing; the layout needs it") from None
            if tuple(value.shape) != e.shape:
                raise LayoutError(f"tensor {e.name!r} has shape {tuple(value.shape)}, the layout says {e.shape}")
            out[e.span] = np.asarray(value, dtype=np.float64).reshape(-1)
        return out

    def unflatten(self, vector: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """View the shared vector's tensors by name, each in its shape.

        Raises:
            LayoutError: a vector of another shape.
        """
        if vector.shape != (self.size,):
            raise LayoutError(f"vector has shape {vector.shape}, the layout says ({self.size},)")
        return {e.name: vector[e.span].reshape(e.shape) for e in self.entries}

    def to_json(self) -> list[list[Any]]:
        """Encode as JSON values, stable across versions."""
        return [[e.name, list(e.shape), str(e.kind)] for e in self.entries]

    @classmethod
    def from_json(cls, value: list[list[Any]]) -> Self:
        """Decode what `to_json` made."""
        return cls.of((name, tuple(shape), Kind(kind)) for name, shape, kind in value)

    @cached_property
    def digest(self) -> bytes:
        """Digest of names, shapes, kinds and order: SHA-256, 32 bytes."""
        return hashlib.sha256(json.dumps(self.to_json(), separators=(",", ":")).encode()).digest()
