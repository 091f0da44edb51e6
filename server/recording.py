"""Recording of what a curious coordinator can keep: every upload and its time, beside the journal that it keeps anyway.

A coordinator whose folder holds a folder `recording` writes there; simulated and deployed ones alike. Nothing else
changes: no institution can tell. `dictpfl.deploy.attacks` reads it as the coordinator's view.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dictpfl.common.errors import JournalError
from dictpfl.common.files import append_line, append_private
from dictpfl.common.messages.protocol import Reply, Request
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, Coordinator, open_journal
from dictpfl.server.journal import Journal

RECORDING, EVENTS = "recording", "events.jsonl"


class RecordingCoordinator(Coordinator):
    """Coordinator that follows the protocol and keeps what it sees."""

    def __init__(self, agreement: Agreement, journal: Journal, folder: Path) -> None:
        super().__init__(agreement, journal)
        self._recording = folder / RECORDING
        # After the newest, not by their number: somebody may have made room, and what follows must not go into a file that is there.
        kept = (int(path.stem) for path in self._recording.glob("*.upload") if path.stem.isdecimal())
        self._count = max(kept, default=-1) + 1

    def begin(self, nodes: Sequence[int]) -> dict[int, Request]:
        """Open the next exchange, and note whom it asks."""
        requests = super().begin(nodes)
        for node, request in requests.items():
            self._note_request(node, request)
        return requests

    def receive(self, node: int, reply: Reply) -> Request | None:
        """Keep an answer, then take it."""
        name = ""
        if reply.blob:
            name = f"{self._count:06d}.upload"
            self._count += 1
            with self._writing(), append_private(self._recording / name) as file:
                file.write(reply.blob)
        self._note(
            "answered", node, reply.round, status=str(reply.status), position=reply.position, code=reply.code,
            bytes=len(reply.blob), snapshot=len(reply.snapshot), file=name,
        )  # fmt: skip
        further = super().receive(node, reply)
        if further is not None:
            self._note_request(node, further)
        return further

    def _note_request(self, node: int, request: Request) -> None:
        size = len(request.snapshot) + sum(len(aggregate.blob) for aggregate in request.aggregates)
        self._note("asked", node, request.round, kind=str(request.kind or ""), bytes=size)

    def _note(self, event: str, node: int, number: int, **facts: Any) -> None:
        line = {"event": event, "node": node, "round": number, "at": time.time(), **facts}
        with self._writing():
            append_line(self._recording / EVENTS, json.dumps(line).encode())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise JournalError(
                f"cannot write {self._recording}: {error}; make room, or move the folder away to stop recording"
            ) from error


def open_coordinator(folder: Path) -> Coordinator:
    """Open the coordinator of a folder; one that records if there is a folder `recording` in it.

    Raises:
        ConfigError: the agreement is missing or damaged.
        JournalError: the journal is damaged, of another federation, or in another epoch.
    """
    if not (folder / RECORDING).is_dir():
        return Coordinator.open(folder)
    agreement = Agreement.load(folder / AGREEMENT)
    return RecordingCoordinator(agreement, open_journal(folder, agreement, whole=True), folder)
