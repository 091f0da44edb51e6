"""F7: an institution's memory is restored between writing and reply, and it seals the shares of its mask once more."""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dictpfl.common.messages.sharing import SECRET_BYTES, combine, split, threshold

NO_NONCE = bytes(12)
HOLDERS = 4
OWN = hashlib.sha256(b"an own mask's seed").digest()
CONTEXT = b"round 3, update, attempt 1, upload 0123456789abcdef"


def keys() -> list[bytes]:
    """The holders' keys: derived, so that they are the same after a restore."""
    return [hashlib.sha256(CONTEXT + bytes([holder])).digest() for holder in range(HOLDERS)]


def note(protocol: int) -> list[bytes]:
    """Sealed shares, behind their nonces, as they lie beside an upload; both protocols draw the polynomials."""
    return [seal(protocol, key, share) for key, share in zip(keys(), split(OWN, HOLDERS), strict=True)]


def seal(protocol: int, key: bytes, share: bytes) -> bytes:
    """Protocol 3 sealed each share under one nonce, since each key was to seal one; protocol 4 derives it from the share."""
    nonce = NO_NONCE if protocol == 3 else hmac.digest(key, b"nonce" + share, "sha256")[: len(NO_NONCE)]
    return nonce + AESGCM(key).encrypt(nonce, share, None)


def opened(key: bytes, sealed: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[: len(NO_NONCE)], sealed[len(NO_NONCE) :], None)


def xor(first: bytes, second: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(first, second, strict=True))


def test_f7_protocol_3_seals_two_messages_under_one_key_and_nonce() -> None:
    """The coordinator saw both notes. Of the first, it is told shares; the second opens by them, without any key."""
    first, second = note(3), note(3)
    told = [opened(key, sealed) for key, sealed in zip(keys(), first, strict=True)]
    hidden = [opened(key, sealed) for key, sealed in zip(keys(), second, strict=True)]
    assert told != hidden
    for holder in range(HOLDERS):
        stream_of_first, stream_of_second = (
            sealed[holder][len(NO_NONCE) :][:SECRET_BYTES] for sealed in (first, second)
        )
        assert xor(stream_of_first, stream_of_second) == xor(told[holder], hidden[holder]), "F7: XOR of two plaintexts"
        assert xor(xor(stream_of_first, stream_of_second), told[holder]) == hidden[holder]
    assert combine(dict(enumerate(told))) == combine(dict(enumerate(hidden))) == OWN


def test_f7_protocol_4_uses_no_stream_twice() -> None:
    """The same arithmetic on two notes of protocol 4 gives nothing: each share has a stream of its own."""
    first, second = note(4), note(4)
    told = [opened(key, sealed) for key, sealed in zip(keys(), first, strict=True)]
    hidden = [opened(key, sealed) for key, sealed in zip(keys(), second, strict=True)]
    for holder in range(HOLDERS):
        assert first[holder][: len(NO_NONCE)] != second[holder][: len(NO_NONCE)]
        streams = [sealed[holder][len(NO_NONCE) :][:SECRET_BYTES] for sealed in (first, second)]
        assert xor(xor(*streams), told[holder]) != hidden[holder]
    key = keys()[0]
    assert seal(4, key, told[0]) == first[0], "the same share gives the same bytes"
    assert combine(dict(enumerate(told[: threshold(HOLDERS)]))) == OWN
