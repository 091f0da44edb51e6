"""The capability to encrypt: components in, words out. Who can seal cannot open."""

from __future__ import annotations

import os
import secrets
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import tenseal.sealapi as seal

from dictpfl.common.arrays import Ints
from dictpfl.common.ckks.context import context
from dictpfl.common.ckks.keys import FederationKey, identity_fingerprint, load_secret
from dictpfl.common.ckks.parameters import GUARDS, CKKSParameters
from dictpfl.common.ckks.polynomials import Coefficients, SecondPolynomial, data_prime
from dictpfl.common.ckks.streams import SEED_BYTES, WordStream
from dictpfl.common.errors import PackingError
from dictpfl.common.words import Words, add_modulo, residues, to_words

NO_SEED = bytes(SEED_BYTES)
"""Seed of what nothing encrypts."""


@dataclass(frozen=True)
class Sealed:
    """Ciphertexts of one upload, or of a sum of uploads, as they travel.

    Attributes:
        words: used coefficients of first polynomials, uint64 below the word prime, shape (parameters.words(n),).
        seed: seed of the second polynomials, 32 bytes.
    """

    words: Words
    seed: bytes


class Sealer(Protocol):
    """Capability to encrypt components."""

    parameters: CKKSParameters
    fingerprint: bytes

    def seal(self, components: Ints) -> Sealed:
        """Encrypt int64 components, shape (n,), each within the payload.

        Raises:
            PackingError: a component beyond the payload; nothing is encrypted.
        """
        ...

    def prepare(self, ciphertexts: int) -> None:
        """Do the part of sealing that needs no components ahead; ciphertexts have the same distribution either way."""
        ...

    def words(self, components: int) -> int:
        """Number of words that so many components take."""
        ...


@dataclass
class _Zeros:
    """Encryptions of zero for one upload: first polynomials, and the seed of their second ones."""

    seed: bytes
    stream: WordStream
    first: deque[Words] = field(default_factory=deque)


class CKKSSealer:
    """Sealer by symmetric CKKS, with integers in coefficients: N - GUARDS a ciphertext (decisions 0001 and 0030).

    Nearly all of sealing is the encryption itself, which `prepare` can do ahead: encryptions of zero, to which `seal`
    adds the components. Each is used once and never leaves this process's memory before that: its difference from the
    upload made from it is the components.
    """

    def __init__(self, key: FederationKey) -> None:
        self.parameters = key.parameters
        self.fingerprint = key.fingerprint
        ctx, secret = context(key.parameters), load_secret(key)
        self._encryptor, self._decryptor = seal.Encryptor(ctx, secret), seal.Decryptor(ctx, secret)
        self._evaluator = seal.Evaluator(ctx)
        self._nothing = seal.Plaintext()
        seal.CKKSEncoder(ctx).encode(0.0, 2.0**key.parameters.scale_bits, self._nothing)
        self._second, self._coefficients = SecondPolynomial(key.parameters), Coefficients(key.parameters)
        self._fresh, self._plains = seal.Ciphertext(), (seal.Plaintext(), seal.Plaintext())
        self._prime = data_prime(key.parameters)
        self._zeros: _Zeros | None = None
        self._maker = os.getpid()

    def prepare(self, ciphertexts: int) -> None:
        """Have encryptions of zero at hand for the next upload: 0.6 ms and 33 kB each at N = 4096."""
        zeros = self._own_zeros()
        while (missing := ciphertexts - len(zeros.first)) > 0:
            zeros.first.extend(self._encrypted(zeros.stream, min(2, missing)))

    @property
    def prepared(self) -> int:
        """Number of encryptions of zero at hand."""
        return len(self._own_zeros().first)

    def words(self, components: int) -> int:
        """See `Sealer.words`."""
        return self.parameters.words(components)

    def seal(self, components: Ints) -> Sealed:
        """See `Sealer.seal`."""
        require_payload(components, self.parameters)
        zeros, self._zeros = self._own_zeros(), None  # taken out before use, so that none is used twice
        words, place = np.empty(self.parameters.words(components.size), dtype=np.uint64), 0
        for start in range(0, components.size, self.parameters.components):
            part = components[start : start + self.parameters.components]
            if not zeros.first:
                left = self.parameters.ciphertexts(components.size - start)
                zeros.first.extend(self._encrypted(zeros.stream, min(2, left)))
            first = zeros.first.popleft()[: part.size + GUARDS]
            add_modulo(first[: part.size], residues(part << self.parameters.scale_bits, self._prime), self._prime)
            # Into their place at once: a large upload is never in memory twice.
            words[place : place + first.size] = to_words(first, self._prime, self.parameters.word_prime)
            place += first.size
        return Sealed(words, zeros.seed)

    def _own_zeros(self) -> _Zeros:
        """Drop what a parent process prepared: used by both, the copies would show the difference of two uploads."""
        if self._zeros is None or self._maker != os.getpid():
            seed = secrets.token_bytes(SEED_BYTES)
            self._zeros, self._maker = _Zeros(seed, WordStream(seed, self._prime)), os.getpid()
        return self._zeros

    def _encrypted(self, stream: WordStream, count: int) -> list[Words]:
        """Encrypt zero once or twice, under the next second polynomials a of the stream: coefficients of -(a s + e).

        The error e is SEAL's own.

        SEAL chooses a second polynomial b of its own, and gives -(b s + e). Decrypting (0, a) - (-(b s + e), b) gives
        (b s + e) + (a - b) s = a s + e.
        """
        for plain in self._plains[:count]:
            self._encryptor.encrypt_symmetric(self._nothing, self._fresh)
            carried = self._second.load(stream.take(self.parameters.ring_degree))
            self._evaluator.sub_inplace(carried, self._fresh)
            self._decryptor.decrypt(carried, plain)
        prime = np.uint64(self._prime)
        return [
            np.where(positive == 0, positive, prime - positive)
            for positive in self._coefficients.of(*self._plains[:count])
        ]


class IdentitySealer:
    """Sealer without encryption: the same integers modulo the word prime, for exact comparison. Protects nobody."""

    def __init__(self, parameters: CKKSParameters) -> None:
        self.parameters = parameters
        self.fingerprint = identity_fingerprint(parameters)

    def seal(self, components: Ints) -> Sealed:
        """See `Sealer.seal`."""
        require_payload(components, self.parameters)
        return Sealed(residues(components, self.parameters.word_prime), NO_SEED)

    def prepare(self, ciphertexts: int) -> None:
        """Do nothing: there is nothing to do ahead."""

    def words(self, components: int) -> int:
        """See `Sealer.words`."""
        return components


def require_payload(components: Ints, parameters: CKKSParameters) -> None:
    """Refuse components so large that the sum of `capacity` uploads could leave the payload and wrap silently.

    Raises:
        PackingError: a component beyond the bound.
    """
    bound = 2 ** (parameters.payload_bits - 1) // parameters.capacity
    if components.size and (largest := max(int(components.max()), -int(components.min()))) > bound:
        raise PackingError(
            f"component {largest} is beyond {bound}, what {parameters.capacity} participants may add up to "
            f"{parameters.payload_bits} bits; nothing was encrypted"
        )
