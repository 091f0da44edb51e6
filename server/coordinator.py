"""The blind coordinator: opens rounds, folds uploads, journals sums. It holds no key and no torch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import structlog

from common.errors import DictPFLError, JournalError, SnapshotError
from common.protocol import NEWCOMER, Aggregate, Reply, Request, RoundKind, Status, Wish
from common.revealing import attempt_bytes
from server.agreement import Agreement
from server.ballot import Ballot
from server.catchup import CatchUp
from server.folding import Fold
from server.journal import ClosedRound, Journal
from server.unmasking import Unmasking

_log = structlog.get_logger(__name__)
AGREEMENT, JOURNAL = "federation.json", "journal.sqlite"
_SETTLE_TRIES = 3
_RESTARTS = 3
"""Tries to go on from the institutions' state, before somebody has to look."""
_ABOUT_SNAPSHOTS = frozenset({"snapshot", "drift", "wrong-key", "wrong-federation", "key-file"})
"""Codes with which an institution refuses a snapshot; what else it refuses has other reasons (a full disk, say)."""


def open_journal(folder: Path, agreement: Agreement) -> Journal:
    """The journal in a coordinator's folder, in the epoch of its agreement; made if missing.

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
    )


class Coordinator:
    """The rounds of one federation, from its folder; a new process goes on where the last one stopped.

    The caller carries messages: `begin` an exchange, hand in each answer by `receive` or `failed`, `close`.
    """

    def __init__(self, agreement: Agreement, journal: Journal) -> None:
        self._agreement = agreement
        self._journal = journal
        self._catchup = CatchUp(journal)
        self._unmasking = Unmasking(agreement, journal)
        self._unmasking.require_sound()
        self._telling = False
        """Whether the exchange now open is about masks."""
        self._number = journal.next_round
        self._kind: RoundKind | None = None
        self._fold: Fold | None = None
        self._ballot: Ballot | None = None
        self._unlucky = 0
        self._rejected: dict[int, str] = {}
        self._asked: frozenset[int] = frozenset()
        self._settled: set[int] = set()
        self._through: set[int] = set()
        """Who delivers no further update."""
        self._settle_tries = 0
        self._ahead: dict[int, int] = {}
        self._holders: dict[int, int] = {}
        """Who holds a state that the journal does not lead to, when the next exchange is to restart from there."""
        self._restarting = False
        self._restarts = 0
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
        return cls(agreement, open_journal(folder, agreement))

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
        return self._agreement.reveal_seconds if self._telling else self._agreement.deadline_seconds

    @property
    def satisfied(self) -> bool:
        """Whether the open exchange needs no further answers."""
        return self._telling and self._unmasking.waiting and self._unmasking.satisfied

    @property
    def finished(self) -> bool:
        """Whether all rounds are closed and the last aggregate was sent out."""
        settled = self._journal.is_settled(self._journal.next_round)
        return settled and self._next_kind() is None and not self._holders

    def _next_kind(self) -> RoundKind | None:
        """Scores first, then updates, then one measurement of the final model; None: only settle."""
        if self._journal.next_round < self._agreement.score_rounds:
            return RoundKind.SCORE
        if not self._journal.updated(self._agreement.rounds):
            return RoundKind.UPDATE
        return None if self._journal.last_kind() is RoundKind.MEASURE else RoundKind.MEASURE

    @property
    def rejected(self) -> Mapping[int, str]:
        """Why nodes are not in the exchange now open, or just closed."""
        return dict(self._rejected)

    def begin(self, nodes: Sequence[int]) -> dict[int, Request]:
        """Open the next exchange: what to ask each node, at most as many as a sum may hold."""
        self._rejected, self._settled, self._through, self._ahead = {}, set(), set(), {}
        self._started = time.time()
        self._restarting = bool(self._holders)
        self._telling = self._unmasking.waiting and not self._restarting
        if self._restarting:
            return self._begin_restart(nodes)
        if self._telling:
            return self._begin_telling(nodes)
        self._kind, self._number = self._next_kind(), self._journal.next_round
        attempt = self._journal.attempt(self._number)
        self._fold = Fold(self._agreement, self._kind, self._number, attempt) if self._kind is not None else None
        asked = sorted(nodes)[: self._agreement.uploads.max_contributors]
        if len(asked) < len(nodes):
            _log.warning("more institutions than a sum may hold", online=len(nodes), asked=len(asked))
        _log.info("round opens", round=self._number, kind=str(self._kind or "settle"), asked=len(asked))
        self._ballot = Ballot(self._agreement, self._number) if self._snapshot_due() else None
        in_step = [node for node in asked if self._catchup.in_step(node)] or asked
        turn = self._unlucky + self._number // max(1, self._agreement.snapshot_every)
        self._ask(asked, in_step[turn % len(in_step)] if in_step else None, attempt_bytes(attempt))
        return {node: self._catchup.first(node) for node in asked}

    def _begin_telling(self, nodes: Sequence[int]) -> dict[int, Request]:
        """Ask what takes the masks off the sum that waits."""
        masks, limits = self._unmasking, self._agreement.uploads
        self._kind, self._fold, self._ballot, self._number = masks.kind, None, None, self._journal.next_round
        questions = masks.questions(sorted(nodes))
        self._asked = frozenset(questions)
        _log.info("masks come off", round=self._number, stage=str(masks.stage), asked=len(questions))
        bare = Request(self._number, self._kind, limits.federation, limits.fingerprint, stage=masks.stage)
        return {node: replace(bare, defence=question) for node, question in questions.items()}

    def _begin_restart(self, nodes: Sequence[int]) -> dict[int, Request]:
        """Ask those who hold the newest state to agree on it, and one of them to send it sealed."""
        holding, self._holders = self._holders, {}
        self._kind, self._fold, self._number = None, None, max(holding.values())
        self._ballot = Ballot(self._agreement, self._number)
        asked = sorted(node for node in nodes if holding.get(node) == self._number)
        _log.warning(
            "the journal was lost or is an old copy; asking institutions for their state",
            journal=self._journal.next_round, institutions=self._number, asked=len(asked),
        )  # fmt: skip
        self._ask(asked, asked[self._restarts % len(asked)] if asked else None)
        self._restarts += 1
        for node in asked:
            self._catchup.stands(node, self._number)
        return {node: self._catchup.first(node) for node in asked}

    def _ask(self, asked: Sequence[int], sender: int | None, defence: bytes = b"") -> None:
        """Prepare the exchange's requests; `sender` is to send the whole snapshot, the others what shows that it is right."""
        self._asked = frozenset(asked)
        limits = self._agreement.uploads
        wishes = {node: Wish.WHOLE if node == sender else Wish.HEADER for node in asked} if self._ballot else {}
        request = Request(self._number, self._kind, limits.federation, limits.fingerprint, defence=defence)
        self._catchup.open(request, wishes)

    def _snapshot_due(self) -> bool:
        every = self._agreement.snapshot_every
        if not every or not self._agreement.snapshot_length or self._kind is None:
            return False
        return self._number - max(self._journal.snapshots(), default=0) >= every

    def receive(self, node: int, reply: Reply) -> Request | None:
        """Take an answer; a node that is behind gets a further request with what it lacks."""
        if self._telling:
            self._take_told(node, reply)
            return None
        return self._take(node, reply)

    def _take(self, node: int, reply: Reply) -> Request | None:
        number = self._number
        if reply.position <= number and reply.status is not Status.REFUSED:
            self._catchup.stands(node, reply.position)
        if reply.status is Status.REFUSED and reply.code in _ABOUT_SNAPSHOTS:
            self._catchup.refused(node)
        elif reply.status in {Status.UPLOAD, Status.SETTLED, Status.FINISHED}:
            self._catchup.took(node)
            self._take_snapshot(node, reply.snapshot)
        if reply.status is Status.BEHIND and reply.position < number:
            _log.info("institution catches up", node=node, position=reply.position, round=number)
            further = self._catchup.further(node, reply.position, newcomer=reply.code == NEWCOMER)
            if further is None:
                self.failed(node, "rounds-not-kept")
            return further
        if reply.position > number:
            self._ahead[node] = reply.position
            self.failed(node, "ahead-of-journal")
        elif reply.status is Status.UPLOAD and self._fold is not None:
            self._folded(node, reply, self._fold)
        elif reply.status is Status.SETTLED and reply.round == reply.position == number:
            self._settled.add(node)
        elif reply.status is Status.FINISHED and self._kind is RoundKind.UPDATE and reply.position == number:
            self._through.add(node)
        else:
            self.failed(node, reply.code or str(reply.status))
        return None

    def _take_snapshot(self, node: int, data: bytes) -> None:
        if self._ballot is None or not data:
            return
        try:
            self._ballot.take(node, data)
        except SnapshotError as error:
            _log.warning("snapshot left out", node=node, round=self._number, reason=str(error))

    def _take_told(self, node: int, reply: Reply) -> None:
        if reply.position > self._number:
            self._ahead[node] = reply.position
        if reply.status is not Status.REVEALED or reply.round != self._number:
            self.failed(node, reply.code or str(reply.status))
            return
        try:
            self._unmasking.take(node, reply.defence)
        except DictPFLError as error:
            _log.warning("an answer about masks left out", node=node, code=error.code, detail=str(error))
            self.failed(node, error.code)

    def _folded(self, node: int, reply: Reply, fold: Fold) -> None:
        try:
            fold.add(node, reply.blob, reply.defence, reply.manifest)
        except DictPFLError as error:
            _log.warning("upload rejected", node=node, code=error.code, detail=str(error))
            self.failed(node, error.code)

    def failed(self, node: int, reason: str) -> None:
        """No usable answer comes from the node in this exchange."""
        _log.warning("institution skipped", node=node, round=self._number, reason=reason)
        self._rejected.setdefault(node, reason)

    def close(self) -> None:
        """Close the exchange: journal the sum, or note that the round must be asked again.

        Raises:
            JournalError: the disk refuses; the round stays open.
        """
        number, now, fold = self._number, time.time(), self._fold
        self._fold = None
        if self._telling:
            self._close_telling()
        elif self._restarting:
            self._close_restart()
        elif self._must_restart(len(self._settled) if fold is None else fold.count + len(self._through)):
            self._refuse(now)
        elif fold is None:
            self._close_settling(number, now)
        elif len(self._through) >= self.min_participants and len(self._through) > fold.count:
            # One that says so alone changes nothing: as many as a sum needs have to, and more than go on.
            self._journal.stop(number, now)
            _log.info("institutions deliver no further update", round=number, institutions=len(self._through))
        elif fold.count < self.min_participants:
            _log.warning("too few uploads", round=number, found=fold.count, minimum=self.min_participants)
            self._refuse(now)
        else:
            for node in fold.drifted():
                self.failed(node, "drift")
            for node in fold.nodes():
                self._rejected.pop(node, None)  # a second answer of one that is in the sum
            if self._agreement.masks:
                self._close_masked(fold, number)
            else:
                self._journalled(fold, number)
            self._keep_snapshot(fold)
        self._ballot = None

    def _refuse(self, now: float) -> None:
        self._journal.refuse(self._number, now, {str(node): reason for node, reason in self._rejected.items()})

    def _close_settling(self, number: int, now: float) -> None:
        """Done when everybody who was asked has the last aggregate, or, after a few tries, enough of them."""
        self._settle_tries += 1
        missing = len(self._asked - self._settled)
        if missing == 0 or (self._settle_tries >= _SETTLE_TRIES and len(self._settled) >= self.min_participants):
            self._journal.settle(number, now)
        if missing:
            _log.warning("some institutions lack the last aggregate", round=number, missing=missing)

    def _close_masked(self, fold: Fold, number: int) -> None:
        """The sum is there, under masks: the next exchange asks about them."""
        blob, _, ciphertexts = fold.aggregate()
        closed = self._closed(fold, number, ciphertexts)
        self._unmasking.start(closed, self._journal.attempt(number), blob, fold.contributions(), fold.manifests())

    def _close_telling(self) -> None:
        found = self._unmasking.close()
        if found is None:
            if self._must_restart(0):
                self._unmasking.done()  # an old copy of the journal: the round was closed long ago
            return
        self._journal.record(*found)
        self._unmasking.done()
        closed, aggregate = found
        _log.info(
            "round closed", round=closed.round, contributors=len(aggregate.counted), ciphertexts=closed.ciphertexts,
            bytes=len(aggregate.blob),
        )  # fmt: skip

    def _closed(self, fold: Fold, number: int, ciphertexts: int) -> ClosedRound:
        return ClosedRound(
            number,
            self._kind or RoundKind.UPDATE,
            self._started,
            time.time(),
            fold.seconds,
            fold.bytes_up,
            ciphertexts,
            {str(node): reason for node, reason in self._rejected.items()},
        )

    def _journalled(self, fold: Fold, number: int) -> None:
        blob, counted, ciphertexts = fold.aggregate()
        self._journal.record(
            self._closed(fold, number, ciphertexts), Aggregate(number, blob, counted, fold.manifests())
        )
        _log.info("round closed", round=number, contributors=len(counted), ciphertexts=ciphertexts, bytes=len(blob))

    def _keep_snapshot(self, fold: Fold) -> None:
        """Keep what the institutions in the sum agree on; without that it is asked of another one next round."""
        if self._ballot is None:
            return
        # As many must stand for it as for a sum: what is kept may be all that a latecomer ever gets.
        agreed = self._ballot.agreed(fold.nodes(), self.min_participants, fold.tag)
        if agreed is None:
            self._unlucky += 1
            _log.warning("no snapshot that enough institutions agree on; another one is asked next", round=self._number)
            return
        try:
            self._journal.keep(agreed, self._agreement.snapshots_kept)
        except JournalError as error:
            _log.warning("snapshot not kept, asked again next round", round=self._number, reason=str(error))
            return
        self._unlucky = 0
        _log.info("snapshot kept", round=agreed.round, bytes=len(agreed.data), aggregates_from=self._journal.oldest)

    # a journal that was lost

    def _must_restart(self, in_step: int) -> bool:
        """Whether to go on from the state of institutions that are ahead of the journal: if most of those here are.

        A few that are ahead (of a federation that was begun again, say) are left out instead, and told so.
        """
        ahead = len(self._ahead)
        if ahead <= in_step or ahead + in_step < self.min_participants:
            return False
        if not self._agreement.snapshot_length or self._restarts >= _RESTARTS:
            _log.error(
                "the journal is older than the institutions' state, and they did not agree on one to go on from: restore "
                "the newest journal, or have them compare their digests (dictpfl status)",
                journal=self._number, institutions=sorted(set(self._ahead.values())),
            )  # fmt: skip
            return False
        self._holders = dict(self._ahead)
        return True

    def _close_restart(self) -> None:
        """Go on from the newest state, if most of those who hold it agree on it."""
        assert self._ballot is not None  # noqa: S101  what `_begin_restart` made
        agreed = self._ballot.agreed(self._settled, len(self._asked) // 2 + 1)
        if agreed is None:
            _log.error("those who hold the newest state do not agree on it, or did not send it", round=self._number)
            if self._restarts < _RESTARTS:
                self._holders = dict.fromkeys(self._asked, self._number)
            return
        self._journal.restart(agreed)
        self._restarts = 0
        _log.warning("going on from the institutions' state", round=agreed.round, updates=agreed.updates)
