"""A journal that was lost, and institutions that are late, copied, slow, or whose clock is wrong."""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import structlog

from dictpfl.common.errors import EngineError, RoundError
from dictpfl.common.messages.protocol import Status
from dictpfl.deploy.operations.status import of_institution
from dictpfl.deploy.simulation.local import run_local
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, JOURNAL
from dictpfl.server.exchanges.restart import likely_round
from dictpfl.server.troubles import trouble
from tests.support.federations import encrypted, tiny
from tests.support.harness import World

pytestmark = pytest.mark.usefixtures("quiet")
VICTIM = 1


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    folder = tmp_path_factory.mktemp("templates")
    return {
        "three": World.found(tiny(), folder / "three"),
        "five": World.found(tiny(federation__participants=5), folder / "five"),
        "ckks": World.found(encrypted(), folder / "ckks"),
    }


def lose_journal(world: World) -> list[tuple[int, bytes]]:
    """The coordinator is set up anew from its half of genesis; returns round and id of each upload that was counted by then."""
    counted = [(aggregate.round, upload) for _, aggregate in world.journal() for upload in aggregate.counted]
    world.close()
    world._generation += 1
    fresh = world.folder / f"coordinator-new-{world._generation}"
    fresh.mkdir(mode=0o700)
    shutil.copy(world.coordinator_folder / AGREEMENT, fresh / AGREEMENT)
    world.coordinator_folder = fresh
    return counted


def counted_once(world: World, before: list[tuple[int, bytes]]) -> None:
    """The sum that institutions applied last is in both journals, of the same round."""
    after = [(a.round, u) for a in world.coordinator._journal.acknowledgements(0, 99) for u in a.counted]
    counted = set(before + after)
    assert len(counted) == len({upload for _, upload in counted}), "an upload was counted twice"


# a journal that was lost


