"""A round as algebra (DESIGN.md): `begin` a plan, `seal_update` integers, `finish` with their sums.

Pure functions over frozen state. Only elementwise IEEE operations touch shared values and steps are
powers of two, so that every platform computes the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from common.errors import LayoutError, RoundError, TooFewParticipantsError
from common.grid import code_units, next_ranges, quantise, range_codes, step_exponents
from common.layout import Kind, Layout
from common.ledger import Ledger, ledger_size
from common.masking import Bools, History, advance, inactive, sent_mask, smallest
from common.noise import Draw, Noise
from common.packing import Digits, Ints, pack, unpack
from common.protocol import RoundKind
from common.refresh import Refreshing, live, moved_on
from common.schedule import schedule
from common.selection import Best, Course, score
from common.settings import Grid, Pruning, Selection
from common.state import Floats, Residual, SharedState

CLEAR_BITS = 32
"""Bits of a value that crosses in clear: as many as float32."""
_CLEAR_VALUE_BITS = 24


@dataclass(frozen=True)
class Law:
    """What was agreed before round 1, as far as the algebra needs it."""

    layout: Layout
    pruning: Pruning
    grid: Grid
    seed: bytes
    federation: bytes
    capacity: int
    payload_bits: int
    sample_cap: int
    sealed_share: float = 1.0
    sensitivity: str = "gradient"
    refresh: Refreshing = field(default_factory=Refreshing)
    selection: Selection = field(default_factory=Selection)
    noise: Noise | None = None

    @property
    def bound(self) -> int:
        """Largest component that one participant may send."""
        return int((2 ** (self.payload_bits - 1) - 1) // self.capacity)

    @property
    def score_rounds(self) -> int:
        """Rounds before the first update, in which scores decide what is encrypted."""
        return int(0.0 < self.sealed_share < 1.0 and self.sensitivity == "gradient")

    def counted(self, samples: int) -> int:
        """Samples that an institution counts as: all the same where institutions as a whole are private."""
        return self.sample_cap if self.noise else min(samples, self.sample_cap)

    def weight(self, samples: int) -> float:
        """W = samples / cap, at most 1."""
        return self.counted(samples) / self.sample_cap

    def start(self, values: Floats) -> SharedState:
        """Shared state before round 0, from genesis's shared vector."""
        if values.shape != (self.layout.size,):
            raise LayoutError(f"genesis has {values.shape} shared values, the layout says ({self.layout.size},)")
        ranges = np.full(len(self.layout.entries), self._first_range)
        pace = self.refresh.start(self.layout)
        state = SharedState(0, 0, values.copy(), History.new(values.size), ranges, pace=pace)
        if self.sealed_share == 0.0:
            return replace(state, clear=np.ones(values.size, dtype=bool))
        if self.sealed_share < 1.0 and self.sensitivity == "magnitude":
            return replace(state, clear=self._least(np.abs(values)))
        return state

    @property
    def _first_range(self) -> float:
        if self.noise is None:
            return self.grid.first_range
        # Exactly what gives the agreed step; no ledger ever changes it.
        return math.ldexp(self.noise.digits(self.capacity, self.payload_bits).largest, self.noise.exponent)

    def _least(self, scores: Floats) -> Bools:
        """The coordinates with the smallest scores, which cross in clear; statistics never do."""
        clear = smallest(scores, float(Fraction(1) - Fraction(str(self.sealed_share))))
        return clear & ~self.layout.coordinates(Kind.STATISTIC)


@dataclass(frozen=True)
class Stream:
    """Coordinates that travel together: which, at which steps, in which digits."""

    index: Ints
    steps: Floats
    digits: Digits


@dataclass(frozen=True)
class Plan:
    """What a round sends; the same at every institution.

    Attributes:
        round, kind: of the round.
        mask: sent coordinates, shape (size,).
        sealed: the encrypted stream. `clear`: the one that crosses in clear, empty in an encrypted federation.
        units: of each tensor's range code, from the sealed stream's steps; shape (tensors,).
        pruning: s, tau, beta in force.
    """

    round: int
    kind: RoundKind
    mask: Bools
    sealed: Stream
    clear: Stream
    units: Floats
    pruning: Pruning

    @property
    def sent(self) -> int:
        """Number of values sent."""
        return self.sealed.index.size + self.clear.index.size


