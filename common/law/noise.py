"""Discrete noise on the integer grid; each institution adds a share before sealing (`privacy.mechanism`).

A sum of independent Skellam variables is Skellam, so that the sum of all shares is what one draw of the whole would be.
The grid is fixed beforehand: neither its steps nor anything in the ledger depends on data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from dictpfl.common.law.grid import Floats, Ints
from dictpfl.common.law.packing import Digits
from dictpfl.common.protection import Privacy

_LEAST_DEVIATION = 16.0
"""Steps in the standard deviation of the whole noise, at least: fewer would cost privacy, more would cost bytes."""
_RARE = 50.0
"""-log of the probability that one institution's noise on one value leaves its digit: 2e-22."""

Draw = Callable[[int], Ints]
"""Function that draws a number of independent shares of noise, in steps, from the institution's own generator."""


@dataclass(frozen=True)
class Noise:
    """Noise mechanism that all institutions agreed on.

    Attributes:
        norm: L2 norm that an update is clipped to, in units of the shared vector.
        multiplier: standard deviation of the noise in a sum, divided by `norm`.
        honest: number of institutions in each sum whose noise counts.
    """

    norm: float
    multiplier: float
    honest: int

    @classmethod
    def of(cls, privacy: Privacy, minimum: int) -> Self | None:
        """Make the mechanism of a configuration; None where it wants none.

        Args:
            privacy: section with its noise multiplier filled in.
            minimum: fewest institutions in a sum.
        """
        if privacy.mechanism != "institution":
            return None
        return cls(privacy.max_update_norm, privacy.noise_multiplier, minimum - privacy.curious)

    @cached_property
    def exponent(self) -> int:
        """Exponent of the grid's step, a power of two; the same for all tensors and rounds."""
        return math.frexp(self.norm * self.multiplier / _LEAST_DEVIATION)[1] - 1

    @property
    def sensitivity(self) -> float:
        """L2 sensitivity in steps: the most by which one institution moves the sum's integers."""
        return self.norm / math.ldexp(1.0, self.exponent)

    def l1(self, size: int) -> float:
        """Compute the L1 sensitivity in steps for `size` values; of integers it is at most the L2 sensitivity squared."""
        return min(math.sqrt(size) * self.sensitivity, self.sensitivity**2)

    @property
    def share(self) -> float:
        """Variance of one institution's noise, in steps squared."""
        return (self.multiplier * self.sensitivity) ** 2 / self.honest

    @cached_property
    def largest(self) -> int:
        """Largest magnitude that an institution packs: its clipped value, and noise that is rarely larger."""
        # Skellam is sub-gamma with scale 1/3 (Bernstein; Boucheron, Lugosi and Massart, section 2.4).
        tail = math.sqrt(2.0 * self.share * _RARE) + _RARE / 3.0
        return math.floor(self.sensitivity) + math.ceil(tail)

    def digits(self, capacity: int, payload_bits: int) -> Digits:
        """Choose digits that hold sums of clipped values and their noise.

        Raises:
            PackingError: no component is wide enough.
        """
        return Digits.holding(self.largest, capacity, payload_bits)

    def clipped(self, values: Floats) -> tuple[Ints, Floats]:
        """Clip values to `norm` and round them towards zero; return the integers and what rounding left.

        Rounding towards zero makes no integer vector longer; the check is on integers and exact. What clipping takes
        away is dropped: kept in the residual, it would pile up as long as updates are longer than `norm`.

        Args:
            values: all values that are sent, with the residual in them, float64, shape (n,).

        Returns:
            `q` int64 with the sum of squares at most `sensitivity` squared, and `rest` with `q * step + rest` the
            clipped values.
        """
        step, length = math.ldexp(1.0, self.exponent), float(np.sqrt(np.sum(np.square(values))))
        factor = min(1.0, self.norm / length) if length else 1.0
        while True:
            clipped = values * factor
            q = np.trunc(clipped / step).astype(np.int64)
            if float(np.sum(q * q)) <= self.sensitivity**2:
                return q, clipped - q * step
            factor *= 1.0 - 1e-9  # rounding of the length's last bits

    def noised(self, q: Ints, draw: Draw) -> Ints:
        """Add this institution's share of noise to integers, and keep them within `largest`."""
        noised: Ints = np.clip(q + draw(q.size), -self.largest, self.largest)
        return noised


def skellam(random: np.random.Generator, variance: float, count: int) -> Ints:
    """Draw independent Skellam variables of mean 0, int64, shape (count,)."""
    return random.poisson(variance / 2, count) - random.poisson(variance / 2, count)
