"""An institution's teacher: built from what genesis recorded, with the weights that came beside W0."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import nn

from dictpfl.client.folder import TEACHER
from dictpfl.client.model.build import build_model, load_weights
from dictpfl.client.training.distillation import Distillation
from dictpfl.client.training.metric import load_metric
from dictpfl.client.training.task import Task, task_of
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.files import tensors_digest
from dictpfl.common.genesis import Genesis
from dictpfl.common.settings import Model


def taught_task(config: FederationConfig, home: Path, genesis: Genesis) -> Task:
    """The task that an institution trains by, with its teacher where there is one.

    Args:
        config: agreed.
        home: folder with the genesis, where the teacher lies.
        genesis: agreement.

    Raises:
        ConfigError: unknown task or metric, or a teacher that is missing or not the agreed one.
    """
    if not config.distils:
        return task_of(config.training)
    settings = config.distillation
    metric = load_metric(config.training.metric) if config.training.metric else None
    teacher = read_teacher(genesis, home / TEACHER)
    return Distillation(
        settings.task, teacher, temperature=settings.temperature, weight=settings.weight, metric=metric,
        options=config.training.task_options,
    )  # fmt: skip


def read_teacher(genesis: Genesis, file: Path) -> nn.Module:
    """Build the teacher that genesis names and load its weights.

    Raises:
        ConfigError: no such file, or other weights than agreed on.
    """
    settings = genesis.config.distillation
    try:
        digest = tensors_digest(load_file(file)).hex()
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot read the teacher in {file}: {error}; restore it from the bundle") from error
    if digest != settings.sha256:
        raise ConfigError(f"{file} is not the teacher of this federation; restore it from the bundle")
    described = Model.model_validate(settings.recorded)
    teacher = build_model(described, genesis.sample_shape, genesis.outputs, genesis.config.seed)
    load_weights(teacher, file)
    return teacher.eval()
