"""Polynomials inside SEAL's objects: where it saves their words, and the transform from its domain to coefficients.

Integers lie in coefficients here, not in CKKS's slots (decision 0001): adding needs no slots, and coefficients are
exact. SEAL keeps every ciphertext in the transform domain (NTT), and takes and gives words through files only; saved,
they are little-endian and of 64 bits, behind a header that says how many.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import tenseal
import tenseal.sealapi as seal

from dictpfl.common.arrays import Ints
from dictpfl.common.ckks.context import Scratch, context
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.errors import CorruptError
from dictpfl.common.words import Words

_HEADER = bytes.fromhex("5ea11004030000")
"""SEAL 4.3's header of what lies uncompressed inside another object, up to the byte that is reserved."""
_HEADER_SIZE, _COUNT_SIZE = 16, 8
_OUTER = struct.Struct("<HBBBBHQ")
_BLOCK = 1 << 17
"""Bytes of a block of zstd, through which SEAL saves; words that look random stay as they are within one."""
_BLOCK_HEADER = 3
_OTHER_SEAL = (
    f"Expected ciphertexts in the form of SEAL 4.3. TenSEAL {tenseal.__version__} saves them in another form than SEAL 4.3. "
    "Run `pip install 'tenseal>=0.3.17,<0.4'`."
)


@lru_cache(maxsize=8)
def data_prime(parameters: CKKSParameters) -> int:
    """The prime q that ciphertexts are polynomials modulo."""
    (prime,) = seal.CoeffModulus.Create(parameters.ring_degree, list(parameters.primes))
    return int(prime.value())


@dataclass(frozen=True)
class _Blank:
    """Ciphertext whose first polynomial is zero, and whose second one looks random.

    Attributes:
        data: what SEAL loads it from: uncompressed.
        start: byte of `data` at which its coefficients begin.
        saved_start: byte at which those of a ciphertext begin that SEAL saved.
        fits: True where both polynomials lie in one block of what SEAL saves.
    """

    data: bytes
    start: int
    saved_start: int
    fits: bool


@lru_cache(maxsize=8)
def _blank(parameters: CKKSParameters) -> _Blank:
    ctx, scratch, plain = context(parameters), Scratch(), seal.Plaintext()
    seal.CKKSEncoder(ctx).encode(0.0, 2.0**parameters.scale_bits, plain)
    made = seal.Ciphertext()
    seal.Encryptor(ctx, seal.KeyGenerator(ctx).secret_key()).encrypt_symmetric(plain, made)
    saved = scratch.bytes_of(made)
    data = _uncompressed(saved)
    start, saved_start = _coefficients_at(data, parameters), _coefficients_at(saved, parameters)
    data[start : start + 8 * parameters.ring_degree] = bytes(8 * parameters.ring_degree)
    return _Blank(bytes(data), start, saved_start, fits=saved_start + 16 * parameters.ring_degree <= _BLOCK)


class SecondPolynomial:
    """Ciphertext of which the second polynomial is given, and the first is zero."""

    def __init__(self, parameters: CKKSParameters) -> None:
        blank = _blank(parameters)
        self._parameters, self._start = parameters, blank.start + 8 * parameters.ring_degree
        self._scratch = Scratch()
        self._ciphertext = self._scratch.fill(seal.Ciphertext(), parameters, blank.data)

    def load(self, words: Words) -> Any:
        """Return SEAL's ciphertext of zero and these words, in the transform domain; it is overwritten by the next."""
        return self._scratch.refill(self._ciphertext, self._parameters, words.astype("<u8").tobytes(), self._start)


class Coefficients:
    """Transform of plaintext polynomials from SEAL's domain into coefficients, two at a time.

    SEAL transforms ciphertexts only, and gives their words in files only; both take as long for one polynomial as for two. So
    the first is added to the first polynomial of a ciphertext, and the second is multiplied with a second polynomial of one.
    """

    def __init__(self, parameters: CKKSParameters) -> None:
        self._parameters = parameters
        self._evaluator = seal.Evaluator(context(parameters))
        self._scratch, self._out = Scratch(), seal.Ciphertext()
        blank = _blank(parameters)
        self._start, self._fits = blank.saved_start, blank.fits
        self._blank = self._scratch.fill(seal.Ciphertext(), parameters, blank.data)
        self._one = SecondPolynomial(parameters).load(np.ones(parameters.ring_degree, np.uint64))
        self._one.scale = 1.0

    def of(self, first: Any, second: Any = None) -> tuple[Words, ...]:
        """Compute the coefficients of one or of both, uint64 below q, shape (N,).

        Their words have to look random, for SEAL saves through zstd, which would shorten others.
        """
        if second is not None and not self._fits:
            return (*self.of(first), *self.of(second))
        if second is None:
            self._evaluator.add_plain(self._blank, first, self._out)
        else:
            self._evaluator.multiply_plain(self._one, second, self._out)
            self._evaluator.add_plain_inplace(self._out, first)
        self._evaluator.transform_from_ntt_inplace(self._out)
        saved, degree, count = self._scratch.bytes_of(self._out), self._parameters.ring_degree, 1 + (second is not None)
        return tuple(np.frombuffer(saved, "<u8", count * degree, self._start).astype(np.uint64).reshape(count, degree))


def rounded(noisy: Ints, scale_bits: int) -> Ints:
    """Divide by 2^S and round to the nearest integer, int64."""
    nearest: Ints = (noisy + np.int64(1 << (scale_bits - 1))) >> scale_bits
    return nearest


def _coefficients_at(saved: bytes | bytearray, parameters: CKKSParameters) -> int:
    """Find the offset at which the coefficients of a saved ciphertext of two polynomials begin, in bytes."""
    count = 2 * parameters.ring_degree
    size = _HEADER_SIZE + _COUNT_SIZE + 8 * count
    pattern = _HEADER + bytes(1) + size.to_bytes(8, "little") + count.to_bytes(8, "little")
    start = saved.find(pattern)
    if start < 0:
        raise CorruptError(_OTHER_SEAL)
    return start + len(pattern)


def _uncompressed(saved: bytes) -> bytearray:
    """Turn what SEAL saved through zstd, in blocks that are not compressed, into what it saves without zstd."""
    magic, size, major, minor, _, reserved, _ = _OUTER.unpack_from(saved)
    place = size + 5 + (1, 2, 4, 8)[saved[size + 4] >> 6]  # zstd's magic, its descriptor, and the length of the content
    body, last = b"", False
    while not last:
        head = int.from_bytes(saved[place : place + _BLOCK_HEADER], "little")
        place += _BLOCK_HEADER
        last, length = bool(head & 1), head >> 3
        if head >> 1 & 3 or place + length > len(saved):
            raise CorruptError(_OTHER_SEAL)
        body += saved[place : place + length]
        place += length
    return bytearray(_OUTER.pack(magic, size, major, minor, 0, reserved, size + len(body)) + body)
