"""What coordinator and institutions say about masks, as bytes: notes on uploads, questions, answers (docs/decisions/0019).

Little-endian and strict: whatever does not parse to the last byte is refused. Members are numbered as in `common.circle`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from common.errors import CorruptError
from common.sharing import COMMITMENT_BYTES, SECRET_BYTES

SEALED_SHARE = SECRET_BYTES + 16
"""Bytes of a share as its holder alone can read it: AES-256-GCM."""
UPLOAD_ID = 16
_NOTE = struct.Struct(f"<QHH{COMMITMENT_BYTES}s")
_PARTNER = struct.Struct(f"<H{COMMITMENT_BYTES}s{SEALED_SHARE}s")
_COUNTED = struct.Struct("<QH")
_MEMBER = struct.Struct("<H")
_LENGTH = struct.Struct("<I")
_UPLOAD = struct.Struct(f"<H{UPLOAD_ID}sH")
_SHARE = struct.Struct(f"<H{SEALED_SHARE}s")
_ANSWER = struct.Struct("<HBH")
_SECRET = struct.Struct(f"<H{SECRET_BYTES}s")


@dataclass(frozen=True, slots=True)
class Partner:
    """Of one partner: what the pair's stream is committed to, and the share of the own seed that it holds, sealed for it."""

    commitment: bytes
    share: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """What comes with a masked upload.

    Attributes:
        attempt: that the masks are for. `member`: whose upload it is.
        commitment: to the seed of the upload's own mask. `partners`: by number, in rising order.
    """

    attempt: int
    member: int
    commitment: bytes
    partners: Mapping[int, Partner]

    def to_bytes(self) -> bytes:
        """As bytes."""
        head = _NOTE.pack(self.attempt, self.member, len(self.partners), self.commitment)
        parts = (_PARTNER.pack(number, p.commitment, p.share) for number, p in sorted(self.partners.items()))
        return head + b"".join(parts)

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`.

        Raises:
            CorruptError: no such note.
        """
        reader = _Reader(data, "a note on masks")
        attempt, member, count, own = reader.take(_NOTE)
        listed = [reader.take(_PARTNER) for _ in range(count)]
        numbers = [number for number, _, _ in listed]
        reader.finish(bool(numbers) and member not in numbers and numbers == sorted(set(numbers)))
        return cls(attempt, member, own, {number: Partner(seen, share) for number, seen, share in listed})


@dataclass(frozen=True, slots=True)
class SeedsQuestion:
    """Who is missing: their partners tell the seeds of what they masked with them, for this attempt."""

    attempt: int
    missing: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """As bytes."""
        return _COUNTED.pack(self.attempt, len(self.missing)) + b"".join(_MEMBER.pack(m) for m in self.missing)

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`.

        Raises:
            CorruptError: no such question.
        """
        reader = _Reader(data, "a question about masks")
        attempt, count = reader.take(_COUNTED)
        missing = tuple(reader.take(_MEMBER)[0] for _ in range(count))
        reader.finish(missing == tuple(sorted(set(missing))))
        return cls(attempt, missing)


@dataclass(frozen=True, slots=True)
class SharesQuestion:
    """What is in the sum, by member: upload ids, and sealed shares of the own masks' seeds by holder.

    `manifests`: of these uploads, where the federation wants them (`common.manifest`).
    """

    attempt: int
    uploads: Mapping[int, bytes]
    shares: Mapping[int, Mapping[int, bytes]] = field(default_factory=dict)
    manifests: bytes = b""

    def to_bytes(self) -> bytes:
        """As bytes."""
        head = _COUNTED.pack(self.attempt, len(self.uploads)) + _LENGTH.pack(len(self.manifests))
        return head + self.manifests + b"".join(self._parts())

    def _parts(self) -> Iterator[bytes]:
        for member, upload in sorted(self.uploads.items()):
            held = self.shares.get(member, {})
            yield _UPLOAD.pack(member, upload, len(held))
            yield from (_SHARE.pack(holder, share) for holder, share in sorted(held.items()))

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`.

        Raises:
            CorruptError: no such question.
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
        reader.finish(len(uploads) == count and len(set(uploads.values())) == count)
        return cls(attempt, uploads, shares, manifests)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a member tells: the seed of its own mask, where that is asked for, and seeds or shares of others', by member."""

    member: int
    own: bytes = b""
    others: Mapping[int, bytes] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As bytes."""
        head = _ANSWER.pack(self.member, bool(self.own), len(self.others)) + self.own
        return head + b"".join(_SECRET.pack(number, secret) for number, secret in sorted(self.others.items()))

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`.

        Raises:
            CorruptError: no such answer.
        """
        reader = _Reader(data, "an answer about masks")
        member, has_own, count = reader.take(_ANSWER)
        own = reader.take(struct.Struct(f"<{SECRET_BYTES}s"))[0] if has_own == 1 else b""
        others = dict(reader.take(_SECRET) for _ in range(count))
        reader.finish(has_own in (0, 1) and len(others) == count)
        return cls(member, own, others)


def attempt_bytes(attempt: int) -> bytes:
    """What a request for uploads says about masks: the attempt that they are for. Nothing for the first."""
    return struct.pack("<Q", attempt) if attempt else b""


def read_attempt(data: bytes) -> int:
    """Inverse of `attempt_bytes`.

    Raises:
        CorruptError: no such number.
    """
    if not data:
        return 0
    reader = _Reader(data, "an attempt's number")
    (attempt,) = reader.take(struct.Struct("<Q"))
    reader.finish(True)
    return int(attempt)


class _Reader:
    """Fields one after another."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what, self._place = data, what, 0

    def take(self, form: struct.Struct) -> tuple[Any, ...]:
        if len(self._data) - self._place < form.size:
            raise CorruptError(f"{self._what} ends early; both sides need the same release")
        found = form.unpack_from(self._data, self._place)
        self._place += form.size
        return found

    def finish(self, right: bool) -> None:  # noqa: FBT001 -- its only argument
        if self._place != len(self._data) or not right:
            raise CorruptError(f"{self._what} is not of the agreed form; both sides need the same release")
