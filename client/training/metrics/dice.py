"""Dice of segmented pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from dictpfl.client.training.metric import METRICS
from dictpfl.client.training.shapes import are_labels, pixels
from dictpfl.common.errors import ModelError


@METRICS.register("dice")
class Dice:
    """Mean over pictures, and their classes, of 2 |A and B| / (|A| + |B|); 1 where both are empty.

    Outputs (batch, classes, height, width), targets float: masks alike, or classes (batch, height, width), of which 0, the background,
    is left out. That of all pixels together is the `f1` of the metric `confusion`.
    """

    name = "dice"
    higher_is_better = True

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum over pictures."""
        there = memberships(outputs, targets)
        if are_labels(outputs, targets):
            said = outputs > 0
        else:
            said = torch.nn.functional.one_hot(outputs.argmax(dim=1), outputs.shape[1]).movedim(-1, 1) > 0
            said, there = said[:, 1:], there[:, 1:]
        both, all_ = ((part * 1.0).sum(dim=(2, 3)) for part in (said & there, said.int() + there.int()))
        return torch.where(all_ > 0, 2 * both / all_.clamp(min=1), 1.0).mean(dim=1).sum()


def memberships(outputs: Tensor, targets: Tensor) -> Tensor:
    """Tell which pixels are of which class, bool (batch, classes, height, width).

    Raises:
        ModelError: other shapes than those of pictures.
        DataError: a pixel of no class.
    """
    if outputs.ndim == 4 and are_labels(outputs, targets):  # noqa: PLR2004 -- batch, classes, height, width
        return targets > 0.5  # noqa: PLR2004 -- a mask of 0 and 1
    if outputs.ndim != 4 or targets.shape != outputs.shape[:1] + outputs.shape[2:]:  # noqa: PLR2004 -- the same
        raise ModelError(
            f"segmentation: expected outputs (batch, classes, height, width) and float masks alike, or classes (batch, height, width), "
            f"found outputs {tuple(outputs.shape)} and {targets.dtype} targets {tuple(targets.shape)}"
        )
    return torch.nn.functional.one_hot(pixels(targets, outputs.shape[1]), outputs.shape[1]).movedim(-1, 1) > 0
