"""Polynomials from a short seed, uniform modulo the prime of ciphertexts: what masks are made of (docs/decisions/0019).

AES-256 in counter mode, under a key that serves one stream and nothing else. A coefficient takes 64 bits, of which as many
count as the prime has; what is not below the prime is drawn again from a second counter, so that no bias is left. Under
primes of 60 bits next to 2^60 that happens about once in 2^40 coefficients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from common.parameters import CKKSParameters
from common.polynomials import Words, add_modulo, data_prime, first_polynomial

SEED_BYTES = 32
_MAIN, _AGAIN = bytes(16), b"\x80" + bytes(15)
"""First counters: streams of less than 2^127 blocks never meet."""


class PolynomialStream:
    """Polynomials, one after another, from a seed of 32 bytes; the same on every platform."""

    def __init__(self, seed: bytes, degree: int, prime: int) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed of {len(seed)} bytes, expected {SEED_BYTES}")
        self._prime = np.uint64(prime)
        self._mask = np.uint64((1 << prime.bit_length()) - 1)
        self._zeros = bytes(8 * degree)
        self._main, self._again = _counter(seed, _MAIN), _counter(seed, _AGAIN)

    def take(self) -> Words:
        """The next polynomial: uint64 below the prime, shape (degree,)."""
        words: Words = np.frombuffer(self._main.update(self._zeros), dtype="<u8") & self._mask
        if (beyond := words >= self._prime).any():
            words[beyond] = [self._drawn_again() for _ in range(int(beyond.sum()))]
        return words

    def _drawn_again(self) -> int:
        while True:
            word = int.from_bytes(self._again.update(bytes(8)), "little") & int(self._mask)
            if word < self._prime:
                return word


def shifted(
    items: Iterable[bytes], parameters: CKKSParameters, *, plus: Sequence[bytes] = (), minus: Sequence[bytes] = ()
) -> Iterator[bytes]:
    """Saved ciphertexts, in order, with the streams of some seeds added to their first polynomials and of others subtracted.

    Exact: shifting by the same seeds with the signs turned gives the same bytes back.

    Raises:
        CorruptError: an item that is no ciphertext of these parameters.
    """
    degree, prime = parameters.ring_degree, data_prime(parameters)
    streams = [(PolynomialStream(seed, degree, prime), False) for seed in plus]
    streams += [(PolynomialStream(seed, degree, prime), True) for seed in minus]
    for item in items:
        if not streams:
            yield item
            continue
        out = bytearray(item)
        add_modulo(first_polynomial(out, parameters), _total(streams, degree, prime), prime)
        yield bytes(out)


def _total(streams: Sequence[tuple[PolynomialStream, bool]], degree: int, prime: int) -> Words:
    total: Words = np.zeros(degree, dtype=np.uint64)
    modulus, room, terms = np.uint64(prime), (2**64 - 1) // prime, 0
    for stream, negative in streams:
        if terms == room:
            np.remainder(total, modulus, out=total)
            terms = 1
        words = stream.take()
        total += modulus - words if negative else words
        terms += 1
    np.remainder(total, modulus, out=total)
    return total


def _counter(seed: bytes, first: bytes) -> CipherContext:
    return Cipher(AES(seed), CTR(first)).encryptor()
