"""Rounds: from opened sums to the next shared state (section 11)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

import numpy as np

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import ConfigError, RoundError
from dictpfl.deploy.audit.formats.digits import Digits
from dictpfl.deploy.audit.replay.agreement import Agreement, Bools, Floats
from dictpfl.deploy.audit.replay.ledger import Ledger, read_ledger
from dictpfl.deploy.audit.replay.noise import noise_of
from dictpfl.deploy.audit.replay.order import decides_clear, due, has_stopped, is_opening
from dictpfl.deploy.audit.replay.plan import Plan, value_digits
from dictpfl.deploy.audit.replay.pruning import judged, smallest
from dictpfl.deploy.audit.replay.refresh import moved_on
from dictpfl.deploy.audit.replay.rules import first_moments, moved
from dictpfl.deploy.audit.replay.state import Best, State
from dictpfl.deploy.audit.replay.tallies import opened_of

_STATISTIC_RANGE = 4.0
_STATISTIC_HEADROOM = 2.0


def start(agreement: Agreement) -> State:
    """Make the state before round 0."""
    size = agreement.size
    never = np.zeros(size, dtype=np.uint8)
    state = State(0, 0, agreement.values.copy(), never, never, np.zeros(len(agreement.tensors)))
    first = _first_range(agreement, value_digits(agreement, state, "update"))
    ranges = [max(first, _least_range(agreement, tensor.kind)) for tensor in agreement.tensors]
    state = replace(state, ranges=np.array(ranges, dtype=np.float64), moments=first_moments(agreement))
    rules = agreement.config["decomposition"]
    if rules["refresh_every"] and rules["refresh_when"] != "fixed":
        count = len(agreement.tables)
        state = replace(state, pace=(np.zeros(count), np.zeros(count, dtype=np.uint32)))
    share = float(agreement.config["encryption"]["sealed_share"])
    if share == 0.0:
        return replace(state, clear=np.ones(size, dtype=bool))
    if share < 1.0 and not decides_clear(agreement):
        return replace(state, clear=_least(agreement, np.abs(agreement.values)))
    return state


def finished(
    agreement: Agreement, state: State, made: Plan, components: Ints, clear: Ints, uploads: Iterable[bytes]
) -> State:
    """Compute the state after a round from the opened sum.

    Args:
        agreement: agreement of the federation.
        state: state before the round.
        made: plan of the round.
        components: opened components, int64.
        clear: sums of what crossed in clear, int64.
        uploads: ids of the uploads in the sum.

    Raises:
        RoundError: the sum is nonsense; the round is void.
    """
    ids = list(uploads)
    ledger = read_ledger(agreement, components)
    if ledger.participants != len(ids) or ledger.samples < 1:
        raise RoundError(f"{ledger.participants} participants and {ledger.samples} samples in a sum of {len(ids)}")
    acknowledged = state.acknowledging(ids)
    if made.tally is not None:
        _require_size(made, components, clear)
        ((place, section),) = (part for part in made.encrypted if part[1].index.size)
        values = section.digits.unpacked(components[place], section.index.size)
        opened = opened_of(made.tally, values, ledger.participants, ledger.samples)
        return replace(state, round=state.round + 1, acknowledged=acknowledged, tallies=(*state.tallies, opened))
    total = _carried(agreement, made, components, clear)
    if made.kind == "score":
        after = _decided(agreement, state, total)
    else:
        after = replace(state, best=_best(agreement, state, made.kind, ledger))
        if made.kind == "update":
            after = _updated(agreement, after, made, total, ledger)
    return replace(after, round=state.round + 1, acknowledged=acknowledged)


def _carried(agreement: Agreement, made: Plan, components: Ints, clear: Ints) -> Floats:
    total = np.zeros(agreement.size)
    _require_size(made, components, clear)
    parts = [(components[place], section) for place, section in made.encrypted]
    for part, section in [*parts, (clear, made.clear)]:
        total[section.index] = section.steps * section.digits.unpacked(part, section.index.size)
    return total


def _require_size(made: Plan, components: Ints, clear: Ints) -> None:
    if components.size < made.components or components[made.components :].any():
        raise RoundError(f"{components.size} components, expected {made.components} and zeros behind them")
    if clear.size != made.clear.components:
        raise RoundError(f"{clear.size} integers in clear, expected {made.clear.components}")


def _updated(agreement: Agreement, state: State, made: Plan, total: Floats, ledger: Ledger) -> State:
    before = state.values
    after = moved(agreement, state, total * (agreement.sample_cap / ledger.samples), made.mask)
    least = [_STATISTIC_HEADROOM if tensor.kind == "statistic" else 0.0 for tensor in agreement.tensors]
    headroom = np.maximum(float(agreement.config["grid"]["headroom"]), least)
    measured = ledger.codes.astype(np.float64) * (made.units * headroom) / ledger.participants
    ranges = np.where(ledger.codes > 0, measured, state.ranges)
    after = judged(agreement, after, made.mask, total)
    after = replace(after, updates=state.updates + 1, ranges=ranges)
    return moved_on(agreement, after, after.values - before, made.mask)


def _best(agreement: Agreement, state: State, kind: str, ledger: Ledger) -> Best | None:
    rules, best = agreement.config["selection"], state.best
    if rules["by"] == "none" or not ledger.measured:
        return best
    figure = ledger.loss if rules["by"] == "loss" else ledger.metric
    score = figure / ledger.measured
    if rules["by"] == "loss" or not rules["higher"]:
        score = -score
    now = (score, state.updates, len(state.taken), state.values)
    if best is None:
        return Best(*now, mark=score, waited=0)
    patience = int(rules["patience"])
    stopped = bool(patience) and best.waited >= patience
    kept = (best.score, best.updates, best.refreshes, best.values)
    mark, waited = best.mark, best.waited
    if not stopped:
        progress = score > best.mark + float(rules["min_delta"])
        is_mark = (best.updates, best.score) == (state.updates, best.mark)
        waits = not patience or (kind == "update" and not is_mark)
        mark, waited = (score, 0) if progress else (best.mark, best.waited + waits)
    return Best(*(now if score > best.score else kept), mark=mark, waited=waited)


def _decided(agreement: Agreement, state: State, total: Floats) -> State:
    if not decides_clear(agreement):
        if not agreement.config["scores"]["decision"]:
            raise RoundError("scores that no decision follows from, and no tally is due")
        raise ConfigError("a run with the decision of a plug-in; only selective encryption's own can be replayed here")
    return replace(state, clear=_least(agreement, np.abs(total)), rescored=state.updates)


def is_provided(agreement: Agreement, state: State, kind: str) -> bool:
    """Tell whether the round after a state may be of this kind."""
    if is_opening(agreement, state):
        return kind == "score"
    if kind == "score" and due(agreement, state) is not None:
        return True
    if kind != "measure" and (has_stopped(agreement, state) or any(one.when == "closing" for one in state.tallies)):
        return False  # of the final model, nothing but measurements and closing tallies
    every = int(agreement.config["encryption"].get("rescore_every", 0))  # runs of earlier releases do not name it
    is_anew = every > 0 and state.updates > 0 and state.updates % every == 0
    return {"score": is_anew, "update": not is_anew or state.rescored == state.updates, "measure": True}[kind]


def _least(agreement: Agreement, magnitudes: Floats) -> Bools:
    share = Fraction(1) - Fraction(str(float(agreement.config["encryption"]["sealed_share"])))
    return smallest(magnitudes, str(float(share))) & ~agreement.of_kinds(["statistic"])


def _least_range(agreement: Agreement, kind: str) -> float:
    """Range that a tensor begins with at least: statistics move by as much as activations are large."""
    return _STATISTIC_RANGE if kind == "statistic" and noise_of(agreement) is None else 0.0


def _first_range(agreement: Agreement, digits: Digits) -> float:
    """Range of every tensor before round 0; with noise, that which gives exactly the agreed step."""
    noise = noise_of(agreement)
    if noise is None:
        return float(agreement.config["grid"]["first_range"])
    return math.ldexp(digits.largest, noise.exponent)
