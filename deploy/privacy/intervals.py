"""Means and AUCs with 95 % intervals, so that luck does not look like a leak, nor a leak like luck."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from deploy.privacy.results import Interval

_DRAWS = 4000
_Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def mean_interval(values: ArrayLike, *, seed: int = 0) -> Interval:
    """Mean over trials with its percentile bootstrap interval (4,000 draws); one trial: the mean itself thrice."""
    data = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, data.size, (_DRAWS, data.size))
    low, high = np.quantile(data[draws].mean(axis=1), [0.025, 0.975])
    mean = float(data.mean())
    return Interval(value=mean, low=min(float(low), mean), high=max(float(high), mean))


def gain_interval(found: ArrayLike, blind: ArrayLike, *, seed: int = 0) -> Interval:
    """Mean of the paired differences found - blind, trial by trial, with its bootstrap interval."""
    return mean_interval(np.asarray(found, dtype=np.float64) - np.asarray(blind, dtype=np.float64), seed=seed)


def auc_interval(positive: ArrayLike, negative: ArrayLike) -> Interval:
    """Area under the ROC curve, with DeLong's interval (DeLong et al. 1988; midranks as in Sun and Xu 2014).

    Args:
        positive, negative: scores, where larger ones speak for positive; at least two each.
    """
    x, y = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    m, n = x.size, y.size
    ranks = rankdata(np.concatenate([x, y]))
    area = (ranks[:m].sum() - m * (m + 1) / 2) / (m * n)
    over_x: NDArray[Any] = (ranks[:m] - rankdata(x)) / n
    over_y: NDArray[Any] = 1.0 - (ranks[m:] - rankdata(y)) / m
    deviation = float(np.sqrt(over_x.var(ddof=1) / m + over_y.var(ddof=1) / n))
    return Interval(
        value=float(area), low=max(0.0, float(area) - _Z * deviation), high=min(1.0, float(area) + _Z * deviation)
    )


def constant(value: float) -> Interval:
    """A figure that is known, such as the 0.5 of a coin."""
    return Interval(value=value, low=value, high=value)


def shifted(interval: Interval, by: float) -> Interval:
    """The interval less a known figure."""
    return Interval(value=interval.value - by, low=interval.low - by, high=interval.high - by)
