"""A coordinator that shows two groups different sums of one round, and what it can have an honest institution open of both.

X is shown the sum of {X, A, B, D}, the others that of {X, A, B}; both are true. Whoever opens both knows D's update, exactly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from dictpfl.common.messages.masks import attempt_bytes
from dictpfl.common.messages.protocol import Aggregate, Reply, Request, RoundKind, Status, Wish
from dictpfl.common.messages.wire import Blob
from dictpfl.deploy.operations.refusals import Refusals
from tests.attacks.shown import VICTIM, Shown, summed
from tests.support.federations import encrypted
from tests.support.harness import Floats, World

pytestmark = pytest.mark.usefixtures("quiet", "at_once")
X, A, B, D = range(4)


@dataclass
class Fork:
    """Two histories of one federation, from round 0 on: X's, and that of the others.

    Attributes:
        world: the federation; the minimum is three, all else is as by default.
        asked: what X is asked first; everything else is made from it.
        mine: sum of round 0 that X was shown.
        theirs: sum of round 0 that the others were shown, and their measurement in round 1.
        snapshot: A's, before round 2.
        delivered: D's update in round 0, as its upload carries it.
    """

    world: World
    asked: Request
    mine: Aggregate
    theirs: tuple[Aggregate, Aggregate]
    snapshot: bytes
    delivered: Floats

    @classmethod
    def of(cls, world: World) -> Fork:
        """Lead X and the others apart, as a coordinator that lies does it: by requests alone."""
        requests = world.coordinator.begin(world.nodes)
        uploads = {node: world.institution(node).handle(request).blob for node, request in requests.items()}
        pending = world.record(D).pending
        assert pending is not None
        mine, other = (cls.total(world, 0, uploads, members) for members in ((X, A, B, D), (X, A, B)))
        asked = requests[X]
        first = replace(asked, round=1, kind=RoundKind.MEASURE)
        measured = {n: world.institution(n).handle(replace(first, aggregates=(other,))).blob for n in (A, B, D)}
        assert world.institution(X).handle(replace(first, aggregates=(mine,))).status is Status.UPLOAD
        second = cls.total(world, 1, measured, (A, B, D), RoundKind.MEASURE)
        request = replace(asked, round=2, kind=RoundKind.UPDATE, aggregates=(second,), wish=Wish.WHOLE)
        snapshot = world.institution(A).handle(request).snapshot
        assert snapshot
        return cls(world, asked, mine, (other, second), snapshot, pending.missed.values - pending.counted.values)

    @staticmethod
    def total(
        world: World,
        number: int,
        uploads: dict[int, bytes],
        members: tuple[int, ...],
        kind: RoundKind = RoundKind.UPDATE,
        attempt: int = 0,
    ) -> Aggregate:
        blob = summed(world, number, {node: uploads[node] for node in members}, kind, attempt)
        counted = Blob.own(blob, world.genesis.parameters.word_bits).counted
        return Aggregate(number, blob, tuple(sorted(counted)))

    def difference(self) -> Floats:
        """The two sums of round 0 subtracted, by the shared values that they led to: all that it takes is to hold both."""
        start, weights = self.world.genesis.values, [self.world.institution(n)._uploads.counted for n in range(4)]
        cap = self.world.genesis.sample_cap
        mine, theirs = (self.world.record(node).shared.values - start for node in (X, A))
        return (mine * sum(weights) - theirs * sum(weights[:D])) / cap

    def send(self, *aggregates: Aggregate, snapshot: bytes | None = None, number: int = 2) -> Reply:
        """Send X a snapshot of the others' history."""
        data = self.snapshot if snapshot is None else snapshot
        request = replace(self.asked, round=number, kind=RoundKind.UPDATE, aggregates=aggregates, snapshot=data)
        return self.world.institution(X).handle(request)

    def memory(self) -> bytes:
        return self.world.memory(X).path.read_bytes()


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.found(
        encrypted(federation__participants=4, federation__rounds=4), tmp_path_factory.mktemp("fork") / "world"
    )


@pytest.fixture
def fork(forked: World, tmp_path: Path) -> Iterator[Fork]:
    world = forked.copy(tmp_path / "world")
    yield Fork.of(world)
    world.close()


def bare(aggregate: Aggregate, **changes: object) -> Aggregate:
    return replace(aggregate, blob=b"", **changes)  # type: ignore[arg-type]


Told = Callable[[Fork], list[Aggregate]]
TOLD: dict[str, Told] = {
    "the ids of the others' history": lambda fork: [bare(one) for one in fork.theirs],
    "only those that X skips": lambda fork: [bare(fork.theirs[1])],
    "X's own ids, then the others'": lambda fork: [bare(fork.mine), bare(fork.theirs[1])],
    "nothing": lambda _: [],
    "a void round": lambda fork: [bare(fork.theirs[1], counted=())],
    "both rounds as one": lambda fork: [bare(fork.theirs[1], counted=fork.theirs[0].counted + fork.theirs[1].counted)],
    "a round twice": lambda fork: [bare(fork.theirs[1], counted=()), bare(fork.theirs[1])],
    "whole sums": lambda fork: [*fork.theirs],
}  # fmt: skip


