"""Arithmetic on polynomials where SEAL saved them: integers added to a ciphertext without parsing it.

An encryption of m is an encryption of zero plus m in its first polynomial, word by word modulo the prime. Saved, the words
are little-endian and of 64 bits, behind a header that says how many.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import tenseal.sealapi as seal
from numpy.typing import NDArray

from common.errors import CorruptError
from common.parameters import CKKSParameters

Words = NDArray[np.uint64]
_HEADER = bytes.fromhex("5ea11004030000")
"""SEAL 4.3's header of what lies uncompressed inside another object, up to the byte that is reserved."""
_HEADER_SIZE, _COUNT_SIZE = 16, 8


def first_polynomial(item: bytes | bytearray | memoryview, parameters: CKKSParameters) -> Words:
    """The words of the first polynomial of a saved ciphertext: a view, uint64, shape (N,).

    A view of a `bytearray` can be written to.

    Raises:
        CorruptError: saved by another SEAL, or by other parameters.
    """
    first: Words = polynomials(item, parameters, 1)[0]
    return first


def polynomials(item: bytes | bytearray | memoryview, parameters: CKKSParameters, count: int) -> Words:
    """The words of its first `count` polynomials, which have to lie in one block (`common.transform`), shape (count, N).

    Raises:
        CorruptError: as `first_polynomial`.
    """
    words = np.frombuffer(item, "<u8", count * parameters.ring_degree, coefficients_at(item, parameters))
    return words.reshape(count, -1)


def coefficients_at(item: bytes | bytearray | memoryview, parameters: CKKSParameters) -> int:
    """Where the coefficients of the first polynomial begin, in bytes.

    Raises:
        CorruptError: as `first_polynomial`.
    """
    degree, head = parameters.ring_degree, bytes(item[:256])
    start = max(_start(head, degree, 1), _start(head, degree, 2))
    if start < 0 or len(item) < start + 8 * degree:
        raise CorruptError(
            f"{len(item)} bytes are no polynomial of {degree} coefficients as SEAL 4.3 saves it; "
            "install the version of TenSEAL that pyproject.toml names"
        )
    return start


def add_modulo(into: Words, other: Words, prime: int) -> None:
    """Add `other` to `into` modulo the prime, in place; both below the prime, which is below 2^63."""
    np.add(into, other, out=into)
    # Where the sum is below the prime, the difference wraps to something larger than it.
    np.minimum(into, into - np.uint64(prime), out=into)


@lru_cache(maxsize=8)
def data_prime(parameters: CKKSParameters) -> int:
    """The prime that ciphertexts live under: the first; a second one is dropped within encryption."""
    found = seal.CoeffModulus.Create(parameters.ring_degree, list(parameters.primes))
    return int(found[0].value())


def _start(head: bytes, degree: int, polynomials: int) -> int:
    """Where the coefficients begin behind the header of an array of so many polynomials, or -1."""
    count = polynomials * degree
    size = _HEADER_SIZE + _COUNT_SIZE + 8 * count
    pattern = _HEADER + bytes(1) + size.to_bytes(8, "little") + count.to_bytes(8, "little")
    found = head.find(pattern)
    return found if found < 0 else found + len(pattern)
