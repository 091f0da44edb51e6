"""Scores that come anew between updates (FedML-HE): what crosses in clear follows the model, through kills, voids and lost journals."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from dictpfl.client.replay import replay
from dictpfl.common.ckks.opening import IdentityOpener
from dictpfl.common.errors import RoundError
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.messages.protocol import SCORES_DUE, RoundKind, Status
from dictpfl.server.coordinator import AGREEMENT
from tests.support.federations import encrypted, tiny
from tests.support.harness import Killed, World

pytestmark = pytest.mark.usefixtures("quiet")
SCORE, UPDATE, MEASURE = RoundKind.SCORE, RoundKind.UPDATE, RoundKind.MEASURE
EVERY_TWO = [SCORE, UPDATE, UPDATE, SCORE, UPDATE, UPDATE, MEASURE]


def rescoring(**changes: Any) -> dict[str, Any]:
    said = {"encryption__sealed_share": 0.3, "encryption__rescore_every": 2, "toy_insecure": True}
    return {**said, "pruning__enabled": False, **changes}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.found(tiny(**rescoring()), tmp_path_factory.mktemp("rescoring") / "world")


@pytest.fixture(scope="module")
def undisturbed(template: World, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    world = template.copy(tmp_path_factory.mktemp("undisturbed") / "world")
    world.run()
    assert [kind for kind, _ in world.journal()] == EVERY_TWO
    return world.digest()


@pytest.fixture
def world(template: World, tmp_path: Path) -> World:
    return template.copy(tmp_path / "world")


def test_what_crosses_in_clear_follows_the_model(world: World) -> None:
    world.run()
    genesis, states, state = world.genesis, [], world.genesis.start()
    opener = IdentityOpener(genesis.parameters)
    for _, aggregate in world.journal():
        states.append(state)
        state = replay(genesis, opener, state, aggregate).state
    before, after = states[2].clear, states[4].clear
    assert before is not None
    assert after is not None
    assert before.sum() == after.sum() == round(0.7 * genesis.layout.size)
    assert (before != after).any(), "another model, other sensitivities"
    assert [one.rescored for one in states] == [0, 0, 0, 0, 2, 2, 2]
    assert state.digest == world.digest()


def test_encryption_changes_nothing(undisturbed: bytes, tmp_path: Path) -> None:
    world = World.found(encrypted(**rescoring()), tmp_path / "world")
    world.run()
    assert world.digest() == undisturbed


def test_without_it_scores_are_sent_once(tmp_path: Path) -> None:
    world = World.found(tiny(**rescoring(encryption__rescore_every=0)), tmp_path / "world")
    world.run()
    assert [kind for kind, _ in world.journal()] == [SCORE, *[UPDATE] * 4, MEASURE]
    assert {state.rescored for state in world.states()} == {0}


@pytest.mark.parametrize("snapshots", [0, 1])
def test_a_latecomer(snapshots: int, tmp_path: Path) -> None:
    """By replay, or from a snapshot that says when scores were sent last."""
    changes = rescoring(federation__participants=4, federation__snapshot_every=snapshots, federation__snapshots_kept=1)
    world = World.found(tiny(**changes), tmp_path / "world")
    for _ in range(5):
        world.exchange(offline=[3])
    assert world.coordinator._journal.kinds() == EVERY_TWO[:5]
    assert bool(world.coordinator._journal.snapshots()) == bool(snapshots)
    world.run()
    assert {state.rescored for state in world.states()} == {2}
    world.digest()


@pytest.mark.parametrize("at", range(2, 7))
def test_a_coordinator_that_is_killed_goes_on(at: int, world: World, undisturbed: bytes) -> None:
    for _ in range(at):
        world.exchange()
    world.kill_coordinator()
    world.kill_institution(1)
    world.run()
    assert world.digest() == undisturbed
    world.close()


def test_an_institution_dies_while_it_scores(world: World, undisturbed: bytes) -> None:
    for _ in range(3):
        world.exchange()
    world.exchange(during={1: lambda: mock.patch("dictpfl.client.uploading.scores_of", side_effect=Killed)})
    world.run()
    assert world.digest() == undisturbed


@pytest.mark.parametrize("at", range(2, 6))
def test_a_lost_journal(at: int, world: World) -> None:
    """Nobody tells the new coordinator whether scores were sent: it asks again, and institutions send them again."""
    for _ in range(at):
        world.exchange()
    world.close()
    fresh = world.folder / "coordinator-new"
    fresh.mkdir(mode=0o700)
    shutil.copy(world.coordinator_folder / AGREEMENT, fresh / AGREEMENT)
    world.coordinator_folder = fresh
    world.run()
    assert {(state.updates, state.rescored) for state in world.states()} == {(4, 2)}
    world.digest()


def test_void_scores_are_made_up_for(world: World) -> None:
    """Before the next update; the round after them is refused as long as they are not there."""
    for _ in range(3):
        world.exchange()
    lie = "dictpfl.client.uploading.Ledger", lambda one, _samples, *rest: Ledger(one, -100_000, *rest)
    world.exchange(during={1: lambda: mock.patch(*lie)})
    world.run()
    assert world.coordinator._journal.kinds() == [SCORE, UPDATE, UPDATE, SCORE, SCORE, UPDATE, UPDATE, MEASURE]
    assert {(state.updates, state.rescored, state.void_scores) for state in world.states()} == {(4, 2, 1)}
    world.digest()


def test_institutions_take_no_update_in_place_of_scores(world: World) -> None:
    """A coordinator that leaves re-scoring out, or asks for scores where none are due, gets no round applied."""
    for _ in range(3):
        world.exchange()
    journal = world.coordinator._journal
    with mock.patch.object(type(journal), "is_scored", return_value=True):
        replies = world.exchange()  # an update where scores are due
        assert {(reply.status, reply.code) for reply in replies.values()} == {(Status.REFUSED, SCORES_DUE)}
        assert len(world.journal()) == 3
        world.coordinator._state.scores_due = None
        with mock.patch("dictpfl.client.institution.admits", return_value=True):
            world.exchange()  # and if they made one
        world.exchange()
    (_, aggregate) = world.journal()[3]
    state = world.record(0).shared
    assert (state.round, state.updates, state.rescored) == (3, 2, 0)
    with pytest.raises(RoundError, match="carries update, which genesis does not provide for"):
        replay(world.genesis, IdentityOpener(world.genesis.parameters), state, aggregate)


def test_no_scores_once_all_have_stopped(tmp_path: Path) -> None:
    changes = rescoring(selection__patience=1, selection__min_delta=2.0, federation__rounds=6)
    world = World.found(tiny(**changes), tmp_path / "world")
    world.run()
    kinds = [kind for kind, _ in world.journal()]
    assert kinds == [SCORE, UPDATE, UPDATE, MEASURE], "the second measurement stops it, at two updates"
    np.testing.assert_array_equal([state.rescored for state in world.states()], 0)
