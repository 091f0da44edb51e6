"""The end of a round, as algebra: opened sums go into shared state (docs/explanation/how-it-works.md).

A pure function over frozen state, as `begin` and `seal_update` are (`dictpfl.common.law.round`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import RoundError, VoidError
from dictpfl.common.law.aggregation import anew, moved
from dictpfl.common.law.decision import Scored, decision
from dictpfl.common.law.grid import next_ranges
from dictpfl.common.law.layout import Kind
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.law.packing import unpack_narrow
from dictpfl.common.law.pruning import History, advance, judged
from dictpfl.common.law.refresh import coordinates, moved_on
from dictpfl.common.law.round import STATISTIC_HEADROOM, Plan
from dictpfl.common.law.selection import Best, Course, score
from dictpfl.common.law.state import Floats, SharedState
from dictpfl.common.law.tally import Tallied, Tally
from dictpfl.common.law.tallying import tallied
from dictpfl.common.law.terms import Law
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.rounds import CLEAR_LEAST


def finish(
    law: Law, state: SharedState, plan: Plan, components: Ints, clear: Ints, *, contributors: int
) -> tuple[SharedState, Ledger]:
    """Compute shared state after the round from the opened sums; the given state is untouched.

    d = step * sum(q) / sum(w) is the mean update, and x += d, or as `law.aggregation` says; idle counts and exponents follow
    TIP and HRC on the sums themselves; ranges follow the ledger.

    Args:
        law: agreement.
        state: shared state before the round.
        plan: plan of the round.
        components: opened components, padding included, int64.
        clear: sums of the stream that crosses in clear, int64.
        contributors: number of uploads in the sum.

    Raises:
        VoidError: one of the uploads was made by another plan, or its ledger or its values are nonsense.
        RoundError: the decision of a score round is none.
    """
    ledger = law.ledger.read(components)
    if ledger.participants != contributors:
        raise VoidError(f"{contributors} uploads are in the sum, their ledgers count {ledger.participants}")
    if ledger.samples < 1:
        raise VoidError("the ledger counts no training samples; no update can be weighted")
    if plan.tally is not None and not plan.tally.decides:
        return _tallied(state, plan.tally, tallied(law, plan, plan.tally, components), ledger), ledger
    total = carried(law, plan, components, clear)
    if plan.kind is not RoundKind.SCORE:
        state = replace(state, course=_followed(law, state, plan.kind, ledger))
    if plan.kind is RoundKind.MEASURE:
        return replace(state, round=state.round + 1), ledger
    if plan.kind is RoundKind.SCORE:
        return _decided(law, state, total, ledger), ledger
    return _updated(law, state, plan, total, ledger), ledger


def carried(law: Law, plan: Plan, components: Ints, clear: Ints) -> Floats:
    """Unpack the sums of w * values behind the ledger: float64, shape (size,), of a tally its own; 0 where nothing is sent.

    Raises:
        VoidError: another number of components than the plan has.
    """
    total = np.zeros(law.layout.size if plan.tally is None else plan.tally.layout.size)
    start = law.ledger.size
    end = start + plan.wide.components
    parts = ((plan.wide, components[start:end]), (plan.sealed, components[end:]), (plan.clear, clear))
    for stream, part in parts:
        needed = stream.components
        if part.size < needed or part[needed:].any():
            raise VoidError(
                f"expected {needed} components and zeros behind them, found {part.size}; the sum is of another round "
                "or plan"
            )
        q = unpack_narrow(part[:needed], stream.size, stream.digits)
        for piece in stream.pieces():
            total[piece.span][piece.chosen] = piece.step * q[piece.at : piece.at + piece.size].astype(np.float64)
    return total


def _tallied(state: SharedState, tally: Tally, sums: Ints, ledger: Ledger) -> SharedState:
    """Shared state after a round whose sums are kept."""
    opened = Tallied(tally.name, tally.when, ledger.participants, ledger.samples, sums)
    return replace(state, round=state.round + 1, tallies=(*state.tallies, opened))


def _decided(law: Law, state: SharedState, total: Floats, ledger: Ledger) -> SharedState:
    """Shared state after a score round."""
    scored = Scored(law.layout, total, ledger.samples / law.sample_cap, law.sealed_share, law.pruning)
    after = decision(law.decision).decide(state, scored)
    is_same = len(after.moments) == len(state.moments) and after.tallies is state.tallies
    if not is_same or not after.fits(law.layout, law.tallies):
        raise RoundError(
            f"the decision {law.decision!r} returned a shared state that is not one of this layout (shapes, dtypes, or values "
            "that are not finite); nothing was applied. Mend the decision, at all institutions alike"
        )
    if law.decision != CLEAR_LEAST:  # the built-in one is older than this field, which is part of the digest
        after = replace(after, scores=scored.by_tensor())
    return replace(after, round=state.round + 1, rescored=state.updates)


def _followed(law: Law, state: SharedState, kind: RoundKind, ledger: Ledger) -> Course:
    """Course with the ledger's figures for `state`, the model that institutions measured before they trained."""
    if law.selection.by == "none" or not ledger.measured:
        return state.course
    figure = score(law.selection, ledger.measured, ledger.loss, ledger.metric)
    measured = Best(figure, state.updates, len(state.records), state.values)
    return state.course.followed(law.selection, measured, trains=kind is RoundKind.UPDATE)


def _updated(law: Law, state: SharedState, plan: Plan, total: Floats, ledger: Ledger) -> SharedState:
    history = _judged(law, state, plan, total)
    ruled = plan.mask & ~law.layout.coordinates(Kind.STATISTIC)
    mean = np.multiply(total, law.sample_cap / ledger.samples, out=total)  # in its place: it is as long as the vector
    values, moments = moved(law.aggregation, state.values, state.moments, mean, ruled, out=mean)
    ranges = next_ranges(state.ranges, plan.units, ledger.codes, ledger.participants, _headroom(law))
    after = replace(
        state,
        round=state.round + 1,
        updates=state.updates + 1,
        values=values,
        moments=moments,
        history=history,
        ranges=ranges,
    )
    if law.refresh.every:
        after = moved_on(law.refresh, law.layout, after, values - state.values, plan.mask)
    for record in after.records[len(state.records) :]:
        after = replace(after, moments=anew(after.moments, coordinates(law.layout, record.chosen)))
    return after


def _judged(law: Law, state: SharedState, plan: Plan, total: Floats) -> History:
    """History after the round; `total` is that of the sums."""
    if not (plan.mask & law.prunable).any():
        return state.history
    index, below = judged(total, plan.mask, law.prunable, law.layout.tensor_of, plan.pruning)
    return advance(state.history, index, below, plan.pruning)


def _headroom(law: Law) -> Floats:
    """Headroom of each tensor, float64, shape (tensors,)."""
    least = [STATISTIC_HEADROOM if entry.kind is Kind.STATISTIC else 0.0 for entry in law.layout.entries]
    return np.maximum(law.grid.headroom, least)
