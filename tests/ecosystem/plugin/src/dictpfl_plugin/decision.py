"""scores.decision = "rest-least": what matters least to all institutions together starts out pruned."""

from dataclasses import replace

import numpy as np

from dictpfl.common.law.decision import Scored
from dictpfl.common.law.layout import Kind
from dictpfl.common.law.pruning import History, smallest
from dictpfl.common.law.state import SharedState


class RestLeast:
    """Marks the half of the tables' coordinates with the smallest scores as pruned once; they come back by chance."""

    def decide(self, state: SharedState, scored: Scored) -> SharedState:
        """Shared state with a pruning history, as if these had moved little for a while."""
        resting = smallest(np.abs(scored.scores), 0.5) & scored.layout.coordinates(Kind.TABLE)
        idle, exponent = state.history.idle.copy(), state.history.exponent.copy()
        idle[resting], exponent[resting] = scored.pruning.tau, 1
        return replace(state, history=History(idle, exponent))
