"""Unmasking: from a masked sum to one that institutions open, kept so that a crash loses nothing.

The coordinator learns seeds of masks and takes their streams off the sum; under them lie ciphertexts, of which it
holds no key. It takes one exchange, or three. Where members are missing from the sum, those that are in it sign what is in it, and a
quorum's signatures show each that the others are asked about the same; then all tell the streams that they share with those
who are missing. Now the sum is free of all pairs, and what is in it is final and journalled. After that, own masks come off: by enough
shares of their seeds, or, of a sum that a quorum has signed, by their makers' word. Until what is in the sum is journalled, nothing that
opens a sum has been asked for, and the attempt can be given up without harm: the next one has other masks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from dictpfl.common.ckks.streams import SumOfStreams
from dictpfl.common.errors import CorruptError, JournalError, WireError
from dictpfl.common.messages.manifest import is_signed
from dictpfl.common.messages.masks import Answer, Note, SumQuestion, signed_text
from dictpfl.common.messages.protocol import Aggregate, RoundKind, Stage
from dictpfl.common.messages.sharing import combine, commitment, threshold
from dictpfl.common.messages.wire import Blob, with_words
from dictpfl.common.protection import quorum
from dictpfl.common.words import add_modulo
from dictpfl.server.agreement import Agreement
from dictpfl.server.journal import Journal
from dictpfl.server.rows import ClosedRound, Masked

_log = structlog.get_logger(__name__)
_GRACE = 1.0
"""Seconds to wait at least for a maker's own seed, which is cheaper than shares of it."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """Masked upload in the sum."""

    upload_id: bytes
    note: Note
    """Note on its masks that came with it."""
    node: int | None = None
    """Node that sent it; None where this process has not heard from it."""
    signature: bytes = b""
    """Its maker's on what is in the sum; empty: not there yet."""


