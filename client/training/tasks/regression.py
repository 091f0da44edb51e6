"""One number or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor

from dictpfl.client.training.metrics.absolute_error import AbsoluteError
from dictpfl.client.training.shapes import alike
from dictpfl.client.training.task import TASKS, Measured
from dictpfl.common.errors import ConfigError

_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": F.mse_loss,
    "absolute": F.l1_loss,
    "huber": F.huber_loss,
}


@TASKS.register("regression")
class Regression(Measured):
    """Squared error, reported as absolute error: outputs (batch, 1) or of the targets' shape.

    Args:
        error: that is trained by: `squared`; `absolute`, which outliers move less; or `huber`, squared up to 1 and absolute beyond.

    Raises:
        ConfigError: another word.
    """

    def __init__(self, error: Literal["squared", "absolute", "huber"] = "squared") -> None:
        super().__init__(AbsoluteError())
        if error not in _LOSSES:
            raise ConfigError(f"training.task_options: error is {error!r}; expected one of {', '.join(_LOSSES)}")
        self._error = _LOSSES[error]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean error."""
        return self._error(*alike(outputs, targets))

    def guess(self, targets: Tensor, outputs: int) -> tuple[str, Tensor]:
        """See `dictpfl.client.training.task.Task`: always the mean of the targets, (outputs,)."""
        return "always the mean", targets.reshape(len(targets), outputs).mean(dim=0)
