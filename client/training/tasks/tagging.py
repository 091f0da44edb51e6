"""A class for each token of a text."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dictpfl.client.data.samples import IGNORED
from dictpfl.client.training.guesses import most_frequent
from dictpfl.client.training.losses import ClassLoss, no_class
from dictpfl.client.training.metrics.tag_accuracy import TagAccuracy
from dictpfl.client.training.shapes import units
from dictpfl.client.training.task import TASKS, Measured
from dictpfl.common.errors import ModelError


@TASKS.register("token-classification")
class TokenClassification(Measured):
    """Cross-entropy of each token's class: outputs (batch, tokens, classes), targets int64 (batch, tokens), `IGNORED` where none is.

    A batch may be cut to its longest row: targets are cut to the outputs' length.

    Args:
        class_weights, label_smoothing, focal: see `dictpfl.client.training.losses.ClassLoss`.
    """

    by_units = True

    def __init__(self, class_weights: Sequence[float] = (), label_smoothing: float = 0.0, focal: float = 0.0) -> None:
        super().__init__(TagAccuracy())
        self._loss = ClassLoss(class_weights, label_smoothing, focal)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over the batch's tokens that have a class; zero when none has."""
        if outputs.ndim != 3 or targets.ndim != 2:  # noqa: PLR2004 -- batch, tokens, classes
            raise ModelError(
                f"token-classification: expected outputs (batch, tokens, classes) and a label for each token, found outputs "
                f"{tuple(outputs.shape)} and labels {tuple(targets.shape)}; the model needs a head over tokens"
            )
        found, wanted = units(outputs, targets)
        try:
            return self._loss.of(found, wanted).sum() / max(1, len(wanted))
        except IndexError as error:
            raise no_class(outputs) from error

    def units(self, targets: Tensor) -> Tensor:
        """See `dictpfl.client.training.task.Task`: tokens that have a class."""
        return (targets != IGNORED).sum(dim=1)

    def guess(self, targets: Tensor, outputs: int) -> tuple[str, Tensor]:
        """See `dictpfl.client.training.task.Task`: every token the most frequent class, (tokens, outputs)."""
        return "every token the most frequent class", most_frequent(targets, outputs).expand(targets.shape[1], outputs)
