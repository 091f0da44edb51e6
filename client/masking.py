"""Masks on an institution's uploads: put on, changed for another attempt, and what is told so that their sum opens.

Two kinds lie on an upload, each a polynomial added to the first one of every ciphertext (`common.keystream`). Of a pair, the
lower number adds and the higher subtracts the same stream, so that the sum of both is free of it. And each upload has an own
mask, whose seed is shared among its maker's partners: it protects an upload that comes late, when the streams of its pairs
have been told, and it comes off those in the sum only (Bonawitz et al. 2017; docs/decisions/0019).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from client.epochs import Keyring
from client.memory import Pending, Record
from client.pairs import Pairs, derived
from client.reveals import Reveals
from common.errors import RevealError, TooFewParticipantsError
from common.keystream import shifted
from common.parameters import CKKSParameters
from common.protocol import RoundKind
from common.revealing import Answer, Note, Partner, SeedsQuestion, SharesQuestion
from common.sharing import commitment, split
from common.wire import read_kind, resealed

_NO_NONCE = bytes(12)
"""A key seals one share of one upload, and nothing else."""


@dataclass(frozen=True, slots=True)
class Place:
    """What masks are for, and for nothing else: a round, its kind, an attempt at it, and an upload by its id."""

    round: int
    kind: RoundKind
    attempt: int
    upload_id: bytes

    @property
    def shared(self) -> bytes:
        """What both of a pair know of it before either has seen the other's upload."""
        return self.round.to_bytes(8, "little") + self.attempt.to_bytes(8, "little") + str(self.kind).encode()


