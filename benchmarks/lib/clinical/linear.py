"""Federated linear models in plain numpy, many settings at once: what rates are chosen with, and FLamby's own loop.

A run of `dictpfl` on 14 or 40 values is seconds of overhead around microseconds of arithmetic, and a grid of rates over
twenty splits is thousands of runs. Here all settings of a grid are trained side by side on the same batches: arrays have
a first axis of settings. The arithmetic is FLamby's: batches of a shuffled epoch one after the other, with the epoch
going on in the next round; updates averaged by samples; Reddi's rules. `tests/benchmarks/test_clinical.py` holds one
round of it to what `dictpfl.client.training.train` does with the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lib.clinical.published import FLOOR, MOMENTUM, SECOND, Rates

Floats = NDArray[np.float64]
Kind = Literal["logistic", "cox"]


@dataclass(frozen=True)
class Rows:
    """Samples of one centre: features (n, F); labels (n,) of 0 and 1, or (n, 2) of time and event."""

    features: Floats
    labels: Floats

    def take(self, index: NDArray[np.int64]) -> Rows:
        """Some of them."""
        return Rows(self.features[index], self.labels[index])

    @property
    def event(self) -> Floats:
        """What happened, (n,): the class, or whether the event was seen."""
        return self.labels if self.labels.ndim == 1 else self.labels[:, 1]


def gradient(kind: Kind, weights: Floats, batch: Rows) -> Floats:
    """Gradient of the mean loss, (settings, F + 1), for weights of the same shape; the last one is the bias."""
    scores = weights[:, :-1] @ batch.features.T + weights[:, -1:]
    if kind == "logistic":
        errors = 1 / (1 + np.exp(-scores)) - batch.labels
    else:
        time, event = batch.labels.T
        at_risk = np.where(time[None, :] >= time[:, None], scores[:, None, :], -np.inf)
        share = np.exp(at_risk - at_risk.max(axis=2, keepdims=True))
        share /= share.sum(axis=2, keepdims=True)
        errors = np.einsum("i,sij->sj", event, share) - event
    errors = errors / len(batch.features)
    return np.concatenate([errors @ batch.features, errors.sum(axis=1, keepdims=True)], axis=1)


def figure(kind: Kind, weights: Floats, rows: Rows) -> Floats:
    """Accuracy, or concordance (NaN without a comparable pair), of each setting's weights, (settings,)."""
    scores = weights[:, :-1] @ rows.features.T + weights[:, -1:]
    if kind == "logistic":
        return np.asarray(((scores > 0) == (rows.labels > 0)).mean(axis=1))
    time, event = rows.labels.T
    earlier, later = np.nonzero(
        (event[:, None] > 0) & ((time[None] > time[:, None]) | ((time[None] == time[:, None]) & (event[None] == 0)))
    )
    if not len(earlier):
        return np.full(len(weights), np.nan)
    won = scores[:, earlier] - scores[:, later]
    return np.asarray(((won > 0) + 0.5 * (won == 0)).mean(axis=1))


def start(features: int, seed: int) -> Floats:
    """Weights as torch begins a linear layer, (1, F + 1)."""
    bound = features**-0.5
    return np.random.default_rng(seed).uniform(-bound, bound, (1, features + 1))


def torch_start(features: int, seed: int) -> Floats:
    """W0 that FLamby has for a seed, (1, F + 1): that of torch's linear layer."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(features, 1)
    return np.concatenate([layer.weight.detach().numpy(), layer.bias.detach().numpy()[None]], axis=1).astype(np.float64)


def batches(rows: Rows, size: int, random: np.random.Generator) -> Iterator[Rows]:
    """Batches of one shuffled epoch after the other, without end."""
    while True:
        order = random.permutation(len(rows.features))
        for begin in range(0, len(order), size):
            yield rows.take(order[begin : begin + size])


def federated(
    kind: Kind,
    centres: Sequence[Rows],
    grid: Sequence[Rates],
    *,
    rounds: int,
    steps: int,
    batch: int,
    seed: int,
    first_weights: Floats | None = None,
) -> Floats:
    """Train the settings of a grid side by side; the weights that each ends with, (settings, F + 1).

    `first_weights`: W0, (1, F + 1); None: `start`.
    """
    random = np.random.default_rng(seed)
    sources = [batches(rows, batch, random) for rows in centres]
    shares = np.array([len(rows.features) for rows in centres]) / sum(len(rows.features) for rows in centres)
    rates, servers, proximal = (
        np.array([[getattr(one, name)] for one in grid]) for name in ("rate", "server", "proximal")
    )
    rules = np.array([[one.rule] for one in grid])
    begin = start(centres[0].features.shape[1], seed) if first_weights is None else first_weights
    shared = np.repeat(begin, len(grid), axis=0)
    first, second = np.zeros_like(shared), np.zeros_like(shared)
    for _ in range(rounds):
        update = np.zeros_like(shared)
        for source, share in zip(sources, shares, strict=True):
            own = shared.copy()
            for _ in range(steps):
                own -= rates * (gradient(kind, own, next(source)) + proximal * (own - shared))
            update += share * (own - shared)
        first = MOMENTUM * first + (1 - MOMENTUM) * update
        square = update * update
        adam = SECOND * second + (1 - SECOND) * square
        yogi = second - (1 - SECOND) * square * np.sign(second - square)
        second = np.select([rules == "yogi", rules == "adagrad"], [yogi, second + square], adam)
        adaptive = first / (np.sqrt(second) + FLOOR)
        shared = shared + servers * np.where(rules == "average", update, adaptive)
    return shared


def alone(kind: Kind, rows: Rows, *, rate: float, epochs: int, batch: int, seed: int) -> Floats:
    """Train one model by Adam on these rows, as FLamby does pooled or at one centre; (1, F + 1)."""
    random, weights = np.random.default_rng(seed), start(rows.features.shape[1], seed)
    source, first, second = batches(rows, batch, random), np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, epochs * -(-len(rows.features) // batch) + 1):
        slope = gradient(kind, weights, next(source))
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope * slope
        weights = weights - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return weights
