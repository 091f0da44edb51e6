"""Ciphertexts: integers in coefficients under a shared key, the second polynomial from a seed (section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import OpeningError
from dictpfl.deploy.audit.cipher.ring import Constant, Ring, ring_prime, wire_prime
from dictpfl.deploy.audit.formats.streams import Words, uniform
from dictpfl.deploy.audit.formats.words import cut, widened

GUARDS = 4


@dataclass(frozen=True)
class Parameters:
    """Parameters of encryption.

    Attributes:
        degree: N.
        prime_bits: bits of q.
        scale_bits: S.
        payload_bits: V.
        word_bits: w.
        capacity: K.
        encrypted: False: words are the components themselves.
    """

    degree: int
    prime_bits: int
    scale_bits: int
    payload_bits: int
    word_bits: int
    capacity: int
    encrypted: bool = True

    @cached_property
    def q(self) -> int:
        """Modulus of the ring."""
        return ring_prime(self.degree, self.prime_bits)

    @cached_property
    def p(self) -> int:
        """Modulus of words."""
        return wire_prime(self.word_bits)

    @cached_property
    def ring(self) -> Ring:
        """Ring of the ciphertexts."""
        return Ring(self.degree, self.q)

    def words(self, components: int) -> int:
        """Number of words of ciphertexts with so many components."""
        return components + GUARDS * self.ciphertexts(components) if self.encrypted else components

    def ciphertexts(self, components: int) -> int:
        """Number of ciphertexts with so many components."""
        return -(-components // (self.degree - GUARDS))

    def parts(self, words: int) -> list[slice]:
        """Places of each ciphertext's words among `words`."""
        return [slice(at, min(at + self.degree, words)) for at in range(0, words, self.degree)]


@dataclass(frozen=True)
class Opened:
    """Content of words under the key.

    Attributes:
        components: integers, int64, guards left out.
        guards: integers of the guards, int64.
        rests: distance of every coefficient from its integer times 2^S, int64, guards included.
    """

    components: Ints
    guards: Ints
    rests: Ints


class Box:
    """Encryption and decryption with one key."""

    def __init__(self, parameters: Parameters, secret: Words) -> None:
        self.parameters = parameters
        self._secret = Constant(secret.astype(object), parameters.q)

    def masking(self, seeds: Sequence[bytes], count: int) -> Words:
        """Compute the coefficients of (sum of the a_j of all seeds) times s: uint64, shape (count, N)."""
        ring = self.parameters.ring
        total = np.zeros((count, ring.degree), dtype=np.uint64)
        for seed in seeds:
            total = ring.added(total, polynomials(seed, count, ring))
        return ring.coefficients(self._secret.times(total))

    def opened(self, words: Words, seeds: Sequence[bytes]) -> Opened:
        """Decrypt the words of an upload or a sum, tags left out.

        Raises:
            OpeningError: words that no number of components gives.
        """
        p, ring = self.parameters, self.parameters.ring
        parts = p.parts(words.size)
        if not parts or parts[-1].stop - parts[-1].start <= GUARDS:
            raise OpeningError(f"{words.size} words, whose last ciphertext has no component")
        flat = self.masking(seeds, len(parts)).reshape(-1)[: words.size]
        noisy = ring.centred(ring.added(widened(words.tolist(), p.q, p.p), flat))
        integers = (noisy + (1 << (p.scale_bits - 1))) >> p.scale_bits
        is_guard = guard_places(p, words.size)
        return Opened(integers[~is_guard], integers[is_guard], noisy - (integers << p.scale_bits))

    def exact(self, components: Ints, seed: bytes) -> list[int]:
        """Compute the coefficients of an upload whose errors are all zero, as residues modulo q."""
        p = self.parameters
        size = p.words(components.size)
        plain = np.zeros(size, dtype=np.int64)
        plain[~guard_places(p, size)] = components
        scaled = [(int(m) << p.scale_bits) % p.q for m in plain.tolist()]
        flat = self.masking([seed], p.ciphertexts(components.size)).reshape(-1)[:size]
        return [(m - int(x)) % p.q for m, x in zip(scaled, flat.tolist(), strict=True)]

    def sealed(self, components: Ints, seed: bytes, errors: Sequence[int]) -> Words:
        """Encrypt components with the given errors, one a word: uint64, shape (words,)."""
        p = self.parameters
        noisy = [x - int(e) for x, e in zip(self.exact(components, seed), errors, strict=True)]
        return cut([x % p.q for x in noisy], p.q, p.p)


def polynomials(seed: bytes, count: int, ring: Ring) -> Words:
    """Draw a_0 to a_(count - 1) in the transform domain: uint64, shape (count, N)."""
    return uniform(seed, count * ring.degree, ring.q).reshape(count, ring.degree)


def guard_places(parameters: Parameters, words: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Mask of the words that are guards, bool, shape (words,)."""
    mask = np.zeros(words, dtype=bool)
    for part in parameters.parts(words):
        mask[part.stop - GUARDS : part.stop] = True
    return mask


def plain_components(parameters: Parameters, words: Words) -> Ints:
    """Read the components of words that are not encrypted."""
    signed = words.astype(np.int64)
    return np.where(signed > parameters.p // 2, signed - parameters.p, signed)
