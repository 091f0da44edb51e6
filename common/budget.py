"""Who gets how much rank: a seam with one default (DESIGN.md, Seams)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from common.seams import load_seam


class BudgetAllocator(Protocol):
    """Decides the rank of every covered weight from shared facts only, so that everybody decides alike."""

    def ranks(self, shapes: Mapping[str, tuple[int, int]], rank: int) -> Mapping[str, int]:
        """Rank for each weight name, given its (rows, columns) and the configured rank."""
        ...


class UniformAllocator:
    """The same rank for every weight (the paper)."""

    def ranks(self, shapes: Mapping[str, tuple[int, int]], rank: int) -> Mapping[str, int]:
        """See `BudgetAllocator.ranks`."""
        return dict.fromkeys(shapes, rank)


def allocator(name: str) -> BudgetAllocator:
    """The allocator registered under a name, or `package.module:name`."""
    made: BudgetAllocator = load_seam(name, {"uniform": UniformAllocator}, "decomposition.allocator")()
    return made
