"""Exchange about masks: it asks those in a masked sum for what takes the masks off it (`dictpfl.server.masks`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import structlog

from dictpfl.common.errors import DictPFLError
from dictpfl.common.messages.masks import Answer
from dictpfl.common.messages.protocol import REFUSED, Reply, Request, RoundKind, Status
from dictpfl.server.exchanges.exchange import CoordinatorState, Exchange, log_closed

_log = structlog.get_logger(__name__)


class Reveal(Exchange):
    """Stage of taking the masks off the sum that waits; after the last one the round is closed."""

    def __init__(self, state: CoordinatorState) -> None:
        super().__init__(state, state.journal.next_round)
        self._unmasking = state.unmasking
        self._asked: set[int] = set()

    @property
    def deadline_seconds(self) -> float:
        """Seconds after which the exchange closes without stragglers."""
        return self._agreement.reveal_seconds

    @property
    def satisfied(self) -> bool:
        """True when all have answered, or enough have and the others had as much time again."""
        return self._unmasking.waiting and self._unmasking.satisfied

    def ask(self, nodes: Sequence[int]) -> dict[int, Request]:
        """Ask those whose uploads are in the sum; unknown nodes, too, while some of these are not here."""
        masks, limits = self._unmasking, self._agreement.uploads
        questions = masks.questions(sorted(nodes))
        self._asked = set(questions)
        _log.info("masks come off", round=self.number, stage=str(masks.stage), asked=len(questions))
        bare = Request(self.number, masks.kind, limits.federation, limits.fingerprint, stage=masks.stage)
        return {node: replace(bare, defence=question) for node, question in questions.items()}

    @property
    def _is_refused_by_all(self) -> bool:
        """True where scores are made again, and institutions open no other sum of them than the first (`client.defences.reveals`)."""
        if not self._unmasking.waiting or self._unmasking.kind is not RoundKind.SCORE:
            return False
        return bool(self._asked) and all(self.rejected.get(node) == REFUSED for node in self._asked)

    @property
    def _is_refused_by_too_many(self) -> bool:
        """True where so many refuse that the others never open the sum: of a journal that was lost, they had signed another one."""
        if not self._unmasking.waiting or self._unmasking.kind is RoundKind.SCORE:
            return False
        # Others may be asked, too, after a restart, and refuse because their uploads are not in it.
        makers = self._unmasking.makers
        refused = sum(node is not None and self.rejected.get(node) == REFUSED for node in makers)
        return refused > len(makers) - self._agreement.least

    def receive(self, node: int, reply: Reply) -> None:
        """Take an answer; nobody is brought up to date in between."""
        if reply.position > self.number:
            self._ahead[node] = reply.position
        elif reply.position == self.number:
            self._level.add(node)
        if reply.status is not Status.REVEALED or reply.round != self.number:
            self.failed(node, reply.code or str(reply.status))
            return
        try:
            answer = Answer.of_bytes(reply.defence)
            # Questions tell signatures of others: whoever answers with one would take its maker's place.
            if reason := self._state.members.objection(node, answer.member):
                _log.warning("an answer about masks left out", node=node, code=reason)
                self.failed(node, reason)
                return
            self._unmasking.take(node, answer)
        except DictPFLError as error:
            _log.warning("an answer about masks left out", node=node, code=error.code, detail=str(error))
            self.failed(node, error.code)

    def close(self) -> None:
        """Journal the sum if it is free of masks; otherwise the next exchange goes on with it, or the round is asked again.

        Raises:
            JournalError: the disk refuses; the sum waits on.
        """
        opened = self._unmasking.close()
        if opened is None:
            if self._must_restart(0):
                self._unmasking.done()  # an old copy of the journal: the round was closed long ago
            elif self._is_refused_by_all:
                _log.error(
                    "nobody opens this sum of scores: others were in the sum that was void. Have the institutions look into their logs",
                    round=self.number,
                )
                self._give_up()
            elif self._is_refused_by_too_many:
                _log.error(
                    "too many refuse to open this sum; the round is asked again, under other masks", round=self.number
                )
                self._give_up()
            return
        self._journal.record(*opened)
        self._unmasking.done()
        log_closed(*opened)

    def _give_up(self) -> None:
        """Have the round asked for again, under other masks."""
        self._journal.refuse(self.number, time.time(), self._reasons)
        self._unmasking.give_up()
