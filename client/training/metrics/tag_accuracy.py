"""Accuracy of tokens' classes."""

from __future__ import annotations

from torch import Tensor

from dictpfl.client.data.samples import IGNORED
from dictpfl.client.training.metric import METRICS


@METRICS.register("tag-accuracy")
class TagAccuracy:
    """Share of a sample's tokens whose largest output is their class: outputs (batch, tokens, classes), targets int64 (batch, tokens)."""

    name = "tag accuracy"
    higher_is_better = True

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum over samples of the share of their tokens that are right; those without a class are left out."""
        targets = targets[:, : outputs.shape[1]]
        known = targets != IGNORED
        right = ((outputs[:, : targets.shape[1]].argmax(dim=-1) == targets) & known).sum(dim=1)
        return (right / known.sum(dim=1).clamp(min=1)).sum()
