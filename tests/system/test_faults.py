"""A fault at every step of the protocol: nothing is lost, nothing is applied twice, the model is the undisturbed one's."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import structlog

import dictpfl.client.memory.record
import dictpfl.common.files
from dictpfl.client.memory.record import Memory, Record
from dictpfl.common.errors import JournalError
from dictpfl.common.messages.protocol import Reply, Request, RoundKind, Status
from dictpfl.deploy.simulation.local import Fault, run_local
from tests.support import ROOT
from tests.support.failing_disks import full_disk, journal_full
from tests.support.federations import encrypted, tiny
from tests.support.harness import COORDINATOR_POINTS, INSTITUTION_POINTS, Point, World, statement

pytestmark = pytest.mark.usefixtures("quiet")
VICTIM = 1


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    """Founded federations to copy: three and five institutions in clear, three under CKKS."""
    folder = tmp_path_factory.mktemp("templates")
    return {
        "three": World.found(tiny(), folder / "three"),
        "five": World.found(tiny(federation__participants=5), folder / "five"),
        "ckks": World.found(encrypted(federation__rounds=3), folder / "ckks"),
    }


@pytest.fixture
def ckks(templates: dict[str, World], tmp_path: Path) -> Iterator[World]:
    world = templates["ckks"].copy(tmp_path / "world")
    yield world
    world.close()


def run_with(world: World, point: Point) -> int:
    """Kill the victim at the point in the first attempt at every round; return how often it died.

    The last message, which only hands out the last aggregate, goes undisturbed: see the tests of the last message.
    """
    tried: set[int] = set()
    deaths = 0
    while not world.coordinator.finished:
        assert world.exchanges < 40
        number = world.coordinator._journal.next_round
        last = world.coordinator._state.next_kind() is None
        during = {} if number in tried or last else {VICTIM: point}
        tried.add(number)
        replies = world.exchange(during)
        deaths += VICTIM not in replies
    return deaths


def everybody_counted_once(world: World) -> None:
    for _, aggregate in world.journal():
        assert len(aggregate.counted) == len(world.nodes)
    uploads = [upload for _, aggregate in world.journal() for upload in aggregate.counted]
    assert len(uploads) == len(set(uploads))


@pytest.mark.parametrize("name", INSTITUTION_POINTS)
def test_an_institution_dies(name: str, three: World, undisturbed: dict[str, bytes]) -> None:
    deaths = run_with(three, INSTITUTION_POINTS[name])
    assert deaths >= 4, "the point was not reached"
    three.run()
    assert three.digest() == undisturbed["three"]
    everybody_counted_once(three)


@pytest.mark.parametrize("name", ["before rename 1", "after store 2", "replying"])
def test_an_institution_dies_under_encryption(name: str, ckks: World, undisturbed: dict[str, bytes]) -> None:
    assert run_with(ckks, INSTITUTION_POINTS[name]) >= 3
    ckks.run()
    assert ckks.digest() == undisturbed["ckks"]


@pytest.mark.parametrize("name", INSTITUTION_POINTS)
def test_a_death_is_no_worse_than_a_lost_reply(
    name: str, five: World, templates: dict[str, World], tmp_path: Path
) -> None:
    """The round goes on without the victim; what it trained arrives later, as if its reply had been lost."""
    stored = name in ("replying", "after rename 3", "after store 2", "before folder sync 3")
    reference = templates["five"].copy(tmp_path / "reference")
    for world in (five, reference):
        world.exchange()
    five.exchange({VICTIM: INSTITUTION_POINTS[name]})
    kept = five.record(VICTIM).pending
    assert (kept is not None and kept.round == 1) or not stored
    if kept is not None and kept.round == 1:
        reference.exchange(lost=[VICTIM])
    else:
        reference.exchange(offline=[VICTIM])
    for world in (five, reference):
        world.run()
    assert five.digest() == reference.digest()
    assert len(five.journal()[1][1].counted) == 4
    reference.close()


@pytest.mark.parametrize("name", COORDINATOR_POINTS)
@pytest.mark.parametrize("template", ["three", "ckks"])
def test_the_coordinator_dies_around_journalling(
    name: str, template: str, templates: dict[str, World], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    world = templates[template].copy(tmp_path / "world")
    tried: set[int] = set()
    while not world.coordinator.finished:
        assert world.exchanges < 40
        number = world.coordinator._journal.next_round
        first, generation = number not in tried, world.coordinator_folder
        tried.add(number)
        world.exchange(closing=statement(world, **COORDINATOR_POINTS[name]) if first else nullcontext)
        if first and world.journal()[number:] == []:
            assert world.coordinator_folder != generation or number == len(tried) - 1
    assert world.coordinator_folder.name != "coordinator", "it never died"
    assert world.digest() == undisturbed[template]
    everybody_counted_once(world)
    world.close()


@pytest.mark.parametrize("after", range(4))
def test_the_coordinator_dies_amid_the_replies(after: int, three: World, undisturbed: dict[str, bytes]) -> None:
    while not three.coordinator.finished:
        assert three.exchanges < 20
        for node, request in list(three.coordinator.begin(three.nodes).items())[:after]:
            three.converse(node, request)
        three.kill_coordinator()
        three.exchange()
    assert three.digest() == undisturbed["three"]
    everybody_counted_once(three)


def test_everybody_dies_all_the_time(three: World, undisturbed: dict[str, bytes]) -> None:
    """Flower's own habit: a new process for every message; here a new coordinator, too."""
    while not three.coordinator.finished:
        three.exchange()
        three.kill_coordinator()
        for node in three.nodes:
            three.kill_institution(node)
    assert three.digest() == undisturbed["three"]


