"""Scales of plots: how far an axis goes where one value is far above all others."""

from __future__ import annotations

from collections.abc import Sequence

_FAR = 2.5
"""Times the second largest value from which on the largest is cut: it would press all others to the ground."""
_ROOM = 1.3
"""Room above the second largest value where the largest is cut."""


def cut(totals: Sequence[float]) -> float | None:
    """Return where to cut an axis at which one value is far above all others; None where no value is.

    The first round of a process loads libraries and compiles, and takes ten times as long as those that follow.
    """
    if len(totals) < 3:  # noqa: PLR2004 -- of two, neither is the odd one
        return None
    *_, second, largest = sorted(totals)
    return second * _ROOM if second > 0 and largest > _FAR * second else None
