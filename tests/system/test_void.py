"""Rounds that are void: an institution seals nonsense, or its tag is wrong; the federation goes on, and all agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dictpfl.client.defences.evidence import EVIDENCE, Evidence
from dictpfl.common.law.state import SharedState
from dictpfl.common.messages.protocol import REFUSED, VOID, Reply, RoundKind, Status
from dictpfl.deploy.ceremony.evidence import judge
from tests.support.crooked import NONSENSE, SEALED_NONSENSE, wrong_seed, wrong_tag
from tests.support.federations import encrypted, tiny
from tests.support.harness import Oracle, Point, World

pytestmark = pytest.mark.usefixtures("quiet")
VICTIM, LATE = 2, 4
FIVE = {"federation__participants": 5, "federation__rounds": 4, "pruning__residual_decay": 1.0, "pruning__tau": 1}
MASKED = {"defences__masks": True}
SIGNED = {"defences__integrity": True}


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    folder = tmp_path_factory.mktemp("templates")
    return {
        "identity": World.found(tiny(**FIVE), folder / "identity"),
        "ckks": World.found(encrypted(**FIVE), folder / "ckks"),
        "masks": World.found(encrypted(**FIVE, **MASKED), folder / "masks"),
        "integrity": World.found(encrypted(**FIVE, **SIGNED), folder / "integrity"),
        "both": World.found(encrypted(**FIVE, **MASKED, **SIGNED), folder / "both"),
    }


@pytest.fixture
def world(request: pytest.FixtureRequest, templates: dict[str, World], tmp_path: Path) -> Iterator[World]:
    made = templates[request.param].copy(tmp_path / "world")
    yield made
    made.close()


def close(world: World, point: Point | None = None, offline: Sequence[int] = ()) -> None:
    """Exchange until one round more has its sum; the victim does what the point says when it is asked for its upload."""
    before = len(world.journal())
    during = {VICTIM: point} if point else {}
    while len(world.journal()) == before:
        world.exchange(during, offline=offline)
        during = {}


def same(states: Sequence[SharedState]) -> bool:
    """Equal in every bit that the next round depends on, and in what is acknowledged."""
    return len({(state.digest, state.acknowledged) for state in states}) == 1


def is_void(before: Sequence[SharedState], after: Sequence[SharedState]) -> bool:
    """Nothing has changed but the round's number, and nothing is acknowledged."""
    expected = [state.void(score=False) for state in before]
    return [(s.digest, s.acknowledged) for s in expected] == [(s.digest, s.acknowledged) for s in after]


def statuses(replies: dict[int, Reply]) -> set[tuple[Status, str]]:
    return {(reply.status, reply.code) for reply in replies.values()}


def goes_on(world: World, oracle: Oracle, void: set[int]) -> None:
    """To the end, with the same state everywhere and nothing delivered twice or lost, of all kinds of rounds."""
    world.run()
    world.digest()
    assert same(world.states())
    oracle.check(world, void)
    kinds = [kind for kind, _ in world.journal()]
    assert kinds.count(RoundKind.UPDATE) - len(void) == world.record(0).shared.updates
    for node in world.nodes:
        assert {number for _, number in world.events(node, "void")} == void


# Nonsense under right tags


def seals_nonsense(world: World, point: Point) -> None:
    oracle = Oracle()
    with oracle.watching():
        close(world)
        world.exchange({VICTIM: point})
        before = world.states()
        owed = {node: world.record(node).pending for node in world.nodes}
        while len(world.journal()) < 2:
            world.exchange()
        replies = world.exchange()
        assert statuses(replies) == {(Status.UPLOAD, VOID)}
        assert is_void(before, world.states())
        for node, pending in owed.items():
            assert pending is not None
            sent = pending.missed.values - pending.counted.values
            assert world.record(node).pending is not None
            assert sent.any(), f"institution {node} had something to deliver, and has it still"
        goes_on(world, oracle, {1})


@pytest.mark.parametrize("name", NONSENSE)
@pytest.mark.parametrize("world", ["identity"], indirect=True)
def test_nonsense_makes_a_round_void(name: str, world: World) -> None:
    seals_nonsense(world, NONSENSE[name])


@pytest.mark.parametrize("name", SEALED_NONSENSE)
@pytest.mark.parametrize("world", ["ckks"], indirect=True)
def test_sealed_nonsense_makes_a_round_void(name: str, world: World) -> None:
    seals_nonsense(world, SEALED_NONSENSE[name])


@pytest.mark.parametrize("world", ["masks", "both"], indirect=True)
def test_nonsense_under_masks(world: World) -> None:
    seals_nonsense(world, SEALED_NONSENSE["a foreign key"])


def test_only_the_answer_right_after_says_so(templates: dict[str, World], tmp_path: Path) -> None:
    world = templates["identity"].copy(tmp_path / "world")
    close(world)
    close(world, NONSENSE["negative samples"])
    assert statuses(world.exchange(offline=[LATE])) == {(Status.UPLOAD, VOID)}
    replies = world.exchange()
    assert statuses({LATE: replies.pop(LATE)}) == statuses(replies) == {(Status.UPLOAD, "")}
    world.run()
    world.digest()
    world.close()


# Wrong tags


