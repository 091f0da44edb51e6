"""Packing: several integers as digits of one component, so that one addition adds them all (docs/decisions/0001).

A digit holds the sum of K integers up to `largest` in magnitude in radix R = 2 K largest + 1, no wider than it must be:
a component is the sum of v_i R^i. Digits are balanced: decoded from the lowest up, with carry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import PackingError

_BLOCK = 1 << 17
"""Components at once."""
_Kind = TypeVar("_Kind", np.int32, np.int64)


@dataclass(frozen=True, slots=True)
class Digits:
    """Layout of values in components.

    Attributes:
        radix: R, number of values of a digit of a sum.
        per_component: d, number of digits in a component; R^d is below 2^payload_bits.
        largest: largest magnitude that one participant may pack.
    """

    radix: int
    per_component: int
    largest: int

    @classmethod
    def fit(cls, value_bits: int, capacity: int, payload_bits: int) -> Self:
        """Choose the most digits that a component holds, each for `capacity` participants with values of `value_bits`.

        What the component leaves over widens the digits, at no cost.

        Raises:
            PackingError: not even one digit fits.
        """
        try:
            return cls.holding(2 ** (value_bits - 1) - 1, capacity, payload_bits)
        except PackingError as error:
            raise PackingError(f"{error}; lower grid.value_bits or federation.max_participants") from None

    @classmethod
    def holding(cls, largest: int, capacity: int, payload_bits: int) -> Self:
        """Choose the most digits that a component holds, each for sums of `capacity` values up to `largest`.

        Raises:
            PackingError: not even one digit fits.
        """
        radix, most, digits = 2 * capacity * largest + 1, 2**payload_bits, 0
        while radix ** (digits + 1) < most:
            digits += 1
        if not digits:
            raise PackingError(
                f"values up to {largest} from {capacity} participants have {radix} sums, a component of {payload_bits} bits "
                f"holds {most - 1}"
            )
        return cls._of(digits, capacity, payload_bits)

    @classmethod
    def single(cls, capacity: int, payload_bits: int) -> Self:
        """Choose one digit a component."""
        return cls._of(1, capacity, payload_bits)

    @classmethod
    def _of(cls, per_component: int, capacity: int, payload_bits: int) -> Self:
        """Make the widest digits of this number: the largest odd R = 2 K largest + 1 with R^d below 2^payload_bits."""
        radix = math.floor(2 ** (payload_bits / per_component)) + 2
        while radix**per_component >= 2**payload_bits:
            radix -= 1
        largest = (radix - 1) // (2 * capacity)
        return cls(2 * capacity * largest + 1, per_component, largest)

    def components(self, values: int) -> int:
        """Number of components that hold so many values."""
        return -(-values // self.per_component)


def pack(values: Ints, digits: Digits) -> Ints:
    """Pack values, int64, shape (n,), into components, shape (digits.components(n),); value i is digit i // components.

    Raises:
        PackingError: a value beyond `digits.largest`; checked before anything is encrypted.
    """
    _require_within(values, digits)
    count = digits.components(values.size)
    planes = np.zeros((digits.per_component, count), dtype=np.int64)
    planes.reshape(-1)[: values.size] = values
    out: Ints = planes[-1].copy()
    for plane in planes[-2::-1]:
        out *= digits.radix
        out += plane
    return out


class Packer:
    """Packing of values that come in pieces, in order; the same components as `pack` makes of all at once."""

    def __init__(self, components: Ints, digits: Digits) -> None:
        """Set `components` to zeros, shape (digits.components(n),) for n values in all, and pack into them."""
        self._components, self._digits, self._done = components, digits, 0
        components[:] = 0

    def add(self, values: Ints) -> None:
        """Add the next values.

        Raises:
            PackingError: a value beyond `digits.largest`.
        """
        _require_within(values, self._digits)
        while values.size:
            plane, start = divmod(self._done, self._components.size)
            part = values[: self._components.size - start]
            self._components[start : start + part.size] += part * np.int64(self._digits.radix**plane)
            self._done += part.size
            values = values[part.size :]


def _require_within(values: Ints, digits: Digits) -> None:
    if values.size and (largest := max(int(values.max()), -int(values.min()))) > digits.largest:
        raise PackingError(f"value {largest} is beyond what a digit holds, {digits.largest}; clip before packing")


def unpack(components: Ints, count: int, digits: Digits) -> Ints:
    """Unpack sums of at most the agreed number of participants: int64, shape (count,); the inverse of `pack`.

    Raises:
        PackingError: another number of components than `count` values need.
    """
    return _unpacked(components, count, digits, np.int64)


def unpack_narrow(components: Ints, count: int, digits: Digits) -> NDArray[np.int32] | Ints:
    """Unpack as `unpack` does, into 32 bits where every sum fits them: half the memory of a long vector."""
    most = max(int(components.max()), -int(components.min())) if components.size else 0
    above = most // digits.radix ** (digits.per_component - 1) + 1  # what no honest sum has, but a component may
    fits = max(digits.radix, above) <= np.iinfo(np.int32).max
    return _unpacked(components, count, digits, np.int32) if fits else unpack(components, count, digits)


def _unpacked(components: Ints, count: int, digits: Digits, kind: type[_Kind]) -> NDArray[_Kind]:
    if components.size != digits.components(count):
        raise PackingError(f"{count} values need {digits.components(count)} components, found {components.size}")
    half, radix, size = np.int64(digits.radix // 2), np.int64(digits.radix), components.size
    planes: NDArray[_Kind] = np.empty((digits.per_component, size), dtype=kind)
    for start in range(0, size, _BLOCK):
        block = slice(start, start + _BLOCK)
        rest = components[block].copy()
        for plane in planes[:-1]:
            above = (rest + half) // radix
            plane[block] = rest - above * radix
            rest = above
        planes[-1, block] = rest
    return planes.reshape(-1)[:count]
