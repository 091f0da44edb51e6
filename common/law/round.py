"""A round as algebra: `begin` a plan, `seal_update` to integers (docs/explanation/how-it-works.md).

Pure functions over frozen state, and `dictpfl.common.law.finishing` ends the round; `dictpfl` (the package's docstring) runs them on toy numbers. Only elementwise IEEE
operations touch shared values and steps are powers of two, so that every platform computes the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import RoundError
from dictpfl.common.law.facts import Facts
from dictpfl.common.law.grid import code_units, quantise, range_codes, step_exponents
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.law.noise import Draw
from dictpfl.common.law.order import due
from dictpfl.common.law.packing import Digits, Packer, pack
from dictpfl.common.law.pruning import Bools, met, sent_mask
from dictpfl.common.law.refresh import live
from dictpfl.common.law.schedule import schedule
from dictpfl.common.law.state import Floats, Residual, SharedState
from dictpfl.common.law.streams import Stream
from dictpfl.common.law.tally import Tally
from dictpfl.common.law.terms import Law
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.rounds import Pruning

__all__ = ["Law", "Plan", "Sealable", "Stream", "begin", "facts", "seal_update"]

CLEAR_BITS = 32
"""Bits of a value that crosses in clear: as many as float32."""
_CLEAR_VALUE_BITS = 24
STATISTIC_BITS = 12
"""Bits of a value of a running mean or variance in every round: with fewer a model with batch norm collapses now and then."""
STATISTIC_HEADROOM = 2.0
"""Least `grid.headroom` of statistics: nothing of them is owed, so none should be cut."""


@dataclass(frozen=True)
class Plan:
    """Plan of a round: which values are sent, and how; the same at every institution.

    Attributes:
        round: number of the round.
        kind: its kind.
        mask: mask of the sent coordinates, bool, shape (size,).
        wide: encrypted stream of the model's statistics, running means and variances: few bits would spoil these few values.
        sealed: encrypted stream of all else.
        clear: stream that crosses in clear, empty in an encrypted federation.
        units: unit of each tensor's range code, from the sealed stream's steps, float64, shape (tensors,).
        pruning: settings s, tau and beta in force.
        tally: tally whose integers a score round carries; None in other rounds.
    """

    round: int
    kind: RoundKind
    mask: Bools
    wide: Stream
    sealed: Stream
    clear: Stream
    units: Floats
    pruning: Pruning
    tally: Tally | None = None

    @property
    def sent(self) -> int:
        """Number of values sent."""
        return self.wide.size + self.sealed.size + self.clear.size

    def components(self, sealed: int | None = None) -> int:
        """Count the components behind the ledger, or those that there would be with so many values in the sealed stream."""
        size = self.sealed.size if sealed is None else sealed
        return self.wide.components + self.sealed.digits.components(size)


@dataclass(frozen=True)
class Sealable:
    """Integers ready to be sealed, and the residual that they leave.

    Attributes:
        components: ledger and packed values, int64.
        clear: packed values that cross in clear, int64.
        residual: part of the update that is not sent this round.
    """

    components: Ints
    clear: Ints
    residual: Residual


def begin(law: Law, state: SharedState, kind: RoundKind) -> Plan:
    """Make the plan of the next round, from shared state and the agreed seed alone: the same at every institution.

    Raises:
        RoundError: a score round where no tally is due.
    """
    pruning = schedule(law.pruning.schedule).at(facts(law, state), law.pruning)
    mask = np.zeros(law.layout.size, dtype=bool)
    tally = None
    if kind is RoundKind.SCORE and (tally := due(law, state) or (law.sensitivity if law.decision else None)) is None:
        raise RoundError(
            f"round {state.round} asks for scores, but no tally is due after {state.updates} updates and {len(state.tallies)} tallies; "
            "nothing is sent"
        )
    if tally is not None and not tally.decides:
        return _tallying(law, state, tally, pruning)
    if kind is RoundKind.SCORE:
        mask[:] = True
    elif kind is RoundKind.UPDATE:
        context = (law.federation, state.round)
        mask = sent_mask(state.history, law.prunable, pruning, law.seed, *context)
        if law.refresh.ranks:
            mask &= live(law.refresh, law.layout, state.records)
        if pruning.quota:
            mask = met(mask, state.history, law.prunable, pruning, law.seed, *context)
    nothing = np.broadcast_to(np.False_, mask.shape)  # of no length in memory
    clear = mask & state.clear if state.clear is not None and kind is RoundKind.UPDATE else nothing
    ranges = np.full_like(state.ranges, law.score_range) if kind is RoundKind.SCORE else state.ranges
    digits = _digits(law, state, kind)
    statistics = mask & law.layout.coordinates(Kind.STATISTIC) if _apart(law, kind) else nothing
    sealed = mask if clear is nothing and statistics is nothing else mask & ~clear & ~statistics
    return Plan(
        state.round,
        kind,
        mask,
        _stream(law, ranges, statistics if clear is nothing else statistics & ~clear, _wide_digits(law)),
        _stream(law, ranges, sealed, digits),
        _stream(law, ranges, clear, _clear_digits(law)),
        code_units(np.ldexp(1.0, step_exponents(ranges, digits.largest)), digits.largest),
        pruning,
        tally,
    )


def seal_update(law: Law, plan: Plan, update: Floats, ledger: Ledger, draw: Draw | None = None) -> Sealable:
    """Quantise and pack an institution's update.

    Args:
        law: agreement.
        plan: plan of the round.
        update: u = w * (local - x) + r, with weight w and residual r, float64, shape (size,).
        ledger: report for the head of the upload; its `codes` are filled in here.
        draw: source of this institution's noise, where the law wants noise.

    Returns:
        Components (ledger first), the clear section's integers, and the residual: what clipping and
        rounding left, and what was not sent, damped by `residual_decay` (or dropped by `discard`); nothing of statistics.

    Raises:
        RoundError: an update that is not finite, or of another shape; or nothing to draw noise from.
    """
    if law.noise is not None and draw is None:
        raise RoundError("the law wants noise on every update, nothing was given to draw it from; nothing is sealed")
    if update.shape != (law.layout.size,) or not np.isfinite(update).all():
        raise RoundError(
            f"an update of shape {update.shape} with finite values only: {bool(np.isfinite(update).all())}, expected "
            f"({law.layout.size},) and finite; training diverged or the residual is damaged"
        )
    rest, largest = _unsent(law, plan, update), np.full(plan.units.size, -1.0)
    components, clear = (
        np.empty(law.ledger.size + plan.components(), dtype=np.int64),
        np.empty(plan.clear.components, np.int64),
    )
    middle = law.ledger.size + plan.wide.components
    places = (
        (plan.wide, components[law.ledger.size : middle]),
        (plan.sealed, components[middle:]),
        (plan.clear, clear),
    )
    for stream, place in places:
        if law.noise is None or draw is None:
            _quantise(stream, update, rest, largest, place)
        else:
            index = stream.index
            q, rest[index] = law.noise.clipped(update[index])
            place[:] = pack(law.noise.noised(q, draw), stream.digits)
    without_statistics(law.layout, rest)
    sent = np.flatnonzero(largest >= 0.0).astype(np.int32)
    codes = range_codes(largest[sent], plan.units, sent, law.ledger.codes.largest)
    components[: law.ledger.size] = law.ledger.write(replace(ledger, codes=codes))
    return Sealable(components, clear, Residual(rest))


def without_statistics(layout: Layout, values: Floats) -> Floats:
    """Set running statistics to 0, in place: they are measured anew in every round, and what is owed of one would be counted twice.

    Args:
        layout: of the shared vector.
        values: what an institution owes, float32, in the order of the layout.
    """
    for entry in layout.entries:
        if entry.kind is Kind.STATISTIC:
            values[entry.span] = 0.0
    return values


def _quantise(stream: Stream, update: Floats, rest: Floats, largest: Floats, components: Ints) -> None:
    """Quantise and pack a stream piece by piece into `components`.

    What is left goes into `rest`, and the largest magnitude of each tensor into `largest`.
    """
    packer = Packer(components, stream.digits)
    for piece in stream.pieces():
        values = update[piece.span][piece.chosen]
        q, rest[piece.span][piece.chosen] = quantise(values, piece.step, stream.digits.largest)
        packer.add(q)
        magnitude = max(float(values.max()), -float(values.min()))
        largest[piece.tensor] = max(float(largest[piece.tensor]), magnitude)


def facts(law: Law, state: SharedState) -> Facts:
    """Facts that a schedule may decide from; spectra are left out, since an SVD's last bits differ between machines."""
    scores = {} if state.scores is None else dict(zip(law.shapes, state.scores.tolist(), strict=True))
    prunable = law.prunable_count
    return Facts(
        law.shapes,
        scores=scores,
        course=state.course,
        updates=state.updates,
        rounds=law.rounds,
        prunable=prunable,
        always=law.layout.size - prunable,
    )


