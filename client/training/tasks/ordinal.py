"""Classes in an order, such as grades of a disease."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dictpfl.client.training.guesses import most_frequent
from dictpfl.client.training.losses import no_class, require_weights, weights_of
from dictpfl.client.training.metrics.class_distance import ClassDistance
from dictpfl.client.training.task import TASKS, Measured
from dictpfl.common.errors import ModelError


@TASKS.register("ordinal")
class Ordinal(Measured):
    """Cross-entropy of "at most class k", over all k, reported as the distance in classes: outputs (batch, classes), int64 (batch,).

    The probability of each class is the softmax of its output, that of "at most k" the sum of the first: so a wrong class costs the
    more, the further it is (the logarithmic form of Epstein's ranked probability score, 1969), and all that works for classes works here.

    Args:
        class_weights: of the samples of each class; empty: 1.

    Raises:
        ConfigError: weights that teach nothing.
    """

    def __init__(self, class_weights: Sequence[float] = ()) -> None:
        super().__init__(ClassDistance())
        require_weights("class_weights", class_weights)
        self._weights = tuple(map(float, class_weights))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over samples of the mean over k."""
        if outputs.ndim != 2 or targets.is_floating_point() or outputs.shape[1] < 2:  # noqa: PLR2004 -- batch, two classes
            raise ModelError(
                f"ordinal: expected outputs (batch, classes) of two classes or more and integer labels, found outputs "
                f"{tuple(outputs.shape)} and labels {targets.dtype}; number the classes 0, 1, 2, ... in their order"
            )
        chances = outputs.log_softmax(dim=1)
        at_most = torch.logcumsumexp(chances, dim=1)[:, :-1]
        above = torch.logcumsumexp(chances.flip(1), dim=1).flip(1)[:, 1:]
        is_above = targets.unsqueeze(1) > torch.arange(at_most.shape[1], device=targets.device)
        # Compared alone, a class beyond the last would pass for the last.
        try:
            chances.detach().gather(1, targets.unsqueeze(1))
        except RuntimeError as error:
            raise no_class(outputs) from error
        losses = -torch.where(is_above, above, at_most).mean(dim=1)
        if self._weights:
            losses = losses * weights_of(self._weights, outputs, "class_weights")[targets]
        return losses.mean()

    def guess(self, targets: Tensor, outputs: int) -> tuple[str, Tensor]:
        """See `dictpfl.client.training.task.Task`: always the median, which is nearest to all on average, (outputs,)."""
        return "always the median class", most_frequent(targets.median().reshape(1), outputs)
