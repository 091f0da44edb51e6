"""Record of the sums that an institution tried to open, on disk before one is opened: one a round, and few refusals.

Anyone who may send sums at will and sees which are refused, or void, learns a little about the key each time
(decryption failures as an oracle). So of a (round, kind, attempt) one sum is tried, refused and void ones are counted together, and
at a limit the institution locks until its operator has looked (docs/decisions/0029).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dictpfl.client.defences.chain import Chain
from dictpfl.client.keys.epochs import Keyring
from dictpfl.common.errors import RoundError
from dictpfl.common.messages.protocol import RoundKind

_USE = "it says which sums were opened here"
ANOTHER, ABANDONED, NONSENSE = "another", "abandoned", "void"
MEANINGS: Mapping[str, str] = {
    ANOTHER: "a second sum of the same round and attempt; it was not opened",
    ABANDONED: "its trial never came to an end, and another attempt at the round was brought",
    NONSENSE: "its tags were right, and what it held did not open or was nonsense; compare its digest with the others' before you unlock",
}
"""Reasons that need words: what is wrong with a sum whose form, members and tags are right."""


@dataclass(frozen=True)
class Trial:
    """Trial of a sum: the sum as it was brought.

    Attributes:
        round: number of the round.
        kind: its kind.
        attempt: number of the attempt at the round.
        digest: SHA-256 of the sum, 32 bytes.
    """

    round: int
    kind: RoundKind
    attempt: int
    digest: bytes

    def __str__(self) -> str:
        """Name the sum for people."""
        return f"round {self.round} ({self.kind}, attempt {self.attempt}), sum {self.digest.hex()[:12]}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"round": self.round, "kind": str(self.kind), "attempt": self.attempt, "sum": self.digest.hex()}

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> Self:
        """Decode what `to_json` made."""
        kind = RoundKind(document["kind"])
        return cls(int(document["round"]), kind, int(document["attempt"]), bytes.fromhex(document["sum"]))


@dataclass(frozen=True)
class Refusal:
    """Refusal of a sum, before it was opened or (`NONSENSE`) after.

    Attributes:
        sum: the sum, and the round and attempt that it was brought for.
        reason: short word for what was wrong with it.
        at: time of the refusal, seconds since 1970.
    """

    sum: Trial
    reason: str
    at: float


class Openings:
    """Record of one institution in one epoch; used under the memory's lock."""

    def __init__(self, path: Path, epoch: bytes, most_refused: int) -> None:
        """Set up; nothing is read yet.

        Args:
            path: file of the record.
            epoch: fingerprint of the epoch's key, 32 bytes; a record of another epoch is damage.
            most_refused: refused and void sums, not yet looked at, at which the institution locks.
        """
        self._folder, self._chain, self._most = path.parent, Chain(path, epoch, _USE), most_refused
        self._forget()

    def _forget(self) -> None:
        self._tried: dict[int, dict[tuple[RoundKind, int], Trial]] = {}
        self._opened: dict[int, Trial] = {}
        self._reached = -1
        self._seen: list[Refusal] = []
        self._unseen: dict[Trial, Refusal] = {}

    # Trials

    def require_unlocked(self) -> None:
        """Refuse to open anything once too many sums were refused or void.

        Raises:
            RoundError (locked): until the operator has looked.
            MemoryFileError: the record cannot be read.
        """
        if self.locked:
            raise RoundError(
                f"{len(self._unseen)} sums were refused or void, {self._most} lock this institution: nothing is opened. Look at what was "
                "refused, then run `dictpfl institution unlock`",
                code="locked",
            )

    def admit(self, number: int, kind: RoundKind, attempt: int, digest: bytes) -> bool:
        """Record, durably, that a sum is tried; to be called before anything that may fail on its content.

        A sum that was tried already may be tried again: a process may have been killed, or the memory restored.

        Args:
            number: number of the round.
            kind: its kind.
            attempt: number of the attempt at the round.
            digest: SHA-256 of the sum, 32 bytes.

        Returns:
            Whether this very sum was refused here before.

        Raises:
            RoundError (locked): too many were refused.
            RoundError (refused): another sum of this round was opened, or of this kind and attempt tried. It counts as a refusal, once.
            MemoryFileError: the record cannot be read or written.
        """
        self.require_unlocked()
        one, tried = Trial(number, kind, attempt, digest), self._tried.get(number, {})
        opened = self._opened.get(number)
        first = opened or tried.get((kind, attempt))
        if first == one:
            return self._was_refused(one)
        if first is not None:
            self._refuse(one, ANOTHER)
            remedy = (
                f"Only if the coordinator's journal was lost meanwhile, and all agree on it, move all but *.privacy.json in {self._folder} away: "
                "this institution then begins anew"
                if opened
                else "Compare the others' digests, then run `dictpfl institution unlock`: it may be tried then"
            )
            raise RoundError(
                f"{one}: expected {first.digest.hex()[:12]}, which was {'opened' if opened else 'tried'} here; not opened. {remedy}",
                code="refused",
            )
        # Whoever kept a refusal from being recorded, by luck or by ending the process, gains no trial by it.
        for other in [other for other in tried.values() if not self._was_refused(other)]:
            self._refuse(other, ABANDONED)
        self.require_unlocked()
        self._append({"event": "tried", **one.to_json()})
        return self._was_refused(one)

    def opened(self, number: int, kind: RoundKind, attempt: int, digest: bytes) -> None:
        """Record, durably, that a sum is opened next: of its round no other one is from now on, whatever its attempt, nor after `unlock`.

        Args:
            number: number of the round.
            kind: its kind.
            attempt: number of the attempt at the round.
            digest: SHA-256 of the sum, 32 bytes.

        Raises:
            MemoryFileError: the record cannot be read or written.
        """
        self._read()
        if number not in self._opened:
            self._append({"event": "opened", **Trial(number, kind, attempt, digest).to_json()})

    def refused(self, number: int, kind: RoundKind, attempt: int, digest: bytes, reason: str) -> None:
        """Record a refusal, or that a sum was void, durably, before it is told; a sum counts once until the operator has looked.

        Args:
            number: number of the round.
            kind: its kind.
            attempt: number of the attempt at the round.
            digest: SHA-256 of the sum, 32 bytes.
            reason: short word for what was wrong; it stays in this file.

        Raises:
            MemoryFileError: the record cannot be read or written.
        """
        self._read()
        self._refuse(Trial(number, kind, attempt, digest), reason)

    def _refuse(self, one: Trial, reason: str) -> None:
        if one not in self._unseen:
            self._append({"event": "refused", **one.to_json(), "reason": reason})

    def _was_refused(self, one: Trial) -> bool:
        return one in self._unseen or any(refusal.sum == one for refusal in self._seen)

    # Completeness

    def skip(self, number: int) -> None:
        """Record, durably, that a snapshot brought the state before round `number`: earlier sums were not opened here.

        Raises:
            MemoryFileError: the record cannot be read or written.
        """
        self._read()
        if number - 1 > self._reached:
            self._append({"event": "skipped", "round": number - 1})

    def require_complete(self, number: int) -> None:
        """Refuse a record that is older than the memory, as one restored from an older backup.

        Args:
            number: round that is next, the first of the epoch not included.

        Raises:
            MemoryFileError: the record ends before the round that the memory ends with.
        """
        self._read()
        if self._reached < number - 1:
            raise self._chain.damaged(
                f"it ends with round {self._reached}, this institution's memory with round {number - 1}"
            )

    # Operator

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Refusals that nobody has looked at, oldest first."""
        self._read()
        return tuple(self._unseen.values())

    @property
    def refusals_seen(self) -> tuple[Refusal, ...]:
        """Refusals that an operator has looked at, oldest first."""
        self._read()
        return tuple(self._seen)

    @property
    def locked(self) -> bool:
        """Tell whether nothing is opened until the operator has looked."""
        return len(self.refusals) >= self._most

    def unlock(self, shown: int | None = None) -> tuple[Refusal, ...]:
        """Record that the operator has looked, and return what was looked at; such sums may be tried once more, or others in their place.

        Args:
            shown: number of refusals that were shown, the oldest; None: all. Later ones still count.

        Raises:
            MemoryFileError: the record cannot be read or written.
        """
        looked_at = self.refusals[:shown]
        if looked_at:
            self._append({"event": "unlocked", "refused": len(looked_at)})
        return looked_at

    # File

    def _append(self, document: Mapping[str, Any]) -> None:
        timed = {**document, "at": time.time()}
        self._chain.append(timed)
        self._take(timed)

    def _read(self) -> None:
        anew, documents = self._chain.news()
        if anew:
            self._forget()
        for document in documents:
            self._take(document)

    def _take(self, document: Mapping[str, Any]) -> None:
        event = document["event"]
        if event == "unlocked":
            for one in list(self._unseen)[: document["refused"]]:
                self._seen.append(self._unseen.pop(one))
                # What was shown first may not have been the true one; where one was opened, that stays the only one.
                self._tried.get(one.round, {}).pop((one.kind, one.attempt), None)
            return
        self._reached = max(self._reached, document["round"])
        if event == "tried":
            one = Trial.of_json(document)
            self._tried.setdefault(one.round, {})[one.kind, one.attempt] = one
        elif event == "opened":
            one = Trial.of_json(document)
            self._opened[one.round] = one
        elif event == "refused":
            one = Trial.of_json(document)
            self._unseen[one] = Refusal(one, document["reason"], document["at"])


def openings_at(memory: Path, epoch: bytes, most_refused: int) -> Openings:
    """Make the record of an epoch, beside the file `memory`.

    Args:
        memory: path of the memory file.
        epoch: fingerprint of the epoch's key, as in genesis or in the table of epochs.
        most_refused: `InstitutionSettings.most_refused`.
    """
    return Openings(memory.with_suffix(f".{epoch.hex()[:16]}.opened.jsonl"), epoch, most_refused)


def openings_of(keys: Keyring, memory: Path, most_refused: int) -> Openings:
    """Make an institution's record for the epoch in force; sums of older epochs that are replayed stand in it, too."""
    return openings_at(memory, keys.genesis.fingerprint, most_refused)
