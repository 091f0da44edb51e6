"""TIP and HRC: which values are sent, from the history of opened sums (section 11)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from dictpfl.common.arrays import Ints
from dictpfl.deploy.audit.formats.streams import expand
from dictpfl.deploy.audit.replay.agreement import Agreement, Bools, Floats
from dictpfl.deploy.audit.replay.state import State

_MOST = 256
_UNSAID = {"threshold": "sent", "quantile": "smallest", "window": "restart", "reactivation": True}
"""Readings of the paper that runs of earlier releases do not name."""


def _settings(agreement: Agreement) -> Mapping[str, Any]:
    return {**_UNSAID, **agreement.config["pruning"]}


def prunable(agreement: Agreement) -> Bools:
    """Mask of the values that pruning may leave out."""
    pruning = agreement.config["pruning"]
    return agreement.of_kinds(pruning["kinds"] if pruning["enabled"] else [])


@lru_cache(maxsize=8)
def thresholds(beta: str) -> list[int]:
    """Compute floor(beta^e 2^32) for e = 0, 1, ... as long as it is positive, at most 256 of them."""
    numbers: list[int] = []
    while len(numbers) < _MOST and (number := int(Fraction(beta) ** len(numbers) * 2**32)):
        numbers.append(number)
    return numbers


def sent(agreement: Agreement, state: State) -> Bools:
    """Mask of the values that an update round sends, refreshes left aside."""
    pruning = _settings(agreement)
    mask = np.ones(agreement.size, dtype=bool)
    pruned = np.flatnonzero(prunable(agreement) & (state.idle >= pruning["tau"]))
    if not pruning["reactivation"]:
        mask[pruned] = False
        return mask
    drawn = expand(agreement.seed, "reactivation", agreement.federation, state.round, length=4 * pruned.size)
    limits = thresholds(str(pruning["beta"]))
    for place, draw in zip(pruned.tolist(), np.frombuffer(drawn, "<u4").tolist(), strict=True):
        mask[place] = draw < limits[min(int(state.exponent[place]), len(limits) - 1)]
    return mask


def smallest(magnitudes: Floats, share: str) -> Bools:
    """Mask of the floor(share n) smallest of n magnitudes, of equal ones the first."""
    order = np.argsort(magnitudes, kind="stable")
    mask = np.zeros(magnitudes.size, dtype=bool)
    mask[order[: int(Fraction(share) * magnitudes.size)]] = True
    return mask


def judged(agreement: Agreement, state: State, mask: Bools, total: Floats) -> State:
    """Move the history on after an update round.

    Args:
        agreement: agreement of the federation.
        state: state before the round.
        mask: values that were sent.
        total: sum of the weighted updates, float64, shape (size,).
    """
    index = np.flatnonzero(mask & prunable(agreement))
    if not index.size:
        return state
    pruning = _settings(agreement)
    counted = index if pruning["threshold"] == "sent" else np.flatnonzero(prunable(agreement))
    low = set(counted[_inactive(agreement, pruning, counted, np.abs(total[counted]))].tolist())
    idle, exponent = state.idle.copy(), state.exponent.copy()
    tau, top = int(pruning["tau"]), len(thresholds(str(pruning["beta"]))) - 1
    for place in index.tolist():
        is_below = place in low
        if pruning["window"] == "literal":
            idle[place] = min(int(idle[place]) + 1, tau) if is_below else 0
            e = int(exponent[place]) + (-1 if not is_below else int(idle[place] == tau))
            exponent[place] = min(max(e, 0), top)
        elif idle[place] < tau:
            idle[place] = idle[place] + 1 if is_below else 0
            exponent[place] = 1 if idle[place] >= tau else 0
        else:
            e = int(exponent[place]) + (1 if is_below else -1)
            exponent[place] = min(max(e, 0), top)
            if e <= 0:
                idle[place] = 0
    return replace(state, idle=idle, exponent=exponent)


def _inactive(agreement: Agreement, pruning: Mapping[str, Any], index: Ints, magnitudes: Floats) -> Bools:
    share = str(pruning["s"] if pruning["quantile"] == "smallest" else float(1 - Fraction(str(pruning["s"]))))
    if pruning["scope"] == "global":
        return smallest(magnitudes, share)
    tensors, mask = agreement.tensor_of[index], np.zeros(index.size, dtype=bool)
    for number in np.unique(tensors):
        mask[tensors == number] = smallest(magnitudes[tensors == number], share)
    return mask
