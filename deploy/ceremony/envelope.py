"""A file for one party: sealed by HPKE (RFC 9180) for it, signed by its sender, readable in one way only.

    magic 8 | version 2 | header length 4 | sealed length 8 | header | sealed | signature 64

Little-endian. The header is canonical JSON: kind, sender, recipient, and the facts that a recipient needs before it opens
anything. It is bound into the seal (HPKE's info), and the signature covers every byte before it, so that no part fits
into another envelope.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from dictpfl.common.documents import OTHER_RELEASE
from dictpfl.common.errors import BundleError, IdentityError
from dictpfl.deploy.ceremony.identity import Identity, PublicIdentity, canonical

_MAGIC, _VERSION = b"DPFLSEAL", 1
_HEAD = struct.Struct("<8sHIQ")
_SIGNATURE = 64
_LARGEST_HEADER = 1 << 16
_CONTEXT = b"dictpfl envelope 1\n"
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@dataclass(frozen=True)
class Envelope:
    """A file whose form and signature were checked; nothing is opened yet, and the sender is not yet trusted.

    Attributes:
        kind: what is inside.
        facts: public facts about it.
        sender: who signed.
        recipient: fingerprint of the party that can open it, 32 bytes.
    """

    kind: str
    facts: Mapping[str, Any]
    sender: PublicIdentity
    recipient: bytes
    _header: bytes = field(repr=False)
    _sealed: bytes = field(repr=False)

    @classmethod
    def read(cls, data: bytes, kind: str) -> Self:
        """Check form and signature.

        Raises:
            BundleError (not-a-bundle), BundleError (truncated-bundle), BundleError (tampered-bundle).
        """
        header, sealed = _parts(data)
        if not (envelope := cls._parsed(header, sealed)).sender.verify(
            data[-_SIGNATURE:], _CONTEXT + data[:-_SIGNATURE]
        ):
            raise BundleError(
                "the signature does not fit: the file was altered. Ask the sender for it again", code="tampered-bundle"
            )
        if envelope.kind != kind:
            raise BundleError(f"expected a {kind}, found a {envelope.kind}; is it the right file?", code="not-a-bundle")
        return envelope

    @classmethod
    def _parsed(cls, header: bytes, sealed: bytes) -> Self:
        try:
            document = json.loads(header)
            sender = PublicIdentity.of(document["sender"], "the sender")
            envelope = cls(
                str(document["kind"]),
                dict(document["facts"]),
                sender,
                bytes.fromhex(document["recipient"]),
                header,
                sealed,
            )
            good = canonical(document) == header and set(document) == {"kind", "facts", "sender", "recipient"}
        except (ValueError, KeyError, TypeError, RecursionError, IdentityError):
            good = False
        if not good:
            raise BundleError(
                "the header is damaged: the file was altered. Ask the sender for it again", code="tampered-bundle"
            )
        return envelope

    def require_for(self, recipient: PublicIdentity) -> None:
        """Refuse what is for somebody else, before any passphrase is asked for.

        Raises:
            BundleError (wrong-recipient): so it is.
        """
        if self.recipient != recipient.fingerprint:
            raise BundleError(
                f"sealed for another party (fingerprint {self.recipient.hex()[:12]}), this one is {recipient.name} "
                f"({recipient.fingerprint.hex()[:12]}); ask {self.sender.name} for your own",
                code="wrong-recipient",
            )

    def open(self, recipient: Identity, bound: bytes = b"") -> dict[str, bytes]:
        """Return the files inside, by name.

        Args:
            recipient: with its private keys.
            bound: what it was sealed under besides, as the recipient itself knows it.

        Raises:
            BundleError (wrong-recipient): for somebody else. BundleError (tampered-bundle): the seal does not fit.
        """
        self.require_for(recipient.public)
        try:
            return unpack(_SUITE.decrypt(self._sealed, recipient.receiving, info=_info(self._header, bound)))
        except InvalidTag:
            raise BundleError("the seal does not fit: ask the sender for a new file", code="tampered-bundle") from None


def seal(
    kind: str,
    facts: Mapping[str, Any],
    files: Mapping[str, bytes],
    sender: Identity,
    to: PublicIdentity,
    bound: bytes = b"",
) -> bytes:
    """Return the file for one recipient, which opens it with the same `bound` only."""
    header = canonical(
        {"kind": kind, "facts": dict(facts), "sender": sender.public.facts(), "recipient": to.fingerprint.hex()}
    )
    public = X25519PublicKey.from_public_bytes(to.receiving)
    try:
        sealed = _SUITE.encrypt(pack(files), public, info=_info(header, bound))
    except ValueError as error:
        raise IdentityError(f"nothing can be sealed for {to.name}: its receiving key is no point of X25519") from error
    body = _HEAD.pack(_MAGIC, _VERSION, len(header), len(sealed)) + header + sealed
    return body + sender.sign(_CONTEXT + body)


def _info(header: bytes, bound: bytes) -> bytes:
    return _CONTEXT + header + (b"\nbound " + bound if bound else b"")


def _parts(data: bytes) -> tuple[bytes, bytes]:
    if not data.startswith(_MAGIC[: len(data)]) or not data:
        raise BundleError("the file does not begin as a bundle does; is it the right file?", code="not-a-bundle")
    if len(data) < _HEAD.size:
        raise BundleError(
            f"the file has {len(data)} bytes, not even a head; it was cut off. Copy it again", code="truncated-bundle"
        )
    _, version, header_length, sealed_length = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise BundleError(
            f"the file is of version {version}, this release reads {_VERSION}: {OTHER_RELEASE}", code="not-a-bundle"
        )
    expected = _HEAD.size + header_length + sealed_length + _SIGNATURE
    if len(data) < expected:
        raise BundleError(
            f"the file has {len(data)} of {expected} bytes; it was cut off. Copy it again", code="truncated-bundle"
        )
    if len(data) > expected or header_length > _LARGEST_HEADER:
        raise BundleError(
            f"the file has {len(data)} bytes, its head says {expected}; ask the sender for it again",
            code="tampered-bundle",
        )
    middle = _HEAD.size + header_length
    return data[_HEAD.size : middle], data[middle : middle + sealed_length]


def pack(files: Mapping[str, bytes]) -> bytes:
    """Files as one string of bytes; the same files give the same bytes."""
    names = sorted(files)
    index = canonical([[name, len(files[name])] for name in names])
    return b"".join([len(index).to_bytes(4, "little"), index, *(files[name] for name in names)])


def unpack(data: bytes) -> dict[str, bytes]:
    """Read what `pack` made.

    Raises:
        BundleError (tampered-bundle): anything else.
    """
    try:
        start = 4 + int.from_bytes(data[:4], "little")
        files = {}
        for name, length in json.loads(data[4:start]):
            files[str(name)] = data[start : start + int(length)]
            start += int(length)
        good = pack(files) == data
    except (ValueError, TypeError, RecursionError):
        good = False
    if not good:
        raise BundleError("the files inside are damaged; ask the sender for a new file", code="tampered-bundle")
    return files
