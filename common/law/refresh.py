"""Refreshes of dictionaries (`decomposition.refresh_*`): when, which ones and at what rank, from shared state alone.

At a refresh W0 takes up D T, a new D is drawn from the shared stream, and T starts at zero. Nothing is sent for it, and
every institution that replays the rounds does the same in the same round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.law.dictionary import Form
from dictpfl.common.law.layout import Entry, Kind, Layout
from dictpfl.common.law.pruning import Bools, forget
from dictpfl.common.law.state import Floats, Pace, Refresh, Residual, SharedState
from dictpfl.common.settings import Decomposition


@dataclass(frozen=True)
class Refreshing:
    """Rules of refreshes; with `every` = 0 there are none.

    Attributes:
        every: M, number of rounds from one refresh to the next; where `when` is a stall, the least number.
        when: `fixed`; `stall`: all tables, once their updates together have shrunk; `stall-tensor`: each for itself.
        stall: an update counts as stalled below this share of the largest since the last refresh.
        history: `forget` or `keep` what pruning knows of the coordinates of a refreshed table.
        ranks: number of rows in use after 0, 1, 2, ... refreshes of a table, the last from then on; empty: all.
        form: `core`: columns beyond the rank rest, too.
    """

    every: int = 0
    when: str = "fixed"
    stall: float = 0.5
    history: str = "forget"
    ranks: tuple[int, ...] = ()
    form: Form = "table"

    @classmethod
    def of(cls, settings: Decomposition) -> Refreshing:
        """Take the rules from the settings."""
        return cls(
            settings.refresh_every,
            settings.refresh_when,
            settings.refresh_stall,
            settings.refresh_history,
            tuple(settings.refresh_ranks),
            settings.form,
        )

    def start(self, layout: Layout) -> Pace | None:
        """Make the pace before round 0; None where refreshes do not depend on it."""
        if not self.every or self.when == "fixed":
            return None
        count = len(tables(layout))
        return Pace(np.zeros(count), np.zeros(count, dtype=np.uint32))

    def rank(self, rows: int, refreshes: int) -> int:
        """Number of rows in use, of a table with `rows` rows, after `refreshes` refreshes of it."""
        return min(rows, self.ranks[min(refreshes, len(self.ranks) - 1)]) if self.ranks else rows


def tables(layout: Layout) -> list[Entry]:
    """List the lookup tables, in the layout's order."""
    return [entry for entry in layout.entries if entry.kind is Kind.TABLE]


def coordinates(layout: Layout, chosen: Bools) -> Bools:
    """Mask, shape (size,), of the values of the chosen tables; `chosen`: bool, shape (tables,)."""
    mask = np.zeros(layout.size, dtype=bool)
    for entry, is_chosen in zip(tables(layout), chosen, strict=True):
        mask[entry.span] = is_chosen
    return mask


def refreshes(layout: Layout, records: Sequence[Refresh]) -> NDArray[np.int64]:
    """Count the refreshes of each table, int64, shape (tables,)."""
    none = np.zeros(len(tables(layout)), dtype=np.int64)
    return reduce(lambda counts, record: counts + record.chosen, records, none)


def live(law: Refreshing, layout: Layout, records: Sequence[Refresh]) -> Bools:
    """Mask, shape (size,), of the coordinates in use: a table's rows beyond its rank rest, and D has zeros for them."""
    mask = np.ones(layout.size, dtype=bool)
    if law.ranks:
        for entry, count in zip(tables(layout), refreshes(layout, records).tolist(), strict=True):
            rank, table = law.rank(entry.shape[0], count), mask[entry.span].reshape(entry.shape)
            table[rank:] = False
            if law.form == "core":
                table[:, rank:] = False
    return mask


def moved_on(law: Refreshing, layout: Layout, state: SharedState, update: Floats, sent: Bools) -> SharedState:
    """Follow the pace of an update round, and refresh the tables that are due.

    Args:
        law: agreed rules.
        layout: layout of the shared vector.
        state: shared state with the round's update in it.
        update: change of the values by the round, float64, shape (size,).
        sent: mask of the round, bool, shape (size,).
    """
    if not law.every:
        return state
    if state.pace is None:
        due = state.updates % law.every == 0
        return refreshed(law, layout, state, np.full(len(tables(layout)), due))
    means, counts = _means(law, layout, update, sent)
    largest, age = np.maximum(state.pace.largest, means), state.pace.age + np.uint32(1)
    chosen = (counts > 0) & (age >= law.every) & (means < law.stall * largest)
    pace = Pace(np.where(chosen, 0.0, largest), np.where(chosen, 0, age).astype(np.uint32))
    return refreshed(law, layout, replace(state, pace=pace), chosen)


def refreshed(law: Refreshing, layout: Layout, state: SharedState, chosen: Bools) -> SharedState:
    """Refresh the chosen tables: W0 takes up their D T (recorded here, done by whoever holds W0), and T starts at zero.

    `chosen`: bool, shape (tables,).
    """
    if not chosen.any():
        return state
    mask = coordinates(layout, chosen)
    return replace(
        state,
        values=np.where(mask, 0.0, state.values),
        history=forget(state.history, mask) if law.history == "forget" else state.history,
        records=(*state.records, Refresh(chosen, state.values[mask])),
    )


def forgotten(layout: Layout, residual: Residual, records: Sequence[Refresh]) -> Residual:
    """Drop the residual of refreshed tables: the directions that it was trained in are gone."""
    if not records:
        return residual
    gone = reduce(
        lambda mask, record: mask | coordinates(layout, record.chosen), records, np.zeros(layout.size, dtype=bool)
    )
    return Residual(np.where(gone, 0.0, residual.values))


def _means(law: Refreshing, layout: Layout, update: Floats, sent: Bools) -> tuple[Floats, NDArray[np.int64]]:
    """Compute for each table the mean magnitude of its sent values, and their number; of all together for `stall`.

    `math.fsum` rounds once, whatever the order: the same bits on every platform.
    """
    sums, counts = [], []
    for entry in tables(layout):
        moved = np.abs(update[entry.span][sent[entry.span]])
        sums.append(math.fsum(moved.tolist()))
        counts.append(moved.size)
    if law.when == "stall":
        sums, counts = [math.fsum(sums)] * len(sums), [sum(counts)] * len(counts)
    return np.array([s / max(1, n) for s, n in zip(sums, counts, strict=True)]), np.array(counts, dtype=np.int64)
