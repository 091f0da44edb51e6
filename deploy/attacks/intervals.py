"""Means and AUCs with 95 % intervals, so that luck does not look like a leak, nor a leak like luck."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import rankdata
from scipy.stats import t as student

from dictpfl.deploy.attacks.results import Interval

_Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""
_OF_ONE = 0.475
"""Half of the middle 95 % of all ranks: where one positive sample stands by chance, any rank is as likely as another."""


def mean_interval(values: ArrayLike) -> Interval:
    """Average independent trials, with Student's interval within -1 to 1, where all measures here are; of one trial: the mean thrice.

    Not the bootstrap: with the few victims of an attack its intervals are too short, and chance looks like a leak.
    """
    mean = _student(values)
    return Interval(value=mean.value, low=max(-1.0, mean.low), high=min(1.0, mean.high))


def gain_interval(values: ArrayLike, blind: ArrayLike) -> Interval:
    """Average the paired differences values - blind, trial by trial, with its interval."""
    return _student(np.asarray(values, dtype=np.float64) - np.asarray(blind, dtype=np.float64))


def _student(values: ArrayLike) -> Interval:
    data = np.asarray(values, dtype=np.float64)
    mean = float(data.mean())
    if data.size == 1:
        return constant(mean)
    half = float(student.ppf(0.975, data.size - 1) * data.std(ddof=1) / np.sqrt(data.size))
    return Interval(value=mean, low=mean - half, high=mean + half)


def auc_interval(positive: ArrayLike, negative: ArrayLike) -> Interval:
    """Compute the area under the ROC curve, with DeLong's interval (DeLong et al. 1988; midranks as in Sun and Xu 2014).

    One positive sample has no variance: its interval is that of a rank, within which chance stays in 95 % of cases. Nor have groups that separate
    whole, however small: theirs is the score-like interval of Newcombe (2006, method 5), whose variance is that of Hanley and McNeil (1982) at the
    area that is asked about, not at the one that was found.

    Args:
        positive: scores of positive samples, larger ones speak for positive; at least one.
        negative: scores of negative samples; at least two.
    """
    x, y = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    m, n = x.size, y.size
    ranks = rankdata(np.concatenate([x, y]))
    area = (ranks[:m].sum() - m * (m + 1) / 2) / (m * n)
    if m == 1:
        return Interval(value=float(area), low=max(0.0, float(area) - _OF_ONE), high=min(1.0, float(area) + _OF_ONE))
    over_x: NDArray[Any] = (ranks[:m] - rankdata(x)) / n
    over_y: NDArray[Any] = 1.0 - (ranks[m:] - rankdata(y)) / m
    if area in (0.0, 1.0):
        end = _furthest(m, n)
        return Interval(value=float(area), low=end if area else 0.0, high=1.0 if area else 1.0 - end)
    deviation = float(np.sqrt(over_x.var(ddof=1) / m + over_y.var(ddof=1) / n))
    return Interval(
        value=float(area), low=max(0.0, float(area) - _Z * deviation), high=min(1.0, float(area) + _Z * deviation)
    )


def auc_method(area: Interval, members: int, over: str) -> str:
    """Name the interval that `auc_interval` gives of so many positive samples, and over what, as a finding says it."""
    if members == 1:
        return "ranks by chance"
    return f"{'Newcombe' if area.value in (0.0, 1.0) else 'DeLong'} over {over}"


def _furthest(m: int, n: int) -> float:
    """The smallest area of which groups of m and n samples that separate whole are no surprise, by Newcombe's method 5."""
    more = (m + n) / 2 - 1

    def beyond(area: float) -> float:
        spread = 1 + more * (1 - area) / (2 - area) + more * area / (1 + area)
        return (1 - area) * m * n - _Z**2 * area * spread

    return float(brentq(beyond, 0.0, 1.0))


def constant(value: float) -> Interval:
    """Make the interval of a known figure, such as the 0.5 of a coin."""
    return Interval(value=value, low=value, high=value)


def shifted(interval: Interval, by: float) -> Interval:
    """Subtract a known figure."""
    return Interval(value=interval.value - by, low=interval.low - by, high=interval.high - by)
