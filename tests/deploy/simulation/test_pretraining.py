"""W0 before genesis: what a federation's rounds are told does not pull at it."""

from __future__ import annotations

import numpy as np
import torch

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.common.settings import Pretrain, Training
from dictpfl.deploy.simulation.pretraining import pretrain


def test_a_proximal_term_is_of_rounds_and_not_of_pretraining() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 1, 4, 4)).astype(np.float32)
    public = Samples(features, (features.sum(axis=(1, 2, 3)) > 0).astype(np.int64))
    made = []
    for proximal in (0.0, 5.0):
        torch.manual_seed(0)
        model = mlp((1, 4, 4), 2, (8,))
        begun = {name: value.clone() for name, value in model.state_dict().items()}
        training = Training(batch_size=16, proximal=proximal, device="cpu")
        pretrain(model, public, Pretrain(epochs=5, learning_rate=1e-2), training, seed=1)
        assert any(not torch.equal(value, begun[name]) for name, value in model.state_dict().items())
        made.append(model.state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
