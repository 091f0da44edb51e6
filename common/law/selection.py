"""Choice of the best model, and of when to stop, made alike by every institution from the ledger (`[selection]`).

The ledger of a round holds losses and metrics of the shared model as it was before that round, summed over the
validation samples of all institutions. So each of them learns the same figure in the same round, and nobody else
learns it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.rounds import Selection

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Best:
    """The shared model with the best figure so far.

    Attributes:
        score: its figure, turned so that more is better.
        updates: number of update rounds in it.
        refreshes: number of dictionary refreshes in it.
        values: its shared vector, float64, shape (size,).
    """

    score: float
    updates: int
    refreshes: int
    values: Floats = field(repr=False)


@dataclass(frozen=True)
class Course:
    """Course of the validation figure so far; never altered.

    Attributes:
        best: best model; None before anything was measured.
        mark: last score that counted as progress, `min_delta` above the one before it.
        waited: number of update rounds in a row without progress.
    """

    best: Best | None = None
    mark: float = 0.0
    waited: int = 0

    def stopped(self, selection: Selection) -> bool:
        """Tell whether no further update is made; once true, always true."""
        return bool(selection.patience) and self.waited >= selection.patience

    def followed(self, selection: Selection, measured: Best, *, trains: bool = True) -> Course:
        """Add one more measurement; of equal scores the earlier one stays the best.

        Args:
            selection: settings.
            measured: the model, and its figure.
            trains: whether the round was one of updates; of the others a coordinator may ask for as many as it likes.
        """
        best = measured if self.best is None or measured.score > self.best.score else self.best
        if self.stopped(selection):
            return Course(best, self.mark, self.waited)
        if self.best is None or measured.score > self.mark + selection.min_delta:
            return Course(best, measured.score, 0)
        # The model that made progress may be measured twice: at the end of a run, and where the run goes on.
        again = self.best.updates == measured.updates and self.best.score == self.mark
        # Without patience it decides nothing, and every measurement counts: digests stay as they were.
        counts = not selection.patience or (trains and not again)
        return Course(best, self.mark, self.waited + counts)


def score(selection: Selection, samples: int, loss: float, metric: float) -> float:
    """Figure of a model, turned so that more is better; one division, the same bits on every platform.

    Args:
        selection: settings that say which figure counts.
        samples: number of validation samples, at least one.
        loss: sum of the loss over them, a multiple of 1/1024.
        metric: sum of the metric over them, a multiple of 1/1024.
    """
    if selection.by == "loss":
        return -(loss / samples)
    return metric / samples if selection.higher else -(metric / samples)
