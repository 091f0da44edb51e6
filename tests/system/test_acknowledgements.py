"""What became of an upload in rounds that a snapshot covers: a coordinator that lies about it has the snapshot refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from dictpfl.common.errors import SnapshotError
from dictpfl.common.messages.protocol import Aggregate, Request, Status
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT
from tests.support.crooked import NONSENSE, wrong_tag
from tests.support.federations import tiny
from tests.support.harness import Oracle, Point, World

pytestmark = pytest.mark.usefixtures("quiet")
VICTIM = 1
Lie = Callable[[list[Aggregate], bytes], list[Aggregate]]
"""Acknowledgements as they are, and the id of the victim's upload; acknowledgements as they are told."""


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> World:
    config = tiny(federation__participants=5, federation__rounds=12, pruning__residual_decay=1.0, pruning__tau=1)
    world = World.found(config, tmp_path_factory.mktemp("acknowledged") / "world")
    path = world.coordinator_folder / AGREEMENT
    replace(Agreement.load(path), snapshots_kept=2, snapshot_every=3).save(path)
    return world


@pytest.fixture
def world(founded: World, tmp_path: Path) -> Iterator[World]:
    made = founded.copy(tmp_path / "world")
    yield made
    made.close()


def away(world: World, *, lost: bool) -> bytes:
    """The victim uploads in round 2, which is counted or not, and is away until that round is dropped; returns its upload's id."""
    world.exchange()
    world.exchange()
    world.exchange(lost=[VICTIM] if lost else [])
    pending = world.record(VICTIM).pending
    assert pending is not None
    for _ in range(7):
        world.exchange(offline=[VICTIM])
    return pending.upload_id


def denied(told: list[Aggregate], upload: bytes) -> list[Aggregate]:
    """The victim's upload is said to be in no sum."""
    return [replace(one, counted=tuple(u for u in one.counted if u != upload)) for one in told]


def claimed(told: list[Aggregate], upload: bytes) -> list[Aggregate]:
    """The victim's upload is said to be in the sum of its round."""
    return [replace(one, counted=(*one.counted, upload)) if one.round == 2 else one for one in told]


def another(told: list[Aggregate], _upload: bytes) -> list[Aggregate]:
    """Another one's upload is said to have another name."""
    return [replace(one, counted=(bytes(16), *one.counted[1:])) if one.round == 4 else one for one in told]


def exchanged(told: list[Aggregate], _upload: bytes) -> list[Aggregate]:
    """What two rounds are said to hold changes places."""
    held = {one.round: one.counted for one in told}
    held[2], held[4] = held[4], held[2]
    return [replace(one, counted=held[one.round]) for one in told]


def left_out(told: list[Aggregate], _upload: bytes) -> list[Aggregate]:
    return [one for one in told if one.round != 4]


def emptied(told: list[Aggregate], _upload: bytes) -> list[Aggregate]:
    """A round is said to have been void."""
    return [replace(one, counted=()) if one.round == 4 else one for one in told]


LIES: dict[str, Lie] = {
    "denied": denied, "claimed": claimed, "another": another, "exchanged": exchanged, "left out": left_out, "emptied": emptied,
}  # fmt: skip


def lying(request: Request, lie: Lie, upload: bytes) -> Request:
    told = [one for one in request.aggregates if not one.blob]
    assert told
    assert {2, 4} <= {one.round for one in told}
    return replace(request, aggregates=(*lie(told, upload), *(one for one in request.aggregates if one.blob)))


@pytest.mark.parametrize("lost", [False, True], ids=["counted", "lost"])
@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_refused_and_nothing_is_delivered_twice(name: str, lost: bool, world: World) -> None:
    if (name, lost) in {("denied", True), ("claimed", False)}:
        pytest.skip("that would be the truth")
    oracle = Oracle()
    with oracle.watching():
        upload = away(world, lost=lost)
        before = world.memory(VICTIM).path.read_bytes()
        request = world.coordinator.begin([VICTIM])[VICTIM]
        reply = world.institution(VICTIM).handle(replace(lying(request, LIES[name], upload), kind=None))
        assert (reply.status, reply.code) == (Status.REFUSED, "drift"), "its own rounds do not lead there by this list"
        assert world.memory(VICTIM).path.read_bytes() == before, "what it owes is still there, and so is its upload"
        world.close_exchange()
        world.run()
        world.digest()
    uploads = [u for one in world.coordinator._journal.acknowledgements(0, 99) for u in one.counted]
    oracle.settled(world, VICTIM, uploads)
    assert len(uploads) == len(set(uploads))


@pytest.mark.parametrize("lost", [False, True], ids=["counted", "lost"])
def test_the_truth_is_believed(lost: bool, world: World) -> None:
    upload = away(world, lost=lost)
    pending = world.record(VICTIM).pending
    assert pending is not None
    request = world.coordinator.begin([VICTIM])[VICTIM]
    world.institution(VICTIM).handle(replace(lying(request, lambda told, _: told, upload), kind=None))
    owed = pending.missed if lost else pending.counted
    np.testing.assert_array_equal(world.record(VICTIM).residual.values, owed.values)
    assert owed.values.any()


def test_the_order_within_a_round_is_nobodys_secret(world: World) -> None:
    """Ids of a round's uploads are sorted before they go into the chain."""
    upload = away(world, lost=True)
    pending = world.record(VICTIM).pending
    assert pending is not None
    request = world.coordinator.begin([VICTIM])[VICTIM]

    def turned(told: list[Aggregate], _upload: bytes) -> list[Aggregate]:
        return [replace(one, counted=one.counted[::-1]) for one in told]

    world.institution(VICTIM).handle(replace(lying(request, turned, upload), kind=None))
    np.testing.assert_array_equal(world.record(VICTIM).residual.values, pending.missed.values)


@pytest.mark.parametrize("point", [NONSENSE["negative samples"], wrong_tag], ids=["nonsense", "tag"])
def test_a_void_round_in_between_acknowledges_nothing(point: Point, world: World) -> None:
    """The victim's upload is in a sum that became void while it was away: it is owed, since nobody lists it, and delivered once."""
    world.exchange()
    world.exchange()
    world.exchange({0: point})
    pending = world.record(VICTIM).pending
    assert pending is not None
    assert pending.round == 2
    for _ in range(8):
        world.exchange(offline=[VICTIM])
    assert world.coordinator._journal.oldest > 3
    with mock.patch("dictpfl.client.uploading.train", side_effect=SnapshotError("no training now")):
        world.exchange()
    record = world.record(VICTIM)
    assert record.shared.round == world.record(0).shared.round
    assert record.shared.acknowledged == world.record(0).shared.acknowledged
    np.testing.assert_array_equal(record.residual.values, pending.missed.values)
    assert pending.missed.values.any()
    world.run()
    world.digest()
