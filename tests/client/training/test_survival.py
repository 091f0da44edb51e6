"""Survival: the loss and the metric against plain loops, and what a figure that is no sum of samples means elsewhere."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.twin import Twin, make_dictionaries
from dictpfl.client.privacy.guard import require_privatable
from dictpfl.client.training.metric import load_metric
from dictpfl.client.training.scorers.gradient import sensitivity
from dictpfl.client.training.task import load_task, task_of
from dictpfl.client.training.train import evaluate
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.settings import Decomposition, Training

Patient = tuple[int, int, int]
"""Output, time, event: small whole numbers, so that all kinds of ties come up."""
PATIENTS = st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 4), st.integers(0, 1)), min_size=1, max_size=9)


def tensors(patients: list[Patient]) -> tuple[Tensor, Tensor]:
    """Outputs (n, 1) and targets (n, 2)."""
    table = torch.tensor(patients, dtype=torch.float64)
    return table[:, :1], table[:, 1:]


def slow_loss(patients: list[Patient]) -> float:
    """Minus the log partial likelihood, sample by sample, as the books write it."""
    total = 0.0
    for output, time, event in patients:
        if event:
            at_risk = sum(math.exp(other) for other, when, _ in patients if when >= time)
            total -= math.log(math.exp(output) / at_risk)
    return total / len(patients)


def slow_concordance(patients: list[Patient]) -> float:
    """Pair by pair."""
    right, pairs = 0.0, 0
    for (risk, time, event), (other, when, seen) in permutations(patients, 2):
        if event and (when > time or (when == time and not seen)):
            pairs += 1
            right += 1.0 if risk > other else 0.5 if risk == other else 0.0
    return right / pairs if pairs else 0.5


class Largest(TorchDispatchMode):
    """Most numbers that a tensor made inside has."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.most = max(self.most, made.numel() if isinstance(made, Tensor) else 0)
        return made


def test_the_loss_of_a_large_split_does_not_lay_out_all_pairs() -> None:
    """A whole split is measured at once: of 50,000 patients all pairs took 10 GB and more."""
    random = torch.Generator().manual_seed(1)
    count = 2500
    outputs = torch.randn(count, 1, generator=random, dtype=torch.float64)
    time = torch.randint(1, 400, (count,), generator=random).double()
    event = torch.randint(0, 2, (count,), generator=random).double()
    with Largest() as seen:
        loss = load_task("cox").loss(outputs, torch.stack([time, event], dim=1))
    assert seen.most <= 1024 * count
    order = torch.argsort(time, descending=True)
    last = (
        torch.searchsorted(-time[order], -time, right=True) - 1
    )  # of those at the same time, who comes last in the order
    at_risk = torch.logcumsumexp(outputs[order, 0], dim=0)[last]
    assert float(loss) == pytest.approx(float((event * (at_risk - outputs[:, 0])).mean()), rel=1e-12)


@given(PATIENTS)
def test_the_loss_is_the_partial_likelihood(patients: list[Patient]) -> None:
    assert float(load_task("cox").loss(*tensors(patients))) == pytest.approx(slow_loss(patients), abs=1e-12)


@given(PATIENTS)
def test_the_metric_is_the_share_of_pairs(patients: list[Patient]) -> None:
    total = float(load_metric("concordance").total(*tensors(patients)))
    assert total == pytest.approx(slow_concordance(patients) * len(patients), abs=1e-12)


def test_pairs_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    patients = [(int(a), int(b), int(c)) for a, b, c in random.integers(0, (5, 9, 2), (40, 3))]
    whole = float(load_metric("concordance").total(*tensors(patients)))
    monkeypatch.setattr("dictpfl.client.training.metrics.concordance._ROWS", 7)
    assert float(load_metric("concordance").total(*tensors(patients))) == pytest.approx(whole)
    assert whole == pytest.approx(40 * slow_concordance(patients))


def test_large_outputs_stay_finite() -> None:
    outputs = torch.tensor([[900.0], [-900.0]], requires_grad=True)
    loss = load_task("cox").loss(outputs, torch.tensor([[1.0, 1.0], [2.0, 1.0]]))
    torch.autograd.backward(loss)
    assert math.isfinite(float(loss.detach()))
    assert outputs.grad is not None
    assert bool(torch.isfinite(outputs.grad).all())


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [((3, 2), torch.ones(3, 2)), ((3, 1), torch.ones(3)), ((3, 1), torch.ones(3, 2, dtype=torch.int64))],
)
def test_what_is_no_survival_is_refused(outputs: tuple[int, ...], targets: Tensor) -> None:
    for figure in (load_task("cox").loss, load_task("cox").metric):
        with pytest.raises(ModelError, match="survival: "):
            figure(torch.zeros(outputs), targets)


class FirstColumn(nn.Module):
    """The first feature is the output."""

    def forward(self, features: Tensor) -> Tensor:
        """(n, 1)."""
        return features[:, :1]


def test_an_evaluation_is_of_the_whole_split() -> None:
    patients: list[Patient] = [(2, 1, 1), (1, 2, 1), (-1, 3, 0), (0, 4, 1), (-2, 5, 1)]
    outputs, targets = tensors(patients)
    samples = Samples(outputs.numpy(), targets.numpy())
    for batch in (1, 2, 5, 0):
        found = evaluate(FirstColumn(), samples, load_task("cox"), batch_size=batch)
        assert found.count == 5
        assert found.metric_sum == pytest.approx(5 * slow_concordance(patients))
        assert found.loss_sum == pytest.approx(5 * slow_loss(patients), rel=1e-6)
    assert evaluate(FirstColumn(), samples.take(np.arange(0)), load_task("cox")).metric_sum == 0


class Spread:
    """Largest output less the smallest: no sum over samples."""

    name = "spread"
    higher_is_better = True
    additive = False

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.max() - outputs.min()) * len(targets)


def test_a_metric_alone_may_be_of_the_whole_split() -> None:
    samples = Samples(np.array([[1.0], [2.0], [5.0]], np.float32), np.zeros((3, 1), np.float32))
    task = task_of(Training(task="regression", metric=f"{__name__}:Spread"))
    found = evaluate(FirstColumn(), samples, task, batch_size=1)
    assert found.metric_sum == 12.0
    assert found.loss_sum == pytest.approx(30.0)


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size is 1: nothing would be learnt"):
        task_of(Training(task="cox", batch_size=1))
    assert task_of(Training(batch_size=1)).metric_name == "accuracy"


def test_the_gradient_of_one_patient_is_refused() -> None:
    settings = Decomposition(enabled=False)
    twin = Twin(
        nn.Sequential(nn.Linear(2, 1)), settings, make_dictionaries(nn.Sequential(nn.Linear(2, 1)), settings, bytes(32))
    )
    samples = Samples(np.ones((3, 2), np.float32), np.ones((3, 2), np.float32))
    with pytest.raises(ModelError, match=r'scores\.measure = "gradient" takes the gradient of each sample alone'):
        sensitivity(twin, samples, load_task("cox"))
    pytest.importorskip("opacus", reason="differential privacy is the extra `dp`")
    chosen = {"training.task": "cox", "model.source": "mlp", "pruning.pruned": "freeze", "decomposition.enabled": False,
              "privacy.mechanism": "example", "privacy.epsilon": 3.0}  # fmt: skip
    with pytest.raises(ModelError, match=r'privacy\.mechanism = "example" takes the gradient of each sample alone'):
        require_privatable(FederationConfig.of({}, chosen), twin)
