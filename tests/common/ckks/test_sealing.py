"""Sealing: fresh errors of the stated law, one seed an upload, encryptions of zero made ahead, each used once, none inherited."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import deque
from functools import lru_cache

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.arrays import Ints
from dictpfl.common.ckks.context import context
from dictpfl.common.ckks.keys import FederationKey, load_secret, make_key
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.ckks.parameters import FRESH_VARIANCE, GUARDS, CKKSParameters
from dictpfl.common.ckks.polynomials import Coefficients, SecondPolynomial, data_prime
from dictpfl.common.ckks.sealing import NO_SEED, CKKSSealer, IdentitySealer, _Zeros
from dictpfl.common.ckks.streams import SEED_BYTES, WordStream
from dictpfl.common.errors import PackingError
from dictpfl.common.protection import Encryption
from dictpfl.common.words import Words, add_modulo, centred

RINGS = [Encryption(), Encryption(ring_degree=8192)]
BOTH = pytest.mark.parametrize("ring", range(len(RINGS)))
RARE = 6.2
"""Standard deviations of a normal variable that it is beyond with a probability below 1e-9."""


@lru_cache
def key_of(ring: int) -> FederationKey:
    return make_key(CKKSParameters.choose(RINGS[ring], 8))


def components(parameters: CKKSParameters, count: int, seed: int = 0) -> Ints:
    bound = 2 ** (parameters.payload_bits - 1) // parameters.capacity
    return np.random.default_rng(seed).integers(-bound, bound + 1, count)


def held(sealer: CKKSSealer) -> _Zeros:
    """The encryptions of zero at hand, copied: sealing writes into them."""
    zeros = sealer._own_zeros()
    return _Zeros(zeros.seed, zeros.stream, deque(words.copy() for words in zeros.first))


# The encryption itself


def errors(key: FederationKey, zeros: _Zeros) -> Ints:
    """Errors of encryptions of zero, with the key: c0 + a s = -e, where nothing is rounded, shape (n, N)."""
    prime, degree = data_prime(key.parameters), key.parameters.ring_degree
    decryptor, plain, stream = (
        seal.Decryptor(context(key.parameters), load_secret(key)),
        seal.Plaintext(),
        WordStream(zeros.seed, prime),
    )
    second, coefficients, found = SecondPolynomial(key.parameters), Coefficients(key.parameters), []
    for first in zeros.first:
        decryptor.decrypt(second.load(stream.take(degree)), plain)
        (product,) = coefficients.of(plain)
        words: Words = product.copy()
        add_modulo(words, first, prime)
        found.append(-centred(words, prime))
    return np.array(found)


@BOTH
def test_errors_have_the_law_that_the_bound_on_noise_reckons_with(ring: int) -> None:
    """SEAL's centred binomial of 42 coins: mean 0, variance 10.5, at most 21, and each value as often as it should be."""
    key = key_of(ring)
    sealer = CKKSSealer(key)
    sealer.prepare(60)
    e = errors(key, held(sealer)).ravel()
    count = e.size
    assert np.abs(e).max() <= 21
    assert abs(e.mean()) < RARE * math.sqrt(FRESH_VARIANCE / count)
    assert abs(e.var() / FRESH_VARIANCE - 1) < RARE * math.sqrt((2 - 2 / 42) / count)
    for value in range(-10, 11):
        expected = count * math.comb(42, 21 + value) / 2**42
        assert abs((e == value).sum() - expected) < RARE * math.sqrt(expected), value


@BOTH
def test_errors_are_fresh_in_every_ciphertext_and_coefficient(ring: int) -> None:
    """Neither repeated nor linked: correlations of one with another, with its neighbour, and between two uploads."""
    key = key_of(ring)
    sealer = CKKSSealer(key)
    sealer.prepare(20)
    one = errors(key, held(sealer))
    sealer._zeros = None
    sealer.prepare(20)
    other = errors(key, held(sealer))
    limit = RARE * FRESH_VARIANCE
    for a, b in ((one, other), (one[1:], one[:-1]), (one[:, 1:], one[:, :-1]), (one, one[::-1, ::-1])):
        assert abs((a * b).mean()) < limit * 1.5 / math.sqrt(a.size)
    assert len({row.tobytes() for row in (*one, *other)}) == 40


