"""Exchange of a round: it asks for uploads, adds them as they arrive, and journals the sum."""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog

from dictpfl.common.errors import CorruptError, DictPFLError, JournalError
from dictpfl.common.messages.masks import attempt_bytes
from dictpfl.common.messages.protocol import REFUSED, SCORES_DUE, Aggregate, Reply, Request, RoundKind, Status
from dictpfl.server.exchanges.delivery import Delivery
from dictpfl.server.exchanges.exchange import CoordinatorState, log_closed
from dictpfl.server.folding import Fold
from dictpfl.server.members import member_of
from dictpfl.server.rows import ClosedRound
from dictpfl.server.sampling import chosen, ranked
from dictpfl.server.snapshots import SnapshotVotes
from dictpfl.server.troubles import require_calm

_log = structlog.get_logger(__name__)


class Round(Delivery):
    """Attempt at a round: it ends with a sum, with the news that there will be none, or is asked again."""

    def __init__(self, state: CoordinatorState, kind: RoundKind) -> None:
        super().__init__(state, state.journal.next_round)
        self._kind = kind
        self._started = time.time()
        self._attempt = state.journal.attempt(self.number)
        self._fold: Fold | None = Fold(
            state.agreement, kind, self.number, self._attempt, state.unmasking.owners(self.number)
        )
        """Sum so far; None once the round is closed."""
        self._through: set[int] = set()
        """Nodes that deliver no further update."""
        self._unscored: set[int] = set()
        """Nodes that deliver nothing before scores are sent."""
        self._refusing: set[int] = set()
        """Nodes that have applied all before the round, and refuse to mask for this attempt at it."""

    @property
    def kind(self) -> RoundKind:
        """Kind of upload that institutions are asked for."""
        return self._kind

    def ask(self, nodes: Sequence[int]) -> dict[int, Request]:
        """Ask as many nodes as a sum may hold for an upload, and at times for a snapshot."""
        asked = self._invited(self._drawn(nodes))
        if self._snapshot_due():
            self._votes = SnapshotVotes(self._agreement, self.number)
        self._prepare(asked, self._sender(asked) if self._votes else None, attempt_bytes(self._attempt))
        return self._requests(asked)

    def _drawn(self, nodes: Sequence[int]) -> Sequence[int]:
        """Draw whom to ask, where the federation wants a sample; who did not answer in this round gives way to the next."""
        if not self._agreement.sample:
            return nodes
        names = {node: self._state.members.name(node) for node in nodes}
        order = ranked(names, self._agreement.uploads.federation, self.number, self._attempt)
        return chosen(order, self._agreement.sample, self._state.failed.get(self.number, ()))

    def _snapshot_due(self) -> bool:
        every = self._agreement.snapshot_every
        if not every or not self._agreement.snapshot_length:
            return False
        return self.number - max(self._journal.snapshots(), default=0) >= every

    def _sender(self, asked: Sequence[int]) -> int | None:
        """Choose who sends the whole snapshot: each time another one, of those in step if there are any."""
        in_step = [node for node in asked if self._catchup.in_step(node)] or asked
        turn = self._state.unlucky + self.number // max(1, self._agreement.snapshot_every)
        return in_step[turn % len(in_step)] if in_step else None

    def _takes(self, node: int, reply: Reply) -> bool:
        if reply.status is Status.UPLOAD and self._fold is not None:
            self._add(node, reply, self._fold)
        elif reply.status is Status.FINISHED and self.kind is not RoundKind.MEASURE and reply.position == self.number:
            self._through.add(node)
        elif reply.code == SCORES_DUE and self.kind is not RoundKind.SCORE and reply.position == self.number:
            self._unscored.add(node)
            return False
        elif self._agreement.masks and reply.code == REFUSED and reply.position == self.number:
            self._refusing.add(node)
            return False
        else:
            return super()._takes(node, reply)
        return True

    def _add(self, node: int, reply: Reply, fold: Fold) -> None:
        member = member_of(reply.blob)
        unfit = CorruptError.code if self._state.unmasking.is_unfit(self.number, member) else ""
        if reason := self._state.members.objection(node, member) or unfit:
            _log.warning("upload rejected", node=node, code=reason)
            self.failed(node, reason)
            return
        try:
            fold.add(node, reply.blob, reply.defence, reply.manifest)
        except DictPFLError as error:
            _log.warning("upload rejected", node=node, code=error.code, detail=str(error))
            self.failed(node, error.code)
        else:
            self._state.members.took(node, member)

    def close(self) -> None:
        """Journal the sum, or note that the round must be asked again; closing once more changes nothing.

        Raises:
            JournalError: the disk refuses; the round stays open.
            RoundError: rounds are void again and again; the journal has what was reached.
        """
        fold, self._fold = self._fold, None
        if fold is None:
            return
        # Who refuses a sum passes over its round when it is asked again: it has to be.
        failed = {node for node, reason in self.rejected.items() if reason != REFUSED}
        self._state.failed = {self.number: self._state.failed.get(self.number, set()) | failed}
        self._state.members.keep()
        voided = self._verdict.close()
        # As for the end of updates: as many as a sum needs have to say so, and more than go on.
        if len(self._unscored) >= self._agreement.least and len(self._unscored) > fold.count:
            self._state.scores_due = self.number
        self._conclude(fold)
        if self.kind is RoundKind.SCORE:
            self._state.scores_due = None  # heard anew, if need be
        self._votes = None  # what it holds is as large as the model
        if voided:
            require_calm(self._journal)

    def _conclude(self, fold: Fold) -> None:
        """Journal what came of the round."""
        now = time.time()
        # Of an attempt that the coordinator has given up itself all may refuse; once it went on, only those who opened the round do.
        stuck = len(self._refusing) if self._attempt else 0
        if self._must_restart(fold.count + len(self._through), stuck):
            self._journal.refuse(self.number, now, self._reasons)
        elif (due := self._state.next_kind()) is not self.kind:
            # The round before turned out to be void, now or before the journal was lost: institutions take no sum of another kind than
            # the one that is due.
            _log.warning("the round is asked for again", round=self.number, asked=str(self.kind), due=str(due))
            self._journal.refuse(self.number, now, self._reasons)
        elif len(self._through) >= self._agreement.least and len(self._through) > fold.count:
            # One that says so alone changes nothing: as many as a sum needs have to, and more than go on.
            self._stop(now)
        elif fold.count < self._agreement.least:
            _log.warning("too few uploads", round=self.number, found=fold.count, minimum=self._agreement.least)
            if self._refusing:
                # A journal that was lost begins at the first attempt, and institutions have masked for a later one: they go back to none.
                self._journal.give_up(self.number, self._attempt)
            self._journal.refuse(self.number, now, self._reasons)
        else:
            self._keep_sum(fold)
            self._keep_snapshot(fold)

    def _stop(self, now: float) -> None:
        """Note that institutions deliver no further update, or, asked for closing scores, that they sent all of them."""
        if self.kind is RoundKind.SCORE and self._journal.updated(self._agreement.rounds):
            self._state.all_scored = True
            _log.info("institutions sent all closing scores", round=self.number, institutions=len(self._through))
            return
        self._journal.stop(self.number, now)
        _log.info("institutions deliver no further update", round=self.number, institutions=len(self._through))

    def _keep_sum(self, fold: Fold) -> None:
        """Journal the sum, or, where it is under masks, leave it to the next exchange to take them off."""
        for node in fold.drifted():
            self.failed(node, "drift")
        for node in fold.nodes():
            self.rejected.pop(node, None)  # a second answer of one that is in the sum
        if self._is_contradicted(fold):
            self._journal.refuse(self.number, time.time(), self._reasons)
            return
        blob, counted, ciphertexts = fold.aggregate()
        closed = self._closed(fold, ciphertexts)
        if self._agreement.masks:
            self._state.unmasking.start(closed, self._attempt, blob, fold.contributions(), fold.manifests())
            return
        aggregate = Aggregate(self.number, blob, counted, fold.manifests())
        self._journal.record(closed, aggregate)
        log_closed(closed, aggregate)

    def _is_contradicted(self, fold: Fold) -> bool:
        """Tell whether notes on masks contradict each other: then the sum is nonsense, and the round is asked again without some.

        Uploads are added as they arrive and not kept, so that none can be taken out again. Nothing was asked about the masks yet, and
        institutions have their uploads on disk.
        """
        out = fold.contradicted()
        for node in out:
            member = fold.member(node)
            _log.warning(
                "upload left out: masked with other streams than its partners have; the round is asked again without it. Compare bundles",
                round=self.number, node=node, member=member, institution=self._state.members.name(node),
            )  # fmt: skip
            self._state.unmasking.leave_out(self.number, member)
            self.failed(node, CorruptError.code)
        return bool(out)

    def _closed(self, fold: Fold, ciphertexts: int) -> ClosedRound:
        return ClosedRound(
            self.number,
            self.kind,
            self._started,
            time.time(),
            fold.seconds,
            fold.bytes_up,
            ciphertexts,
            self._reasons,
            self._state.members.names(fold.nodes()),
        )

    def _keep_snapshot(self, fold: Fold) -> None:
        """Keep what the institutions in the sum agree on; without that it is asked of another one next round."""
        if self._votes is None:
            return
        # As many must stand for it as for a sum: what is kept may be all that a latecomer ever gets.
        agreed = self._votes.agreed(fold.nodes(), self._agreement.least, fold.tag)
        if agreed is None:
            self._state.unlucky += 1
            _log.warning("no snapshot that enough institutions agree on; another one is asked next", round=self.number)
            return
        try:
            self._journal.keep(agreed, self._agreement.snapshots_kept)
        except JournalError as error:
            _log.warning("snapshot not kept, asked again next round", round=self.number, reason=str(error))
            return
        self._state.unlucky = 0
        _log.info("snapshot kept", round=agreed.round, bytes=len(agreed.data), aggregates_from=self._journal.oldest)
