"""Digits: several values as digits of one component, in an odd radix, balanced around zero (section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from dictpfl.common.arrays import Ints


@dataclass(frozen=True)
class Digits:
    """Digits of a component.

    Attributes:
        largest: largest magnitude of one upload's value.
        capacity: K, most uploads in a sum.
        per_component: d, number of digits.
    """

    largest: int
    capacity: int
    per_component: int

    @property
    def radix(self) -> int:
        """R = 2 K largest + 1: every sum of K values is one digit."""
        return 2 * self.capacity * self.largest + 1

    @classmethod
    def most(cls, largest: int, capacity: int, payload_bits: int) -> Self:
        """Choose the most digits with R^d <= 2^V - 1; none where not even one fits."""
        made, count = cls(largest, capacity, 0), 0
        while made.radix ** (count + 1) <= 2**payload_bits - 1:
            count += 1
        return cls(largest, capacity, count)

    @classmethod
    def widest(cls, per_component: int, capacity: int, payload_bits: int) -> Self:
        """Choose the largest values of which so many digits fit a component."""
        low, high = 0, 2**payload_bits
        while high - low > 1:
            middle = (low + high) // 2
            fits = (2 * capacity * middle + 1) ** per_component <= 2**payload_bits - 1
            low, high = (middle, high) if fits else (low, middle)
        return cls(low, capacity, per_component)

    def components(self, values: int) -> int:
        """Number of components that so many values take."""
        return -(-values // self.per_component)

    def packed(self, values: Sequence[int]) -> Ints:
        """Pack values: value i is digit i // m of component i % m, for m components."""
        m, out = self.components(len(values)), []
        for place in range(m):
            digits = values[place::m]
            out.append(sum(int(v) * self.radix**i for i, v in enumerate(digits)))
        return np.array(out, dtype=np.int64)

    def unpacked(self, components: Ints, count: int) -> Ints:
        """Unpack `count` values of an upload or a sum, from the lowest digit of each component up; the last is what is left."""
        half = self.capacity * self.largest
        planes, rest = [], components.astype(np.int64)
        for _ in range(self.per_component - 1):
            digit = (rest + half) % self.radix - half
            planes.append(digit)
            rest = (rest - digit) // self.radix
        return np.concatenate([*planes, rest])[:count]

    def whole(self, components: Ints) -> bool:
        """Tell whether nothing is left of the components once their digits are taken off."""
        half, rest = self.capacity * self.largest, components.astype(np.int64)
        for _ in range(self.per_component):
            rest = (rest - ((rest + half) % self.radix - half)) // self.radix
        return not rest.any()