@BOTH
@pytest.mark.parametrize("prepared", [0, 1, 2, 3, 7])
def test_what_is_sealed_opens_whether_prepared_or_not(ring: int, prepared: int) -> None:
    key = key_of(ring)
    sealer = CKKSSealer(key)
    values = components(key.parameters, 3 * key.parameters.components - 5)
    sealer.prepare(prepared)
    assert sealer.prepared == prepared
    sealed = sealer.seal(values)
    assert sealer.prepared == 0, "what is left has the upload's seed, and goes with it"
    assert sealed.words.size == sealer.words(values.size) == values.size + 3 * GUARDS
    assert sealed.words.max() < key.parameters.word_prime
    assert np.array_equal(CKKSOpener(key).open(sealed.words, [sealed.seed], values.size), values)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1), st.integers(0, 2**32 - 1), st.integers(0, 1500), st.integers(1, 2))
def test_sealing_adds_scaled_integers_and_nothing_else(ring: int, seed: int, unused: int, ciphertexts: int) -> None:
    key = key_of(ring)
    parameters, sealer = key.parameters, CKKSSealer(key)
    prime, wire, whole = data_prime(parameters), parameters.word_prime, parameters.components
    count = ciphertexts * whole - unused
    sealer.prepare(ciphertexts)
    zeros, values = held(sealer), components(parameters, count, seed)
    sealed = sealer.seal(values)
    expected: list[int] = []
    for n, zero in enumerate(zeros.first):
        part = [*(values[n * whole : (n + 1) * whole] << parameters.scale_bits).tolist(), *[0] * GUARDS]
        expected += [(known + added) % prime for known, added in zip(zero.tolist(), part, strict=False)]
    assert sealed.words.tolist() == [(2 * x * wire + prime) // (2 * prime) % wire for x in expected]
    assert sealed.seed == zeros.seed


def test_words_look_random_whatever_is_sealed() -> None:
    """Of zeros and of the largest components alike: high and low six bits, each value as often as any other."""
    key = key_of(0)
    p, sealer = key.parameters, CKKSSealer(key)
    most = 2 ** (p.payload_bits - 1) // p.capacity
    for value in (0, most, -most):
        words = sealer.seal(np.full(16 * p.components, value)).words
        for part in (words >> np.uint64(p.word_bits - 6), words & np.uint64(63)):
            counts = np.bincount(part.astype(np.int64), minlength=64)
            expected = words.size / 64
            assert float(((counts - expected) ** 2 / expected).sum()) < 63 + 8 * math.sqrt(2 * 63)


# Seeds, and what is prepared


def test_no_two_uploads_share_randomness() -> None:
    key = key_of(0)
    sealer, uploads, errors_seen, firsts = CKKSSealer(key), [], set(), set()
    for n in range(40):
        sealer.prepare(n % 4)
        zeros = held(sealer)
        errors_seen |= {row.tobytes() for row in errors(key, zeros)}
        firsts |= {words.tobytes() for words in zeros.first}
        uploads.append(sealer.seal(components(key.parameters, 2 * key.parameters.components)))
    assert len({upload.seed for upload in uploads}) == 40
    assert {len(upload.seed) for upload in uploads} == {SEED_BYTES}
    assert len(errors_seen) == len(firsts) == 60
    assert NO_SEED not in {upload.seed for upload in uploads}


def test_two_sealers_of_one_key_have_different_seeds() -> None:
    seeds = {CKKSSealer(key_of(0)).seal(np.ones(1, np.int64)).seed for _ in range(10)}
    assert len(seeds) == 10


def test_an_upload_from_a_reused_zero_would_show_the_difference() -> None:
    # Why each is used once, and why a forked process forgets them: no key is needed for this.
    key = key_of(0)
    parameters, prime = key.parameters, key.parameters.word_prime
    sealer = CKKSSealer(key)
    sealer.prepare(1)
    again, values = held(sealer), components(parameters, parameters.components)
    first = sealer.seal(values)
    sealer._zeros = again
    second = sealer.seal(np.ones_like(values))
    assert first.seed == second.seed
    difference = centred((first.words + np.uint64(prime) - second.words) % np.uint64(prime), prime)
    step = data_prime(parameters) / prime / 2**parameters.scale_bits
    assert np.array_equal(np.rint(difference[: values.size] * step).astype(np.int64), values - 1)


def test_what_was_prepared_is_used_once() -> None:
    sealer = CKKSSealer(key_of(0))
    sealer.prepare(5)
    prepared = held(sealer)
    uploads = [sealer.seal(components(key_of(0).parameters, 100)) for _ in range(5)]
    assert [upload.seed == prepared.seed for upload in uploads] == [True, False, False, False, False]
    assert len({upload.seed for upload in uploads}) == 5
    assert sealer.prepared == 0


def test_a_forked_process_forgets_what_its_parent_prepared() -> None:
    sealer = CKKSSealer(key_of(0))
    sealer.prepare(3)
    sealer._maker = os.getpid() + 1  # as a child finds it
    inherited = sealer._zeros
    assert inherited is not None
    sealed = sealer.seal(np.ones(1, dtype=np.int64))
    assert sealed.seed != inherited.seed
    assert len(inherited.first) == 3, "untouched"
    sealer.prepare(2)
    assert sealer.prepared == 2
    assert held(sealer).seed not in (sealed.seed, inherited.seed)


FORKED = """
import os
import numpy as np
from dictpfl.common.ckks.keys import make_key
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.sealing import CKKSSealer
from dictpfl.common.protection import Encryption
sealer = CKKSSealer(make_key(CKKSParameters.choose(Encryption(), 3)))
sealer.prepare(2)
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
print(sealer.seal(np.ones(5000, np.int64)).seed.hex(), flush=True)
"""


def test_a_real_fork_seals_under_another_seed() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], check=True, capture_output=True, text=True)
    seeds = done.stdout.split()
    assert len(seeds) == len(set(seeds)) == 2


