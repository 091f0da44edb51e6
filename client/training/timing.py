"""Time of an evaluation, for those that compare it between models."""

from __future__ import annotations

import time

import numpy as np
from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.training.task import Task
from dictpfl.client.training.train import Measured, evaluate

_WARM, _PASSES, _LONG = 8, 5, 0.25
"""Samples that do not count; passes at most; seconds after which no further pass is made."""


def timed(module: nn.Module, samples: Samples, task: Task) -> tuple[Measured, float]:
    """Evaluate as `dictpfl.client.training.train.evaluate` does, and return the seconds of the quickest of up to five passes with it.

    A model's first samples pay for what is allocated once, and passes of milliseconds differ by more than what is to be seen.
    """
    evaluate(module, samples.take(np.arange(min(_WARM, len(samples)))), task)
    spent: list[float] = []
    while True:
        began = time.perf_counter()
        found = evaluate(module, samples, task)
        spent.append(time.perf_counter() - began)
        if len(spent) == _PASSES or sum(spent) >= _LONG:
            return found, min(spent)
