"""Preparation of tables: samples out of columns, once shared state holds what all institutions have together."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.columns import Columns
from dictpfl.client.data.preparing.statistics import BINS, Bins, Moments, categories, moments
from dictpfl.client.data.raw import Table
from dictpfl.client.data.samples import Samples
from dictpfl.common.arrays import Ints
from dictpfl.common.config import FederationConfig
from dictpfl.common.law.state import SharedState
from dictpfl.common.law.tally import MOMENTS, QUANTILES
from dictpfl.common.settings import Recipe


@dataclass(frozen=True)
class Scaling:
    """Scaling of a column of numbers: x becomes (clip(x or fill) - centre) / spread.

    Attributes:
        fill: what stands in for a missing value.
        low, high: values are cut to these.
        centre, spread: of the scale.
    """

    fill: float
    low: float
    high: float
    centre: float
    spread: float

    def of(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Prepare a column."""
        filled = np.where(np.isnan(values), self.fill, values)
        scaled: NDArray[np.float64] = (np.clip(filled, self.low, self.high) - self.centre) / self.spread
        return scaled


class Preparation:
    """Preparation that a federation agreed on."""

    def __init__(self, columns: Columns) -> None:
        """Prepare these columns."""
        self.columns = columns

    def ready(self, state: SharedState) -> bool:
        """Tell whether shared state holds all statistics."""
        return set(tallies(self.columns)) <= {one.name for one in state.tallies if one.when == "opening"}

    def scalings(self, state: SharedState) -> dict[str, Scaling]:
        """Scaling of each column of numbers, by pooled statistics."""
        found = moments(self.columns, state.tallied(MOMENTS, "opening").sums)
        ranked = self.columns.ranked
        sums = (
            state.tallied(QUANTILES, "opening").sums.reshape(len(ranked), BINS)
            if ranked
            else np.zeros((0, BINS), np.int64)
        )
        return {
            name: _scaling(self.columns.recipe(name), one, sums[ranked.index(name)] if name in ranked else None)
            for name, one in found.items()
        }

    def kept(self, state: SharedState) -> dict[str, NDArray[np.bool_]]:
        """Categories of each such column that enough samples have."""
        least = self.columns.said.least
        sums = state.tallied(MOMENTS, "opening").sums
        return {name: counts >= least for name, counts in categories(self.columns, sums).items()}

    def samples(self, table: Samples, state: SharedState) -> Samples:
        """Prepare the rows of a table, once `ready`."""
        scalings, kept = self.scalings(state), self.kept(state)
        parts = [
            scalings[name].of(column)[:, None] if name in scalings else _one_hot(column, kept[name])
            for name, column in zip(self.columns.names, table.features.T, strict=True)
        ]
        return Samples(np.concatenate(parts, axis=1), table.labels)

    def nothing(self, table: Samples) -> Samples:
        """No sample, of the shape that samples will have."""
        return Samples(np.zeros((0, self.columns.width), np.float32), table.labels[:0])


def preparation_of(config: FederationConfig) -> Preparation | None:
    """Preparation of a federation; None where samples are ready as they are."""
    return Preparation(Columns.of(config.data)) if config.data.preprocessing.on else None


def tallies(columns: Columns) -> tuple[str, ...]:
    """Names of the tallies that the statistics come from, in their order."""
    return (MOMENTS, QUANTILES) if columns.ranked else (MOMENTS,)


def as_samples(samples: Samples, config: FederationConfig, state: SharedState) -> Samples:
    """Samples as a model takes them: a table is prepared by the statistics in shared state, anything else is left as it is.

    Raises:
        ConfigError: a table, and a state without statistics.
    """
    made = preparation_of(config)
    return samples if made is None or not isinstance(samples, Table) else made.samples(samples, state)


def _scaling(recipe: Recipe, found: Moments, counts: Ints | None) -> Scaling:
    bins, low, high = Bins.of(found), -np.inf, np.inf
    if not found.known or counts is None or not counts.sum():
        counts = None
    fill = found.mean
    if counts is not None:
        fill = bins.quantile(counts, 0.5) if recipe.impute == "median" else fill
        if recipe.clip:
            low, high = (bins.quantile(counts, share) for share in recipe.clip)
    exact = found.total / found.known if recipe.impute == "mean" and found.known else Fraction(fill)
    many = 0 if recipe.impute == "none" else found.missing
    centre, spread = 0.0, 1.0
    if recipe.scale == "standard":
        centre, spread = found.scale_with(exact, many)
    elif counts is not None and recipe.scale != "none":
        filled = counts + many * bins.counts(np.array([fill]))
        ends = (0.0, 1.0) if recipe.scale == "minmax" else (0.25, 0.75)
        first, last = (min(max(bins.quantile(filled, share), low), high) for share in ends)
        spread = last - first
        centre = first if recipe.scale == "minmax" else bins.quantile(filled, 0.5)
    # As scikit-learn: a column that does not vary is only moved.
    return Scaling(fill, low, high, centre, spread if spread > abs(centre) * 1e-15 else 1.0)


def _one_hot(codes: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """One column a category, and one for those that are rare, unknown or missing."""
    numbers = codes.astype(np.int64)
    other = (numbers < 0) | ~np.append(kept, False)[numbers]
    made = np.zeros((len(codes), len(kept) + 1))
    made[np.arange(len(codes)), np.where(other, len(kept), numbers)] = 1.0
    return made
