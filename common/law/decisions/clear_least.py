"""Selective encryption: the least sensitive values cross in clear (FedML-HE, arXiv 2303.10837)."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.law.decision import DECISIONS, Scored
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.pruning import Bools, smallest
from dictpfl.common.law.state import SharedState
from dictpfl.common.rounds import CLEAR_LEAST


def least(layout: Layout, scores: NDArray[np.float64], sealed_share: float) -> Bools:
    """Coordinates with the smallest scores, which cross in clear; running statistics never do.

    Args:
        layout: of the shared vector.
        scores: not negative, float64, shape (size,).
        sealed_share: share of the values that stays encrypted.
    """
    clear = smallest(scores, float(Fraction(1) - Fraction(str(sealed_share))))
    return clear & ~layout.coordinates(Kind.STATISTIC)


@DECISIONS.register(CLEAR_LEAST)
class ClearLeast:
    """Picks what crosses in clear by the magnitude of its summed score."""

    def decide(self, state: SharedState, scored: Scored) -> SharedState:
        """See `Decision.decide`."""
        return replace(state, clear=least(scored.layout, np.abs(scored.scores), scored.sealed_share))
