"""Header of a sealed snapshot: all that a coordinator may know of the shared state that it keeps for latecomers.

Little-endian, 172 bytes; what follows is one AES-GCM ciphertext with its tag. Institutions that hold the same state
seal the same bytes (`dictpfl.client.memory.snapshots`), so that equal headers, which hold the SHA-256 of what
follows, are agreement on it.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from typing import Self

from dictpfl.common.documents import OTHER_RELEASE
from dictpfl.common.errors import SnapshotError

MAGIC = b"DICTSNP\x00"
VERSION = 1
NONCE_BYTES, TAG_BYTES = 12, 16
_LAYOUT = struct.Struct("<8sHxxIII32s32s32s12sQ32s")
HEADER_BYTES = _LAYOUT.size


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """Header of a snapshot; nothing in it depends on data except through the keyed digest.

    Attributes:
        epoch: number of the epoch under whose key it is sealed.
        round: the state is the one before this round.
        updates: number of update rounds in the state.
        federation: federation id, 32 bytes.
        fingerprint: fingerprint of the epoch's key, 32 bytes.
        tag: keyed digest of the state, as uploads of this round carry it.
        nonce: nonce of AES-GCM, 12 bytes.
        length: number of bytes that follow the header.
        digest: SHA-256 of these bytes, 32 bytes.
    """

    epoch: int
    round: int
    updates: int
    federation: bytes
    fingerprint: bytes
    tag: bytes
    nonce: bytes = bytes(NONCE_BYTES)
    length: int = 0
    digest: bytes = bytes(32)

    def to_bytes(self) -> bytes:
        """Encode the header, 172 bytes."""
        numbers = (MAGIC, VERSION, self.epoch, self.round, self.updates)
        return _LAYOUT.pack(*numbers, self.federation, self.fingerprint, self.tag, self.nonce, self.length, self.digest)

    @property
    def bound(self) -> bytes:
        """Bytes that the seal authenticates besides the state: the header without the digest of the sealed bytes."""
        return replace(self, digest=bytes(32)).to_bytes()

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Read the header at the start of `data`.

        Raises:
            SnapshotError: no snapshot of this version.
        """
        if len(data) < HEADER_BYTES or not data.startswith(MAGIC):
            raise SnapshotError(
                f"expected a snapshot: {HEADER_BYTES} bytes of header that start with {MAGIC!r}, found {len(data)} bytes "
                "of something else"
            )
        _, version, *fields = _LAYOUT.unpack_from(data)
        header = cls(*fields)
        if version != VERSION:
            raise SnapshotError(f"a snapshot of version {version}, this release reads {VERSION}: {OTHER_RELEASE}")
        if header.to_bytes() != data[:HEADER_BYTES]:
            raise SnapshotError("the header of a snapshot has fields that it should not have; it was altered")
        return header


def body(header: SnapshotHeader, data: bytes) -> memoryview:
    """Return the sealed bytes behind the header.

    Raises:
        SnapshotError: length or SHA-256 differ from the header's.
    """
    sealed = memoryview(data)[HEADER_BYTES:]
    if len(sealed) != header.length or hashlib.sha256(sealed).digest() != header.digest:
        raise SnapshotError(
            f"a snapshot of round {header.round} holds {len(sealed)} bytes that are not the {header.length} of its header: "
            "cut off, or altered"
        )
    return sealed
