"""The teacher's loss is its formula, and vanishes for a student that is the teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dictpfl.client.compress.narrow.teaching import TEMPERATURE, WEIGHT, taught
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.common.errors import ConfigError


def test_the_loss_is_the_formula() -> None:
    torch.manual_seed(0)
    teacher, random = mlp((4,), 3, (5,)), np.random.default_rng(0)
    samples = Samples(random.normal(size=(20, 4)).astype(np.float32), random.integers(0, 3, 20))
    made, task = taught(teacher, samples)
    assert np.array_equal(made.labels[:, -1], samples.labels)
    outputs, targets = torch.randn(20, 3), torch.from_numpy(made.labels)
    t, s = ((x / TEMPERATURE).softmax(dim=1) for x in (targets[:, :3], outputs))
    hard = -outputs.log_softmax(dim=1)[range(20), samples.labels].mean()
    soft = (t * (t.log() - s.log())).sum(dim=1).mean()
    assert float(task.loss(outputs, targets)) == pytest.approx(
        float(WEIGHT * TEMPERATURE**2 * soft + (1 - WEIGHT) * hard), rel=1e-5
    )
    own = teacher(torch.from_numpy(samples.features)).detach()
    assert float(task.loss(own, targets)) == pytest.approx(
        (1 - WEIGHT) * float(torch.nn.functional.cross_entropy(own, torch.from_numpy(samples.labels))), abs=1e-5
    )
    assert int(task.metric(own, targets)) == int((own.argmax(dim=1).numpy() == samples.labels).sum())


def test_labels_that_are_no_classes() -> None:
    with pytest.raises(ConfigError, match="one class a sample"):
        taught(mlp((4,), 3, (5,)), Samples(np.ones((2, 4), np.float32), np.ones((2, 1), np.float32)))
