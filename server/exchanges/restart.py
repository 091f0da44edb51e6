"""Exchange after a journal was lost: institutions say which states they hold, and one of these is gone on from."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from dictpfl.common.errors import DictPFLError, WireError
from dictpfl.common.fingerprint import matches, spoken
from dictpfl.common.messages.manifest import MANIFEST_BYTES
from dictpfl.common.messages.protocol import Aggregate, Reply, Request, Status, Wish
from dictpfl.common.messages.snapshots import HEADER_BYTES, SnapshotHeader, body
from dictpfl.common.messages.wire import AGGREGATE, Blob, read_header
from dictpfl.server.exchanges.exchange import RESTARTS, CoordinatorState, Exchange
from dictpfl.server.rows import ClosedRound, Snapshot
from dictpfl.server.snapshots import header_of
from dictpfl.server.troubles import held_text, require_calm

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Holding:
    """State that an institution holds, as far as the coordinator can know it.

    Attributes:
        header: header of the state's snapshot.
        last: sum that led to the state; None: it was not sent.
        base: keyed digest of the state that this sum was made from; empty without a sum.
    """

    header: SnapshotHeader
    last: Aggregate | None = None
    base: bytes = b""


class Restart(Exchange):
    """Going on from a state that institutions hold and that the journal does not lead to.

    Each is asked, at the round that it has reached, for the header of its state and for the sum that led there. With that sum those who
    lack it alone come to the same state, by the checks of every sum, so that no second sum of its round is opened.
    """

    def __init__(self, state: CoordinatorState) -> None:
        super().__init__(state, state.journal.next_round)
        self._holders, state.holders = state.holders, {}
        self._held: dict[int, Holding] = {}
        self._sender: int | None = None
        self._whole: tuple[SnapshotHeader, bytes] | None = None

    def ask(self, nodes: Sequence[int]) -> dict[int, Request]:
        """Ask everybody who holds a state for its header, and one of them, each time another, for the whole."""
        state, limits = self._state, self._agreement.uploads
        asked = sorted(node for node in nodes if node in self._holders)
        _log.warning(
            "the journal was lost or is an old copy; asking institutions for their state",
            journal=self.number, institutions=sorted(self._holders.values()), asked=len(asked),
        )  # fmt: skip
        wanted = self._agreement.restart_from
        if wanted is None:
            wanted = likely_round(self._holders)
        senders = state.senders.intersection(asked) or {node for node in asked if self._holders[node] == wanted}
        self._sender = sorted(senders)[state.restarts % len(senders)] if senders else None
        state.restarts += 1
        bare = {node: (self._holders[node], Wish.WHOLE if node == self._sender else Wish.HEADER) for node in asked}
        return {
            node: Request(number, None, limits.federation, limits.fingerprint, wish=wish)
            for node, (number, wish) in bare.items()
        }

    def receive(self, node: int, reply: Reply) -> None:
        """Take the state of an institution that stands where it stood."""
        number = self._holders[node]
        if reply.status is not Status.SETTLED or not reply.round == reply.position == number:
            self.failed(node, reply.code or str(reply.status))
            return
        try:
            header = header_of(self._agreement, number, reply.snapshot)
            if node == self._sender and len(reply.snapshot) > HEADER_BYTES:
                body(header, reply.snapshot)
                self._whole = header, reply.snapshot
            self._held[node] = Holding(header, *self._last(number - 1, reply))
        except DictPFLError as error:
            _log.warning("an institution's state left out", node=node, code=error.code, reason=str(error))
            self.failed(node, error.code)
            return
        self._state.catchup.stands(node, number)

    def _last(self, number: int, reply: Reply) -> tuple[Aggregate | None, bytes]:
        """Read the sum that led to a state, and the keyed digest of the state that it was made from.

        Raises:
            WireError: it has not the form of a sum of that round.
        """
        if not reply.blob or number < self._agreement.first_round:
            return None, b""
        header, limits = read_header(reply.blob), self._agreement.uploads
        blob = Blob.parse(reply.blob, limits, direction=AGGREGATE, kind=header.kind, round=number)
        signed = header.contributors * MANIFEST_BYTES if self._agreement.signers else 0
        if len(reply.manifest) != signed:
            raise WireError(f"a sum came with manifests of {len(reply.manifest)} bytes, expected {signed}")
        for one in self._held.values():
            if one.last and (one.last.blob, one.last.manifests) == (reply.blob, reply.manifest):
                return one.last, one.base  # one copy for all: it is as large as an upload
        return Aggregate(number, reply.blob, tuple(sorted(blob.counted)), reply.manifest), header.state_tag

    def close(self) -> None:
        """Go on from the state that may be gone on from, if one of those who hold it sent the whole.

        Raises:
            JournalError: the disk refuses; nothing has changed.
            RoundError: the operator has to say from which state; the journal notes who holds which.
        """
        chosen = self._of_most() if self._agreement.restart_from is None else self._of_operator()
        holders = {node: one for node, one in self._held.items() if one.header == chosen}
        sums = {one.last for one in holders.values() if one.last}
        if len(sums) > 1:
            _log.error(
                "those who hold one state sent different sums that led to it; exclude who sent a false one",
                institutions=self._state.members.names(holders),
            )
            chosen = None
        if chosen is None:
            self._unresolved()
            return
        if self._whole is None or self._whole[0] != chosen:
            _log.error("nobody sent the state that may be gone on from; another one is asked", round=chosen.round)
            self._state.senders = set(holders)
            self._again()
            return
        last = next(iter(sums), None)
        self._journal.restart(
            Snapshot(chosen.round, chosen.updates, self._whole[1]), (self._closed(last), last) if last else None
        )
        self._state.restarts, self._state.senders = 0, set()
        _log.warning("going on from the institutions' state", round=chosen.round, updates=chosen.updates)

    def _of_operator(self) -> SnapshotHeader | None:
        """Find the state that the operator named: by its digest, or, without one, as that which most of all who answered hold.

        A state that somebody has gone on from is not gone on from again: its round would get a second sum.
        """
        said = self._agreement.restart_digest
        votes = Counter(
            one.header
            for one in self._held.values()
            if one.header.round == self._agreement.restart_from and (not said or matches(one.header.tag, said))
        )
        ranked = votes.most_common(2)
        if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
            return None
        header, count = ranked[0]
        if not said and 2 * count <= len(self._holders):
            return None
        return None if any(one.base == header.tag for one in self._held.values()) else header

    def _of_most(self) -> SnapshotHeader | None:
        """Find the newest state that more than half of all who answered hold, or hold but for the sum that led to it."""
        for header in sorted({one.header for one in self._held.values()}, key=lambda header: -header.round):
            bases = {one.base for one in self._held.values() if one.header == header}
            reached = sum(one.header == header or one.header.tag in bases for one in self._held.values())
            if 2 * reached > len(self._holders):
                return header
        return None

    def _unresolved(self) -> None:
        _log.error(
            "institutions do not agree on one state, and nobody has said which to go on from",
            rounds=sorted(self._holders.values()),
        )
        if self._agreement.restart_from is None:
            self._again()
            return
        tags = {one.header.tag for one in self._held.values()}
        held = {
            str(node): held_text(one.header.round, spoken(one.header.tag), spoken(one.base) if one.base in tags else "")
            for node, one in self._held.items()
        }
        self._journal.refuse(self.number, time.time(), self._reasons | held)
        require_calm(self._journal)

    def _again(self) -> None:
        """Ask once more, all of those who answered before the first try: who is missing now still counts."""
        if self._state.restarts < RESTARTS:
            self._state.holders = self._holders

    def _closed(self, last: Aggregate) -> ClosedRound:
        """Say of the round before the state what its sum shows; when it was closed, and by which messages, nobody knows any more."""
        blob, now, members = read_header(last.blob), time.time(), self._agreement.members
        entries = Blob.own(last.blob, self._agreement.uploads.word_bits).entries
        names = tuple(sorted(members[one.member] for one in entries if one.member < len(members)))
        ciphertexts = -(-blob.words // self._agreement.parameters.ring_degree)
        return ClosedRound(last.round, blob.kind, now, now, 0.0, 0, ciphertexts, {}, names)


def likely_round(holders: Mapping[int, int]) -> int:
    """Guess whose state will be gone on from: the newest that more than half hold, or lack one sum of; where none is, the newest of all."""
    rounds = Counter(holders.values())
    near = {number: count + rounds[number - 1] for number, count in rounds.items()}
    return max((number for number, count in near.items() if 2 * count > len(holders)), default=max(rounds))
