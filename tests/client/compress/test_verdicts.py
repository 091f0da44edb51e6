"""Verdicts are those of Student's interval over paired seeds, and nothing is said of figures that are missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dictpfl.client.compress.verdicts import BETTER, LEVEL, WORSE, compared, interval, student
from dictpfl.common.errors import ConfigError

FIGURES = st.lists(st.floats(-100, 100), min_size=2, max_size=20)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 10, 39, 200])
def test_the_quantile_is_scipys(freedom: int) -> None:
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-9)


@given(FIGURES)
def test_the_interval_is_scipys(values: list[float]) -> None:
    found, spread = interval(values), stats.sem(values)
    assert found.mean == pytest.approx(np.mean(values))
    half = stats.t.ppf(0.975, len(values) - 1) * spread
    assert found.high - found.low == pytest.approx(2 * half, abs=1e-6)


def test_pairs_show_what_means_do_not() -> None:
    base = [50.0, 70.0, 90.0, 60.0]
    arm = [one + shift for one, shift in zip(base, (1.0, 1.1, 0.9, 1.0), strict=True)]
    assert compared(arm, base).verdict == BETTER
    assert compared(arm, base, higher=False).verdict == WORSE
    assert compared(arm, base[::-1]).verdict == LEVEL


def test_an_interval_that_touches_zero_shows_nothing() -> None:
    assert compared([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]).verdict == LEVEL
    assert interval([5.0]).verdict == LEVEL  # one seed shows nothing, however large


def test_missing_figures_are_refused() -> None:
    with pytest.raises(ConfigError, match="same seeds"):
        compared([1.0, 2.0], [1.0])
    for values in ([], [1.0, math.nan]):
        with pytest.raises(ConfigError, match="finite"):
            interval(values)
