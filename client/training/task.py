"""Tasks: a loss to train by, and the metric to report (a door: `training.task`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from dictpfl.client.training.metric import Metric, is_additive, load_metric
from dictpfl.client.training.pooled import Metrics
from dictpfl.client.training.shapes import no_numbers
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.registry import Registry, require_bindable, require_part
from dictpfl.common.settings import Training


class Task(Protocol):
    """Task to learn: a loss and a metric. Outputs are those of the model for a batch, targets the batch's labels.

    One whose loss belongs to samples together, not to each, says `additive = False`: loss and metric are then measured on a
    whole split at once (`dictpfl.client.training.train.evaluate`), and what needs the gradient of one sample is refused.

    One whose samples hold several units, as texts hold tokens, and whose loss is a mean over the units of a batch, says
    `by_units = True`: its loss is then measured sample by sample, so that it does not depend on which samples share a batch. Where
    some samples may have none, it has `units(targets)`, their number in each, (batch,): a sample without any is not measured.

    One that must see the inputs, as a teacher does, has `loss_on(inputs, outputs, targets)` beside `loss`: that is what is
    trained by, `loss` what is measured (`dictpfl.client.training.distillation`).

    One that knows the best answer without looking has `guess(targets, outputs)`: that answer in words, and as outputs of one sample
    (`dictpfl.client.training.baseline`). One that wants another number of outputs than the data say has `wanted_outputs(found)`.
    `training.task_options` are the arguments of a task's class.
    """

    metric_name: str
    """A word for reports."""
    higher_is_better: bool
    """True where a larger metric is a better model."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of the batch, a scalar."""
        ...

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum of the metric over the batch, a scalar; divided by the sample count when reported."""
        ...


TASKS: Registry[type[Task]] = Registry(
    "task", key="training.task", group="dictpfl.tasks", folder="dictpfl.client.training.tasks"
)


class Measured:
    """A task's metric taken from `dictpfl.client.training.metric`; tasks of this project inherit it.

    Args:
        metric: to report.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self.metric_name, self.higher_is_better = metric.name, metric.higher_is_better
        self.metric_additive = is_additive(metric)

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Task.metric`."""
        return self._metric.total(outputs, targets)


class WithMetric(Measured):
    """A task's loss beside another metric than its own."""

    def __init__(self, task: Task, metric: Metric) -> None:
        super().__init__(metric)
        self.loss, self.additive = task.loss, is_additive(task)
        self.by_units = getattr(task, "by_units", False)
        for name in ("loss_on", "guess", "wanted_outputs", "units"):
            if (own := getattr(task, name, None)) is not None:
                setattr(self, name, own)


def load_task(name: str, options: Mapping[str, Any] = MappingProxyType({})) -> Task:
    """Make the task that a name leads to: a class, or a function that makes one.

    Raises:
        ConfigError: unknown, no task, or options that it does not take.
    """
    made = TASKS.load(name)
    require_bindable(made, options, f"training.task_options of {name!r}")
    try:
        task = made(**options)
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise ConfigError(f"training.task_options {dict(options)} of {name!r}: {error}; mend the options") from error
    require_part(task, f"training.task {name!r}", {"loss": 2, "metric": 2}, ("metric_name", "higher_is_better"))
    return task


def outputs_of(task: Task, found: int) -> int:
    """Number of outputs that a model has under a task: what the data say, unless the task says otherwise."""
    own = getattr(task, "wanted_outputs", None)
    return found if own is None else int(own(found))


def task_of(training: Training) -> Task:
    """Make the task of a configuration, with its metric.

    Raises:
        ConfigError: unknown task or metric, or a batch size at which the task teaches nothing.
    """
    task = load_task(training.task, training.task_options)
    if training.batch_size < 2 and not is_additive(task):  # noqa: PLR2004 -- one sample has nothing to be compared with
        raise ConfigError(
            f"training.task {training.task!r} compares the samples of a batch, and training.batch_size is 1: nothing would be "
            "learnt; raise it"
        )
    metric = load_metric(training.metric) if training.metric else None
    # Its own metric may be of something that the task makes of outputs first, as of the hazards of spans of time.
    is_own = isinstance(task, Measured) and type(metric) is type(task._metric)  # noqa: SLF001 -- of this module
    return task if metric is None or is_own else WithMetric(task, metric)


def with_units(task: Task, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield outputs and targets of batches without the samples of which there is nothing to measure, and no empty batch.

    A sample without a labelled unit would count as a loss of 0 and as wrong, and move both means.
    """
    units = getattr(task, "units", None)
    for outputs, targets in batches:
        # Labels of another shape are the loss's to refuse.
        known = None if units is None or targets.ndim < 2 else units(targets) > 0  # noqa: PLR2004 -- samples, units
        if known is None or bool(known.all()):
            yield outputs, targets
        elif bool(known.any()):
            yield outputs[known], targets[known]


def learnt(task: Task, targets: Tensor) -> int:
    """Number of a batch's samples of which there is something to learn."""
    units = getattr(task, "units", None)
    return len(targets) if units is None or targets.ndim < 2 else int((units(targets) > 0).sum())  # noqa: PLR2004 -- samples, units


def total_loss(task: Task, outputs: Tensor, targets: Tensor) -> float:
    """Sum of a batch's losses over its samples, of an additive task."""
    if getattr(task, "by_units", False):
        each = [task.loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(len(targets))]
        return float(torch.stack(each).double().sum())  # read once: a device waits for each number that is read
    return float(task.loss(outputs, targets)) * len(targets)


def totals(task: Task, outputs: Tensor, targets: Tensor, pooled: Metrics) -> tuple[float, float]:
    """Sums of loss and metric over samples; both NaN where the loss is.

    Raises:
        DataError: the loss is NaN, and there are pooled metrics, which are made of integers.
    """
    loss = total_loss(task, outputs, targets)
    if not math.isnan(loss):
        return loss, float(task.metric(outputs, targets))
    if pooled.parts:
        raise no_numbers()
    # Not the metric's own value: the largest of outputs that are NaN is some class, and may be the most frequent one.
    return loss, math.nan


def measured_whole(task: Task) -> bool:
    """Tell whether a task's figures are those of a whole split, not sums over its batches."""
    return not (is_additive(task) and getattr(task, "metric_additive", True))


def require_single(task: Task, what: str) -> None:
    """Refuse a task whose loss says nothing of one sample alone.

    Args:
        task: to look at.
        what: needs the gradient of one sample; for the message.

    Raises:
        ModelError: not additive.
    """
    if not is_additive(task):
        raise ModelError(
            f"{what} takes the gradient of each sample alone, and this task's loss belongs to samples together "
            "(additive = False); use another task, or do without"
        )


def training_loss(task: Task, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss that a batch is trained by: of a task that wants to see the inputs, its `loss_on`."""
    own: Any = getattr(task, "loss_on", None)
    found: Tensor = task.loss(outputs, targets) if own is None else own(inputs, outputs, targets)
    return found
