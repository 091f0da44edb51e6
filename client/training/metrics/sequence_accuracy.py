"""Whole sequences that are right."""

from __future__ import annotations

from torch import Tensor

from dictpfl.client.data.samples import IGNORED
from dictpfl.client.training.metric import METRICS
from dictpfl.client.training.shapes import shifted


@METRICS.register("sequence-accuracy")
class SequenceAccuracy:
    """Share of samples of which every token is named by the largest output, given the tokens before it: (batch, tokens, vocabulary)."""

    name = "sequence accuracy"
    higher_is_better = True

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Number of such samples; one without a token to learn is none."""
        outputs, targets = shifted(outputs, targets)
        learnt = targets != IGNORED
        right = (outputs.argmax(dim=-1) == targets) | ~learnt
        return (right.all(dim=1) & learnt.any(dim=1)).sum()
