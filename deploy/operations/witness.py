"""Witness of rounds for the coordinator's custody log: read from the journal while `coordinator up` runs.

The server app that closes rounds is part of the agreed bundle and holds no key at all, so it does not sign; the
supervisor does, a moment later. What was closed while no supervisor looked is entered when the next one starts.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from dictpfl.deploy.ceremony.custody import LOG, Recorder, drop_unfinished, verify
from dictpfl.deploy.ceremony.identity import Signer
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, JOURNAL, open_journal
from dictpfl.server.journal import Journal
from dictpfl.server.rows import ClosedRound

CLOSED, BACK = "round closed", "journal went back"


class Witness:
    """Enters rounds into the custody log of a coordinator's folder."""

    def __init__(self, folder: Path, signer: Signer) -> None:
        """Make it.

        Raises:
            CustodyError: the log was altered.
        """
        self._folder = folder
        self._custody = Recorder(folder, signer)
        self._next = 0
        self._require_whole()

    def _require_whole(self) -> None:
        """Read how far the log speaks of rounds, where another process wrote it."""
        if self._custody.touched:
            drop_unfinished(self._folder)  # of a full disk: else `up` would not start, nor go on once there is room
            self._next = _next_in(self._folder)

    def look(self) -> int:
        """Enter the rounds that were closed since; returns how many.

        Raises:
            DictPFLError: journal, agreement or log cannot be used.
        """
        if not (self._folder / JOURNAL).exists():
            return 0
        agreement = Agreement.load(self._folder / AGREEMENT)
        self._require_whole()
        journal = open_journal(self._folder, agreement)
        try:
            return self._entered(journal)
        finally:
            journal.close()

    def _entered(self, journal: Journal) -> int:
        if journal.next_round < self._next:
            self._custody.record(BACK, to=journal.next_round, recorded=self._next)
            self._next = journal.next_round
        rounds = journal.rounds(self._next)
        if not rounds:
            return 0
        digests, sums = journal.digests(self._next), journal.contributors()
        for closed, (number, digest) in zip(rounds, digests, strict=False):
            if closed.round != number:
                break  # closed while we read; the next look finds both
            self._custody.record(CLOSED, **_facts(closed, sums[number][0], digest))
            self._next = number + 1
        return len(rounds)


def _facts(closed: ClosedRound, contributors: int, digest: str) -> dict[str, object]:
    return {
        "round": closed.round,
        "kind": str(closed.kind),
        "started": _time(closed.started),
        "ended": _time(closed.ended),
        "contributors": contributors,
        "left_out": len(closed.rejected),
        "aggregate": digest,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _next_in(folder: Path) -> int:
    """Return the round after the last one that the log speaks of."""
    if not (folder / LOG).exists():
        return 0
    (log,) = verify(folder / LOG)
    for entry in reversed(log.entries):
        if entry["event"] == CLOSED:
            return int(entry["facts"]["round"]) + 1
        if entry["event"] == BACK:
            return int(entry["facts"]["to"])
    return 0
