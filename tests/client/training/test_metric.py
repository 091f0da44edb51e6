"""Metrics by name, beside a task's loss."""

from __future__ import annotations

import pytest
import torch

from dictpfl.client.training.metric import load_metric
from dictpfl.client.training.task import load_task, task_of
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.settings import Training

OUTPUTS, TARGETS = torch.tensor([[1.0, 2, 3], [3, 2, 1], [0, 5, 4]]), torch.tensor([2, 1, 2])


class Margin:
    """How far the label's output is above the mean."""

    name = "margin"
    higher_is_better = True

    def total(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs.gather(1, targets[:, None]).squeeze(1) - outputs.mean(dim=1)).sum()


def test_the_task_s_own_metric_is_the_default() -> None:
    task = task_of(Training())
    assert (task.metric_name, task.higher_is_better) == ("accuracy", True)
    assert int(task.metric(OUTPUTS, TARGETS)) == 1


def test_another_metric_leaves_the_loss_alone() -> None:
    task = task_of(Training(metric=f"{__name__}:Margin"))
    assert (task.metric_name, task.higher_is_better) == ("margin", True)
    assert float(task.metric(OUTPUTS, TARGETS)) == pytest.approx(1.0 + 0.0 + 1.0)
    assert float(task.loss(OUTPUTS, TARGETS)) == float(load_task("classification").loss(OUTPUTS, TARGETS))


def test_names() -> None:
    assert load_metric("absolute-error").higher_is_better is False
    assert load_metric("token-accuracy").name == "token accuracy"
    with pytest.raises(
        ConfigError,
        match=r"training.metric: 'f1' is unknown; known: absolute-error, accuracy, auroc",
    ):
        task_of(Training(metric="f1"))


@pytest.mark.parametrize("name", ["accuracy", "class-distance"])
def test_one_class_a_sample_is_not_compared_with_several_labels(name: str) -> None:
    """Three samples with three labels were 3 right of 3 by shapes that happened to agree; other counts were an error of torch."""
    metric = load_metric(name)
    assert float(metric.total(torch.eye(3), torch.arange(3))) == (3 if name == "accuracy" else 0)
    for outputs, targets in (
        (torch.eye(3), torch.ones(3, 3)),
        (torch.ones(8, 1), torch.ones(8)),
        (torch.ones(4, 4, 4), torch.ones(4, 4).long()),
    ):
        with pytest.raises(ModelError, match="one class for each sample"):
            metric.total(outputs, targets)
