"""Learning rates by validation: a grid by factors of two on IID data and seeds of their own, extended until its best is inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lib.paper.catalogue import tuning
from lib.paper.cells import Cell, Store
from lib.paper.workloads import WORKLOADS

EXTENSIONS = 6
"""How often a grid may be extended, by one rate each time; a best that then still stands at the edge is said to."""


@dataclass(frozen=True)
class Tuned:
    """What is known of a method's rate on a workload.

    Attributes:
        rate: the best one; None: cells of the grid are missing.
        missing: cells to measure next.
        tried: validation figure and loss by rate.
        at_edge: the best is at an end of the grid all the same.
    """

    rate: float | None
    missing: tuple[Cell, ...]
    tried: Mapping[float, tuple[float, float]]
    at_edge: bool = False


def tuned(workload: str, method: str, store: Store) -> Tuned:
    """The method's best rate, or what is missing to know it."""
    at = WORKLOADS[workload]
    wanted = sorted(at.grid(method))
    first = len(wanted)
    while True:
        cells = {rate: [tuning(workload, method, rate, seed) for seed in at.tuning_seeds] for rate in wanted}
        results = {rate: [store.result(cell) for cell in each] for rate, each in cells.items()}
        found = {rate: _mean([one for one in each if one]) for rate, each in results.items() if all(each)}
        tried = {rate: (one["validation"], one["validation_loss"]) for rate, one in found.items()}
        if len(found) < len(wanted):
            return Tuned(
                None,
                tuple(cell for rate in wanted for cell, one in zip(cells[rate], results[rate], strict=True) if not one),
                tried,
            )
        best = ranked(found)[0]
        if wanted[0] < best < wanted[-1]:
            return Tuned(best, (), tried)
        if len(wanted) == first + EXTENSIONS:
            return Tuned(best, (), tried, at_edge=True)
        wanted = sorted([*wanted, 2 * best if best == wanted[-1] else best / 2])


def _mean(figures: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Validation figure and loss, mean over seeds."""
    return {key: fmean(one[key] for one in figures) for key in ("validation", "validation_loss")}


def ranked(found: Mapping[float, Mapping[str, Any]]) -> list[float]:
    """Rates, best first: by the validation figure, then by the lower validation loss."""
    return sorted(found, key=lambda rate: (-round(found[rate]["validation"], 6), found[rate]["validation_loss"]))
