"""Order of rounds: which kind may come next, which tally is due, and when institutions send no more."""

from __future__ import annotations

from collections.abc import Iterable

from dictpfl.common.errors import RoundError
from dictpfl.common.law.state import SharedState
from dictpfl.common.law.tally import Tally
from dictpfl.common.law.terms import Law
from dictpfl.common.messages.protocol import RoundKind


def admits(law: Law, state: SharedState, kind: RoundKind) -> bool:
    """Tell whether the next round may be of a kind: the agreed score rounds, then updates, with scores anew between them.

    Scores may come again where they were sent anew already: a coordinator that lost its journal does not know it.
    """
    if _is_opening(law, state) or kind is RoundKind.SCORE:
        return kind is RoundKind.SCORE and due(law, state) is not None
    return kind is RoundKind.MEASURE or not _is_anew(law, state) or state.rescored == state.updates


def due(law: Law, state: SharedState) -> Tally | None:
    """Return the tally that a score round would carry now; None: there is none, and a score round is refused.

    No tally is due twice: from the sums of two rounds with other institutions in them, the vector of one would follow.
    """
    if _is_opening(law, state):
        return law.opening[state.round - state.void_scores]
    following = state.tallies[_kept(law.opening) :]
    if len(following) < len(law.closing) and (state.updates >= law.rounds or stopped(law, state)):
        return law.closing[len(following)]
    return law.sensitivity if _is_anew(law, state) and not is_final(law, state) else None


def occasion(law: Law, state: SharedState) -> int:
    """Number the scores that are due: a void round, or another one in between, leaves it as it is; later scores have another, from 0 on."""
    if _is_opening(law, state):
        return state.round - state.void_scores
    tally, first = due(law, state), len(law.opening)
    if tally is not None and not tally.decides:
        return first + 2 * len(state.tallies) + 1
    return first + 2 * state.updates


def stopped(law: Law, state: SharedState) -> bool:
    """Tell whether all institutions have agreed, by shared state alone, to stop early: they make no further update."""
    return state.course.stopped(law.selection)


def is_final(law: Law, state: SharedState) -> bool:
    """Tell whether no further update is made: institutions stopped early, or a closing tally was opened, which is of the final model."""
    return stopped(law, state) or len(state.tallies) > _kept(law.opening)


def _is_opening(law: Law, state: SharedState) -> bool:
    return state.round < len(law.opening) + state.void_scores


def _is_anew(law: Law, state: SharedState) -> bool:
    """Tell whether scores are due anew between updates, or were sent anew before this one."""
    return bool(law.rescore_every and state.updates) and state.updates % law.rescore_every == 0


def _kept(tallies: Iterable[Tally]) -> int:
    return sum(not tally.decides for tally in tallies)


def has_ended(law: Law, state: SharedState, kind: RoundKind) -> bool:
    """Tell whether institutions have agreed to send no more of a kind: a closing tally may still be due after the last update.

    Raises:
        RoundError: scores that nobody agreed on; nothing is made of them.
    """
    if kind is RoundKind.MEASURE:
        return False
    is_due = kind is RoundKind.SCORE and due(law, state) is not None
    if is_final(law, state):
        return not is_due
    if kind is RoundKind.SCORE and not is_due:
        raise RoundError(
            f"round {state.round} asks for scores after {state.updates} updates; genesis provides for none there, nothing is sent"
        )
    return False
