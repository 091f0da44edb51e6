"""Losses of tasks and their options against plain loops, and the answers that do not look at a sample."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor

from dictpfl.client.training.baseline import baseline_of
from dictpfl.client.training.task import TASKS, load_task, outputs_of, task_of
from dictpfl.common.errors import ConfigError, DictPFLError, ModelError
from dictpfl.common.settings import Training

RNG = torch.Generator().manual_seed(0)
OUTPUTS, CLASSES = torch.randn(12, 4, generator=RNG), torch.randint(4, (12,), generator=RNG)
TIMES = torch.tensor([[0.5, 1.0], [1.0, 1.0], [1.5, 0.0], [2.0, 1.0], [9.0, 1.0], [2.5, 0.0]])


def slow_classes(weights: list[float], smoothing: float, focal: float) -> float:
    total = 0.0
    for row, label in zip(OUTPUTS.double(), CLASSES.tolist(), strict=True):
        p = (row.exp() / row.exp().sum()).tolist()
        loss = -(1 - smoothing) * math.log(p[label]) - smoothing / 4 * sum(map(math.log, p))
        total += weights[label] * (1 - p[label]) ** focal * loss
    return total / len(CLASSES)


@pytest.mark.parametrize(("smoothing", "focal"), [(0.0, 0.0), (0.1, 0.0), (0.0, 2.0), (0.2, 1.0)])
@pytest.mark.parametrize("weights", [[], [1, 2, 0.5, 0]])
def test_classes(weights: list[float], smoothing: float, focal: float) -> None:
    task = load_task("classification", {"class_weights": weights, "label_smoothing": smoothing, "focal": focal})
    expected = slow_classes(weights or [1.0] * 4, smoothing, focal)
    assert float(task.loss(OUTPUTS, CLASSES)) == pytest.approx(expected, rel=1e-5)
    tags = load_task("token-classification", {"class_weights": weights, "label_smoothing": smoothing, "focal": focal})
    rows, labels = OUTPUTS.reshape(3, 4, 4), CLASSES.reshape(3, 4)
    assert float(tags.loss(rows, labels)) == pytest.approx(expected, rel=1e-5)
    padded = torch.cat([labels, torch.full((3, 2), -100)], dim=1)
    assert float(tags.loss(torch.cat([rows, rows[:, :2]], dim=1), padded)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("focal", [0.5, 1.0, 2.0])
def test_a_sample_that_is_sure_has_no_gradient(focal: float) -> None:
    classes, several = torch.tensor([0, 0]), torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    for name, targets in (("classification", classes), ("multi-label", several)):
        # In float32 the first is sure to the last bit.
        outputs = torch.tensor([[130.0, -130.0, -130.0], [1.0, 0.0, 0.0]], requires_grad=True)
        load_task(name, {"focal": focal}).loss(outputs, targets).backward()  # type: ignore[no-untyped-call]
        assert outputs.grad is not None
        assert not outputs.grad[0].any()
        assert torch.isfinite(outputs.grad[1]).all()
        assert outputs.grad[1].all()


def test_without_options_the_loss_is_torch_s_own_to_the_last_bit() -> None:
    assert float(load_task("classification").loss(OUTPUTS, CLASSES)) == float(F.cross_entropy(OUTPUTS, CLASSES))


def test_labels() -> None:
    targets = (OUTPUTS.flip(0) > 0).float()
    weights = torch.tensor([1.0, 2, 3, 4])
    task = load_task("multi-label", {"label_weights": weights.tolist()})
    expected = F.binary_cross_entropy_with_logits(OUTPUTS, targets, pos_weight=weights)
    assert float(task.loss(OUTPUTS, targets)) == pytest.approx(float(expected), rel=1e-6)
    chance = OUTPUTS.sigmoid()
    sure = torch.where(targets > 0, chance, 1 - chance)
    focal = -((1 - sure) ** 2 * sure.log()).mean()
    assert float(load_task("multi-label", {"focal": 2.0}).loss(OUTPUTS, targets)) == pytest.approx(
        float(focal), rel=1e-5
    )
    assert float(task.metric(OUTPUTS, targets)) == pytest.approx(
        float(((OUTPUTS > 0) == (targets > 0)).float().mean(1).sum())
    )
    with pytest.raises(ModelError, match="target of 0 or 1"):
        task.loss(OUTPUTS, targets + 0.5)


def test_ordered_classes_cost_by_distance() -> None:
    task = load_task("ordinal")
    total = 0.0
    for row, label in zip(OUTPUTS.double().softmax(1).tolist(), CLASSES.tolist(), strict=True):
        for k in range(3):
            at_most = sum(row[: k + 1])
            total -= math.log(at_most if label <= k else 1 - at_most) / 3
    assert float(task.loss(OUTPUTS, CLASSES)) == pytest.approx(total / len(CLASSES), rel=1e-4)
    sure = 6.0 * torch.eye(4)
    losses = [float(task.loss(sure[:1], torch.tensor([label]))) for label in range(4)]
    assert losses == sorted(losses), "further is worse"
    assert float(task.metric(sure, torch.tensor([3, 1, 2, 0]))) == 6
    with pytest.raises(ModelError, match="in their order"):
        task.loss(OUTPUTS, CLASSES.float())


def test_hazards() -> None:
    """An event at an edge belongs to the interval that ends there; a censored sample counts for the intervals that it lived through."""
    edges, outputs = [1.0, 2.0, 4.0], torch.randn(6, 3, generator=RNG)
    task = load_task("discrete-survival", {"edges": edges})
    hazards = outputs.double().sigmoid().tolist()
    total = 0.0
    for row, (time, event) in zip(hazards, TIMES.tolist(), strict=True):
        for start, end, hazard in zip([0.0, *edges], edges, row, strict=False):
            if time > end or (time == end and not event):
                total -= math.log(1 - hazard)
            elif event and start < time <= end:
                total -= math.log(hazard)
    assert float(task.loss(outputs, TIMES)) == pytest.approx(total / 6, rel=1e-5)
    halves = [float(task.loss(outputs[some], TIMES[some])) for some in (slice(3), slice(3, None))]
    assert sum(halves) / 2 == pytest.approx(total / 6, rel=1e-5), "a sum over samples"
    soon = torch.where(TIMES[:, :1] < torch.tensor(edges), 3.0, -3.0)
    assert float(task.metric(soon, TIMES)) / 6 > 0.9
    assert float(task.metric(-soon, TIMES)) / 6 < 0.2
    assert outputs_of(task, 1) == 3
    assert (
        outputs_of(task_of(Training(task="discrete-survival", task_options={"edges": edges}, metric="accuracy")), 1)
        == 3
    )
    named = task_of(Training(task="discrete-survival", task_options={"edges": edges}, metric="concordance"))
    assert float(named.metric(soon, TIMES)) == float(task.metric(soon, TIMES)), "its own metric, said by name"
    assert outputs_of(load_task("cox"), 1) == 1
    ended = torch.tensor([[4.0, 1.0], *[[4.0, 0.0]] * 9])  # all but one lived through the last interval
    logits = torch.logit(torch.tensor([0.1, 0.5, 0.9])).unsqueeze(1) * torch.tensor([[0.0, 0.0, 1.0]])
    best = [float(task.loss(row.expand(10, 3), ended)) for row in logits]
    assert best == sorted(best), "one in ten dies in it, as Kaplan and Meier count"
    with pytest.raises(ModelError, match="3 intervals"):
        task.loss(outputs[:, :2], TIMES)


def test_pictures() -> None:
    """Masks of one class, and the same pictures as numbers of two classes."""
    chosen = (torch.rand(5, 1, 6, 6, generator=RNG) < 0.4).float()
    chosen[0] = 0
    task = load_task("segmentation")
    said = torch.where(torch.rand(5, 1, 6, 6, generator=RNG) < 0.8, 2 * chosen - 1, 1 - 2 * chosen)
    said[0] = -1
    dice = [1.0]
    for picture, truth in zip(said[1:] > 0, chosen[1:] > 0, strict=True):
        dice.append(2 * float((picture & truth).sum()) / float(picture.sum() + truth.sum()))
    assert float(task.metric(said, chosen)) == pytest.approx(sum(dice))
    two = torch.cat([torch.zeros_like(said), said], dim=1)
    assert float(task.metric(two, chosen[:, 0])) == pytest.approx(sum(dice))
    assert float(task.loss(20 * said, chosen)) > float(task.loss(20 * (2 * chosen - 1), chosen)) < 0.01
    assert float(task.loss(two, chosen[:, 0])) > float(
        task.loss(40 * torch.cat([1 - chosen, chosen], dim=1), chosen[:, 0])
    )
    with pytest.raises(ModelError, match="height, width"):
        task.metric(OUTPUTS, CLASSES)


@pytest.mark.parametrize(
    ("task", "options", "reason"),
    [
        ("classification", {"class_weight": [1, 2]}, "task_options of 'classification'"),
        ("classification", {"label_smoothing": 1.0}, "label_smoothing is 1"),
        ("classification", {"class_weights": [0, 0]}, "not all 0"),
        ("classification", {"focal": -1}, "focal is -1"),
        ("multi-label", {"label_weights": [-1]}, "not all 0"),
        ("regression", {"error": "cubic"}, "one of squared, absolute, huber"),
        ("discrete-survival", {}, "ends of its intervals"),
        ("discrete-survival", {"edges": [2, 1]}, "ends of its intervals"),
        ("segmentation", {"dice": 2}, "dice is 2"),
        ("cox", {"edges": [1]}, "takes"),
    ],
)
def test_options_that_a_task_does_not_take(task: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        task_of(Training(task=task, task_options=options))


def test_another_number_of_weights_than_of_classes() -> None:
    with pytest.raises(ModelError, match="3 numbers, the model 4 outputs"):
        load_task("classification", {"class_weights": [1, 1, 1]}).loss(OUTPUTS, CLASSES)


class Slope:
    """A task of one's own, with a parameter."""

    metric_name = "distance"
    higher_is_better = False

    def __init__(self, power: float = 1.0) -> None:
        self._power = power

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs[:, 0] - targets).abs() ** self._power).mean()

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, 0] - targets).abs().sum()


