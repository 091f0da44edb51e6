"""Absolute error of a regression."""

from __future__ import annotations

from torch import Tensor

from dictpfl.client.training.metric import METRICS
from dictpfl.client.training.shapes import alike


@METRICS.register("absolute-error")
class AbsoluteError:
    """Mean absolute error: outputs (batch, 1) or of the targets' shape."""

    name = "absolute error"
    higher_is_better = False

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum over samples of the absolute error, averaged over a sample's targets."""
        outputs, targets = alike(outputs, targets)
        return (outputs - targets).abs().flatten(1).mean(dim=1).sum()
