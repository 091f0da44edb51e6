"""The blind coordinator: opens rounds, folds uploads, journals sums. It holds no key and no torch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import structlog

from common.errors import DictPFLError
from common.protocol import Aggregate, Reply, Request, RoundKind, Status
from server.agreement import Agreement
from server.folding import Fold
from server.journal import ClosedRound, Journal

_log = structlog.get_logger(__name__)
AGREEMENT, JOURNAL = "federation.json", "journal.sqlite"
_SETTLE_TRIES = 3


class Coordinator:
    """The rounds of one federation, from its folder; a new process goes on where the last one stopped.

    The caller carries messages: `begin` an exchange, hand in each answer by `receive` or `failed`, `close`.
    """

    def __init__(self, agreement: Agreement, journal: Journal) -> None:
        self._agreement = agreement
        self._journal = journal
        self._positions: dict[int, int] = {}
        self._requests: dict[int, Request] = {}
        self._kind: RoundKind | None = None
        self._fold: Fold | None = None
        self._rejected: dict[int, str] = {}
        self._asked: frozenset[int] = frozenset()
        self._settled: set[int] = set()
        self._settle_tries = 0
        self._started = 0.0
        for reason in agreement.insecurities:
            _log.warning("INSECURE federation (toy_insecure)", reason=reason)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The federation whose half of genesis lies in the folder, with its journal.

        Raises:
            ConfigError, JournalError: missing or damaged.
        """
        agreement = Agreement.load(folder / AGREEMENT)
        limits = agreement.uploads
        epoch, first_round = agreement.epoch, agreement.first_round
        journal = Journal(folder / JOURNAL, limits.federation, limits.fingerprint, epoch=epoch, first_round=first_round)
        return cls(agreement, journal)

    def close_journal(self) -> None:
        """Release the journal's file; the coordinator is not used any more."""
        self._journal.close()

    @property
    def min_participants(self) -> int:
        """Fewest uploads in a sum."""
        return self._agreement.min_participants

    @property
    def deadline_seconds(self) -> float:
        """Seconds after which an exchange closes without stragglers."""
        return self._agreement.deadline_seconds

    @property
    def finished(self) -> bool:
        """Whether all rounds are closed and the last aggregate was sent out."""
        return self._next_kind() is None and self._journal.is_settled(self._journal.next_round)

    def _next_kind(self) -> RoundKind | None:
        """Scores first, then updates, then one measurement of the final model; None: only settle."""
        kinds = self._journal.kinds()
        if self._journal.next_round < self._agreement.score_rounds:
            return RoundKind.SCORE
        if kinds.count(RoundKind.UPDATE) < self._agreement.rounds:
            return RoundKind.UPDATE
        return None if kinds and kinds[-1] is RoundKind.MEASURE else RoundKind.MEASURE

    @property
    def rejected(self) -> Mapping[int, str]:
        """Why nodes are not in the exchange now open, or just closed."""
        return dict(self._rejected)

    def begin(self, nodes: Sequence[int]) -> dict[int, Request]:
        """Open the next exchange: what to ask each node, at most as many as a sum may hold."""
        self._kind = self._next_kind()
        number = self._journal.next_round
        self._fold = Fold(self._agreement, self._kind, number) if self._kind is not None else None
        self._rejected, self._settled = {}, set()
        self._started = time.time()
        asked = sorted(nodes)[: self._agreement.uploads.max_contributors]
        self._asked = frozenset(asked)
        if len(asked) < len(nodes):
            _log.warning("more institutions than a sum may hold", online=len(nodes), asked=len(asked))
        _log.info("round opens", round=number, kind=str(self._kind or "settle"), asked=len(asked))
        # An institution that was never heard of here most likely lacks the last aggregate only; it says so if not.
        self._requests = {}
        return {node: self._request(self._positions.get(node, max(0, number - 1))) for node in asked}

    def _request(self, position: int) -> Request:
        """The same object for all institutions at the same position: aggregates are large, and read once."""
        if position not in self._requests:
            limits = self._agreement.uploads
            aggregates = tuple(self._journal.aggregates(position))
            self._requests[position] = Request(
                self._journal.next_round, self._kind, limits.federation, limits.fingerprint, aggregates
            )
        return self._requests[position]

    def receive(self, node: int, reply: Reply) -> Request | None:
        """Take an answer; a node that is behind gets a further request with what it lacks."""
        number = self._journal.next_round
        if reply.position <= number and reply.status is not Status.REFUSED:
            self._positions[node] = reply.position
        if reply.status is Status.BEHIND and reply.position < number:
            _log.info("institution catches up", node=node, position=reply.position, round=number)
            return self._request(reply.position)
        if reply.position > number:
            self.failed(node, "ahead-of-journal")
        elif reply.status is Status.UPLOAD and self._fold is not None:
            self._folded(node, reply.blob, self._fold)
        elif reply.status is Status.SETTLED and reply.round == reply.position == number:
            self._settled.add(node)
        else:
            self.failed(node, reply.code or str(reply.status))
        return None

    def _folded(self, node: int, blob: bytes, fold: Fold) -> None:
        try:
            fold.add(node, blob)
        except DictPFLError as error:
            _log.warning("upload rejected", node=node, code=error.code, detail=str(error))
            self.failed(node, error.code)

    def failed(self, node: int, reason: str) -> None:
        """No usable answer comes from the node in this exchange."""
        _log.warning("institution skipped", node=node, round=self._journal.next_round, reason=reason)
        self._rejected.setdefault(node, reason)

    def close(self) -> None:
        """Close the exchange: journal the sum, or note that the round must be asked again.

        Raises:
            JournalError: the disk refuses; the round stays open.
        """
        number, now, fold = self._journal.next_round, time.time(), self._fold
        if fold is None:
            self._close_settling(number, now)
            return
        self._fold = None
        if fold.count < self.min_participants:
            _log.warning("too few uploads", round=number, found=fold.count, minimum=self.min_participants)
            self._journal.refuse(number, now, {str(node): reason for node, reason in self._rejected.items()})
            return
        for node in fold.drifted():
            self.failed(node, "drift")
        for node in fold.nodes():
            self._rejected.pop(node, None)  # a second answer of one that is in the sum
        self._journalled(fold, number)

    def _close_settling(self, number: int, now: float) -> None:
        """Done when everybody who was asked has the last aggregate, or, after a few tries, enough of them."""
        self._settle_tries += 1
        missing = len(self._asked - self._settled)
        if missing == 0 or (self._settle_tries >= _SETTLE_TRIES and len(self._settled) >= self.min_participants):
            self._journal.settle(number, now)
        if missing:
            _log.warning("some institutions lack the last aggregate", round=number, missing=missing)

    def _journalled(self, fold: Fold, number: int) -> None:
        blob, counted, ciphertexts = fold.aggregate()
        closed = ClosedRound(
            number,
            self._kind or RoundKind.UPDATE,
            self._started,
            time.time(),
            fold.seconds,
            fold.bytes_up,
            ciphertexts,
            {str(node): reason for node, reason in self._rejected.items()},
        )
        self._journal.record(closed, Aggregate(number, blob, counted))
        _log.info("round closed", round=number, contributors=len(counted), ciphertexts=ciphertexts, bytes=len(blob))
