"""Scores: one number for each shared value, sent in a score round (a door: `scores.measure`)."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.twin import Twin
from dictpfl.client.training.task import Task
from dictpfl.common.errors import ModelError
from dictpfl.common.registry import Registry


class Scorer(Protocol):
    """A function that measures the shared model on an institution's own samples."""

    def __call__(self, twin: Twin, samples: Samples, task: Task) -> NDArray[np.float64]:
        """Scores, finite, shape (layout.size,).

        Args:
            twin: at the shared state; values are left unchanged.
            samples: the institution's training samples.
            task: the federation's.
        """
        ...


SCORERS: Registry[Scorer] = Registry(
    "score", key="scores.measure", group="dictpfl.scores", folder="dictpfl.client.training.scorers"
)


def scores_of(measure: str, twin: Twin, samples: Samples, task: Task, *, most: float = math.inf) -> NDArray[np.float64]:
    """Scores by the measure that the configuration names, checked.

    Args:
        measure: name of the measure.
        twin, samples, task: see `Scorer`.
        most: largest magnitude that a score round carries; larger ones would be clipped.

    Returns:
        float64, shape (layout.size,).

    Raises:
        ConfigError: unknown measure.
        ModelError: another shape, values that are not finite, or larger than `most`.
    """
    scores = np.asarray(SCORERS.load(measure)(twin, samples, task), dtype=np.float64)
    if scores.shape != (twin.layout.size,) or not np.isfinite(scores).all():
        raise ModelError(
            f"scores.measure {measure!r} returned an array of shape {scores.shape}, all finite: {bool(np.isfinite(scores).all())}; "
            f"expected one finite number for each of the {twin.layout.size} shared values"
        )
    if (largest := float(np.abs(scores).max(initial=0.0))) > most:
        raise ModelError(
            f"scores.measure {measure!r} goes up to {largest:g}, a score round carries {most:g} at most (grid.first_range): "
            "scale the scores, or raise grid.first_range"
        )
    return scores
