"""Agreement from before round 1, as far as the algebra of rounds needs it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from dictpfl.common.errors import LayoutError
from dictpfl.common.law.aggregation import beginning
from dictpfl.common.law.decisions.clear_least import least
from dictpfl.common.law.grid import step_exponents
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.ledger import LedgerForm
from dictpfl.common.law.measure import Measure
from dictpfl.common.law.noise import Noise
from dictpfl.common.law.packing import Digits
from dictpfl.common.law.pruning import Bools, History
from dictpfl.common.law.refresh import Refreshing
from dictpfl.common.law.state import Floats, SharedState
from dictpfl.common.law.tally import Tally
from dictpfl.common.rounds import Aggregation, Grid, Pruning, Selection

STATISTIC_RANGE = 4.0
"""Range of statistics in the first round: they move by as much as activations are large, whatever the learning rate."""


@dataclass(frozen=True)
class Law:
    """Agreement from before round 1, as far as the algebra of rounds needs it.

    Attributes:
        layout: layout of the shared vector.
        pruning: settings of pruning.
        grid: settings of quantisation.
        seed: agreed seed, 32 bytes, unknown to the coordinator.
        federation: federation id, 32 bytes.
        capacity: most uploads in a sum.
        payload_bits: bits of a component of a sum, sign included.
        sample_cap: number of samples that carries weight 1.
        sealed_share: share of the coordinates that is encrypted.
        decision: name of the decision that score rounds lead to; empty: there are none.
        score_rounds: number of rounds before the first update and before opening tallies, in which scores are sent.
        rescore_every: number of updates after which scores are sent anew; 0: never.
        refresh: rules of refreshes.
        selection: rules of the best model and of stopping early.
        aggregation: server-side rule, which turns the mean update into a change of the shared values.
        noise: noise mechanism; None: no noise.
        tallies: agreed tallies whose sums are kept: opening ones first, each kind in the order of its rounds.
        rounds: update rounds after which closing tallies follow.
        measures: measures that go with every ledger.
    """

    layout: Layout
    pruning: Pruning
    grid: Grid
    seed: bytes
    federation: bytes
    capacity: int
    payload_bits: int
    sample_cap: int
    sealed_share: float = 1.0
    decision: str = ""
    score_rounds: int = 0
    rescore_every: int = 0
    refresh: Refreshing = field(default_factory=Refreshing)
    selection: Selection = field(default_factory=Selection)
    aggregation: Aggregation = field(default_factory=Aggregation)
    noise: Noise | None = None
    tallies: tuple[Tally, ...] = ()
    rounds: int = 0
    measures: tuple[Measure, ...] = ()

    @cached_property
    def sensitivity(self) -> Tally:
        """Tally of one score for each shared value, from whose sum a decision follows (`scores.measure`, `encryption.sensitivity`)."""
        largest = Digits.single(self.capacity, self.payload_bits).largest
        fraction = -int(step_exponents(np.array([self.score_range]), largest)[0])
        bound = math.ceil(math.log2(self.score_range))
        return Tally("sensitivity", self.layout, bound, fraction, "opening", decides=self.decision)

    @cached_property
    def opening(self) -> tuple[Tally, ...]:
        """Tallies before the first update, one a round, in their order."""
        agreed = (tally for tally in self.tallies if tally.when == "opening")
        return (*((self.sensitivity,) * self.score_rounds), *agreed)

    @cached_property
    def closing(self) -> tuple[Tally, ...]:
        """Tallies after the last update, one a round, in their order."""
        return tuple(tally for tally in self.tallies if tally.when == "closing")

    @property
    def bound(self) -> int:
        """Largest component that one participant may send."""
        return self.ledger.bound

    @cached_property
    def ledger(self) -> LedgerForm:
        """Form of the ledger at the head of every upload."""
        return LedgerForm(len(self.layout.entries), self.capacity, self.payload_bits, self.measures)

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each shared tensor by name; every plan's schedule is asked with it."""
        return {entry.name: entry.shape for entry in self.layout.entries}

    @cached_property
    def prunable(self) -> Bools:
        """Mask, shape (size,), of the coordinates that pruning may leave out."""
        kinds = [Kind(kind) for kind in self.pruning.kinds] if self.pruning.enabled else []
        return self.layout.coordinates(*kinds)

    @cached_property
    def prunable_count(self) -> int:
        """Number of the coordinates that pruning may leave out; every plan's schedule is asked with it."""
        return int(self.prunable.sum())

    def counted(self, samples: int) -> int:
        """Number of samples that an institution counts as; the same for all where whole institutions are private."""
        return self.sample_cap if self.noise else min(samples, self.sample_cap)

    def weight(self, samples: int) -> float:
        """Weight of an institution: samples / sample_cap, at most 1."""
        return self.counted(samples) / self.sample_cap

    def start(self, values: Floats) -> SharedState:
        """Make shared state before round 0, from genesis's shared vector.

        Raises:
            LayoutError: a vector of another shape.
        """
        if values.shape != (self.layout.size,):
            raise LayoutError(f"genesis has {values.shape} shared values, the layout says ({self.layout.size},)")
        ranges = np.full(len(self.layout.entries), self._first_range)
        if self.noise is None:
            statistics = [entry.kind is Kind.STATISTIC for entry in self.layout.entries]
            ranges[statistics] = np.maximum(ranges[statistics], STATISTIC_RANGE)
        pace = self.refresh.start(self.layout)
        moments = beginning(self.aggregation, values.size)
        state = SharedState(0, 0, values, History.new(values.size), ranges, pace=pace, moments=moments)
        if self.sealed_share == 0.0:
            return replace(state, clear=np.ones(values.size, dtype=bool))
        if self.sealed_share < 1.0 and not self.score_rounds:
            return replace(state, clear=least(self.layout, np.abs(values), self.sealed_share))
        return state

    @property
    def score_range(self) -> float:
        """Range of scores, which are sent before anything is known of their size."""
        return max(self.grid.first_range, STATISTIC_RANGE)

    @property
    def _first_range(self) -> float:
        if self.noise is None:
            return self.grid.first_range
        # The range that gives exactly the agreed step; ledgers never change it.
        return math.ldexp(self.noise.digits(self.capacity, self.payload_bits).largest, self.noise.exponent)
