"""PrME, Prune-for-Minimum-Encrypt (PAPER section 4.2): masks that everybody replays from the aggregated history.

TIP prunes a coordinate whose aggregated update was among the smallest s of those sent, for tau rounds in
a row. HRC sends a pruned coordinate again with probability beta^e, and moves e after each round in which
it was sent; at e = 0 it is active again. All arithmetic is on integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from common.seeds import uint32s
from common.settings import Pruning

Bools = NDArray[np.bool_]
_ONE = 1 << 32


@dataclass(frozen=True)
class History:
    """What masks are made of; one entry for each coordinate of the shared vector.

    Attributes:
        idle: inactive rounds in a row, uint8; at tau the coordinate is pruned.
        exponent: e of the reactivation probability beta^e, uint8; 0 while active.
    """

    idle: NDArray[np.uint8]
    exponent: NDArray[np.uint8]

    @classmethod
    def new(cls, size: int) -> History:
        """No history: everything is active."""
        return cls(np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=np.uint8))


@lru_cache(maxsize=32)
def reactivation_thresholds(beta: float) -> NDArray[np.uint64]:
    """floor(beta^e * 2^32) for e = 0, 1, ... while positive: a draw below it reactivates.

    The last entry is the smallest positive probability; e never grows beyond it, so that no
    coordinate is lost for ever.
    """
    ratio = Fraction(str(beta))
    values: list[int] = []
    while len(values) < 256 and (value := int(ratio ** len(values) * _ONE)) > 0:  # noqa: PLR2004 -- e is a uint8
        values.append(value)
    return np.array(values, dtype=np.uint64)


def sent_mask(history: History, prunable: Bools, pruning: Pruning, seed: bytes, *context: bytes | int) -> Bools:
    """Which coordinates are sent: active ones, those never pruned, and the pruned ones that HRC draws.

    Args:
        history: of the shared vector.
        prunable: shape (size,); False is always sent.
        pruning: s, tau, beta.
        seed: the agreed seed; `context` is federation id and round.
    """
    pruned = np.flatnonzero(prunable & (history.idle >= pruning.tau))
    mask = np.ones(prunable.size, dtype=bool)
    thresholds = reactivation_thresholds(pruning.beta)
    draws = uint32s(seed, "reactivation", *context, count=pruned.size)
    mask[pruned] = draws < thresholds[np.minimum(history.exponent[pruned], thresholds.size - 1)]
    return mask


def smallest(magnitudes: NDArray[np.float64], s: float) -> Bools:
    """Mask of the floor(s * n) smallest magnitudes, ties by index; shape (n,).

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
    """Which of the sent prunable coordinates fall below theta, the s-quantile over all of them or per tensor.

    Args:
        magnitudes: |aggregated update| of each sent prunable coordinate, shape (n,).
        tensors: tensor of each, shape (n,), ascending.
        pruning: `s` and `scope`.
    """
    if pruning.scope == "global":
        return smallest(magnitudes, pruning.s)
    bounds = np.flatnonzero(np.diff(tensors)) + 1
    return np.concatenate([smallest(part, pruning.s) for part in np.split(magnitudes, bounds)])


def advance(history: History, index: NDArray[np.int64], below: Bools, pruning: Pruning) -> History:
    """History after a round in which the coordinates `index` were sent; `below` as `inactive` found them.

    An active one counts or forgets idle rounds, and with the tau-th is pruned at e = 1. A pruned one
    moves e up when still inactive, down otherwise; at e = 0 it is active with no idle round.
    """
    idle, exponent = history.idle.copy(), history.exponent.copy()
    was_pruned = idle[index] >= pruning.tau
    top = reactivation_thresholds(pruning.beta).size - 1

    active = index[~was_pruned]
    idle[active] = np.where(below[~was_pruned], idle[active] + 1, 0)
    exponent[active] = idle[active] >= pruning.tau

    pruned = index[was_pruned]
    e = exponent[pruned].astype(np.int64) + np.where(below[was_pruned], 1, -1)
    exponent[pruned] = np.clip(e, 0, top).astype(np.uint8)
    idle[pruned[e <= 0]] = 0
    return History(idle, exponent)


def forget(history: History, coordinates: Bools) -> History:
    """History with the given coordinates active again, as if never seen (at a refresh)."""
    return History(
        np.where(coordinates, 0, history.idle).astype(np.uint8),
        np.where(coordinates, 0, history.exponent).astype(np.uint8),
    )
