"""Baseline of a simulated run, which has all institutions' labels; in a deployment nobody has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.samples import samples_in
from dictpfl.client.folder import TRAIN
from dictpfl.client.training.baseline import baseline_of
from dictpfl.client.training.task import task_of
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.simulation.founding import Founded


def baseline(founded: Founded, reached: float) -> dict[str, Any] | None:
    """Describe the best answer that does not look at a sample: what it is, its figure, and whether the run's is better.

    Args:
        founded: federation.
        reached: figure of its model on the test split.

    Returns:
        None where the task knows no such answer.
    """
    config = founded.genesis.config
    homes = [founded.home(index) for index in range(config.federation.participants)]
    every = [some for some in (_labels(home / TRAIN) for home in homes) if len(some)]
    if not every:
        return None
    learnt = np.concatenate(every)
    if config.narrow.classes:
        learnt = learnt[np.isin(learnt, config.narrow.classes)]
    found = baseline_of(task_of(config.measuring), learnt, founded.test.labels, founded.genesis.outputs)
    if found is None:
        return None
    return {"what": found.what, "figure": found.figure, "passed": found.is_below(reached)}


def require_labels(founded: Founded) -> None:
    """Refuse samples of which no baseline can be made, before anything is trained.

    Raises:
        ConfigError: their labels are read with their features.
    """
    if not len(_labels(founded.home(0) / TRAIN)):
        raise ConfigError(
            "majority: the labels of these samples are read with their features, so that nobody knows the most frequent one; leave it out of the "
            "methods, or read samples into memory (data.lazy = false)"
        )


def _labels(path: Path) -> NDArray[Any]:
    """Read labels alone: features may be large."""
    with samples_in(path) as file:
        # Of samples that are read when they are needed, labels as large as features are not there.
        labels: NDArray[Any] = file["labels"] if "labels" in file else np.zeros(0)
    return labels
