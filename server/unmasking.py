"""From a masked sum to one that institutions open: what has to be asked of whom, kept so that a crash loses nothing.

The coordinator learns seeds of masks and takes their streams off the sum; under them lie ciphertexts, of which it holds no key.
Two exchanges at most. Where members are missing from the sum, all that are in it tell the streams that they share with
those; then the sum is free of all pairs, and what is in it is final and journalled. After that, own masks come off: by their
makers' seeds, or by enough shares of them where a maker does not answer. Until what is in the sum is journalled, nothing
that opens a sum has been asked for, and the attempt can be given up without harm: the next one has other masks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from common.errors import CorruptError, JournalError, WireError
from common.keystream import shifted
from common.protocol import Aggregate, RoundKind, Stage
from common.revealing import Answer, Note, SeedsQuestion, SharesQuestion
from common.sharing import combine, commitment, threshold
from common.wire import require_intact, resealed
from server.agreement import Agreement
from server.journal import ClosedRound, Journal, Masked

_log = structlog.get_logger(__name__)
_GRACE = 1.0
"""Seconds: a maker's own seed is cheaper than shares of it."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """A masked upload in the sum: its id, the note that came with it, and the node, where this process has heard from it."""

    upload_id: bytes
    note: Note
    node: int | None = None


@dataclass
class _Sum:
    """A masked sum.

    `missing`: partners whose uploads are not in it, until their streams are off. `told`: answers by member. `since`: when the
    first exchange about the stage began, `enough`: when the answers were enough, both on the monotonic clock.
    """

    closed: ClosedRound
    attempt: int
    blob: bytes
    uploads: dict[int, Contribution]
    missing: tuple[int, ...] = ()
    manifests: bytes = b""
    told: dict[int, Answer] = field(default_factory=dict)
    since: float = 0.0
    enough: float | None = None

    @property
    def answered(self) -> bool:
        """Whether what was told is enough, if it is right."""
        if self.missing:
            return len(self.told) == len(self.uploads)
        return all(
            (member in self.told and self.told[member].own) or len(self._shares(member)) >= self._threshold(member)
            for member in self.uploads
        )

    def seeds(self) -> dict[int, bytes]:
        """Seeds of own masks, from their makers or from shares; only such as were committed to."""
        found: dict[int, bytes] = {}
        for member, upload in self.uploads.items():
            own = self.told[member].own if member in self.told else b""
            if not own and len(shares := self._shares(member)) >= self._threshold(member):
                own = combine(shares)
            if own and commitment(own) == upload.note.commitment:
                found[member] = own
        return found

    def _shares(self, member: int) -> dict[int, bytes]:
        """Shares of a member's seed by the holder's place among its partners."""
        places = {holder: place for place, holder in enumerate(self.uploads[member].note.partners)}
        return {
            places[holder]: answer.others[member]
            for holder, answer in self.told.items()
            if holder in places and member in answer.others
        }

    def _threshold(self, member: int) -> int:
        return threshold(len(self.uploads[member].note.partners))


