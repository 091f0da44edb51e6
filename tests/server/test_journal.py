"""The coordinator's file: a round is wholly in it or not at all, and trouble has one name."""

from __future__ import annotations

import hashlib
import resource
import sqlite3
import stat
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dictpfl.common.errors import JournalError
from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.server.journal import Journal
from dictpfl.server.rows import ClosedRound

FEDERATION, FINGERPRINT = b"f" * 32, b"k" * 32


def closed(number: int, kind: RoundKind = RoundKind.UPDATE) -> ClosedRound:
    return ClosedRound(number, kind, 1.5, 2.5, 0.25, 1000, 2, {"4": "drift"})


def an_aggregate(number: int, size: int = 100, uploads: int = 3) -> Aggregate:
    return Aggregate(number, bytes([number]) * size, tuple(bytes([number, i]) * 8 for i in range(uploads)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    made = Journal(path, FEDERATION, FINGERPRINT)
    yield made
    made.close()


def again(path: Path) -> Journal:
    return Journal(path, FEDERATION, FINGERPRINT)


def test_an_empty_journal(journal: Journal) -> None:
    assert journal.next_round == 0
    assert list(journal.aggregates(0)) == []
    assert list(journal.kinds()) == []
    assert not journal.is_settled(0)


def test_rounds_come_back_from_the_file(path: Path, journal: Journal) -> None:
    kinds = [RoundKind.SCORE, RoundKind.UPDATE, RoundKind.MEASURE]
    for number, kind in enumerate(kinds):
        journal.record(closed(number, kind), an_aggregate(number))
    journal.settle(3, 9.0)
    journal.close()
    found = again(path)
    assert found.next_round == 3
    assert list(found.kinds()) == kinds
    assert list(found.aggregates(1)) == [an_aggregate(1), an_aggregate(2)]
    assert found.rounds(2) == [closed(2, RoundKind.MEASURE)]
    assert found.is_settled(3)
    assert not found.is_settled(2)
    found.close()


def test_a_round_is_closed_once(path: Path, journal: Journal) -> None:
    """A second coordinator on the same folder, or a second close, is refused; the first sum stays."""
    journal.record(closed(0), an_aggregate(0))
    second = again(path)
    with pytest.raises(JournalError):
        second.record(closed(0), Aggregate(0, b"another", (b"x" * 16,)))
    assert list(journal.aggregates(0)) == [an_aggregate(0)]
    second.record(closed(1), an_aggregate(1))
    assert journal.next_round == 2
    second.close()


def test_an_upload_twice_in_a_round_stores_nothing(journal: Journal) -> None:
    with pytest.raises(JournalError):
        journal.record(closed(0), Aggregate(0, b"sum", (b"x" * 16, b"x" * 16)))
    assert journal.next_round == 0
    journal.record(closed(0), an_aggregate(0))


def test_an_exception_amid_a_round_stores_nothing(journal: Journal) -> None:
    class StopError(Exception):
        pass

    def uploads() -> Iterator[bytes]:
        yield b"x" * 16
        raise StopError

    with pytest.raises(StopError):
        journal.record(closed(0), Aggregate(0, b"sum", uploads()))  # type: ignore[arg-type]
    assert journal.next_round == 0
    journal.record(closed(0), an_aggregate(0))


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Let the system refuse writes beyond a file size, as a full disk does: also at COMMIT, where SQLite writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 20_000, 100_000])
def test_a_full_disk_stores_nothing_and_the_next_attempt_works(room: int, path: Path, journal: Journal) -> None:
    journal.record(closed(0), an_aggregate(0))
    wal = path.with_name(path.name + "-wal")
    with small_files(wal.stat().st_size + room), pytest.raises(JournalError, match="stays open"):
        journal.record(closed(1), an_aggregate(1, size=500_000))
    assert journal.next_round == 1
    journal.record(closed(1), an_aggregate(1, size=500_000))
    journal.close()
    found = again(path)
    assert list(found.aggregates(0)) == [an_aggregate(0), an_aggregate(1, size=500_000)]
    found.close()


def test_a_full_disk_at_the_first_start_is_named(path: Path) -> None:
    with small_files(100), pytest.raises(JournalError):
        Journal(path, FEDERATION, FINGERPRINT)
    again(path).close()


