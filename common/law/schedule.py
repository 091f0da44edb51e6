"""Strength of pruning as rounds go by: decided before each round by a schedule (a door: `pruning.schedule`)."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from dictpfl.common.law.facts import Facts
from dictpfl.common.registry import Registry, require_part
from dictpfl.common.rounds import Pruning


class PruningSchedule(Protocol):
    """Decides s, tau and beta from shared facts only, so that everybody decides alike."""

    def at(self, facts: Facts, pruning: Pruning) -> Pruning:
        """Settings in force in the next round.

        Args:
            facts: shapes of the shared tensors, scores, course, and update rounds finished.
            pruning: as configured.
        """
        ...


SCHEDULES: Registry[type[PruningSchedule]] = Registry(
    "schedule", key="pruning.schedule", group="dictpfl.schedules", folder="dictpfl.common.law.schedules"
)


@lru_cache(maxsize=8)
def schedule(name: str) -> PruningSchedule:
    """Make the schedule that a name leads to.

    Raises:
        ConfigError: unknown, or no schedule.
    """
    made = SCHEDULES.load(name)()
    require_part(made, f"pruning.schedule {name!r}", {"at": 2})
    return made
