"""Blind coordinator: chooses the next exchange and hands answers on to it. It holds no key and no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import structlog

from dictpfl.common.messages.protocol import Reply, Request
from dictpfl.server.agreement import Agreement
from dictpfl.server.catchup import CatchUp
from dictpfl.server.exchanges.exchange import CoordinatorState, Exchange
from dictpfl.server.exchanges.restart import Restart
from dictpfl.server.exchanges.reveal import Reveal
from dictpfl.server.exchanges.round import Round
from dictpfl.server.exchanges.settle import Settle
from dictpfl.server.journal import Journal
from dictpfl.server.masks import Unmasking

_log = structlog.get_logger(__name__)
AGREEMENT, JOURNAL = "federation.json", "journal.sqlite"


def open_journal(folder: Path, agreement: Agreement, *, whole: bool = False) -> Journal:
    """Open the journal in a coordinator's folder, in the epoch of its agreement; made if missing.

    `whole`: look through the whole file first, as who writes sums does; what is read is checked in any case.

    Raises:
        JournalError: damaged, of another federation, or in another epoch.
    """
    limits = agreement.uploads
    return Journal(
        folder / JOURNAL,
        limits.federation,
        limits.fingerprint,
        epoch=agreement.epoch,
        first_round=agreement.first_round,
        whole=whole,
    )


class Coordinator:
    """Rounds of one federation, from its folder; a new process goes on where the last one stopped.

    The caller carries messages: `begin` an exchange, hand in each answer by `receive` or `failed`, `close`.
    """

    def __init__(self, agreement: Agreement, journal: Journal) -> None:
        self._agreement = agreement
        self._journal = journal
        self._unmasking = Unmasking(agreement, journal)
        self._unmasking.require_sound()
        self._state = CoordinatorState(agreement, journal, CatchUp(journal), self._unmasking)
        self._exchange: Exchange = Settle(self._state)
        """Exchange now open, or closed last; before the first, one that has asked nobody."""
        for reason in agreement.insecurities:
            _log.warning("INSECURE federation (toy_insecure)", reason=reason)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the federation whose half of genesis lies in the folder, with its journal.

        Raises:
            ConfigError: the agreement is missing or damaged.
            JournalError: the journal is damaged, of another federation, or in another epoch.
        """
        agreement = Agreement.load(folder / AGREEMENT)
        return cls(agreement, open_journal(folder, agreement, whole=True))

    def close_journal(self) -> None:
        """Release the journal's file; the coordinator is not used any more."""
        self._journal.close()

    @property
    def least(self) -> int:
        """Fewest uploads in a sum."""
        return self._agreement.least

    @property
    def deadline_seconds(self) -> float:
        """Seconds after which the open exchange closes without stragglers."""
        return self._exchange.deadline_seconds

    @property
    def satisfied(self) -> bool:
        """True when the open exchange needs no further answers."""
        return self._exchange.satisfied

    @property
    def finished(self) -> bool:
        """True when all rounds are closed and the last aggregate was sent out."""
        settled = self._journal.is_settled(self._journal.next_round)
        return settled and self._state.next_kind() is None and not self._state.holders

    @property
    def rejected(self) -> Mapping[int, str]:
        """Reasons by node, for those that are not in the exchange now open, or just closed."""
        return dict(self._exchange.rejected)

    def begin(self, nodes: Sequence[int]) -> dict[int, Request]:
        """Open the next exchange; return what to ask each node, at most as many as a sum may hold."""
        self._exchange = self._next()
        return self._exchange.ask(self.welcome(nodes))

    def welcome(self, nodes: Iterable[int]) -> list[int]:
        """Leave out nodes of institutions that the operator has excluded; the others in order."""
        return self._state.members.welcome(nodes)

    def receive(self, node: int, reply: Reply) -> Request | None:
        """Take an answer; a node that is behind gets a further request with what it lacks."""
        return self._exchange.receive(node, reply)

    def failed(self, node: int, reason: str) -> None:
        """Note that no usable answer comes from the node in this exchange."""
        self._exchange.failed(node, reason)

    def close(self) -> None:
        """Close the exchange: journal the sum, or note that the round must be asked again.

        Raises:
            JournalError: the disk refuses; the round stays open.
            RoundError: rounds are void again and again; the message says what an operator can do.
        """
        self._exchange.close()

    def _next(self) -> Exchange:
        """Choose: a lost journal comes first, then a sum under masks, then the next round, then the last message."""
        if self._state.holders:
            return Restart(self._state)
        if self._unmasking.waiting:
            return Reveal(self._state)
        kind = self._state.next_kind()
        return Settle(self._state) if kind is None else Round(self._state, kind)
