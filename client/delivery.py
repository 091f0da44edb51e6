"""Whether an institution's uploads arrive in time, told to its own operator: in the log, the diary and `status`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_CLOSE = 0.8
"""Share of the deadline from which on an upload is likely to come too late: start-up and transfer are not in it."""


def explanation(seconds: float, deadline: float) -> str:
    """Why an upload that took `seconds` to make is not in its sum, and what to do.

    Args:
        seconds: from the arrival of the request to the stored upload; 0: not known.
        deadline: agreed seconds of a round.
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
    """The facts for log and diary; `late_seconds` is missing where it is not known."""
    facts: dict[str, Any] = {"made_in_seconds": round(seconds, 3), "deadline_seconds": deadline}
    if seconds > deadline:
        facts["late_seconds"] = round(seconds - deadline, 3)
    return facts | {"meaning": explanation(seconds, deadline)}


def summary(diary: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a diary's lines: uploads in sums and not in them, how many were missed in a row by now, and the last reason."""
    found: dict[str, Any] = {"counted": 0, "missed": 0, "missed_in_a_row": 0}
    for line in diary:
        if line.get("counted") is False:
            found["missed"] += 1
            found["missed_in_a_row"] += 1
            found["last_missed"] = {
                name: line[name] for name in ("round", "late_seconds", "made_in_seconds", "meaning") if name in line
            }
        elif line.get("counted") is True:
            found["counted"] += 1
            found["missed_in_a_row"] = 0
    return found
