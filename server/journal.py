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
"""


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
            self._db.execute("INSERT INTO epochs VALUES (?, ?, ?, ?)", (epoch, first_round, fingerprint, time.time()))

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
            self._db.execute(
                "INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (closed.round, str(closed.kind), closed.started, closed.ended, closed.fold_seconds, closed.bytes_up,
                 closed.ciphertexts, json.dumps(dict(closed.rejected)), aggregate.blob),
            )  # fmt: skip
            self._db.executemany(
                "INSERT INTO acknowledgements VALUES (?, ?)", [(closed.round, upload) for upload in aggregate.counted]
            )

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

    @property
    def next_round(self) -> int:
        """Number of the round now open."""
        ((closed,),) = self._read("SELECT COALESCE(MAX(round) + 1, 0) FROM rounds")
        ((first,),) = self._read("SELECT COALESCE(MAX(first_round), 0) FROM epochs")
        return max(int(closed), int(first))

    def kinds(self) -> Sequence[RoundKind]:
        """Kind of every closed round, in order."""
        return [RoundKind(kind) for (kind,) in self._read("SELECT kind FROM rounds ORDER BY round")]

    def aggregates(self, start: int) -> Iterator[Aggregate]:
        """Aggregates from round `start` on, in order."""
        for number, blob in self._read("SELECT round, aggregate FROM rounds WHERE round >= ? ORDER BY round", start):
            counted = self._read("SELECT upload FROM acknowledgements WHERE round = ? ORDER BY upload", number)
            yield Aggregate(number, blob, tuple(upload for (upload,) in counted))

    def digests(self, start: int = 0) -> Iterator[tuple[int, str]]:
        """Number and SHA-256, in hexadecimal, of each aggregate from round `start` on; one in memory at a time."""
        for (number,) in self._read("SELECT round FROM rounds WHERE round >= ? ORDER BY round", start):
            for (blob,) in self._read("SELECT aggregate FROM rounds WHERE round = ?", number):
                yield number, hashlib.sha256(blob).hexdigest()

    def contributors(self) -> Mapping[int, tuple[int, int]]:
        """For each closed round, how many uploads its sum holds and the sum's length in bytes."""
        rows = self._read(
            "SELECT round, (SELECT COUNT(*) FROM acknowledgements a WHERE a.round = r.round), LENGTH(aggregate) "
            "FROM rounds r ORDER BY round"
        )
        return {number: (count, length) for number, count, length in rows}

    def rounds(self, start: int = 0) -> Sequence[ClosedRound]:
        """What is known of the closed rounds from `start` on, without their aggregates."""
        rows = self._read(
            "SELECT round, kind, started, ended, fold_seconds, bytes_up, ciphertexts, rejected FROM rounds "
            "WHERE round >= ? ORDER BY round",
            start,
        )
        return [
            ClosedRound(number, RoundKind(kind), started, ended, fold, up, ciphertexts, json.loads(rejected))
            for number, kind, started, ended, fold, up, ciphertexts, rejected in rows
        ]
