"""Pruning masks that every institution derives from the history of opened sums, so that none is ever sent.

This is PrME, Prune-for-Minimum-Encrypt (arXiv 2510.21086, section 4.2), with its two rules TIP and HRC.

TIP prunes a coordinate whose aggregated update was among the smallest s of those sent, for tau rounds in
a row. HRC sends a pruned coordinate again with probability beta^e, and moves e after each round in which
it was sent; at e = 0 it is active again. All arithmetic is on integers. How the paper is read here, and which other
readings can be set (`[pruning]` threshold, quantile, window, reactivation): docs/decisions/0008.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.law.seeds import uint32s
from dictpfl.common.rounds import Pruning

Bools = NDArray[np.bool_]
_ONE = 1 << 32


@dataclass(frozen=True)
class History:
    """History that masks are derived from; one entry for each coordinate of the shared vector.

    Attributes:
        idle: inactive rounds in a row, uint8; at tau the coordinate is pruned.
        exponent: exponent e of the reactivation probability beta^e, uint8; 0 while active, but with `window = "literal"`.
    """

    idle: NDArray[np.uint8]
    exponent: NDArray[np.uint8]

    @classmethod
    def new(cls, size: int) -> History:
        """Make an empty history: every coordinate is active."""
        return cls(np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=np.uint8))


@lru_cache(maxsize=32)
def reactivation_thresholds(beta: float) -> NDArray[np.uint64]:
    """Compute floor(beta^e * 2^32) for e = 0, 1, ... while positive, uint64: a 32-bit draw below it reactivates.

    The last entry is the smallest positive probability; e never grows beyond it, so that no
    coordinate is lost for ever.
    """
    ratio = Fraction(str(beta))
    values: list[int] = []
    while len(values) < 256 and (value := int(ratio ** len(values) * _ONE)) > 0:  # noqa: PLR2004 -- e is a uint8
        values.append(value)
    return np.array(values, dtype=np.uint64)


def sent_mask(history: History, prunable: Bools, pruning: Pruning, seed: bytes, *context: bytes | int) -> Bools:
    """Mask, bool, shape (size,), of the sent coordinates: active ones, those never pruned, and those that HRC draws.

    Args:
        history: history before the round.
        prunable: bool, shape (size,); False: always sent.
        pruning: settings tau, beta and reactivation.
        seed: agreed seed, 32 bytes.
        *context: federation id and number of the round.
    """
    pruned = np.flatnonzero(prunable & (history.idle >= pruning.tau))
    mask = np.ones(prunable.size, dtype=bool)
    if not pruning.reactivation:
        mask[pruned] = False
        return mask
    thresholds = reactivation_thresholds(pruning.beta)
    draws = uint32s(seed, "reactivation", *context, count=pruned.size)
    mask[pruned] = draws < thresholds[np.minimum(history.exponent[pruned], thresholds.size - 1)]
    return mask


def met(mask: Bools, history: History, prunable: Bools, pruning: Pruning, seed: bytes, *context: bytes | int) -> Bools:
    """Cut a mask to exactly `pruning.quota` prunable coordinates, or fill it up to so many; those never pruned stay in it.

    First come those that TIP and HRC send, active ones before reactivated ones, then those that they leave out; within each the
    fewest idle rounds, the smallest exponent, and a draw of the agreed stream decide, equal draws by index.

    Args:
        mask: sent coordinates by TIP and HRC (`sent_mask`), bool, shape (size,).
        history: history before the round.
        prunable: bool, shape (size,).
        pruning: settings tau and quota; a quota above all prunable coordinates is all of them.
        seed: agreed seed, 32 bytes.
        *context: federation id and number of the round.
    """
    index = np.flatnonzero(prunable)
    idle, exponent, sent = history.idle[index], history.exponent[index], mask[index]
    draws = uint32s(seed, "budget", *context, count=index.size)
    order = np.lexsort((draws, exponent, idle, idle >= pruning.tau, ~sent))
    kept = mask.copy()
    kept[index] = False
    kept[index[order[: pruning.quota]]] = True
    return kept


def smallest(magnitudes: NDArray[np.float64], s: float) -> Bools:
    """Mask, bool, shape (n,), of the floor(s * n) smallest magnitudes, ties by index.

    Magnitudes are exact multiples of a power of two, non-negative, so their bit patterns order as
    integers.
    """
    count = int(Fraction(str(s)) * magnitudes.size)
    keys = np.ascontiguousarray(magnitudes).view(np.int64)
    if count == 0:
        return np.zeros(magnitudes.size, dtype=bool)
    theta = np.partition(keys, count - 1)[count - 1]
    below: Bools = keys < theta
    ties = np.flatnonzero(keys == theta)
    below[ties[: count - int(below.sum())]] = True
    return below


def inactive(magnitudes: NDArray[np.float64], tensors: NDArray[np.int32], pruning: Pruning) -> Bools:
    """Mask, bool, shape (n,), of the coordinates below theta, the s-quantile over all given ones or per tensor.

    Args:
        magnitudes: |aggregated update| of each coordinate that counts, float64, shape (n,).
        tensors: number of each one's tensor, shape (n,), ascending.
        pruning: settings `s`, `quantile` and `scope`.
    """
    share = pruning.s if pruning.quantile == "smallest" else float(1 - Fraction(str(pruning.s)))
    if pruning.scope == "global":
        return smallest(magnitudes, share)
    bounds = np.flatnonzero(np.diff(tensors)) + 1
    return np.concatenate([smallest(part, share) for part in np.split(magnitudes, bounds)])


def judged(
    total: NDArray[np.float64], sent: Bools, prunable: Bools, tensors: NDArray[np.int32], pruning: Pruning
) -> tuple[NDArray[np.int64], Bools]:
    """Find the prunable coordinates that were sent, int64, rising, and which of them were below theta, bool.

    Args:
        total: aggregated update, 0 where nothing was sent, float64, shape (size,).
        sent: mask of the sent coordinates, bool, shape (size,).
        prunable: mask of those that may be pruned, bool, shape (size,).
        tensors: number of each coordinate's tensor, shape (size,), ascending.
        pruning: settings `s`, `quantile`, `scope` and `threshold`.
    """
    index = np.flatnonzero(sent & prunable)
    counted = index if pruning.threshold == "sent" else np.flatnonzero(prunable)
    if not index.size:
        return index, np.zeros(0, dtype=bool)
    below = inactive(np.abs(total[counted]), tensors[counted], pruning)
    return index, below if counted is index else below[sent[counted]]


def advance(history: History, index: NDArray[np.int64], below: Bools, pruning: Pruning) -> History:
    """Advance the history by a round.

    An active coordinate counts or forgets idle rounds, and with the tau-th is pruned at e = 1. A pruned one that was
    sent moves e up when still inactive, down otherwise; at e = 0 it is active with no idle round.

    With `window = "literal"` a round that is not inactive always leaves no idle round, and e, which an active coordinate
    then keeps: it moves up with each inactive round from the tau-th on, down with each other one.

    Args:
        history: history before the round.
        index: prunable coordinates that were sent, int64, rising.
        below: which of them were inactive (`inactive`), bool, shape of `index`.
        pruning: settings tau, beta and window.
    """
    idle, exponent = history.idle.copy(), history.exponent.copy()
    was_pruned = idle[index] >= pruning.tau
    top = reactivation_thresholds(pruning.beta).size - 1
    if pruning.window == "literal":
        rounds = np.where(below, np.minimum(idle[index].astype(np.int64) + 1, pruning.tau), 0)
        moves = np.where(rounds >= pruning.tau, 1, np.where(below, 0, -1))
        idle[index] = rounds.astype(np.uint8)
        exponent[index] = np.clip(exponent[index].astype(np.int64) + moves, 0, top).astype(np.uint8)
        return History(idle, exponent)

    active = index[~was_pruned]
    idle[active] = np.where(below[~was_pruned], idle[active] + 1, 0)
    exponent[active] = idle[active] >= pruning.tau

    pruned = index[was_pruned]
    e = exponent[pruned].astype(np.int64) + np.where(below[was_pruned], 1, -1)
    exponent[pruned] = np.clip(e, 0, top).astype(np.uint8)
    idle[pruned[e <= 0]] = 0
    return History(idle, exponent)


def forget(history: History, coordinates: Bools) -> History:
    """Make the given coordinates active again, as if never seen (at a refresh)."""
    return History(
        np.where(coordinates, 0, history.idle).astype(np.uint8),
        np.where(coordinates, 0, history.exponent).astype(np.uint8),
    )
