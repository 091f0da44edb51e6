"""Notes, questions and answers about masks, as bytes (docs/decisions/0019).

Little-endian and strict: whatever does not parse to the last byte is refused. Members are numbered as in
`dictpfl.common.law.members`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dictpfl.common.errors import CorruptError
from dictpfl.common.messages.sharing import COMMITMENT_BYTES, SECRET_BYTES

SHARE_NONCE = 12
SEALED_SHARE = SHARE_NONCE + SECRET_BYTES + 16
"""Bytes of a share, encrypted with AES-256-GCM for its holder alone, behind its nonce."""
UPLOAD_ID = 16
SIGNATURE_BYTES = 64
"""Bytes of an Ed25519 signature."""
_NOTE = struct.Struct(f"<QHH{COMMITMENT_BYTES}s")
_PARTNER = struct.Struct(f"<H{COMMITMENT_BYTES}s{SEALED_SHARE}s")
_COUNTED = struct.Struct("<QH")
_MEMBER = struct.Struct("<H")
_LENGTH = struct.Struct("<I")
_UPLOAD = struct.Struct(f"<H{UPLOAD_ID}sH")
_SHARE = struct.Struct(f"<H{SEALED_SHARE}s")
_ANSWER = struct.Struct("<HBH")
_SECRET = struct.Struct(f"<H{SECRET_BYTES}s")
_SIGNATURE = struct.Struct(f"<H{SIGNATURE_BYTES}s")


@dataclass(frozen=True, slots=True)
class Partner:
    """Entry of a note about one partner.

    Attributes:
        commitment: commitment to the seed of the pair's mask, 16 bytes.
        share: share of the seed of the upload's own mask, encrypted for this partner.
    """

    commitment: bytes
    share: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """Note that travels with a masked upload.

    Attributes:
        attempt: number of the attempt at the round that the masks are for.
        member: number of the upload's maker.
        commitment: commitment to the seed of the upload's own mask, 16 bytes.
        partners: entry of each partner by its number.
    """

    attempt: int
    member: int
    commitment: bytes
    partners: Mapping[int, Partner]

    def to_bytes(self) -> bytes:
        """Encode for the wire."""
        head = _NOTE.pack(self.attempt, self.member, len(self.partners), self.commitment)
        parts = (_PARTNER.pack(number, p.commitment, p.share) for number, p in sorted(self.partners.items()))
        return head + b"".join(parts)

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Decode what `to_bytes` made.

        Raises:
            CorruptError: the bytes are no such note.
        """
        reader = _Reader(data, "a note on masks")
        attempt, member, count, own = reader.take(_NOTE)
        listed = [reader.take(_PARTNER) for _ in range(count)]
        numbers = [number for number, _, _ in listed]
        reader.finish(bool(numbers) and member not in numbers and numbers == sorted(set(numbers)))
        return cls(attempt, member, own, {number: Partner(seen, share) for number, seen, share in listed})


