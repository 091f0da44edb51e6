"""The grid against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.law.grid import SMALLEST_STEP, code_units, next_ranges, quantise, range_codes, step_exponents
from tests.support import oracle

LARGEST = st.integers(1, 2**43)


@settings(max_examples=300)
@given(st.floats(2.0**-150, 2.0**60), LARGEST)
def test_step_is_the_smallest_power_of_two_that_reaches(reach: float, largest: int) -> None:
    (e,) = step_exponents(np.array([reach]), largest).tolist()
    assert e == oracle.step_exponent(reach, largest)


@given(st.integers(-100, 40), LARGEST, st.integers(-1, 1))
def test_steps_at_the_edge_of_a_power_of_two(e: int, largest: int, ulps: int) -> None:
    edge = float(largest) * 2.0**e
    reach = float(np.nextafter(edge, np.inf * ulps)) if ulps else edge
    assert step_exponents(np.array([reach]), largest).tolist() == [oracle.step_exponent(reach, largest)]


def test_steps_never_shrink_below_the_floor() -> None:
    assert step_exponents(np.array([2.0**-1000, 2.0**-300]), 7).tolist() == [SMALLEST_STEP] * 2


@settings(max_examples=300)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.integers(-20, 10), st.integers(1, 2**30))
def test_quantise_equals_fractions_and_loses_nothing(values: list[float], e: int, largest: int) -> None:
    v, steps = np.array(values), np.full(len(values), 2.0**e)
    q, rest = quantise(v, steps, largest)
    for value, found, left in zip(values, q.tolist(), rest.tolist(), strict=True):
        truth, owed = oracle.quantised(value, Fraction(2) ** e, largest)
        assert found == truth
        assert Fraction(left) == owed
    assert (q * steps + rest == v).all()


def test_halves_go_to_even() -> None:
    q, _ = quantise(np.array([0.5, 1.5, 2.5, -0.5, -1.5]), np.ones(5), 10)
    assert q.tolist() == [0, 2, 2, 0, -2]


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 2)), max_size=12), st.integers(-8, 2), st.integers(1, 2**40)
)
def test_range_codes_equal_fractions(sent: list[tuple[float, int]], e: int, cap: int) -> None:
    sent.sort(key=lambda one: one[1])
    values, tensors = np.array([v for v, _ in sent]), np.array([t for _, t in sent], dtype=np.int32)
    found = range_codes(values, np.full(3, 2.0**e), tensors, cap)
    for t in range(3):
        codes = [-(-abs(Fraction(v)) // Fraction(2) ** e) for v, tensor in sent if tensor == t]
        assert found[t] == min(cap, max(codes, default=0))


def test_ranges_are_kept_where_nothing_was_sent() -> None:
    found = next_ranges(np.array([4.0, 3.0]), np.array([0.5, 0.25]), np.array([0, 32]), 2, 2.0)
    assert found.tolist() == [4.0, 0.25 * 2.0 * 32 / 2]


@pytest.mark.parametrize("largest", [7, 127, 341, 262_143, 2**40])
def test_a_range_is_one_to_two_thousand_units(largest: int) -> None:
    (unit,) = code_units(np.array([0.5]), largest)
    assert 1024 <= 0.5 * largest / unit < 2048
