"""Loss options that several tasks share: weights of classes, smoothed labels, focus on what is hard (`training.task_options`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor

from dictpfl.common.errors import ConfigError, DataError, ModelError


class ClassLoss:
    """Cross-entropy of units: w_y (1 - p_y)^focal times the cross-entropy with labels that are 1 - smoothing sure.

    Weights are not divided by their sum over a batch, as torch does: a sample then counts the same in every batch, and at every
    institution.

    Args:
        weights: w, one a class; empty: 1. Agreed by all, since an institution's own class counts would tell of its data.
        smoothing: share of a label that is spread over all classes (Szegedy et al. 2016), 0 to 1.
        focal: gamma of the focal loss (Lin et al. 2017), 0 or more.

    Raises:
        ConfigError: out of range.
    """

    def __init__(self, weights: Sequence[float] = (), smoothing: float = 0.0, focal: float = 0.0) -> None:
        require_share("label_smoothing", smoothing)
        require_weights("class_weights", weights)
        if not focal >= 0:
            raise ConfigError(f"training.task_options: focal is {focal}; expected 0 or more")
        self._weights, self._smoothing, self._focal = tuple(map(float, weights)), smoothing, focal

    def of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each unit, (units,), of outputs (units, classes) and classes (units,).

        Raises:
            ModelError: another number of weights than of classes.
        """
        losses = F.cross_entropy(outputs, targets, label_smoothing=self._smoothing, reduction="none")
        if self._focal:
            right = outputs.softmax(dim=1).gather(1, targets.unsqueeze(1)).squeeze(1)
            losses = losses * focus(1 - right, self._focal)
        if self._weights:
            losses = losses * weights_of(self._weights, outputs, "class_weights")[targets]
        return losses

    def mean(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean of `of`; without options torch's own, to the last bit."""
        if not (self._weights or self._smoothing or self._focal):
            return F.cross_entropy(outputs, targets)
        return self.of(outputs, targets).mean()


def no_class(outputs: Tensor) -> DataError:
    """Make the error for a label that is none of the classes, the last dimension of outputs."""
    count = outputs.shape[-1]
    return DataError(
        f"a label is outside of 0..{count - 1}, the model's {count} classes; number them from 0 as all agreed"
    )


def focus(wrong: Tensor, focal: float) -> Tensor:
    """Factor of the focal loss, of the chances of being wrong."""
    # Of a chance that is 0 to the last bit, a power below 1 has an infinite slope, and nothing times that is not a number.
    return wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** focal


def weights_of(weights: Sequence[float], outputs: Tensor, option: str) -> Tensor:
    """Weights beside outputs (units, classes).

    Raises:
        ModelError: another number than of outputs.
    """
    if len(weights) != outputs.shape[1]:
        raise ModelError(
            f"training.task_options.{option} has {len(weights)} numbers, the model {outputs.shape[1]} outputs; give one for each"
        )
    return torch.tensor(weights, dtype=outputs.dtype, device=outputs.device)


def require_share(option: str, value: float) -> None:
    """Refuse what is no share.

    Raises:
        ConfigError: below 0, or 1 and more.
    """
    if not 0.0 <= value < 1.0:
        raise ConfigError(f"training.task_options: {option} is {value}; expected 0 or more, below 1")


def require_weights(option: str, weights: Sequence[float]) -> None:
    """Refuse weights that teach nothing.

    Raises:
        ConfigError: a negative one, or all zero.
    """
    if len(weights) and (min(weights) < 0 or not max(weights) > 0):
        raise ConfigError(
            f"training.task_options: {option} is {list(weights)}; expected numbers of 0 or more, not all 0"
        )