@pytest.mark.parametrize("template", ["three", "ckks"])
@pytest.mark.parametrize("rounds", range(2, 6))
def test_a_lost_journal(
    template: str, rounds: int, templates: dict[str, World], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """The federation goes on from the state that its institutions hold, as if nothing had happened."""
    world = templates[template].copy(tmp_path / "world")
    for _ in range(rounds):
        world.exchange()
    position = world.record(0).shared.round
    assert position == rounds - 1
    before = lose_journal(world)
    world.run()
    assert world.digest() == undisturbed[template]
    assert list(world.coordinator._journal.snapshots()) == [position]
    assert world.coordinator._journal.next_round == 5
    # The last closed round was not handed out when the journal was lost: it is closed again, of the same uploads.
    again = [(a.round, u) for a in world.coordinator._journal.acknowledgements(0, 99) for u in a.counted]
    lost = [u for u in before if u not in again]
    assert len(set(before + again)) == len(lost + again)
    assert len(set(lost) & set(again)) == 0
    world.close()


def test_a_lost_journal_of_a_finished_federation(three: World, undisturbed: dict[str, bytes]) -> None:
    """Nothing is added: the last sum, which measured the final model, comes back from those who applied it."""
    three.run()
    before, values = lose_journal(three), three.record(0).shared.values
    three.run()
    counted_once(three, before)
    np.testing.assert_array_equal(three.record(0).shared.values, values)
    assert three.record(0).shared.updates == 4
    three.digest()


def test_over_flowers_messages(three: World, undisturbed: dict[str, bytes]) -> None:
    for _ in range(3):
        three.exchange()
    lose_journal(three)
    with mock.patch("time.sleep", return_value=None):
        run_local(three.coordinator_folder, three.folder / "institutions", 3)
    assert three.digest() == undisturbed["three"]


def test_one_that_was_behind_begins_as_a_newcomer_once_its_operator_says_so(five: World) -> None:
    """With the journal went the list of the uploads that its memory would have to be led on by."""
    for _ in range(2):
        five.exchange()
    for _ in range(2):
        five.exchange(offline=[VICTIM])
    assert [five.record(n).shared.round for n in five.nodes] == [3, 1, 3, 3, 3]
    before = lose_journal(five)
    for _ in range(3):
        replies = five.exchange()
    assert (replies[VICTIM].status, replies[VICTIM].code) == (Status.REFUSED, "drift")
    assert five.record(VICTIM).shared.round == 1
    assert "move memory/*.safetensors away" in (five.home(VICTIM) / "diary.jsonl").read_text()
    five.memory(VICTIM).path.unlink()
    five.run()
    five.digest()
    counted_once(five, before)
    lines = [json.loads(line) for line in (five.home(VICTIM) / "diary.jsonl").read_text().splitlines()]
    (jump,) = [line for line in lines if line["event"] == "jumped"]
    # Nobody can tell any more whether its upload of round 1 was counted: it is not delivered a second time.
    assert (jump["round"], jump["skipped"], jump["given_up"]) == (3, 3, False)


def test_a_newcomer_among_those_who_hold_the_state(five: World) -> None:
    for _ in range(3):
        five.exchange(offline=[VICTIM])
    lose_journal(five)
    five.run()
    five.digest()


@pytest.mark.parametrize("moment", ["asking", "agreeing", "first round"])
def test_the_coordinator_dies_while_it_restarts(moment: str, three: World, undisturbed: dict[str, bytes]) -> None:
    for _ in range(3):
        three.exchange()
    lose_journal(three)
    three.exchange()
    if moment == "asking":
        three.kill_coordinator()
    elif moment == "agreeing":
        for node, request in three.coordinator.begin(three.nodes).items():
            three.converse(node, request)
        three.kill_coordinator()
    else:
        three.exchange()
        assert three.coordinator._journal.next_round == 2
        three.kill_coordinator()
    three.run()
    assert three.digest() == undisturbed["three"]


def test_an_old_copy_of_the_journal(three: World, undisturbed: dict[str, bytes]) -> None:
    three.exchange()
    three.exchange()
    three.kill_coordinator()
    older = three.folder / "older"
    shutil.copytree(three.coordinator_folder, older)
    three.exchange()
    three.exchange()
    three.close()
    three.coordinator_folder = older
    three.run()
    assert three.digest() == undisturbed["three"]
    assert [a.round for a in three.coordinator._journal.acknowledgements(0, 99)] == [0, 1, 2, 3, 4]
    assert three.coordinator._journal.oldest == 0, "the sum that the copy lacked came from those who had applied it"


def test_a_few_that_are_ahead_do_not_drag_the_others_along(five: World) -> None:
    """A federation that was begun again on purpose, and one institution that kept its old memory."""
    for _ in range(3):
        five.exchange()
    lose_journal(five)
    for node in (0, 2, 3, 4):
        shutil.rmtree(five.home(node) / "memory")
        five.kill_institution(node)
    with structlog.testing.capture_logs() as logs:
        replies = five.exchange()
    assert (replies[VICTIM].status, replies[VICTIM].code) == (Status.REFUSED, "round")
    assert any("restore" in str(entry.get("reason")) for entry in logs), "it says what to do"
    assert five.coordinator._journal.next_round == 1
    assert len(five.journal_of(0).counted) == 4


def test_where_they_do_not_agree_nothing_is_restarted(three: World) -> None:
    """Half of those ahead hold another state: a person has to look, and is told so."""
    for _ in range(3):
        three.exchange()
    lose_journal(three)
    for node in (1, 2):
        record = three.record(node)
        values = record.shared.values.copy()
        values[node] += 1.0
        three.memory(node).store(replace(record, shared=replace(record.shared, values=values)))
    with (
        structlog.testing.capture_logs() as logs,
        mock.patch("time.sleep", return_value=None),
        pytest.raises(EngineError, match="ahead-of-journal"),
    ):
        run_local(three.coordinator_folder, three.folder / "institutions", 3)
    assert any("did not agree on one" in entry["event"] for entry in logs)
    assert three.coordinator._journal.next_round == 0
    assert three.coordinator._journal.snapshots() == {}


def test_one_drifted_institution_does_not_decide(five: World) -> None:
    for _ in range(3):
        five.exchange()
    lose_journal(five)
    record = five.record(0)
    values = record.shared.values.copy()
    values[0] += 1.0
    five.memory(0).store(replace(record, shared=replace(record.shared, values=values), pending=None))
    five.run()
    assert len({five.record(n).shared.digest for n in (1, 2, 3, 4)}) == 1
    assert {five.record(n).shared.updates for n in (1, 2, 3, 4)} == {4}
    assert five.record(0).shared.round == 2
    assert five.coordinator._journal.rounds(2)[0].rejected == {"0": "drift"}


def test_one_that_claims_the_highest_round_does_not_decide(five: World) -> None:
    """All but one hold the state of a round; that one says it is further, and would have all others take its state."""
    for _ in range(3):
        five.exchange()
    lose_journal(five)
    record, honest = five.record(0), five.record(1).shared
    values = record.shared.values.copy()
    values[0] += 1.0
    ahead = replace(record.shared, round=record.shared.round + 2, values=values)
    five.memory(0).store(replace(record, shared=ahead, pending=None))
    with structlog.testing.capture_logs() as logs:
        five.exchange()
        five.exchange()
    going_on = [entry["round"] for entry in logs if entry["event"] == "going on from the institutions' state"]
    assert going_on == [honest.round]
    assert five.record(1).shared.digest == honest.digest


def test_whose_state_is_asked_for_first() -> None:
    """A guess alone: what is gone on from is decided by all headers."""
    assert likely_round({1: 8, 2: 8, 3: 7}) == 8
    assert likely_round({1: 8, 2: 7, 3: 7}) == 8, "the others lack one sum"
    assert likely_round({1: 99, 2: 7, 3: 7, 4: 7, 5: 6}) == 7
    assert likely_round({1: 9, 2: 7}) == 9


def test_in_a_deployment_the_operator_says_from_which_round(three: World, undisturbed: dict[str, bytes]) -> None:
    """The journal was lost: nothing goes on before the operator has named a round, and no text names one for him."""
    for _ in range(3):
        three.exchange()
    lose_journal(three)
    path = three.coordinator_folder / AGREEMENT
    words = {of_institution(three.home(node))["state_words"] for node in three.nodes}
    assert len(words) == 1
    for allowed in (0, 1):
        replace(Agreement.load(path), restart_from=allowed).save(path)
        with pytest.raises(RoundError, match="--from-institutions ROUND --digest WORDS") as stop:
            three.run()
        assert str(stop.value).count(f": round 2, {words.copy().pop()}") == 3
        assert three.coordinator._journal.next_round == 0
        assert trouble(three.coordinator._journal) == str(stop.value)
        three.close()
    replace(Agreement.load(path), restart_from=2).save(path)
    three.run()
    assert three.digest() == undisturbed["three"]
    assert trouble(three.coordinator._journal) == ""


def test_who_holds_another_state_is_not_said_to_hold_it(five: World) -> None:
    for _ in range(2):
        five.exchange()
    for _ in range(2):
        five.exchange(offline=[VICTIM])
    lose_journal(five)
    path = five.coordinator_folder / AGREEMENT
    replace(Agreement.load(path), restart_from=0).save(path)
    with pytest.raises(RoundError) as stop:
        five.run()
    held = dict(re.findall(r"^  (.*): round (\d+), ", str(stop.value), re.MULTILINE))
    assert sorted(held.values()) == ["1", "3", "3", "3", "3"]


def test_no_round_closes_beside_institutions_that_are_ahead(five: World) -> None:
    """Two are in step with the old journal, three ahead: the two would be enough for a sum, and go another way."""
    path = five.coordinator_folder / AGREEMENT
    replace(Agreement.load(path), restart_from=0, min_participants=2).save(path)
    for _ in range(3):
        five.exchange(offline=[0, 1])
    lose_journal(five)
    with pytest.raises(RoundError, match="--from-institutions ROUND"):
        five.run()
    assert five.coordinator._journal.next_round == 0


def test_a_coordinator_of_an_older_release_restarts_nothing(three: World) -> None:
    for _ in range(3):
        three.exchange()
    lose_journal(three)
    path = three.coordinator_folder / AGREEMENT
    replace(Agreement.load(path), snapshot_length=0).save(path)
    with structlog.testing.capture_logs() as logs:
        three.exchange()
        three.exchange()
    assert three.coordinator._journal.next_round == 0
    assert any("restore the newest journal" in entry["event"] for entry in logs)
    assert (three.coordinator_folder / JOURNAL).exists()


# institutions


def test_one_that_first_appears_at_round_20(tmp_path: Path) -> None:
    world = World.found(tiny(federation__participants=4, federation__rounds=22), tmp_path / "world")
    path = world.coordinator_folder / AGREEMENT
    replace(Agreement.load(path), snapshot_every=8, snapshots_kept=2).save(path)
    for _ in range(20):
        world.exchange(offline=[VICTIM])
    world.run()
    world.digest()
    assert [len(a.counted) for a in world.coordinator._journal.acknowledgements(0, 99)] == [3] * 20 + [4] * 3
    world.close()


@pytest.mark.parametrize("every", [0, 4])
def test_one_that_misses_rounds_5_to_9(every: int, tmp_path: Path) -> None:
    """By replay, or by a snapshot where its rounds were dropped: the same model."""
    world = World.found(tiny(federation__participants=4, federation__rounds=12), tmp_path / "world")
    path = world.coordinator_folder / AGREEMENT
    replace(Agreement.load(path), snapshot_every=every, snapshots_kept=1).save(path)
    for number in range(10):
        world.exchange(offline=[VICTIM] if number >= 5 else [])
    world.run()
    world.digest()
    assert [len(a.counted) for a in world.coordinator._journal.acknowledgements(0, 99)] == [4] * 5 + [3] * 5 + [4] * 3
    world.close()


def test_one_that_is_slow_for_ever_is_told_so(five: World, tmp_path: Path) -> None:
    """Its answers come after the deadline, every time: it sees that, by how much, and what to do."""
    real, clock = time.perf_counter, {"skew": 0.0}
    deadline = five.genesis.config.federation.deadline_seconds

    def slow_training(*arguments: object, **options: object) -> object:
        from dictpfl.client.training.train import train

        clock["skew"] += deadline + 90.0
        return train(*arguments, **options)  # type: ignore[arg-type]

    with (
        structlog.testing.capture_logs() as logs,
        mock.patch("time.perf_counter", side_effect=lambda: real() + clock["skew"]),
        mock.patch("dictpfl.client.uploading.train", slow_training),
    ):
        for _ in range(4):
            five.exchange(lost=[VICTIM])
    told = [e for e in logs if e["event"] == "this institution's upload is not in the sum"]
    assert [e["round"] for e in told] == [0, 1, 2]
    assert all(90.0 <= e["late_seconds"] < 100.0 for e in told)
    assert "raise deadline_seconds" in told[0]["meaning"]
    delivery = of_institution(five.home(VICTIM))["delivery"]
    assert (delivery["counted"], delivery["missed"], delivery["missed_in_a_row"]) == (0, 3, 3)
    assert delivery["last_missed"]["round"] == 2
    assert "late by 9" in delivery["last_missed"]["meaning"]
    fine = of_institution(five.home(0))["delivery"]
    assert (fine["counted"], fine["missed"]) == (3, 0)

    five.run()
    delivery = of_institution(five.home(VICTIM))["delivery"]
    assert (delivery["missed"], delivery["missed_in_a_row"]) == (4, 0), "in time again"
    five.digest()


def test_a_lost_reply_is_not_called_late(five: World) -> None:
    five.exchange()
    five.exchange(lost=[VICTIM])
    five.exchange()
    last = of_institution(five.home(VICTIM))["delivery"]["last_missed"]
    assert "late_seconds" not in last
    assert "lost or held up on the way" in last["meaning"]


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_is_wrong_by_a_day(days: int, three: World, undisturbed: dict[str, bytes]) -> None:
    real = time.time
    for _ in range(2):
        with mock.patch("dictpfl.client.memory.diary.time.time", side_effect=lambda: real() + days * 86400):
            three.exchange()
        three.kill_institution(VICTIM)
    three.run()
    assert three.digest() == undisturbed["three"]


def test_a_backup_and_the_living_at_the_same_time_count_once(five: World, tmp_path: Path) -> None:
    """Two machines of one institution, under two node ids: one upload of it in the sum, whoever is first."""
    five.exchange()
    copy = tmp_path / "copy"
    shutil.copytree(five.home(VICTIM), copy)
    from dictpfl.client.institution import Institution

    other = Institution(copy)
    with structlog.testing.capture_logs() as logs:
        for node, request in five.coordinator.begin([*five.nodes, 77]).items():
            if node == 77:
                continue
            five.converse(node, request)
            if node == VICTIM:
                reply = other.handle(request)
                assert reply.status is Status.UPLOAD
                five.coordinator.receive(77, reply)
        five.coordinator.close()
    assert [e["code"] for e in logs if e["event"] == "upload rejected"] == ["wrong-member"]
    assert len(five.journal_of(1).counted) == 5
    five.run()
    five.digest()


def test_a_backup_never_sends_its_old_upload_for_a_newer_round(five: World, tmp_path: Path) -> None:
    """Nor, for the round that it was made for, when that is closed; and the same round has the same content."""
    five.exchange()
    five.exchange()
    backup = tmp_path / "backup"
    shutil.copytree(five.home(VICTIM) / "memory", backup)
    waiting = five.record(VICTIM).pending
    assert waiting is not None
    five.exchange()
    five.exchange()
    shutil.rmtree(five.home(VICTIM) / "memory")
    shutil.copytree(backup, five.home(VICTIM) / "memory")
    five.kill_institution(VICTIM)
    replies = five.exchange()
    assert replies[VICTIM].status is Status.UPLOAD
    assert waiting.blob not in replies[VICTIM].blob
    after = five.record(VICTIM).pending
    assert after is not None
    assert after.round == 4
    assert after.upload_id != waiting.upload_id
    # The round is asked again before it is closed: the very same bytes, also from another process.
    requests = five.coordinator.begin(five.nodes)
    first = five.converse(VICTIM, requests[VICTIM])
    five.kill_institution(VICTIM)
    assert five.institution(VICTIM).handle(replace(requests[VICTIM], aggregates=())) == first


def test_a_new_machine_with_the_bundle_only(tmp_path: Path) -> None:
    """No memory, and rounds that are not kept any more: a snapshot, and bit-equal."""
    world = World.found(encrypted(federation__rounds=9), tmp_path / "world")
    path = world.coordinator_folder / AGREEMENT
    replace(Agreement.load(path), snapshot_every=2, snapshots_kept=2).save(path)
    for _ in range(7):
        world.exchange()
    shutil.rmtree(world.home(VICTIM) / "memory")
    (world.home(VICTIM) / "diary.jsonl").unlink()
    world.kill_institution(VICTIM)
    assert world.coordinator._journal.oldest > 0
    world.run()
    world.digest()
    events = [json.loads(line)["event"] for line in (world.home(VICTIM) / "diary.jsonl").read_text().splitlines()]
    assert events[0] == "jumped"
    world.close()
