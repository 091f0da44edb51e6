"""A class, or labels, for each pixel of a picture."""

from __future__ import annotations

import torch
from torch import Tensor

from dictpfl.client.training.losses import ClassLoss, require_share
from dictpfl.client.training.metrics.dice import Dice, memberships
from dictpfl.client.training.shapes import are_labels, units
from dictpfl.client.training.task import TASKS, Measured
from dictpfl.client.training.tasks.multi_label import MultiLabel


@TASKS.register("segmentation")
class Segmentation(Measured):
    """Cross-entropy and soft Dice of pixels, reported as Dice: outputs (batch, classes, height, width).

    Targets are floats: masks of 0 and 1 (batch, classes, height, width), which may overlap, or classes (batch, height, width).

    Args:
        dice: share of the Dice loss (Milletari et al. 2016), 0 to 1; the rest is cross-entropy.
        focal: gamma of the focal loss in the latter.

    Raises:
        ConfigError: out of range.
    """

    def __init__(self, dice: float = 0.5, focal: float = 0.0) -> None:
        super().__init__(Dice())
        if dice != 1.0:
            require_share("dice", dice)
        self._dice, self._masks, self._classes = dice, MultiLabel(focal=focal), ClassLoss(focal=focal)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over pictures; of Dice, over classes too."""
        if are_labels(outputs, targets):
            pixels, chance = self._masks.loss(outputs, targets), outputs.sigmoid()
        else:
            pixels, chance = self._classes.mean(*units(outputs, targets)), outputs.softmax(dim=1)
        there = memberships(outputs, targets).to(chance.dtype)
        both, all_ = (chance * there).sum(dim=(2, 3)), (chance + there).sum(dim=(2, 3))
        return self._dice * (1 - (2 * both + 1) / (all_ + 1)).mean() + (1 - self._dice) * pixels

    def guess(self, targets: Tensor, outputs: int) -> tuple[str, Tensor]:
        """See `dictpfl.client.training.task.Task`: the same mask always, each pixel as so many pictures have it as is best."""
        if targets.ndim == 3:  # noqa: PLR2004 -- classes (batch, height, width)
            often = torch.nn.functional.one_hot(targets.long(), outputs).double().mean(dim=0).movedim(-1, 0)
            return "each pixel as most pictures have it", often
        often = targets.double().mean(dim=0)
        levels = [0.1, 0.2, 0.3, 0.4, 0.5]
        masks = [often - level for level in levels]
        reached = [float(self._metric.total(mask.expand(targets.shape), targets)) for mask in masks]
        return "the same mask for every picture", masks[reached.index(max(reached))]
