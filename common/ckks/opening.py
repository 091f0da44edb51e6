"""The capability to decrypt. Floats never leave it, nor anything that was not rounded and checked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import tenseal.sealapi as seal

from dictpfl.common.arrays import Ints
from dictpfl.common.ckks.context import context
from dictpfl.common.ckks.keys import FederationKey, identity_fingerprint, load_secret
from dictpfl.common.ckks.parameters import GUARDS, TOLERANCE, CKKSParameters
from dictpfl.common.ckks.polynomials import Coefficients, SecondPolynomial, data_prime, rounded
from dictpfl.common.ckks.streams import SumOfStreams
from dictpfl.common.errors import GuardError, OpeningError
from dictpfl.common.words import Words, add_modulo, centred, to_coefficients


class Opener(Protocol):
    """Capability to decrypt: turns a sum back into integers."""

    fingerprint: bytes

    def open(self, words: Words, seeds: Sequence[bytes], components: int) -> Ints:
        """Decrypt a sum.

        Args:
            words: words of its ciphertexts, uint64 below the word prime, shape (words of so many components,).
            seeds: seed of each upload in it, 32 bytes.
            components: number of components.

        Returns:
            The components, int64, shape (components,).

        Raises:
            GuardError: guard components are not zero: a foreign key, or a damaged ciphertext.
            OpeningError (noise): a value too far from an integer to be trusted.
            OpeningError: a value beyond the payload.
        """
        ...


class CKKSOpener:
    """Opener that decrypts and rounds; only integers leave it."""

    def __init__(self, key: FederationKey) -> None:
        self._parameters = key.parameters
        self.fingerprint = key.fingerprint
        self._decryptor = seal.Decryptor(context(key.parameters), load_secret(key))
        self._second, self._coefficients = SecondPolynomial(key.parameters), Coefficients(key.parameters)
        self._plains = (seal.Plaintext(), seal.Plaintext())
        self._prime = data_prime(key.parameters)

    def open(self, words: Words, seeds: Sequence[bytes], components: int) -> Ints:
        """See `Opener.open`."""
        opened, place = np.empty(components, dtype=np.int64), 0
        for noisy in self._noisy(words, seeds, components):
            part = _integers(noisy, self._parameters)
            opened[place : place + part.size] = part
            place += part.size
        return opened

    def _noisy(self, words: Words, seeds: Sequence[bytes], components: int) -> Iterator[Ints]:
        """Decrypt one ciphertext after another: 2^S times the integers plus noise, guards included."""
        second, place, degree = SumOfStreams(self._prime, plus=seeds), 0, self._parameters.ring_degree
        count = self._parameters.ciphertexts(components)
        for start in range(0, count, 2):
            plains = self._plains[: count - start]
            for plain in plains:
                # c1 s, for the first polynomial is zero; the other one lies in coefficients already.
                self._decryptor.decrypt(self._second.load(second.take(degree)), plain)
            for product in self._coefficients.of(*plains):
                used = to_coefficients(words[place : place + degree], self._prime, self._parameters.word_prime)
                place += degree
                noisy = product[: used.size]
                add_modulo(noisy, used, self._prime)
                yield centred(noisy, self._prime)


class IdentityOpener:
    """Opener of sums that nothing encrypted (`dictpfl.common.ckks.sealing.IdentitySealer`)."""

    def __init__(self, parameters: CKKSParameters) -> None:
        self._parameters = parameters
        self.fingerprint = identity_fingerprint(parameters)

    def open(self, words: Words, seeds: Sequence[bytes], components: int) -> Ints:  # noqa: ARG002 -- the protocol's signature
        """See `Opener.open`."""
        values = centred(words, self._parameters.word_prime)
        _require_payload(values, self._parameters)
        return values


def _integers(noisy: Ints, parameters: CKKSParameters) -> Ints:
    integers = rounded(noisy, parameters.scale_bits)
    if integers[-GUARDS:].any():
        raise GuardError(
            "guard components of a sum are not zero: it was sealed under another key or other parameters, or a "
            "ciphertext is damaged. Compare key fingerprints with the other institutions"
        )
    if np.abs(noisy - (integers << parameters.scale_bits)).max() > math.ldexp(TOLERANCE, parameters.scale_bits):
        raise OpeningError(
            "a decrypted value is further than 0.25 from an integer: more uploads were added than agreed, or a "
            "ciphertext was altered",
            code="noise",
        )
    values: Ints = integers[:-GUARDS]
    _require_payload(values, parameters)
    return values


def _require_payload(values: Ints, parameters: CKKSParameters) -> None:
    bound = 2 ** (parameters.payload_bits - 1)
    if values.size and (values.max() > bound or values.min() < -bound):
        raise OpeningError("a sum is beyond the agreed payload; an upload was larger than its digits allow")


def opener_for(parameters: CKKSParameters, key: FederationKey | None) -> Opener:
    """Make the opener of a federation's sums; without a key, that of a federation which encrypts nothing."""
    return IdentityOpener(parameters) if key is None else CKKSOpener(key)
