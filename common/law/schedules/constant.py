"""The configured values in every round (arXiv 2510.21086, section 4.2)."""

from __future__ import annotations

from dictpfl.common.law.facts import Facts
from dictpfl.common.law.schedule import SCHEDULES
from dictpfl.common.rounds import Pruning


@SCHEDULES.register("constant")
class ConstantSchedule:
    """Leaves the configured settings as they are."""

    def at(self, facts: Facts, pruning: Pruning) -> Pruning:  # noqa: ARG002 -- the protocol's signature
        """See `PruningSchedule.at`."""
        return pruning
