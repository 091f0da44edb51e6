"""Streams of words from a short seed, uniform below a prime: masks, and the second polynomials of ciphertexts.

AES-256 in counter mode, under a key that serves one stream and nothing else. A word takes 64 bits, of which as
many count as the prime has; what is not below the prime is drawn again from a second counter, so that no bias is
left. FrodoKEM draws its public matrix in the same way (docs/decisions/0030).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from dictpfl.common.words import Words

SEED_BYTES = 32
_MAIN, _AGAIN = bytes(16), b"\x80" + bytes(15)
"""First counters: streams of less than 2^127 blocks never meet."""


class WordStream:
    """Stream of words from a seed of 32 bytes; the same on every platform."""

    def __init__(self, seed: bytes, prime: int) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed of {len(seed)} bytes, expected {SEED_BYTES}")
        self._prime = np.uint64(prime)
        self._mask = np.uint64((1 << prime.bit_length()) - 1)
        self._main, self._again = _counter(seed, _MAIN), _counter(seed, _AGAIN)

    def take(self, count: int) -> Words:
        """Draw the next words: uint64 below the prime, shape (count,)."""
        words: Words = np.frombuffer(self._main.update(bytes(8 * count)), dtype="<u8") & self._mask
        if (beyond := words >= self._prime).any():
            words[beyond] = [self._drawn_again() for _ in range(int(beyond.sum()))]
        return words

    def _drawn_again(self) -> int:
        while True:
            word = int.from_bytes(self._again.update(bytes(8)), "little") & int(self._mask)
            if word < self._prime:
                return word


class SumOfStreams:
    """Sum of the streams of some seeds, less those of others, modulo the prime."""

    def __init__(self, prime: int, *, plus: Sequence[bytes] = (), minus: Sequence[bytes] = ()) -> None:
        self._prime = prime
        self._streams = [(WordStream(seed, prime), False) for seed in plus]
        self._streams += [(WordStream(seed, prime), True) for seed in minus]

    def take(self, count: int) -> Words:
        """Draw the next words of all streams and add them up: uint64 below the prime, shape (count,)."""
        total: Words = np.zeros(count, dtype=np.uint64)
        modulus, room, terms = np.uint64(self._prime), (2**64 - 1) // self._prime, 0
        for stream, negative in self._streams:
            if terms == room:
                np.remainder(total, modulus, out=total)
                terms = 1
            words = stream.take(count)
            total += modulus - words if negative else words
            terms += 1
        np.remainder(total, modulus, out=total)
        return total


def _counter(seed: bytes, first: bytes) -> CipherContext:
    return Cipher(AES(seed), CTR(first)).encryptor()
