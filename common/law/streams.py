"""Streams: coordinates of a layout that travel together, walked over in pieces so that nothing is as long as the vector.

A step belongs to a tensor. So neither steps nor numbers of coordinates are kept for each value: twelve to sixteen bytes of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.arrays import Ints
from dictpfl.common.law.layout import Layout
from dictpfl.common.law.packing import Digits

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
PIECE = 1 << 18
"""Values at once: what is as long as that stays in the processor's cache."""


class Piece(NamedTuple):
    """Piece of a stream, within one tensor.

    Attributes:
        tensor: number of the tensor.
        span: its coordinates.
        chosen: which of these are in the stream, counted from the span's start; a slice where all are.
        at: number of the stream's values before it.
        size: number of its values.
        step: their step on the grid.
    """

    tensor: int
    span: slice
    chosen: slice | Ints
    at: int
    size: int
    step: float


@dataclass(frozen=True)
class Stream:
    """Coordinates that travel together.

    Attributes:
        layout: layout that they are coordinates of.
        mask: which they are, bool, shape (layout.size,).
        by_tensor: step of each tensor on the grid, powers of two, float64, shape (tensors,).
        digits: layout of their integers in components.
    """

    layout: Layout
    mask: Bools
    by_tensor: Floats
    digits: Digits

    @cached_property
    def size(self) -> int:
        """Number of coordinates."""
        return int(np.count_nonzero(self.mask))

    @property
    def index(self) -> Ints:
        """Number of each, int64, rising; made anew each time, eight bytes a value."""
        return np.flatnonzero(self.mask)

    @property
    def steps(self) -> Floats:
        """Step of each, float64; made anew each time, eight bytes a value."""
        return self.by_tensor[self.layout.tensor_of[self.mask]]

    @property
    def components(self) -> int:
        """Number of components that their integers fill."""
        return self.digits.components(self.size)

    def pieces(self) -> Iterator[Piece]:
        """Walk over the stream, in the order of coordinates."""
        at = 0
        for number, (entry, step) in enumerate(zip(self.layout.entries, self.by_tensor.tolist(), strict=True)):
            end = entry.offset + entry.size
            for start in range(entry.offset, end, PIECE):
                span = slice(start, min(start + PIECE, end))
                part = self.mask[span]
                if size := int(np.count_nonzero(part)):
                    chosen: slice | Ints = slice(None) if size == part.size else np.flatnonzero(part)
                    yield Piece(number, span, chosen, at, size, step)
                    at += size