def test_both_sums_give_an_update_away(fork: Fork) -> None:
    """Or the tests below show nothing."""
    assert fork.delivered.any()
    np.testing.assert_allclose(fork.difference(), fork.delivered, atol=1e-12)


@pytest.mark.parametrize("told", TOLD)
def test_the_snapshot_of_a_fork_is_refused(told: str, fork: Fork) -> None:
    """Its own rounds do not lead there, whatever the coordinator says of them."""
    before = fork.memory()
    reply = fork.send(*TOLD[told](fork))
    assert (reply.status, reply.code) == (Status.REFUSED, "drift")
    assert fork.memory() == before
    line = json.loads((fork.world.home(X) / "diary.jsonl").read_text().splitlines()[-1])
    assert line["event"] == "failed"
    digest = fork.world.record(A).shared.digest.hex()
    assert digest[:16] in line["reason"], "what people compare by phone"
    assert "move memory/*.safetensors away" in line["reason"]
    own = replace(fork.asked, round=1, kind=RoundKind.MEASURE, aggregates=(fork.mine,))
    assert fork.world.institution(X).handle(own).status is Status.UPLOAD, "in its own history it goes on"
    assert fork.memory() == before


def test_the_sum_that_follows_confirms_nothing(fork: Fork) -> None:
    """The snapshot's own round, closed by the others, comes with it: it shows what they hold, not what X has opened."""
    request = replace(fork.asked, round=2, kind=RoundKind.UPDATE, aggregates=(fork.theirs[1],))
    uploads = {node: fork.world.institution(node).handle(request).blob for node in (A, B, D)}
    third = Fork.total(fork.world, 2, uploads, (A, B, D))
    before = fork.memory()
    assert fork.send(*(bare(one) for one in fork.theirs), third, number=3).code == "drift"
    assert fork.memory() == before


def test_a_snapshot_that_is_not_newer_brings_no_second_sum(fork: Fork) -> None:
    """It is left alone, and the sum behind it was made from another state than X's."""
    ask = replace(fork.asked, round=2, kind=RoundKind.UPDATE, wish=Wish.WHOLE)
    own = fork.world.institution(X).handle(replace(ask, round=1, kind=None, aggregates=(fork.mine,))).snapshot
    before = fork.memory()
    assert fork.send(*fork.theirs, snapshot=own).code == "drift"
    assert fork.world.record(X).shared.acknowledged != fork.world.record(A).shared.acknowledged
    assert fork.memory() == before


def test_its_operator_may_have_it_begin_as_a_newcomer(fork: Fork) -> None:
    """Deliberately, as the refusal says: without its memory it takes what the others hold."""
    fork.send(*(bare(one) for one in fork.theirs))
    fork.world.memory(X).path.unlink()
    assert fork.send().status is Status.UPLOAD
    assert fork.world.record(X).shared.digest == fork.world.record(A).shared.digest


# What `dictpfl institution unlock` forgets


def look(world: World, node: int) -> int:
    """As who types `dictpfl institution unlock`."""
    refusals = Refusals(world.home(node))
    return refusals.unlock(refusals.standing())


@pytest.mark.parametrize("attempts", [1, 3], ids=["refused", "locked"])
def test_unlock_forgets_a_forged_sum_that_came_first(shown: Shown, undisturbed: bytes, attempts: int) -> None:
    """Or the true one would be another sum of the same attempt for good."""
    for attempt in range(attempts):
        assert shown.show(shown.forged(shown.true.words()[::-1].copy(), attempt=attempt)).code == "refused"
    before = shown.kept()
    request = shown.requests[VICTIM]
    assert shown.world.institution(VICTIM).handle(request).code == ("refused" if attempts == 1 else "locked")
    assert look(shown.world, VICTIM) == max(2, attempts)
    assert shown.kept() == before
    shown.go_on()
    assert shown.world.digest() == undisturbed


@pytest.mark.parametrize("attempt", [0, 1])
def test_unlock_forgets_no_sum_that_was_opened(attempt: int, forked: World, tmp_path: Path) -> None:
    """X opened one; its memory, not its record of sums, is an older copy; now another true one of that round is shown."""
    world = forked.copy(tmp_path / "world")
    requests = world.coordinator.begin(world.nodes)
    first = {node: world.institution(node).handle(request).blob for node, request in requests.items()}
    again = {
        n: world.institution(n).handle(replace(r, defence=attempt_bytes(attempt))).blob for n, r in requests.items()
    }
    mine = Fork.total(world, 0, first, (X, A, B, D))
    other = Fork.total(world, 0, again, (X, A, B), attempt=attempt)
    backup = world.memory(X).path.read_bytes()
    asked = replace(requests[X], round=1, kind=None)

    def shown(aggregate: Aggregate) -> Reply:
        return world.institution(X).handle(replace(asked, aggregates=(aggregate,)))

    assert shown(mine).status is Status.SETTLED
    opened = world.record(X).shared.digest
    world.memory(X).path.write_bytes(backup)
    for looked in (False, True):
        world.kill_institution(X)
        if looked:
            assert look(world, X) == 1
        assert shown(other).code == "refused"
        assert world.memory(X).path.read_bytes() == backup
    assert shown(mine).status is Status.SETTLED, "the one that it opened is replayed"
    assert world.record(X).shared.digest == opened
    world.close()
