"""pruning.schedule = "gentle": prune half as much until two updates are made."""

from dictpfl.common.law.facts import Facts
from dictpfl.common.rounds import Pruning


class GentleStart:
    """Halves s in the first rounds."""

    def at(self, facts: Facts, pruning: Pruning) -> Pruning:
        """Settings in force in the next round."""
        return pruning.model_copy(update={"s": pruning.s / 2}) if facts.updates < 2 else pruning
