"""Sealed snapshots: a latecomer starts from one, nobody else can read it, and what is not what was agreed on is refused."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import structlog
from flwr.app import Message

import dictpfl.client.institution
from dictpfl.client.folder import KEY, InstitutionSettings
from dictpfl.client.keys.epochs import Epoch, Keyring
from dictpfl.client.memory.record import Memory
from dictpfl.client.memory.snapshots import open_snapshot, seal_snapshot
from dictpfl.common.ckks.keys import load_key, make_key, save_key
from dictpfl.common.errors import SnapshotError
from dictpfl.common.law.refresh import refreshes, tables
from dictpfl.common.law.state import Residual
from dictpfl.common.messages.protocol import Aggregate, Reply, Request, RoundKind, Status, Wish
from dictpfl.common.messages.snapshots import HEADER_BYTES, SnapshotHeader
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.simulation.local import Fault, run_local
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT
from dictpfl.server.rows import Snapshot
from tests.support.federations import encrypted, tiny
from tests.support.harness import INSTITUTION_POINTS, World

pytestmark = pytest.mark.usefixtures("quiet")
LATE, EVERY = 3, 3


def keeping(world: World, **changes: Any) -> World:
    """The same with another retention; a simulation's coordinator keeps everything."""
    path = world.coordinator_folder / AGREEMENT
    replace(Agreement.load(path), **({"snapshots_kept": 2, "snapshot_every": EVERY} | changes)).save(path)
    return world


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Ten encrypted rounds closed without the fourth institution; what is older than two snapshots is dropped."""
    config = encrypted(federation__participants=4, federation__rounds=12, pruning__tau=1)
    world = keeping(World.found(config, tmp_path_factory.mktemp("ran") / "world"))
    for _ in range(10):
        world.exchange(offline=[LATE])
    world.close()
    return world


@pytest.fixture
def world(ran: World, tmp_path: Path) -> Iterator[World]:
    made = ran.copy(tmp_path / "world")
    yield made
    made.close()


def request_of(world: World) -> Request:
    """What the coordinator answers a newcomer."""
    world.coordinator.begin([LATE])
    further = world.coordinator.receive(LATE, Reply(Status.BEHIND, 10, 0, code="new"))
    assert further is not None
    assert further.snapshot
    return further


@pytest.mark.nightly
def test_a_latecomer_at_round_1000_fetches_one_snapshot_and_the_rounds_since(tmp_path: Path) -> None:
    """Over Flower's messages: the fourth institution sees nothing before round 1000."""
    rounds = 1000
    config = tiny(federation__participants=4, federation__rounds=rounds)
    world = keeping(World.found(config, tmp_path / "world"), snapshot_every=50)
    fetched: list[Message] = []

    def faults(partition: int, message: Message) -> Fault:
        if partition != LATE:
            return Fault.NONE
        if message.content["request"]["round"] < rounds:  # type: ignore[operator]
            return Fault.LOSE_REQUEST
        fetched.append(message)
        return Fault.NONE

    with mock.patch.object(os, "fsync", return_value=None):
        run_local(world.coordinator_folder, world.folder / "institutions", 4, faults=faults)
    assert len(set(world.digests())) == 1
    assert world.record(LATE).shared.updates == rounds

    journal = world.coordinator._journal
    catching_up = fetched[1].content
    replayed = [
        r for r, length in zip(*(catching_up["request"][n] for n in ("rounds", "lengths")), strict=True) if length
    ]
    received = sum(len(array.data) for m in fetched[:2] for array in m.content["blobs"].values())
    whole = sum(length for number, (_, length) in journal.contributors().items() if number < rounds)
    file = (world.coordinator_folder / "journal.sqlite").stat().st_size
    sys.stdout.write(
        f"\nat round {rounds} a latecomer fetched {received} bytes: a snapshot of {catching_up['request']['snapshot']} and "
        f"{len(replayed)} rounds ({replayed[0]} to {replayed[-1]}), where replay is {whole} bytes in {rounds} rounds; "
        f"the journal holds aggregates from {journal.oldest} on, its file has {file} bytes\n"
    )
    assert catching_up["request"]["snapshot"] > HEADER_BYTES
    assert replayed == list(range(950, 1000))
    assert journal.oldest == 950
    assert list(journal.snapshots()) == [1000, 950]
    assert received < whole / 10
    world.close()


