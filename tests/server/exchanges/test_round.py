"""Rounds that institutions say are the last, or want scores before: enough have to, more than go on, and of this very round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dictpfl.common.messages.protocol import SCORES_DUE, Reply, Request, RoundKind, Status
from dictpfl.server.coordinator import Coordinator
from tests.support.coordinators import (
    Answer,
    all_of,
    opened,
    plain_uploads,  # noqa: F401  a fixture
    play,
)

pytestmark = pytest.mark.usefixtures("plain_uploads")
TWO, FOUR = range(2), range(4)


def finishes(_node: int, request: Request) -> Reply:
    return Reply(Status.FINISHED, request.round, request.round)


def wants_scores(_node: int, request: Request) -> Reply:
    return Reply(Status.REFUSED, request.round, request.round, code=SCORES_DUE)


@pytest.fixture(params=[finishes, wants_scores])
def says(request: pytest.FixtureRequest) -> Answer:
    answer: Answer = request.param
    return answer


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """At its second round, with sums of two or more."""
    made = opened(tmp_path, min_participants=2)
    play(made, FOUR)
    yield made
    made.close_journal()


def went_on(coordinator: Coordinator) -> bool:
    """Tell whether the next round is of an update, as ever."""
    return coordinator._journal.stopped is None and coordinator._state.next_kind() is RoundKind.UPDATE


def test_as_many_as_a_sum_needs_are_believed(says: Answer, coordinator: Coordinator) -> None:
    play(coordinator, range(3), all_of(TWO, says))
    assert not went_on(coordinator)


def test_one_alone_is_not_though_nobody_else_answers(says: Answer, coordinator: Coordinator) -> None:
    play(coordinator, range(1), all_of(range(1), says))
    assert went_on(coordinator)


def test_no_more_than_go_on_are_not(says: Answer, coordinator: Coordinator) -> None:
    play(coordinator, FOUR, all_of(TWO, says))
    assert went_on(coordinator)
    assert coordinator._journal.updates() == 2


def test_what_is_said_of_another_round_is_not(says: Answer, coordinator: Coordinator) -> None:
    def earlier(node: int, request: Request) -> Reply:
        return replace(says(node, request), position=0)

    play(coordinator, TWO, all_of(TWO, earlier))
    assert went_on(coordinator)
