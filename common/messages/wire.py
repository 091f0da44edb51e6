"""Blobs: a fixed header, who is in it, and words packed bit to bit, validated strictly before anything is added or opened.

Little-endian. A header is 168 bytes; an entry of 50 bytes for each upload follows, then the words, then
`clear_length` bytes that cross in clear (only in federations that admit `toy_insecure`). docs/specification.md has all
of it.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from dictpfl.common.errors import CorruptError, WireError
from dictpfl.common.messages.protocol import PROTOCOL, RoundKind
from dictpfl.common.words import SLACK, Words, pack_into, packed_length, unpack_words

MAGIC = b"DICTPFL\x00"
UPLOAD, AGGREGATE = 1, 2
_KINDS = {RoundKind.UPDATE: 1, RoundKind.SCORE: 2, RoundKind.MEASURE: 3}
_KIND_NAMES = {number: kind for kind, number in _KINDS.items()}
_HEADER = struct.Struct("<8sHBBIQ32s32s32sIIQ32s")
_ENTRY = struct.Struct("<H16s32s")
HEADER_BYTES, ENTRY_BYTES = _HEADER.size, _ENTRY.size
_EMPTY = bytes(32)


@dataclass(frozen=True, slots=True)
class Header:
    """Header of a blob; nothing in it depends on an institution's data.

    Attributes:
        direction: `UPLOAD` of one institution, or `AGGREGATE` of the coordinator.
        kind: kind of the round.
        round: number of the round.
        attempt: number of the attempt at it.
        federation: federation id, 32 bytes.
        fingerprint: fingerprint of the key, 32 bytes.
        state_tag: keyed digest of the shared state that the blob was made from, 32 bytes; equal for institutions in step.
        contributors: number of uploads in the sum; 1 in an upload.
        words: number of words.
        clear_length: bytes behind the words that are not encrypted.
    """

    direction: int
    kind: RoundKind
    round: int
    attempt: int
    federation: bytes
    fingerprint: bytes
    state_tag: bytes
    contributors: int = 1
    words: int = 0
    clear_length: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """Upload in a blob.

    Attributes:
        member: number of the institution that made it (`dictpfl.common.law.members`).
        upload_id: 16 bytes that look random to all but the upload's maker.
        seed: seed of the second polynomials of its ciphertexts, 32 bytes; zeros where nothing is encrypted.
    """

    member: int
    upload_id: bytes
    seed: bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of what a receiver admits: from genesis, never from the blob itself.

    Attributes:
        federation: federation id, 32 bytes.
        fingerprint: fingerprint of the key, 32 bytes.
        word_bits: bits of a word.
        max_words: most words.
        max_clear: most bytes that are not encrypted.
        max_contributors: most uploads in a sum.
    """

    federation: bytes
    fingerprint: bytes
    word_bits: int
    max_words: int
    max_clear: int
    max_contributors: int


@dataclass(frozen=True, slots=True)
class Blob:
    """A parsed blob: header, who is in it, and views of its sections."""

    header: Header
    entries: tuple[Entry, ...]
    packed: memoryview
    clear: memoryview
    word_bits: int

    @classmethod
    def parse(cls, data: bytes, limits: Limits, *, direction: int, kind: RoundKind, round: int) -> Self:  # noqa: A002 -- the field's word
        """Check everything that can be checked without a secret, cheapest first.

        Raises:
            WireError: refused; its code says why (`dictpfl.common.errors`).
        """
        header, digest = _read_header(data)
        _require(header, limits, direction, kind, round)
        blob = cls._of(data, header, limits.word_bits)
        if _digest(data) != digest:
            raise CorruptError("a blob's digest does not match its content; it was damaged on the way")
        members = [entry.member for entry in blob.entries]
        if members != sorted(set(members)):
            raise WireError(
                f"members {members} of a blob do not rise: one is named twice, or out of order", code="duplicate"
            )
        return blob

    @classmethod
    def _of(cls, data: bytes, header: Header, word_bits: int) -> Self:
        start = HEADER_BYTES + header.contributors * ENTRY_BYTES
        end = start + packed_length(header.words, word_bits)
        expected = end + header.clear_length
        message = f"a blob of {expected} bytes arrived with {len(data)}"
        if len(data) < expected:
            raise WireError(message, code="truncated")
        if len(data) > expected:
            raise WireError(message, code="oversized")
        places = range(HEADER_BYTES, start, ENTRY_BYTES)
        entries = tuple(Entry(*_ENTRY.unpack_from(data, place)) for place in places)
        body = memoryview(data)
        return cls(header, entries, body[start:end], body[end:], word_bits)

    @classmethod
    def own(cls, data: bytes, word_bits: int) -> Self:
        """Read one's own blob, stored for a while; its digest is checked, and nothing else.

        Raises:
            WireError: the blob is damaged.
        """
        header, digest = _read_header(data)
        blob = cls._of(data, header, word_bits)
        if _digest(data) != digest:
            raise CorruptError("a blob's digest does not match its content; it was damaged where it was kept")
        return blob

    def words(self) -> Words:
        """Unpack the words, uint64, shape (header.words,); they may be beyond the word prime.

        Raises:
            CorruptError: bits beyond the last word are set.
        """
        return unpack_words(self.packed, self.header.words, self.word_bits)

    @property
    def counted(self) -> tuple[bytes, ...]:
        """Ids of the uploads in it."""
        return tuple(entry.upload_id for entry in self.entries)


