"""Li and Micciancio's passive attack (EUROCRYPT 2021) on our parameters, and what it finds in what `opening` returns.

A decrypted CKKS value is not the message but the message plus the noise e. Whoever sees a ciphertext (c0, c1) and m + e
solves c0 + c1 s = m + e for the key s: one division for each coefficient in the transform domain. Nothing is guessed and
nothing is secret: c0, c1, the prime and m + e are enough. Rounded integers carry no e, and the same arithmetic gives noise.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import pytest

from dictpfl.common.arrays import Ints
from dictpfl.common.ckks.adding import WordSum
from dictpfl.common.ckks.keys import FederationKey, make_key
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.polynomials import data_prime
from dictpfl.common.ckks.sealing import CKKSSealer
from dictpfl.common.ckks.streams import SumOfStreams
from dictpfl.common.errors import DictPFLError
from dictpfl.common.words import Words, to_coefficients
from tests.attacks.ring import as_seal_saves, divided, of_seals_words

BODY_AT = 26
"""SEAL's header (16 bytes) and zstd's (10): 60-bit residues do not compress, so that members follow as they are."""


@dataclass
class Total:
    """A sum, as everybody sees it."""

    words: Words
    seeds: list[bytes]
    parameters: CKKSParameters

    @classmethod
    def of(cls, key: FederationKey, *vectors: Ints) -> Total:
        sealer, adder = CKKSSealer(key), WordSum(key.parameters.word_prime)
        sealed = [sealer.seal(vector) for vector in vectors]
        for each in sealed:
            adder.add(adder.load(each.words))
        return cls(adder.total(), [each.seed for each in sealed], key.parameters)

    @property
    def first(self) -> Words:
        return to_coefficients(self.words, data_prime(self.parameters), self.parameters.word_prime)

    @property
    def streams(self) -> SumOfStreams:
        return SumOfStreams(data_prime(self.parameters), plus=self.seeds)

    def opened(self, key: FederationKey) -> Ints:
        return CKKSOpener(key).open(self.words, self.seeds, self.parameters.components)


def solve(total: Total, decrypted: Ints) -> bytes:
    """s = (m + e - c0) / c1, by a division of polynomials; as SEAL saves it."""
    c1 = of_seals_words(total.streams.take(total.parameters.ring_degree))
    s = divided((decrypted - total.first.astype(np.int64)) % data_prime(total.parameters), c1)
    return as_seal_saves(s).astype("<u8").tobytes()


def stolen(s: bytes, parameters: CKKSParameters) -> FederationKey:
    """A key made of nothing but what the attacker has: SEAL's framing, the public parameter id, and s."""
    degree = parameters.ring_degree
    array = struct.pack("<Q", degree) + s
    frame = struct.Struct("<HBBBBHQ")
    nested = frame.pack(0xA15E, 16, 4, 3, 0, 0, 16 + len(array)) + array
    parms_id = make_key(parameters).secret[BODY_AT : BODY_AT + 32]  # of a key of its own: the same for all
    body = parms_id + struct.pack("<Qd", degree, 1.0) + nested
    return FederationKey(parameters, bytes(16), frame.pack(0xA15E, 16, 4, 3, 0, 0, 16 + len(body)) + body)


def opens(s: bytes, total: Total, truth: Ints) -> bool:
    try:
        opened = total.opened(stolen(s, total.parameters))
    except DictPFLError:
        return False
    return bool((opened[: truth.size] == truth).all())


@pytest.fixture(scope="module")
def values(parameters: CKKSParameters) -> Ints:
    """A whole ciphertext of components of a few dozen bits, most of them used, the rest zero."""
    used = np.random.default_rng(0).integers(-(2**20), 2**20, 3_000)
    return np.concatenate([used, np.zeros(parameters.components - used.size, np.int64)])


@pytest.fixture(scope="module")
def other(parameters: CKKSParameters, key: FederationKey) -> Total:
    """Another sum under the same key, which the thief wants to read."""
    return Total.of(key, np.arange(parameters.components))


def test_what_is_not_rounded_gives_the_key_away(
    parameters: CKKSParameters, key: FederationKey, values: Ints, other: Total
) -> None:
    total = Total.of(key, values, -2 * values, values + 5)
    s = solve(total, next(CKKSOpener(key)._noisy(total.words, total.seeds, parameters.components)))
    assert s in key.secret
    assert opens(s, other, np.arange(parameters.components))


def test_what_opening_returns_does_not(
    parameters: CKKSParameters, key: FederationKey, values: Ints, other: Total
) -> None:
    for _ in range(3):
        total = Total.of(key, values, -values, 7 * values)
        opened = total.opened(key)
        assert opened.dtype == np.int64
        known = np.concatenate([opened, np.zeros(parameters.ring_degree - opened.size, np.int64)])
        s = solve(total, known << parameters.scale_bits)
        assert not any(s[at : at + 8] in key.secret for at in range(0, 800, 8))
        assert not opens(s, other, np.arange(parameters.components))
        assert not opens(s, total, values)


def test_nothing_but_integers_leaves_opening(key: FederationKey, parameters: CKKSParameters) -> None:
    """Its public names are an opener's: `open`, and the fingerprint."""
    opener = CKKSOpener(key)
    assert {name for name in dir(opener) if not name.startswith("_")} == {"open", "fingerprint"}
    assert Total.of(key, np.arange(parameters.components)).opened(key).dtype == np.int64
