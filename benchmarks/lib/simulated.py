"""A simulated run to measure: its record by phase, and the samples of an institution."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.runs.run import Run

UNPADDED = {"encryption.pad_to": "none"}
"""Settings of federations whose bytes are reported: what methods send, not the step between two sizes that they end on."""
PHASES = ("train", "evaluate", "store", "seal", "fold", "open")
"""Phases of a round, in their order."""


def simulated(config: FederationConfig) -> tuple[Run, int]:
    """Simulate; the finished run, and the training samples of an institution (mean)."""
    from dictpfl.deploy.simulation.simulate import simulate

    samples: list[int] = []

    def count(founded: Any) -> None:
        from dictpfl.client.data.samples import Samples
        from dictpfl.client.folder import TRAIN

        institutions = range(config.federation.participants)
        samples.extend(len(Samples.load(founded.home(index) / TRAIN)) for index in institutions)

    with tempfile.TemporaryDirectory() as folder:
        run = simulate(config, Path(folder) / "run", engine="local", on_founded=count)
        return Run.load(run.folder), round(sum(samples) / len(samples))
