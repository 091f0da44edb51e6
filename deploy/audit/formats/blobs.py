"""Blobs: uploads and aggregates as bytes (section 4)."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import CorruptError
from dictpfl.deploy.audit.formats.streams import Words
from dictpfl.deploy.audit.formats.words import packed, packed_length, unpacked

UPLOAD, AGGREGATE = 1, 2
KINDS = {1: "update", 2: "score", 3: "measure"}
_HEADER = struct.Struct("<8sHBBIQ32s32s32sIIQ")
_ENTRY = struct.Struct("<H16s32s")
_MAGIC, _VERSION, _DIGEST = b"DICTPFL\0", 4, 32


@dataclass(frozen=True)
class Entry:
    """Entry of one upload.

    Attributes:
        member: number of its maker.
        upload_id: 16 bytes.
        seed: seed of its second polynomials, 32 bytes.
    """

    member: int
    upload_id: bytes
    seed: bytes


@dataclass(frozen=True)
class Blob:
    """Blob of an upload or an aggregate.

    Attributes:
        direction: `UPLOAD` or `AGGREGATE`.
        kind: `update`, `score` or `measure`.
        round: number of the round.
        attempt: number of the attempt.
        federation: federation id, 32 bytes.
        fingerprint: fingerprint of the key, 32 bytes.
        state_tag: keyed digest of the shared state, 32 bytes.
        entries: entry of each upload in it.
        words: words of the ciphertexts and the two tags, uint64.
        clear: integers that cross in clear, int64.
    """

    direction: int
    kind: str
    round: int
    attempt: int
    federation: bytes
    fingerprint: bytes
    state_tag: bytes
    entries: Sequence[Entry]
    words: Words
    clear: Ints

    @classmethod
    def parse(cls, data: bytes, bits: int, prime: int) -> Self:
        """Read a blob whose words have so many bits and are residues modulo `prime`.

        Raises:
            CorruptError: anything in it is not as specified.
        """
        if len(data) < _HEADER.size + _DIGEST:
            raise CorruptError(f"a blob of {len(data)} bytes, its header alone has {_HEADER.size + _DIGEST}")
        magic, version, direction, kind, *numbers = _HEADER.unpack_from(data)
        number, attempt, federation, fingerprint, tag, contributors, words, clear_length = numbers
        if (magic, version) != (_MAGIC, _VERSION) or direction not in {UPLOAD, AGGREGATE} or kind not in KINDS:
            raise CorruptError("a blob whose magic bytes, version, direction or kind are not those of protocol 4")
        body = data[_HEADER.size + _DIGEST :]
        if hashlib.sha256(data[: _HEADER.size] + body).digest() != data[_HEADER.size : _HEADER.size + _DIGEST]:
            raise CorruptError("a blob whose SHA-256 is not that of its bytes")
        listed, length = _ENTRY.size * contributors, packed_length(words, bits)
        if len(body) != listed + length + clear_length or clear_length % 4:
            raise CorruptError(f"a blob with {len(body)} bytes behind its header, which says other lengths")
        entries = [Entry(*_ENTRY.unpack_from(body, at)) for at in range(0, listed, _ENTRY.size)]
        values = unpacked(body[listed : listed + length], words, bits)
        if values.size and int(values.max()) >= prime:
            raise CorruptError(f"a word that is no residue modulo {prime}")
        clear = np.frombuffer(body[listed + length :], "<i4").astype(np.int64)
        made = cls(direction, KINDS[kind], number, attempt, federation, fingerprint, tag, entries, values, clear)
        made.require_listed()
        return made

    def require_listed(self) -> None:
        """Check the entries: one in an upload, rising and distinct in an aggregate.

        Raises:
            CorruptError: they are not.
        """
        members = [entry.member for entry in self.entries]
        if members != sorted(set(members)) or not members or (self.direction == UPLOAD and len(members) != 1):
            raise CorruptError(f"a blob that lists members {members}; expected rising and distinct, one in an upload")

    def to_bytes(self, bits: int) -> bytes:
        """Encode."""
        kind = next(number for number, name in KINDS.items() if name == self.kind)
        clear = self.clear.astype("<i4").tobytes()
        head = _HEADER.pack(
            _MAGIC, _VERSION, self.direction, kind, self.round, self.attempt, self.federation, self.fingerprint,
            self.state_tag, len(self.entries), self.words.size, len(clear),
        )  # fmt: skip
        body = b"".join(_ENTRY.pack(e.member, e.upload_id, e.seed) for e in self.entries)
        body += packed(self.words, bits) + clear
        return head + hashlib.sha256(head + body).digest() + body
