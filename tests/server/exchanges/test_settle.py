"""The last message by itself: whom it waits for, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.messages.protocol import Reply, Status
from dictpfl.common.messages.wire import Limits
from dictpfl.common.protection import Encryption
from dictpfl.server.agreement import Agreement
from dictpfl.server.catchup import CatchUp
from dictpfl.server.exchanges.exchange import CoordinatorState
from dictpfl.server.exchanges.settle import Settle
from dictpfl.server.journal import Journal
from dictpfl.server.masks import Unmasking

LIMITS = Limits(b"f" * 32, b"k" * 32, 40, 500, 0, 3)
AGREEMENT = Agreement(CKKSParameters.choose(Encryption(), 3), True, LIMITS, 20, 0, 2, 60.0, ())
APPLIED = Reply(Status.SETTLED, 0, 0)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[CoordinatorState]:
    journal = Journal(tmp_path / "journal.sqlite", LIMITS.federation, LIMITS.fingerprint)
    yield CoordinatorState(AGREEMENT, journal, CatchUp(journal), Unmasking(AGREEMENT, journal))
    journal.close()


def settle(state: CoordinatorState, *nodes: int) -> Settle:
    """Ask nodes 0 to 2 for the last time; those given answer that they have applied everything."""
    exchange = Settle(state)
    assert sorted(exchange.ask(range(3))) == [0, 1, 2]
    for node in nodes:
        assert exchange.receive(node, APPLIED) is None
    exchange.close()
    return exchange


def test_all_have_it(state: CoordinatorState) -> None:
    assert settle(state, 0, 1, 2).rejected == {}
    assert state.journal.is_settled(0)


def test_a_missing_one_is_waited_for_twice(state: CoordinatorState) -> None:
    for tries in (1, 2):
        settle(state, 0, 1)
        assert (state.settle_tries, state.journal.is_settled(0)) == (tries, False)
    settle(state, 0, 1)
    assert state.journal.is_settled(0)


def test_too_few_are_never_enough(state: CoordinatorState) -> None:
    for _ in range(5):
        settle(state, 0)
    assert not state.journal.is_settled(0)


def test_an_upload_is_of_no_use_here(state: CoordinatorState) -> None:
    exchange = Settle(state)
    exchange.ask(range(3))
    assert exchange.receive(1, Reply(Status.UPLOAD, 0, 0, b"x")) is None
    assert exchange.rejected == {1: "upload"}
