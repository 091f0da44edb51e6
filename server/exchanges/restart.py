"""Exchange after a journal was lost: most of those ahead of it agree on a state, and one of them sends it sealed."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from dictpfl.common.messages.protocol import Request
from dictpfl.server.exchanges.delivery import Delivery
from dictpfl.server.exchanges.exchange import RESTARTS, CoordinatorState, newest_of_most
from dictpfl.server.snapshots import SnapshotVotes

_log = structlog.get_logger(__name__)


class Restart(Delivery):
    """Going on from a state that institutions hold and that the journal does not lead to."""

    def __init__(self, state: CoordinatorState) -> None:
        self._holders, state.holders = state.holders, {}
        self._least = len(self._holders) // 2 + 1
        super().__init__(state, newest_of_most(self._holders))
        self._votes = SnapshotVotes(state.agreement, self.number)

    def ask(self, nodes: Sequence[int]) -> dict[int, Request]:
        """Ask those who hold the state for its header, and one of them, each time another, for the whole."""
        state = self._state
        asked = sorted(node for node in nodes if self._holders.get(node) == self.number)
        _log.warning(
            "the journal was lost or is an old copy; asking institutions for their state",
            journal=self._journal.next_round, institutions=self.number, asked=len(asked),
        )  # fmt: skip
        self._prepare(asked, asked[state.restarts % len(asked)] if asked else None)
        state.restarts += 1
        for node in asked:
            self._catchup.stands(node, self.number)
        return self._requests(asked)

    def close(self) -> None:
        """Go on from the state, if most of those who are ahead of the journal agree on it."""
        votes, self._votes = self._votes, None  # what it holds is as large as the model
        agreed = votes.agreed(self._settled, self._least) if votes else None
        if agreed is None:
            _log.error(
                "most of those ahead of the journal do not agree on one state, or did not send it",
                rounds=sorted(self._holders.values()),
            )
            if self._state.restarts < RESTARTS:
                self._state.holders = dict.fromkeys(self._asked, self.number)
            return
        self._journal.restart(agreed)
        self._state.restarts = 0
        _log.warning("going on from the institutions' state", round=agreed.round, updates=agreed.updates)
