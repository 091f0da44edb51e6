"""Exactness and refusals of sealing, adding and opening, with real ciphertexts."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.arrays import Ints
from dictpfl.common.ckks.adding import WordSum
from dictpfl.common.ckks.context import Scratch
from dictpfl.common.ckks.keys import FederationKey, make_key
from dictpfl.common.ckks.opening import CKKSOpener, IdentityOpener, Opener, opener_for
from dictpfl.common.ckks.parameters import GUARDS, CKKSParameters
from dictpfl.common.ckks.polynomials import _blank, data_prime
from dictpfl.common.ckks.sealing import NO_SEED, CKKSSealer, IdentitySealer, Sealed
from dictpfl.common.errors import GuardError, OpeningError
from dictpfl.common.protection import Encryption

RINGS = [Encryption(), Encryption(ring_degree=8192)]
NOISE_OR_GUARD = ("guard", "noise")


def extremes(parameters: CKKSParameters) -> Ints:
    """Components at the edge of what one participant may seal, of both signs, and some between."""
    bound = 2 ** (parameters.payload_bits - 1) // parameters.capacity
    values = np.random.default_rng(1).integers(-bound, bound + 1, parameters.components)
    values[:1000], values[1000:2000] = bound, -bound
    return values


def total(parameters: CKKSParameters, uploads: Iterable[Sealed]) -> tuple[np.ndarray, list[bytes]]:
    adder, seeds = WordSum(parameters.word_prime), []
    for upload in uploads:
        adder.add(adder.load(upload.words.copy()))
        seeds.append(upload.seed)
    return adder.total(), seeds


def opened(opener: Opener, parameters: CKKSParameters, uploads: Iterable[Sealed], size: int) -> Ints:
    words, seeds = total(parameters, uploads)
    return opener.open(words, seeds, size)


# Exactness


@pytest.mark.parametrize("capacity", [1, 2, 3, 8, 50, 1_000])
def test_sums_open_exactly(capacity: int) -> None:
    parameters = CKKSParameters.choose(Encryption(), capacity)
    key = make_key(parameters)
    sealer, values = CKKSSealer(key), extremes(parameters)
    uploads = min(capacity, 50)
    found = opened(CKKSOpener(key), parameters, (sealer.seal(values) for _ in range(uploads)), values.size)
    assert (found == uploads * values).all()


def thousand(parameters: CKKSParameters, key: FederationKey, shift: int) -> tuple[Ints, Ints]:
    """The opened sum of an agreed thousand uploads, and the true one; `shift` rotates each against the last."""
    sealer, values = CKKSSealer(key), extremes(parameters)
    uploads = (sealer.seal(np.roll(values, n * shift)) for n in range(1_000))
    found = opened(CKKSOpener(key), parameters, uploads, values.size)
    return found, sum((np.roll(values, n * shift) for n in range(1_000)), np.zeros_like(values))


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_a_thousand_uploads_open_exactly(bits: int) -> None:
    parameters = CKKSParameters.choose(Encryption(), 1_000, bits)
    found, truth = thousand(parameters, make_key(parameters), 1)
    assert (found == truth).all()


def test_a_thousand_equal_uploads_open_exactly() -> None:
    parameters = CKKSParameters.choose(Encryption(), 1_000)
    found, truth = thousand(parameters, make_key(parameters), 0)
    assert (found == truth).all()


@pytest.mark.parametrize("capacity", [3, 8, 50])
def test_sums_in_the_larger_ring_open_exactly(capacity: int) -> None:
    parameters = CKKSParameters.choose(RINGS[1], capacity)
    key = make_key(parameters)
    sealer, opener, values = CKKSSealer(key), CKKSOpener(key), extremes(parameters)
    for _ in range(5):
        found = opened(opener, parameters, (sealer.seal(values) for _ in range(capacity)), values.size)
        assert (found == capacity * values).all()


@pytest.mark.parametrize("ring", range(len(RINGS)))
def test_noise_keeps_its_margin(ring: int) -> None:
    """No value of 20 sums strays beyond five sixths of the tolerance; the bound has 8.5 deviations in all of it."""
    key = make_key(CKKSParameters.choose(RINGS[ring], 3))
    p, sealer = key.parameters, CKKSSealer(key)
    zeros = np.zeros(p.components, np.int64)
    for _ in range(20):
        words, seeds = total(p, (sealer.seal(zeros) for _ in range(3)))
        (noise,) = CKKSOpener(key)._noisy(words, seeds, zeros.size)
        assert np.abs(noise).max() < 2**p.scale_bits / 4 * 5 / 6


def test_order_of_adding_does_not_matter(parameters: CKKSParameters, key: FederationKey) -> None:
    opener, rng = CKKSOpener(key), np.random.default_rng(0)
    for sealer, one in ((CKKSSealer(key), opener), (IdentitySealer(parameters), IdentityOpener(parameters))):
        uploads = [sealer.seal(rng.integers(-(2**40), 2**40, 5_000)) for _ in range(3)]
        sums = [total(parameters, order) for order in itertools.permutations(uploads)]
        assert len({words.tobytes() for words, _ in sums}) == 1
        assert len({one.open(words, seeds, 5_000).tobytes() for words, seeds in sums}) == 1


_PARAMETERS = CKKSParameters.choose(Encryption(), 3)
SHARED = (_PARAMETERS, make_key(_PARAMETERS))


@settings(max_examples=15)
@given(st.integers(1, 3), st.integers(1, 9_000), st.integers(0, 2**32))
def test_ckks_opens_to_what_identity_opens_to(uploads: int, size: int, seed: int) -> None:
    parameters, key = SHARED
    rng, bound = np.random.default_rng(seed), 2 ** (parameters.payload_bits - 1) // 3
    vectors = [rng.integers(-bound, bound + 1, size) for _ in range(uploads)]
    encrypted, plain = CKKSSealer(key), IdentitySealer(parameters)
    assert encrypted.seal(vectors[0]).words.size == size + GUARDS * parameters.ciphertexts(size)
    found = opened(CKKSOpener(key), parameters, [encrypted.seal(vector) for vector in vectors], size)
    same = opened(IdentityOpener(parameters), parameters, [plain.seal(vector) for vector in vectors], size)
    assert found.tolist() == same.tolist() == sum(vectors).tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_number_of_ciphertexts_opens(key: FederationKey, parameters: CKKSParameters, count: int) -> None:
    """They are transformed two at a time; the last one is as short as what it holds."""
    sealer, opener = CKKSSealer(key), CKKSOpener(key)
    for size in ((count - 1) * parameters.components + 1, count * parameters.components):
        vectors = [np.random.default_rng(n).integers(-(2**40), 2**40, size) for n in range(3)]
        assert np.array_equal(opened(opener, parameters, map(sealer.seal, vectors), size), sum(vectors))


def test_a_large_sum_after_a_small_one_and_back(key: FederationKey, parameters: CKKSParameters) -> None:
    """The opener keeps its drawing board between sums: nothing of one gets into the next."""
    sealer, opener = CKKSSealer(key), CKKSOpener(key)
    vectors = [np.random.default_rng(n).integers(-(2**40), 2**40, 5_000) for n in range(3)]
    uploads = [sealer.seal(vector) for vector in vectors]
    for count in (3, 1, 2, 3, 1):
        assert np.array_equal(opened(opener, parameters, uploads[:count], 5_000), sum(vectors[:count]))


# Refusals


@pytest.mark.parametrize("times", [2, 3, 5, 6])
def test_sums_beyond_the_capacity_are_refused(key: FederationKey, parameters: CKKSParameters, times: int) -> None:
    """Everybody at the extreme and more of them than agreed, up to six times: no wrap, and past the payload."""
    upload = CKKSSealer(key).seal(extremes(parameters))
    with pytest.raises(OpeningError):
        opened(CKKSOpener(key), parameters, [upload] * (times * parameters.capacity), parameters.components)


def test_far_too_many_uploads_are_refused(key: FederationKey, parameters: CKKSParameters) -> None:
    upload = CKKSSealer(key).seal(extremes(parameters))
    for uploads in (64, 200, 1_000):
        with pytest.raises(OpeningError):
            opened(CKKSOpener(key), parameters, [upload] * uploads, parameters.components)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_sum_of_more_than_the_capacity_is_refused_before_it_wraps(
    key: FederationKey, parameters: CKKSParameters, sign: int
) -> None:
    """A coefficient wraps at twice the payload, to what may be true again; the payload refuses from the first on.

    Guards would see nothing. (How many were added, tags, ledger and list tell: dictpfl.common.law.)
    """
    most = 2 ** (parameters.payload_bits - 1) // parameters.capacity
    values, capacity = np.full(parameters.components, sign * most), parameters.capacity
    for sealer, opener in (
        (CKKSSealer(key), CKKSOpener(key)),
        (IdentitySealer(parameters), IdentityOpener(parameters)),
    ):
        for uploads in range(capacity + 1, 2 * capacity):
            with pytest.raises(OpeningError, match="beyond the agreed payload", check=lambda e: e.code == "opening"):
                opened(opener, parameters, (sealer.seal(values) for _ in range(uploads)), values.size)


def test_noise_beyond_a_quarter_is_refused(key: FederationKey, parameters: CKKSParameters) -> None:
    # The very same noise forty times over grows forty-fold, not by a square root.
    upload = CKKSSealer(key).seal(np.zeros(parameters.components, np.int64))
    with pytest.raises(OpeningError, check=lambda e: e.code in NOISE_OR_GUARD):
        opened(CKKSOpener(key), parameters, [upload] * 40, parameters.components)


def moved(parameters: CKKSParameters, upload: Sealed, place: int, units: float) -> Sealed:
    """An upload with one word further by so many units of a component."""
    words, prime = upload.words.copy(), parameters.word_prime
    step = round(units * 2**parameters.scale_bits * prime / data_prime(parameters))
    words[place] = (int(words[place]) + step) % prime
    return replace(upload, words=words)


@pytest.mark.parametrize("units", [0.5, 0.45, -0.45, 0.27, -0.27])
def test_a_word_between_two_integers_is_noise(key: FederationKey, parameters: CKKSParameters, units: float) -> None:
    upload = CKKSSealer(key).seal(np.arange(5_000))
    for place in (0, 17, 4_999):
        with pytest.raises(OpeningError, check=lambda e: e.code == "noise"):
            opened(CKKSOpener(key), parameters, [moved(parameters, upload, place, units)], 5_000)


@pytest.mark.parametrize("units", [0.23, -0.23])
def test_a_word_within_a_quarter_of_an_integer_is_that_integer(
    key: FederationKey, parameters: CKKSParameters, units: float
) -> None:
    """Parameters are chosen for this tolerance: with less of it, honest sums would be void now and then."""
    upload, values = moved(parameters, CKKSSealer(key).seal(np.arange(5_000)), 17, units), np.arange(5_000)
    assert np.array_equal(opened(CKKSOpener(key), parameters, [upload], values.size), values)


def test_a_word_moved_by_whole_units_opens_to_another_value(key: FederationKey, parameters: CKKSParameters) -> None:
    """Ciphertexts can be bent, as all that adds up can: it is tags that refuse this, before anything is opened."""
    upload = moved(parameters, CKKSSealer(key).seal(np.zeros(10, np.int64)), 3, 5)
    assert opened(CKKSOpener(key), parameters, [upload], 10).tolist() == [0, 0, 0, 5, 0, 0, 0, 0, 0, 0]


def test_each_guard_of_each_ciphertext_is_checked(key: FederationKey, parameters: CKKSParameters) -> None:
    size = 2 * parameters.components + 10
    upload = CKKSSealer(key).seal(np.arange(size))
    ends = (4_096, 8_192, upload.words.size)
    for place in (end - guard for end in ends for guard in range(1, GUARDS + 1)):
        with pytest.raises(GuardError):
            opened(CKKSOpener(key), parameters, [moved(parameters, upload, place, 1)], size)


def test_a_foreign_key_is_noticed(key: FederationKey, parameters: CKKSParameters) -> None:
    upload = CKKSSealer(key).seal(np.arange(10))
    for _ in range(5):
        with pytest.raises(GuardError, match="another key"):
            opened(CKKSOpener(make_key(parameters)), parameters, [upload], 10)


def test_seeds_of_other_uploads_are_noticed(key: FederationKey, parameters: CKKSParameters) -> None:
    """One missing, one too many, one in place of another, or one flipped bit: all coefficients are then arbitrary."""
    sealer = CKKSSealer(key)
    words, seeds = total(parameters, [sealer.seal(np.arange(100)) for _ in range(3)])
    flipped = bytes([seeds[0][0] ^ 1]) + seeds[0][1:]
    wrong: list[Sequence[bytes]] = [
        seeds[:2],
        [*seeds, seeds[0]],
        [seeds[0], seeds[0], seeds[2]],
        [flipped, *seeds[1:]],
    ]
    for given_seeds in wrong:
        with pytest.raises(OpeningError, check=lambda e: e.code in NOISE_OR_GUARD):
            CKKSOpener(key).open(words, given_seeds, 100)
    for order in itertools.permutations(seeds):
        assert CKKSOpener(key).open(words, order, 100).tolist() == [3 * n for n in range(100)]


@settings(max_examples=40)
@given(st.data())
def test_whatever_words_arrive_are_refused_by_name(data: st.DataObject) -> None:
    """No word can harm who opens, for SEAL reads none of them: it multiplies what was drawn from a seed."""
    parameters, key = SHARED
    size = data.draw(st.integers(1, 4_100))
    count, prime = parameters.words(size), parameters.word_prime
    kind = data.draw(st.sampled_from(["zeros", "ones", "most", "random"]))
    words = {
        "zeros": np.zeros(count, np.uint64),
        "ones": np.ones(count, np.uint64),
        "most": np.full(count, prime - 1, np.uint64),
        "random": np.random.default_rng(size).integers(0, prime, count, dtype=np.uint64),
    }[kind]
    seeds = data.draw(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=3))
    with pytest.raises(OpeningError, check=lambda e: e.code in NOISE_OR_GUARD):
        CKKSOpener(key).open(words, seeds, size)


# Without encryption


def test_integers_beyond_the_payload_are_refused_in_clear(parameters: CKKSParameters) -> None:
    bound = 2 ** (parameters.payload_bits - 1)
    opener, prime = IdentityOpener(parameters), parameters.word_prime
    assert opener.open(np.array([bound, prime - bound], np.uint64), [NO_SEED], 2).tolist() == [bound, -bound]
    for bad in (bound + 1, prime - bound - 1, prime // 2):
        with pytest.raises(OpeningError, match="beyond"):
            opener.open(np.array([bad], np.uint64), [NO_SEED], 1)


def test_the_opener_of_a_federation_follows_from_its_key(key: FederationKey, parameters: CKKSParameters) -> None:
    assert isinstance(opener_for(parameters, key), CKKSOpener)
    assert isinstance(opener_for(parameters, None), IdentityOpener)
    assert opener_for(parameters, key).fingerprint == CKKSSealer(key).fingerprint == key.fingerprint
    assert opener_for(parameters, None).fingerprint == IdentitySealer(parameters).fingerprint != key.fingerprint


def test_scratch_leaves_nothing_behind() -> None:
    scratch = Scratch()
    before = {entry.name for entry in Path("/proc/self/fd").iterdir()}
    scratch.fill(seal.Ciphertext(), SHARED[0], _blank(SHARED[0]).data)
    scratch.wipe()
    assert os.fstat(scratch._fd).st_size == 0
    assert {entry.name for entry in Path("/proc/self/fd").iterdir()} <= before
