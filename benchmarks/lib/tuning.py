"""Learning rates by validation accuracy, on seeds that are not reported; the test split is not looked at."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from lib.federations import Cell, measure_all
from lib.workloads import WORKLOADS

SEEDS = (0, 100)
"""More than one: a rate at the brink of divergence may look best once."""
EXTENSIONS = 4
"""How often a grid may be extended; each time by one rate, beyond the end at which the best stands."""
K = TypeVar("K", bound=Hashable)
Key = tuple[str, str]
"""Workload and method."""
Tuning = dict[float, list[dict[str, Any]]]
"""Validation figures of each tuning seed, by rate."""


def ranked(tried: Tuning) -> list[float]:
    """Rates by mean validation accuracy, best first; the lower validation loss decides between equals."""

    def mean(rate: float, key: str) -> float:
        return round(statistics.fmean(figures[key] for figures in tried[rate]), 6)

    return sorted(tried, key=lambda rate: (-mean(rate, "validation"), mean(rate, "validation_loss")))


def best_rate(tried: Tuning) -> float:
    """The best of the rates that were tried on most seeds."""
    most = max(map(len, tried.values()))
    return ranked({rate: figures for rate, figures in tried.items() if len(figures) == most})[0]


def tune(keys: Sequence[Key], jobs: int, *, quick: bool = False) -> dict[Key, Tuning]:
    """Validation figures by workload and method; a whole grid whose best is at its end is extended there.

    Where a workload says so, the two best rates then run on further seeds, and the best of the two on all seeds is chosen.

    Args:
        keys: workloads and methods. `jobs`: processes.
        quick: one seed, the grid as it is.
    """
    tried = search({key: WORKLOADS[key[0]].grid(key[1]) for key in keys}, _tuning_cell, jobs, quick=quick)
    if not quick:
        finalists = {key: ranked(grid)[:2] for key, grid in tried.items()}
        further = [(k, rate, seed) for k, two in finalists.items() for rate in two for seed in WORKLOADS[k[0]].further]
        _add(tried, further, _tuning_cell, jobs)
    return tried


def search(
    grids: Mapping[K, Sequence[float]],
    made: Callable[[K, float, int], Cell],
    jobs: int,
    *,
    seeds: Sequence[int] = SEEDS,
    quick: bool = False,
) -> dict[K, Tuning]:
    """Validation figures of each grid on all tuning seeds; a grid whose best is at its end is extended there.

    Args:
        grids: rates, by what is tuned.
        made: a cell of one of them at a rate and seed.
        jobs: processes.
        seeds: of the tuning.
        quick: one seed, the grids as they are.
    """
    tried: dict[K, Tuning] = {key: {} for key in grids}
    wanted = dict(grids)
    for _ in range(1 if quick else EXTENSIONS + 1):
        chosen = seeds[: 1 if quick else None]
        _add(tried, [(key, rate, seed) for key in grids for rate in wanted[key] for seed in chosen], made, jobs)
        wanted = {key: _beyond(grid) for key, grid in tried.items()}
    return tried


def _tuning_cell(key: Key, rate: float, seed: int) -> Cell:
    name, method = key
    return WORKLOADS[name].cell(name, method, rate, seed, tunes=True)


def _beyond(grid: Tuning) -> Sequence[float]:
    return sorted(set(widened(sorted(grid), best_rate(grid))) - set(grid))


def _add(
    tried: dict[K, Tuning], wanted: Sequence[tuple[K, float, int]], made: Callable[[K, float, int], Cell], jobs: int
) -> None:
    cells = [made(*one) for one in wanted]
    for (key, rate, _), found in zip(wanted, measure_all(cells, jobs), strict=True):
        tried[key].setdefault(rate, []).append(found)


def widened(grid: Sequence[float], best: float) -> list[float]:
    """Add a rate beyond the end of a rising grid at which the best stands; a grid whose best lies within stays."""
    if best == grid[0]:
        return [grid[0] / 2, *grid]
    return [*grid, grid[-1] * 2] if best == grid[-1] else list(grid)