def test_only_the_newest_are_kept_and_what_is_needed_is_never_dropped(world: World) -> None:
    journal = world.coordinator._journal
    assert list(journal.snapshots()) == [9, 6]
    assert journal.oldest == 6
    assert [a.round for a in journal.aggregates(0)] == [6, 7, 8, 9]
    assert [a.round for a in journal.acknowledgements(0, 10)] == list(range(10))
    lengths = {length for _, length in journal.contributors().values()}
    assert 0 not in lengths, "the sizes of dropped sums are still known"
    world.run()
    world.digest()


def test_all_is_replayed_or_a_snapshot_is_taken_with_the_same_result(world: World, tmp_path: Path) -> None:
    other = keeping(World.found(encrypted(federation__participants=3, federation__rounds=6), tmp_path / "a"))
    same = keeping(other.copy(tmp_path / "b"), snapshot_every=0)
    for made in (other, same):
        made.run()
    assert other.digest() == same.digest(), "snapshots change nothing"
    assert other.coordinator._journal.snapshots()
    assert not same.coordinator._journal.snapshots()
    for made in (other, same):
        made.close()


def test_institutions_seal_the_same_bytes_which_tell_nothing(world: World) -> None:
    sealed = {seal_snapshot(world.institution(node)._keys, world.record(0).shared) for node in (0, 1, 2)}
    (data,) = sealed
    state, genesis = world.record(0).shared, world.genesis
    for needle in (state.values[:4].tobytes(), state.digest, state.digest.hex().encode(), genesis.seed, b"values"):
        assert needle not in data
    header = SnapshotHeader.read(data)
    assert header.tag == state.tag(genesis.seed)
    later = replace(state, round=state.round + 1)
    other = SnapshotHeader.read(seal_snapshot(world.institution(0)._keys, later))
    assert other.nonce != header.nonce


def test_the_key_is_of_one_federation_and_one_epoch(world: World, tmp_path: Path) -> None:
    """Not of this key: another CKKS key seals other bytes, and another epoch under the very same key does, too."""
    keys, state = world.institution(0)._keys, world.record(0).shared
    sealed = seal_snapshot(keys, state)
    institution = tmp_path / "institution"
    shutil.copytree(world.home(0), institution)
    (institution / KEY).unlink()
    save_key(make_key(world.genesis.parameters), institution / KEY)
    stranger = Keyring(institution, InstitutionSettings.load(institution))
    with pytest.raises(SnapshotError, match="does not open"):
        open_snapshot(stranger, sealed, (), state.round)
    assert open_snapshot(keys, sealed, (), state.round).digest == state.digest
    with mock.patch.object(keys, "table", replace(keys.table, epochs=(Epoch(2, 0, keys.table.last.fingerprint),))):
        other = seal_snapshot(keys, state)
    assert SnapshotHeader.read(other).nonce != SnapshotHeader.read(sealed).nonce
    forged = replace(SnapshotHeader.read(other), epoch=1).to_bytes() + other[HEADER_BYTES:]
    with pytest.raises(SnapshotError, match="does not open"):
        open_snapshot(keys, forged, (), state.round)


Forge = Callable[[World, Request], Request]


def header_with(**changes: Any) -> Forge:
    def forge(_world: World, request: Request) -> Request:
        header = replace(SnapshotHeader.read(request.snapshot), **changes)
        return replace(request, snapshot=header.to_bytes() + request.snapshot[HEADER_BYTES:])

    return forge


def flipped(at: int) -> Forge:
    def forge(_world: World, request: Request) -> Request:
        data = bytearray(request.snapshot)
        data[at] ^= 1
        return replace(request, snapshot=bytes(data))

    return forge


def resealed(_world: World, request: Request) -> Request:
    """Altered, with the digest of the sealed bytes made right again: what a server can do."""
    import hashlib

    body = bytearray(request.snapshot[HEADER_BYTES:])
    body[100] ^= 1
    header = replace(SnapshotHeader.read(request.snapshot), digest=hashlib.sha256(body).digest())
    return replace(request, snapshot=header.to_bytes() + bytes(body))


def older_under_a_newer_number(world: World, request: Request) -> Request:
    older = world.coordinator._journal.snapshot(6)
    newer = SnapshotHeader.read(request.snapshot)
    header = replace(SnapshotHeader.read(older), round=newer.round, tag=newer.tag, updates=newer.updates)
    return replace(request, snapshot=header.to_bytes() + older[HEADER_BYTES:])


def of_another_federation(world: World, request: Request) -> Request:
    other = encrypted(federation__participants=4, federation__rounds=12, seed=2)
    there = World.found(other, world.folder / "other")
    sealed = seal_snapshot(there.institution(0)._keys, world.record(0).shared)
    return replace(request, snapshot=sealed)


