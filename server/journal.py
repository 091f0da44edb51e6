"""The coordinator's memory: every closed round's aggregate and acknowledgements, in SQLite, durable before use."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import JournalError
from common.protocol import Aggregate, RoundKind

_SCHEMA = """
CREATE TABLE IF NOT EXISTS federation (id BLOB NOT NULL, fingerprint BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS rounds (
    round INTEGER PRIMARY KEY, kind TEXT NOT NULL, started REAL NOT NULL, ended REAL NOT NULL,
    fold_seconds REAL NOT NULL, bytes_up INTEGER NOT NULL, ciphertexts INTEGER NOT NULL, rejected TEXT NOT NULL,
    aggregate BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS acknowledgements (
    round INTEGER NOT NULL REFERENCES rounds, upload BLOB NOT NULL, PRIMARY KEY (round, upload)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refusals (round INTEGER NOT NULL, at REAL NOT NULL, reasons TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS settled (round INTEGER PRIMARY KEY, at REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS epochs (
    number INTEGER PRIMARY KEY, first_round INTEGER NOT NULL, fingerprint BLOB NOT NULL, at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS snapshots (
    round INTEGER PRIMARY KEY, updates INTEGER NOT NULL, at REAL NOT NULL, data BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS dropped (round INTEGER PRIMARY KEY REFERENCES rounds, length INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS stopped (round INTEGER PRIMARY KEY, at REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS masked (
    round INTEGER PRIMARY KEY, kind TEXT NOT NULL, started REAL NOT NULL, ended REAL NOT NULL,
    fold_seconds REAL NOT NULL, bytes_up INTEGER NOT NULL, ciphertexts INTEGER NOT NULL, rejected TEXT NOT NULL,
    attempt INTEGER NOT NULL, uploads TEXT NOT NULL, aggregate BLOB NOT NULL, manifests BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS manifests (round INTEGER PRIMARY KEY REFERENCES rounds, data BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS attempts (round INTEGER PRIMARY KEY, next INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS restarts (round INTEGER PRIMARY KEY, updates INTEGER NOT NULL, at REAL NOT NULL) STRICT;
"""
_ROUND = "round, kind, started, ended, fold_seconds, bytes_up, ciphertexts, rejected"


@dataclass(frozen=True, slots=True)
class ClosedRound:
    """What the coordinator knows of a round: times in seconds since the epoch, sizes in bytes."""

    round: int
    kind: RoundKind
    started: float
    ended: float
    fold_seconds: float
    bytes_up: int
    ciphertexts: int
    rejected: Mapping[str, str]
    """Reason by node, for uploads that are not in the sum."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A sealed snapshot of the state before `round`, with `updates` update rounds in it."""

    round: int
    updates: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Masked:
    """A sum whose uploads are final and whose own masks are still on; `uploads`: what is needed to take them off, as JSON."""

    closed: ClosedRound
    attempt: int
    uploads: str
    blob: bytes
    manifests: bytes = b""


class Journal:
    """One file; a round is either wholly in it or not at all, whenever the process dies."""

    def __init__(
        self, path: Path, federation: bytes, fingerprint: bytes, *, epoch: int = 1, first_round: int = 0
    ) -> None:
        """Open or create; `fingerprint` is that of the key in force since `first_round`, the `epoch`-th key.

        Raises:
            JournalError: damaged, of another federation or key, or an epoch that cannot follow what is journalled.
        """
        self._path = path
        try:
            # Made before SQLite opens it: its write-ahead log takes over the mode.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            row = self._db.execute("SELECT id, fingerprint FROM federation").fetchone()
            if row is None:
                row = (federation, fingerprint)
                self._db.execute("INSERT INTO federation VALUES (?, ?)", row)
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"{path} is no readable journal ({error}); restore it from backup") from error
        if row[0] != federation:
            raise JournalError(
                f"{path} belongs to federation {row[0].hex()[:12]}, expected {federation.hex()[:12]}; choose another folder"
            )
        self._enter(epoch, first_round, fingerprint)

    def _enter(self, epoch: int, first_round: int, fingerprint: bytes) -> None:
        """Go on in the epoch that is journalled, or begin the one that follows it."""
        rows = self._read("SELECT number, first_round, fingerprint FROM epochs ORDER BY number DESC LIMIT 1")
        if not rows and self._read("SELECT 1 FROM rounds LIMIT 1"):
            # Written before there were epochs: its one key is the first.
            ((founding,),) = self._read("SELECT fingerprint FROM federation")
            rows = [(1, 0, founding)]
        if rows and (epoch, first_round, fingerprint) != tuple(rows[0]):
            self._require_next(epoch, first_round, *rows[0])
        elif rows:
            return
        with self._transaction():
            row = (epoch, first_round, fingerprint, time.time())
            entered = self._db.execute("INSERT OR IGNORE INTO epochs VALUES (?, ?, ?, ?)", row).rowcount
            # A sum whose masks never came off was sealed under the older key: its round is asked for under the new one.
            self._db.execute("DELETE FROM masked")
        if not entered:
            self._enter(epoch, first_round, fingerprint)  # another process was first: compare with what it wrote

    def _require_next(self, epoch: int, first_round: int, last: int, last_first: int, key: bytes) -> None:
        if epoch <= last:
            raise JournalError(
                f"{self._path} is in epoch {last} from round {last_first} on, under key {key.hex()[:12]}; the agreement "
                f"given is of epoch {epoch} under another key. Take the newest agreement, or choose another folder"
            )
        found = self.next_round
        if first_round < found:
            raise JournalError(
                f"epoch {epoch} starts at round {first_round}, but {self._path} has rounds up to {found - 1} under the "
                "older key. End the run, have an institution export its state again, and rotate from that"
            )
        if first_round > found:
            raise JournalError(
                f"epoch {epoch} starts at round {first_round}, but {self._path} ends before round {found}. Restore the "
                "journal from backup; or move it away, and institutions that were behind start from the epoch's state"
            )

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    with suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise JournalError(
                f"cannot write {self._path}: {error}; the round stays open and is asked again"
            ) from error

    def _read(self, query: str, *values: object) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"cannot read {self._path}: {error}; restore it from backup") from error

    def record(self, closed: ClosedRound, aggregate: Aggregate) -> None:
        """Store a closed round.

        Raises:
            JournalError: the disk refuses, or the round is already closed; nothing is stored.
        """
        with self._transaction():
            self._db.execute("INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*_row(closed), aggregate.blob))
            self._db.execute("DELETE FROM masked WHERE round <= ?", (closed.round,))
            if aggregate.manifests:
                self._db.execute("INSERT INTO manifests VALUES (?, ?)", (closed.round, aggregate.manifests))
            self._db.executemany(
                "INSERT INTO acknowledgements VALUES (?, ?)", [(closed.round, upload) for upload in aggregate.counted]
            )

    def give_up(self, number: int, attempt: int) -> None:
        """Note that uploads for this attempt at a round are no longer of use: the next one has other masks."""
        # By the clock: after a journal was lost, its successor does not count through attempts that institutions know.
        following = max(attempt + 1, int(time.time()))
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO attempts VALUES (?, ?)", (number, following))

    def attempt(self, number: int) -> int:
        """The attempt that uploads of a round are masked for; 0 for the first."""
        rows = self._read("SELECT next FROM attempts WHERE round = ?", number)
        return int(rows[0][0]) if rows else 0

    def keep_masked(self, masked: Masked) -> None:
        """Store the masked sum of the open round, before anything is asked that opens it.

        Raises:
            JournalError: the disk refuses, or there is one; nothing is stored.
        """
        with self._transaction():
            self._db.execute(
                "INSERT INTO masked VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*_row(masked.closed), masked.attempt, masked.uploads, masked.blob, masked.manifests),
            )

    def masked(self) -> Masked | None:
        """The masked sum of the open round, if it got that far."""
        query = f"SELECT {_ROUND}, attempt, uploads, aggregate, manifests FROM masked WHERE round = ?"  # noqa: S608  our own words
        rows = self._read(query, self.next_round)
        if not rows:
            return None
        *facts, attempt, uploads, blob, manifests = rows[0]
        return Masked(_closed(facts), int(attempt), str(uploads), bytes(blob), bytes(manifests))

    def refuse(self, number: int, at: float, reasons: Mapping[str, str]) -> None:
        """Note that a round found too few uploads and is asked again."""
        with self._transaction():
            self._db.execute("INSERT INTO refusals VALUES (?, ?, ?)", (number, at, json.dumps(dict(reasons))))

    def settle(self, number: int, at: float) -> None:
        """Note that all aggregates before `number` were sent out in a last message."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO settled VALUES (?, ?)", (number, at))

    def is_settled(self, number: int) -> bool:
        """Whether `settle` was called for this number."""
        return bool(self._read("SELECT 1 FROM settled WHERE round = ?", number))

    def stop(self, number: int, at: float) -> None:
        """Note that institutions deliver no further update, from round `number` on."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO stopped VALUES (?, ?)", (number, at))

    @property
    def stopped(self) -> int | None:
        """The first round for which institutions delivered no update any more; None: they go on."""
        ((number,),) = self._read("SELECT MIN(round) FROM stopped")
        return None if number is None else int(number)

    def updated(self, rounds: int) -> bool:
        """Whether there will be no further update round: so many are closed, or institutions have stopped."""
        return self.updates() >= rounds or self.stopped is not None

    @property
    def next_round(self) -> int:
        """Number of the round now open."""
        ((closed,),) = self._read("SELECT COALESCE(MAX(round) + 1, 0) FROM rounds")
        ((first,),) = self._read("SELECT COALESCE(MAX(first_round), 0) FROM epochs")
        ((again,),) = self._read("SELECT COALESCE(MAX(round), 0) FROM restarts")
        return max(int(closed), int(first), int(again))

    def kinds(self) -> Sequence[RoundKind]:
        """Kind of every closed round, in order."""
        return [RoundKind(kind) for (kind,) in self._read("SELECT kind FROM rounds ORDER BY round")]

    def last_kind(self) -> RoundKind | None:
        """Kind of the round before the open one; None where that is not in this journal."""
        rows = self._read("SELECT kind FROM rounds WHERE round = ?", self.next_round - 1)
        return RoundKind(rows[0][0]) if rows else None

    def updates(self) -> int:
        """Update rounds closed so far, those of a lost journal included."""
        rows = self._read("SELECT round, updates FROM restarts ORDER BY round DESC LIMIT 1") or [(0, 0)]
        since, before = rows[0]
        ((count,),) = self._read(
            "SELECT COUNT(*) FROM rounds WHERE round >= ? AND kind = ?", since, str(RoundKind.UPDATE)
        )
        return int(before) + int(count)

    @property
    def oldest(self) -> int:
        """First round from which on every aggregate up to the open round is here."""
        after = self.next_round
        rows = self._read(
            "SELECT MAX(k.round) FROM rounds k WHERE LENGTH(k.aggregate) > 0 AND NOT EXISTS "
            "(SELECT 1 FROM rounds p WHERE p.round = k.round - 1 AND LENGTH(p.aggregate) > 0)"
        )
        last = self._read("SELECT 1 FROM rounds WHERE round = ? AND LENGTH(aggregate) > 0", after - 1)
        return int(rows[0][0]) if last else after

    def aggregates(self, start: int, most: int | None = None) -> Iterator[Aggregate]:
        """Aggregates from round `start` on, in order, read one at a time; dropped ones are left out.

        `most`: bytes in all; the first comes whatever its length, the others as long as they fit.
        """
        total = 0
        numbers = self._read(
            "SELECT round, LENGTH(aggregate) FROM rounds WHERE round >= ? AND LENGTH(aggregate) > 0 ORDER BY round",
            start,
        )
        for index, (number, length) in enumerate(numbers):
            total += length
            if most is not None and index and total > most:
                return
            ((blob,),) = self._read("SELECT aggregate FROM rounds WHERE round = ?", number)
            rows = self._read("SELECT data FROM manifests WHERE round = ?", number)
            yield Aggregate(number, blob, self._counted(number), bytes(rows[0][0]) if rows else b"")

    def acknowledgements(self, start: int, end: int) -> Iterator[Aggregate]:
        """Which uploads were in the sums of rounds `start` to `end` - 1, without the sums."""
        for (number,) in self._read(
            "SELECT round FROM rounds WHERE round >= ? AND round < ? ORDER BY round", start, end
        ):
            yield Aggregate(number, b"", self._counted(number))

    def _counted(self, number: int) -> tuple[bytes, ...]:
        rows = self._read("SELECT upload FROM acknowledgements WHERE round = ? ORDER BY upload", number)
        return tuple(upload for (upload,) in rows)

    def length(self, start: int) -> int:
        """Bytes of all aggregates from round `start` on."""
        ((length,),) = self._read("SELECT COALESCE(SUM(LENGTH(aggregate)), 0) FROM rounds WHERE round >= ?", start)
        return int(length)

    def snapshots(self) -> Mapping[int, int]:
        """Bytes of each snapshot that is kept, by round, newest first."""
        rows = self._read("SELECT round, LENGTH(data) FROM snapshots ORDER BY round DESC")
        return {int(number): int(length) for number, length in rows}

    def snapshot(self, number: int) -> bytes:
        """The sealed snapshot of the state before a round.

        Raises:
            JournalError: there is none.
        """
        rows = self._read("SELECT data FROM snapshots WHERE round = ?", number)
        if not rows:
            raise JournalError(f"{self._path} holds no snapshot of round {number}; this is a defect")
        return bytes(rows[0][0])

    def keep(self, snapshot: Snapshot, most: int) -> None:
        """Keep a snapshot and the newest `most` in all; drop aggregates that no latecomer needs any more.

        While there are fewer, and with `most` 0, nothing is dropped. Acknowledgements, sizes and times stay for ever.
        Freed pages of the file are used again; it does not shrink.

        Raises:
            JournalError: the disk refuses; nothing has changed.
        """
        with self._transaction():
            self._insert(snapshot)
            rounds = self._read("SELECT round FROM snapshots ORDER BY round DESC")
            if not most or len(rounds) < most:
                return
            oldest = rounds[most - 1][0]
            self._db.execute("DELETE FROM snapshots WHERE round < ?", (oldest,))
            self._db.execute(
                "INSERT OR IGNORE INTO dropped SELECT round, LENGTH(aggregate) FROM rounds "
                "WHERE round < ? AND LENGTH(aggregate) > 0",
                (oldest,),
            )
            self._empty(oldest)

    def _empty(self, end: int) -> None:
        """Take the sums out of rounds before `end`."""
        # Deleted and put back: a row that shrinks in its place keeps a page of its own for ever.
        where = "WHERE round < ? AND LENGTH(aggregate) > 0"
        rows = self._read(f"SELECT {_ROUND} FROM rounds {where} ORDER BY round", end)  # noqa: S608  our own words
        self._db.execute(f"DELETE FROM rounds {where}", (end,))  # noqa: S608
        self._db.executemany("INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?, ?, x'')", rows)

    def restart(self, snapshot: Snapshot) -> None:
        """Go on from a state that institutions hold and this journal does not lead to.

        Raises:
            JournalError: the round is not after the open one, or the disk refuses; nothing has changed.
        """
        if snapshot.round <= self.next_round:
            raise JournalError(f"a restart from round {snapshot.round} where round {self.next_round} is open")
        with self._transaction():
            self._insert(snapshot)
            self._db.execute("INSERT INTO restarts VALUES (?, ?, ?)", (snapshot.round, snapshot.updates, time.time()))

    def _insert(self, snapshot: Snapshot) -> None:
        values = (snapshot.round, snapshot.updates, time.time(), snapshot.data)
        self._db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)", values)

    def digests(self, start: int = 0) -> Iterator[tuple[int, str]]:
        """Number and SHA-256, in hexadecimal, of each aggregate from round `start` on; one in memory at a time."""
        for (number,) in self._read("SELECT round FROM rounds WHERE round >= ? ORDER BY round", start):
            for (blob,) in self._read("SELECT aggregate FROM rounds WHERE round = ?", number):
                yield number, hashlib.sha256(blob).hexdigest()

    def contributors(self) -> Mapping[int, tuple[int, int]]:
        """For each closed round, how many uploads its sum holds and the sum's length in bytes."""
        rows = self._read(
            "SELECT round, (SELECT COUNT(*) FROM acknowledgements a WHERE a.round = r.round), "
            "COALESCE((SELECT length FROM dropped d WHERE d.round = r.round), LENGTH(aggregate)) "
            "FROM rounds r ORDER BY round"
        )
        return {number: (count, length) for number, count, length in rows}

    def rounds(self, start: int = 0) -> Sequence[ClosedRound]:
        """What is known of the closed rounds from `start` on, without their aggregates."""
        rows = self._read(
            f"SELECT {_ROUND} FROM rounds WHERE round >= ? ORDER BY round",  # noqa: S608  our own words
            start,
        )
        return [_closed(row) for row in rows]


def _row(closed: ClosedRound) -> tuple[Any, ...]:
    return (
        closed.round,
        str(closed.kind),
        closed.started,
        closed.ended,
        closed.fold_seconds,
        closed.bytes_up,
        closed.ciphertexts,
        json.dumps(dict(closed.rejected)),
    )


def _closed(row: Sequence[Any]) -> ClosedRound:
    number, kind, started, ended, fold, up, ciphertexts, rejected = row
    return ClosedRound(number, RoundKind(kind), started, ended, fold, up, ciphertexts, json.loads(rejected))
