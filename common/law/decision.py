"""Decisions that institutions take together from sealed scores (a door: `scores.decision`).

In a score round every institution sends a number for each shared value instead of an update: sealed, added and opened
like any other sum. What follows from the sum is a decision: a change of shared state that everybody makes alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.law.layout import Layout
from dictpfl.common.law.state import SharedState
from dictpfl.common.registry import Registry, require_part
from dictpfl.common.rounds import Pruning

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """Opened scores of a score round, for a decision.

    Attributes:
        layout: of the shared vector.
        scores: opened sums of weight times score, float64, shape (size,); the same bits at every institution.
        weight: sum of the weights, so that `scores / weight` are means.
        sealed_share: share of the values to be encrypted (`encryption.sealed_share`).
        pruning: as configured; a coordinate whose `history.idle` is `pruning.tau` starts out pruned.
    """

    layout: Layout
    scores: Floats
    weight: float
    sealed_share: float
    pruning: Pruning

    def by_tensor(self) -> Floats:
        """Mean score of each tensor's values, float64, shape (tensors,); added in the order of the coordinates."""
        sums = np.zeros(len(self.layout.entries))
        np.add.at(sums, self.layout.tensor_of, self.scores)
        sizes = np.array([entry.size for entry in self.layout.entries], dtype=np.float64)
        means: Floats = sums / sizes / self.weight
        return means


class Decision(Protocol):
    """Turns opened scores into the next shared state, by operations that give the same bits on every machine."""

    def decide(self, state: SharedState, scored: Scored) -> SharedState:
        """Shared state with what was decided; the round's number is moved on by the caller.

        Args:
            state: before the round; not altered. Replace `clear`, `history` or `values` of it.
            scored: what was opened.
        """
        ...


DECISIONS: Registry[type[Decision]] = Registry(
    "decision", key="scores.decision", group="dictpfl.decisions", folder="dictpfl.common.law.decisions"
)


def decision(name: str) -> Decision:
    """Make the decision that a name leads to.

    Raises:
        ConfigError: unknown.
    """
    made = DECISIONS.load(name)()
    require_part(made, f"scores.decision {name!r}", {"decide": 2})
    return made