def write(header: Header, entries: Sequence[Entry], words: Words, word_bits: int, clear: bytes = b"") -> bytes:
    """Encode a blob; counts and lengths of the header are filled in, and entries are put in order."""
    header = replace(header, contributors=len(entries), words=words.size, clear_length=len(clear))
    ordered = sorted(entries, key=lambda entry: entry.member)
    listed = b"".join(_ENTRY.pack(entry.member, entry.upload_id, entry.seed) for entry in ordered)
    start, length = HEADER_BYTES + len(listed), packed_length(words.size, word_bits)
    # Words are packed where they stay: a large blob is never in memory twice.
    file = io.BytesIO()
    file.write(_pack(header, _EMPTY) + listed)
    file.seek(start + length + SLACK - 1)
    file.write(b"\x00")
    with file.getbuffer() as blob:
        pack_into(blob, start, words, word_bits)
    file.seek(start + length)
    file.truncate()
    file.write(clear)
    with file.getbuffer() as blob:
        digest = hashlib.sha256(blob[:_DIGEST_AT])
        digest.update(blob[HEADER_BYTES:])
        blob[_DIGEST_AT:HEADER_BYTES] = digest.digest()
    return file.getvalue()


def with_words(blob: Blob, words: Words, header: Header | None = None) -> bytes:
    """Encode one's own blob anew, with other words, as many as before."""
    return write(header or blob.header, blob.entries, words, blob.word_bits, bytes(blob.clear))


def kind_number(kind: RoundKind) -> int:
    """Number that stands for a kind on the wire."""
    return _KINDS[kind]


def read_header(data: bytes) -> Header:
    """Read a blob's header, unverified: it leads to the plan that it is verified against.

    Raises:
        WireError: no blob of this protocol.
    """
    return _read_header(data)[0]


def read_entries(data: bytes) -> tuple[Entry, ...]:
    """Read who is in a blob, unverified.

    Raises:
        WireError: no blob of this protocol, or one that ends early.
    """
    header, _ = _read_header(data)
    end = HEADER_BYTES + header.contributors * ENTRY_BYTES
    if len(data) < end:
        raise WireError(f"a blob of {header.contributors} uploads ends in its list of them", code="truncated")
    return tuple(Entry(*_ENTRY.unpack_from(data, place)) for place in range(HEADER_BYTES, end, ENTRY_BYTES))


def _pack(header: Header, digest: bytes) -> bytes:
    return _HEADER.pack(
        MAGIC,
        PROTOCOL,
        header.direction,
        _KINDS[header.kind],
        header.round,
        header.attempt,
        header.federation,
        header.fingerprint,
        header.state_tag,
        header.contributors,
        header.words,
        header.clear_length,
        digest,
    )


def _read_header(data: bytes) -> tuple[Header, bytes]:
    if not data.startswith(MAGIC):
        raise WireError(
            f"expected a blob that starts with {MAGIC!r}; the sender speaks another protocol", code="not-a-blob"
        )
    if len(data) < HEADER_BYTES:
        raise WireError(f"a blob's header has {HEADER_BYTES} bytes, only {len(data)} arrived", code="truncated")
    _, version, direction, kind, *fields, digest = _HEADER.unpack_from(data)
    if version != PROTOCOL:
        raise WireError(
            f"a blob of protocol {version}, expected {PROTOCOL}; both sides need the same release", code="version"
        )
    if kind not in _KIND_NAMES:
        raise WireError(f"a blob of unknown kind {kind}", code="wrong-kind")
    return Header(direction, _KIND_NAMES[kind], *fields), digest


def _require(header: Header, limits: Limits, direction: int, kind: RoundKind, number: int) -> None:
    if header.direction != direction or header.kind != kind:
        raise WireError(
            f"expected direction {direction} and kind {kind}, found {header.direction} and {header.kind}",
            code="wrong-kind",
        )
    if header.federation != limits.federation:
        raise WireError(
            f"a blob of federation {header.federation.hex()[:12]}, expected {limits.federation.hex()[:12]}; "
            "its sender joined another genesis",
            code="wrong-federation",
        )
    if header.round != number:
        raise WireError(f"a blob of round {header.round}, expected round {number}", code="wrong-round")
    if header.fingerprint != limits.fingerprint:
        raise WireError(
            f"a blob under key {header.fingerprint.hex()[:12]}, expected {limits.fingerprint.hex()[:12]}; "
            "its sender holds another key or other parameters",
            code="wrong-key",
        )
    most = 1 if direction == UPLOAD else limits.max_contributors
    if not 1 <= header.contributors <= most:
        raise WireError(f"a sum of {header.contributors} uploads, expected 1 to {most}", code="oversized")
    if not 1 <= header.words <= limits.max_words or header.clear_length > limits.max_clear:
        raise WireError(
            f"{header.words} words and {header.clear_length} clear bytes, expected at least one and at most {limits.max_words} "
            f"and {limits.max_clear}",
            code="oversized",
        )


def _digest(data: bytes) -> bytes:
    """SHA-256 over the whole blob with the digest field left out."""
    digest = hashlib.sha256(memoryview(data)[:_DIGEST_AT])
    digest.update(memoryview(data)[HEADER_BYTES:])
    return digest.digest()


_DIGEST_AT = HEADER_BYTES - 32
