"""One round of a federation of vision transformers on this machine, and what it took; rows of real sizes share it."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.common.config import FederationConfig
from dictpfl.deploy.simulation.simulate import simulate

SIDE, CLASSES = 224, 10
EACH = 2
"""Samples of an institution, on average; one batch."""


def pictures(institutions: int) -> Dataset:
    """Noise of a photograph's shape: what is measured depends on shapes alone."""
    random = np.random.default_rng(0)
    count = (EACH + 2) * institutions
    features = random.standard_normal((count, 3, SIDE, SIDE), dtype=np.float32)
    return Dataset(Samples(features, np.arange(count, dtype=np.int64) % CLASSES), CLASSES)


def one_round(architecture: str, institutions: int, method: str) -> dict[str, Any]:
    """Found the federation and play its round in this process, under CKKS; samples and rounds are few, weights are random."""
    import timm

    config = FederationConfig.of(
        {}, {
            "method": method, "federation.participants": institutions, "federation.rounds": 1, "training.steps": 1,
            "training.batch_size": 2, "data.validation_share": 0.0,
        },
    )  # fmt: skip
    model = timm.create_model(architecture, num_classes=CLASSES)
    values = sum(parameter.numel() for parameter in model.parameters())
    marks: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        run = simulate(
            config, Path(name) / "run", engine="local", model=model, data=partial(pictures, institutions),
            on_founded=lambda _: marks.append(time.perf_counter()), on_round=lambda _: marks.append(time.perf_counter()),
        )  # fmt: skip
        disk = _on_disk(Path(name))
    return {
        "parameters": values,
        "sent": run.records[0].sent,
        "institutions": institutions,
        "method": method,
        "digest": run.summary["state_digest"],
        "seconds_to_found": marks[0] - began,
        "seconds_of_round": marks[1] - marks[0],
        "seconds_an_institution": (marks[1] - marks[0]) / institutions,
        "disk_gib": disk / 2**30,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "cores": len(os.sched_getaffinity(0)),
        "free_disk_gib": shutil.disk_usage(tempfile.gettempdir()).free / 2**30,
    }


def _on_disk(folder: Path) -> int:
    """Bytes of the files below a folder, one of many names counted once."""
    files = {(s.st_dev, s.st_ino): s.st_blocks * 512 for s in (path.lstat() for path in folder.rglob("*"))}
    return sum(files.values())
