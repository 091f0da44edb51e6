"""Lua: the share of every row that goes, learnt by gradient while the weights stay frozen (Lu et al., NeurIPS 2025).

Only the thresholds of rows are trained (`dictpfl.client.model.sparse.twin`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dictpfl.client.compress.sparse.inputs import Squares, calibrate
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.sparse.masks import Masks
from dictpfl.client.model.sparse.scores import Floats, magnitude, ranks, wanda
from dictpfl.client.model.sparse.select import by_thresholds, require_sparsity
from dictpfl.client.model.sparse.twin import Ranks, ThresholdTwin
from dictpfl.client.model.sparse.weights import Weight, covered
from dictpfl.client.training.task import Task
from dictpfl.client.training.train import train
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Training

BATCHES = Training(batch_size=8, device="cpu")
"""Batches of `learn_thresholds` where nothing else is said."""
STEERED: Mapping[str, Any] = {
    "epochs": 1, "steps": 0, "optimizer": "adamw", "learning_rate": 1e-2, "dense_learning_rate": 0.0, "head_learning_rate": 0.0,
    "momentum": 0.0, "weight_decay": 0.0, "proximal": 0.0, "schedule": "constant", "warmup_rounds": 0, "warmup_steps": 0,
}  # fmt: skip
"""Settings of training that thresholds have of their own; a configuration's are about weights."""


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Thresholds that were learnt, and the masks that they mean.

    Attributes:
        values: t of each covered weight's rows, float64.
        every: ranks of each weight.
        sparsity: p.
        loss: mean training loss over the steps.
        steps, samples: of the optimiser, counted as they happened.
    """

    values: Mapping[str, Floats]
    every: Ranks
    sparsity: float
    loss: float
    steps: int
    samples: int

    def masks(self) -> Masks:
        """The exact masks."""
        return by_thresholds(self.every, self.values, self.sparsity)


def ranks_of(model: nn.Module, weights: Mapping[str, Weight], samples: Samples | None) -> dict[str, NDArray[np.int32]]:
    """Ranks by Wanda's scores on the dense model, or by magnitude where there are no samples."""
    if samples is None:
        return {name: ranks(magnitude(w)) for name, w in weights.items()}
    squares = Squares()
    calibrate(model, weights, samples, squares.see)
    squares.require_enough()
    squares.require_finite()
    return {name: ranks(wanda(w, squares.norms(name))) for name, w in weights.items()}


def learn_thresholds(
    model: nn.Module,
    samples: Samples,
    task: Task,
    sparsity: float,
    *,
    weights: Mapping[str, Weight] | None = None,
    steps: int = 120,
    rate: float = 1e-2,
    regularisation: float = 16.0,
    temperature: float = 1.0,
    weight_decay: float = 0.0,
    training: Training = BATCHES,
    seed: int = 1,
    every: Ranks | None = None,
) -> Thresholds:
    """Learn a threshold for each row of a model's covered weights.

    AdamW moves a threshold by about `rate` a step, so that rate times steps bounds how unequal rows can become. The authors' weight
    decay of 0.05 would pull all thresholds towards zero, against the regulariser; it is off here.

    Args:
        model: plain, not changed.
        samples: to rank by (Wanda) and to learn from.
        task: the loss.
        sparsity: p.
        weights: covered weights of it (`dictpfl.client.model.sparse.weights.covered`); None: those of the default rules.
        steps, rate, weight_decay: of AdamW.
        regularisation: strength of R.
        temperature: in ranks; lambda = m / temperature.
        training: how batches are made and computed: their size, device, autocast and the like; steps, optimiser and rates are those above.
        seed: of the batches.
        every: ranks; None: made from the samples.

    Raises:
        ConfigError: no step, or a sparsity or temperature that these weights cannot have.
        DataError: samples of fewer than 32 tokens.
        ModelError: the loss is not finite; a layer that has no masked form.
    """
    if steps < 1:  # to `train` 0 means epochs
        raise ConfigError(f"steps is {steps}; expected 1 or more, the optimiser's steps")
    weights = covered(model) if weights is None else weights
    require_sparsity(weights, sparsity)
    every = ranks_of(model, weights, samples) if every is None else every
    twin = ThresholdTwin(model, weights, every, sparsity, strength=regularisation, temperature=temperature)
    steered = {"optimizer": "adamw", "steps": steps, "learning_rate": rate, "weight_decay": weight_decay}
    trained = train(twin, samples, training.model_copy(update={**STEERED, **steered}), task, seed=seed)
    loss = trained.loss_sum / max(1, trained.samples_seen)
    return Thresholds(twin.thresholds(), every, sparsity, loss, trained.steps, trained.samples_seen)
