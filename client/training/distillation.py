"""Distillation: a loss that has a teacher, around the loss of another task (Hinton et al. 2015, arXiv 1503.02531)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor, nn

from dictpfl.client.data.samples import IGNORED
from dictpfl.client.training.calling import forward
from dictpfl.client.training.metric import Metric
from dictpfl.client.training.task import Measured, Task, load_task
from dictpfl.common.errors import ConfigError

TAUGHT = ("causal-lm", "classification")
"""Tasks whose outputs are the logits of a distribution."""


class Distillation(Measured):
    """A task whose loss is, in part or whole, how far the student's distribution is from the teacher's.

        loss = weight T^2 KL(softmax(teacher / T) || softmax(student / T)) + (1 - weight) task loss

    The forward divergence, its mean over real tokens or samples: where there is padding, or a label that says so, nothing is
    taught. Loss and metric that are measured are the inner task's, and so is which model is best.

    Args:
        task: the inner one: `classification` or `causal-lm`.
        teacher: plain; kept in evaluation mode, without gradients.
        temperature: T, above 0.
        weight: share of the teacher, 0 to 1; at 1 no label is read but for where nothing is to be learnt.
        metric: to report; None: the inner task's own.
        options: of the inner task.

    Raises:
        ConfigError: a task whose outputs are no distribution, or values out of range.
    """

    def __init__(
        self,
        task: str,
        teacher: nn.Module,
        *,
        temperature: float = 1.0,
        weight: float = 1.0,
        metric: Metric | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        if task not in TAUGHT:
            raise ConfigError(
                f"distillation.task {task!r}: a teacher's distribution is known for {' and '.join(TAUGHT)} alone"
            )
        require_range(temperature, weight)
        inner = load_task(task, options)
        super().__init__(metric or inner._metric)  # type: ignore[attr-defined] # noqa: SLF001 -- tasks of this project are `Measured`
        self._inner: Task = inner
        self.by_units = getattr(inner, "by_units", False)
        if (units := getattr(inner, "units", None)) is not None:
            self.units = units
        self._shifts = task == "causal-lm"
        self._teacher = teacher.eval().requires_grad_(False)
        self._temperature, self._weight = temperature, weight

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Task.loss`: the inner task's, which is what is measured."""
        return self._inner.loss(outputs, targets)

    def loss_on(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss to train by.

        Args:
            inputs: the batch, as the student was given it.
            outputs: of the student: (batch, classes), or (batch, tokens, vocabulary).
            targets: labels; see the class for what is read of them.

        Raises:
            ConfigError: a teacher of another vocabulary, or of other classes.
        """
        parts = []
        if self._weight:
            parts.append(self._weight * self.divergence(inputs, outputs, targets))
        if self._weight < 1.0:
            parts.append((1.0 - self._weight) * self._inner.loss(outputs, targets))
        return torch.stack(parts).sum() if len(parts) > 1 else parts[0]

    def divergence(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """T^2 times the mean divergence."""
        with torch.no_grad():
            said = self._said(inputs, outputs)
        require_alike(said.shape[-1], outputs.shape[-1])
        if self._shifts:
            # The last token's successor is not known, and where labels say `IGNORED` nothing is to be learnt.
            length = min(said.shape[1], outputs.shape[1])
            real = targets[:, 1:length] != IGNORED
            said, outputs = said[:, : length - 1][real], outputs[:, : length - 1][real]
        if not len(outputs):
            return outputs.sum() * 0.0
        t = self._temperature
        # Their difference, not torch's kl_div of one of them: of two models that agree, it is zero to the last bit.
        of_teacher, of_student = F.log_softmax(said / t, dim=-1), F.log_softmax(outputs / t, dim=-1)
        return t * t * (of_teacher.exp() * (of_teacher - of_student)).sum(dim=-1).mean()

    def _said(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        first = next(self._teacher.parameters())
        if first.device != outputs.device or first.dtype != outputs.dtype:
            self._teacher.to(device=outputs.device, dtype=outputs.dtype)
        return forward(self._teacher, inputs).to(outputs.dtype)


def require_range(temperature: float, weight: float) -> None:
    """Refuse values that no loss has.

    Raises:
        ConfigError: out of range, infinite or not a number.
    """
    if not (0.0 < temperature < math.inf and 0.0 <= weight <= 1.0):
        raise ConfigError(
            f"distillation: temperature {temperature} must be a number above 0, weight {weight} one from 0 to 1"
        )


def require_alike(teacher: int, student: int) -> None:
    """Refuse a teacher that says other things than the student.

    Raises:
        ConfigError: with both numbers.
    """
    if teacher != student:
        raise ConfigError(
            f"the teacher knows {teacher} classes or tokens, the student {student}; they must be the same: use a teacher with the "
            "student's tokenizer or classes"
        )
