"""What is learnt: a loss to train by and a metric to report; a seam (`training.task`)."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor

from client.data import IGNORED
from common.errors import DataError, ModelError
from common.seams import load_seam


class Task(Protocol):
    """Outputs are what the model returns for a batch, targets the batch's labels."""

    metric_name: str
    """A word for reports."""
    higher_is_better: bool
    """Whether a larger metric is a better model."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of the batch, a scalar."""
        ...

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum of the metric over the batch, a scalar; divided by the sample count when reported."""
        ...


class Classification:
    """Cross-entropy and accuracy: outputs (batch, classes), targets int64 (batch,)."""

    metric_name = "accuracy"
    higher_is_better = True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy."""
        if outputs.ndim != 2 or targets.is_floating_point():  # noqa: PLR2004 -- batch, classes
            raise ModelError(
                f"classification: expected outputs (batch, classes) and integer labels, found outputs "
                f"{tuple(outputs.shape)} and labels {targets.dtype}; set training.task or change the model"
            )
        try:
            return F.cross_entropy(outputs, targets)
        except IndexError as error:
            raise DataError(
                f"a label is outside of 0..{outputs.shape[1] - 1}, the model's {outputs.shape[1]} classes"
            ) from error

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Number of samples whose largest output is the label's."""
        return (outputs.argmax(dim=1) == targets).sum()


class Regression:
    """Squared error, reported as absolute error: outputs (batch, 1) or of the targets' shape."""

    metric_name = "absolute error"
    higher_is_better = False

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error."""
        return F.mse_loss(*_alike(outputs, targets))

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum over samples of the absolute error, averaged over a sample's targets."""
        outputs, targets = _alike(outputs, targets)
        return (outputs - targets).abs().flatten(1).mean(dim=1).sum()


class CausalLM:
    """Next-token prediction: outputs (batch, tokens, vocabulary), targets the token ids, `IGNORED` where not learnt.

    A batch may be cut to its longest row: targets are cut to the outputs' length.
    """

    metric_name = "token accuracy"
    higher_is_better = True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over the batch's tokens; zero when none is to be learnt."""
        outputs, targets = _shifted(outputs, targets)
        total = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1)

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum over samples of the share of their tokens that the largest output names."""
        outputs, targets = _shifted(outputs, targets)
        learnt = targets != IGNORED
        right = ((outputs.argmax(dim=-1) == targets) & learnt).sum(dim=1)
        return (right / learnt.sum(dim=1).clamp(min=1)).sum()


def _shifted(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if outputs.ndim != 3 or targets.ndim != 2 or targets.is_floating_point():  # noqa: PLR2004 -- batch, tokens, vocabulary
        raise ModelError(
            f"causal-lm: expected outputs (batch, tokens, vocabulary) and token labels, found outputs {tuple(outputs.shape)} "
            f'and labels {tuple(targets.shape)}; set model.options.head = "causal-lm" and data.options.target = "next"'
        )
    return outputs[:, :-1], targets[:, 1 : outputs.shape[1]]


def _alike(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if outputs.shape[0] != targets.shape[0] or outputs.numel() != targets.numel():
        raise ModelError(
            f"regression: outputs {tuple(outputs.shape)} do not fit targets {tuple(targets.shape)}; "
            "the model needs one output for each target"
        )
    return outputs.reshape(len(targets), -1), targets.reshape(len(targets), -1).to(outputs.dtype)


def load_task(name: str) -> Task:
    """The task registered under a name, or `package.module:name` (a class, or a function that makes one).

    Raises:
        ConfigError: unknown name.
    """
    known = {"classification": Classification, "regression": Regression, "causal-lm": CausalLM}
    made: Task = load_seam(name, known, "training.task")()
    return made