@pytest.mark.parametrize("point", [wrong_tag, wrong_seed])
@pytest.mark.parametrize("world", ["identity", "ckks", "masks", "integrity", "both"], indirect=True)
def test_a_wrong_tag_is_refused_once_and_makes_the_round_void(point: Point, world: World) -> None:
    oracle = Oracle()
    with oracle.watching():
        close(world)
        world.exchange({VICTIM: point})
        before = world.states()
        while len(world.journal()) < 2:
            world.exchange()
        assert statuses(world.exchange()) == {(Status.REFUSED, REFUSED)}
        assert [state.round for state in world.states()] == [1] * 5, "refused, and nothing has changed"
        assert [state.digest for state in world.states()] == [state.digest for state in before]
        assert {len(world.events(node, "refused")) for node in world.nodes} == {1}
        assert statuses(world.exchange()) == {(Status.UPLOAD, VOID)}
        assert is_void(before, world.states())
        assert {len(world.events(node, "refused")) for node in world.nodes} == {1}
        goes_on(world, oracle, {1})
    for node in world.nodes:
        kept = sorted((world.home(node) / EVIDENCE).glob("*"))
        assert len(kept) == world.genesis.config.defences.integrity
        for path in kept:
            assert path.name.startswith("round-000001-tag-")
            assert judge(path, world.home((node + 1) % 5)).reason == "tag"
            assert isinstance(Evidence.of_bytes(path.read_bytes(), "it"), Evidence)


@pytest.mark.parametrize("world", ["ckks"], indirect=True)
def test_an_institution_killed_between_refusal_and_void(world: World) -> None:
    """That a sum was refused is remembered on disk."""
    close(world)
    close(world, wrong_tag)
    assert statuses(world.exchange()) == {(Status.REFUSED, REFUSED)}
    for node in world.nodes:
        world.kill_institution(node)
    world.kill_coordinator()
    assert statuses(world.exchange()) == {(Status.UPLOAD, VOID)}
    world.run()
    world.digest()


@pytest.mark.parametrize("world", ["ckks"], indirect=True)
def test_the_last_sum_is_void_for_all_as_well(world: World) -> None:
    """There is no next round whose uploads show that it is: the last message refuses it, and its repetition settles."""
    while world.coordinator._state.next_kind() is not RoundKind.MEASURE:
        close(world)
    number = len(world.journal())
    close(world, wrong_tag)
    world.run()
    world.digest()
    assert same(world.states())
    for node in world.nodes:
        assert world.events(node, "void") == [("void", number)]


# Latecomers


@pytest.mark.parametrize("world", ["identity", "ckks", "both"], indirect=True)
def test_a_latecomer_replays_void_rounds_at_once(world: World) -> None:
    oracle, away = Oracle(), [LATE]
    with oracle.watching():
        close(world, offline=away)
        close(world, NONSENSE["negative samples"], offline=away)
        close(world, wrong_tag, offline=away)
        while len(world.journal()) < 4:
            world.exchange(offline=away)
        reply = world.exchange()[LATE]
        assert reply.status is Status.UPLOAD, "in the first exchange that it is in"
        assert same(world.states())
        assert world.events(LATE, "refused") == [("refused", 2)], (
            "counted, as the others did, and passed over all the same"
        )
        assert world.events(LATE, "void") == [("void", 1), ("void", 2)]
        assert world.events(0, "refused") == [("refused", 2)]
        goes_on(world, oracle, {1, 2})


@pytest.mark.parametrize("world", ["identity"], indirect=True)
def test_a_latecomer_whose_last_sum_is_wrong_refuses_it_once_as_all_did(world: World) -> None:
    away = [LATE]
    close(world, offline=away)
    close(world, wrong_tag, offline=away)
    assert statuses(world.exchange()) == {(Status.REFUSED, REFUSED)}
    replies = world.exchange()
    assert statuses(replies) == {(Status.UPLOAD, VOID)}
    assert same(world.states())
    world.run()
    world.digest()


@pytest.mark.parametrize("world", ["identity"], indirect=True)
def test_one_that_heard_nothing_of_a_void_round_owes_its_upload(world: World) -> None:
    """It delivered, and was away when the others found the round void: it finds the same by itself."""
    oracle = Oracle()
    with oracle.watching():
        close(world)
        close(world, NONSENSE["negative samples"])
        world.exchange(offline=[LATE])
        pending = world.record(LATE).pending
        assert pending is not None
        assert pending.round == 1
        world.exchange()
        np.testing.assert_array_equal(world.record(LATE).shared.values, world.record(0).shared.values)
        goes_on(world, oracle, {1})


# What a coordinator makes of it


@pytest.mark.parametrize("world", ["ckks"], indirect=True)
def test_damage_on_the_way_is_told_and_makes_nothing_void(world: World) -> None:
    """What everybody can check is checked first: it counts as no refused sum, and the right one is applied."""
    close(world)
    close(world)
    _, right = world.journal()[1]
    requests = world.coordinator.begin(world.nodes)
    bent = bytearray(right.blob)
    bent[-1] ^= 1
    reply = world.institution(0).handle(replace(requests[0], aggregates=(replace(right, blob=bytes(bent)),)))
    assert (reply.status, reply.code) == (Status.REFUSED, "corrupt"), "public facts keep their own code"
    for node, request in requests.items():
        world.converse(node, request)
    world.close_exchange()
    world.run()
    world.digest()
    assert world.events(0, "void", "refused") == []
