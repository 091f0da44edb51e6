"""Diary of an institution: one line for each action, with sizes and times; for its operator, never sent."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from dictpfl.client.folder import DIARY
from dictpfl.common.documents import json_text
from dictpfl.common.errors import DictPFLError, own_place
from dictpfl.common.files import append_line

_log = structlog.get_logger(__name__)


class Diary:
    """Diary that times phases and writes a line for each action."""

    def __init__(self, folder: Path, name: str) -> None:
        """Open the diary of the institution `name` in its folder; nothing is written yet."""
        self._path, self._name = folder / DIARY, name
        self._seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to a phase of the next line."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - began

    def note(self, event: str, number: int, size: int, **facts: object) -> None:
        """Write a line about round `number` and `size` bytes; a disk that refuses is a warning and stops nothing."""
        seconds = {phase: round(value, 6) for phase, value in self._seconds.items()}
        self._seconds.clear()
        line = {"event": event, "round": number, "bytes": size, "seconds": seconds, "at": time.time(), **facts}
        try:
            append_line(self._path, json_text(line).encode())
        except OSError as error:
            _log.warning("diary not written", institution=self._name, reason=str(error))

    def failed(self, number: int, error: Exception) -> None:
        """Write a line about a request of round `number` that an error ended, with the place in code of the institution's own, if any."""
        words = str(error) if isinstance(error, DictPFLError) else f"{type(error).__name__}: {error}"
        place = own_place(error)
        self.note("failed", number, 0, reason=f"{words} (in {place})" if place else words)

    def delivery(self, number: int, seconds: float, deadline: float, *, counted: bool) -> dict[str, Any]:
        """Return what a line says of the upload of round `number`, and log it if missed: the institution hears of it nowhere else."""
        if counted:
            return {"counted": True}
        facts = missed(seconds, deadline)
        _log.warning("this institution's upload is not in the sum", institution=self._name, round=number, **facts)
        return {"counted": False, **facts}


def read_diary(path: Path, most: int = 0) -> list[dict[str, Any]]:
    """Read a diary's lines, the newest last; one that a crash cut off, or that is damaged, is passed over, and a missing file is empty.

    Args:
        path: of the diary.
        most: bytes at its end that are read; 0: all.

    Returns:
        The lines, each with an `event`, a str, and a `round`, an int.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - most) if most else 0)
            lines = file.read().split(b"\n")
    except OSError:
        return []
    return [entry for entry in map(_entry, lines) if entry is not None]


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        return {**entry, "event": str(entry["event"]), "round": int(entry["round"])}
    except (ValueError, KeyError, TypeError):
        return None


_CLOSE = 0.8
"""Share of the deadline beyond which an upload is likely to come too late: start-up and transfer come on top."""


def explanation(seconds: float, deadline: float) -> str:
    """Explain why an upload that took `seconds` to make is not in its sum, and what to do.

    Args:
        seconds: time from the arrival of the request to the stored upload; 0: not known.
        deadline: agreed length of a round, seconds.
    """
    took = f"making it took {seconds:.1f} s here of the {deadline:.1f} s that a round waits"
    if seconds > deadline:
        return (
            f"{took}: it was late by {seconds - deadline:.1f} s or more. Give this machine more speed or fewer other "
            "duties (seconds by phase are in the diary), or ask the coordinator to raise deadline_seconds"
        )
    if seconds > _CLOSE * deadline:
        return (
            f"{took}, and starting a process and the way there come on top: most likely it was late. Give this machine "
            "more speed, look at the line, or ask the coordinator to raise deadline_seconds"
        )
    if not seconds:
        return "how long it took is not known; the coordinator's `dictpfl status` has the reason"
    return (
        f"{took}, so it was lost or held up on the way, or refused: look at the line and at the logs of this institution's "
        "processes, and ask the coordinator for the reason in its `dictpfl status`"
    )


def missed(seconds: float, deadline: float) -> dict[str, Any]:
    """Gather the facts about a late upload for log and diary; `late_seconds` is missing where it is not known."""
    facts: dict[str, Any] = {"made_in_seconds": round(seconds, 3), "deadline_seconds": deadline}
    if seconds > deadline:
        facts["late_seconds"] = round(seconds - deadline, 3)
    return facts | {"meaning": explanation(seconds, deadline)}


def troubles(diary: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Gather a diary's void rounds and refused sums, oldest first: of each round, attempt, reason and time, as far as known."""
    gathered: dict[str, list[dict[str, Any]]] = {"void": [], "refused": []}
    for line in diary:
        if line.get("event") in gathered:
            kept = {name: line[name] for name in ("round", "attempt", "reason", "at") if name in line}
            gathered[line["event"]].append(kept)
    return gathered


def summary(diary: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise a diary's lines: uploads in sums, uploads missed, those missed in a row by now, and the last reason."""
    totals: dict[str, Any] = {"counted": 0, "missed": 0, "missed_in_a_row": 0}
    for line in diary:
        if line.get("counted") is False:
            totals["missed"] += 1
            totals["missed_in_a_row"] += 1
            totals["last_missed"] = {
                name: line[name] for name in ("round", "late_seconds", "made_in_seconds", "meaning") if name in line
            }
        elif line.get("counted") is True:
            totals["counted"] += 1
            totals["missed_in_a_row"] = 0
    return totals
