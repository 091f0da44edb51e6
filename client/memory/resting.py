"""Rest of institutions: those of a process that worked last keep records and samples in memory, within a budget.

A deployment's process has one institution. A simulation's has hundreds, each with a residual and a waiting upload as
long as the shared vector: all of it lies on disk anyway, and is read again when its institution is asked.
"""

from __future__ import annotations

from typing import Protocol
from weakref import WeakKeyDictionary

MOST_BYTES = 512 * 2**20
"""Records and samples that a process keeps in memory; those of the institution at work in any case."""


class Resting(Protocol):
    """Somebody who can let go of what is on disk, too."""

    def rest(self) -> None:
        """Let go of it."""
        ...


_AWAKE: WeakKeyDictionary[Resting, int] = WeakKeyDictionary()
"""Bytes in memory by institution; the one that worked last comes last."""


def worked(one: Resting, size: int) -> None:
    """Note that an institution has worked and holds `size` bytes; those that worked longest ago rest, as many as it takes."""
    _AWAKE.pop(one, None)
    _AWAKE[one] = size
    while sum(_AWAKE.values()) > MOST_BYTES and len(_AWAKE) > 1:
        first = next(iter(_AWAKE))
        del _AWAKE[first]
        first.rest()
