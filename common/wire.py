"""Blobs: a fixed header and items back to back, validated strictly before SEAL sees a byte.

Little-endian. A header is 232 bytes; what follows is `items * item_length` sealed bytes, then
`clear_length` bytes that cross in clear (only in federations that admit `toy_insecure`).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from common.errors import (
    CorruptError,
    NotABlobError,
    OversizedError,
    TruncatedError,
    VersionError,
    WireError,
    WrongFederationError,
    WrongKeyError,
    WrongKindError,
    WrongRoundError,
)
from common.protocol import PROTOCOL, RoundKind

MAGIC = b"DICTPFL\x00"
UPLOAD, AGGREGATE = 1, 2
_KINDS = {RoundKind.UPDATE: 1, RoundKind.SCORE: 2, RoundKind.MEASURE: 3}
_KIND_NAMES = {number: kind for kind, number in _KINDS.items()}
_HEADER = struct.Struct("<8sHBBI32s32s32s16sIIIQ32s52x")
HEADER_BYTES = _HEADER.size
_EMPTY = bytes(32)


@dataclass(frozen=True, slots=True)
class Header:
    """What a blob says of itself; nothing in it depends on an institution's data.

    Attributes:
        direction: `UPLOAD` of one institution, or `AGGREGATE` of the coordinator.
        kind: what the round carries.
        round: its number.
        federation: federation id, 32 bytes.
        fingerprint: of the key, 32 bytes.
        tag: keyed digest of the shared state that it was made from; equal for institutions in step.
        upload_id: of an upload, random to all but its maker; zero in an aggregate.
        contributors: uploads in the sum; 1 in an upload.
        items: number of sealed items.
        item_length: bytes of each.
        clear_length: bytes after them that are not encrypted.
    """

    direction: int
    kind: RoundKind
    round: int
    federation: bytes
    fingerprint: bytes
    tag: bytes
    upload_id: bytes = bytes(16)
    contributors: int = 1
    items: int = 0
    item_length: int = 0
    clear_length: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a receiver admits, known before the blob comes: from genesis, never from the blob.

    Attributes:
        item_length: bytes of each item of an upload, or of a sum of one.
        seed_length: bytes that an item of a sum grows by with each further upload.
    """

    federation: bytes
    fingerprint: bytes
    item_length: int
    max_items: int
    max_clear: int
    max_contributors: int
    seed_length: int = 0

    def length_of(self, contributors: int) -> int:
        """Bytes of each item of a sum of so many uploads."""
        return self.item_length + (contributors - 1) * self.seed_length


@dataclass(frozen=True, slots=True)
class Blob:
    """A parsed blob: header and views of its sections."""

    header: Header
    sealed: memoryview
    clear: memoryview

    @classmethod
    def parse(cls, data: bytes, limits: Limits, *, direction: int, kind: RoundKind, round: int) -> Self:  # noqa: A002 -- the field's word
        """Check everything that can be checked without a key, cheapest first.

        Raises:
            WireError: one of its subclasses, each for one reason.
        """
        header, digest = _read_header(data)
        _require(header, limits, direction, kind, round)
        sealed_length = header.items * header.item_length
        expected = HEADER_BYTES + sealed_length + header.clear_length
        if len(data) < expected:
            raise TruncatedError(f"a blob of {expected} bytes arrived with {len(data)}; it was cut off on the way")
        if len(data) > expected:
            raise OversizedError(f"a blob of {expected} bytes arrived with {len(data)}")
        if _digest(data) != digest:
            raise CorruptError("a blob's digest does not match its content; it was damaged on the way")
        body = memoryview(data)[HEADER_BYTES:]
        return cls(header, body[:sealed_length], body[sealed_length:])


def write(header: Header, sealed: Iterable[bytes], clear: bytes = b"") -> bytes:
    """The blob; counts and lengths of the header are filled in.

    Raises:
        WireError: items of unequal length.
    """
    items = list(sealed)
    length = len(items[0]) if items else 0
    if any(len(item) != length for item in items):
        raise WireError("ciphertexts of unequal length in one blob; this is a defect of the library that made them")
    header = replace(header, items=len(items), item_length=length, clear_length=len(clear))
    digest = hashlib.sha256(_pack(header, _EMPTY)[:_DIGEST_AT])
    for part in (*items, clear):
        digest.update(part)
    return b"".join([_pack(header, digest.digest()), *items, clear])


def kind_number(kind: RoundKind) -> int:
    """What stands for a kind on the wire."""
    return _KINDS[kind]


