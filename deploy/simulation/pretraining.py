"""Training of W0 on a public split before genesis, so that its directions mean something."""

from __future__ import annotations

import numpy as np
from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.twin import Twin
from dictpfl.client.training.task import task_of
from dictpfl.client.training.train import train
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Decomposition, Pretrain, Training


def pretrain(model: nn.Module, public: Samples, settings: Pretrain, training: Training, seed: int) -> None:
    """Train every parameter of the model in place on the public split; nothing to do at 0 epochs.

    Raises:
        ConfigError: epochs are wanted, but there is no public split, or none of the wanted classes in it.
    """
    if settings.epochs == 0:
        return
    if settings.classes:
        public = public.take(np.flatnonzero(np.isin(public.labels, settings.classes)))
    if not len(public):
        raise ConfigError(
            "model.pretrain.epochs is set, but the public split holds no samples (of the wanted classes); "
            "raise data.public_share or change model.pretrain.classes"
        )
    full = Twin(model, Decomposition(enabled=False), {})
    schedule = training.model_copy(
        update={
            "epochs": settings.epochs,
            "steps": 0,
            "optimizer": "adam",
            "learning_rate": settings.learning_rate,
            "dense_learning_rate": 0.0,
            "head_learning_rate": 0.0,
            "batch_size": settings.batch_size,
            "warmup_steps": 0,
            "accumulate": 1,
            "proximal": 0.0,  # W0 begins at random: there is no shared model to stay near
        }
    )
    train(full, public, schedule, task_of(training), seed=seed)
    model.load_state_dict(full.merge().to("cpu").state_dict())
