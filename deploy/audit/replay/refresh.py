"""Refreshes of dictionaries: which tables W0 takes up, from shared state alone (section 11)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dictpfl.deploy.audit.replay.agreement import Agreement, Bools, Floats
from dictpfl.deploy.audit.replay.state import State, Taken


def in_use(agreement: Agreement, state: State) -> Bools:
    """Mask of the values in use: rows of a table beyond its present rank rest, and columns of a core."""
    mask = np.ones(agreement.size, dtype=bool)
    rules = agreement.config["decomposition"]
    ranks, form = rules["refresh_ranks"], rules.get("form", "table")
    if not ranks:
        return mask
    for number, table in enumerate(agreement.tables):
        count = sum(bool(one.chosen[number]) for one in state.taken)
        rows = min(table.shape[0], int(ranks[min(count, len(ranks) - 1)]))
        values = mask[table.place].reshape(table.shape)
        values[rows:] = False
        if form == "core":
            values[:, rows:] = False
    return mask


def moved_on(agreement: Agreement, state: State, update: Floats, mask: Bools) -> State:
    """Follow an update round, and refresh the tables that are due.

    Args:
        agreement: agreement of the federation.
        state: state with the round's update in it.
        update: change of the shared vector by the round, float64.
        mask: values that were sent.
    """
    rules = agreement.config["decomposition"]
    every = int(rules["refresh_every"])
    if not every:
        return state
    if state.pace is None:
        due = state.updates % every == 0
        return _refreshed(agreement, state, np.full(len(agreement.tables), due))
    means, counts = _means(agreement, update, mask)
    before, ages = state.pace
    largest, age = np.maximum(before, means), ages + np.uint32(1)
    chosen = (counts > 0) & (age >= every) & (means < float(rules["refresh_stall"]) * largest)
    pace = (np.where(chosen, 0.0, largest), np.where(chosen, 0, age).astype(np.uint32))
    return _refreshed(agreement, replace(state, pace=pace), chosen)


def _means(agreement: Agreement, update: Floats, mask: Bools) -> tuple[Floats, Floats]:
    sums, counts = [], []
    for table in agreement.tables:
        moved = np.abs(update[table.place][mask[table.place]])
        sums.append(math.fsum(moved.tolist()))
        counts.append(moved.size)
    if agreement.config["decomposition"]["refresh_when"] == "stall":
        sums, counts = [math.fsum(sums)] * len(sums), [sum(counts)] * len(counts)
    means = [total / max(1, count) for total, count in zip(sums, counts, strict=True)]
    return np.array(means), np.array(counts, dtype=np.float64)


def _refreshed(agreement: Agreement, state: State, chosen: Bools) -> State:
    if not chosen.any():
        return state
    mask = np.zeros(agreement.size, dtype=bool)
    for table, is_chosen in zip(agreement.tables, chosen.tolist(), strict=True):
        mask[table.place] = is_chosen
    taken = (*state.taken, Taken(chosen, state.values[mask]))
    moments = tuple(np.where(mask, 0.0, moment) for moment in state.moments)
    after = replace(state, values=np.where(mask, 0.0, state.values), taken=taken, moments=moments)
    if agreement.config["decomposition"]["refresh_history"] != "forget":
        return after
    kept = ~mask
    return replace(after, idle=after.idle * kept, exponent=after.exponent * kept)
