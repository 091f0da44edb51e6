"""Sums that institutions refuse or pass over: it is said, the round does not count, and nothing is taken back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from dictpfl.common.errors import RoundError
from dictpfl.common.messages.masks import attempt_bytes
from dictpfl.common.messages.protocol import Reply, Request, RoundKind, Status
from dictpfl.server.coordinator import Coordinator
from dictpfl.server.journal import Journal
from dictpfl.server.troubles import trouble
from tests.support.coordinators import (
    all_of,
    is_locked,
    opened,
    plain_uploads,  # noqa: F401  a fixture
    play,
    refuses,
    says_void,
)

pytestmark = pytest.mark.usefixtures("plain_uploads")
THREE, FOUR = range(3), range(4)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = opened(tmp_path)
    yield made
    made.close_journal()


def journal_of(coordinator: Coordinator) -> Journal:
    return coordinator._journal


def refused_by(coordinator: Coordinator) -> dict[int, tuple[str, ...]]:
    return {refused.round: refused.told for refused in journal_of(coordinator).disputed()}


def test_a_refused_sum_is_said_at_once_and_stands(coordinator: Coordinator) -> None:
    play(coordinator, FOUR)
    play(coordinator, FOUR)
    (before,) = journal_of(coordinator).aggregates(1)
    with structlog.testing.capture_logs() as logs:
        assert play(coordinator, FOUR, all_of(THREE, refuses)) == 2
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == [
        "the sum of round 1 was refused by berlin, kyoto, oslo; in it were uploads of berlin, kyoto, oslo, quito. "
        "Institutions make the round void when it comes again; who has refused as often as it may locks"
    ]
    assert refused_by(coordinator) == {1: ("berlin", "kyoto", "oslo")}
    requests = coordinator.begin(FOUR)
    for node in THREE:
        assert (requests[node].round, requests[node].aggregates[-1]) == (2, before), "the same sum goes along again"
        assert requests[node].defence == attempt_bytes(0), "there is no other attempt at it"


def test_refused_then_void_and_made_up_for(coordinator: Coordinator) -> None:
    play(coordinator, FOUR)
    assert play(coordinator, FOUR, all_of(FOUR, refuses)) == 1
    assert play(coordinator, FOUR, all_of(FOUR, says_void)) == 1
    journal = journal_of(coordinator)
    assert (journal.next_round, journal.updates(), [void.round for void in journal.voids()]) == (2, 1, [0])


def test_who_refused_is_added_up_and_survives_the_process(tmp_path: Path) -> None:
    first = opened(tmp_path)
    play(first, FOUR)
    play(first, FOUR, all_of(range(2), refuses) | all_of(range(2, 4), is_locked))
    first.close_journal()
    second = opened(tmp_path)
    play(second, FOUR, {1: refuses, 3: refuses} | all_of([0, 2], is_locked))
    assert refused_by(second) == {0: ("berlin", "kyoto", "quito")}
    second.close_journal()


def about_another_round(_node: int, request: Request) -> Reply:
    return Reply(Status.REFUSED, request.round, 0, code="refused")


def for_another_reason(_node: int, request: Request) -> Reply:
    return Reply(Status.REFUSED, request.round, request.round - 1, code="drift")


@pytest.mark.parametrize("answer", [about_another_round, for_another_reason, is_locked])
def test_what_is_not_a_refusal_of_this_sum(coordinator: Coordinator, answer: object) -> None:
    play(coordinator, THREE)
    play(coordinator, THREE)
    play(coordinator, THREE, all_of(THREE, answer))  # type: ignore[arg-type]
    assert refused_by(coordinator) == {}


def test_who_was_not_asked_refuses_nothing_and_makes_nothing_void(coordinator: Coordinator) -> None:
    play(coordinator, FOUR)
    requests = coordinator.begin(range(3, 5))
    for node in THREE:
        for answer in (refuses, says_void):
            coordinator.receive(node, answer(node, requests[3]))
    coordinator.close()
    assert refused_by(coordinator) == {}
    assert not journal_of(coordinator).is_void(0)


def test_the_last_sum_can_be_refused_too(coordinator: Coordinator) -> None:
    for _ in range(4):
        play(coordinator, THREE)
    play(coordinator, THREE, all_of(THREE, refuses))
    assert refused_by(coordinator) == {3: ("berlin", "kyoto", "oslo")}
    assert not coordinator.finished


# void rounds


def test_a_void_round_is_no_update(coordinator: Coordinator) -> None:
    play(coordinator, FOUR)
    with structlog.testing.capture_logs() as logs:
        assert play(coordinator, FOUR, all_of(THREE, says_void)) == 1
    journal = journal_of(coordinator)
    assert [(void.round, void.told) for void in journal.voids()] == [(0, ("berlin", "kyoto", "oslo"))]
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == [
        "round 0 is void: one of the uploads of berlin, kyoto, oslo, quito held nonsense or bore a wrong tag, or the sum was "
        "altered here or on its way; whose cannot be known"
    ]
    assert (journal.next_round, journal.updates()) == (2, 1), "the round that was open closes as any other"
    for _ in range(2):
        assert not journal.updated(3)
        play(coordinator, FOUR)
    assert journal.updated(3), "the run has made one more"
    assert play(coordinator, FOUR) == 4
    assert journal.kinds()[-1] is RoundKind.MEASURE
    play(coordinator, FOUR)
    assert coordinator.finished


def test_fewer_than_a_sum_needs_make_nothing_void(coordinator: Coordinator) -> None:
    play(coordinator, FOUR)
    play(coordinator, FOUR, all_of(range(2), says_void))
    assert (list(journal_of(coordinator).voids()), journal_of(coordinator).updates()) == ([], 2)


def test_voices_of_an_exchange_that_came_to_nothing_count(coordinator: Coordinator) -> None:
    """Each says it once only."""
    play(coordinator, FOUR)
    assert play(coordinator, range(2), all_of(range(2), says_void)) == 1
    assert play(coordinator, FOUR, {3: says_void}) == 1
    assert [void.round for void in journal_of(coordinator).voids()] == [0]


def test_the_voice_of_one_that_is_not_there_yet_is_about_an_older_round(coordinator: Coordinator) -> None:
    def behind(_node: int, request: Request) -> Reply:
        return Reply(Status.BEHIND, request.round, request.round - 1, code="void")

    play(coordinator, FOUR)
    play(coordinator, FOUR, all_of(THREE, behind))
    assert list(journal_of(coordinator).voids()) == []


def test_a_void_measurement_is_made_again_once(coordinator: Coordinator) -> None:
    for _ in range(4):
        play(coordinator, THREE)
    for again in (True, False):
        play(coordinator, THREE, all_of(THREE, says_void))
        assert not coordinator.finished
        (asked,) = {(r.round, r.kind) for r in coordinator.begin(THREE).values()}
        assert asked == ((4, RoundKind.MEASURE) if again else (5, None))
        play(coordinator, THREE)
    assert coordinator.finished


def test_void_scores_are_made_up_for(tmp_path: Path) -> None:
    """Institutions take no update before as many score rounds as were agreed on; the coordinator closes none."""
    coordinator = opened(tmp_path, score_rounds=2)
    journal = journal_of(coordinator)
    for others in ({}, all_of(THREE, says_void), {}, all_of(THREE, says_void)):
        play(coordinator, FOUR, others)
    assert (journal.next_round, [void.round for void in journal.voids()]) == (3, [0, 2])
    for _ in range(6):
        play(coordinator, FOUR)
    score, update = RoundKind.SCORE, RoundKind.UPDATE
    assert journal.kinds() == [score] * 4 + [update] * 3 + [RoundKind.MEASURE]
    coordinator.close_journal()


def test_a_void_score_round_is_made_again(tmp_path: Path) -> None:
    """At once: institutions count void ones, and take no sum of another kind before they have as many as were agreed."""
    coordinator = opened(tmp_path, score_rounds=1)
    play(coordinator, THREE)
    assert {(r.round, r.kind) for r in coordinator.begin(THREE).values()} == {(1, RoundKind.UPDATE)}
    assert play(coordinator, THREE, all_of(THREE, says_void)) == 1
    for expected in (RoundKind.SCORE, RoundKind.UPDATE):
        assert {r.kind for r in coordinator.begin(THREE).values()} == {expected}
        play(coordinator, THREE)
    assert list(journal_of(coordinator).kinds()) == [RoundKind.SCORE, RoundKind.SCORE, RoundKind.UPDATE]
    coordinator.close_journal()


def test_scores_come_anew_between_updates_and_are_made_up_for(tmp_path: Path) -> None:
    """After every second of three updates; a void update is no update, and a void score round is none."""
    coordinator = opened(tmp_path, score_rounds=1, rescore_every=2)
    score, update = RoundKind.SCORE, RoundKind.UPDATE
    for others in ({}, {}, {}, all_of(THREE, says_void), {}, {}, all_of(THREE, says_void), {}, {}, {}):
        play(coordinator, FOUR, others)
    # Round 2 was the second update, and void: scores that were asked for after it are given up, unjournalled.
    assert [void.round for void in journal_of(coordinator).voids()] == [2, 4]
    assert list(journal_of(coordinator).kinds())[:7] == [score, update, update, update, score, score, update]
    coordinator.close_journal()


def test_three_in_a_row_end_the_run(coordinator: Coordinator) -> None:
    play(coordinator, [0, 1, 2, 3])
    play(coordinator, [0, 1, 2, 4], all_of(range(3), says_void))
    play(coordinator, [0, 1, 2, 3], all_of(range(3), says_void))
    with pytest.raises(RoundError) as raised:
        play(coordinator, [0, 1, 2], all_of(range(3), says_void))
    assert "rounds 0 to 2 are void" in str(raised.value)
    assert "In all of them: berlin, kyoto, oslo." in str(raised.value)
    assert "or the sum was altered here or on its way; whose cannot be known" in str(raised.value)
    for command in ("dictpfl coordinator exclude NAME", "dictpfl institution unlock"):
        assert command in str(raised.value)
    assert journal_of(coordinator).next_round == 4, "the open round was closed all the same"
    assert trouble(journal_of(coordinator)) == str(raised.value)


def finishes(_node: int, request: Request) -> Reply:
    return Reply(Status.FINISHED, request.round, request.round)


def test_closing_scores_come_after_the_last_update_and_are_made_up_for(tmp_path: Path) -> None:
    coordinator = opened(tmp_path, score_rounds=1, closing_rounds=2, closing_from=3)
    score, update, measure = RoundKind.SCORE, RoundKind.UPDATE, RoundKind.MEASURE
    # Round 3 was the last update, and void: so there is another one before the scores. Round 6 was void, too.
    for others in ({}, {}, {}, {}, all_of(THREE, says_void), {}, {}, {}, all_of(THREE, says_void), {}, {}, {}):
        play(coordinator, FOUR, others)
    assert list(journal_of(coordinator).kinds()) == [score, *[update] * 4, score, score, score, measure]
    assert [void.round for void in journal_of(coordinator).voids()] == [3, 6]
    assert coordinator.finished
    coordinator.close_journal()
    assert Coordinator.open(tmp_path).finished


def test_closing_scores_follow_an_early_stop(tmp_path: Path) -> None:
    coordinator = opened(tmp_path, closing_rounds=1, closing_from=3)
    play(coordinator, THREE)
    play(coordinator, THREE, all_of(THREE, finishes))
    assert journal_of(coordinator).stopped == 1
    assert {r.kind for r in coordinator.begin(THREE).values()} == {RoundKind.SCORE}
    play(coordinator, THREE)
    assert list(journal_of(coordinator).kinds()) == [RoundKind.UPDATE, RoundKind.SCORE]
    assert {r.kind for r in coordinator.begin(THREE).values()} == {RoundKind.MEASURE}
    coordinator.close_journal()


def test_institutions_that_sent_all_closing_scores_are_believed(tmp_path: Path) -> None:
    """After a lost journal, say. One alone changes nothing."""
    coordinator = opened(tmp_path, closing_rounds=1, closing_from=3)
    for _ in range(3):
        play(coordinator, THREE)
    play(coordinator, THREE, all_of(THREE[:1], finishes))
    assert {r.kind for r in coordinator.begin(THREE).values()} == {RoundKind.SCORE}
    play(coordinator, THREE, all_of(THREE, finishes))
    assert {r.kind for r in coordinator.begin(THREE).values()} == {RoundKind.MEASURE}
    assert journal_of(coordinator).stopped is None, "they did not stop early"
    for _ in range(2):
        play(coordinator, THREE)
    assert coordinator.finished
    coordinator.close_journal()
    assert Coordinator.open(tmp_path).finished, "once settled, nobody is asked again"


def test_a_run_of_fewer_rounds_has_no_closing_scores(tmp_path: Path) -> None:
    coordinator = opened(tmp_path, rounds=2, closing_rounds=1, closing_from=3)
    for _ in range(4):
        play(coordinator, THREE)
    assert list(journal_of(coordinator).kinds()) == [RoundKind.UPDATE, RoundKind.UPDATE, RoundKind.MEASURE]
    assert coordinator.finished
    coordinator.close_journal()
