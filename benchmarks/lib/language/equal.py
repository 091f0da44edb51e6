"""Encryption changes nothing: a short run of each workload of text under ckks and under no encryption gives the same bits."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.simulation.simulate import simulate
from lib.machine import ROOT
from lib.paper.running import quiet

SHORT: Mapping[str, Any] = {
    "federation.rounds": 2,
    "training.steps": 1,
    "training.batch_size": 2,
    "training.threads": 1,
    "training.device": "cpu",
    "data.limit": 12,
    "data.test_limit": 4,
}
WORKLOADS = ("ag_news", "gsm8k")


def compare() -> int:
    """Say for each workload whether shared state and model are the same; 1 if one is not."""
    os.chdir(ROOT)
    quiet()
    different = 0
    for name in WORKLOADS:
        found = {sealer: _digests(name, sealer) for sealer in ("ckks", "identity")}
        same = found["ckks"] == found["identity"]
        print(
            f"{name}: state and model {'equal' if same else 'DIFFERENT'} under ckks and without encryption: {found['ckks']}"
        )
        different += not same
    return int(bool(different))


def _digests(name: str, sealer: str) -> dict[str, str]:
    changes = {**SHORT, "encryption.sealer": sealer, "toy_insecure": sealer == "identity"}
    with tempfile.TemporaryDirectory(prefix="equal-") as folder:
        config = FederationConfig.load(ROOT / "experiments" / f"{name}.toml", changes)
        summary = simulate(config, Path(folder) / "run", engine="local").summary
        return {key: str(summary[key]) for key in ("state_digest", "model_sha256")}
