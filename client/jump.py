"""From an old state to a snapshot's: what an institution then still owes, without the rounds in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from client.memory import Record
from common.layout import Layout
from common.protocol import Aggregate
from common.refresh import forgotten
from common.state import Residual, SharedState

Counted = Mapping[int, Sequence[bytes]]
"""Upload ids in the sum, by round."""


def jumped(record: Record, state: SharedState, aggregates: Sequence[Aggregate], layout: Layout) -> tuple[Record, bool]:
    """The record with a later shared state, and whether what it owed was given up.

    What is owed goes on only where acknowledgements of every round in between (aggregates without a blob) show that it
    was not delivered: nothing may be delivered twice, and what a round's mask was cannot be told without replay.
    """
    counted = {a.round: a.counted for a in aggregates if record.shared.round <= a.round < state.round}
    owed, given_up = _owed(record, state.round, counted)
    owed = forgotten(layout, owed, state.records[len(record.shared.records) :])
    return replace(record, shared=state, residual=owed, pending=None), given_up


def _owed(record: Record, end: int, counted: Counted) -> tuple[Residual, bool]:
    pending, nothing = record.pending, Residual.none(record.residual.values.size)
    if pending is None and not record.residual.values.any():
        return nothing, False
    if any(number not in counted for number in range(record.shared.round, end)):
        return nothing, True
    remembered = pending is not None and pending.upload_id in counted[pending.round]
    others = [u for n, uploads in counted.items() for u in uploads if u.startswith(record.mark(n))]
    if len(others) > remembered:
        # Uploads that this record does not remember, because it comes from a backup: they delivered what it owes.
        return nothing, True
    if pending is None:
        return record.residual, False
    return (pending.counted if remembered else pending.missed), False
