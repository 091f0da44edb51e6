"""Intervals of means and of AUC cover as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from dictpfl.deploy.attacks.intervals import auc_interval, auc_method, gain_interval, mean_interval
from dictpfl.deploy.attacks.published.membership import _finding


def test_auc_is_the_share_of_right_pairs() -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(0.5, 1, 60).round(1), random.normal(0, 1, 40).round(1)
    pairs = (x[:, None] > y).mean() + 0.5 * (x[:, None] == y).mean()
    assert auc_interval(x, y).value == pytest.approx(pairs)


def test_delongs_interval_covers_as_often_as_it_says() -> None:
    """Scores without any information: the interval misses 0.5 about one time in twenty; and agrees with the bootstrap."""
    random = np.random.default_rng(2)
    missed = 0
    for _ in range(400):
        found = auc_interval(random.normal(size=50), random.normal(size=50))
        missed += not found.low <= 0.5 <= found.high
    assert 6 <= missed <= 36
    x, y = random.normal(0.6, 1, 80), random.normal(0, 1, 80)
    draws = [
        auc_interval(random.choice(x, 80), random.choice(y, 80)).value for _ in range(400)
    ]  # fmt: skip
    low, high = np.quantile(draws, [0.025, 0.975])
    found = auc_interval(x, y)
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)


def test_the_interval_of_one_member_covers_as_often_as_it_says() -> None:
    """Its rank alone is known: by chance any, so that half of all ranks are above the middle, and tell nothing."""
    random = np.random.default_rng(3)
    ones = [auc_interval(random.normal(size=1), random.normal(size=200)) for _ in range(400)]
    assert 6 <= sum(not found.low <= 0.5 <= found.high for found in ones) <= 36
    assert auc_interval([1.0], np.zeros(200)).low > 0.5, "nearer than all others is a finding"


def test_an_interval_of_means_holds_the_mean() -> None:
    found = mean_interval([0.1, 0.2, 0.9])
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(0.4)
    covered = 0
    for seed in range(400):
        few = np.random.default_rng(seed).normal(0.2, 1, 5)
        covered += mean_interval(few).low <= 0.2 <= mean_interval(few).high
    assert 0.92 <= covered / 400 <= 0.98
    once = mean_interval([0.7])
    assert once.low == once.value == once.high


def test_a_gain_is_paired() -> None:
    """Trials differ much from each other, the attack adds a little to each: a paired interval sees it."""
    blind = np.linspace(0, 1, 12)
    assert gain_interval(blind + 0.05, blind).low > 0
    assert gain_interval(blind, blind).low == 0


def test_groups_that_separate_whole_have_an_interval() -> None:
    """DeLong's variance is 0 there, however few samples say so; a population whose area is below 1 gives such draws, too."""
    few, many = auc_interval([2.0, 3.0], [0.0, 1.0]), auc_interval(np.arange(40) + 40.0, np.arange(40.0))
    assert few.value == few.high == many.value == many.high == 1.0
    for found, n in ((few, 2), (many, 40)):
        area, more = found.low, n - 1
        variance = area * (1 - area) * (1 + more * (1 - area) / (2 - area) + more * area / (1 + area)) / n**2
        assert (1 - area) ** 2 == pytest.approx(1.959963984540054**2 * variance)
    assert few.low < 0.5 < many.low
    none = auc_interval([0.0, 1.0], [2.0, 3.0])
    assert (none.value, none.low, none.high) == (0.0, 0.0, pytest.approx(1 - few.low))
    random = np.random.default_rng(4)
    true, missed, whole = 0.9214, 0, 0  # of two normal groups, two deviations apart
    for _ in range(400):
        found = auc_interval(random.normal(2, 1, 4), random.normal(0, 1, 4))
        if found.value == 1.0:
            whole += 1
            missed += not found.low <= true <= found.high
    assert whole > 100
    assert missed == 0


@pytest.mark.parametrize(
    ("inner", "outer", "told"),
    [
        ([1.0, 3.0, 5.0], [0.0, 2.0], "DeLong over samples"),
        ([4.0], [0.0, 2.0, 5.0], "ranks by chance"),
        ([4.0], [0.0, 2.0], "ranks by chance"),
        ([4.0, 3.0], [0.0, 2.0], "Newcombe over samples"),
    ],
)
def test_what_is_written_of_an_interval_is_how_it_was_made(inner: list[float], outer: list[float], told: str) -> None:
    assert auc_method(auc_interval(inner, outer), len(inner), "samples") == told
    assert _finding("loss", "a paper", "dictpfl", {}, np.array(inner), np.array(outer)).method_of_interval == told
