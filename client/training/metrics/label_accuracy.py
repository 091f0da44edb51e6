"""Accuracy of labels that do not exclude each other."""

from __future__ import annotations

from torch import Tensor

from dictpfl.client.training.metric import METRICS
from dictpfl.client.training.shapes import labels


@METRICS.register("label-accuracy")
class LabelAccuracy:
    """Share of a sample's labels that are right; one is there from a probability of 1/2 on. Float targets of 0 and 1."""

    name = "label accuracy"
    higher_is_better = True

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum over samples of the share of their labels that are right."""
        found, wanted = labels(outputs, targets)
        right = ((found > 0) == (wanted > 0)).double().mean(dim=1)
        return right.reshape(len(targets), -1).mean(dim=1).sum()