@dataclass(frozen=True)
class Sealable:
    """Integers ready to be sealed, and what is left behind."""

    components: Ints
    clear: Ints
    residual: Residual


def begin(law: Law, state: SharedState, kind: RoundKind) -> Plan:
    """The plan of the round: pure, replayable, from shared state and the agreed seed."""
    pruning = schedule(law.pruning.schedule).at(state.updates, law.pruning)
    mask = np.zeros(law.layout.size, dtype=bool)
    if kind is RoundKind.SCORE:
        mask[:] = True
    elif kind is RoundKind.UPDATE:
        context = (law.federation, state.round)
        mask = sent_mask(state.history, _prunable(law), pruning, law.seed, *context)
        if law.refresh.ranks:
            mask &= live(law.refresh, law.layout, state.records)
    clear = mask & state.clear if state.clear is not None and kind is RoundKind.UPDATE else np.zeros_like(mask)
    ranges = np.full_like(state.ranges, law.grid.first_range) if kind is RoundKind.SCORE else state.ranges
    digits = _digits(law, state, kind)
    return Plan(
        state.round,
        kind,
        mask,
        _stream(law, ranges, mask & ~clear, digits),
        _stream(law, ranges, clear, _clear_digits(law)),
        code_units(np.ldexp(1.0, step_exponents(ranges, digits.largest)), digits.largest),
        pruning,
    )


