"""Bytes that a benchmark counts are those of the protocol; tables against bytes are read off rightly."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.courses import at_bytes, averaged, components, smoothed
from common.config import FederationConfig
from common.genesis import Genesis
from common.sealing import IDENTITY_COMPONENTS
from deploy.simulation import simulate


def course(accuracy: list[float], cost: float, seed: int = 1) -> dict:
    count = len(accuracy)
    return {"seed": seed, "accuracy": accuracy, "stream": [cost] * count, "wire": [2 * cost] * count, "sent": [10] * count,
            "values": {"model": 100}}  # fmt: skip


def test_accuracy_at_a_budget() -> None:
    found = course([60.0, 90.0, 90.0, 90.0], 5.0)
    assert smoothed(found) == [60.0, 75.0, 80.0, 90.0]
    assert at_bytes(found, 4.0) is None
    assert at_bytes(found, 5.0) == 60.0
    assert at_bytes(found, 19.0) == 80.0
    assert at_bytes(found, 1e9) == 90.0
    assert at_bytes(found, 19.0, "wire") == 60.0


def test_the_mean_of_seeds() -> None:
    both = averaged([course([90.0] * 3, 5.0), course([80.0] * 3, 7.0, seed=2)])
    assert (both["accuracy"], both["stream"], both["wire"], both["share"]) == (85.0, 18.0, 36.0, 10.0)
    assert both["spread"] == pytest.approx(7.071, abs=1e-3)
    assert both["spent"] == [6.0, 12.0, 18.0]
    assert both["seeds"] == {"1": 90.0, "2": 80.0}


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_components_are_those_of_uploads(bits: int, tmp_path: Path) -> None:
    config = FederationConfig.of({}, {
        "data.limit": 200, "federation.rounds": 3, "model.options": {"hidden": [16]}, "training.steps": 1,
        "encryption.sealer": "identity", "toy_insecure": True, "grid.value_bits": bits, "pruning.tau": 1,
    })  # fmt: skip
    run = simulate(config, tmp_path / "run", engine="local")
    genesis = Genesis.load(tmp_path / "run" / "sites" / "institution-000")
    for record in run.history[:3]:
        held = components(genesis, record.sent, first=record.update == 1)
        assert record.ciphertexts == -(-held // IDENTITY_COMPONENTS)
