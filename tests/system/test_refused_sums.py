"""Real institutions whose sums are altered or hold nonsense, or one of whom is left out: rounds are void and made up for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from dictpfl.client.institution import Institution
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.messages.protocol import REFUSED, VOID, Aggregate, Reply, Request, RoundKind, Status
from dictpfl.common.messages.wire import Blob, write
from dictpfl.server.journal import Journal
from dictpfl.server.rows import ClosedRound
from tests.support.federations import encrypted, tiny
from tests.support.harness import World

pytestmark = pytest.mark.usefixtures("quiet")
FIVE = range(5)


def world_of(folder: Path, *, institutions: int = 3, masks: bool = False, **changes: Any) -> World:
    config = (encrypted if masks else tiny)(
        federation__participants=institutions,
        federation__min_participants=3,
        federation__rounds=3,
        defences__masks=masks,
        **changes,
    )
    return World.found(config, folder)


def until_closed(world: World, rounds: int) -> None:
    while world.coordinator._journal.next_round < rounds:
        world.exchange()


def altered(blob: bytes, bits: int) -> bytes:
    """A sum with one bit of its last tag flipped, its digest made anew."""
    true = Blob.own(blob, bits)
    words = true.words().copy()
    words[-1] ^= np.uint64(1)
    return write(true.header, true.entries, words, bits, bytes(true.clear))


@contextmanager
def altering(world: World, number: int) -> Iterator[None]:
    """The coordinator's memory, or somebody in it, alters the sum of a round before it is kept."""
    real, bits = Journal.record, world.genesis.parameters.word_bits

    def record(journal: Journal, closed: ClosedRound, aggregate: Aggregate) -> None:
        if aggregate.round == number:
            aggregate = replace(aggregate, blob=altered(aggregate.blob, bits))
        real(journal, closed, aggregate)

    with mock.patch.object(Journal, "record", record):
        yield


def statuses(replies: dict[int, Reply]) -> list[tuple[Status, str]]:
    return sorted({(reply.status, reply.code) for reply in replies.values()})


@pytest.mark.parametrize("masks", [False, True])
def test_an_altered_sum_is_refused_once_then_void_and_made_up_for(masks: bool, tmp_path: Path) -> None:
    """No second sum of the same uploads is made; what they carried is in the next ones."""
    world = world_of(tmp_path / "world", masks=masks)
    with altering(world, 1):
        until_closed(world, 2)
    journal = world.coordinator._journal
    assert statuses(world.exchange()) == [(Status.REFUSED, REFUSED)]
    assert [(one.round, one.told) for one in journal.disputed()] == [(1, world.coordinator._agreement.members)]
    assert not journal.voids()
    world.kill_coordinator()
    assert statuses(world.exchange()) == [(Status.UPLOAD, VOID)]
    world.run()
    journal = world.coordinator._journal
    assert ([void.round for void in journal.voids()], journal.attempt(1)) == ([1], 0)
    assert {(state.round, state.updates) for state in world.states()} == {(5, 3)}
    world.digest()
    world.close()


@contextmanager
def lying() -> Iterator[None]:
    """This institution's ledger claims -100,000 samples."""
    with mock.patch("dictpfl.client.uploading.Ledger", lambda one, _samples, *rest: Ledger(one, -100_000, *rest)):
        yield


def test_void_scores_are_made_up_for_before_any_update(tmp_path: Path) -> None:
    world = world_of(tmp_path / "world", encryption__sealed_share=0.5)
    world.exchange(during={1: lying})
    world.run()
    score, update = RoundKind.SCORE, RoundKind.UPDATE
    assert world.coordinator._journal.kinds() == [score, score, update, update, update, RoundKind.MEASURE]
    assert {(state.updates, state.void_scores) for state in world.states()} == {(3, 1)}
    world.digest()
    world.close()


def test_a_void_measurement_is_made_up_for_once(tmp_path: Path) -> None:
    world = world_of(tmp_path / "world")
    until_closed(world, 3)
    world.run(during={1: lying})
    update, measure = RoundKind.UPDATE, RoundKind.MEASURE
    assert world.coordinator._journal.kinds() == [update] * 3 + [measure] * 2
    assert [void.round for void in world.coordinator._journal.voids()] == [3, 4]
    world.digest()
    world.close()


def test_one_that_says_void_alone_changes_nothing(tmp_path: Path) -> None:
    world = world_of(tmp_path / "world")
    until_closed(world, 1)
    real = Institution.handle

    def handle(institution: Institution, request: Request) -> Reply:
        reply = real(institution, request)
        first = institution is world.institution(0)
        return Reply(reply.status, reply.round, reply.position, reply.blob, VOID) if first else reply

    with mock.patch.object(Institution, "handle", handle):
        world.run()
    assert list(world.coordinator._journal.voids()) == []
    assert world.coordinator._journal.updates() == 3
    world.close()


@pytest.mark.parametrize("masks", [False, True])
def test_the_others_go_on_without_an_excluded_one_and_it_catches_up(masks: bool, tmp_path: Path) -> None:
    world = world_of(tmp_path / "world", institutions=5, masks=masks)
    journal = world.coordinator._journal
    journal.name_nodes({node: f"clinic-{node}" for node in FIVE})
    until_closed(world, 1)
    journal.exclude("clinic-4", "sends nonsense")
    until_closed(world, 3)
    assert [len(one.counted) for one in journal.acknowledgements(0, 9)] == [5, 4, 4]
    assert world.record(4).shared.round < 3
    journal.readmit("clinic-4")
    world.run()
    assert len(world.journal_of(3).counted) == 5
    world.digest()
    assert masks == any(list(world.memory(node).path.parent.glob("*.told.json")) for node in FIVE)
    world.close()


def test_a_round_with_nonsense_in_it_is_void_everywhere_and_made_up_for(tmp_path: Path) -> None:
    """One institution says that it has fewer samples than none; the sum is genuine, and nobody can tell whose it was."""
    world = world_of(tmp_path / "world")
    until_closed(world, 1)
    world.exchange(during={1: lying})
    world.run()
    journal = world.coordinator._journal
    (void,) = journal.voids()
    assert void.round == 1
    assert void.senders == void.told == world.coordinator._agreement.members
    assert (journal.updates(), journal.kinds().count(RoundKind.UPDATE)) == (3, 4)
    assert {state.updates for state in world.states()} == {3}
    world.digest()
    world.close()
