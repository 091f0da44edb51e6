"""Refused and void sums as an institution's operator sees them: how many, whether they lock it, what they were, and the way on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from dictpfl.client.defences.evidence import EVIDENCE
from dictpfl.client.defences.openings import MEANINGS, NONSENSE, Openings, Refusal, openings_at
from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.keys.epochs import home
from dictpfl.client.memory.record import Memory
from dictpfl.common.files import in_shell
from dictpfl.common.genesis import DOCUMENT, Genesis
from dictpfl.deploy.units import counted

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Standing:
    """Standing of an institution's refusals in the epoch in force.

    Attributes:
        folder: the institution's.
        most: refused and void sums at which it locks.
        unseen: those that nobody has looked at.
        seen: refusals before the last `dictpfl institution unlock`.
    """

    folder: Path
    most: int
    unseen: tuple[Refusal, ...]
    seen: tuple[Refusal, ...]

    @property
    def locked(self) -> bool:
        """Tell whether the institution opens nothing."""
        return len(self.unseen) >= self.most

    @property
    def text(self) -> str:
        """Text for people, with what to do; empty where there is nothing to look at."""
        void = sum(refusal.reason == NONSENSE for refusal in self.unseen)
        count = counted(len(self.unseen), "refused sum") + (f" ({void} void)" if void else "")
        command = f"`dictpfl institution unlock --folder {in_shell(self.folder)}`"
        if self.locked:
            return (
                f"locked: {count}, and nothing is opened. Look at logs/superexec.log and {EVIDENCE}/ in {self.folder}, "
                f"then run {command}"
            )
        return f"{count}, {self.most} lock this institution; {command} shows them" if self.unseen else ""

    def lines(self) -> Iterator[str]:
        """List the refusals that nobody has looked at, each with its evidence."""
        for refusal in self.unseen:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(refusal.at))
            meaning = MEANINGS.get(refusal.reason)
            yield f"{when} UTC  {refusal.sum}: {refusal.reason}" + (f" ({meaning})" if meaning else "")
            for path in self._evidence(refusal):
                yield f"  evidence: {path}"

    def to_json(self) -> dict[str, Any]:
        """Return what `dictpfl status --json` says."""
        sums = [{**one.sum.to_json(), "reason": one.reason, "at": one.at} for one in self.unseen]
        return {"locked": self.locked, "most": self.most, "sums": sums, "looked_at": len(self.seen), "text": self.text}

    def _evidence(self, refusal: Refusal) -> list[Path]:
        # Its name has a digest of more than the sum: files of the round are near enough for a person.
        return sorted((self.folder / EVIDENCE).glob(f"round-{refusal.sum.round:06d}-*.json"))


class Refusals:
    """Refusals of the institution in a folder; genesis is read once an epoch."""

    def __init__(self, folder: Path) -> None:
        """Set up; nothing is read yet."""
        self._folder = folder
        self._of: tuple[Path, int, Memory, bytes] | None = None
        self._openings: tuple[int, Openings] | None = None
        self._said: tuple[int, bool] = (0, False)

    def standing(self) -> Standing:
        """Read how it stands now.

        Raises:
            DictPFLError: the folder or the record cannot be read.
        """
        most = InstitutionSettings.load(self._folder).most_refused
        openings = self._record(most)
        return Standing(self._folder, most, openings.refusals, openings.refusals_seen)

    def unlock(self, shown: Standing) -> int:
        """Record that the operator has looked at what was shown; waits for what the institution is doing.

        Returns:
            Number of refusals that no longer count.

        Raises:
            DictPFLError: the folder or the record cannot be read or written.
        """
        openings = self._record(InstitutionSettings.load(self._folder).most_refused)
        with self._epoch()[0].locked():
            return len(openings.unlock(len(shown.unseen)))

    def look(self) -> bool:
        """Log what is new since the last call, for `up`; tell whether anything was."""
        standing = self.standing()
        now = (len(standing.unseen), standing.locked)
        before, self._said = self._said, now
        if now == before:
            return False
        if standing.locked:
            _log.error(standing.text, refused=now[0])
        elif standing.unseen:
            _log.warning(standing.text, refused=now[0])
        else:
            _log.info("unlocked: sums are opened again")
        return True

    def _record(self, most: int) -> Openings:
        of = self._of
        memory, fingerprint = self._epoch()
        if self._openings is None or self._openings[0] != most or self._of is not of:
            self._openings = (most, openings_at(memory.path, fingerprint, most))
        return self._openings[1]

    def _epoch(self) -> tuple[Memory, bytes]:
        document = home(self._folder) / DOCUMENT
        written = document.stat().st_mtime_ns if document.exists() else 0
        if self._of is None or self._of[:2] != (document, written):
            genesis = Genesis.load(document.parent)
            self._of = (document, written, Memory(self._folder / "memory", genesis.federation), genesis.fingerprint)
        return self._of[2], self._of[3]
