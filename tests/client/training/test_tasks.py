"""Losses and metrics."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dictpfl.client.training.pooled import Metrics
from dictpfl.client.training.task import load_task
from dictpfl.common.errors import ConfigError, DataError, ModelError
from dictpfl.common.settings import Training


def test_classification() -> None:
    task = load_task("classification")
    outputs, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1])
    assert float(task.metric(outputs, targets)) == 2
    expected = -(outputs.log_softmax(1)[range(3), targets]).mean()
    assert float(task.loss(outputs, targets)) == pytest.approx(float(expected))
    with pytest.raises(DataError, match=r"outside of 0\.\.1"):
        task.loss(outputs, torch.tensor([0, 1, 2]))
    with pytest.raises(ModelError, match="integer labels"):
        task.loss(outputs, targets.float())
    with pytest.raises(ModelError, match="expected outputs"):
        task.loss(outputs[0], targets)


@pytest.mark.parametrize(
    ("task", "shape", "targets"),
    [
        ("classification", (3, 4), [0, 3, 4]),
        ("ordinal", (3, 4), [0, 3, 4]),
        ("token-classification", (1, 3, 4), [[0, 3, 4]]),
        ("causal-lm", (1, 3, 4), [[0, 3, 4]]),
    ],
)
def test_labels_of_no_class_are_refused(task: str, shape: tuple[int, ...], targets: list[Any]) -> None:
    """Grades from 1 to 4 in an institution's own file trained without a word, the highest as if it were the one below it."""
    with pytest.raises(DataError, match=r"outside of 0\.\.3, the model's 4 classes; number them from 0"):
        load_task(task).loss(torch.zeros(shape), torch.tensor(targets))


@pytest.mark.parametrize("wrong", [255.0, -100.0, 0.5])
def test_pixels_of_no_class_are_refused(wrong: float) -> None:
    """255 is what is left out in many collections, and 0.5 a mask that was read as a picture: cut to whole, it was background."""
    task, targets = load_task("segmentation"), torch.zeros(2, 4, 4)
    targets[1, 2, 3] = wrong
    for figure in (task.loss, task.metric, Metrics.of(Training(metrics=["confusion"]), 3).sums):
        with pytest.raises(DataError, match=rf"a pixel's class is {wrong:g}, expected a whole number from 0 to 2"):
            figure(torch.zeros(2, 3, 4, 4), targets)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2)])
def test_regression(shape: tuple[int, ...]) -> None:
    task = load_task("regression")
    outputs = torch.zeros(3, 1) if len(shape) == 1 else torch.zeros(shape)
    targets = torch.full(shape, 2.0, dtype=torch.float64)
    assert float(task.loss(outputs, targets)) == 4
    assert float(task.metric(outputs, targets)) == 6
    with pytest.raises(ModelError, match="do not fit"):
        task.loss(torch.zeros(3, 3), targets)
    with pytest.raises(ModelError, match=r'read as classes: set data\.options\.target = "regression"'):
        task.loss(torch.zeros(3, 5), torch.tensor([0, 4, 1]))


class Rising:
    """Options without annotations: a value of another kind fails inside."""

    metric_name, higher_is_better = "rise", True

    def __init__(self, edges: Any) -> None:
        self.edges = tuple(map(float, edges))


@pytest.mark.parametrize("edges", [["a"], 5, "abc", None])
def test_values_that_a_task_fails_at_are_named(edges: Any) -> None:
    with pytest.raises(ConfigError, match=r"training\.task_options {'edges': .*} of '.*:Rising': .*; mend the options"):
        load_task(f"{__name__}:Rising", {"edges": edges})


def test_unknown_tasks() -> None:
    with pytest.raises(ConfigError, match=r"training\.task: 'ranking' is unknown"):
        load_task("ranking")
    assert load_task("dictpfl.client.training.tasks.regression:Regression").metric_name == "absolute error"
