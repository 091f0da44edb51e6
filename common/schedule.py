"""How hard pruning works as rounds go by: a seam with one default (DESIGN.md, Seams)."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from common.seams import load_seam
from common.settings import Pruning


class PruningSchedule(Protocol):
    """s, tau, beta as a function of shared facts only, so that everybody decides alike."""

    def at(self, updates: int, pruning: Pruning) -> Pruning:
        """The settings in force after so many update rounds."""
        ...


class ConstantSchedule:
    """The configured values in every round (the paper)."""

    def at(self, updates: int, pruning: Pruning) -> Pruning:  # noqa: ARG002 -- the protocol's signature
        """See `PruningSchedule.at`."""
        return pruning


@lru_cache(maxsize=8)
def schedule(name: str) -> PruningSchedule:
    """The schedule registered under a name, or `package.module:name`."""
    made: PruningSchedule = load_seam(name, {"constant": ConstantSchedule}, "pruning.schedule")()
    return made