def seal_update(law: Law, plan: Plan, update: Floats, ledger: Ledger, draw: Draw | None = None) -> Sealable:
    """Quantise and pack an institution's update.

    Args:
        update: u = w * (local - x) + r, weighted, float64, shape (size,).
        ledger: to go at the head; its `codes` are filled in here.
        draw: of this institution's noise, where the law wants some.

    Returns:
        Components (ledger first), the clear section's integers, and the residual: what clipping and
        rounding left, and what was not sent, damped by `residual_decay` (or dropped by `discard`).

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
    rest = _unsent(law, plan, update)
    packed = []
    for stream in (plan.sealed, plan.clear):
        if law.noise is None or draw is None:
            q, rest[stream.index] = quantise(update[stream.index], stream.steps, stream.digits.largest)
        else:
            q, rest[stream.index] = law.noise.clipped(update[stream.index])
            q = law.noise.noised(q, draw)
        packed.append(pack(q, stream.digits))
    codes = np.zeros(plan.units.size, dtype=np.int64)
    if law.noise is None:
        tensors = law.layout.tensor_of[plan.mask]
        codes = range_codes(update[plan.mask], plan.units, tensors, law.bound)
    head = replace(ledger, codes=codes).components(law.bound)
    return Sealable(np.concatenate([head, packed[0]]), packed[1], Residual(rest))


def finish(
    law: Law, state: SharedState, plan: Plan, components: Ints, clear: Ints, *, minimum: int, contributors: int
) -> tuple[SharedState, Ledger]:
    """Shared state after the round, from the opened sums; the given state is untouched.

    x += step * sum(q) / sum(w); idle counts and exponents follow TIP and HRC; ranges follow the ledger.

    Args:
        components: opened components of all ciphertexts, with the padding of the last.
        clear: sums of the clear section.
        minimum: fewest participants that this institution accepts.
        contributors: what the coordinator claims to have added.

    Raises:
        TooFewParticipantsError, RoundError: refused.
    """
    head = ledger_size(len(law.layout.entries))
    if components.size < head:
        raise RoundError(f"a sum of {components.size} components, the ledger alone has {head}")
    ledger = Ledger.read(components[:head])
    if ledger.participants != contributors:
        raise RoundError(
            f"the coordinator names {contributors} contributors, the encrypted ledger counts {ledger.participants}; "
            "an upload was dropped, repeated or invented"
        )
    if ledger.participants < minimum:
        raise TooFewParticipantsError(
            f"a sum of {ledger.participants} institutions, this one opens only {minimum} or more (min_participants)"
        )
    if ledger.samples < 1:
        raise RoundError("the ledger counts no training samples; no update can be weighted")
    total = carried(law, plan, components, clear)
    if plan.kind is not RoundKind.SCORE:
        state = replace(state, course=_followed(law, state, ledger))
    if plan.kind is RoundKind.MEASURE:
        return replace(state, round=state.round + 1), ledger
    if plan.kind is RoundKind.SCORE:
        return replace(state, round=state.round + 1, clear=law._least(np.abs(total))), ledger  # noqa: SLF001 -- same module
    return _updated(law, state, plan, total, ledger), ledger


def carried(law: Law, plan: Plan, components: Ints, clear: Ints) -> Floats:
    """What opened components carry behind the ledger: sums of w * values, float64, shape (size,); 0 where nothing is sent.

    Raises:
        RoundError: another number of components than the plan has.
    """
    total = np.zeros(law.layout.size)
    head = ledger_size(len(law.layout.entries))
    for stream, part in ((plan.sealed, components[head:]), (plan.clear, clear)):
        needed = stream.digits.components(stream.index.size)
        if part.size < needed or part[needed:].any():
            raise RoundError(
                f"expected {needed} components and zeros behind them, found {part.size}; the sum is of another round "
                "or plan"
            )
        q = unpack(part[:needed], stream.index.size, stream.digits)
        total[stream.index] = stream.steps * q.astype(np.float64)
    return total


def _followed(law: Law, state: SharedState, ledger: Ledger) -> Course:
    """The course with what the ledger says of `state`, which is what its institutions measured before they trained."""
    if law.selection.by == "none" or not ledger.measured:
        return state.course
    found = score(law.selection, ledger.measured, ledger.loss, ledger.metric)
    return state.course.followed(law.selection, Best(found, state.updates, len(state.records), state.values))


def stopped(law: Law, state: SharedState) -> bool:
    """Whether all institutions have agreed, by shared state alone, to make no further update."""
    return state.course.stopped(law.selection)


def _updated(law: Law, state: SharedState, plan: Plan, total: Floats, ledger: Ledger) -> SharedState:
    judged = np.flatnonzero(plan.mask & _prunable(law))
    history = state.history
    if judged.size:
        below = inactive(np.abs(total[judged]), law.layout.tensor_of[judged], plan.pruning)
        history = advance(history, judged, below, plan.pruning)
    values = state.values + total * (law.sample_cap / ledger.samples)
    ranges = next_ranges(state.ranges, plan.units, ledger.codes, ledger.participants, law.grid.headroom)
    after = replace(
        state, round=state.round + 1, updates=state.updates + 1, values=values, history=history, ranges=ranges
    )
    return moved_on(law.refresh, law.layout, after, values - state.values, plan.mask)


def _prunable(law: Law) -> Bools:
    kinds = [Kind(kind) for kind in law.pruning.kinds] if law.pruning.enabled else []
    return law.layout.coordinates(*kinds)


def _unsent(law: Law, plan: Plan, update: Floats) -> Floats:
    if law.pruning.pruned == "discard":
        return np.zeros_like(update)
    return np.where(plan.mask, 0.0, update * law.pruning.residual_decay)


def _digits(law: Law, state: SharedState, kind: RoundKind) -> Digits:
    if kind is RoundKind.SCORE:
        return Digits.single(law.capacity, law.payload_bits)
    if law.noise is not None:
        return law.noise.digits(law.capacity, law.payload_bits)
    if state.updates == 0:
        return Digits.wide(law.capacity, law.payload_bits)
    return Digits.fit(law.grid.value_bits, law.capacity, law.payload_bits)


def _clear_digits(law: Law) -> Digits:
    return Digits.fit(min(_CLEAR_VALUE_BITS, CLEAR_BITS - law.capacity.bit_length() - 1), law.capacity, CLEAR_BITS)


def _stream(law: Law, ranges: Floats, mask: Bools, digits: Digits) -> Stream:
    index = np.flatnonzero(mask)
    steps = np.ldexp(1.0, step_exponents(ranges, digits.largest))
    return Stream(index, steps[law.layout.tensor_of[index]], digits)
