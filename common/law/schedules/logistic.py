"""A budget of values over all rounds, on a falling curve: many in early rounds, few in late ones (docs/decisions/0008)."""

from __future__ import annotations

from dictpfl.common.law.curve import budgeted
from dictpfl.common.law.facts import Facts
from dictpfl.common.law.schedule import SCHEDULES
from dictpfl.common.rounds import Pruning


@SCHEDULES.register("logistic")
class LogisticSchedule:
    """Sets how many prunable values a round sends, so that all update rounds together send `budget.values`, exactly."""

    def at(self, facts: Facts, pruning: Pruning) -> Pruning:
        """See `PruningSchedule.at`.

        Raises:
            ConfigError: a budget that so many rounds cannot send, or must exceed.
        """
        if facts.updates >= facts.rounds:
            return pruning  # nothing is trained any more
        budget, rounds = pruning.budget, facts.rounds
        counts = budgeted(
            rounds,
            budget.values,
            facts.always + min(1, facts.prunable),
            facts.always + facts.prunable,
            centre=budget.centre,
            slope=budget.slope,
        )
        return pruning.model_copy(update={"quota": counts[facts.updates] - facts.always})
