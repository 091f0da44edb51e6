"""Cells that are one computation under several names: it is measured once, and stands in every table that asks for it.

A point of an arm that has the defaults is a federation of the accuracy tables, and arms share their points with one another. What
counts is everything that a federation is made of but its name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from dictpfl.common.errors import DictPFLError
from lib.paper.catalogue import every
from lib.paper.cells import Cell, Store, effective, flat, start
from lib.paper.methods import tuned_as


def twins(cell: Cell) -> tuple[Cell, ...]:
    """Cells whose result is this one's, too, itself first. One whose course is drawn takes no result of one whose course is not."""
    others = (one for one in _groups().get(cell.name, ()) if one.name != cell.name)
    return (cell, *(one for one in others if one.drawn or not cell.drawn))


def measured_as(cell: Cell) -> Cell:
    """The cell to measure for this one: of its computation, the first whose course is drawn, or the first of all."""
    group = _groups().get(cell.name, (cell,))
    return next((one for one in group if one.drawn), group[0])


def stored(cell: Cell, rate: float | None, store: Store) -> dict[str, Any] | None:
    """What stands in the store for a cell, under its own name or a twin's, if it was measured with today's settings."""
    for one in twins(cell):
        found = store.read(one.name)
        if found is not None and store.holds(found, one, rate):
            return found
    return None


@cache
def _groups() -> Mapping[str, tuple[Cell, ...]]:
    """Every cell's computation, by name: the cells of it in the catalogue's order."""
    by_key: dict[str, list[Cell]] = {}
    for cell in every():
        by_key.setdefault(_key(cell), []).append(cell)
    return {cell.name: tuple(group) for group in by_key.values() for cell in group}


def _key(cell: Cell) -> str:
    try:
        settings = effective(flat(cell.config()))
    except DictPFLError:  # what it is made of is not there: it stands alone
        return cell.name
    settings.pop("name")
    tuned = cell.tuned and (cell.tuned[0], tuned_as(cell.tuned[1]), cell.rated)
    return json.dumps(
        [settings, tuned, start(cell), cell.tunes, cell.traced, cell.in_process, cell.decimals, cell.alone],
        sort_keys=True,
    )