@pytest.mark.parametrize(
    "fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.DUPLICATE_REPLY, Fault.DELAY_REPLY, Fault.RAISE]
)
def test_messages_go_wrong_on_the_way(fault: Fault, three: World, undisturbed: dict[str, bytes]) -> None:
    """Over Flower's own messages: the first request of every round to one institution meets the fault."""
    seen: set[object] = set()

    def faults(partition: int, message: object) -> Fault:
        number = message.content["request"]["round"]  # type: ignore[attr-defined]
        key = (partition, number)
        last = not message.content["request"]["kind"]  # type: ignore[attr-defined]
        if partition != VICTIM or key in seen or last:
            return Fault.NONE
        seen.add(key)
        return fault

    with mock.patch("time.sleep", return_value=None):
        run_local(three.coordinator_folder, three.folder / "institutions", 3, faults=faults)
    assert len(seen) >= 5
    three.run()
    assert three.digest() == undisturbed["three"]
    everybody_counted_once(three)


def test_a_reply_that_comes_twice_is_counted_once(three: World, undisturbed: dict[str, bytes]) -> None:
    while not three.coordinator.finished:
        for node, request in three.coordinator.begin(three.nodes).items():
            reply = three.converse(node, request)
            assert three.coordinator.receive(node, reply) is None
            assert three.coordinator.receive(node + 10, reply) is None, "under another node's name"
        three.close_exchange()
    assert three.digest() == undisturbed["three"]
    everybody_counted_once(three)


def test_a_reply_that_comes_a_round_late_is_not_counted(five: World) -> None:
    five.exchange()
    late = five.exchange(lost=[VICTIM])[VICTIM]
    requests = five.coordinator.begin(five.nodes)
    assert five.coordinator.receive(VICTIM, late) is None
    for node, request in requests.items():
        five.converse(node, request)
    five.coordinator.close()
    counted = five.journal()[2][1].counted
    assert len(counted) == 5, "the late reply must not spoil the one of this round"
    five.run()
    five.digest()


