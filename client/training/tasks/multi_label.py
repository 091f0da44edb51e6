"""Labels that do not exclude each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor

from dictpfl.client.training.losses import focus, require_share, require_weights, weights_of
from dictpfl.client.training.metrics.label_accuracy import LabelAccuracy
from dictpfl.client.training.shapes import labels
from dictpfl.client.training.task import TASKS, Measured
from dictpfl.common.errors import ConfigError


@TASKS.register("multi-label")
class MultiLabel(Measured):
    """Binary cross-entropy of each label, reported as the share of labels that are right: outputs and float targets (batch, labels).

    Args:
        label_weights: of a label that is there, one a label: above 1 where it is rare; empty: 1.
        label_smoothing: share of a label that is spread over yes and no, 0 to 1.
        focal: gamma of the focal loss (Lin et al. 2017), 0 or more.

    Raises:
        ConfigError: out of range.
    """

    def __init__(self, label_weights: Sequence[float] = (), label_smoothing: float = 0.0, focal: float = 0.0) -> None:
        super().__init__(LabelAccuracy())
        require_share("label_smoothing", label_smoothing)
        require_weights("label_weights", label_weights)
        if not focal >= 0:
            raise ConfigError(f"training.task_options: focal is {focal}; expected 0 or more")
        self._weights, self._smoothing, self._focal = tuple(map(float, label_weights)), label_smoothing, focal

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over samples and labels."""
        outputs, targets = labels(outputs, targets)
        soft = targets * (1 - self._smoothing) + 0.5 * self._smoothing
        losses = F.binary_cross_entropy_with_logits(outputs, soft.to(outputs.dtype), reduction="none")
        if self._focal:
            right = outputs.sigmoid()
            losses = losses * focus(torch.where(targets > 0, 1 - right, right), self._focal)
        if self._weights:
            weights = weights_of(self._weights, outputs, "label_weights")
            losses = losses * torch.where(targets > 0, weights, torch.ones_like(weights))
        return losses.mean()

    def guess(self, targets: Tensor, outputs: int) -> tuple[str, Tensor]:
        """See `dictpfl.client.training.task.Task`: each label as most samples have it, (outputs,)."""
        return "each label as most samples have it", targets.reshape(-1, outputs).mean(dim=0) - 0.5
