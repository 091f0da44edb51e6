"""Accuracy of next-token prediction."""

from __future__ import annotations

from torch import Tensor

from dictpfl.client.data.samples import IGNORED
from dictpfl.client.training.metric import METRICS
from dictpfl.client.training.shapes import shifted


@METRICS.register("token-accuracy")
class TokenAccuracy:
    """Share of a sample's tokens that the largest output names; outputs (batch, tokens, vocabulary)."""

    name = "token accuracy"
    higher_is_better = True

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum over samples of the share of their tokens that are right."""
        outputs, targets = shifted(outputs, targets)
        learnt = targets != IGNORED
        right = ((outputs.argmax(dim=-1) == targets) & learnt).sum(dim=1)
        return (right / learnt.sum(dim=1).clamp(min=1)).sum()
