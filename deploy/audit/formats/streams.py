"""Streams and derived bytes: SHAKE-256 over seed and context, HKDF, AES-256 in counter mode (specification, section 2)."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

Words = NDArray[np.uint64]
_SECOND = 1 << 127
_HASH_BYTES = 32


def expand(seed: bytes, *context: bytes | str | int, length: int) -> bytes:
    """Derive `length` bytes from a seed and a context, each part behind its length as 8 bytes."""
    said = b"dictpfl-v1"
    for part in (seed, *context):
        data = part if isinstance(part, bytes) else str(part).encode()
        said += len(data).to_bytes(8, "little") + data
    return hashlib.shake_256(said).digest(length)


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Extract and expand 32 bytes with HKDF-SHA256 (RFC 5869)."""
    return hkdf_expand(hmac.digest(salt, secret, "sha256"), info)


def hkdf_expand(key: bytes, info: bytes) -> bytes:
    """Expand a key into 32 bytes with HKDF-Expand-SHA256: one block."""
    return hmac.digest(key, info + b"\x01", "sha256")[:_HASH_BYTES]


def uniform(seed: bytes, count: int, prime: int) -> Words:
    """Draw residues modulo a prime from a seed of 32 bytes: uint64, shape (count,).

    A word of 64 bits is cut to the prime's bits; one that is not below the prime is replaced by the next good one of
    a second counter.
    """
    bits = prime.bit_length()
    words = raw_words(seed, count) & np.uint64((1 << bits) - 1)
    again = _counter(seed, _SECOND)
    for place in np.flatnonzero(words >= np.uint64(prime)).tolist():
        word = prime
        while word >= prime:
            word = int.from_bytes(again.update(bytes(8)), "little") % (1 << bits)
        words[place] = word
    return words


def raw_words(key: bytes, count: int) -> Words:
    """Draw words of 64 bits: uint64, shape (count,)."""
    return np.frombuffer(_counter(key, 0).update(bytes(8 * count)), "<u8").astype(np.uint64)


def _counter(key: bytes, first: int) -> CipherContext:
    return Cipher(AES(key), CTR(first.to_bytes(16, "big"))).encryptor()
