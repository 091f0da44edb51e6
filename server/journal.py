"""Memory of the coordinator: every closed round's aggregate and acknowledgements, in SQLite, durable before use."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dictpfl.common.errors import JournalError
from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.server.parties import PartyTables
from dictpfl.server.rows import (
    AGGREGATE,
    CONTENT,
    COUNTED,
    MANIFESTS,
    TABLES,
    AskedAgain,
    ClosedRound,
    Masked,
    Snapshot,
    closed_of,
    counted_of,
    counted_text,
    row_of,
)
from dictpfl.server.tables import Row, dropped, is_kept, length_of
from dictpfl.server.verdicts import VerdictTables

__all__ = ["ClosedRound", "Journal", "Masked", "Snapshot"]


class Journal(VerdictTables, PartyTables):
    """File of closed rounds; a round is either wholly in it or not at all, whenever the process dies."""

    def __init__(
        self,
        path: Path,
        federation: bytes,
        fingerprint: bytes,
        *,
        epoch: int = 1,
        first_round: int = 0,
        whole: bool = True,
    ) -> None:
        """Open or create.

        Args:
            path: of the file.
            federation: federation id, 32 bytes.
            fingerprint: of the key in force, 32 bytes.
            epoch: number of that key.
            first_round: first round that is sealed under that key.
            whole: look through the whole file; without it only what is read is checked.

        Raises:
            JournalError: damaged, of another federation or key, or an epoch that cannot follow what is journalled.
        """
        super().__init__(path, TABLES, whole=whole)
        try:
            self._belong(federation, fingerprint)
            self._enter(epoch, first_round, fingerprint)
        except BaseException:
            self.close()
            raise

    def _belong(self, federation: bytes, fingerprint: bytes) -> None:
        """Take the federation over that the file is of, or give it one."""
        if not self._rows("federation"):
            with self._transaction():
                if not self._rows("federation"):  # another process may have been first
                    self._insert("federation", 1, federation, fingerprint)
        ((_, owner, _),) = self._rows("federation")
        if owner != federation:
            raise JournalError(
                f"{self._path} belongs to federation {owner.hex()[:12]}, expected {federation.hex()[:12]}; choose another folder"
            )

    def _enter(self, epoch: int, first_round: int, fingerprint: bytes) -> None:
        """Go on in the epoch that is journalled, or begin the one that follows it."""
        if self._is_entered(epoch, first_round, fingerprint):
            return
        with self._transaction():
            if self._is_entered(epoch, first_round, fingerprint):
                return  # another process was first
            self._insert("epochs", epoch, first_round, fingerprint, time.time())
            # A sum whose masks never came off was sealed under the older key: its round is asked for under the new one.
            self._forget_masked(first_round)

    def _is_entered(self, epoch: int, first_round: int, fingerprint: bytes) -> bool:
        """Tell whether an epoch is the last one journalled; False: it may follow that."""
        rows = self._rows("epochs")
        if not rows:
            return False
        last, last_first, key, _ = rows[-1]
        if (last, last_first, key) == (epoch, first_round, fingerprint):
            return True
        self._require_next(epoch, first_round, last, last_first, key)
        return False

    def _require_next(self, epoch: int, first_round: int, last: int, last_first: int, key: bytes) -> None:
        if epoch <= last:
            raise JournalError(
                f"{self._path} is in epoch {last} from round {last_first} on, under key {key.hex()[:12]}; the agreement "
                f"given is of epoch {epoch} under another key. Take the newest agreement, or choose another folder"
            )
        following = self.next_round
        if first_round < following:
            raise JournalError(
                f"epoch {epoch} starts at round {first_round}, but {self._path} has rounds up to {following - 1} under the "
                "older key. End the run, have an institution export its state again, and rotate from that"
            )
        if first_round > following:
            raise JournalError(
                f"epoch {epoch} starts at round {first_round}, but {self._path} ends before round {following}. Restore the "
                "journal from backup; or move it away, and institutions that were behind start from the epoch's state"
            )

    def record(self, closed: ClosedRound, aggregate: Aggregate) -> None:
        """Store a closed round.

        Raises:
            JournalError: the disk refuses, or the round is already closed; nothing is stored.
        """
        with self._transaction():
            self._record(closed, aggregate)

    def _record(self, closed: ClosedRound, aggregate: Aggregate) -> None:
        content = hashlib.sha256(aggregate.blob).digest()
        try:
            counted = counted_text(tuple(aggregate.counted))
        except ValueError as error:
            raise JournalError(f"round {closed.round} cannot be journalled: {error}; this is a defect") from error
        blobs = self._keep_blob(aggregate.blob), self._keep_blob(aggregate.manifests)
        self._insert("rounds", *row_of(closed), counted, content, *blobs)
        self._forget_masked(closed.round)

    def keep_masked(self, masked: Masked) -> None:
        """Store the masked sum of the open round, before anything is asked that opens it.

        Raises:
            JournalError: the disk refuses, or there is one; nothing is stored.
        """
        with self._transaction():
            blobs = self._keep_blob(masked.blob), self._keep_blob(masked.manifests)
            self._insert("masked", *row_of(masked.closed), masked.attempt, masked.uploads, *blobs)

    def masked(self) -> Masked | None:
        """Read the masked sum of the open round, if it got that far."""
        for row in self._rows("masked"):
            if row[0] == self.next_round:
                *_, attempt, uploads, blob, manifests = row
                return Masked(closed_of(row), attempt, uploads, self._blob(blob), self._blob(manifests))
        return None

    def drop_masked(self, number: int, attempt: int) -> None:
        """Give up the masked sum of the open round, of which nobody told anything: the next attempt has other masks.

        Raises:
            JournalError: the disk refuses.
        """
        self.give_up(number, attempt)
        with self._transaction():
            self._forget_masked(number)

    def _forget_masked(self, number: int) -> None:
        """Delete masked sums of rounds up to a number."""
        for row in list(self._rows("masked")):
            if row[0] <= number:
                self._delete("masked", row[0])
                for reference in row[-2:]:
                    self._drop_blob(reference)

    def refuse(self, number: int, at: float, reasons: Mapping[str, str]) -> None:
        """Note that a round found too few uploads and is asked again."""
        with self._transaction():
            self._insert("refusals", len(self._rows("refusals")), number, at, json.dumps(dict(reasons)))

    def asked_again(self) -> AskedAgain | None:
        """Tell of the open round that it was asked for in vain; None where it was not."""
        rows = [row for row in self._rows("refusals") if row[1] == self.next_round]
        if not rows:
            return None
        names = {str(node): name for node, name in self.node_names().items()}
        reasons = {names.get(node, node): str(why) for node, why in json.loads(rows[-1][3]).items()}
        return AskedAgain(self.next_round, len(rows), rows[-1][2], reasons)

    def vain_attempts(self) -> dict[int, list[str]]:
        """Return, by round that was asked for in vain, open or closed since, who did not answer and why: a line an attempt."""
        names = {str(node): name for node, name in self.node_names().items()}
        told: dict[int, list[str]] = {}
        for _, number, _, reasons in self._rows("refusals"):
            why = {names.get(node, node): code for node, code in json.loads(reasons).items()}
            told.setdefault(number, []).append(", ".join(f"{who}: {why[who]}" for who in sorted(why)) or "no answer")
        return told

    def times_asked_again(self) -> int:
        """Count how often any round was asked for in vain."""
        return len(self._rows("refusals"))

    def settle(self, number: int, at: float) -> None:
        """Note that all aggregates before `number` were sent out in a last message."""
        self._note("settled", number, at)

    def is_settled(self, number: int) -> bool:
        """Tell whether `settle` was called for this number."""
        return self._noted("settled", number)

    def stop(self, number: int, at: float) -> None:
        """Note that institutions deliver no further update, from round `number` on."""
        self._note("stopped", number, at)

    @property
    def stopped(self) -> int | None:
        """First round for which institutions delivered no update any more; None: they go on."""
        return min((int(number) for number, _ in self._rows("stopped")), default=None)

    def updated(self, rounds: int) -> bool:
        """Tell whether there will be no further update round: so many are closed, or institutions have stopped."""
        return self.updates() >= rounds or self.stopped is not None

    def finished(self, rounds: int) -> bool:
        """Tell whether nothing is left to do of so many update rounds: they are closed, and the last sum was sent out."""
        return self.updated(rounds) and self.is_settled(self.next_round)

    @property
    def next_round(self) -> int:
        """Number of the round now open."""
        closed = max((row[0] + 1 for row in self._rows("rounds")), default=0)
        first = max((row[1] for row in self._rows("epochs")), default=0)
        again = max((row[0] for row in self._rows("restarts")), default=0)
        return int(max(closed, first, again))

    def kinds(self) -> Sequence[RoundKind]:
        """Kind of every closed round, in order."""
        return [RoundKind(row[1]) for row in self._rows("rounds")]

    def is_measured(self) -> bool:
        """Tell whether the open round follows a measurement; a void one is made up for, but not twice in a row."""
        before = self.next_round - 1
        measured = [row[0] for row in self._rows("rounds") if row[0] >= before - 1 and row[1] == RoundKind.MEASURE]
        return before in measured and (len(measured) > 1 or not self.is_void(before))

    def is_scored(self) -> bool:
        """Tell whether scores were sent after the last update; of a lost journal nobody knows, and they are asked for again."""
        since, *_ = max(self._rows("restarts"), default=(0, 0, 0.0))
        void = {row[0] for row in self._rows("voids")}
        kinds = [row[1] for row in self._rows("rounds") if row[0] >= since and row[0] not in void]
        last = next((kind for kind in reversed(kinds) if kind != RoundKind.MEASURE), None)
        return bool(last == RoundKind.SCORE)

    def closing_rounds(self) -> int:
        """Count the score rounds after the last update, those that are void and those of a lost journal left out."""
        since, *_ = max(self._rows("restarts"), default=(0, 0, 0.0))
        void = {row[0] for row in self._rows("voids")}
        kinds = [row[1] for row in self._rows("rounds") if row[0] >= since and row[0] not in void]
        last = max((place for place, kind in enumerate(kinds) if kind == RoundKind.UPDATE), default=-1)
        return kinds[last + 1 :].count(RoundKind.SCORE)

    def updates(self) -> int:
        """Update rounds closed so far that are not void, those of a lost journal included."""
        since, before, _ = max(self._rows("restarts"), default=(0, 0, 0.0))
        void = {row[0] for row in self._rows("voids")}
        rounds = [row[0] for row in self._rows("rounds") if row[0] >= since and row[1] == RoundKind.UPDATE]
        return int(before) + len(set(rounds) - void)

    @property
    def oldest(self) -> int:
        """First round from which on every aggregate up to the open round is here."""
        kept = {row[0] for row in self._rows("rounds") if is_kept(row[AGGREGATE])}
        oldest = self.next_round
        while oldest - 1 in kept:
            oldest -= 1
        return oldest

    def aggregates(self, start: int, most: int | None = None) -> Iterator[Aggregate]:
        """Read aggregates from round `start` on, in order, one at a time; dropped ones are left out.

        `most`: bytes in all; the first comes whatever its length, the others as long as they fit.
        """
        total = 0
        rows = [row for row in self._rows("rounds") if row[0] >= start and is_kept(row[AGGREGATE])]
        for index, row in enumerate(rows):
            total += length_of(row[AGGREGATE])
            if most is not None and index and total > most:
                return
            counted = counted_of(row[COUNTED])
            yield Aggregate(row[0], self._blob(row[AGGREGATE]), counted, self._blob(row[MANIFESTS]))

    def acknowledgements(self, start: int, end: int) -> Iterator[Aggregate]:
        """Read which uploads the sums of rounds `start` to `end` - 1 delivered, without the sums; a void round delivered none."""
        void = {row[0] for row in self._rows("voids")}
        for row in self._rows("rounds"):
            if start <= row[0] < end:
                yield Aggregate(row[0], b"", () if row[0] in void else counted_of(row[COUNTED]))

    def length(self, start: int) -> int:
        """Bytes of all aggregates that are kept from round `start` on."""
        kept = (row[AGGREGATE] for row in self._rows("rounds") if row[0] >= start and is_kept(row[AGGREGATE]))
        return sum(length_of(reference) for reference in kept)

    def snapshots(self) -> Mapping[int, int]:
        """Bytes of each snapshot that is kept, by round, newest first."""
        return {row[0]: length_of(row[3]) for row in reversed(self._rows("snapshots"))}

    def snapshot(self, number: int) -> bytes:
        """Read the sealed snapshot of the state before a round.

        Raises:
            JournalError: there is none.
        """
        for row in self._rows("snapshots"):
            if row[0] == number:
                return self._blob(row[3])
        raise JournalError(f"{self._path} holds no snapshot of round {number}; this is a defect")

    def keep(self, snapshot: Snapshot, most: int) -> None:
        """Keep a snapshot and the newest `most` in all; drop aggregates that no latecomer needs any more.

        While there are fewer, and with `most` 0, nothing is dropped. Acknowledgements, sizes and times stay for ever.
        Freed pages of the file are used again; it does not shrink.

        Raises:
            JournalError: the disk refuses; nothing has changed.
        """
        with self._transaction():
            self._keep_snapshot(snapshot)
            rounds = list(self.snapshots())
            if not most or len(rounds) < most:
                return
            for number in rounds[most:]:
                self._drop_snapshot(number)
            for row in list(self._rows("rounds")):
                if row[0] < rounds[most - 1] and is_kept(row[AGGREGATE]):
                    self._empty(row)

    def _empty(self, row: Row) -> None:
        """Take the sum out of a round."""
        self._delete("rounds", row[0])
        self._drop_blob(row[AGGREGATE])
        self._insert("rounds", *row[:AGGREGATE], dropped(row[AGGREGATE]), row[MANIFESTS])

    def _keep_snapshot(self, snapshot: Snapshot) -> None:
        self._drop_snapshot(snapshot.round)
        reference = self._keep_blob(snapshot.data)
        self._insert("snapshots", snapshot.round, snapshot.updates, time.time(), reference)

    def _drop_snapshot(self, number: int) -> None:
        for row in list(self._rows("snapshots")):
            if row[0] == number:
                self._delete("snapshots", number)
                self._drop_blob(row[3])

    def restart(self, snapshot: Snapshot, last: tuple[ClosedRound, Aggregate] | None = None) -> None:
        """Go on from a state that institutions hold and this journal does not lead to.

        Args:
            snapshot: of that state.
            last: the round before it and its sum, which brings the state to institutions that lack it alone; None: not known.

        Raises:
            JournalError: the round is not after the open one, or the disk refuses; nothing has changed.
        """
        if snapshot.round <= self.next_round:
            raise JournalError(f"a restart from round {snapshot.round} where round {self.next_round} is open")
        with self._transaction():
            if last:
                self._record(*last)
            self._keep_snapshot(snapshot)
            self._insert("restarts", snapshot.round, snapshot.updates, time.time())

    def digests(self, start: int = 0) -> Iterator[tuple[int, str]]:
        """Number and SHA-256, in hexadecimal, of each aggregate from round `start` on."""
        for row in self._rows("rounds"):
            if row[0] >= start:
                yield row[0], row[CONTENT].hex()

    def contributors(self) -> Mapping[int, tuple[int, int]]:
        """Count for each closed round the uploads in its sum, and the sum's bytes."""
        return {row[0]: (len(counted_of(row[COUNTED])), length_of(row[AGGREGATE])) for row in self._rows("rounds")}

    def rounds(self, start: int = 0) -> Sequence[ClosedRound]:
        """Read what is known of the closed rounds from `start` on, without their aggregates."""
        return [closed_of(row) for row in self._rows("rounds") if row[0] >= start]