def test_a_failed_commit_does_not_block_the_next_attempt(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever COMMIT says, the transaction must be over afterwards."""

    class Refusing:
        def __init__(self, real: sqlite3.Connection) -> None:
            self.real, self.failed = real, False
            self.executemany = real.executemany
            self.close = real.close

        @property
        def in_transaction(self) -> bool:
            return self.real.in_transaction

        def execute(self, sql: str, *arguments: object) -> object:
            if sql == "COMMIT" and not self.failed:
                self.failed = True
                raise sqlite3.OperationalError("disk I/O error")
            return self.real.execute(sql, *arguments)  # type: ignore[arg-type]

    real = journal._db
    monkeypatch.setattr(journal, "_db", Refusing(real))
    with pytest.raises(JournalError, match="disk I/O"):
        journal.record(closed(0), an_aggregate(0))
    assert journal.next_round == 0, "what was not committed must not be seen"
    journal.record(closed(0), an_aggregate(0))
    assert journal.next_round == 1


@pytest.mark.parametrize(
    "names", [(b"x" * 32, FINGERPRINT), (FEDERATION, b"x" * 32)], ids=["another federation", "another key"]
)
def test_anothers_journal_is_refused(names: tuple[bytes, bytes], path: Path, journal: Journal) -> None:
    journal.close()
    with pytest.raises(JournalError, match="choose another folder"):
        Journal(path, *names)


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_refused(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(JournalError, match="backup"):
        again(path)


def test_damage_found_later_is_named_too(path: Path, journal: Journal) -> None:
    """Reading answers with the same error as opening and writing."""
    for number in range(4):
        journal.record(closed(number), an_aggregate(number, size=30_000))
    journal.close()
    data = bytearray(path.read_bytes())
    data[4096 * 3 :] = b"\xff" * len(data[4096 * 3 :])
    path.write_bytes(data)
    with pytest.raises(JournalError):
        read_all(path)


def read_all(path: Path) -> None:
    found = again(path)
    try:
        list(found.aggregates(0))
        found.rounds()
        found.kinds()
    finally:
        found.close()


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError):
        again(tmp_path / "nowhere" / "journal.sqlite")


def test_a_journal_that_only_cannot_be_opened_is_not_to_be_moved_away(path: Path, journal: Journal) -> None:
    """On a disk that is mounted read-only, or full, SQLite cannot make the files beside it: that is no damage."""
    journal.record(closed(0), an_aggregate(0))
    journal.close()
    beside = path.with_name(f"{path.name}-wal")
    beside.mkdir()
    with pytest.raises(JournalError, match="Nothing says that the journal is damaged") as refused:
        again(path)
    assert "backup" not in str(refused.value)
    beside.rmdir()
    with small_files(100), pytest.raises(JournalError, match="disk that has room"):
        again(path)
    found = again(path)
    assert found.next_round == 1
    found.close()


def test_only_the_owner_reads(path: Path, journal: Journal) -> None:
    """In a federation that does not encrypt, the write-ahead log holds updates in clear."""
    journal.record(closed(0), an_aggregate(0))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes) == {path.name, f"{path.name}-wal", f"{path.name}-shm"}
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


def test_an_epoch_follows_from_the_very_next_round_on(path: Path, journal: Journal) -> None:
    journal.record(closed(0), an_aggregate(0))
    for first, reason in ((0, "rounds up to 0 under the older key"), (2, "ends before round 1")):
        with pytest.raises(JournalError, match=reason):
            Journal(path, FEDERATION, b"x" * 32, epoch=2, first_round=first)
    second = Journal(path, FEDERATION, b"x" * 32, epoch=2, first_round=1)
    assert second.next_round == 1
    assert [aggregate.round for aggregate in second.aggregates(0)] == [0]
    second.close()
    with pytest.raises(JournalError, match="in epoch 2 from round 1 on"):
        again(path)


def test_a_journal_of_an_older_protocol_is_told_what_to_do(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE federation (id BLOB NOT NULL, fingerprint BLOB NOT NULL)")
        database.execute("CREATE TABLE rounds (round INTEGER PRIMARY KEY, aggregate BLOB NOT NULL)")
    database.close()
    with pytest.raises(JournalError, match=r"protocol 3 or older.* release that began it, and choose another folder"):
        again(path)


def test_processes_that_open_a_new_journal_at_once(path: Path) -> None:
    """`run`, the custody log and the coordinator's app each open it, and the first of them enters the epoch."""

    class First(Journal):
        def _is_entered(self, *epoch: Any) -> bool:
            if not others:
                others.append(again(path))  # another process, between the look and the entry
                return False
            return super()._is_entered(*epoch)

    others: list[Journal] = []
    late = First(path, FEDERATION, FINGERPRINT)
    assert late.next_round == others[0].next_round == 0
    for journal in (late, *others):
        journal.close()


def test_the_digest_of_a_reference_is_what_the_specification_says(path: Path, journal: Journal) -> None:
    """Recomputed from section 13's words alone: who reads a recorded run checks by it what the journal holds."""
    for number in range(3):
        journal.record(closed(number), Aggregate(number, b"sum %d" % number, (bytes([number]) * 16,)))
    with closing(sqlite3.connect(path)) as database:
        references = dict(database.execute("SELECT round, aggregate FROM rounds"))
        blobs = {
            number: (data, digest) for number, data, digest in database.execute("SELECT id, data, digest FROM blobs")
        }
    for number in range(3):
        place, length, digest = struct.unpack("<QQ32s", references[number])
        data, kept = blobs[place]
        name, text = b"blobs", str(place).encode()
        parts = ((b"s", name), (b"i", text), (b"b", data))
        said = hashlib.sha256(b"".join(kind + struct.pack("<Q", len(part)) + part for kind, part in parts)).digest()
        assert (data, length) == (b"sum %d" % number, 5)
        assert said == digest == kept