class Masks:
    """Those of one institution in one epoch."""

    def __init__(self, pairs: Pairs, parameters: CKKSParameters, marks: Path, minimum: int) -> None:
        """`marks`: the file in which is kept what was told. `minimum`: fewest uploads in a sum that may be opened."""
        self._pairs = pairs
        self._parameters = parameters
        self._reveals = Reveals(marks)
        self._minimum = minimum

    # uploads

    def require_open(self, number: int, attempt: int) -> None:
        """Refuse to deliver for a round of which a sum was opened, or for an attempt that was given up.

        Raises:
            RevealError: so it is.
        """
        self._reveals.require_open(number, attempt)

    def put_on(self, items: Iterable[bytes], place: Place, secret: bytes) -> Iterator[bytes]:
        """Items of an upload with its masks; `secret`: the institution's own (`client.memory.Record`)."""
        plus, minus = self._seeds(place, secret)
        return shifted(items, self._parameters, plus=plus, minus=minus)

    def note(self, place: Place, secret: bytes) -> bytes:
        """What goes with a masked upload."""
        own, secrets = self._own(place, secret), self._pairs.secrets
        shares = dict(zip(secrets, split(own, len(secrets)), strict=True))
        partners = {
            number: Partner(commitment(self._stream(number, place)), self._sealed(shares[number], number, place))
            for number in secrets
        }
        return Note(place.attempt, self._pairs.number, commitment(own), partners).to_bytes()

    def changed(self, record: Record, pending: Pending, attempt: int) -> Pending:
        """The stored upload under the masks of another attempt; the ciphertexts below them, and so the values, are the same.

        Raises:
            RevealError: as `require_open`.
        """
        self.require_open(pending.round, attempt)
        before = self._place_of(pending)
        after = replace(before, attempt=attempt)
        plus, minus = self._seeds(before, record.secret)

        def items(sealed: Sequence[bytes]) -> Iterator[bytes]:
            bare = shifted(sealed, self._parameters, plus=minus, minus=plus)
            return self.put_on(bare, after, record.secret)

        # First: nothing of the attempt that is given up is told once the next one has an upload.
        self._reveals.move_on(pending.round, attempt)
        return replace(pending, blob=resealed(pending.blob, items), defence=self.note(after, record.secret))

    def attempt_of(self, pending: Pending) -> int:
        """The attempt that a stored upload is masked for."""
        return Note.of_bytes(pending.defence).attempt

    def _place_of(self, pending: Pending) -> Place:
        number, kind, _ = read_kind(pending.blob)
        return Place(number, kind, self.attempt_of(pending), pending.upload_id)

    # what is told

    def tell_seeds(self, pending: Pending, question: SeedsQuestion) -> Answer:
        """The seeds of what this institution masked with the missing ones. Theirs stay covered by their own masks.

        Raises:
            RevealError: a sum of this round was opened already, or the upload here is for another attempt.
            TooFewParticipantsError: too many are said to be missing.
        """
        place, pairs = self._place_of(pending), self._pairs
        self._require_attempt(place, question.attempt)
        missing = set(question.missing)
        if pairs.number in missing:
            raise RevealError("this institution is said to be missing, though it is asked; nothing was told")
        if len(pairs.roster.peers) - len(missing) < self._minimum:
            raise TooFewParticipantsError(f"{len(missing)} institutions are said to be missing; nothing was told")
        self._reveals.tell_of_missing(place.round, place.attempt, missing)
        asked = [number for number in pairs.secrets if number in missing]
        return Answer(pairs.number, b"", {number: self._stream(number, place) for number in asked})

    def tell_shares(self, record: Record, pending: Pending, question: SharesQuestion) -> Answer:
        """What takes the own masks off the uploads in the sum: this institution's seed, and the shares that it holds.

        Raises:
            RevealError: of this round another sum was opened, or streams of an upload in it were told.
            TooFewParticipantsError: fewer uploads than this institution opens.
        """
        place, pairs = self._place_of(pending), self._pairs
        self._require_attempt(place, question.attempt)
        members = set(question.uploads)
        if len(members) < self._minimum:
            raise TooFewParticipantsError(
                f"a sum of {len(members)} uploads, this institution opens {self._minimum} or more; nothing was told"
            )
        if max(members) >= len(pairs.roster.peers) or not pairs.circle.connected(members):
            raise RevealError(
                "the uploads in the sum are not linked by masks; parts of it would open; nothing was told"
            )
        if question.uploads.get(pairs.number, place.upload_id) != place.upload_id:
            raise RevealError("the sum is said to hold an upload that is not this institution's; nothing was told")
        self._reveals.tell_of_sum(place.round, question)
        own = self._own(place, record.secret) if pairs.number in members else b""
        return Answer(pairs.number, own, dict(self._shares(place, question)))

    def _shares(self, place: Place, question: SharesQuestion) -> Iterator[tuple[int, bytes]]:
        for number, upload in question.uploads.items():
            held = question.shares.get(number, {}).get(self._pairs.number)
            if held is None or number not in self._pairs.secrets:
                continue
            key = self._share_key(number, number, self._pairs.number, replace(place, upload_id=upload))
            # One that does not open is its maker's fault, and the others' shares may do.
            with suppress(InvalidTag):
                yield number, AESGCM(key).decrypt(_NO_NONCE, held, None)

    def _require_attempt(self, place: Place, attempt: int) -> None:
        if place.attempt != attempt:
            raise RevealError(f"asked about attempt {attempt}, the upload here is of {place.attempt}; nothing was told")

    # seeds

    def _seeds(self, place: Place, secret: bytes) -> tuple[list[bytes], list[bytes]]:
        """Seeds of what is added and of what is subtracted."""
        own, number = self._own(place, secret), self._pairs.number
        streams = {other: self._stream(other, place) for other in self._pairs.secrets}
        plus = [seed for other, seed in streams.items() if number < other]
        return [own, *plus], [seed for other, seed in streams.items() if number > other]

    def _own(self, place: Place, secret: bytes) -> bytes:
        return derived(secret, b"dictpfl own mask 1", self._pairs.context, place.shared, place.upload_id)

    def _stream(self, partner: int, place: Place) -> bytes:
        return derived(self._pairs.secrets[partner], b"dictpfl pair mask 1", place.shared)

    def _sealed(self, share: bytes, holder: int, place: Place) -> bytes:
        key = self._share_key(holder, self._pairs.number, holder, place)
        return AESGCM(key).encrypt(_NO_NONCE, share, None)

    def _share_key(self, partner: int, maker: int, holder: int, place: Place) -> bytes:
        both = maker.to_bytes(2, "little") + holder.to_bytes(2, "little")
        return derived(self._pairs.secrets[partner], b"dictpfl share 1", place.shared, place.upload_id, both)


def masks_of(keys: Keyring, memory: Path, minimum: int) -> Masks | None:
    """An institution's masks, where its federation has any; what it told of them is kept beside `memory`, epoch by epoch."""
    if not keys.genesis.config.defences.masks:
        return None
    marks = memory.with_suffix(f".{keys.genesis.fingerprint.hex()[:16]}.told.json")
    return Masks(Pairs.load(keys), keys.genesis.parameters, marks, minimum)