def _apart(law: Law, kind: RoundKind) -> bool:
    """Tell whether statistics travel in a stream of their own."""
    there = any(entry.kind is Kind.STATISTIC for entry in law.layout.entries)
    return there and kind is RoundKind.UPDATE and law.noise is None


def _tallying(law: Law, state: SharedState, tally: Tally, pruning: Pruning) -> Plan:
    """Plan of a round that carries a tally with a layout of its own, and nothing of the shared vector."""
    nothing = np.zeros(law.layout.size, dtype=bool)
    digits = tally.digits(law.capacity, law.payload_bits)
    steps = np.full(len(tally.layout.entries), math.ldexp(1.0, -tally.fraction))
    integers = Stream(tally.layout, np.ones(tally.layout.size, dtype=bool), steps, digits)
    wide, clear = (_stream(law, state.ranges, nothing, unused) for unused in (_wide_digits(law), _clear_digits(law)))
    units = np.zeros(len(law.layout.entries))
    return Plan(state.round, RoundKind.SCORE, nothing, wide, integers, clear, units, pruning, tally)


def _unsent(law: Law, plan: Plan, update: Floats) -> Floats:
    if law.pruning.pruned == "discard":
        return np.zeros_like(update)
    rest = update * law.pruning.residual_decay
    rest[plan.mask] = 0.0
    return rest


def _digits(law: Law, state: SharedState, kind: RoundKind) -> Digits:
    if kind is RoundKind.SCORE:
        return Digits.single(law.capacity, law.payload_bits)
    if law.noise is not None:
        return law.noise.digits(law.capacity, law.payload_bits)
    if state.updates == 0:
        return Digits.fit(max(law.grid.first_bits, law.grid.value_bits), law.capacity, law.payload_bits)
    return Digits.fit(law.grid.value_bits, law.capacity, law.payload_bits)


def _wide_digits(law: Law) -> Digits:
    return Digits.fit(max(STATISTIC_BITS, law.grid.value_bits), law.capacity, law.payload_bits)


def _clear_digits(law: Law) -> Digits:
    return Digits.fit(min(_CLEAR_VALUE_BITS, CLEAR_BITS - law.capacity.bit_length() - 1), law.capacity, CLEAR_BITS)


def _stream(law: Law, ranges: Floats, mask: Bools, digits: Digits) -> Stream:
    return Stream(law.layout, mask, np.ldexp(1.0, step_exponents(ranges, digits.largest)), digits)