def resealed(data: bytes, change: Callable[[Sequence[bytes]], Iterable[bytes]]) -> bytes:
    """A blob of one's own with its sealed items replaced by what `change` makes of them; nothing else changes."""
    header, _ = _read_header(data)
    end = HEADER_BYTES + header.items * header.item_length
    items = [data[start : start + header.item_length] for start in range(HEADER_BYTES, end, header.item_length)]
    return write(header, change(items), data[end:])


def require_intact(data: bytes) -> None:
    """Compare a blob of one's own, kept for a while, with its digest.

    Raises:
        WireError: it is damaged.
    """
    _, digest = _read_header(data)
    if _digest(data) != digest:
        raise CorruptError("a blob's digest does not match its content; it was damaged where it was kept")


def read_kind(data: bytes) -> tuple[int, RoundKind, bytes]:
    """Round, kind and tag that a blob's header states, unverified: for finding the right plan to verify it against."""
    header, _ = _read_header(data)
    return header.round, header.kind, header.tag


def read_header(data: bytes) -> Header:
    """What a blob says of itself, unverified.

    Raises:
        WireError: it is none of this protocol.
    """
    return _read_header(data)[0]


def _pack(header: Header, digest: bytes) -> bytes:
    return _HEADER.pack(
        MAGIC,
        PROTOCOL,
        header.direction,
        _KINDS[header.kind],
        header.round,
        header.federation,
        header.fingerprint,
        header.tag,
        header.upload_id,
        header.contributors,
        header.items,
        header.item_length,
        header.clear_length,
        digest,
    )


def _read_header(data: bytes) -> tuple[Header, bytes]:
    if not data.startswith(MAGIC):
        raise NotABlobError(f"expected a blob that starts with {MAGIC!r}; the sender speaks another protocol")
    if len(data) < HEADER_BYTES:
        raise TruncatedError(f"a blob's header has {HEADER_BYTES} bytes, only {len(data)} arrived")
    _, version, direction, kind, *fields, digest = _HEADER.unpack_from(data)
    if any(data[_DIGEST_AT + 32 : HEADER_BYTES]):
        raise CorruptError("reserved bytes of a header are not zero; it was damaged on the way")
    if version != PROTOCOL:
        raise VersionError(f"a blob of protocol {version}, expected {PROTOCOL}; both sides need the same release")
    if kind not in _KIND_NAMES:
        raise WrongKindError(f"a blob of unknown kind {kind}")
    return Header(direction, _KIND_NAMES[kind], *fields), digest


def _require(header: Header, limits: Limits, direction: int, kind: RoundKind, number: int) -> None:
    if header.direction != direction or header.kind != kind:
        raise WrongKindError(
            f"expected direction {direction} and kind {kind}, found {header.direction} and {header.kind}"
        )
    if header.federation != limits.federation:
        raise WrongFederationError(
            f"a blob of federation {header.federation.hex()[:12]}, expected {limits.federation.hex()[:12]}; "
            "its sender joined another genesis"
        )
    if header.round != number:
        raise WrongRoundError(f"a blob of round {header.round}, expected round {number}")
    if header.fingerprint != limits.fingerprint:
        raise WrongKeyError(
            f"a blob under key {header.fingerprint.hex()[:12]}, expected {limits.fingerprint.hex()[:12]}; "
            "its sender holds another key or other parameters"
        )
    if not 1 <= header.contributors <= limits.max_contributors:
        raise OversizedError(f"a sum of {header.contributors} uploads, expected 1 to {limits.max_contributors}")
    if header.items > limits.max_items or header.clear_length > limits.max_clear:
        raise OversizedError(
            f"{header.items} ciphertexts and {header.clear_length} clear bytes, at most {limits.max_items} and "
            f"{limits.max_clear} were agreed"
        )
    if header.items < 1 or header.item_length != limits.length_of(header.contributors):
        raise OversizedError(
            f"{header.items} ciphertexts of {header.item_length} bytes, expected at least one of "
            f"{limits.length_of(header.contributors)}"
        )


def _digest(data: bytes) -> bytes:
    """SHA-256 over the whole blob with the digest field left out."""
    digest = hashlib.sha256(memoryview(data)[:_DIGEST_AT])
    digest.update(memoryview(data)[HEADER_BYTES:])
    return digest.digest()


_DIGEST_AT = struct.calcsize("<8sHBBI32s32s32s16sIIIQ")
