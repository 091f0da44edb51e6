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

from common.errors import (
    IdentityError,
    NotABundleError,
    TamperedBundleError,
    TruncatedBundleError,
    WrongRecipientError,
)
from deploy.ceremony.identity import Identity, PublicIdentity, canonical

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
        kind: what is inside. `facts`: public facts about it. `sender`: who signed.
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
            NotABundleError, TruncatedBundleError, TamperedBundleError.
        """
        header, sealed = _parts(data)
        if not (envelope := cls._parsed(header, sealed)).sender.verify(
            data[-_SIGNATURE:], _CONTEXT + data[:-_SIGNATURE]
        ):
            raise TamperedBundleError("the signature does not fit: the file was altered. Ask the sender for it again")
        if envelope.kind != kind:
            raise NotABundleError(f"expected a {kind}, found a {envelope.kind}; is it the right file?")
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
            raise TamperedBundleError("the header is damaged: the file was altered. Ask the sender for it again")
        return envelope

    def require_for(self, recipient: PublicIdentity) -> None:
        """Refuse what is for somebody else, before any passphrase is asked for.

        Raises:
            WrongRecipientError: so it is.
        """
        if self.recipient != recipient.fingerprint:
            raise WrongRecipientError(
                f"sealed for another party (fingerprint {self.recipient.hex()[:12]}), this one is {recipient.name} "
                f"({recipient.fingerprint.hex()[:12]}); ask {self.sender.name} for your own"
            )

    def open(self, recipient: Identity) -> dict[str, bytes]:
        """The files inside, by name.

        Raises:
            WrongRecipientError: for somebody else. TamperedBundleError: the seal does not fit.
        """
        self.require_for(recipient.public)
        try:
            return unpack(_SUITE.decrypt(self._sealed, recipient.receiving, info=_CONTEXT + self._header))
        except InvalidTag:
            raise TamperedBundleError("the seal does not fit: ask the sender for a new file") from None


def seal(
    kind: str, facts: Mapping[str, Any], files: Mapping[str, bytes], sender: Identity, to: PublicIdentity
) -> bytes:
    """The file for one recipient."""
    header = canonical(
        {"kind": kind, "facts": dict(facts), "sender": sender.public.facts(), "recipient": to.fingerprint.hex()}
    )
    public = X25519PublicKey.from_public_bytes(to.receiving)
    try:
        sealed = _SUITE.encrypt(pack(files), public, info=_CONTEXT + header)
    except ValueError as error:
        raise IdentityError(f"nothing can be sealed for {to.name}: its receiving key is no point of X25519") from error
    body = _HEAD.pack(_MAGIC, _VERSION, len(header), len(sealed)) + header + sealed
    return body + sender.sign(_CONTEXT + body)


def _parts(data: bytes) -> tuple[bytes, bytes]:
    if not data.startswith(_MAGIC[: len(data)]) or not data:
        raise NotABundleError("the file does not begin as a bundle does; is it the right file?")
    if len(data) < _HEAD.size:
        raise TruncatedBundleError(f"the file has {len(data)} bytes, not even a head; it was cut off. Copy it again")
    _, version, header_length, sealed_length = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise NotABundleError(f"a file of version {version}, expected {_VERSION}; both sides need the same release")
    expected = _HEAD.size + header_length + sealed_length + _SIGNATURE
    if len(data) < expected:
        raise TruncatedBundleError(f"the file has {len(data)} of {expected} bytes; it was cut off. Copy it again")
    if len(data) > expected or header_length > _LARGEST_HEADER:
        raise TamperedBundleError(
            f"the file has {len(data)} bytes, its head says {expected}; ask the sender for it again"
        )
    middle = _HEAD.size + header_length
    return data[_HEAD.size : middle], data[middle : middle + sealed_length]


def pack(files: Mapping[str, bytes]) -> bytes:
    """Files as one string of bytes; the same files give the same bytes."""
    names = sorted(files)
    index = canonical([[name, len(files[name])] for name in names])
    return b"".join([len(index).to_bytes(4, "little"), index, *(files[name] for name in names)])


def unpack(data: bytes) -> dict[str, bytes]:
    """Inverse of `pack`.

    Raises:
        TamperedBundleError: anything else.
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
        raise TamperedBundleError("the files inside are damaged; ask the sender for a new file")
    return files
