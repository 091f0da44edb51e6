"""Order of score rounds: which tally one carries, or whether it carries scores of shared values (sections 11 and 14)."""

from __future__ import annotations

from dictpfl.deploy.audit.replay.agreement import Agreement
from dictpfl.deploy.audit.replay.state import State
from dictpfl.deploy.audit.replay.tallies import Tally

_CLEAR_LEAST = "clear-least"
"""Name of the decision that selective encryption takes."""


def first_rounds(agreement: Agreement) -> tuple[int, int]:
    """Count the score rounds before the first update: those that lead to a decision, and opening tallies."""
    scores = agreement.config["scores"]
    decided = int(scores["rounds"]) if scores["decision"] else int(decides_clear(agreement))
    return decided, len(_of(agreement, "opening"))


def decides_clear(agreement: Agreement) -> bool:
    """Tell whether score rounds decide what crosses in clear: by `encryption.sensitivity = "gradient"`, or by the decision's name."""
    config = agreement.config
    share = float(config["encryption"]["sealed_share"])
    selective = 0.0 < share < 1.0 and config["encryption"]["sensitivity"] == "gradient"
    return selective or str(config["scores"]["decision"]) == _CLEAR_LEAST


def is_opening(agreement: Agreement, state: State) -> bool:
    """Tell whether a score round of those before the first update is still to come."""
    return state.round < sum(first_rounds(agreement)) + state.void_scores


def due(agreement: Agreement, state: State) -> Tally | None:
    """Find the tally that a score round after a state carries; None: it carries scores of shared values, or must not come."""
    decided, _ = first_rounds(agreement)
    if is_opening(agreement, state):
        place = state.round - state.void_scores - decided
        return _of(agreement, "opening")[place] if place >= 0 else None
    closing = _of(agreement, "closing")
    done = sum(one.when == "closing" for one in state.tallies)
    if done == len(closing):
        return None
    is_over = state.updates >= int(agreement.config["federation"]["rounds"]) or has_stopped(agreement, state)
    return closing[done] if is_over else None


def _of(agreement: Agreement, when: str) -> list[Tally]:
    return [tally for tally in agreement.tallies if tally.when == when]


def has_stopped(agreement: Agreement, state: State) -> bool:
    """Tell whether all institutions have agreed to stop early (section 11, course)."""
    patience = int(agreement.config["selection"]["patience"])
    return bool(patience) and state.best is not None and state.best.waited >= patience
