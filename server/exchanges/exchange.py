"""Base of all exchanges: ask each institution once, take its answers, close; and what outlives an exchange."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from dictpfl.common.messages.protocol import Aggregate, Reply, Request, RoundKind
from dictpfl.server.agreement import Agreement
from dictpfl.server.catchup import CatchUp
from dictpfl.server.journal import Journal
from dictpfl.server.masks import Unmasking
from dictpfl.server.members import Members
from dictpfl.server.rows import ClosedRound

_log = structlog.get_logger(__name__)
RESTARTS = 3
"""Tries to go on from the institutions' state, before somebody has to look."""


@dataclass
class CoordinatorState:
    """State of a coordinator's process: what its exchanges work on, and what one of them leaves to the next."""

    agreement: Agreement
    journal: Journal
    catchup: CatchUp
    unmasking: Unmasking
    unlucky: int = 0
    """Rounds in a row whose snapshot not enough institutions agreed on."""
    settle_tries: int = 0
    """Exchanges so far that only settled."""
    restarts: int = 0
    """Tries in a row to go on from the institutions' state."""
    holders: dict[int, int] = field(default_factory=dict)
    """Round by node, of all who answered, where the journal does not lead to the state of most; the next exchange restarts from there."""
    senders: set[int] = field(default_factory=set)
    """Nodes that hold the state which a restart that did not get it wants; the next one asks one of these for it."""
    failed: dict[int, set[int]] = field(default_factory=dict)
    """Nodes by the round now open in which no usable answer came from them, where rounds ask a sample."""
    void_voices: dict[int, set[int]] = field(default_factory=dict)
    """Nodes that said of a round's sum that it is void, by round; until as many as a sum needs have."""
    scores_due: int | None = None
    """Open round for which enough institutions said that scores are due, though the journal, lost once, does not know it."""
    all_scored: bool = False
    """Institutions said that they have sent all closing scores, though the journal, lost once, does not know it."""
    members: Members = field(init=False)
    """Institutions behind the nodes."""

    def __post_init__(self) -> None:
        """Begin with the members that the journal knows."""
        self.members = Members(self.agreement, self.journal)

    def next_kind(self) -> RoundKind | None:
        """Scores first, then updates, closing scores, and one measurement of the final model; None: only settle.

        What was void is made up for. Scores come anew between updates, where that is agreed.
        """
        number = self.journal.next_round
        if number == self.scores_due or number < self.agreement.score_rounds + self.journal.void_scores():
            return RoundKind.SCORE
        if not self.journal.updated(self.agreement.rounds):
            every, updates = self.agreement.rescore_every, self.journal.updates()
            is_due = bool(every and updates) and updates % every == 0 and not self.journal.is_scored()
            return RoundKind.SCORE if is_due else RoundKind.UPDATE
        if self._is_closing():
            return RoundKind.SCORE
        return None if self.journal.is_measured() else RoundKind.MEASURE

    def _is_closing(self) -> bool:
        """Tell whether a closing score round is still to come; who lost its journal hears from institutions that none is."""
        agreement, journal = self.agreement, self.journal
        if journal.closing_rounds() >= agreement.closing_rounds or self.all_scored:
            return False
        if journal.stopped is None and journal.updates() < agreement.closing_from:
            return False
        return not journal.is_settled(journal.next_round)


class Exchange(ABC):
    """Exchange of one request with each of some institutions, and their answers.

    Law: `ask` comes first and once; then, for each node that it named, any number of `receive` and `failed`; then
    `close`. An answer that comes after `close` is refused and changes nothing.
    """

    def __init__(self, state: CoordinatorState, number: int) -> None:
        self.number = number
        """Number of the round that the exchange is about."""
        self.rejected: dict[int, str] = {}
        """Reasons by node, for those that are not in this exchange."""
        self._state = state
        self._agreement = state.agreement
        self._journal = state.journal
        self._ahead: dict[int, int] = {}
        """Position by node, for those that have more rounds than the journal."""
        self._level: set[int] = set()
        """Nodes that have as many rounds as the journal."""

    @property
    def deadline_seconds(self) -> float:
        """Seconds after which the exchange closes without stragglers."""
        return self._agreement.deadline_seconds

    @property
    def satisfied(self) -> bool:
        """True when no further answer is of use."""
        return False

    @abstractmethod
    def ask(self, nodes: Sequence[int]) -> dict[int, Request]:
        """Choose whom of these nodes to ask, and what."""

    @abstractmethod
    def receive(self, node: int, reply: Reply) -> Request | None:
        """Take an answer; return a further request for a node that is behind."""

    @abstractmethod
    def close(self) -> None:
        """Journal what came of the exchange.

        Raises:
            JournalError: the disk refuses; the round stays open.
            RoundError: asking again will not do; the journal has what was reached.
        """

    def failed(self, node: int, reason: str) -> None:
        """Note that no usable answer comes from a node."""
        _log.warning("institution skipped", node=node, round=self.number, reason=reason)
        self.rejected.setdefault(node, reason)

    @property
    def _reasons(self) -> dict[str, str]:
        """Reasons by node, as the journal takes them."""
        return {str(node): reason for node, reason in self.rejected.items()}

    def _must_restart(self, in_step: int, stuck: int = 0) -> bool:
        """Decide to go on from institutions' own states: if more of those here are ahead of the journal than go on with it.

        A few that are ahead (of a federation that was begun again, say) are left out instead, and told so.

        Args:
            in_step: nodes that go on with the journal.
            stuck: nodes that stand where the journal ends, and open no other sum of its round than one that the journal lacks.
        """
        ahead = len(self._ahead)
        if ahead <= in_step or ahead + in_step + stuck < self._agreement.least:
            return False
        if not self._agreement.snapshot_length or self._state.restarts >= RESTARTS:
            _log.error(
                "the journal is older than the institutions' state, and they did not agree on one to go on from: restore "
                "the newest journal, or have them compare their digests (dictpfl status)",
                journal=self.number, institutions=sorted(set(self._ahead.values())),
            )  # fmt: skip
            return False
        self._state.holders = dict.fromkeys(self._level, self.number) | self._ahead
        return True


def log_closed(closed: ClosedRound, aggregate: Aggregate) -> None:
    """Log that a round is closed."""
    _log.info(
        "round closed", round=closed.round, contributors=len(aggregate.counted), ciphertexts=closed.ciphertexts,
        bytes=len(aggregate.blob),
    )  # fmt: skip
