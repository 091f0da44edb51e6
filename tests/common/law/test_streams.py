"""A round in pieces: the same bits however long a piece is, and nothing beside state and update as long as the vector."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from dictpfl.common.law import aggregation, packing, streams
from dictpfl.common.law.finishing import finish
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.law.packing import Digits
from dictpfl.common.law.round import Plan, Sealable, begin, seal_update
from dictpfl.common.law.state import SharedState
from dictpfl.common.law.streams import Stream
from dictpfl.common.law.terms import Law
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.rounds import Aggregation, Grid, Pruning

SEED = bytes(range(32))
LAYOUT = Layout.of([("t", (5, 7), Kind.TABLE), ("s", (4,), Kind.STATISTIC), ("d", (2, 9), Kind.DENSE)])


def law(layout: Layout = LAYOUT, *, enabled: bool = True, rule: str = "adam") -> Law:
    return Law(
        layout, Pruning(enabled=enabled, tau=1, s=0.5), Grid(), SEED, SEED, capacity=3, payload_bits=44, sample_cap=10,
        aggregation=Aggregation(rule=rule),
    )  # fmt: skip


def played(agreed: Law, rounds: int = 4) -> tuple[SharedState, list[Sealable], list[Plan]]:
    """Rounds of one institution, three times in each sum."""
    size = agreed.layout.size
    state, owed = agreed.start(np.linspace(-1.0, 1.0, size)), np.zeros(size)
    sealed, plans = [], []
    for number in range(rounds):
        state = replace(state, clear=np.arange(size) % 5 == 0)
        plan = begin(agreed, state, RoundKind.UPDATE)
        update = np.random.default_rng(number).normal(0.0, 0.01, size) + owed
        made = seal_update(agreed, plan, update, Ledger(1, 7, 0.0, 0, 0.0, 0.0, np.zeros(0, np.int64)))
        owed = made.residual.values
        state, _ = finish(agreed, state, plan, 3 * made.components, 3 * made.clear, contributors=3)
        sealed.append(made)
        plans.append(plan)
    return state, sealed, plans


def test_pieces_of_any_length_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, uploads, plans = played(law())
    assert {plan.sealed.size for plan in plans} > {plans[0].sealed.size}, "pruning left something out"
    monkeypatch.setattr(streams, "PIECE", 3)
    monkeypatch.setattr(aggregation, "PIECE", 2)
    monkeypatch.setattr(packing, "_BLOCK", 2)
    pieces, again, _ = played(law())
    assert pieces.digest == whole.digest
    for one, other in zip(uploads, again, strict=True):
        assert one.components.tobytes() == other.components.tobytes()
        assert one.clear.tobytes() == other.clear.tobytes()
        assert one.residual.values.tobytes() == other.residual.values.tobytes()


@pytest.mark.parametrize("piece", [1, 3, 1 << 18])
def test_pieces_are_the_stream(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PIECE", piece)
    mask = np.random.default_rng(1).random(LAYOUT.size) < 0.6
    mask[LAYOUT.entries[1].span] = False
    mask[LAYOUT.entries[2].span] = True
    stream = Stream(LAYOUT, mask, np.array([0.5, 1.0, 2.0]), Digits.fit(4, 3, 44))
    numbers, found, steps = np.arange(LAYOUT.size), [], []
    for part in stream.pieces():
        assert part.at == len(found)
        chosen: NDArray[np.int64] = numbers[part.span][part.chosen]
        assert part.size == chosen.size
        found += chosen.tolist()
        steps += [part.step] * part.size
    assert found == stream.index.tolist() == np.flatnonzero(mask).tolist()
    assert steps == stream.steps.tolist()
    assert stream.size == len(found)


def test_a_round_takes_little_more_memory_than_what_it_returns() -> None:
    """Bytes a value that are allocated at most: residual and components while it is sealed, values and sums while it is applied."""
    agreed = law(
        Layout.of([("a", (1500, 1000), Kind.DENSE), ("b", (500, 1000), Kind.DENSE)]), enabled=False, rule="average"
    )
    size = agreed.layout.size
    state, update = agreed.start(np.zeros(size)), np.random.default_rng(0).normal(0.0, 0.01, size)
    assert agreed.prunable_count == 0
    tracemalloc.start()
    try:
        plan = begin(agreed, state, RoundKind.UPDATE)
        made = seal_update(agreed, plan, update, Ledger(1, 7, 0.0, 0, 0.0, 0.0, np.zeros(0, np.int64)))
        sealing = tracemalloc.get_traced_memory()[1] / size
        components = 3 * made.components
        del made
        tracemalloc.reset_peak()
        after, _ = finish(agreed, state, plan, components, np.zeros(0, np.int64), contributors=3)
        applying = tracemalloc.get_traced_memory()[1] / size
        assert after.digest
    finally:
        tracemalloc.stop()
    # The residual 8, components 4, the mask 1; values 8, sums of 32 bits 4, components 4, masks. Pieces come on top.
    assert sealing < 20.0
    assert applying < 26.0