@dataclass
class MaskedSum:
    """Sum of uploads whose masks are still on, and the answers so far to the questions about them."""

    closed: ClosedRound
    attempt: int
    blob: bytes
    uploads: dict[int, Contribution]
    """Uploads in the sum by member."""
    missing: tuple[int, ...] = ()
    """Members whose uploads are not in it, though others masked with them; empty once these masks are off."""
    manifests: bytes = b""
    signers: int = 0
    """Signatures that an institution asks for before it tells streams, or its own seed."""
    is_agreed: bool = False
    """True once so many go along with what is asked."""
    told: dict[int, Answer] = field(default_factory=dict)
    """Answers by member."""
    since: float = 0.0
    """Time at which the first exchange about this stage began, in seconds on the monotonic clock."""
    enough: float | None = None
    """Time at which the answers were enough, in seconds on the monotonic clock."""
    fruitless: int = 0
    """Exchanges in which enough was told, and a seed was not what its maker had committed to."""

    @property
    def stage(self) -> Stage:
        """Stage that the next exchange is about."""
        if not self.is_agreed and (self.missing or self.in_circle):
            return Stage.AGREE
        return Stage.SEEDS if self.missing else Stage.SHARES

    @property
    def in_circle(self) -> bool:
        """True where members share masks with some of the others only: there nothing at all is told before a quorum has signed."""
        everybody = len(self.uploads) + len(self.missing)
        return any(len(one.note.partners) < everybody - 1 for one in self.uploads.values())

    @property
    def question(self) -> SumQuestion:
        """Attempt and uploads, which are what is asked about, and signed."""
        return SumQuestion(self.attempt, {maker: one.upload_id for maker, one in self.uploads.items()})

    @property
    def signatures(self) -> dict[int, bytes]:
        """Signatures so far, by member."""
        return {member: one.signature for member, one in self.uploads.items() if one.signature}

    @property
    def answered(self) -> bool:
        """True when what was told is enough, if it is right."""
        if self.stage is Stage.AGREE:
            return len(self.signatures) >= self.signers
        if self.stage is Stage.SEEDS:
            return len(self.told) == len(self.uploads)
        return all(
            (member in self.told and self.told[member].own) or len(self._shares(member)) >= self._threshold(member)
            for member in self.uploads
        )

    def seeds(self) -> dict[int, bytes]:
        """Seeds of own masks, from their makers or from shares; only such as were committed to.

        After an exchange in vain a seed that enough partners hold shares of is taken all the same. What is in the sum is final, and of
        no other sum anything is told: a round that waited for a commitment to fit would wait for ever. If the seed is wrong, the sum
        is nonsense, which institutions find by its tags.
        """
        seeds: dict[int, bytes] = {}
        for member, upload in self.uploads.items():
            own = self.told[member].own if member in self.told else b""
            if not own and len(shares := self._shares(member)) >= (enough := self._threshold(member)):
                own = combine(dict(sorted(shares.items())[:enough]))  # the same places for all makers: the same weights
            if own and (self.fruitless or commitment(own) == upload.note.commitment):
                seeds[member] = own
        return seeds

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
    """Masked sum of the open round, if there is one: questions about its masks, and the answers that take them off."""

    def __init__(self, agreement: Agreement, journal: Journal) -> None:
        self._agreement = agreement
        self._journal = journal
        self._sum: MaskedSum | None = None
        self._unfit: set[tuple[int, int]] = set()
        """Round and member of those whose notes were contradicted, or who told another stream of a missing partner than they committed to."""
        self._told: tuple[int, dict[bytes, int]] = (-1, {})
        """Round, and the member behind each upload id that questions about it told everybody."""
        if (kept := journal.masked()) is not None:
            self._sum = replace(_of(kept), signers=self._signers)
            self._note_ids(self._sum)
            _log.info("a masked sum waits to be opened", round=kept.closed.round, uploads=len(self._sum.uploads))

    @property
    def waiting(self) -> bool:
        """True when there is a sum, and the next exchange is about its masks."""
        return self._sum is not None

    @property
    def stage(self) -> Stage:
        """Stage that the next exchange is about."""
        return self._open.stage

    @property
    def kind(self) -> RoundKind:
        """Kind of the round."""
        return self._open.closed.kind

    @property
    def makers(self) -> tuple[int | None, ...]:
        """Node of each upload in the sum; None where this process has not heard from it."""
        return tuple(one.node for one in self._open.uploads.values())

    @property
    def _signers(self) -> int:
        return quorum(len(self._agreement.members))

    @property
    def _open(self) -> MaskedSum:
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
        missing = tuple(sorted({partner for one in uploads.values() for partner in one.note.partners} - set(uploads)))
        masked = MaskedSum(closed, attempt, blob, uploads, missing, manifests, self._signers)
        if missing:
            # First: if this process dies once streams are told, the next attempt must have others.
            self._journal.give_up(closed.round, attempt)
        else:
            self._journal.keep_masked(_kept(masked))
        self._sum = masked
        self._note_ids(masked)

    def _note_ids(self, masked: MaskedSum) -> None:
        number, ids = masked.closed.round, {one.upload_id: member for member, one in masked.uploads.items()}
        self._told = (number, self.owners(number) | ids)

    def owners(self, number: int) -> dict[bytes, int]:
        """Return the member behind each upload id that was told in earlier attempts at a round, as far as this process knows."""
        return self._told[1] if self._told[0] == number else {}

    def questions(self, nodes: Sequence[int]) -> dict[int, bytes]:
        """Choose whom to ask what: those whose uploads are in the sum, and unknown nodes while some of those are not here."""
        masked = self._open
        masked.since, masked.enough = time.monotonic(), None
        masked.is_agreed |= not masked.missing and len(masked.signatures) >= masked.signers
        known = {one.node: member for member, one in masked.uploads.items()}
        lost = set(known) - set(nodes)
        return {node: self._question(masked, known.get(node)) for node in nodes if node in known or lost}

    def _question(self, masked: MaskedSum, member: int | None) -> bytes:
        question = replace(masked.question, signatures=masked.signatures if masked.is_agreed else {})
        if masked.stage is not Stage.SHARES:
            return question.to_bytes()
        # Whoever it is: a process that was started anew does not know which node is which member.
        shares = {
            maker: {holder: p.share for holder, p in one.note.partners.items() if member in (None, holder)}
            for maker, one in masked.uploads.items()
        }
        return replace(question, shares=shares, manifests=masked.manifests).to_bytes()

    def take(self, node: int, answer: Answer) -> None:
        """Take an answer.

        Raises:
            CorruptError: not what was committed to.
        """
        masked = self._open
        upload = masked.uploads.get(answer.member)
        if upload is None:
            raise CorruptError("an answer about masks from one whose upload is not in the sum")
        if masked.stage is not Stage.SEEDS and not self._is_signed(masked, answer):
            if upload.node == node:  # nobody else may have a member left out
                self._unfit.add((masked.closed.round, answer.member))
            raise CorruptError("an answer about masks without a right signature on what is in the sum")
        if masked.stage is Stage.SEEDS:
            for number in set(masked.missing) & set(upload.note.partners):
                if commitment(answer.others.get(number, b"")) != upload.note.partners[number].commitment:
                    if upload.node == node:  # nobody else may have a member left out
                        self._unfit.add((masked.closed.round, answer.member))
                        self._unfit.discard((masked.closed.round, number))  # that contradicted a note which was wrong
                    raise CorruptError("an answer about masks without a stream that was asked for")
        elif answer.own and commitment(answer.own) != upload.note.commitment:
            raise CorruptError("an answer about masks with another seed than was committed to")
        masked.told[answer.member] = answer
        masked.uploads[answer.member] = replace(upload, node=node, signature=answer.signature or upload.signature)

    def _is_signed(self, masked: MaskedSum, answer: Answer) -> bool:
        """Tell whether an answer holds its member's signature on what is in the sum; without keys, any signature is believed."""
        if not self._agreement.keys:
            return bool(answer.signature)
        limits, keys = self._agreement.uploads, self._agreement.keys
        context, closed = limits.federation + limits.fingerprint, masked.closed
        text = signed_text(context, closed.round, str(closed.kind), masked.question)
        return answer.member < len(keys) and is_signed(bytes.fromhex(keys[answer.member]), answer.signature, text)

    def leave_out(self, number: int, member: int) -> None:
        """Have a round asked for again without a member, whose note others contradict."""
        self._unfit.add((number, member))

    def is_unfit(self, number: int, member: int | None) -> bool:
        """Tell whether a round is better asked for without a member: its masks could not be taken off, and would not be again."""
        return (number, member) in self._unfit

    @property
    def satisfied(self) -> bool:
        """True when waiting is of no more use: all have answered, or enough have and the others had as much time again."""
        masked, now = self._open, time.monotonic()
        if len(masked.told) == len(masked.uploads):
            return True
        if masked.stage is Stage.SEEDS or not masked.answered:
            return False
        masked.enough = masked.enough or now
        return now - masked.enough >= max(_GRACE, masked.enough - masked.since)

    def close(self) -> tuple[ClosedRound, Aggregate] | None:
        """End an exchange: return the sum once it is free of masks.

        Raises:
            JournalError: the disk refuses; it is tried again.
        """
        masked, began = self._open, time.perf_counter()
        seeds = masked.seeds() if masked.stage is Stage.SHARES else {}
        if not masked.answered or (masked.stage is Stage.SHARES and len(seeds) < len(masked.uploads)):
            self._unsatisfied(masked)
            return None
        if masked.stage is Stage.AGREE:
            self._sum = replace(masked, is_agreed=True, told={})
            return None
        if masked.missing:
            blob = self._without(masked.blob, *self._pairs(masked))
            spent = time.perf_counter() - began
            closed = replace(masked.closed, fold_seconds=masked.closed.fold_seconds + spent)
            free = replace(masked, closed=closed, blob=blob, missing=(), told={})
            self._journal.keep_masked(_kept(free))
            self._sum = free
            return None
        blob = self._without(masked.blob, [], list(seeds.values()))
        spent = time.perf_counter() - began
        closed = replace(masked.closed, ended=time.time(), fold_seconds=masked.closed.fold_seconds + spent)
        counted = tuple(sorted(one.upload_id for one in masked.uploads.values()))
        return closed, Aggregate(closed.round, blob, counted, masked.manifests)

    def give_up(self) -> None:
        """Forget the sum, which nobody opens; the round is asked for again, under other masks.

        Raises:
            JournalError: the disk refuses; it waits on.
        """
        closed = self._open.closed
        self._journal.drop_masked(closed.round, self._open.attempt)
        self._sum = None

    def done(self) -> None:
        """Forget the sum: it is journalled."""
        self._sum = None

    def _unsatisfied(self, masked: MaskedSum) -> None:
        silent = sorted(set(masked.uploads) - set(masked.told))
        _log.warning("some who delivered do not tell of their masks", round=masked.closed.round, members=silent)
        if masked.stage is Stage.SHARES and masked.answered and masked.is_agreed:
            unfit = sorted(set(masked.uploads) - set(masked.seeds()))
            masked.fruitless += 1
            _log.error(
                "a commitment to a mask does not fit the seed that others hold shares of, which is taken next",
                members=unfit,
            )
        if masked.missing:
            self._sum = None  # given up; the round is asked again, under other masks

    def _pairs(self, masked: MaskedSum) -> tuple[list[bytes], list[bytes]]:
        """Collect seeds to add and to subtract, so that no mask is left that was made with those who are missing."""
        streams = [
            (member < number, seed)
            for member, answer in masked.told.items()
            for number, seed in answer.others.items()
            if number in masked.missing and number in masked.uploads[member].note.partners
        ]
        return [seed for added, seed in streams if not added], [seed for added, seed in streams if added]

    def _without(self, blob: bytes, plus: list[bytes], minus: list[bytes]) -> bytes:
        prime, masked = self._agreement.parameters.word_prime, Blob.own(blob, self._agreement.uploads.word_bits)
        words = SumOfStreams(prime, plus=plus, minus=minus).take(masked.header.words)
        add_modulo(words, masked.words(), prime)
        return with_words(masked, words)

    def require_sound(self) -> None:
        """Refuse a kept sum that is damaged.

        Raises:
            JournalError: it is.
        """
        if self._sum is None:
            return
        closed = self._sum.closed
        try:
            Blob.own(self._sum.blob, self._agreement.uploads.word_bits)
        except WireError as error:
            raise JournalError(
                f"the masked sum of round {closed.round} is damaged: {error}; restore the journal"
            ) from error


def _kept(masked: MaskedSum) -> Masked:
    uploads = {
        str(member): [part.hex() for part in (one.upload_id, one.note.to_bytes(), one.signature)]
        for member, one in masked.uploads.items()
    }
    return Masked(masked.closed, masked.attempt, json.dumps(uploads), masked.blob, masked.manifests)


def _of(kept: Masked) -> MaskedSum:
    try:
        uploads: Mapping[str, list[str]] = json.loads(kept.uploads)
        contributions = {
            int(member): Contribution(
                bytes.fromhex(upload), Note.of_bytes(bytes.fromhex(note)), signature=bytes.fromhex("".join(signature))
            )
            for member, (upload, note, *signature) in uploads.items()  # no signature: kept by an earlier release
        }
    except (ValueError, TypeError, WireError) as error:
        raise JournalError(
            f"the masked sum of round {kept.closed.round} is damaged ({type(error).__name__}); restore the journal"
        ) from error
    return MaskedSum(kept.closed, kept.attempt, kept.blob, contributions, manifests=kept.manifests)
