"""Rates of the linear models, chosen on validation rows of the training split; test rows are not looked at."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lib.clinical.linear import Floats, Rows, federated, figure
from lib.clinical.published import STEPS, Rates
from lib.clinical.tables import Table

SPLITS = 20
"""Splits of each centre's training rows, a seed each, that a figure is the mean of."""
_SHARE = 0.3
_EXTENSIONS = 6
Axis = str
Point = tuple[float, ...]
_GRIDS: Mapping[str, Mapping[Axis, Sequence[float]]] = {
    "FedAvg": {"rate": [2.0**k for k in range(-12, 2)]},
    "FedProx": {"rate": [2.0**k for k in range(-10, 2)], "proximal": [2.0**k for k in range(-6, 4)]},
    "FedAdam": {"rate": [2.0**k for k in range(-10, 1)], "server": [2.0**k for k in range(-9, 2)]},
    "FedYogi": {"rate": [2.0**k for k in range(-10, 1)], "server": [2.0**k for k in range(-9, 2)]},
}
METHODS = tuple(_GRIDS)


def described(method: str) -> str:
    """What a choice depends on beside the data, as a word: a choice made under another is made anew."""
    return repr((method, _GRIDS[method], SPLITS, _SHARE, STEPS))


def chosen(table: Table, method: str) -> dict[str, Any]:
    """The best rates of a method, and what was tried.

    The figure is the one that a federation has: each institution's validation figure weighted by its samples, as the
    ledger adds them. `by_centres` is what the plain mean over centres would have chosen of the same settings: where small
    centres hold back one or two events, it says how much the choice is worth. Every axis goes by factors of two, and is
    extended beyond its end as long as the best stands there.
    """
    axes = {name: list(values) for name, values in _GRIDS[method].items()}
    tried: dict[Point, tuple[float, float]] = {}
    for _ in range(_EXTENSIONS + 1):
        wanted = [point for point in itertools.product(*axes.values()) if point not in tried]
        figures = _figures(table, [_rates(table, method, axes, point) for point in wanted])
        tried |= {point: (float(a), float(b)) for point, (a, b) in zip(wanted, figures, strict=True)}
        best = _best(tried, 0)
        edges = [(name, v) for name, v in zip(axes, best, strict=True) if v in (axes[name][0], axes[name][-1])]
        if not edges:
            break
        for name, value in edges:
            values = axes[name]
            axes[name] = [value / 2, *values] if value == values[0] else [*values, 2 * value]
    other = _best(tried, 1)
    return {
        **vars(_rates(table, method, axes, best)), "validation": tried[best][0], "inside": not edges,
        "settings_tried": len(tried), "splits": SPLITS, "axes": {name: [values[0], values[-1]] for name, values in axes.items()},
        "by_centres": vars(_rates(table, method, axes, other)) | {"validation": tried[other][1]},
    }  # fmt: skip


def held(table: Table) -> dict[str, int]:
    """Rows that a split holds back to choose by, and those of them where something happened."""
    parts = [_split(rows, 0)[1] for rows in table.train.values()]
    return {"rows": sum(len(part.features) for part in parts), "events": int(sum(part.event.sum() for part in parts))}


def _best(tried: Mapping[Point, tuple[float, float]], which: int) -> Point:
    """The point of the highest figure, the lowest rates among equals."""
    return max(tried, key=lambda point: (round(tried[point][which], 6), [-value for value in point]))


def _rates(table: Table, method: str, axes: Mapping[Axis, Sequence[float]], point: Sequence[float]) -> Rates:
    wanted: dict[str, Any] = dict(zip(axes, point, strict=True))
    return replace(table.published.rates[method], **wanted)


def _figures(table: Table, grid: Sequence[Rates]) -> Floats:
    """Validation figures of each setting, mean over splits, (settings, 2): weighted by samples, and plain over centres."""
    total = np.zeros((len(grid), 2))
    published = table.published
    for seed in range(SPLITS):
        parts = [_split(rows, seed) for rows in table.train.values()]
        with np.errstate(over="ignore", invalid="ignore"):
            weights = federated(table.kind, [train for train, _ in parts], grid, rounds=published.rounds, steps=STEPS,
                                batch=published.batch, seed=seed)  # fmt: skip
            each = np.stack([figure(table.kind, weights, held) for _, held in parts])
        known = np.asarray(
            ~np.isnan(each).all(axis=1)
        )  # a centre without a comparable pair in this split has no figure
        counts = np.array([len(held.features) for _, held in parts])
        both = np.stack([np.average(each[known], axis=0, weights=counts[known]), each[known].mean(axis=0)], axis=1)
        total += (
            np.where(np.isfinite(weights).all(axis=1, keepdims=True), both, 0.0) / SPLITS
        )  # what diverges counts nothing
    return total


def _split(rows: Rows, seed: int) -> tuple[Rows, Rows]:
    """Training and validation rows of a centre, stratified by what happened."""
    random = np.random.default_rng(1000 + seed)
    held = np.zeros(len(rows.features), dtype=bool)
    for value in np.unique(rows.event):
        places = random.permutation(np.flatnonzero(rows.event == value))
        held[places[: round(_SHARE * len(places))]] = True
    return rows.take(np.flatnonzero(~held)), rows.take(np.flatnonzero(held))
