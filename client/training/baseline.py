"""The baseline of a task: the best answer that does not look at a sample, which a model must be above to have learnt anything.

Of classes it is the most frequent one, of numbers their mean, always. A task says it by `guess`; one that has none has no baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dictpfl.client.training.task import Task, measured_whole, with_units

_AT_ONCE = 256


@dataclass(frozen=True)
class Baseline:
    """Baseline of a run.

    Attributes:
        what: the answer in words.
        figure: the task's mean metric of it.
        higher_is_better: which way the metric points.
    """

    what: str
    figure: float
    higher_is_better: bool

    def is_below(self, figure: float) -> bool:
        """Tell whether a model with this figure is better."""
        return figure > self.figure if self.higher_is_better else figure < self.figure


def baseline_of(task: Task, learnt: NDArray[Any], tested: NDArray[Any], outputs: int) -> Baseline | None:
    """Measure the baseline.

    Args:
        task: the federation's.
        learnt: labels that the answer is made of, those of training.
        tested: labels that it is measured on.
        outputs: number of the model's outputs.

    Returns:
        None where the task knows none, or there is nothing to measure.
    """
    guess = getattr(task, "guess", None)
    if guess is None or not len(learnt) or not len(tested):
        return None
    what, answer = guess(_tensor(learnt), outputs)
    targets, total, count = _tensor(tested), 0.0, 0
    parts = torch.split(targets, len(targets) if measured_whole(task) else _AT_ONCE)
    # Labels stand in for outputs: picked out of an answer that is repeated, rows would become as many copies of a vocabulary.
    for _, part in with_units(task, ((part, part) for part in parts)):
        same = answer.expand(len(part), *answer.shape)
        total, count = total + float(task.metric(same, part)), count + len(part)
    return Baseline(what, total / count, task.higher_is_better) if count else None


def _tensor(labels: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(labels))
