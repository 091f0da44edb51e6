"""Scores by name, checked before they are sealed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.twin import Twin, decompose
from dictpfl.client.training.scorer import scores_of
from dictpfl.client.training.task import Task, load_task
from dictpfl.common.errors import ConfigError, ModelError

SAMPLES = Samples(np.ones((4, 3), np.float32), np.zeros(4, np.int64))
TASK = load_task("classification")


@pytest.fixture(scope="module")
def twin() -> Twin:
    return decompose(torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 2)), rank=1)


def ones(twin: Twin, samples: Samples, task: Task) -> np.ndarray:
    return np.full(twin.layout.size, float(len(samples)), dtype=np.float32)


def short(twin: Twin, samples: Samples, task: Task) -> np.ndarray:
    return np.ones(3)


def wild(twin: Twin, samples: Samples, task: Task) -> np.ndarray:
    return np.full(twin.layout.size, np.nan)


def test_a_function_s_scores_are_taken_as_they_are(twin: Twin) -> None:
    scores = scores_of(f"{__name__}:ones", twin, SAMPLES, TASK)
    assert scores.dtype == np.float64
    assert (scores == 4.0).all()


@pytest.mark.parametrize("name", ["short", "wild"])
def test_scores_that_cannot_be_sent(twin: Twin, name: str) -> None:
    with pytest.raises(
        ModelError, match=rf"scores.measure '.*{name}' returned an array of shape .* expected one finite"
    ):
        scores_of(f"{__name__}:{name}", twin, SAMPLES, TASK)


def test_scores_that_would_be_clipped(twin: Twin) -> None:
    with pytest.raises(ModelError, match=r"goes up to 4, a score round carries 2 at most"):
        scores_of(f"{__name__}:ones", twin, SAMPLES, TASK, most=2.0)
    with pytest.raises(ConfigError, match=r"scores.measure: 'fisher' is unknown; known: gradient"):
        scores_of("fisher", twin, SAMPLES, TASK)
