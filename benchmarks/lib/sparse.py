"""Arms of `lua.py`: masks of equal size on the same model, each with a name, and the rivals that train as long."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dictpfl.client.compress.sparse import sparsegpt
from dictpfl.client.compress.sparse.inputs import Grams
from dictpfl.client.compress.sparse.lua import learn_thresholds, ranks_of
from dictpfl.client.compress.sparse.prune import prune
from dictpfl.client.compress.sparse.sequential import in_order
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.sparse.masks import Masks
from dictpfl.client.model.sparse.select import by_thresholds
from dictpfl.client.model.sparse.twin import Ranks
from dictpfl.client.model.sparse.weights import Weight, covered
from dictpfl.client.training.batches import batches
from dictpfl.client.training.calling import forward
from dictpfl.client.training.task import Task
from dictpfl.client.training.train import evaluate
from dictpfl.common.settings import Training

LUA, EQUAL = "lua", "equal-steps"
TRAINED = (LUA, EQUAL)
"""Arms with a learning rate of their own."""
LEARNT = (LUA, "shuffled", "matrix-means", "random", "lua-sparsegpt")
"""Arms that are made from Lua's thresholds."""
ABOUT: Mapping[str, str] = {
    "dense": "the model as it is",
    "magnitude": "the smallest of each matrix",
    "wanda": "size times input norm, row by row",
    "global-wanda": "one threshold on that over everything",
    "sparsegpt": "what stays makes up for what goes",
    LUA: "a threshold a row, learnt",
    "shuffled": "Lua's thresholds permuted among the rows of each matrix",
    "matrix-means": "every row at its matrix's mean threshold",
    "random": "thresholds of Lua's own standard deviation, drawn",
    "equal-data": "Wanda calibrated on exactly the samples that Lua trained on",
    EQUAL: "Wanda's mask, norms and biases trained for Lua's steps on its batches",
    "lua-sparsegpt": "Lua's mask, what stays moved as SparseGPT does",
}
ARMS = tuple(ABOUT)
Values = Mapping[str, NDArray[np.float64]]
"""Thresholds of rows, by weight."""


@dataclass(frozen=True)
class Learnt:
    """Lua's thresholds, and the optimiser's steps and samples behind them, counted."""

    values: Values
    steps: int
    samples: int


