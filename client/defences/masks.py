"""Masks on an institution's uploads: put on, changed for another attempt, and taken off the sum by answers.

Two kinds lie on an upload, each a stream of words added to its own, tags included
(`dictpfl.common.ckks.streams`). A *pair's mask* is added by the member with the lower number and subtracted by the
other, so that the sum of both is free of it. An *own mask* is on each upload; its seed is shared among the maker's
partners. It protects an upload that comes late, after the seeds of its pairs' masks were told, and it is taken off
the uploads in the sum only (Bonawitz et al. 2017; docs/decisions/0019).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dictpfl.client.defences.agreed import signed, signers
from dictpfl.client.defences.pairs import Pairs, derived
from dictpfl.client.defences.reveals import Reveals
from dictpfl.client.keys.epochs import Keyring
from dictpfl.client.memory.record import Pending, Record
from dictpfl.common.ckks.streams import SumOfStreams
from dictpfl.common.errors import RoundError
from dictpfl.common.messages.masks import SHARE_NONCE, Answer, Note, Partner, SumQuestion
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.messages.sharing import commitment, split
from dictpfl.common.messages.wire import Header, read_header
from dictpfl.common.protection import quorum
from dictpfl.common.words import Words, add_modulo


@dataclass(frozen=True, slots=True)
class MaskContext:
    """Context that masks are bound to: they fit no other upload.

    Attributes:
        round: number of the round.
        kind: its kind.
        attempt: number of the attempt at the round.
        upload_id: 16 bytes.
    """

    round: int
    kind: RoundKind
    attempt: int
    upload_id: bytes

    @classmethod
    def of(cls, header: Header, upload_id: bytes) -> Self:
        """Make the context of an upload with this header."""
        return cls(header.round, header.kind, header.attempt, upload_id)

    @property
    def shared(self) -> bytes:
        """Part of the context that both of a pair know before either has seen the other's upload."""
        return self.round.to_bytes(8, "little") + self.attempt.to_bytes(8, "little") + str(self.kind).encode()


