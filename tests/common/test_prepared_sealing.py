"""Encryptions of zero made ahead, integers in their coefficients: each used once, none inherited."""

from __future__ import annotations

import os
from collections import deque
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.adding import ckks_adder
from common.errors import CorruptError, PackingError
from common.keys import FederationKey, make_key
from common.opening import CKKSOpener
from common.packing import Ints
from common.parameters import CKKSParameters
from common.polynomials import add_modulo, coefficients_at, data_prime, first_polynomial
from common.sealing import CKKSSealer, IdentitySealer
from common.settings import Encryption
from common.transform import Inverse, centred

PROFILES = [Encryption(), Encryption(profile="public_key", ring_degree=8192)]


@lru_cache
def key_of(profile: int) -> FederationKey:
    return make_key(CKKSParameters.choose(PROFILES[profile], 8))


def components(parameters: CKKSParameters, count: int, seed: int = 0) -> Ints:
    bound = 2 ** (parameters.payload_bits - 1) // parameters.capacity
    return np.random.default_rng(seed).integers(-bound, bound + 1, count)


def opened(key: FederationKey, items: list[bytes]) -> Ints:
    adder = ckks_adder(key.parameters)
    adder.add(adder.load(memoryview(b"".join(items)), len(items[0])))
    totals = adder.total()
    return CKKSOpener(key).open(memoryview(b"".join(totals)), len(totals[0]))


@pytest.mark.parametrize("profile", range(len(PROFILES)))
@pytest.mark.parametrize("prepared", [0, 1, 3, 7])
def test_what_is_sealed_opens_whether_prepared_or_not(profile: int, prepared: int) -> None:
    key = key_of(profile)
    sealer = CKKSSealer(key)
    values = components(key.parameters, 3 * key.parameters.components - 5)
    sealer.prepare(prepared)
    items = list(sealer.seal(values))
    assert sealer.prepared in (0, 1, prepared - 3, prepared - 2), "they are made in pairs"
    assert len({len(item) for item in items}) == 1
    assert np.array_equal(opened(key, items)[: values.size], values)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1), st.integers(0, 2**32 - 1), st.integers(0, 1500))
def test_sealing_adds_scaled_integers_and_nothing_else(profile: int, seed: int, unused: int) -> None:
    key = key_of(profile)
    count = key.parameters.components - unused
    parameters, sealer = key.parameters, CKKSSealer(key)
    sealer.prepare(1)
    zero = bytes(sealer._zeros[0])
    values = components(parameters, count, seed)
    (item,) = sealer.seal(values)
    words = [first_polynomial(one, parameters).astype(np.int64) for one in (item, zero)]
    added = (words[0] - words[1]) % data_prime(parameters)
    expected = np.zeros(parameters.ring_degree, np.int64)
    expected[:count] = (values << parameters.scale_bits) % data_prime(parameters)
    assert np.array_equal(added, expected)
    rest = first_polynomial(zero, parameters).nbytes + coefficients_at(zero, parameters)
    assert item[rest:] == zero[rest:]


@pytest.mark.parametrize("profile", range(len(PROFILES)))
def test_coefficients_are_those_of_which_seal_keeps_the_transform(profile: int) -> None:
    """One everywhere in the transform domain is the constant polynomial 1, and the transform is linear."""
    parameters = key_of(profile).parameters
    inverse, prime = Inverse(parameters), data_prime(parameters)
    words = np.random.default_rng(0).integers(0, prime, (inverse.width, parameters.ring_degree)).astype(np.uint64)
    expected = inverse(words).copy()
    for row in range(inverse.width):
        words[row] = (words[row] + np.uint64(1 + row)) % np.uint64(prime)
        expected[row, 0] = (expected[row, 0] + np.uint64(1 + row)) % np.uint64(prime)
    assert np.array_equal(inverse(words), expected)


@given(st.lists(st.tuples(st.integers(0, 2**60 - 2), st.integers(0, 2**60 - 2)), min_size=1, max_size=50))
def test_addition_is_modulo_the_prime(pairs: list[tuple[int, int]]) -> None:
    prime = data_prime(key_of(0).parameters)
    pairs = [(a % prime, b % prime) for a, b in [*pairs, (prime - 1, prime - 1), (prime - 1, 1), (0, 0)]]
    into = np.array([a for a, _ in pairs], dtype=np.uint64)
    add_modulo(into, np.array([b for _, b in pairs], dtype=np.uint64), prime)
    assert into.tolist() == [(a + b) % prime for a, b in pairs]


def test_no_two_items_share_randomness() -> None:
    key = key_of(0)
    sealer = CKKSSealer(key)
    sealer.prepare(60)
    zeros = [bytes(zero) for zero in sealer._zeros]
    items = list(sealer.seal(components(key.parameters, 120 * key.parameters.components)))
    assert len({item[-64:] for item in items}) == 120  # where a seeded item keeps its seed
    assert [item[-64:] for item in items[:60]] == [zero[-64:] for zero in zeros]


def test_an_item_from_a_reused_zero_would_show_the_difference() -> None:
    # Why each is used once, and why a forked process forgets them: no key is needed for this.
    key = key_of(0)
    parameters, prime = key.parameters, data_prime(key.parameters)
    sealer = CKKSSealer(key)
    sealer.prepare(1)
    sealer._zeros = deque([sealer._zeros[0], bytearray(sealer._zeros[0])])
    values = components(parameters, parameters.components)
    first, second = sealer.seal(np.concatenate([values, np.ones_like(values)]))
    a, b = first_polynomial(first, parameters), first_polynomial(second, parameters)
    difference = centred((a + np.uint64(prime) - b) % np.uint64(prime), prime)
    assert np.array_equal(difference[: values.size] >> parameters.scale_bits, values - 1)


def test_a_forked_process_forgets_what_its_parent_prepared() -> None:
    sealer = CKKSSealer(key_of(0))
    sealer.prepare(3)
    sealer._maker = os.getpid() + 1  # as a child finds it
    inherited = [bytes(zero) for zero in sealer._zeros]
    (item,) = sealer.seal(np.ones(1, dtype=np.int64))
    assert not {item[-64:], *(bytes(zero)[-64:] for zero in sealer._zeros)} & {zero[-64:] for zero in inherited}
    sealer._zeros.clear()
    sealer.prepare(2)
    assert sealer.prepared == 2


def test_a_refused_component_costs_nothing_that_was_prepared() -> None:
    sealer = CKKSSealer(key_of(0))
    sealer.prepare(2)
    with pytest.raises(PackingError, match="nothing was encrypted"):
        list(sealer.seal(np.array([2**60])))
    assert sealer.prepared == 2


def test_preparing_twice_keeps_what_is_there() -> None:
    sealer = CKKSSealer(key_of(0))
    sealer.prepare(2)
    first = [bytes(zero) for zero in sealer._zeros]
    sealer.prepare(4)
    assert [bytes(zero) for zero in sealer._zeros][:2] == first
    assert sealer.prepared == 4


def test_a_sealer_without_encryption_prepares_nothing() -> None:
    parameters = key_of(0).parameters
    sealer = IdentitySealer(parameters)
    sealer.prepare(5)
    assert b"".join(sealer.seal(np.array([7])))[:8] == (7).to_bytes(8, "little")


@pytest.mark.parametrize("damaged", [b"", bytes(40_000), b"\x5e\xa1\x10\x04\x03\x00\x00\x00" * 20])
def test_what_seal_did_not_save_holds_no_polynomial(damaged: bytes) -> None:
    with pytest.raises(CorruptError, match="no polynomial of 4096"):
        first_polynomial(damaged, key_of(0).parameters)