class Unmasking:
    """The masked sum of the open round, if there is one."""

    def __init__(self, agreement: Agreement, journal: Journal) -> None:
        self._agreement = agreement
        self._journal = journal
        self._sum: _Sum | None = None
        if (kept := journal.masked()) is not None:
            self._sum = _of(kept)
            _log.info("a masked sum waits to be opened", round=kept.closed.round, uploads=len(self._sum.uploads))

    @property
    def waiting(self) -> bool:
        """Whether there is a sum, and the next exchange is about its masks."""
        return self._sum is not None

    @property
    def stage(self) -> Stage:
        """What the next exchange asks for."""
        return Stage.SEEDS if self._open.missing else Stage.SHARES

    @property
    def kind(self) -> RoundKind:
        """Of the round."""
        return self._open.closed.kind

    @property
    def _open(self) -> _Sum:
        assert self._sum is not None  # noqa: S101  asked for only while there is one
        return self._sum

    def start(
        self,
        closed: ClosedRound,
        attempt: int,
        blob: bytes,
        contributions: Iterable[Contribution],
        manifests: bytes = b"",
    ) -> None:
        """Take over a masked sum, with the manifests of its uploads.

        Raises:
            JournalError: the disk refuses; there is no sum, and the round is asked again.
        """
        uploads = {one.note.member: one for one in contributions}
        partners = {partner for one in uploads.values() for partner in one.note.partners}
        missing = tuple(sorted(partners - set(uploads)))
        found = _Sum(closed, attempt, blob, uploads, missing, manifests)
        if missing:
            # First: if this process dies once streams are told, the next attempt must have others.
            self._journal.give_up(closed.round, attempt)
        else:
            self._journal.keep_masked(_kept(found))
        self._sum = found

    def questions(self, nodes: Sequence[int]) -> dict[int, bytes]:
        """What to ask which of the nodes: those whose uploads are in the sum, and unknown ones while some of those are not here."""
        found = self._open
        found.since, found.enough = time.monotonic(), None
        known = {one.node: member for member, one in found.uploads.items()}
        lost = set(known) - set(nodes)
        return {node: self._question(found, known.get(node)) for node in nodes if node in known or lost}

    def _question(self, found: _Sum, member: int | None) -> bytes:
        if found.missing:
            return SeedsQuestion(found.attempt, found.missing).to_bytes()
        # Whoever it is: a process that was started anew does not know which node is which member.
        shares = {
            maker: {holder: p.share for holder, p in one.note.partners.items() if member in (None, holder)}
            for maker, one in found.uploads.items()
        }
        ids = {maker: one.upload_id for maker, one in found.uploads.items()}
        return SharesQuestion(found.attempt, ids, shares, found.manifests).to_bytes()

    def take(self, node: int, data: bytes) -> None:
        """Take an answer.

        Raises:
            CorruptError: none of this form, or not what was committed to.
        """
        found, answer = self._open, Answer.of_bytes(data)
        upload = found.uploads.get(answer.member)
        if upload is None:
            raise CorruptError("an answer about masks from one whose upload is not in the sum")
        if found.missing:
            for number in set(found.missing) & set(upload.note.partners):
                if commitment(answer.others.get(number, b"")) != upload.note.partners[number].commitment:
                    raise CorruptError("an answer about masks without a stream that was asked for")
        elif answer.own and commitment(answer.own) != upload.note.commitment:
            raise CorruptError("an answer about masks with another seed than was committed to")
        found.told[answer.member] = answer
        found.uploads[answer.member] = replace(upload, node=node)

    @property
    def satisfied(self) -> bool:
        """Whether waiting is of no more use: all have answered, or enough have and the others had as much time again."""
        found, now = self._open, time.monotonic()
        if len(found.told) == len(found.uploads):
            return True
        if found.missing or not found.answered:
            return False
        found.enough = found.enough or now
        return now - found.enough >= max(_GRACE, found.enough - found.since)

    def close(self) -> tuple[ClosedRound, Aggregate] | None:
        """After an exchange: the sum, once it is free of masks.

        Raises:
            JournalError: the disk refuses; it is tried again.
        """
        found, began = self._open, time.perf_counter()
        seeds = {} if found.missing else found.seeds()
        if not found.answered or (not found.missing and len(seeds) < len(found.uploads)):
            self._unsatisfied(found)
            return None
        if found.missing:
            blob = self._without(found.blob, *self._pairs(found))
            spent = time.perf_counter() - began
            closed = replace(found.closed, fold_seconds=found.closed.fold_seconds + spent)
            free = replace(found, closed=closed, blob=blob, missing=(), told={})
            self._journal.keep_masked(_kept(free))
            self._sum = free
            return None
        blob = self._without(found.blob, [], list(seeds.values()))
        spent = time.perf_counter() - began
        closed = replace(found.closed, ended=time.time(), fold_seconds=found.closed.fold_seconds + spent)
        counted = tuple(sorted(one.upload_id for one in found.uploads.values()))
        return closed, Aggregate(closed.round, blob, counted, found.manifests)

    def done(self) -> None:
        """The sum is journalled."""
        self._sum = None

    def _unsatisfied(self, found: _Sum) -> None:
        silent = sorted(set(found.uploads) - set(found.told))
        _log.warning("some who delivered do not tell of their masks", round=found.closed.round, members=silent)
        if found.missing:
            self._sum = None  # given up; the round is asked again, under other masks

    def _pairs(self, found: _Sum) -> tuple[list[bytes], list[bytes]]:
        """Seeds to add and to subtract, so that nothing is left of what was masked with those who are missing."""
        streams = [
            (member < number, seed)
            for member, answer in found.told.items()
            for number, seed in answer.others.items()
            if number in found.missing and number in found.uploads[member].note.partners
        ]
        return [seed for added, seed in streams if not added], [seed for added, seed in streams if added]

    def _without(self, blob: bytes, plus: list[bytes], minus: list[bytes]) -> bytes:
        parameters = self._agreement.parameters
        return resealed(blob, lambda items: shifted(items, parameters, plus=plus, minus=minus))

    def require_sound(self) -> None:
        """Refuse a kept sum that is damaged.

        Raises:
            JournalError: it is.
        """
        if self._sum is None:
            return
        closed = self._sum.closed
        try:
            require_intact(self._sum.blob)
        except WireError as error:
            raise JournalError(
                f"the masked sum of round {closed.round} is damaged: {error}; restore the journal"
            ) from error


def _kept(found: _Sum) -> Masked:
    uploads = {str(member): [one.upload_id.hex(), one.note.to_bytes().hex()] for member, one in found.uploads.items()}
    return Masked(found.closed, found.attempt, json.dumps(uploads), found.blob, found.manifests)


def _of(kept: Masked) -> _Sum:
    try:
        uploads: Mapping[str, list[str]] = json.loads(kept.uploads)
        contributions = {
            int(member): Contribution(bytes.fromhex(upload), Note.of_bytes(bytes.fromhex(note)))
            for member, (upload, note) in uploads.items()
        }
    except (ValueError, TypeError, WireError) as error:
        raise JournalError(
            f"the masked sum of round {kept.closed.round} is damaged ({type(error).__name__}); restore the journal"
        ) from error
    return _Sum(kept.closed, kept.attempt, kept.blob, contributions, manifests=kept.manifests)