class Masks:
    """Masks of one institution in one epoch."""

    def __init__(self, pairs: Pairs, prime: int, marks: Path, minimum: int) -> None:
        """Set up; nothing is read yet.

        Args:
            pairs: the institution among its peers.
            prime: prime that words are residues of.
            marks: file that records what was told (`dictpfl.client.defences.reveals`).
            minimum: fewest uploads in a sum that may be opened; at least a quorum of the members, whatever it says.
        """
        self._pairs = pairs
        self._prime = prime
        self._reveals = Reveals(marks)
        self._minimum = max(minimum, quorum(len(pairs.roster.peers)))

    # Masks on uploads

    def require_open(self, number: int, attempt: int) -> None:
        """Refuse to deliver for a round of which a sum was opened, or for an attempt that was given up.

        Raises:
            RoundError (reveal): a sum was opened, or the attempt was given up.
        """
        self._reveals.require_open(number, attempt)

    def put_on(self, words: Words, context: MaskContext, secret: bytes) -> Words:
        """Put the masks on an upload's words, uint64, shape (n,); `secret` is that of the institution's record."""
        plus, minus = self._seeds(context, secret)
        return self._shifted(words, plus, minus)

    def take_off(self, words: Words, context: MaskContext, secret: bytes) -> Words:
        """Take the masks off one's own upload again: the inverse of `put_on`."""
        plus, minus = self._seeds(context, secret)
        return self._shifted(words, minus, plus)

    def _shifted(self, words: Words, plus: list[bytes], minus: list[bytes]) -> Words:
        shifted = SumOfStreams(self._prime, plus=plus, minus=minus).take(words.size)
        add_modulo(shifted, words, self._prime)
        return shifted

    def note(self, context: MaskContext, secret: bytes) -> bytes:
        """Make the note that goes with a masked upload."""
        own, secrets = self._own(context, secret), self._pairs.secrets
        shares = dict(zip(secrets, split(own, len(secrets)), strict=True))
        partners = {
            number: Partner(commitment(self._stream(number, context)), self._sealed(shares[number], number, context))
            for number in secrets
        }
        return Note(context.attempt, self._pairs.number, commitment(own), partners).to_bytes()

    def move_on(self, number: int, attempt: int) -> None:
        """Record that an upload for another attempt follows: nothing is told of earlier ones any more.

        Raises:
            RoundError (reveal): as `require_open`.
        """
        self.require_open(number, attempt)
        self._reveals.move_on(number, attempt)

    def _context_of(self, pending: Pending) -> MaskContext:
        header = read_header(pending.blob)
        if header.federation + header.fingerprint != self._pairs.context:
            # It has masks of an older epoch, and will be made again: of those that the new one has, nothing is told for it.
            raise RoundError("the upload here is under an older key; nothing was told", code="reveal")
        return MaskContext.of(header, pending.upload_id)

    # Answers to questions

    def agree(self, pending: Pending, question: SumQuestion) -> Answer:
        """Sign what is said to be in the sum; of this attempt at the round nothing else is signed, or told of, from now on.

        Raises:
            RoundError (reveal): something else was signed, or the upload here is for another attempt or not the one in the sum.
            RoundError (too-few): fewer uploads than this institution opens.
        """
        context = self._context_of(pending)
        self._require_fit(context, question)
        self._reveals.agree(context.round, question)
        return Answer(self._pairs.number, signature=signed(self._pairs, context.round, context.kind, question))

    def tell_seeds(self, pending: Pending, question: SumQuestion) -> Answer:
        """Tell the seeds of the masks shared with members that are not in the sum, whose uploads stay covered by their own masks.

        Raises:
            RoundError (reveal): a quorum has not signed this sum, something else was signed here, a sum of this round was opened already, or
                the upload here is for another attempt or not the one in the sum.
            RoundError (too-few): fewer uploads than this institution opens.
        """
        context, pairs = self._context_of(pending), self._pairs
        self._require_fit(context, question)
        if not self._is_agreed(context, question):
            raise RoundError("no quorum has signed what is in the sum; nothing was told", code="reveal")
        self._reveals.tell_of_missing(context.round, question)
        missing = [number for number in pairs.secrets if number not in question.uploads]
        return Answer(pairs.number, b"", {number: self._stream(number, context) for number in missing})

    def tell_shares(self, record: Record, pending: Pending, question: SumQuestion, due: int) -> Answer:
        """Tell what takes own masks off the uploads in the sum: the shares that this institution holds; its own seed, where a quorum signed the sum.

        Where everybody is everybody's partner, a sum of all is answered without signatures too, by shares alone: whoever tells the others
        that this institution is missing would have its upload bare with its own seed. `due`: number of the scores that are due
        (`dictpfl.common.law.order.occasion`), for an upload of scores.

        Raises:
            RoundError (reveal): of this round another sum was opened, or something else was signed; a quorum's signatures are needed, and not
                there; or these scores were opened of other members, in an earlier round.
            RoundError (too-few): fewer uploads than this institution opens.
        """
        context, pairs = self._context_of(pending), self._pairs
        self._require_fit(context, question)
        everybody = len(pairs.roster.peers)
        is_agreed = quorum(everybody) == everybody or self._is_agreed(context, question)
        if not is_agreed and (len(question.uploads) < everybody or len(pairs.secrets) < everybody - 1):
            raise RoundError("no quorum has signed what is in the sum; nothing was told", code="reveal")
        self._reveals.tell_of_sum(context.round, question, due if context.kind is RoundKind.SCORE else -1)
        own = self._own(context, record.secret) if is_agreed else b""
        signature = signed(pairs, context.round, context.kind, question)
        return Answer(pairs.number, own, dict(self._shares(context, question)), signature)

    def _require_fit(self, context: MaskContext, question: SumQuestion) -> None:
        """Refuse a sum that holds too little, or another upload than the one that waits here."""
        if context.attempt != question.attempt:
            raise RoundError(
                f"asked about attempt {question.attempt}, the upload here is of {context.attempt}; nothing was told",
                code="reveal",
            )
        pairs, members = self._pairs, set(question.uploads)
        if len(members) < self._minimum:
            raise RoundError(
                f"a sum of {len(members)} uploads, this institution opens {self._minimum} or more; nothing was told",
                code="too-few",
            )
        if max(members) >= len(pairs.roster.peers) or not pairs.graph.connected(members):
            raise RoundError(
                "the uploads in the sum are not linked by masks; parts of it would open; nothing was told",
                code="reveal",
            )
        if question.uploads.get(pairs.number) != context.upload_id:
            raise RoundError("the sum is said to be without this institution's upload; nothing was told", code="reveal")
        away, near = pairs.secrets.keys() - members, len(pairs.secrets) + 1
        most = near - quorum(near)  # with the streams of all its pairs, and shares of its own mask, an upload is bare
        if len(away) > most:
            raise RoundError(
                f"of {near - 1} partners {sorted(away)} are said to be missing, at most {most} may be; nothing was told",
                code="too-few",
            )

    def _is_agreed(self, context: MaskContext, question: SumQuestion) -> bool:
        """Tell whether a quorum of the members have signed what is in the sum: then no other sum of this attempt has one."""
        return len(signers(self._pairs, context.round, context.kind, question)) >= quorum(len(self._pairs.roster.peers))

    def _shares(self, context: MaskContext, question: SumQuestion) -> Iterator[tuple[int, bytes]]:
        for number, upload in question.uploads.items():
            held = question.shares.get(number, {}).get(self._pairs.number)
            if held is None or number not in self._pairs.secrets:
                continue
            key = self._share_key(number, number, self._pairs.number, replace(context, upload_id=upload))
            # A share that does not open is its maker's fault; a threshold of the other holders' shares is enough.
            with suppress(InvalidTag):
                yield number, AESGCM(key).decrypt(held[:SHARE_NONCE], held[SHARE_NONCE:], None)

    # Seeds of masks

    def _seeds(self, context: MaskContext, secret: bytes) -> tuple[list[bytes], list[bytes]]:
        """Seeds of the masks that are added, and of those that are subtracted."""
        own, number = self._own(context, secret), self._pairs.number
        streams = {other: self._stream(other, context) for other in self._pairs.secrets}
        plus = [seed for other, seed in streams.items() if number < other]
        return [own, *plus], [seed for other, seed in streams.items() if number > other]

    def _own(self, context: MaskContext, secret: bytes) -> bytes:
        return derived(secret, b"dictpfl own mask 1", self._pairs.context, context.shared, context.upload_id)

    def _stream(self, partner: int, context: MaskContext) -> bytes:
        return derived(self._pairs.secrets[partner], b"dictpfl pair mask 1", context.shared)

    def _sealed(self, share: bytes, holder: int, context: MaskContext) -> bytes:
        key = self._share_key(holder, self._pairs.number, holder, context)
        # From the share itself, as in SIV: a memory restored in between may lead to another share under this key.
        nonce = hmac.digest(key, b"nonce" + share, "sha256")[:SHARE_NONCE]
        return nonce + AESGCM(key).encrypt(nonce, share, None)

    def _share_key(self, partner: int, maker: int, holder: int, context: MaskContext) -> bytes:
        both = maker.to_bytes(2, "little") + holder.to_bytes(2, "little")
        return derived(self._pairs.secrets[partner], b"dictpfl share 1", context.shared, context.upload_id, both)


def masks_of(keys: Keyring, pairs: Pairs, memory: Path, minimum: int) -> Masks | None:
    """Make an institution's masks; None where its federation wants none.

    What it told of them is recorded beside the file `memory`, in a file for each epoch.
    """
    if not keys.genesis.config.defences.masks:
        return None
    marks = memory.with_suffix(f".{keys.genesis.fingerprint.hex()[:16]}.told.json")
    return Masks(pairs, keys.genesis.parameters.word_prime, marks, minimum)