def of_a_drifted_institution(world: World, request: Request) -> Request:
    """Properly sealed by a member, and not the state that the others' next round was made from."""
    state = world.record(0).shared
    values = state.values.copy()
    values[0] += 1.0
    return replace(request, snapshot=seal_snapshot(world.institution(0)._keys, replace(state, values=values)))


def without_its_round(_world: World, request: Request) -> Request:
    number = SnapshotHeader.read(request.snapshot).round
    return replace(request, aggregates=tuple(a for a in request.aggregates if a.round != number))


REFUSED: dict[str, tuple[Forge, str]] = {
    "another magic": (flipped(0), "snapshot"),
    "another version": (flipped(8), "snapshot"),
    "reserved bytes": (flipped(10), "snapshot"),
    "its nonce": (flipped(HEADER_BYTES - 52), "snapshot"),
    "a flipped bit": (flipped(-1), "snapshot"),
    "cut off": (lambda _, r: replace(r, snapshot=r.snapshot[:-1]), "snapshot"),
    "a header only": (lambda _, r: replace(r, snapshot=r.snapshot[:HEADER_BYTES]), "snapshot"),
    "half a header": (lambda _, r: replace(r, snapshot=r.snapshot[:50]), "snapshot"),
    "altered with care": (resealed, "snapshot"),
    "an older one under a newer number": (older_under_a_newer_number, "snapshot"),
    "other updates": (header_with(updates=1), "snapshot"),
    "of a round to come": (header_with(round=11), "snapshot"),
    "of another federation": (of_another_federation, "wrong-federation"),
    "under another key": (header_with(fingerprint=b"k" * 32), "wrong-key"),
    "of another epoch": (header_with(epoch=2), "wrong-key"),
    "of a drifted institution": (of_a_drifted_institution, "drift"),
    "another tag": (header_with(tag=b"t" * 32), "drift"),
    "not confirmed by its round": (without_its_round, "snapshot"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_what_was_agreed_on_is_refused(what: str, world: World) -> None:
    """By name, before anything is applied; the true one is taken afterwards."""
    forge, code = REFUSED[what]
    request = request_of(world)
    institution = world.institution(LATE)
    reply = institution.handle(forge(world, request))
    assert (reply.status, reply.code) == (Status.REFUSED, code)
    assert not world.memory(LATE).path.exists(), "nothing was applied"
    assert institution.handle(request).status is Status.UPLOAD
    assert world.record(LATE).shared.round == 10


def test_an_older_snapshot_takes_nothing_back(world: World) -> None:
    request = request_of(world)
    older = world.coordinator._journal.snapshot(6)
    assert world.institution(LATE).handle(request).status is Status.UPLOAD
    held = world.memory(LATE).path.read_bytes()
    for kind in (RoundKind.UPDATE, None):
        reply = world.institution(LATE).handle(replace(request, kind=kind, snapshot=older))
        assert reply.position == 10
    assert world.memory(LATE).path.read_bytes() == held


def test_an_old_snapshot_with_a_hole_behind_it_says_what_is_missing(world: World) -> None:
    request = request_of(world)
    journal = world.coordinator._journal
    gap = replace(request, snapshot=journal.snapshot(6), aggregates=(*journal.aggregates(6, 1), *journal.aggregates(8)))
    with structlog.testing.capture_logs() as logs:
        reply = world.institution(LATE).handle(gap)
    assert (reply.status, reply.position) == (Status.BEHIND, 7)
    assert any("rounds 7 to 9 are missing" in str(entry.get("reason")) for entry in logs)


def test_a_snapshot_is_kept_once_a_sum_fits_it(world: World) -> None:
    """Where a later sum is refused, what fits stays applied; of a snapshot alone nothing shows yet that it is the others' state."""
    request, journal = request_of(world), world.coordinator._journal

    def ask(spoilt: int) -> Reply:
        sums = (replace(a, blob=a.blob[:-1]) if a.round == spoilt else a for a in journal.aggregates(6))
        return world.institution(LATE).handle(replace(request, snapshot=journal.snapshot(6), aggregates=tuple(sums)))

    assert ask(6) == Reply(Status.REFUSED, 10, 0, code="truncated")
    assert not world.memory(LATE).path.exists()
    assert ask(8) == Reply(Status.REFUSED, 10, 8, code="truncated")
    assert world.record(LATE).shared.round == 8


def test_one_that_cannot_open_a_snapshot_is_given_another_way(world: World) -> None:
    """The newest was spoilt before the coordinator wrote it down: the one before it, and the rounds since."""
    journal = world.coordinator._journal
    with journal._transaction():
        journal._keep_snapshot(Snapshot(9, 9, journal.snapshot(9)[:-1] + b"x"))
    first = world.exchange()[LATE]
    assert (first.status, first.code) == (Status.REFUSED, "snapshot")
    world.run()
    world.digest()


def test_where_nothing_helps_it_is_said(world: World) -> None:
    journal = world.coordinator._journal
    with journal._transaction():
        for number in (6, 9):
            journal._drop_snapshot(number)
    with structlog.testing.capture_logs() as logs:
        replies = world.exchange()
    assert replies[LATE].status is Status.BEHIND
    (entry,) = [e for e in logs if e["log_level"] == "error"]
    assert (entry["node"], entry["first"], entry["oldest_kept"]) == (LATE, 0, 6)
    assert dict(world.coordinator._journal.rounds(10)[0].rejected) == {str(LATE): "rounds-not-kept"}
    assert len(world.journal_of(10).counted) == 3, "the others go on"


def test_if_the_sender_fails_another_one_is_asked(tmp_path: Path) -> None:
    config = tiny(federation__participants=3, federation__rounds=6, federation__min_participants=2)
    world = keeping(World.found(config, tmp_path / "world"))
    asked = []
    while not world.coordinator.finished:
        requests = world.coordinator.begin(world.nodes)
        senders = [node for node, request in requests.items() if request.wish is Wish.WHOLE]
        assert len(senders) == (
            1 if world.coordinator._journal.next_round in {3, 4, 5} and len(asked) < 3 else len(senders)
        )
        assert len(senders) <= 1
        for node, request in requests.items():
            if node in senders and len(asked) < 2:
                asked.append(node)
                world.coordinator.failed(node, "deadline")
                continue
            world.converse(node, request)
        world.coordinator.close()
    assert len(set(asked)) == 2, "not the same one again"
    assert max(world.coordinator._journal.snapshots()) == 5
    world.digest()
    world.close()


def test_one_that_says_something_else_spoils_nothing(world: World) -> None:
    """The sender's state drifted, or it lies: what the others say of the state decides, and it is asked of another one."""
    real = dictpfl.client.institution.seal_snapshot

    def lie(keys: Keyring, state: Any) -> bytes:
        values = state.values.copy()
        values[0] += 1.0
        sealed = real(keys, replace(state, values=values))
        header = SnapshotHeader.read(sealed)
        return replace(header, tag=state.tag(keys.genesis.seed)).to_bytes() + sealed[HEADER_BYTES:]

    world.exchange(offline=[LATE])
    world.exchange(offline=[LATE])
    requests = world.coordinator.begin([0, 1, 2])
    (sender,) = [node for node, request in requests.items() if request.wish is Wish.WHOLE]
    for node, request in requests.items():
        with mock.patch.object(dictpfl.client.institution, "seal_snapshot", lie if node == sender else real):
            world.converse(node, request)
    world.coordinator.close()
    assert list(world.coordinator._journal.snapshots()) == [9, 6]
    assert len(world.journal_of(12).counted) == 3
    world.run()
    assert max(world.coordinator._journal.snapshots()) >= 9
    world.digest()


# what an institution owes when it skips rounds


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> World:
    config = tiny(federation__participants=5, federation__rounds=12, pruning__residual_decay=1.0, pruning__tau=1)
    return keeping(World.found(config, tmp_path_factory.mktemp("five") / "world"))


def skipped(world: World, *, lost: bool) -> tuple[Residual, Residual, Any]:
    """The victim uploads in round 2, which is counted or not, and is away until its rounds are dropped."""
    world.exchange()
    world.exchange()
    world.exchange(lost=[1] if lost else [])
    pending = world.record(1).pending
    assert pending is not None
    for _ in range(7):
        world.exchange(offline=[1])
    return pending.counted, pending.missed, pending


@pytest.mark.parametrize("lost", [False, True])
def test_what_was_not_delivered_is_still_owed(lost: bool, five: World, tmp_path: Path) -> None:
    world = five.copy(tmp_path / "world")
    counted, missed, _ = skipped(world, lost=lost)
    assert world.coordinator._journal.oldest > 3
    with mock.patch("dictpfl.client.uploading.train", side_effect=SnapshotError("no training now")):
        world.exchange()
    record = world.record(1)
    assert record.shared.round == world.record(0).shared.round
    assert record.pending is None
    np.testing.assert_array_equal(record.residual.values, (missed if lost else counted).values)
    assert not np.array_equal(counted.values, missed.values)
    world.run()
    world.digest()
    uploads = [
        u
        for _, a in zip(range(99), world.coordinator._journal.acknowledgements(0, 99), strict=False)
        for u in a.counted
    ]
    assert len(uploads) == len(set(uploads))
    world.close()


def test_a_backup_that_skips_rounds_does_not_deliver_again(five: World, tmp_path: Path) -> None:
    """Its record is of round 2, uploads of rounds 3 and 4 were counted: what it owed then went with them."""
    world = five.copy(tmp_path / "world")
    for _ in range(3):
        world.exchange()
    backup = tmp_path / "backup"
    shutil.copytree(world.home(1) / "memory", backup)
    for _ in range(2):
        world.exchange()
    for _ in range(6):
        world.exchange(offline=[1])
    shutil.rmtree(world.home(1) / "memory")
    shutil.copytree(backup, world.home(1) / "memory")
    world.kill_institution(1)
    assert world.coordinator._journal.oldest > 5
    with (
        structlog.testing.capture_logs() as logs,
        mock.patch("dictpfl.client.uploading.train", side_effect=SnapshotError("no")),
    ):
        world.exchange()
    assert world.record(1).shared.digest == world.record(0).shared.digest
    assert not world.record(1).residual.values.any()
    assert any("given up" in entry["event"] for entry in logs)
    jumped = [json.loads(line) for line in (world.home(1) / "diary.jsonl").read_text().splitlines()]
    assert [line["given_up"] for line in jumped if line["event"] == "jumped"] == [True]
    world.close()


def test_without_acknowledgements_a_snapshot_is_refused(five: World, tmp_path: Path) -> None:
    """Nothing shows that its own rounds lead there. Its operator may have it begin as a newcomer, without what was owed."""
    world = five.copy(tmp_path / "world")
    skipped(world, lost=True)
    before = world.memory(1).path.read_bytes()
    request = world.coordinator.begin([1])[1]
    assert request.snapshot, "the coordinator knows where it stands"
    bare = replace(request, kind=None, aggregates=tuple(a for a in request.aggregates if a.blob))
    with structlog.testing.capture_logs() as logs:
        reply = world.institution(1).handle(bare)
    assert (reply.status, reply.code) == (Status.REFUSED, "drift")
    assert any("no list of the uploads in rounds [2, 3," in str(entry.get("reason")) for entry in logs)
    assert world.memory(1).path.read_bytes() == before
    world.memory(1).path.unlink()
    assert world.institution(1).handle(bare).status is Status.SETTLED
    assert not world.record(1).residual.values.any()
    assert world.record(1).shared.round == request.round
    world.close()


REFRESHES: dict[str, dict[str, Any]] = {
    "fixed": {"refresh_every": 4},
    "kept": {"refresh_every": 4, "refresh_history": "keep"},
    "stall": {"refresh_every": 2, "refresh_when": "stall", "refresh_stall": 0.98},
    "each for itself": {"refresh_every": 1, "refresh_when": "stall-tensor", "refresh_stall": 0.95},
    "growing": {"refresh_every": 3, "refresh_ranks": [1, 2, 4]},
    "growing cores": {"refresh_every": 3, "refresh_ranks": [1, 2, 4], "form": "core"},
    "shrinking, each for itself": {
        "refresh_every": 1, "refresh_when": "stall-tensor", "refresh_stall": 0.95, "refresh_ranks": [4, 2],
        "refresh_history": "keep",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REFRESHES)
def test_dictionaries_drawn_anew_in_between(name: str, tmp_path: Path) -> None:
    """A refresh in the rounds that were skipped: tables are rebased, and nothing is owed of them."""
    refresh = {f"decomposition__{key}": value for key, value in REFRESHES[name].items()}
    config = tiny(
        federation__participants=4, federation__rounds=12, pruning__residual_decay=1.0, pruning__tau=1, training__steps=4,
        training__learning_rate=0.02, model__options={"hidden": [16, 16]}, **refresh,
    )  # fmt: skip
    world = keeping(World.found(config, tmp_path / "world"))
    world.exchange()
    for _ in range(10):
        world.exchange(offline=[LATE])
    assert world.record(LATE).shared.round == 0
    world.run()
    world.digest()
    records = world.record(LATE).shared.records
    assert len(records) >= 2
    assert {"fixed", "kept", "stall", "growing", "growing cores"} & {name} or any(not r.chosen.all() for r in records)
    twins = [world.institution(n)._bench.merged(world.record(n).shared).state_dict() for n in (0, LATE)]
    for weight, tensor in twins[0].items():
        np.testing.assert_array_equal(tensor.numpy(), twins[1][weight].numpy())
    finished = Finished.load(world.home(LATE))
    for weight, (up, down) in finished.factors().items():
        moved = twins[1][weight].double().numpy() - finished.start()[weight].double().numpy()
        np.testing.assert_allclose(up @ down, moved, atol=1e-5)
    ranks = config.decomposition.refresh_ranks
    if ranks:
        now = finished.genesis.layout.unflatten(finished.state.values)
        counts = refreshes(finished.genesis.layout, records).tolist()
        for entry, count in zip(tables(finished.genesis.layout), counts, strict=True):
            rank, table = ranks[min(count, len(ranks) - 1)], now[entry.name]
            assert not table[rank:].any()
            assert config.decomposition.form == "table" or not table[:, rank:].any()
    world.close()


def test_many_aggregates_come_in_several_messages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    length = world.coordinator._journal.length(9)
    monkeypatch.setattr("dictpfl.server.catchup.REQUEST_BYTES", 2 * length)
    sent: list[int] = []
    requests = world.coordinator.begin(world.nodes)
    more: Request | None = requests[LATE]
    while more is not None:
        sent.append(sum(bool(a.blob) for a in more.aggregates))
        more = world.coordinator.receive(LATE, world.institution(LATE).handle(more))
    assert max(sent) <= 2
    assert world.record(LATE).shared.round == 10


@pytest.mark.parametrize("name", INSTITUTION_POINTS)
def test_a_latecomer_dies_while_it_catches_up(name: str, world: World) -> None:
    replies = world.exchange({LATE: INSTITUTION_POINTS[name]})
    assert LATE not in replies, "the point was not reached"
    if world.memory(LATE).path.exists():
        assert world.record(LATE).shared.round == 10, "all of it or nothing"
    world.run()
    world.digest()
    uploads = [u for a in world.coordinator._journal.acknowledgements(0, 99) for u in a.counted]
    assert len(uploads) == len(set(uploads))


def test_a_snapshot_that_cannot_be_stored_costs_no_round(world: World) -> None:
    from dictpfl.common.errors import JournalError

    world.exchange(offline=[LATE])
    world.exchange(offline=[LATE])
    with mock.patch.object(type(world.coordinator._journal), "keep", side_effect=JournalError("disk full")):
        world.exchange(offline=[LATE])
    assert world.coordinator._journal.next_round == 13
    assert max(world.coordinator._journal.snapshots()) == 9
    world.run()
    world.digest()


def test_the_coordinator_dies_while_it_keeps_a_snapshot(world: World) -> None:
    from tests.support.harness import statement

    for number in range(3):
        point = statement(world, after="DELETE FROM rounds") if number == 2 else None
        world.exchange(offline=[LATE], **({"closing": point} if point else {}))
    assert world.coordinator_folder.name != "coordinator"
    journal = world.coordinator._journal
    assert journal.next_round == 13, "the round was closed before"
    assert (list(journal.snapshots()), journal.oldest) == ([9, 6], 6)
    world.run()
    world.digest()


def test_memory_is_stored_once_for_a_jump(world: World) -> None:
    """The snapshot and the rounds since are durable together, before the upload is made."""
    stored: list[int] = []
    real = Memory.store

    def store(memory: Memory, record: Any) -> Any:
        stored.append(record.shared.round)
        return real(memory, record)

    request = request_of(world)
    with mock.patch.object(Memory, "store", store):
        world.institution(LATE).handle(request)
    assert stored == [10, 10]


def test_the_coordinators_files_hold_no_state_in_clear(world: World) -> None:
    state, key = world.record(0).shared, load_key(world.home(0) / KEY)
    world.close()
    for path in world.coordinator_folder.iterdir():
        data = path.read_bytes()
        for needle in (state.values[:4].tobytes(), key.secret[200:232], world.genesis.seed, b"safetensors"):
            assert needle not in data


def test_acknowledgements_only_are_never_applied(world: World) -> None:
    request = request_of(world)
    bare = replace(request, snapshot=b"", aggregates=tuple(Aggregate(n, b"", ()) for n in range(10)))
    reply = world.institution(LATE).handle(bare)
    assert (reply.status, reply.position) == (Status.BEHIND, 0)
