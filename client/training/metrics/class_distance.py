"""Distance between ordered classes."""

from __future__ import annotations

from torch import Tensor

from dictpfl.client.training.metric import METRICS
from dictpfl.client.training.shapes import said


@METRICS.register("class-distance")
class ClassDistance:
    """Mean number of classes between what is said and what is: outputs (batch, classes), classes in their order int64 (batch,)."""

    name = "classes apart"
    higher_is_better = False

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum over samples of the distance."""
        return (said(outputs, targets) - targets).abs().sum()
