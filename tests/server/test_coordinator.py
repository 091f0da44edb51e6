"""The coordinator by itself: what it asks, what it folds, what it refuses, and what it never says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import structlog

from dictpfl.common.ckks.opening import IdentityOpener
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.sealing import NO_SEED, IdentitySealer
from dictpfl.common.errors import ConfigError, JournalError
from dictpfl.common.messages.protocol import Reply, RoundKind, Status
from dictpfl.common.messages.wire import AGGREGATE, UPLOAD, Blob, Entry, Header, Limits, with_words, write
from dictpfl.common.protection import Encryption
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, Coordinator
from dictpfl.server.recording import EVENTS, RECORDING, open_coordinator

PARAMETERS = CKKSParameters.choose(Encryption(), 5)
SEALER = IdentitySealer(PARAMETERS)
COMPONENTS = 40
LIMITS = Limits(
    b"f" * 32, SEALER.fingerprint, PARAMETERS.word_bits, max_words=2 * COMPONENTS, max_clear=0, max_contributors=5
)
TAG, OTHER = b"t" * 32, b"o" * 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = Agreement(PARAMETERS, False, LIMITS, 2, 0, 3, 60.0, ("nothing is encrypted",))
    made.save(tmp_path / AGREEMENT)
    return tmp_path


@pytest.fixture
def coordinator(folder: Path) -> Iterator[Coordinator]:
    made = Coordinator.open(folder)
    yield made
    made.close_journal()


def blob(
    number: int, value: int, kind: RoundKind = RoundKind.UPDATE, *, tag: bytes = TAG, mark: int = 0, member: int = -1,
    size: int = COMPONENTS, attempt: int = 0,
) -> bytes:  # fmt: skip
    header = Header(UPLOAD, kind, number, attempt, LIMITS.federation, LIMITS.fingerprint, tag)
    entry = Entry(value if member < 0 else member, bytes([number, mark or value]) * 8, NO_SEED)
    components = np.zeros(size, dtype=np.int64)
    components[:3] = value
    return write(header, [entry], SEALER.seal(components).words, LIMITS.word_bits)


def upload(number: int, value: int, kind: RoundKind = RoundKind.UPDATE, **options: object) -> Reply:
    return Reply(Status.UPLOAD, number, number, blob(number, value, kind, **options))  # type: ignore[arg-type]


def play(coordinator: Coordinator, values: list[int]) -> None:
    requests = coordinator.begin(range(len(values)))
    for node, request in requests.items():
        assert request.kind is not None
        coordinator.receive(node, upload(request.round, values[node], request.kind, member=node))
    coordinator.close()


def opened(coordinator: Coordinator, number: int, kind: RoundKind = RoundKind.UPDATE) -> tuple[list[int], Blob]:
    (aggregate,) = [a for a in coordinator._journal.aggregates(0) if a.round == number]
    parsed = Blob.parse(aggregate.blob, LIMITS, direction=AGGREGATE, kind=kind, round=number)
    return IdentityOpener(PARAMETERS).open(parsed.words(), [], parsed.header.words)[:4].tolist(), parsed


def test_a_federation_from_beginning_to_end(coordinator: Coordinator) -> None:
    play(coordinator, [1, 2, 3])
    play(coordinator, [4, 5, 6])
    assert not coordinator.finished
    requests = coordinator.begin([0, 1, 2])
    assert {r.kind for r in requests.values()} == {RoundKind.MEASURE}
    for node in requests:
        coordinator.receive(node, upload(2, node + 7, RoundKind.MEASURE, member=node))
    coordinator.close()
    assert not coordinator.finished
    requests = coordinator.begin([0, 1, 2])
    assert {(r.kind, r.round) for r in requests.values()} == {(None, 3)}
    for node in requests:
        coordinator.receive(node, Reply(Status.SETTLED, 3, 3))
    coordinator.close()
    assert coordinator.finished
    assert [opened(coordinator, n)[0] for n in (0, 1)] == [[6, 6, 6, 0], [15, 15, 15, 0]]
    assert opened(coordinator, 2, RoundKind.MEASURE)[1].header.contributors == 3


def test_nobody_is_asked_without_an_agreement(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Coordinator.open(tmp_path)


def test_a_new_process_goes_on(folder: Path, coordinator: Coordinator) -> None:
    play(coordinator, [1, 2, 3])
    second = Coordinator.open(folder)
    (request,) = second.begin([7]).values()
    assert request.round == 1
    assert [aggregate.round for aggregate in request.aggregates] == [0]
    second.close_journal()


def test_too_few_uploads_ask_the_round_again(coordinator: Coordinator) -> None:
    play(coordinator, [1, 2])
    assert coordinator._journal.next_round == 0
    assert {r.round for r in coordinator.begin([0, 1, 2]).values()} == {0}


def test_nothing_of_a_refused_round_is_in_the_next(coordinator: Coordinator) -> None:
    play(coordinator, [100, 200])
    play(coordinator, [1, 2, 3])
    assert opened(coordinator, 0)[0] == [6, 6, 6, 0]


def test_who_is_behind_gets_what_it_lacks(coordinator: Coordinator) -> None:
    play(coordinator, [1, 2, 3])
    play(coordinator, [1, 2, 3])
    coordinator.begin([0, 9])
    further = coordinator.receive(9, Reply(Status.BEHIND, 2, 0))
    assert further is not None
    assert [aggregate.round for aggregate in further.aggregates] == [0, 1]
    assert coordinator.receive(9, Reply(Status.BEHIND, 2, 2)) is None, "it lacks nothing"


def test_who_is_ahead_is_left_out(coordinator: Coordinator) -> None:
    coordinator.begin([0, 1, 2])
    with structlog.testing.capture_logs() as logs:
        assert coordinator.receive(0, Reply(Status.BEHIND, 0, 5)) is None
        assert coordinator.receive(1, replace(upload(0, 3), position=4)) is None
    assert [entry["reason"] for entry in logs] == ["ahead-of-journal"] * 2


def beyond(data: bytes) -> bytes:
    """The upload with a word that is no residue of the prime, and a digest that fits."""
    parsed = Blob.own(data, LIMITS.word_bits)
    words = parsed.words()
    words[5] = PARAMETERS.word_prime
    return with_words(parsed, words)


BAD = {
    "another round": upload(1, 1),
    "another kind": upload(0, 1, RoundKind.MEASURE),
    "no blob": Reply(Status.UPLOAD, 0, 0, b""),
    "cut off": Reply(Status.UPLOAD, 0, 0, blob(0, 1)[:-1]),
    "too long": Reply(Status.UPLOAD, 0, 0, blob(0, 1) + b"x"),
    "altered": Reply(Status.UPLOAD, 0, 0, blob(0, 1)[:-1] + b"x"),
    "too many words": Reply(Status.UPLOAD, 0, 0, blob(0, 1, size=2 * COMPONENTS + 1)),
    "another attempt": Reply(Status.UPLOAD, 0, 0, blob(0, 1, attempt=1)),
    "a word beyond the prime": Reply(Status.UPLOAD, 0, 0, beyond(blob(0, 1))),
    "settled": Reply(Status.SETTLED, 0, 0),
    "refused": Reply(Status.REFUSED, 0, 0, code="drift"),
    "behind nothing": Reply(Status.BEHIND, 0, 0),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_spoils_nothing(name: str, coordinator: Coordinator) -> None:
    coordinator.begin([0, 1, 2, 3])
    assert coordinator.receive(0, BAD[name]) is None
    for node in (1, 2, 3):
        coordinator.receive(node, upload(0, node))
    coordinator.close()
    assert opened(coordinator, 0)[0] == [6, 6, 6, 0]


def test_another_plan_is_not_added(coordinator: Coordinator) -> None:
    coordinator.begin([0, 1, 2, 3])
    for node in (1, 2, 3):
        coordinator.receive(node, upload(0, node))
    coordinator.receive(0, upload(0, 9, size=2 * COMPONENTS))
    coordinator.close()
    assert opened(coordinator, 0)[0] == [6, 6, 6, 0]


def test_the_larger_group_in_step_counts(coordinator: Coordinator) -> None:
    """Whoever comes first: one institution that fell out of step spoils nothing."""
    coordinator.begin(range(5))
    coordinator.receive(0, upload(0, 50, tag=OTHER))
    for node in (1, 2, 3):
        coordinator.receive(node, upload(0, node))
    coordinator.receive(4, upload(0, 60, tag=OTHER))
    coordinator.close()
    values, parsed = opened(coordinator, 0)
    assert values == [6, 6, 6, 0]
    assert parsed.header.state_tag == TAG
    (closed,) = coordinator._journal.rounds()
    assert dict(closed.rejected) == {"0": "drift", "4": "drift"}


def test_groups_that_are_all_too_small_close_nothing(coordinator: Coordinator) -> None:
    coordinator.begin(range(5))
    for node, tag in enumerate([TAG, OTHER, TAG, OTHER, b"x" * 32]):
        coordinator.receive(node, upload(0, node + 1, tag=tag))
    coordinator.close()
    assert coordinator._journal.next_round == 0


def test_one_upload_under_two_names_is_counted_once(coordinator: Coordinator) -> None:
    """A restarted institution may come back under another node id."""
    coordinator.begin(range(4))
    for node in (0, 1, 2):
        coordinator.receive(node, upload(0, node + 1, member=node))
    coordinator.receive(3, upload(0, 1))
    coordinator.close()
    assert opened(coordinator, 0)[0] == [6, 6, 6, 0]


def test_rejected_means_not_in_the_sum(coordinator: Coordinator) -> None:
    coordinator.begin(range(3))
    for node in range(3):
        coordinator.receive(node, upload(0, node + 1, member=node))
    coordinator.receive(1, upload(0, 2))
    coordinator.close()
    (closed,) = coordinator._journal.rounds()
    assert dict(closed.rejected) == {}


def test_no_more_are_asked_than_a_sum_may_hold(coordinator: Coordinator) -> None:
    assert sorted(coordinator.begin(range(9))) == [0, 1, 2, 3, 4]


def test_answers_before_and_after_an_exchange_change_nothing(coordinator: Coordinator) -> None:
    assert coordinator.receive(0, upload(0, 1)) is None
    play(coordinator, [1, 2, 3])
    assert coordinator.receive(3, upload(0, 4)) is None
    assert opened(coordinator, 0)[0] == [6, 6, 6, 0]


def test_closing_twice_settles_nothing(coordinator: Coordinator) -> None:
    """A caller whose close failed may close again: the last aggregate must still be sent out."""
    play(coordinator, [1, 2, 3])
    play(coordinator, [1, 2, 3])
    requests = coordinator.begin(range(3))
    for node in requests:
        coordinator.receive(node, upload(2, node + 1, RoundKind.MEASURE, member=node))
    coordinator.close()
    coordinator.close()
    assert coordinator._journal.is_measured()
    assert not coordinator.finished


def test_the_last_message_counts_each_institution_once(coordinator: Coordinator) -> None:
    """A double answer, or one to an older message, does not stand in for an institution that lacks the last round."""
    play(coordinator, [1, 2, 3])
    play(coordinator, [1, 2, 3])
    requests = coordinator.begin(range(3))
    for node in requests:
        coordinator.receive(node, upload(2, node + 1, RoundKind.MEASURE, member=node))
    coordinator.close()
    assert {request.kind for request in coordinator.begin(range(3)).values()} == {None}
    for answer in (Reply(Status.SETTLED, 3, 3), Reply(Status.SETTLED, 3, 3), Reply(Status.SETTLED, 2, 2)):
        coordinator.receive(0, answer)
    coordinator.receive(1, Reply(Status.SETTLED, 2, 2))
    coordinator.receive(2, Reply(Status.SETTLED, 3, 2))
    coordinator.close()
    assert not coordinator.finished


def test_a_refusing_journal_leaves_the_round_open(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise JournalError("cannot write: disk full")

    coordinator.begin(range(3))
    for node in range(3):
        coordinator.receive(node, upload(0, node + 1, member=node))
    with monkeypatch.context() as patch:
        patch.setattr(coordinator._journal, "record", refuse)
        with pytest.raises(JournalError):
            coordinator.close()
    assert coordinator._journal.next_round == 0
    play(coordinator, [1, 2, 3])
    assert opened(coordinator, 0)[0] == [6, 6, 6, 0]


def test_a_refusal_says_nothing_of_where_an_institution_stands(coordinator: Coordinator) -> None:
    """A folder that cannot be opened answers with position 0; the journal must not be sent whole for that, each time."""
    for _ in range(2):
        play(coordinator, [1, 2, 3])
    coordinator.begin(range(3))
    for node in range(3):
        coordinator.receive(node, Reply(Status.SETTLED, 2, 2))
    coordinator.receive(0, Reply(Status.REFUSED, 2, 0, code="key-file"))
    coordinator.close()
    request = coordinator.begin([0])[0]
    assert [aggregate.round for aggregate in request.aggregates] == []


def test_an_insecure_federation_says_so(folder: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        Coordinator.open(folder).close_journal()
    assert any("INSECURE" in entry["event"] for entry in logs)


def test_what_an_institution_sends_is_not_logged(coordinator: Coordinator) -> None:
    secret = b"patient-7 has 42 of 99"
    with structlog.testing.capture_logs() as logs:
        coordinator.begin(range(3))
        coordinator.receive(0, Reply(Status.UPLOAD, 0, 0, secret * 20))
        coordinator.receive(1, Reply(Status.UPLOAD, 0, 0, b"DICTPFL\x00" + secret * 20))
        coordinator.close()
    assert "patient" not in repr(logs)


def test_an_upload_is_recorded_in_a_file_of_its_own_though_older_ones_were_removed(folder: Path) -> None:
    """Whoever makes room on the disk removes the oldest; the next one must not be appended to one that is still there."""
    (folder / RECORDING).mkdir()
    for upload, left in ((b"first", ["000000"]), (b"second", ["000000", "000001"]), (b"third", ["000001", "000002"])):
        recording = open_coordinator(folder)
        recording.begin([0, 1, 2])
        recording.receive(0, Reply(Status.UPLOAD, 0, 0, upload))
        recording.close_journal()
        files = sorted((folder / RECORDING).glob("*.upload"))
        assert [path.stem for path in files] == left
        assert files[-1].read_bytes() == upload
        if len(files) > 1:
            files[0].unlink(missing_ok=True)


def test_an_event_that_a_full_disk_cut_off_takes_no_other_with_it(folder: Path) -> None:
    (folder / RECORDING).mkdir()
    (folder / RECORDING / EVENTS).write_bytes(b'{"event": "asked", "no')
    recording = open_coordinator(folder)
    recording.begin([0, 1, 2])
    recording.close_journal()
    first, *others = (folder / RECORDING / EVENTS).read_text().splitlines()
    assert first == '{"event": "asked", "no'
    assert [json.loads(line)["node"] for line in others] == [0, 1, 2]
