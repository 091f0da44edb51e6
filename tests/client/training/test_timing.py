"""Times of an evaluation do not tell a model's first pass from its others."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.training.task import load_task
from dictpfl.client.training.timing import timed
from dictpfl.client.training.train import evaluate


class Sleeping(nn.Module):
    """Takes long the first time, as what is allocated once does."""

    def __init__(self, first: float, later: float) -> None:
        super().__init__()
        self.linear, self.first, self.later, self.calls = nn.Linear(4, 2), first, later, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.later if self.calls else self.first)
        self.calls += 1
        return self.linear(x)


def drawn(count: int) -> Samples:
    features = np.random.default_rng(1).normal(size=(count, 4)).astype(np.float32)
    return Samples(features, np.arange(count) % 2)


def test_the_first_pass_does_not_count() -> None:
    module, samples, task = Sleeping(0.2, 0.01), drawn(20), load_task("classification")
    found, seconds = timed(module, samples, task)
    assert 0.01 <= seconds < 0.1
    assert found == evaluate(module, samples, task)
    assert module.calls <= 7, "a short one, five passes, and the one above"


def test_a_long_pass_is_made_once() -> None:
    module = Sleeping(0.0, 0.3)
    _, seconds = timed(module, drawn(20), load_task("classification"))
    assert seconds >= 0.3
    assert module.calls == 2
