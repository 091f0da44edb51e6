"""6,000 damaged uploads and sums, drawn from a seed: each is a named error or changes nothing, and nothing is delivered twice.

Damaged journals are in tests/server/test_journal.py.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from dictpfl.client.replay import received, require_authentic
from dictpfl.common.errors import IntegrityError, RoundError, WireError
from dictpfl.common.law.members import Roster
from dictpfl.common.messages.protocol import Aggregate, Request, RoundKind, Status
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT
from dictpfl.server.folding import Fold
from tests.support.federations import encrypted
from tests.support.fuzzing import damaged
from tests.support.harness import World

pytestmark = pytest.mark.usefixtures("quiet")
UPLOADS, SUMS, SHOWN = 3_000, 2_700, 300
VICTIM = 1
Say = Callable[[str, Counter[str]], None]


@dataclass
class Scene:
    """A federation of three whose second round has all uploads, and a sum that nobody was shown.

    Attributes:
        world: the federation.
        requests: what an honest coordinator sends next, with the true sum, by node.
        uploads: uploads of the sum's round, by node.
        old: uploads of the round before, and its sum.
        foreign: uploads and sum of another federation's same round.
    """

    world: World
    requests: dict[int, Request]
    uploads: list[bytes]
    old: list[bytes]
    foreign: list[bytes]

    @property
    def true(self) -> Aggregate:
        return self.requests[VICTIM].aggregates[-1]

    @property
    def strangers(self) -> list[bytes]:
        return [*self.old, *self.foreign]

    def fold(self, *nodes: int) -> Fold:
        fold = Fold(Agreement.load(self.world.coordinator_folder / AGREEMENT), RoundKind.UPDATE, self.true.round)
        for node in nodes:
            fold.add(node, self.uploads[node])
        return fold

    def roster(self) -> Roster | None:
        return self.world.institution(VICTIM)._keys.roster_at(self.true.round)

    def checked(self, aggregate: Aggregate) -> None:
        """What an institution does with a sum before it opens it."""
        total = received(self.world.genesis, self.world.record(VICTIM).shared, aggregate)
        require_authentic(self.world.genesis, total, 3, self.roster())


def rounds(world: World) -> tuple[list[bytes], list[bytes]]:
    """Two exchanges; returns the uploads of both, by node."""
    blobs: list[list[bytes]] = []
    for _ in range(2):
        world.exchange()
        blobs.append([pending.blob for node in world.nodes if (pending := world.record(node).pending)])
    return blobs[0], blobs[1]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("fuzz")
    worlds = [World.found(encrypted(), folder / name) for name in ("here", "elsewhere")]
    (old, now), (_, foreign) = (rounds(world) for world in worlds)
    here, elsewhere = (world.coordinator.begin(world.nodes) for world in worlds)
    sums = [aggregate.blob for _, aggregate in worlds[0].journal()]
    yield Scene(worlds[0], here, now, [*old, sums[0]], [*foreign, elsewhere[0].aggregates[-1].blob])
    for world in worlds:
        world.close()


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def write(what: str, outcomes: Counter[str]) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{outcomes.total():,} {what}: {dict(outcomes.most_common())}\n")

    return write


def test_damaged_uploads(scene: Scene, say: Say) -> None:
    """At the coordinator. What fits the form under a digest made anew is added, as it must be: the sum's tags tell on it."""
    outcomes, accepted = Counter[str](), []
    fold, whole = scene.fold(0, 2), scene.fold(0, 2).aggregate()
    replayed = [*scene.strangers, scene.uploads[0], scene.uploads[2]]
    for way, data in damaged(np.random.default_rng(4), scene.uploads[VICTIM], replayed, UPLOADS):
        try:
            fold.add(VICTIM, data)
        except WireError as error:
            outcomes[error.code] += 1
            continue
        assert way.endswith("digest fits"), way
        outcomes["added"] += 1
        if fold.drifted():  # another state, or another size: kept apart, and not in the sum
            assert fold.aggregate() == whole
        else:
            accepted.append(fold.aggregate()[0])
        fold = scene.fold(0, 2)
    assert fold.aggregate() == whole, "what was refused changed nothing"
    for blob in accepted:
        with pytest.raises(IntegrityError, check=lambda error: error.reason in ("tag", "members")):
            scene.checked(replace(scene.true, blob=blob))
    fold.add(VICTIM, scene.uploads[VICTIM])
    assert fold.aggregate()[0] == scene.true.blob
    say(f"damaged uploads, {len(accepted):,} of them in sums that institutions refused", outcomes)
    assert outcomes.total() == UPLOADS
    assert accepted


def test_damaged_sums(scene: Scene, say: Say) -> None:
    """What an institution checks before it opens a sum refuses every one but the true one, by a named error."""
    outcomes = Counter[str]()
    before = scene.world.record(VICTIM).shared.digest
    others = [*scene.strangers, *scene.uploads]
    for way, data in damaged(np.random.default_rng(5), scene.true.blob, others, SUMS):
        with pytest.raises((WireError, RoundError)) as caught:
            scene.checked(replace(scene.true, blob=data))
        assert isinstance(caught.value, IntegrityError) is (caught.value.code == "integrity"), way
        outcomes[caught.value.code] += 1
    scene.checked(scene.true)
    assert scene.world.record(VICTIM).shared.digest == before
    say("damaged sums", outcomes)
    assert outcomes.total() == SUMS
    assert outcomes["integrity"] > SUMS / 20


def test_damaged_sums_shown_to_an_institution(scene: Scene, say: Say, tmp_path: Path) -> None:
    """The whole way, with what lies on disk: nothing is decrypted, and not a byte of its memory changes."""
    outcomes, world = Counter[str](), scene.world.copy(tmp_path / "world")
    kept, opened = world.memory(VICTIM).path.read_bytes(), mock.Mock(side_effect=AssertionError("decrypted"))
    request = scene.requests[VICTIM]
    with mock.patch("time.sleep"), mock.patch("dictpfl.common.ckks.opening.CKKSOpener.open", opened):
        for _, data in damaged(np.random.default_rng(6), scene.true.blob, [*scene.strangers, *scene.uploads], SHOWN):
            reply = world.institution(VICTIM).handle(replace(request, aggregates=(replace(scene.true, blob=data),)))
            assert reply.status in (Status.REFUSED, Status.BEHIND)
            assert (reply.blob, reply.position) == (b"", scene.true.round)
            outcomes[reply.code or str(reply.status)] += 1
            assert world.memory(VICTIM).path.read_bytes() == kept
    opened.assert_not_called()
    say("damaged sums shown to an institution", outcomes)
    assert outcomes.total() == SHOWN
    assert not set(outcomes) & {"tag", "integrity", "noise", "guard", "opening", "too-few"}
    world.close()
