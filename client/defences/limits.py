"""Limits on what refusals tell by their time, and on what they cost in disk."""

from __future__ import annotations

import math
from pathlib import Path

import structlog

_log = structlog.get_logger(__name__)
REFUSAL_SECONDS = 1.0
"""Step in which refusals leave: well above what checking a sum takes, so that it does not show which check failed."""
MOST_EVIDENCE = 20
"""Most files of evidence in an institution's folder; each is as large as a sum."""


def waiting(passed: float, every: float, *, refuses: bool) -> float:
    """Compute how long an answer waits before it leaves, seconds.

    Args:
        passed: seconds since the request came.
        every: `InstitutionSettings.reply_every_seconds`; 0: accepting answers leave at once.
        refuses: the answer refuses a sum. It leaves at whole multiples of `REFUSAL_SECONDS`; where `every` is set, of
            the least multiple of `every` that is no shorter, so that refusals keep to that step, too.
    """
    step = every
    if refuses:
        step = every * math.ceil(REFUSAL_SECONDS / every) if every else REFUSAL_SECONDS
    return -passed % step if step else 0.0


def has_room(evidence: Path, most: int = MOST_EVIDENCE) -> bool:
    """Tell whether a folder of evidence takes another file; if not, say so in the log. The oldest files stay."""
    full = len(list(evidence.glob("*.json"))) >= most
    if full:
        _log.warning(
            "evidence not kept: the folder is full; move what you have looked at elsewhere",
            folder=str(evidence),
            most=most,
        )
    return not full
