"""A personal head: after the federation, an institution trains the last layers on its own data, and shares nothing."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.twin import Twin, settings_with
from dictpfl.client.training.measuring import means
from dictpfl.client.training.task import Task
from dictpfl.client.training.train import evaluate, train
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.law.seeds import small_seed
from dictpfl.common.settings import Decomposition, Training

_HELD = 5
"""One in so many training samples is held out, to tell after which epoch to stop."""


@dataclass(frozen=True)
class Personal:
    """A model with a head of its own.

    Attributes:
        model: plain, of the class that was given, in evaluation mode.
        epochs: after so many it was best on the held-out samples; 0: no epoch made it better, it is what it was.
        trained: samples it was trained on.
        held: samples held out.
        parameters: number of values that were trained.
    """

    model: nn.Module
    epochs: int
    trained: int
    held: int
    parameters: int


def personalise(
    model: nn.Module,
    samples: Samples,
    training: Training,
    task: Task,
    *,
    epochs: int,
    layers: int,
    seed: bytes,
    masked: Collection[str] = (),
) -> Personal:
    """Train the last layers; the rest, its statistics included, stays as it is.

    A fifth of the samples, drawn by seed, is held out. Of the start and all epochs that is kept which has the least loss on
    them, so that a head that only learns its samples by heart is not taken.

    Args:
        model: plain; it is not changed.
        samples: the institution's training samples, at least five.
        training: as in the federation: optimiser, rate, batch size, device.
        task: the loss.
        epochs: most passes over the samples.
        layers: last layers with weights that are trained, and what is defined after them.
        seed: 32 bytes, of the split and of the batches.
        masked: names of weights with a learnt mask, whose zeros training would fill.

    Raises:
        DataError: too few samples. ConfigError: a last layer is masked. ModelError, ConfigError: see `dictpfl.client.training.train.train`.
    """
    if len(samples) < _HELD:
        raise DataError(f"{len(samples)} training samples; a personal head needs at least {_HELD}")
    held, rest = _divided(samples, seed)
    twin = Twin(model, settings_with(Decomposition(), {"enabled": False, "last_layers": layers}), {})
    if lost := sorted(set(masked) & {name for name, _, _ in twin.trainable()}):
        raise ConfigError(
            f"the federation learnt which entries of {lost[0]} are zero, and training it would fill them; train fewer last layers than {layers} "
            "(--layers), or export the model"
        )
    # Nothing is pulled back: it would be to where each epoch began.
    one = training.model_copy(update={"epochs": 1, "steps": 0, "proximal": 0.0})
    least, best, chosen = _loss(twin, held, training, task), copy.deepcopy(twin.module.state_dict()), 0
    for epoch in range(1, epochs + 1):
        train(twin, rest, one, task, seed=small_seed(seed, "personal", epoch))
        loss = _loss(twin, held, training, task)
        if loss < least:
            least, best, chosen = loss, copy.deepcopy(twin.module.state_dict()), epoch
    twin.module.load_state_dict(best)
    own = next(model.parameters()).dtype
    made = twin.merge().to(device="cpu", dtype=own).eval()
    return Personal(made, chosen, len(rest), len(held), sum(p.numel() for _, _, p in twin.trainable()))


def _loss(twin: Twin, samples: Samples, training: Training, task: Task) -> float:
    return means(evaluate(twin.module, samples, task, batch_size=training.evaluation_batch))[0]


def _divided(samples: Samples, seed: bytes) -> tuple[Samples, Samples]:
    order = np.random.default_rng(small_seed(seed, "personal split")).permutation(len(samples))
    count = len(samples) // _HELD
    return samples.take(np.sort(order[:count])), samples.take(np.sort(order[count:]))
