"""A record that starts from a later state: what it owed is kept only where the chain shows that it was not delivered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dictpfl.client.memory.record import Pending, Record
from dictpfl.client.memory.snapshots import delivered, jumped
from dictpfl.common.errors import RoundError
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.pruning import History
from dictpfl.common.law.state import Residual, SharedState, acknowledging
from dictpfl.common.messages.protocol import Aggregate

LAYOUT = Layout.of([("b", (4,), Kind.DENSE)])
SECRET = b"o" * 32
OTHERS = [b"a" * 16, b"b" * 16, b"c" * 16]
START = SharedState(2, 2, np.zeros(4), History.new(4), np.ones(1), acknowledged=b"s" * 32)
OWED, COUNTED, MISSED = (Residual(np.full(4, value)) for value in (1.0, 2.0, 3.0))


def record(*, pending: bool = False) -> Record:
    made = Record(START, OWED, SECRET)
    own = made.mark(2) + b"own item"
    return replace(made, pending=Pending(2, own, b"blob", COUNTED, MISSED)) if pending else made


def later(rounds: list[list[bytes]]) -> SharedState:
    """The state after these rounds from 2 on, as the institutions in them hold it."""
    chain = START.acknowledged
    for n, uploads in enumerate(rounds):
        chain = acknowledging(chain, 2 + n, uploads)
    return replace(START, round=2 + len(rounds), values=np.ones(4), acknowledged=chain)


def said(rounds: list[list[bytes]]) -> list[Aggregate]:
    return [Aggregate(2 + n, b"", tuple(uploads)) for n, uploads in enumerate(rounds)]


def test_what_was_not_delivered_is_kept() -> None:
    rounds = [OTHERS, [], OTHERS[:2]]
    after, given_up = jumped(record(), later(rounds), said(rounds), LAYOUT)
    assert (after.residual.values.tolist(), given_up) == (OWED.values.tolist(), False)
    assert after.shared.round == 5
    assert after.pending is None


@pytest.mark.parametrize("counted", [True, False])
def test_the_waiting_upload_is_settled_by_what_the_chain_says(counted: bool) -> None:
    before = record(pending=True)
    assert before.pending is not None
    rounds = [[*OTHERS, before.pending.upload_id] if counted else OTHERS, OTHERS]
    after, given_up = jumped(before, later(rounds), said(rounds), LAYOUT)
    assert after.residual.values.tolist() == (COUNTED if counted else MISSED).values.tolist()
    assert not given_up


def test_a_coordinator_that_says_otherwise_than_the_chain_has_its_snapshot_refused() -> None:
    """It says of a counted upload that it was not, or leaves a round or an upload out (finding F3)."""
    before = record(pending=True)
    assert before.pending is not None
    own = before.pending.upload_id
    truth = [[*OTHERS, own], OTHERS, [OTHERS[0]]]
    lies = [
        [OTHERS, OTHERS, [OTHERS[0]]], [[own], OTHERS, [OTHERS[0]]], [[*OTHERS, own], OTHERS, [OTHERS[1]]],
        [OTHERS, [*OTHERS, own], [OTHERS[0]]], [[*OTHERS, own], [], [OTHERS[0]]], truth[:2], [],
    ]  # fmt: skip
    for lie in lies:
        with pytest.raises(RoundError, match="nothing was applied", check=lambda e: e.code == "drift"):
            jumped(before, later(truth), said(lie), LAYOUT)
        after, given_up = jumped(before, later(truth), said(lie), LAYOUT, newcomer=True)
        assert given_up, "who has opened no sum takes it, and owes nothing"
        assert not after.residual.values.any()
    after, given_up = jumped(before, later(truth), said(truth)[::-1], LAYOUT)
    assert after.residual.values.tolist() == COUNTED.values.tolist(), "they may come in any order"
    assert not given_up


def test_an_upload_made_after_the_backup_takes_its_residual_along() -> None:
    before = record()
    rounds = [[*OTHERS, before.mark(2) + b"not this"], OTHERS]
    after, given_up = jumped(before, later(rounds), said(rounds), LAYOUT)
    assert given_up
    assert not after.residual.values.any()


def test_a_backup_of_an_earlier_round_leads_there_and_another_history_does_not() -> None:
    rounds = [OTHERS, [], OTHERS[:2]]
    now, truth = later(rounds), said(rounds)
    for passed in range(3):
        chain = START.acknowledged
        for n in range(passed):
            chain = acknowledging(chain, 2 + n, rounds[n])
        mine = replace(START, round=2 + passed, acknowledged=chain)
        for told in (truth, truth[passed:]):
            assert jumped(replace(record(), shared=mine), now, told, LAYOUT)[0].shared == now
        other = replace(mine, acknowledged=acknowledging(chain[::-1], 2 + passed, OTHERS))
        with pytest.raises(RoundError, match="another history", check=lambda e: e.code == "drift"):
            jumped(replace(record(), shared=other), now, truth, LAYOUT)


def test_who_owes_nothing_needs_no_acknowledgements() -> None:
    """A newcomer, of which nothing was opened before."""
    before = replace(record(), residual=Residual.none(4))
    after, given_up = jumped(before, later([OTHERS]), [], LAYOUT, newcomer=True)
    assert (after.shared.round, given_up) == (3, False)


def test_a_void_round_that_is_skipped_is_paid_for() -> None:
    """It lists no upload, and its sum may have been opened with one of this institution's: an account that is an old copy must not lack it."""
    before = record()
    own = before.mark(4) + b"not this"
    assert delivered(before, said([OTHERS, [], [*OTHERS, own], OTHERS]), 6) == [3, 4]
    assert delivered(before, said([OTHERS, OTHERS]), 4) == []
