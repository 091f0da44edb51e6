"""Bytes by party and round: what each institution says that it sent, beside what the coordinator says that it got."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dictpfl.client.folder import DIARY
from dictpfl.deploy.review.parties import Parties
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, open_journal
from dictpfl.server.recording import EVENTS, RECORDING

COLUMNS = 6
"""Institutions side by side; more go into further tables, so that a printed page holds them."""


@dataclass(frozen=True)
class Flow:
    """Bytes that one institution sent and received in one round."""

    sent: int = 0
    received: int = 0


@dataclass(frozen=True)
class Journalled:
    """A round as the coordinator journalled it.

    Attributes:
        kind: of round.
        uploads: in the sum.
        left_out: not in it.
        received: bytes of all uploads in the sum.
        sum: bytes of the sum, as each institution fetches it.
    """

    kind: str
    uploads: int
    left_out: int
    received: int
    sum: int


@dataclass(frozen=True)
class Egress:
    """The record.

    Attributes:
        flows: by institution and round, from the institutions' own diaries.
        journal: by round, from the coordinator's journal.
        snapshots: sealed snapshots at the coordinator, number and bytes.
        messages: what the coordinator recorded in all: messages out, bytes out, messages in, bytes in; None: no recording.
        damaged: institutions, with the number of lines of the diary that cannot be read; 0: the file cannot be.
        complete: the folders of all members are here.
    """

    flows: Mapping[str, Mapping[int, Flow]]
    journal: Mapping[int, Journalled]
    snapshots: tuple[int, int]
    messages: tuple[int, int, int, int] | None
    damaged: Mapping[str, int] = field(default_factory=dict)
    complete: bool = False

    @property
    def rounds(self) -> list[int]:
        """All rounds of which something is known."""
        return sorted({*self.journal, *(number for flows in self.flows.values() for number in flows)})

    @property
    def chunks(self) -> list[list[str]]:
        """Institutions, as many as go into a table."""
        names = list(self.flows)
        return [names[i : i + COLUMNS] for i in range(0, len(names), COLUMNS)]

    def flow(self, name: str, number: int) -> Flow:
        """Return the bytes of an institution in a round."""
        return self.flows[name].get(number, Flow())

    def total(self, name: str) -> Flow:
        """Return the bytes of an institution in all rounds."""
        flows = self.flows[name].values()
        return Flow(sum(f.sent for f in flows), sum(f.received for f in flows))

    @property
    def sent(self) -> int:
        """Bytes of uploads in all, by the diaries; by the journal where there are none."""
        if self.flows:
            return sum(self.total(name).sent for name in self.flows)
        return sum(line.received for line in self.journal.values())

    @property
    def comparable(self) -> list[int]:
        """Rounds that can be compared: as many institutions wrote of an upload as are in the sum."""
        return [
            number
            for number, line in self.journal.items()
            if not line.left_out and line.uploads == sum(self.flow(name, number).sent > 0 for name in self.flows)
        ]

    @property
    def untold(self) -> list[int]:
        """Rounds with more uploads in the sum than institutions wrote of, where all of them are here."""
        return [
            number
            for number, line in self.journal.items()
            if self.complete and line.uploads > sum(self.flow(name, number).sent > 0 for name in self.flows)
        ]

    @property
    def differing(self) -> list[int]:
        """Rounds of these in which diaries and journal do not say the same."""
        return [
            number
            for number in self.comparable
            if sum(self.flow(name, number).sent for name in self.flows) != self.journal[number].received
        ]


def egress(parties: Parties) -> Egress:
    """Read diaries, journal and recording.

    Raises:
        ConfigError, JournalError: the coordinator's files are damaged.
    """
    diaries = {parties.names[place]: _read(place / DIARY) for place in parties.institutions}
    lines: dict[int, Journalled] = {}
    snapshots, messages = (0, 0), None
    for folder in parties.coordinators:
        journal = open_journal(folder, Agreement.load(folder / AGREEMENT))
        try:
            sums, kept = journal.contributors(), journal.snapshots()
            for r in journal.rounds():
                lines[r.round] = Journalled(
                    str(r.kind), sums[r.round][0], len(r.rejected), r.bytes_up, sums[r.round][1]
                )
        finally:
            journal.close()
        snapshots = (len(kept), sum(kept.values()))
        if (folder / RECORDING / EVENTS).exists():
            messages = _messages(folder / RECORDING / EVENTS)
    return Egress(
        {name: rounds for name, (entries, _) in diaries.items() if (rounds := _flows(entries))},
        lines,
        snapshots,
        messages,
        {name: count for name, (_, count) in diaries.items() if count is not None},
        bool(parties.agreement and 0 < len(parties.agreement.members) <= len(diaries)),
    )


def _flows(entries: Iterable[Mapping[str, Any]]) -> dict[int, Flow]:
    flows: dict[int, Flow] = {}
    for entry in entries:
        event, number, size = entry.get("event"), entry.get("round"), entry.get("bytes")
        if not isinstance(number, int) or not isinstance(size, int):
            continue
        before = flows.get(number, Flow())
        if event in ("uploaded", "told"):
            flows[number] = Flow(before.sent + size, before.received)
        elif event in ("applied", "jumped"):
            flows[number] = Flow(before.sent, before.received + size)
    return flows


def _messages(path: Path) -> tuple[int, int, int, int]:
    entries, _ = _read(path)
    asked = [_size(e, "bytes") for e in entries if e.get("event") == "asked"]
    answered = [_size(e, "bytes") + _size(e, "snapshot") for e in entries if e.get("event") == "answered"]
    return len(asked), sum(asked), len(answered), sum(answered)


def _size(entry: Mapping[str, Any], name: str) -> int:
    size = entry.get(name, 0)
    return size if isinstance(size, int) else 0


def _read(path: Path) -> tuple[list[dict[str, Any]], int | None]:
    """Read a file of a JSON object a line.

    Returns:
        The objects, and how many lines are none, but for a last one that a crash cut off; None: all are, 0: the file cannot be read.
    """
    try:
        *whole, last = map(_entry, path.read_bytes().split(b"\n"))
    except FileNotFoundError:
        return [], None
    except OSError:
        return [], 0
    return [entry for entry in (*whole, last) if entry is not None], whole.count(None) or None


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