def test_a_task_of_one_s_own_takes_its_parameters() -> None:
    outputs, targets = torch.tensor([[3.0], [0.0]]), torch.tensor([1.0, 0.0])
    found = [task_of(Training(task=f"{__name__}:Slope", task_options={"power": power})) for power in (1.0, 3.0)]
    assert [float(task.loss(outputs, targets)) for task in found] == [1.0, 4.0]
    assert baseline_of(found[0], targets.numpy(), targets.numpy(), 1) is None
    with pytest.raises(ConfigError, match="it takes"):
        task_of(Training(task=f"{__name__}:Slope", task_options={"slope": 1}))


@pytest.mark.parametrize(
    ("task", "options", "learnt", "tested", "outputs", "figure"),
    [
        ("classification", {}, [2, 2, 0], [2, 0, 1, 2], 3, 0.5),
        ("regression", {}, [1.0, 3.0], [2.0, 4.0], 1, 1.0),
        ("regression", {}, [[1.0, 5.0], [3.0, 5.0]], [[2.0, 5.0]], 2, 0.0),
        ("multi-label", {}, [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0]], 2, 0.5),
        ("ordinal", {}, [0, 1, 4], [1, 3], 5, 1.0),
        ("cox", {}, [[1.0, 1.0]], TIMES.tolist(), 1, 0.5),
        ("discrete-survival", {"edges": [1, 2]}, [[1.0, 1.0]], TIMES.tolist(), 2, 0.5),
        ("token-classification", {}, [[1, 1, 0]], [[1, 0, -100]], 2, 0.5),
        ("causal-lm", {}, [[7, 1, 1, 2]], [[5, 1, 2, 1]], 9, 2 / 3),
        ("segmentation", {}, [[[[1.0, 0.0]]], [[[1.0, 0.0]]]], [[[[1.0, 1.0]]]], 1, 2 / 3),
        ("segmentation", {}, [[[1.0, 0.0]], [[1.0, 0.0]]], [[[1.0, 1.0]]], 2, 2 / 3),
    ],
)
def test_baselines(task: str, options: dict[str, Any], learnt: Any, tested: Any, outputs: int, figure: float) -> None:
    arrays = [np.array(labels) for labels in (learnt, tested)]
    cast = [array.astype(np.float32) if array.dtype.kind == "f" else array for array in arrays]
    found = baseline_of(load_task(task, options), cast[0], cast[1], outputs)
    assert found is not None
    assert found.figure == pytest.approx(figure)
    better = 0.1 if found.higher_is_better else -0.1
    assert found.is_below(figure + better)
    assert not found.is_below(figure - better)


def test_every_task_of_this_project_has_a_baseline_and_says_its_options() -> None:
    for name, made in TASKS.own().items():
        assert hasattr(made, "guess"), name
    with pytest.raises(DictPFLError, match=r"class_weights.*label_smoothing.*focal"):
        load_task("classification", {"weights": [1]})
