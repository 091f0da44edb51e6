"""Bounds of statistics that a run without fault leaves with probability `RATE` at most, each."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

RATE = 1e-9
"""Probability of a false alarm of each statistical line."""
_SMALL = 600
"""Largest mean at which exp(-mean) is no subnormal number."""


def deviations(tests: int = 1) -> float:
    """Standard deviations that none of so many normal variables exceeds, but with probability `RATE`."""
    return -NormalDist().inv_cdf(RATE / (2 * max(1, tests)))


def chi_square(freedom: int) -> tuple[float, float]:
    """Bounds of a chi-square variable (Laurent and Massart 2000, lemma 1)."""
    t = math.log(2 / RATE)
    return freedom - 2 * math.sqrt(freedom * t), freedom + 2 * math.sqrt(freedom * t) + 2 * t


def counted(mean: float) -> tuple[float, float]:
    """Bounds of a number of independent rare events with this mean: those of Poisson's law, which are wider.

    Beyond a mean of 600, Bernstein's inequality, which is wider still.
    """
    t = math.log(2 / RATE)
    away = t / 3 + math.sqrt(t * t / 9 + 2 * mean * t)
    if mean > _SMALL:
        return mean - away, mean + away
    mass, low = [math.exp(-mean)], 0
    for count in range(1, math.ceil(mean + away) + 1):
        mass.append(mass[-1] * mean / count)
    below = np.cumsum(mass)
    low = int(np.searchsorted(below, RATE / 2))
    high = int(np.searchsorted(below, 1 - RATE / 2)) + 1
    return float(low), float(high)


def uniformity(counts: NDArray[np.int64]) -> float:
    """Chi-square statistic of counts that should all have the same mean; one degree of freedom less than counts."""
    mean = counts.sum() / counts.size
    return float(((counts - mean) ** 2).sum() / mean)


def tail(bits: int) -> list[float]:
    """P(e >= t) for t = 0, 1, ... of the difference of two sums of `bits` fair bits each; the same for -e."""
    total = 2 * bits
    mass = [math.comb(total, bits + t) / 2**total for t in range(bits + 1)]
    return [sum(mass[t:]) for t in range(bits + 1)] + [0.0]
