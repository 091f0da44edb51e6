"""Words for paired differences: `better`, `worse` or `no difference shown`, from Student's interval over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from dictpfl.common.errors import ConfigError

BETTER, WORSE, LEVEL = "better", "worse", "no difference shown"
_HALVINGS = 80


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds and its 95 % interval.

    Attributes:
        mean: of the values.
        low, high: ends of Student's interval; minus and plus infinity of a single value, which shows nothing.
        count: number of values.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def verdict(self) -> str:
        """Say what a difference shows; an interval that touches 0 shows nothing."""
        return BETTER if self.low > 0 else WORSE if self.high < 0 else LEVEL

    def __str__(self) -> str:
        """Mean and ends, with the sign."""
        return f"{self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def interval(values: Sequence[float]) -> Interval:
    """Average values of independent seeds, with Student's 95 % interval.

    Raises:
        ConfigError: no value, or one that is not finite: a number is missing, and no verdict stands on that.
    """
    if not values or not all(map(math.isfinite, values)):
        raise ConfigError(f"expected finite figures of at least one seed, found {list(values)}; run the missing cells")
    mean, count = fmean(values), len(values)
    if count == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = student(count - 1) * stdev(values) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


def compared(arm: Sequence[float], rival: Sequence[float], *, higher: bool = True) -> Interval:
    """Compare an arm with a rival, seed by seed.

    Args:
        arm: figure of each seed.
        rival: figures of the same seeds, in the same order.
        higher: True where a larger figure is better; else the difference is turned round, so that above 0 is better.

    Raises:
        ConfigError: other numbers of seeds, or a figure that is missing.
    """
    if len(arm) != len(rival):
        raise ConfigError(f"{len(arm)} figures against {len(rival)}: pairs need the same seeds; run the missing cells")
    sign = 1.0 if higher else -1.0
    return interval([sign * (one - other) for one, other in zip(arm, rival, strict=True)])


def student(freedom: int) -> float:
    """Find the 97.5 % quantile of Student's t with so many degrees of freedom, by halving; good to 1e-12."""
    low, high = 0.0, 13.0  # 12.71 at one degree of freedom
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < 0.95 else (low, middle)  # noqa: PLR2004 -- two sides
    return low


def _inside(t: float, freedom: int) -> float:
    """P(|T| <= t), the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    term, total = 1.0, 0.0
    for k in range(1, (freedom + 1) // 2 if freedom % 2 else freedom // 2 + 1):
        total += term
        term *= square * (2 * k / (2 * k + 1) if freedom % 2 else (2 * k - 1) / (2 * k))
    if freedom % 2:
        return 2 / math.pi * (angle + sine * math.cos(angle) * total)
    return sine * total
