"""Distillation at home: a small model is trained to say what a large one says, every parameter of it, on one machine."""

from __future__ import annotations

from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.twin import Twin
from dictpfl.client.training.distillation import Distillation
from dictpfl.client.training.task import Task, load_task
from dictpfl.client.training.train import Trained, train
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Decomposition, Training


def distil(
    student: nn.Module,
    teacher: nn.Module | None,
    samples: Samples,
    training: Training,
    *,
    temperature: float = 1.0,
    weight: float = 1.0,
    seed: int = 0,
) -> tuple[nn.Module, Trained]:
    """Train a copy of the student.

    Args:
        student: plain; left as it was.
        teacher: plain, of the same classes or vocabulary; None: by labels alone, for comparison at equal steps.
        samples: to train on.
        training: settings; `task` is the inner one, with its `task_options`; `learning_rate` is that of all parameters (a
            `head_learning_rate`, of all but the head), and `proximal` is not read.
        temperature, weight: see `dictpfl.client.training.distillation.Distillation`.
        seed: of batches and dropout.

    Returns:
        The trained copy, and samples seen with their loss.

    Raises:
        ConfigError: values out of range, or a teacher of other classes.
    """
    if teacher is None and weight:
        raise ConfigError("distil: no teacher, but a weight above 0; name one, or set the weight to 0")
    task: Task = load_task(training.task, training.task_options)
    if teacher is not None:
        task = Distillation(
            training.task, teacher, temperature=temperature, weight=weight, options=training.task_options
        )
    full = Twin(student, Decomposition(enabled=False), {})
    # Nothing is pulled back: there is no shared model, only where the student began.
    alone = training.model_copy(update={"dense_learning_rate": 0.0, "proximal": 0.0})
    trained = train(full, samples, alone, task, seed=seed)
    return full.merge().to("cpu"), trained
