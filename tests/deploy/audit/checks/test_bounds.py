"""Bounds of statistics hold for what they are said to hold for, and no wider than need be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dictpfl.deploy.audit.checks.bounds import RATE, chi_square, counted, deviations, tail, uniformity
from dictpfl.deploy.audit.checks.check import FAILED, OK, UNTOLD, Check


def test_deviations_are_those_of_the_normal_law() -> None:
    assert math.erfc(deviations() / math.sqrt(2)) == pytest.approx(RATE, rel=1e-6)
    assert deviations(100) > deviations()


@pytest.mark.parametrize("mean", [0.5, 22.0, 100.0, 500.0])
def test_counts_beyond_the_bounds_are_rare(mean: float) -> None:
    low, high = counted(mean)
    mass = [math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(2000)]
    assert sum(mass[: int(low)]) <= RATE / 2
    assert sum(mass[int(high) + 1 :]) <= RATE / 2
    assert low == 0 or sum(mass[: int(low) + 1]) > RATE / 2


def test_bounds_of_large_counts_go_on_where_those_of_small_ones_end() -> None:
    (low, high), (lower, higher) = counted(599), counted(601)
    assert lower <= low + 2
    assert higher >= high - 2


@pytest.mark.parametrize("freedom", [2, 8, 255])
def test_bounds_of_chi_square_hold(freedom: int) -> None:
    from scipy.stats import chi2

    low, high = chi_square(freedom)
    assert chi2.cdf(low, freedom) + chi2.sf(high, freedom) <= RATE
    assert chi2.sf(high / 2, freedom) > RATE


def test_uniform_counts_have_no_distance() -> None:
    assert uniformity(np.array([5, 5, 5])) == 0
    assert uniformity(np.array([15, 0, 0])) == 30


def test_tail_is_that_of_a_centred_binomial() -> None:
    chances = tail(21)
    drawn = np.random.default_rng(1).integers(0, 2, (2, 200_000, 21)).sum(axis=2)
    away = drawn[0] - drawn[1]
    for t in (1, 3, 8):
        assert (away >= t).mean() == pytest.approx(chances[t], abs=0.004)
    assert chances[22] == 0


def test_verdicts() -> None:
    assert Check.every("a", 3, []).verdict == OK
    assert Check.every("a", 0, []).verdict == UNTOLD
    assert Check.every("a", 3, ["x", "y"]).verdict == FAILED
    assert Check.every("a", 3, ["x", "y"]).detail == "2 wrong; first: x"
    assert [Check.within("a", 1, v, (0, 1), RATE).verdict for v in (-1, 0, 0.5, 1, 2)] == [FAILED, OK, OK, OK, FAILED]
