"""Verdict of institutions on the sum that an exchange delivered to them: refused, or void."""

from __future__ import annotations

import time

import structlog

from dictpfl.common.messages.protocol import REFUSED, VOID, Reply, Status
from dictpfl.server.exchanges.exchange import CoordinatorState
from dictpfl.server.troubles import refused_text, void_text

_log = structlog.get_logger(__name__)


class Verdict:
    """Answers about the sum of the round before an exchange's own.

    Law: a closed round stays closed, and its sum is the only one. Whoever refuses it gets it again with the next
    exchange, and then passes over the round: a second sum of the same uploads would tell uploads apart from it.
    """

    def __init__(self, state: CoordinatorState, number: int) -> None:
        self._state = state
        self._journal = state.journal
        self._round = number - 1
        self._refused: set[int] = set()

    def take(self, node: int, reply: Reply) -> None:
        """Take what an answer says about the sum."""
        if reply.status is Status.REFUSED and reply.code == REFUSED and reply.position == self._round:
            self._refused.add(node)
        if reply.code == VOID and reply.position == self._round + 1:
            # Each says it once, maybe in an exchange that comes to nothing: voices are kept for the next.
            self._state.void_voices.setdefault(self._round, set()).add(node)

    def close(self) -> bool:
        """Journal what was said.

        Returns:
            True if the round is void now.

        Raises:
            JournalError: the disk refuses; it is asked again.
        """
        if not self._journal.rounds(self._round):
            return False  # a sum of a journal that was lost
        names, now = self._state.members.names, time.time()
        if self._refused:
            self._journal.dispute(self._round, now, names(self._refused))
            _log.error(refused_text(self._journal.disputed()[-1]), round=self._round)
        voices = self._state.void_voices.get(self._round, set())
        if len(voices) < self._state.agreement.least or self._journal.is_void(self._round):
            return False
        self._journal.void(self._round, now, names(voices))
        self._state.void_voices.clear()
        _log.error(void_text(self._journal.voids()[-1]), round=self._round, told=len(voices))
        return True
