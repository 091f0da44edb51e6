"""Server-side rules: what becomes of a round's mean update (`[aggregation]`; Reddi et al. 2021, arXiv 2003.00295, algorithm 2).

There is no server that could apply them here: every institution does, on the opened sum, and remembers the same moments.
Only +, -, *, /, square roots and comparisons of single values, which IEEE 754 rounds in one way: the same bits everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.errors import VoidError
from dictpfl.common.law.pruning import Bools
from dictpfl.common.law.streams import PIECE
from dictpfl.common.rounds import Aggregation

Floats = NDArray[np.float64]
Moments = tuple[Floats, ...]
"""Memory of a rule: nothing (`average`), m (`momentum`), or m and v; float64, shape (size,) each."""

_KEPT = {"average": 0, "momentum": 1, "adagrad": 2, "adam": 2, "yogi": 2}


def beginning(rule: Aggregation, size: int) -> Moments:
    """Make the moments before the first update: zeros."""
    return tuple(np.zeros(size) for _ in range(_KEPT[rule.rule]))


def anew(moments: Moments, coordinates: Bools) -> Moments:
    """Start the moments of the given coordinates anew, as at a refresh; `coordinates`: bool, shape (size,)."""
    return tuple(np.where(coordinates, 0.0, moment) for moment in moments)


def moved(
    rule: Aggregation, values: Floats, moments: Moments, mean: Floats, ruled: Bools, out: Floats | None = None
) -> tuple[Floats, Moments]:
    """Apply a round's mean update; returns the values and the moments after it.

    Args:
        rule: settings.
        values: x, float64, shape (size,).
        moments: moments before the round.
        mean: d, mean update, 0 where nothing was sent, float64, shape (size,).
        ruled: coordinates that the rule is for, bool, shape (size,): those that were sent, without statistics. Others
            change by d, and keep their moments.
        out: array that the values after it are written into; may be `mean` itself. None: a new one.

    Raises:
        VoidError: an update beyond what a float64 holds, of an institution that sent nonsense.
    """
    after = np.empty_like(values) if out is None else out
    remembered, largest = tuple(np.empty_like(moment) for moment in moments), 0.0
    for start in range(0, values.size, PIECE):
        piece = slice(start, start + PIECE)
        chosen, change = ruled[piece], mean[piece].copy()
        largest = max(largest, float(change.max()), -float(change.min()))
        with np.errstate(over="ignore", invalid="ignore"):
            change[chosen], part = _stepped(rule, tuple(moment[piece][chosen] for moment in moments), change[chosen])
            np.add(values[piece], change, out=after[piece])
        if not all(bool(np.isfinite(array).all()) for array in (after[piece], *part)):
            raise VoidError(
                f"the sum of the updates is so large ({largest:.3g} and more a value) that values or moments of "
                f"aggregation.rule = {rule.rule!r} would not be finite"
            )
        for moment, old, new in zip(remembered, moments, part, strict=True):
            moment[piece] = old[piece]
            moment[piece][chosen] = new
    return after, remembered


def _stepped(rule: Aggregation, moments: Moments, d: Floats) -> tuple[Floats, Moments]:
    """Change of the values, and the moments after it."""
    if rule.rule == "average":
        return rule.rate * d, ()
    if rule.rule == "momentum":
        m = rule.momentum * moments[0] + d
        return rule.rate * m, (m,)
    m, v = moments
    m = rule.momentum * m + (1.0 - rule.momentum) * d
    v = _squares(rule, v, d * d)
    return rule.rate * m / (np.sqrt(v) + rule.floor), (m, v)


def _squares(rule: Aggregation, v: Floats, squared: Floats) -> Floats:
    if rule.rule == "adagrad":
        return v + squared
    part = (1.0 - rule.second) * squared
    if rule.rule == "adam":
        return rule.second * v + part
    return np.where(v > squared, v - part, np.where(v < squared, v + part, v))
