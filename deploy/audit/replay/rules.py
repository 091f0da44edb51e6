"""Server-side rules: the change of a value by the mean of its updates, and what is remembered of them (section 11)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dictpfl.common.errors import ConfigError, RoundError
from dictpfl.deploy.audit.replay.agreement import Agreement, Bools, Floats
from dictpfl.deploy.audit.replay.state import State

_AVERAGE: Mapping[str, Any] = {"rule": "average", "rate": 1.0}
_KEPT = {"average": 0, "momentum": 1, "adagrad": 2, "adam": 2, "yogi": 2}
Step = Callable[[float, list[float]], tuple[float, list[float]]]
"""Turns the mean update of a value, and its moments, into the change of it and its next moments."""


def first_moments(agreement: Agreement) -> tuple[Floats, ...]:
    """Make the moments before round 0.

    Raises:
        ConfigError: a rule that this implementation does not know.
    """
    rule = _settings(agreement)["rule"]
    if rule not in _KEPT:
        raise ConfigError(f"a run with aggregation.rule = {rule!r}: only {', '.join(_KEPT)} can be replayed here")
    return tuple(np.zeros(agreement.size) for _ in range(_KEPT[rule]))


def moved(agreement: Agreement, state: State, mean: Floats, mask: Bools) -> State:
    """Apply the mean update of a round.

    Args:
        agreement: agreement of the federation.
        state: state before the round.
        mean: mean update, 0 where nothing was sent, float64, shape (size,).
        mask: values that were sent.

    Raises:
        RoundError: what comes out is not finite; the round is void.
    """
    step, places = _step(_settings(agreement)), mask & ~agreement.of_kinds(["statistic"])
    values = [x + d for x, d in zip(state.values.tolist(), mean.tolist(), strict=True)]
    moments = [moment.tolist() for moment in state.moments]
    for place in np.flatnonzero(places).tolist():
        change, after = step(float(mean[place]), [moment[place] for moment in moments])
        values[place] = float(state.values[place]) + change
        for moment, number in zip(moments, after, strict=True):
            moment[place] = number
    if not all(math.isfinite(number) for numbers in (values, *moments) for number in numbers):
        raise RoundError("an update so large that values or moments are not finite")
    return replace(state, values=np.array(values), moments=tuple(np.array(moment) for moment in moments))


def _settings(agreement: Agreement) -> Mapping[str, Any]:
    said: Mapping[str, Any] = agreement.config.get("aggregation", _AVERAGE)  # runs of 0.1 have no such section
    return said


def _step(rules: Mapping[str, Any]) -> Step:
    rate = float(rules["rate"])
    if rules["rule"] == "average":
        return lambda d, _: (rate * d, [])
    beta = float(rules["momentum"])
    if rules["rule"] == "momentum":

        def with_momentum(d: float, moments: list[float]) -> tuple[float, list[float]]:
            m = beta * moments[0] + d
            return rate * m, [m]

        return with_momentum
    second, floor = float(rules["second"]), float(rules["floor"])

    def adaptive(d: float, moments: list[float]) -> tuple[float, list[float]]:
        m, v = moments
        m = beta * m + (1.0 - beta) * d
        square = d * d
        if rules["rule"] == "adagrad":
            v = v + square
        elif rules["rule"] == "adam":
            v = second * v + (1.0 - second) * square
        elif v > square:
            v = v - (1.0 - second) * square
        elif v < square:
            v = v + (1.0 - second) * square
        return (rate * m) / (math.sqrt(v) + floor), [m, v]

    return adaptive
