"""The same rank for every weight (arXiv 2510.21086, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping

from dictpfl.common.law.budget import ALLOCATORS
from dictpfl.common.law.facts import Facts


@ALLOCATORS.register("uniform")
class UniformAllocator:
    """Gives every weight the configured rank."""

    def ranks(self, facts: Facts, rank: int) -> Mapping[str, int]:
        """See `BudgetAllocator.ranks`."""
        return dict.fromkeys(facts.shapes, rank)
