"""Accuracy of a classification."""

from __future__ import annotations

from torch import Tensor

from dictpfl.client.training.metric import METRICS
from dictpfl.client.training.shapes import said


@METRICS.register("accuracy")
class Accuracy:
    """Share of samples whose largest output is the label's: outputs (batch, classes), targets int64 (batch,)."""

    name = "accuracy"
    higher_is_better = True

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Number of samples that are right."""
        return (said(outputs, targets) == targets).sum()
