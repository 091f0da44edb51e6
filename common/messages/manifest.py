"""Signed manifests: who sent which upload for what, so that a coordinator cannot invent, repeat or move one (docs/decisions/0029).

Little-endian, 183 bytes each; in an aggregate they stand back to back, by member.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dictpfl.common.errors import CorruptError
from dictpfl.common.messages.wire import kind_number, read_entries, read_header

_CONTEXT = b"dictpfl manifest 1\n"
_BODY = struct.Struct("<HBI32s32s16s32s")
_SIGNATURE = 64
MANIFEST_BYTES = _BODY.size + _SIGNATURE


@dataclass(frozen=True, slots=True)
class Manifest:
    """Statement of a member about its upload.

    Attributes:
        member: number of the member (`dictpfl.common.law.members`).
        kind: number of the round's kind, as on the wire.
        round: number of the round that the upload was made for.
        federation: federation id, 32 bytes.
        fingerprint: fingerprint of the key, 32 bytes.
        upload_id: 16 bytes.
        digest: SHA-256 of the upload as sent, 32 bytes.
        signature: Ed25519 signature over the other fields, 64 bytes; empty until it is signed.
    """

    member: int
    kind: int
    round: int
    federation: bytes
    fingerprint: bytes
    upload_id: bytes
    digest: bytes
    signature: bytes = b""

    @classmethod
    def of(cls, upload: bytes) -> Self:
        """Make the manifest of an upload, as sent; unsigned.

        Raises:
            WireError: the bytes are no upload.
        """
        header, (entry,) = read_header(upload), read_entries(upload)
        return cls(
            entry.member,
            kind_number(header.kind),
            header.round,
            header.federation,
            header.fingerprint,
            entry.upload_id,
            hashlib.sha256(upload).digest(),
        )

    def signed(self, key: Ed25519PrivateKey) -> Self:
        """Return a signed copy."""
        return replace(self, signature=key.sign(_CONTEXT + self._body()))

    def signed_by(self, public: bytes) -> bool:
        """Tell whether the signature is of this Ed25519 public key, 32 bytes."""
        return is_signed(public, self.signature, _CONTEXT + self._body())

    def _body(self) -> bytes:
        return _BODY.pack(
            self.member, self.kind, self.round, self.federation, self.fingerprint, self.upload_id, self.digest
        )

    def to_bytes(self) -> bytes:
        """Encode body and signature, 183 bytes."""
        return self._body() + self.signature

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Decode what `to_bytes` made; the signature is not checked.

        Raises:
            CorruptError: another length.
        """
        if len(data) != MANIFEST_BYTES:
            raise CorruptError(f"a manifest of {len(data)} bytes, expected {MANIFEST_BYTES}")
        member, kind, number, federation, fingerprint, upload_id, digest = _BODY.unpack_from(data)
        return cls(member, kind, number, federation, fingerprint, upload_id, digest, data[_BODY.size :])


def is_signed(public: bytes, signature: bytes, text: bytes) -> bool:
    """Tell whether a signature on a text is of this Ed25519 public key, 32 bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except InvalidSignature:
        return False
    return True


def joined(manifests: Sequence[Manifest]) -> bytes:
    """Concatenate manifests, ordered by member."""
    return b"".join(m.to_bytes() for m in sorted(manifests, key=lambda m: m.member))


def separated(data: bytes) -> list[Manifest]:
    """Split what `joined` made.

    Raises:
        CorruptError: no whole number of manifests.
    """
    if len(data) % MANIFEST_BYTES:
        raise CorruptError(f"{len(data)} bytes are no whole number of manifests of {MANIFEST_BYTES}")
    return [Manifest.of_bytes(data[at : at + MANIFEST_BYTES]) for at in range(0, len(data), MANIFEST_BYTES)]