def test_a_refused_component_costs_nothing_that_was_prepared() -> None:
    sealer = CKKSSealer(key_of(0))
    sealer.prepare(2)
    before = held(sealer)
    with pytest.raises(PackingError, match="nothing was encrypted"):
        sealer.seal(np.array([2**60]))
    assert sealer.prepared == 2
    assert held(sealer).seed == before.seed


def test_preparing_twice_keeps_what_is_there() -> None:
    sealer = CKKSSealer(key_of(0))
    sealer.prepare(3)
    first = [words.tobytes() for words in held(sealer).first]
    sealer.prepare(4)
    sealer.prepare(1)
    assert [words.tobytes() for words in held(sealer).first][:3] == first
    assert sealer.prepared == 4


def test_what_could_wrap_is_refused_before_encryption() -> None:
    parameters = key_of(0).parameters
    bound = 2 ** (parameters.payload_bits - 1) // parameters.capacity
    for sealer in (CKKSSealer(key_of(0)), IdentitySealer(parameters)):
        for value in (bound + 1, -bound - 1, np.iinfo(np.int64).min):
            with pytest.raises(PackingError, match="nothing was encrypted"):
                sealer.seal(np.array([0, value]))
        assert sealer.seal(np.array([bound, -bound])).words.size == sealer.words(2)


def test_who_seals_two_times_sends_other_words_as_many() -> None:
    sealer = CKKSSealer(key_of(0))
    sealed = [sealer.seal(np.full(4_000, n)) for n in (0, 0, 1)]
    assert len({one.words.tobytes() for one in sealed}) == 3
    assert {one.words.size for one in sealed} == {4_000 + GUARDS}


# Without encryption


def test_a_sealer_without_encryption_prepares_nothing() -> None:
    parameters = key_of(0).parameters
    sealer = IdentitySealer(parameters)
    sealer.prepare(5)
    sealed = sealer.seal(np.array([7, -7, 0]))
    assert sealed.words.tolist() == [7, parameters.word_prime - 7, 0]
    assert sealed.seed == NO_SEED == bytes(32)
    assert sealer.words(3) == 3
