"""Arithmetic in the ring, held to sums and products of Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dictpfl.deploy.audit.cipher.ring import Constant, Ring, is_prime, ring_prime, wire_prime

N = 16
Q = ring_prime(N, 60)
RING = Ring(N, Q)
residues = st.integers(0, Q - 1)


def array(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, dtype=np.uint64)


@given(st.lists(residues, min_size=N, max_size=N))
def test_transform_is_evaluation_at_odd_powers_of_the_root(coefficients: list[int]) -> None:
    values = RING.transformed(array(coefficients))
    for i in range(N):
        point = pow(RING.root, 2 * int(f"{i:04b}"[::-1], 2) + 1, Q)
        assert int(values[i]) == sum(c * pow(point, k, Q) for k, c in enumerate(coefficients)) % Q
    assert RING.coefficients(values).tolist() == coefficients


@given(*[st.lists(residues, min_size=N, max_size=N)] * 2)
def test_product_of_values_is_the_product_of_polynomials(one: list[int], two: list[int]) -> None:
    wanted = [0] * N
    for i, x in enumerate(one):
        for k, y in enumerate(two):
            sign = 1 if i + k < N else -1
            wanted[(i + k) % N] = (wanted[(i + k) % N] + sign * x * y) % Q
    factor = Constant(RING.transformed(array(two)).astype(object), Q)
    assert RING.coefficients(factor.times(RING.transformed(array(one)))).tolist() == wanted


@given(residues, residues)
def test_sums_and_products_are_reduced(x: int, y: int) -> None:
    assert int(RING.added(array([x]), array([y]))[0]) == (x + y) % Q
    assert int(RING.subtracted(array([x]), array([y]))[0]) == (x - y) % Q
    assert int(Constant(y, Q).times(array([x]))[0]) == x * y % Q


def test_root_is_the_smallest() -> None:
    assert pow(RING.root, N, Q) == Q - 1
    assert RING.root == min(pow(RING.root, k, Q) for k in range(1, 2 * N, 2))


def test_centred_residues_are_nearest_to_zero() -> None:
    assert RING.centred(array([0, 1, Q // 2, Q // 2 + 1, Q - 1])).tolist() == [0, 1, Q // 2, -(Q // 2), -1]


@pytest.mark.parametrize("n", [2, 3, 97, 65537, 2**31 - 1, 2**61 - 1, 2**54 - 33])
def test_primes_are_prime(n: int) -> None:
    assert is_prime(n)


@pytest.mark.parametrize("n", [0, 1, 4, 91, 561, 3215031751, (2**31 - 1) ** 2, 2**61 + 1])
def test_others_are_not(n: int) -> None:
    assert not is_prime(n)


def test_wire_prime_is_the_largest_below() -> None:
    assert wire_prime(8) == 251
    assert ring_prime(4, 10) == 1009
