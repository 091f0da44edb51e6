"""The institution's own diary: one line for each thing done, with sizes and times; for its operator, never sent."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from client.site import DIARY

_log = structlog.get_logger(__name__)


class Diary:
    """Times phases, and writes them down with what they were for."""

    def __init__(self, folder: Path, name: str) -> None:
        """Of the institution of that name, in its folder."""
        self._path, self._name = folder / DIARY, name
        self._seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count what happens inside towards a phase of the next line."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - began

    def note(self, event: str, number: int, size: int, **facts: object) -> None:
        """Write a line, of round `number` and so many bytes; a disk that refuses is a warning and stops nothing."""
        seconds = {phase: round(value, 6) for phase, value in self._seconds.items()}
        self._seconds.clear()
        line = {"event": event, "round": number, "bytes": size, "seconds": seconds, "at": time.time(), **facts}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            _log.warning("diary not written", site=self._name, reason=str(error))
