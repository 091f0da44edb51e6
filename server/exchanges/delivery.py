"""Exchanges whose requests bring institutions up to a round: each request carries what its receiver lacks."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from dictpfl.common.errors import SnapshotError
from dictpfl.common.messages.protocol import NEWCOMER, Reply, Request, RoundKind, Status, Wish
from dictpfl.common.messages.snapshots import HEADER_BYTES
from dictpfl.server.exchanges.exchange import CoordinatorState, Exchange
from dictpfl.server.exchanges.verdict import Verdict
from dictpfl.server.snapshots import SnapshotVotes

_log = structlog.get_logger(__name__)
_ABOUT_SNAPSHOTS = frozenset({"snapshot", "drift", "wrong-key", "wrong-federation", "key-file"})
"""Codes with which an institution refuses a snapshot; what else it refuses has other reasons (a full disk, say)."""


class Delivery(Exchange):
    """Exchange that an institution joins once it has applied all aggregates before the exchange's round."""

    def __init__(self, state: CoordinatorState, number: int) -> None:
        super().__init__(state, number)
        self._catchup = state.catchup
        self._verdict = Verdict(state, number)
        self._votes: SnapshotVotes | None = None
        """Votes on the snapshot that this exchange asks for; None: it asks for none."""
        self._whole_from: int | None = None
        """Node that is asked for the whole snapshot."""
        self._asked: frozenset[int] = frozenset()
        self._settled: set[int] = set()
        """Nodes that have applied everything and have nothing to upload."""

    @property
    def kind(self) -> RoundKind | None:
        """Kind of upload that institutions are asked for; None: none."""
        return None

    def _invited(self, nodes: Sequence[int], most: int | None = None) -> list[int]:
        """Choose at most so many nodes, lowest numbers first; None: as many as a sum may hold."""
        asked = sorted(nodes)[: self._agreement.uploads.max_contributors if most is None else most]
        if len(asked) < len(nodes):
            _log.warning("more institutions than a sum may hold", online=len(nodes), asked=len(asked))
        _log.info("round opens", round=self.number, kind=str(self.kind or "settle"), asked=len(asked))
        return asked

    def _prepare(self, asked: Sequence[int], sender: int | None = None, defence: bytes = b"") -> None:
        """Make what all requests have in common; `sender` is to send the whole snapshot, the others its header."""
        self._asked, self._whole_from = frozenset(asked), sender
        limits = self._agreement.uploads
        wishes = {node: Wish.WHOLE if node == sender else Wish.HEADER for node in asked} if self._votes else {}
        request = Request(self.number, self.kind, limits.federation, limits.fingerprint, defence=defence)
        self._catchup.open(request, wishes)

    def _requests(self, asked: Sequence[int]) -> dict[int, Request]:
        """Add to the prepared request what each node lacks."""
        return {node: self._catchup.first(node) for node in asked}

    def receive(self, node: int, reply: Reply) -> Request | None:
        """Take an answer; a node that is behind gets a further request with what it lacks."""
        is_mistaken = self._note_position(node, reply)
        if node in self._asked:
            self._verdict.take(node, reply)
        if is_mistaken or (reply.status is Status.BEHIND and reply.position < self.number):
            return self._further(node, reply)
        if reply.position > self.number:
            self._ahead[node] = reply.position
            self.failed(node, "ahead-of-journal")
        elif not self._takes(node, reply):
            self.failed(node, reply.code or str(reply.status))
        return None

    def _note_position(self, node: int, reply: Reply) -> bool:
        """Note where a node stands, and whether it could use what it was sent; return True where that was meant for another position."""
        if reply.position == self.number:
            self._level.add(node)
        if reply.position <= self.number and reply.status is not Status.REFUSED:
            self._catchup.stands(node, reply.position)
        if reply.status is Status.REFUSED and reply.code in _ABOUT_SNAPSHOTS:
            return reply.position < self.number and self._catchup.refused(node, reply.position)
        if reply.status in {Status.UPLOAD, Status.SETTLED, Status.FINISHED}:
            self._catchup.took(node)
            self._take_snapshot(node, reply.snapshot)
        return False

    def _further(self, node: int, reply: Reply) -> Request | None:
        _log.info("institution catches up", node=node, position=reply.position, round=self.number)
        further = self._catchup.further(node, reply.position, newcomer=reply.code == NEWCOMER)
        if further is None:
            self.failed(node, "rounds-not-kept")
        return further

    def _takes(self, node: int, reply: Reply) -> bool:
        """Take an answer that may count; return False for one that is of no use here."""
        if reply.status is not Status.SETTLED or not reply.round == reply.position == self.number:
            return False
        self._settled.add(node)
        return True

    def _take_snapshot(self, node: int, data: bytes) -> None:
        if self._votes is None or not data:
            return
        # One is kept at a time, and what somebody sends unasked must not displace it.
        part = data if node == self._whole_from else data[:HEADER_BYTES]
        try:
            self._votes.take(node, part)
        except SnapshotError as error:
            _log.warning("snapshot left out", node=node, round=self.number, reason=str(error))
