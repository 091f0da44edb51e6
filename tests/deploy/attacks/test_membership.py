"""Who was in the training data: told without differential privacy, and not beyond its bound with it."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

pytest.importorskip("opacus", reason="the extra `dp` is not installed")

from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.client.model.build import build_model
from dictpfl.common.config import FederationConfig
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.attacks.intervals import auc_interval
from dictpfl.deploy.attacks.published.membership import confidences
from dictpfl.deploy.simulation.simulate import simulate

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.slow]
EPSILON, DELTA = 1.0, 1e-3


def coins(**_options: Any) -> Dataset:
    """Labels without any reason: what is learnt of them is learnt by heart."""
    rng = np.random.default_rng(0)
    return Dataset(Samples(rng.normal(size=(180, 64)).astype(np.float32), rng.integers(0, 2, 180)), 2)


def attacked(folder: Path, **privacy: Any) -> tuple[float, float, float]:
    """AUC of the loss attack on the shared model, with its interval: training samples against the test split."""
    config = FederationConfig.of(
        {"privacy": privacy, "pruning": {"enabled": False}},
        {
            "toy_insecure": True, "encryption.sealer": "identity", "federation.rounds": 8, "data.source": "coins_of_this_test:coins",
            "data.test_share": 0.5, "data.validation_share": 0.0, "model.options": {"hidden": [64]}, "decomposition.rank": 16,
            "training.epochs": 12, "training.batch_size": 10, "training.learning_rate": 1e-2, "training.device": "cpu",
        },
    )  # fmt: skip
    run = simulate(config, folder, engine="local")
    genesis = Genesis.load(folder / "institutions" / "institution-000")
    model = build_model(config.model, genesis.sample_shape, genesis.outputs, config.seed)
    model.load_state_dict(load_file(run.model_path))
    inside = [
        confidences(model, Samples.load(institution / "train.npz"))
        for institution in sorted((folder / "institutions").iterdir())
    ]
    found = auc_interval(np.concatenate(inside), confidences(model, Samples.load(folder / "test.npz")))
    return found.low, found.value, found.high


def test_membership_falls_to_the_side_of_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("coins_of_this_test")
    module.coins = coins  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "coins_of_this_test", module)
    bound = 1.0 / (1.0 + math.exp(-EPSILON)) + DELTA
    low, _, _ = attacked(tmp_path / "open")
    assert low > bound, "without privacy the attack does better than the bound allows"
    _, found, _ = attacked(tmp_path / "private", mechanism="example", epsilon=EPSILON, delta=DELTA)
    assert found < bound
