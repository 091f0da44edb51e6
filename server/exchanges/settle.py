"""Exchange that asks for no upload: it sends the last aggregate out, and hears who has applied it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog

from dictpfl.common.messages.masks import attempt_bytes
from dictpfl.common.messages.protocol import Request
from dictpfl.server.exchanges.delivery import Delivery
from dictpfl.server.exchanges.exchange import CoordinatorState
from dictpfl.server.troubles import require_calm

_log = structlog.get_logger(__name__)
_TRIES = 3
"""Exchanges after which those who have not answered are not waited for."""


class Settle(Delivery):
    """Last message of a run; an upload that answers it is refused."""

    def __init__(self, state: CoordinatorState) -> None:
        super().__init__(state, state.journal.next_round)

    def ask(self, nodes: Sequence[int]) -> dict[int, Request]:
        """Ask as many nodes as a sum may hold to apply what they lack; all of them, where rounds ask a sample."""
        asked = self._invited(nodes, len(nodes) if self._agreement.sample else None)
        self._prepare(asked, defence=attempt_bytes(self._journal.attempt(self.number)))
        return self._requests(asked)

    def close(self) -> None:
        """Settle when everybody who was asked has the last aggregate, or, after a few tries, enough of them."""
        now = time.time()
        if self._verdict.close():
            require_calm(self._journal)
            return
        if self._must_restart(len(self._settled)):
            self._journal.refuse(self.number, now, self._reasons)
            return
        self._state.settle_tries += 1
        missing = len(self._asked - self._settled)
        enough = len(self._settled) >= self._agreement.least
        if missing == 0 or (self._state.settle_tries >= _TRIES and enough):
            self._journal.settle(self.number, now)
        if missing:
            _log.warning("some institutions lack the last aggregate", round=self.number, missing=missing)
