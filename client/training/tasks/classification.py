"""One class of several."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dictpfl.client.training.guesses import most_frequent
from dictpfl.client.training.losses import ClassLoss, no_class
from dictpfl.client.training.metrics.accuracy import Accuracy
from dictpfl.client.training.task import TASKS, Measured
from dictpfl.common.errors import ModelError


@TASKS.register("classification")
class Classification(Measured):
    """Cross-entropy and accuracy: outputs (batch, classes), targets int64 (batch,).

    Args:
        class_weights, label_smoothing, focal: see `dictpfl.client.training.losses.ClassLoss`.
    """

    def __init__(self, class_weights: Sequence[float] = (), label_smoothing: float = 0.0, focal: float = 0.0) -> None:
        super().__init__(Accuracy())
        self._loss = ClassLoss(class_weights, label_smoothing, focal)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy."""
        if outputs.ndim != 2 or targets.is_floating_point():  # noqa: PLR2004 -- batch, classes
            raise ModelError(
                f"classification: expected outputs (batch, classes) and integer labels, found outputs "
                f"{tuple(outputs.shape)} and labels {targets.dtype}; set training.task or change the model"
            )
        try:
            return self._loss.mean(outputs, targets)
        except IndexError as error:
            raise no_class(outputs) from error

    def guess(self, targets: Tensor, outputs: int) -> tuple[str, Tensor]:
        """See `dictpfl.client.training.task.Task`: always the most frequent class."""
        return "always the most frequent class", most_frequent(targets, outputs)
