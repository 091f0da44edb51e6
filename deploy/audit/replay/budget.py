"""Budgets of sent values: how many a round sends exactly, and which (section 11)."""

from __future__ import annotations

from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np

from dictpfl.deploy.audit.formats.streams import expand
from dictpfl.deploy.audit.replay.agreement import Agreement, Bools
from dictpfl.deploy.audit.replay.pruning import prunable
from dictpfl.deploy.audit.replay.state import State


def within(agreement: Agreement, state: State, mask: Bools) -> Bools:
    """Mask of the values that travel in an update round, from the one that pruning leaves."""
    may = prunable(agreement)
    quota = _quota(agreement.config, state.updates, int(may.sum()), agreement.size)
    if not quota:
        return mask
    places = np.flatnonzero(may).tolist()
    drawn = expand(agreement.seed, "budget", agreement.federation, state.round, length=4 * len(places))
    draws = dict(zip(places, np.frombuffer(drawn, "<u4").tolist(), strict=True))
    tau = int(agreement.config["pruning"]["tau"])

    def rank(place: int) -> tuple[int, ...]:
        idle, exponent = int(state.idle[place]), int(state.exponent[place])
        return (not mask[place], idle >= tau, idle, exponent, draws[place], place)

    out = mask & ~may
    out[sorted(places, key=rank)[:quota]] = True
    return out


def _quota(config: Any, updates: int, may: int, size: int) -> int:
    """Number of prunable values of a round; 0: what pruning leaves."""
    pruning = config["pruning"]
    if pruning["schedule"] != "logistic" or updates >= (rounds := int(config["federation"]["rounds"])):
        return int(pruning.get("quota", 0))
    least, most, always = size - may + min(1, may), size, size - may
    with localcontext(Context(prec=40)):
        k = Decimal(repr(float(pruning["budget"]["slope"]))) / rounds
        middle = Decimal(repr(float(pruning["budget"]["centre"]))) * rounds
        curve = [Fraction(1 / (1 + (k * (Decimal(t) + Decimal("0.5") - middle)).exp())) for t in range(rounds)]
    return _counts(curve, int(pruning["budget"]["values"]), least, most)[updates] - always


def _counts(curve: list[Fraction], total: int, least: int, most: int) -> list[int]:
    """Integers from `least` to `most` along a curve, whose sum is `total`."""
    bound: dict[int, int] = {}
    while True:
        open_ = [t for t in range(len(curve)) if t not in bound]
        factor = (total - sum(bound.values())) / sum((curve[t] for t in open_), Fraction(0)) if open_ else Fraction(0)
        high, low = [t for t in open_ if curve[t] * factor > most], [t for t in open_ if curve[t] * factor < least]
        if not high and not low:
            break
        surplus = sum((curve[t] * factor - most for t in high), Fraction(0))
        lack = sum((least - curve[t] * factor for t in low), Fraction(0))
        bound |= (
            dict.fromkeys(high, most)
            if high and surplus >= lack
            else dict.fromkeys(low or high, least if low else most)
        )
    counts = bound | {t: int(curve[t] * factor) for t in open_}
    left = total - sum(counts.values())
    for t in sorted(open_, key=lambda t: (counts[t] - curve[t] * factor, t))[:left]:
        counts[t] += 1
    return [counts[t] for t in range(len(curve))]
