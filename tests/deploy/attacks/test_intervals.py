"""Intervals of means and of AUC cover as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from dictpfl.deploy.attacks.intervals import auc_interval, gain_interval, mean_interval


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
