"""Pooled statistics of columns, out of opened tallies: exact moments, quantiles to a bin, counts of categories."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.columns import Columns
from dictpfl.client.data.preparing.wide import SQUARE_DIGITS, SUM_DIGITS, digits, number, whole
from dictpfl.common.arrays import Ints
from dictpfl.common.errors import ConfigError

BINS = 1024
REACH = 10.0
"""Bins go from the mean by so many deviations to both sides: no quantile from 1 % to 99 % of any distribution is beyond (Cantelli)."""

Entries = list[tuple[str, tuple[int, ...]]]


def moment_entries(columns: Columns) -> Entries:
    """Entries of the tally of moments and of categories, by name and shape."""
    many = len(columns.numbers)
    shapes: Entries = [
        ("known", (many,)),
        ("missing", (many,)),
        ("sum", (many, SUM_DIGITS)),
        ("squares", (many, SQUARE_DIGITS)),
    ]
    return (shapes if many else []) + [(f"category {name}", (columns.many(name),)) for name in columns.said.categories]


def local_moments(columns: Columns, table: NDArray[np.float64]) -> Ints:
    """One institution's part: numbers known, numbers missing, sums, sums of squares, and counts of categories."""
    parts: list[list[int]] = [[], [], [], []]
    for name in columns.numbers:
        column = table[:, columns.names.index(name)]
        known = whole(column[~np.isnan(column)])
        parts[0].append(len(known))
        parts[1].append(len(column) - len(known))
        parts[2] += digits(sum(known), SUM_DIGITS)
        parts[3] += digits(sum(value * value for value in known), SQUARE_DIGITS)
    counts = [
        np.bincount(codes[codes >= 0], minlength=columns.many(name))
        for name in columns.said.categories
        for codes in [table[:, columns.names.index(name)].astype(np.int64)]
    ]
    return np.concatenate([np.array([value for part in parts for value in part], dtype=np.int64), *counts]).astype(
        np.int64
    )


@dataclass(frozen=True)
class Moments:
    """Pooled sums of one column of numbers, exact.

    Attributes:
        known: samples with a value.
        missing: samples without one.
        total: sum of the values.
        squares: sum of their squares.
    """

    known: int
    missing: int
    total: Fraction
    squares: Fraction

    @property
    def mean(self) -> float:
        """Mean of the values; 0 without any."""
        return float(self.total / self.known) if self.known else 0.0

    @property
    def deviation(self) -> float:
        """Deviation of the values, divided by their number as scikit-learn does."""
        return self.scale_with(Fraction(0), 0)[1]

    def scale_with(self, value: Fraction, count: int) -> tuple[float, float]:
        """Mean and deviation with so many samples more of one value."""
        many = self.known + count
        if not many:
            return 0.0, 0.0
        mean = (self.total + count * value) / many
        variance = (self.squares + count * value * value) / many - mean * mean
        return float(mean), math.sqrt(max(variance, Fraction(0)))


def moments(columns: Columns, sums: Ints) -> dict[str, Moments]:
    """Pooled moments by column, of the opened tally."""
    many = len(columns.numbers)
    known, missing = sums[:many], sums[many : 2 * many]
    totals = sums[2 * many : (2 + SUM_DIGITS) * many].reshape(many, SUM_DIGITS)
    squares = sums[(2 + SUM_DIGITS) * many : (2 + SUM_DIGITS + SQUARE_DIGITS) * many].reshape(many, SQUARE_DIGITS)
    return {
        name: Moments(int(known[i]), int(missing[i]), number(totals[i], 1), number(squares[i], 2))
        for i, name in enumerate(columns.numbers)
    }


def categories(columns: Columns, sums: Ints) -> dict[str, Ints]:
    """Pooled counts of categories by column, of the same tally."""
    start, found = (2 + SUM_DIGITS + SQUARE_DIGITS) * len(columns.numbers), {}
    for name in columns.said.categories:
        found[name] = sums[start : start + columns.many(name)]
        start += columns.many(name)
    return found


@dataclass(frozen=True)
class Bins:
    """Bins of a column's histogram: equal ones around the pooled mean, the outermost open to the outside.

    Attributes:
        low: lower edge of the first.
        width: of each; 0 where all values are one.
    """

    low: float
    width: float

    @classmethod
    def of(cls, found: Moments) -> Bins:
        """Bins that follow from pooled moments."""
        return cls(found.mean - REACH * found.deviation, 2 * REACH * found.deviation / BINS)

    def counts(self, values: NDArray[np.float64]) -> Ints:
        """Number of values in each bin; missing ones are not counted."""
        known = values[~np.isnan(values)]
        places = np.floor((known - self.low) / self.width) if self.width else np.zeros(len(known))
        return np.bincount(np.clip(places, 0, BINS - 1).astype(np.int64), minlength=BINS).astype(np.int64)

    def quantile(self, counts: Ints, share: float) -> float:
        """Quantile of what was counted, as numpy's linear one, to within a bin.

        Raises:
            ConfigError: nothing was counted.
        """
        total = int(counts.sum())
        if not total:
            raise ConfigError(
                "no institution has a value in this column, so that it has no quantile; leave the column out"
            )
        rank = share * (total - 1)
        below = math.floor(rank)
        first, second = self._ranked(counts, below), self._ranked(counts, min(below + 1, total - 1))
        return first + (rank - below) * (second - first)

    def _ranked(self, counts: Ints, rank: int) -> float:
        ends = np.cumsum(counts)
        place = int(np.searchsorted(ends, rank, side="right"))
        before = int(ends[place] - counts[place])
        return self.low + self.width * (place + (rank - before + 0.5) / int(counts[place]))


def quantiles(bins: Bins, counts: Ints) -> Callable[[float], float]:
    """Function from a share to the quantile."""
    return lambda share: bins.quantile(counts, share)
