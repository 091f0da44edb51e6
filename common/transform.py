"""Polynomials out of SEAL's transform domain (NTT), in which it keeps every ciphertext, into their coefficients.

Integers lie in coefficients here, not in CKKS's slots (decision 0024): adding needs no slots, and coefficients are exact.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import tenseal.sealapi as seal

from common.ckks import Scratch, context
from common.packing import Ints
from common.parameters import CKKSParameters
from common.polynomials import Words, coefficients_at, polynomials

_BLOCK = 1 << 17
"""zstd, in which SEAL saves, begins a new block after so many bytes; within one, polynomials follow each other as they are."""


class Inverse:
    """From the transform domain to coefficients.

    Attributes:
        width: polynomials at once: SEAL transforms ciphertexts, which have two; one where two do not fit a block.
    """

    def __init__(self, parameters: CKKSParameters) -> None:
        self._parameters = parameters
        self._evaluator = seal.Evaluator(context(parameters))
        self._scratch, self._out = Scratch(), Scratch()
        carrier = blank(parameters)
        self._start = coefficients_at(carrier, parameters)
        self.width = 2 if self._start + 16 * parameters.ring_degree <= _BLOCK else 1
        self._carrier = self._scratch.fill(seal.Ciphertext(), parameters, carrier)

    def __call__(self, words: Words) -> Words:
        """Coefficients, uint64 below the prime, shape (width, N), of as many polynomials; a view, not to be written to."""
        self._scratch.refill(self._carrier, self._parameters, words.tobytes(), self._start)
        return self._saved(self._carrier, self.width)

    def first(self, ciphertext: Any) -> Words:
        """Coefficients of the first polynomial of a ciphertext, which is changed; shape (N,)."""
        found: Words = self._saved(ciphertext, 1)[0]
        return found

    def _saved(self, ciphertext: Any, count: int) -> Words:
        self._evaluator.transform_from_ntt_inplace(ciphertext)
        return polynomials(self._out.bytes_of(ciphertext), self._parameters, count)


def centred(words: Words, prime: int) -> Ints:
    """Residues as signed integers around zero, int64."""
    signed = words.astype(np.int64)
    signed -= (signed > prime // 2) * np.int64(prime)
    return signed


def rounded(noisy: Ints, scale_bits: int) -> Ints:
    """The nearest multiples of 2^S, as what they are multiples by; int64."""
    found: Ints = (noisy + np.int64(1 << (scale_bits - 1))) >> scale_bits
    return found


@lru_cache(maxsize=8)
def blank(parameters: CKKSParameters) -> bytes:
    """A ciphertext with both polynomials, of nothing and under a key that is forgotten here."""
    ctx, scratch, plain = context(parameters), Scratch(), seal.Plaintext()
    seal.CKKSEncoder(ctx).encode(0.0, 2.0**parameters.scale_bits, plain)
    made = seal.Ciphertext()
    seal.Encryptor(ctx, seal.KeyGenerator(ctx).secret_key()).encrypt_symmetric(plain, made)
    return scratch.bytes_of(made)
