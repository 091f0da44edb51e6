"""Several integers as digits of one component, so that one addition adds them all (DESIGN.md, why exact integers).

Components are signed integers of `payload_bits`; a digit of b bits holds the sum of K integers when
K * max|q| < 2^(b-1). Digits are balanced: decoded from the lowest up, with carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from common.errors import PackingError

Ints = NDArray[np.int64]
WIDE_BITS = 16
"""A wide digit gives every participant at least this many bits, when the component allows it."""


@dataclass(frozen=True, slots=True)
class Digits:
    """How values lie in components.

    Attributes:
        width: b, bits of a digit.
        per_component: digits in a component; `width * per_component` is at most the payload.
        largest: largest magnitude that one participant may pack.
    """

    width: int
    per_component: int
    largest: int

    @classmethod
    def fit(cls, value_bits: int, capacity: int, payload_bits: int) -> Self:
        """Most digits that a component holds, each for `capacity` participants with values of `value_bits`.

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
        """The same, for values up to `largest` of each participant.

        Raises:
            PackingError: not even one digit fits.
        """
        width = (capacity * largest).bit_length() + 1
        if width > payload_bits:
            raise PackingError(
                f"values up to {largest} from {capacity} participants need digits of {width} bits, a component holds "
                f"{payload_bits}"
            )
        return cls._of(payload_bits // width, capacity, payload_bits)

    @classmethod
    def wide(cls, capacity: int, payload_bits: int) -> Self:
        """Digits for a round without history: two a component, or one where two would be too coarse."""
        half = cls._of(2, capacity, payload_bits)
        return half if half.largest >= 2 ** (WIDE_BITS - 1) else cls.single(capacity, payload_bits)

    @classmethod
    def single(cls, capacity: int, payload_bits: int) -> Self:
        """One digit a component."""
        return cls._of(1, capacity, payload_bits)

    @classmethod
    def _of(cls, per_component: int, capacity: int, payload_bits: int) -> Self:
        width = payload_bits // per_component
        return cls(width, per_component, (2 ** (width - 1) - 1) // capacity)

    def components(self, values: int) -> int:
        """Components that hold so many values."""
        return -(-values // self.per_component)


def pack(values: Ints, digits: Digits) -> Ints:
    """Components, shape (digits.components(n),), of values, shape (n,); value i is digit i // components.

    Raises:
        PackingError: a value beyond `digits.largest`; checked before anything is encrypted.
    """
    if values.size and (largest := max(int(values.max()), -int(values.min()))) > digits.largest:
        raise PackingError(f"value {largest} is beyond what a digit holds, {digits.largest}; clip before packing")
    count = digits.components(values.size)
    planes = np.zeros((digits.per_component, count), dtype=np.int64)
    planes.reshape(-1)[: values.size] = values
    out: Ints = planes[-1].copy()
    for plane in planes[-2::-1]:
        out <<= digits.width
        out += plane
    return out


def unpack(components: Ints, count: int, digits: Digits) -> Ints:
    """Inverse of `pack` on sums of at most the agreed number of participants; shape (count,).

    Raises:
        PackingError: another number of components than `count` values need.
    """
    if components.size != digits.components(count):
        raise PackingError(f"{count} values need {digits.components(count)} components, found {components.size}")
    planes: Ints = np.empty((digits.per_component, components.size), dtype=np.int64)
    rest = components.copy()
    half, mask = np.int64(1 << (digits.width - 1)), np.int64((1 << digits.width) - 1)
    for plane in planes[:-1]:
        np.subtract((rest + half) & mask, half, out=plane)
        rest -= plane
        rest >>= digits.width
    planes[-1] = rest
    return planes.reshape(-1)[:count]