@dataclass(frozen=True)
class Subject:
    """A model and its samples, from which the arms of a seed are made.

    Attributes:
        model: dense.
        calibration: samples whose inputs are measured.
        training: samples to learn from.
        validation: samples by which learning rates are chosen.
        held: samples to measure on, by name.
        task: the loss.
        steps, batch_size: of whatever is trained.
        seed: of batches and draws.
    """

    model: nn.Module
    calibration: Samples
    training: Samples
    validation: Samples
    held: Mapping[str, Samples]
    task: Task
    steps: int
    batch_size: int
    seed: int

    @cached_property
    def every(self) -> Ranks:
        """Ranks by Wanda's scores."""
        return ranks_of(self.model, covered(self.model), self.calibration)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Indices of the samples that training looks at, step after step."""
        numbers = torch.arange(len(self.training))
        found = [y for _, y in batches(numbers, numbers, self.plan, self.seed, torch.device("cpu"))]
        assert len(found) == self.steps, "as many batches as steps"
        seen: NDArray[np.int64] = torch.cat(found).numpy()
        return seen

    @property
    def plan(self) -> Training:
        """Steps and batches of whatever is trained here."""
        return Training(steps=self.steps, batch_size=self.batch_size, optimizer="adamw", device="cpu")

    def learnt(self, sparsity: float, rate: float) -> Learnt:
        """Learn Lua's thresholds."""
        found = learn_thresholds(
            self.model, self.training, self.task, sparsity, weights=covered(self.model), steps=self.steps, rate=rate,
            training=self.plan, seed=self.seed, every=self.every,
        )  # fmt: skip
        return Learnt(found.values, found.steps, found.samples)

    def made(self, arm: str, sparsity: float, rate: float, learnt: Callable[[], Learnt]) -> tuple[nn.Module, int, int]:
        """Make the model of an arm, with exactly the same number of zeros as all others.

        Args:
            arm: its name.
            sparsity: p.
            rate: of an arm that trains by itself.
            learnt: gives Lua's thresholds.

        Returns:
            The model; and optimiser's steps and samples, counted as they happened, 0 of an arm that does not train.
        """
        if arm == "dense":
            return self.model, 0, 0
        if arm in ("magnitude", "wanda", "sparsegpt"):
            return prune(self.model, self.calibration, self.task, sparsity, arm).model, 0, 0
        if arm == "global-wanda":
            pruned = prune(self.model, self.calibration, self.task, sparsity, "wanda", allocate="global")
            return pruned.model, 0, 0
        if arm == "equal-data":
            seen = self.training.take(np.unique(self.order))
            return prune(self.model, seen, self.task, sparsity, "wanda", sequential=False).model, 0, 0
        if arm == EQUAL:
            return self._tuned(sparsity, rate)
        model = copy.deepcopy(self.model)
        weights = covered(model)
        found = learnt()
        masks = self._masks(arm, sparsity, found.values)
        if arm == "lua-sparsegpt":
            self._moved(model, weights, masks)
        masks.put_on(weights)
        return model, found.steps, found.samples

    def _masks(self, arm: str, sparsity: float, values: Values) -> Masks:
        draw = np.random.default_rng(self.seed)
        if arm == "shuffled":
            values = {n: draw.permutation(t) for n, t in values.items()}
        elif arm == "matrix-means":
            values = {n: np.full(len(t), t.mean()) for n, t in values.items()}
        elif arm == "random":
            spread = float(np.concatenate(list(values.values())).std())
            values = {n: sparsity + spread * draw.normal(size=len(t)) for n, t in values.items()}
        return by_thresholds(self.every, values, sparsity)

    def _moved(self, model: nn.Module, weights: Mapping[str, Weight], masks: Masks) -> None:
        @torch.no_grad()
        def decide(group: Sequence[Weight], grams: Grams) -> None:
            for w in group:
                moved, _ = sparsegpt.of_weight(w, grams.sums[w.name], 0, mask=masks.by_name[w.name])
                w.parameter.copy_(w.as_stored(moved))

        in_order(model, weights, self.calibration, Grams, decide, by_input=True)

    def _tuned(self, sparsity: float, rate: float) -> tuple[nn.Module, int, int]:
        model = prune(self.model, self.calibration, self.task, sparsity, "wanda", sequential=False).model
        chosen = []
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.ndim == 1)
            chosen += [parameter] if parameter.ndim == 1 else []
        optimizer = torch.optim.AdamW(chosen, rate, weight_decay=0.0)
        features, labels = torch.from_numpy(self.training.features), torch.from_numpy(self.training.labels)
        steps = samples = 0
        for x, y in batches(features, labels, self.plan, self.seed, torch.device("cpu")):
            optimizer.zero_grad()
            torch.autograd.backward(self.task.loss(forward(model, x).float(), y))
            optimizer.step()
            steps, samples = steps + 1, samples + len(x)
        return model.requires_grad_(requires_grad=True).eval(), steps, samples


_SEQUENCES = 4
"""Measured at a time: each of 256 tokens has 49,152 outputs, and two processes run."""


def figures(model: nn.Module, samples: Samples, task: Task) -> dict[str, Any]:
    """Metric and loss of a model on samples."""
    few = _SEQUENCES if np.issubdtype(samples.features.dtype, np.integer) else 0
    reached = evaluate(model, samples, task, batch_size=few)
    return {"metric": reached.metric_sum / reached.count, "loss": reached.loss_sum / reached.count}