@dataclass(frozen=True, slots=True)
class SumQuestion:
    """Request of any stage after the upload: what is in the sum, and by whom that is signed.

    Attributes:
        attempt: number of the attempt at the round.
        uploads: upload id, 16 bytes, of each member in the sum.
        signatures: of members on this attempt and these uploads, 64 bytes each; of a quorum, or none.
        shares: encrypted share of each member's seed, by member and then by holder; of the last stage alone.
        manifests: manifests of these uploads, where the federation wants them (`dictpfl.common.messages.manifest`); of the last stage alone.
    """

    attempt: int
    uploads: Mapping[int, bytes]
    signatures: Mapping[int, bytes] = field(default_factory=dict)
    shares: Mapping[int, Mapping[int, bytes]] = field(default_factory=dict)
    manifests: bytes = b""

    @property
    def bare(self) -> bytes:
        """Encoding of attempt and uploads alone, which are what is signed."""
        return SumQuestion(self.attempt, self.uploads).to_bytes()

    def to_bytes(self) -> bytes:
        """Encode for the wire."""
        head = _COUNTED.pack(self.attempt, len(self.uploads)) + _LENGTH.pack(len(self.manifests))
        return head + self.manifests + b"".join(self._parts())

    def _parts(self) -> Iterator[bytes]:
        for member, upload in sorted(self.uploads.items()):
            held = self.shares.get(member, {})
            yield _UPLOAD.pack(member, upload, len(held))
            yield from (_SHARE.pack(holder, share) for holder, share in sorted(held.items()))
        yield _MEMBER.pack(len(self.signatures))
        yield from (_SIGNATURE.pack(member, signature) for member, signature in sorted(self.signatures.items()))

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Decode what `to_bytes` made.

        Raises:
            CorruptError: the bytes are no such question.
        """
        reader = _Reader(data, "a question about masks")
        attempt, count = reader.take(_COUNTED)
        (length,) = reader.take(_LENGTH)
        (manifests,) = reader.take(struct.Struct(f"<{length}s"))
        uploads: dict[int, bytes] = {}
        shares: dict[int, dict[int, bytes]] = {}
        for _ in range(count):
            member, uploads[member], held = reader.take(_UPLOAD)
            shares[member] = dict(reader.take(_SHARE) for _ in range(held))
        (signed,) = reader.take(_MEMBER)
        signatures = dict(reader.take(_SIGNATURE) for _ in range(signed))
        unique = len(uploads) == count and len(set(uploads.values())) == count and len(signatures) == signed
        reader.finish(unique)
        return cls(attempt, uploads, signatures, {m: held for m, held in shares.items() if held}, manifests)


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of one member to any of these.

    Attributes:
        member: its number.
        own: seed of its own mask, 32 bytes, where that may be told.
        others: seeds of pairs' masks, or shares of own masks' seeds, by the other member's number.
        signature: on what is in the sum, 64 bytes; empty: none.
    """

    member: int
    own: bytes = b""
    others: Mapping[int, bytes] = field(default_factory=dict)
    signature: bytes = b""

    def to_bytes(self) -> bytes:
        """Encode for the wire."""
        head = _ANSWER.pack(self.member, bool(self.own) | bool(self.signature) << 1, len(self.others))
        others = (_SECRET.pack(number, secret) for number, secret in sorted(self.others.items()))
        return head + self.own + self.signature + b"".join(others)

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Decode what `to_bytes` made.

        Raises:
            CorruptError: the bytes are no such answer.
        """
        reader = _Reader(data, "an answer about masks")
        member, parts, count = reader.take(_ANSWER)
        own, signature = (
            reader.take(struct.Struct(f"<{size}s"))[0] if parts >> place & 1 else b""
            for place, size in enumerate((SECRET_BYTES, SIGNATURE_BYTES))
        )
        others = dict(reader.take(_SECRET) for _ in range(count))
        reader.finish(parts in range(4) and len(others) == count)
        return cls(member, own, others, signature)


def signed_text(context: bytes, number: int, kind: str, question: SumQuestion) -> bytes:
    """Make the text that members sign of a sum.

    Args:
        context: federation id and key fingerprint.
        number, kind: of the round.
        question: attempt and uploads.
    """
    shared = struct.pack("<QQ", number, question.attempt) + kind.encode()
    return b"dictpfl sum 1" + b"".join(_LENGTH.pack(len(part)) + part for part in (context, shared, question.bare))


def attempt_bytes(attempt: int) -> bytes:
    """Encode the number of the attempt that a request for uploads asks masks for; empty for the first."""
    return struct.pack("<Q", attempt) if attempt else b""


def read_attempt(data: bytes) -> int:
    """Decode what `attempt_bytes` made.

    Raises:
        CorruptError: the bytes are no such number.
    """
    if not data:
        return 0
    reader = _Reader(data, "an attempt's number")
    (attempt,) = reader.take(struct.Struct("<Q"))
    reader.finish(True)
    return int(attempt)


class _Reader:
    """Reader of fixed-size fields, one after another."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what, self._place = data, what, 0

    def take(self, form: struct.Struct) -> tuple[Any, ...]:
        if len(self._data) - self._place < form.size:
            raise CorruptError(f"{self._what} ends early; both sides need the same release")
        fields = form.unpack_from(self._data, self._place)
        self._place += form.size
        return fields

    def finish(self, right: bool) -> None:  # noqa: FBT001 -- its only argument
        if self._place != len(self._data) or not right:
            raise CorruptError(f"{self._what} is not of the agreed form; both sides need the same release")
