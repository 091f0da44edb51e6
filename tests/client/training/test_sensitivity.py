"""The sensitivity map against a loop of plain backward passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.build import build_model
from dictpfl.client.model.twin import decompose
from dictpfl.client.training.scorers.gradient import sensitivity
from dictpfl.client.training.task import load_task
from dictpfl.common.errors import DataError
from dictpfl.common.law.layout import Kind
from dictpfl.common.settings import Model

TASK = load_task("classification")


class Branching(nn.Module):
    """vmap cannot follow a branch on values."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x.flatten(1))
        return y if float(y.sum()) > 0 else 2 * y


def samples(count: int = 6) -> Samples:
    rng = np.random.default_rng(0)
    return Samples(rng.normal(size=(count, 1, 8, 8)), rng.integers(0, 3, count))


def models() -> dict[str, nn.Module]:
    small: dict[str, dict[str, Any]] = {
        "cnn": {"width": 4, "depth": 2},
        "vit_tiny": {"dim": 16, "heads": 2, "depth": 1},
    }
    return {n: build_model(Model(source=n, options=o), (1, 8, 8), 3, 0) for n, o in small.items()} | {"x": Branching()}


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("kind", ["cnn", "vit_tiny", "x"])
def test_mean_of_absolute_gradients(kind: str, enabled: bool) -> None:
    twin = decompose(models()[kind], rank=2, enabled=enabled)
    found = sensitivity(twin, samples(), TASK, limit=5)
    expected = np.zeros(twin.layout.size)
    entries = {e.name: e for e in twin.layout.entries}
    twin.eval()
    for x, y in zip(torch.tensor(samples().features[:5]), torch.tensor(samples().labels[:5]), strict=True):
        twin.module.zero_grad()
        TASK.loss(twin.module(x[None]), y[None]).backward()
        for name, _, p in twin.trainable():
            assert p.grad is not None
            expected[entries[name].span] += p.grad.abs().double().numpy().ravel() / 5
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert not found[twin.layout.coordinates(Kind.STATISTIC)].any()
    assert found.max() > 0


def test_local_parameters_are_left_out() -> None:
    twin = decompose(models()["cnn"], rank=2, local=["1.*"])
    assert sensitivity(twin, samples(), TASK).shape == (twin.layout.size,)


def test_no_samples() -> None:
    with pytest.raises(DataError, match="at least one sample"):
        sensitivity(decompose(models()["x"]), samples(0), TASK)