@pytest.mark.parametrize("name", ["at once", "before opening", "before store 1", "before rename 1"])
@pytest.mark.parametrize("template", ["three", "five"])
def test_whoever_misses_the_last_message_gets_the_final_model_later(
    name: str, template: str, templates: dict[str, World], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """The institution is back when the operator starts the coordinator again: it must not lack the last round for ever."""
    world = templates[template].copy(tmp_path / "world")
    while world.coordinator._state.next_kind() is not None:
        world.exchange()
    world.exchange({VICTIM: INSTITUTION_POINTS[name]})
    world.run()
    if world.record(VICTIM).shared.round != 5:
        with mock.patch("time.sleep", return_value=None):
            world.close()
            run_local(world.coordinator_folder, world.folder / "institutions", len(world.nodes))
    world.close()
    assert world.digest() == undisturbed[template]


def test_missing_rounds_are_replayed(five: World) -> None:
    five.exchange()
    for _ in range(3):
        five.exchange(offline=[VICTIM, 3])
    assert five.record(VICTIM).shared.round == 0
    five.run()
    five.digest()
    assert [len(aggregate.counted) for _, aggregate in five.journal()] == [5, 3, 3, 3, 5]


def test_a_newcomer_catches_up_from_genesis(five: World) -> None:
    for _ in range(3):
        five.exchange(offline=[VICTIM])
    assert not five.memory(VICTIM).path.exists()
    five.run()
    five.digest()


@pytest.mark.parametrize("what", ["file", "folder", "folder of a living process"])
def test_a_deleted_memory_catches_up_from_genesis(what: str, five: World) -> None:
    for _ in range(3):
        five.exchange()
    before = five.record(VICTIM).shared.digest
    if what == "file":
        five.memory(VICTIM).path.unlink()
    else:
        shutil.rmtree(five.home(VICTIM) / "memory")
    if what == "folder":
        five.kill_institution(VICTIM)
    five.exchange()
    assert five.record(VICTIM).shared.round == five.record(0).shared.round
    assert five.record(VICTIM).shared.digest == five.record(0).shared.digest != before
    five.run()
    five.digest()


def rolled_back(world: World, rounds: int, moment: str) -> bytes:
    """Restore the victim's memory from a backup some rounds old; return the upload that waited in it, if any."""
    backup = world.folder / "backup"
    world.exchange()
    if moment == "with an upload waiting":
        world.exchange()
        shutil.copytree(world.home(VICTIM) / "memory", backup)
    else:
        kept: list[Record] = []
        real = Memory.store

        def store(memory: Memory, record: Record) -> Record:
            stored = real(memory, record)
            if record.pending is None and memory.path == world.memory(VICTIM).path and not kept:
                kept.append(record)
                shutil.copytree(memory.path.parent, backup)
            return stored

        with mock.patch.object(Memory, "store", store):
            world.exchange()
    for _ in range(rounds):
        world.exchange()
    shutil.rmtree(world.home(VICTIM) / "memory")
    shutil.copytree(backup, world.home(VICTIM) / "memory")
    waiting = world.record(VICTIM).pending
    return waiting.upload_id if waiting else b""


@pytest.mark.parametrize("moment", ["with an upload waiting", "between apply and upload"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_memory_two_rounds_old(moment: str, restart: bool, templates: dict[str, World], tmp_path: Path) -> None:
    world = World.found(tiny(federation__participants=5, federation__rounds=6), tmp_path / "world")
    waiting = rolled_back(world, 2, moment)
    if restart:
        world.kill_institution(VICTIM)
    world.run()
    world.digest()
    uploads = [upload for _, aggregate in world.journal() for upload in aggregate.counted]
    assert len(uploads) == len(set(uploads))
    assert not waiting or uploads.count(waiting) == 1
    world.close()


def test_an_old_memory_does_not_deliver_its_residual_again(tmp_path: Path) -> None:
    """Whatever was in the residual of the backup went into uploads that were counted since: it is not owed any more."""
    config = tiny(federation__participants=5, federation__rounds=6, pruning__residual_decay=1.0, pruning__tau=1)
    world = World.found(config, tmp_path / "world")
    sent: dict[bytes, np.ndarray] = {}
    real = Memory.store

    def store(memory: Memory, record: Record) -> Record:
        stored = real(memory, record)
        if record.pending and memory.path == world.memory(VICTIM).path:
            sent[record.pending.upload_id] = record.pending.missed.values - record.pending.counted.values
        return stored

    with mock.patch.object(Memory, "store", store):
        for _ in range(3):
            world.exchange()
        backup = world.folder / "backup"
        shutil.copytree(world.home(VICTIM) / "memory", backup)
        for _ in range(2):
            world.exchange()
        restored = world.home(VICTIM) / "memory"
        shutil.rmtree(restored)
        shutil.copytree(backup, restored)
        world.kill_institution(VICTIM)
        held = world.record(VICTIM)
        assert held.pending is not None
        # Catch up only, so that nothing new is trained: what is owed afterwards was either never sent, or is zero.
        requests = world.coordinator.begin(world.nodes)
        with mock.patch("dictpfl.client.uploading.train", side_effect=JournalError("no training now")):
            world.converse(VICTIM, requests[VICTIM])
    after = world.record(VICTIM)
    assert after.shared.digest == world.record(0).shared.digest or after.shared.round == 5
    later = [a.counted for _, a in world.journal()[held.pending.round + 1 :]]
    delivered = [sent[u] for counted in later for u in counted if u in sent]
    assert len(delivered) == 2
    owed = held.pending.counted.values
    again = (owed != 0) & (after.residual.values == owed) & (delivered[0] != 0)
    assert not again.any(), f"{again.sum()} coordinates were delivered and are owed all the same"
    world.close()


def test_an_older_journal_is_refused_by_name_and_nothing_is_lost(five: World, templates: dict[str, World]) -> None:
    five.exchange()
    five.exchange()
    older = five.folder / "older"
    shutil.copytree(five.coordinator_folder, older)
    for _ in range(2):
        five.exchange()
    newest, memories = five.coordinator_folder, [five.memory(n).path.read_bytes() for n in five.nodes]
    five.close()
    five.coordinator_folder = older
    with structlog.testing.capture_logs() as logs:
        replies = five.exchange()
    assert {(reply.status, reply.code) for reply in replies.values()} == {(Status.REFUSED, "round")}
    assert len(five.journal()) == 2, "the round must not be closed a second time"
    assert {entry["reason"] for entry in logs if entry["event"] == "institution skipped"} == {"ahead-of-journal"}
    assert [five.memory(n).path.read_bytes() for n in five.nodes] == memories
    five.close()
    five.coordinator_folder = newest
    five.run()
    reference = templates["five"].copy(five.folder / "reference")
    reference.run()
    assert five.digest() == reference.digest()
    reference.close()


def test_a_journal_that_lost_its_last_round_forks_nothing_silently(five: World) -> None:
    """Some institutions hold the lost round, others do not: those who do refuse what is closed instead of it."""
    five.exchange()
    older = five.folder / "older"
    five.close()
    shutil.copytree(five.coordinator_folder, older)
    five.exchange(offline=[4])
    requests = five.coordinator.begin([0])
    five.converse(0, requests[0])
    ahead = five.record(0).shared
    assert ahead.round == 2
    five.close()
    five.coordinator_folder = older
    five.exchange()
    for _ in range(2):
        replies = five.exchange()
    assert replies[0].status is Status.REFUSED
    assert replies[0].code == "drift"
    assert five.record(0).shared.digest == ahead.digest
    assert len({five.record(node).shared.digest for node in (1, 2, 3, 4)}) == 1
    # All of its memory: the record of what it opened holds the round that was lost, and lets no other sum of it pass.
    shutil.rmtree(five.home(0) / "memory")
    five.run()
    five.digest()


def test_one_bit_of_shared_state_is_detected(five: World) -> None:
    five.exchange()
    five.exchange()
    record = five.record(VICTIM)
    values = record.shared.values.copy()
    values.view(np.int64)[0] ^= 1
    five.memory(VICTIM).store(replace(record, shared=replace(record.shared, values=values), pending=None))
    held = five.record(VICTIM).shared.digest
    # Its memory is of round 1: the aggregate of round 1 was made from another state.
    reply = five.exchange()[VICTIM]
    assert (reply.status, reply.code) == (Status.REFUSED, "drift")
    assert five.record(VICTIM).shared.digest == held
    assert len(five.journal()[2][1].counted) == 4, "the others' round goes on"
    five.memory(VICTIM).path.unlink()
    five.run()
    five.digest()


def test_a_drifted_upload_is_not_added(five: World) -> None:
    """Drift after the aggregate was applied: the upload carries another tag, and is left out of the sum."""
    five.exchange()
    number = five.coordinator._journal.next_round
    requests = five.coordinator.begin(five.nodes)
    (aggregate,) = five.coordinator._journal.aggregates(0)
    institution = five.institution(VICTIM)
    settle = Request(1, None, requests[0].federation, requests[0].fingerprint, (aggregate,))
    assert institution.handle(settle).status is Status.SETTLED
    record = five.record(VICTIM)
    ranges = record.shared.ranges.copy()
    ranges.view(np.int64)[-1] ^= 1
    five.memory(VICTIM).store(replace(record, shared=replace(record.shared, ranges=ranges)))
    with structlog.testing.capture_logs() as logs:
        replies = five.exchange()
    assert replies[VICTIM].status is Status.UPLOAD
    assert [e["node"] for e in logs if e.get("reason") == "drift"] == [VICTIM]
    assert len(five.journal()[number][1].counted) == 4
    replies = five.exchange()
    assert (replies[VICTIM].status, replies[VICTIM].code) == (Status.REFUSED, "drift")
    five.memory(VICTIM).path.unlink()
    five.run()
    five.digest()


def test_the_journal_says_of_nobody_in_the_sum_that_it_was_rejected(five: World) -> None:
    requests = five.coordinator.begin(five.nodes)
    for node, request in requests.items():
        reply = five.converse(node, request)
        five.coordinator.receive(node, reply)
    five.coordinator.close()
    (closed,) = five.coordinator._journal.rounds()
    assert len(five.journal()[0][1].counted) == 5
    assert dict(closed.rejected) == {}


SAME_TIME = """
import sys
from pathlib import Path
from dictpfl.client.institution import Institution
from dictpfl.common.messages.protocol import Request, RoundKind
institution = Path(sys.argv[1])
institution = Institution(institution)
request = Request(0, RoundKind.UPDATE, institution._genesis.federation, institution._genesis.fingerprint)
sys.stdin.read(1)
sys.stdout.buffer.write(institution.handle(request).blob)
"""


def test_two_processes_of_one_institution(three: World) -> None:
    """A message that timed out may still be at work when the next process starts: one upload, given twice."""
    command = [sys.executable, "-P", "-c", SAME_TIME, str(three.home(0))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) for _ in range(2)
    ]
    try:
        outputs = [b"", b""]

        def talk(index: int) -> None:
            outputs[index] = processes[index].communicate(b"x", timeout=60)[0]

        threads = [threading.Thread(target=talk, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert outputs[0]
    assert outputs[0] == outputs[1]
    pending = three.record(0).pending
    assert pending is not None
    assert pending.blob in outputs[0]


def test_one_waits_for_the_other(three: World) -> None:
    """The lock is held from reading memory to the reply."""
    entered, order = threading.Event(), []

    def other() -> None:
        entered.wait(10)
        with three.memory(0).locked():
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()

    @contextmanager
    def slowly() -> Iterator[None]:
        real = dictpfl.client.memory.record.replace_private

        def write(path: Path, data: bytes) -> None:
            entered.set()
            threading.Event().wait(0.2)
            real(path, data)
            order.append("stored")

        with mock.patch.object(dictpfl.client.memory.record, "replace_private", write):
            yield

    three.exchange({0: slowly})
    thread.join(10)
    assert order == ["stored", "other"]


@pytest.mark.parametrize("count", [1, 2])
def test_an_institutions_disk_is_full(count: int, three: World, undisturbed: dict[str, bytes]) -> None:
    three.exchange()
    before = three.memory(VICTIM).path.read_bytes()

    @contextmanager
    def nearly_full() -> Iterator[None]:
        real, calls = dictpfl.client.memory.record.replace_private, []

        def write(path: Path, data: bytes) -> None:
            calls.append(path)
            if len(calls) >= count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(path, data)

        with mock.patch.object(dictpfl.client.memory.record, "replace_private", write):
            yield

    reply = three.exchange({VICTIM: nearly_full})[VICTIM]
    assert (reply.status, reply.code) == (Status.REFUSED, "memory")
    if count == 1:
        assert three.memory(VICTIM).path.read_bytes() == before
    three.run()
    assert three.digest() == undisturbed["three"]
    everybody_counted_once(three)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_the_disk_fails_within_a_write(call: str, three: World, undisturbed: dict[str, bytes]) -> None:
    three.exchange()
    reply = three.exchange({VICTIM: lambda: full_disk(dictpfl.common.files.os, call)})[VICTIM]
    assert (reply.status, reply.code) == (Status.REFUSED, "memory")
    assert [p.name for p in (three.home(VICTIM) / "memory").iterdir() if p.name.startswith(".")] == []
    three.run()
    assert three.digest() == undisturbed["three"]


def test_a_full_disk_at_the_journal(three: World, undisturbed: dict[str, bytes]) -> None:
    three.exchange()
    for node, request in three.coordinator.begin(three.nodes).items():
        three.converse(node, request)
    with journal_full(three), pytest.raises(JournalError, match="full"):
        three.coordinator.close()
    assert len(three.journal()) == 1
    three.run()
    assert three.digest() == undisturbed["three"]
    everybody_counted_once(three)


def test_all_reasons_leave_as_codes_only(three: World) -> None:
    """Nothing but a word of the agreed vocabulary leaves an institution that refuses."""
    request = three.coordinator.begin([0])[0]
    with full_disk(dictpfl.client.memory.record, "replace_private"):
        reply: Reply = three.institution(0).handle(request)
    assert reply == Reply(Status.REFUSED, 0, 0, b"", "memory")
    assert request.kind is RoundKind.UPDATE
