"""Arms of `lua.py`: masks of equal size on the same model, each with a name, and the rivals that train as long."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from dictpfl.client.compress.sparse import sparsegpt
from dictpfl.client.compress.sparse.inputs import Grams
from dictpfl.client.compress.sparse.lua import Thresholds, learn_thresholds, ranks_of
from dictpfl.client.compress.sparse.prune import prune
from dictpfl.client.compress.sparse.sequential import in_order
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.sparse.masks import Masks
from dictpfl.client.model.sparse.select import by_thresholds
from dictpfl.client.model.sparse.weights import Weight, covered
from dictpfl.client.training.batches import batches
from dictpfl.client.training.calling import forward
from dictpfl.client.training.task import Task
from dictpfl.client.training.train import evaluate
from dictpfl.common.settings import Training

ARMS = (
    "dense", "magnitude", "wanda", "global-wanda", "sparsegpt", "lua", "shuffled", "matrix-means", "random",
    "equal-data", "equal-steps", "lua-sparsegpt",
)  # fmt: skip
ABOUT: Mapping[str, str] = {
    "dense": "the model as it is",
    "magnitude": "the smallest of each matrix",
    "wanda": "size times input norm, row by row",
    "global-wanda": "one threshold on that over everything",
    "sparsegpt": "what stays makes up for what goes",
    "lua": "a threshold a row, learnt",
    "shuffled": "Lua's thresholds permuted among the rows of each matrix",
    "matrix-means": "every row at its matrix's mean threshold",
    "random": "thresholds of Lua's own standard deviation, drawn",
    "equal-data": "Wanda calibrated on exactly the samples that Lua trained on",
    "equal-steps": "Wanda's mask, norms and biases trained for Lua's steps on its batches",
    "lua-sparsegpt": "Lua's mask, what stays moved as SparseGPT does",
}


class Subject:
    """A model, its samples, and one run of Lua on it, from which the controls are made.

    Attributes:
        counted: optimiser steps and samples of each arm that trains, counted as they happen.
    """

    def __init__(
        self, model: nn.Module, calibration: Samples, training: Samples, task: Task, *, sparsity: float, steps: int, rate: float,
        batch_size: int, seed: int,
    ) -> None:  # fmt: skip
        self.model, self.calibration, self.training, self.task = model.eval(), calibration, training, task
        self.sparsity, self.steps, self.rate, self.batch_size, self.seed = sparsity, steps, rate, batch_size, seed
        self.weights = covered(self.model)
        self.counted: dict[str, tuple[int, int]] = {}
        self._learnt: Thresholds | None = None

    @property
    def learnt(self) -> Thresholds:
        """Lua's thresholds; learnt once."""
        if self._learnt is None:
            every = ranks_of(self.model, self.weights, self.calibration)
            self._learnt = learn_thresholds(
                self.model, self.training, self.task, self.sparsity, weights=self.weights, steps=self.steps, rate=self.rate,
                batch_size=self.batch_size, seed=self.seed, every=every,
            )  # fmt: skip
            self.counted["lua"] = (self.steps, len(self.order))
        return self._learnt

    @property
    def order(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Indices of the samples that training looks at, step after step."""
        numbers = torch.arange(len(self.training))
        found = [y for _, y in batches(numbers, numbers, self.plan, self.seed, torch.device("cpu"))]
        assert len(found) == self.steps, "as many batches as steps"
        return torch.cat(found).numpy()

    @property
    def plan(self) -> Training:
        """Steps and batches of whatever is trained here."""
        return Training(steps=self.steps, batch_size=self.batch_size, optimizer="adamw")

    def made(self, arm: str) -> nn.Module:
        """The model of an arm, with exactly the same number of zeros as all others."""
        if arm == "dense":
            return self.model
        if arm in ("magnitude", "wanda", "sparsegpt"):
            return prune(self.model, self.calibration, self.task, self.sparsity, arm).model
        if arm == "global-wanda":
            return prune(self.model, self.calibration, self.task, self.sparsity, "wanda", allocate="global").model
        if arm == "equal-data":
            seen = self.training.take(np.unique(self.order))
            return prune(self.model, seen, self.task, self.sparsity, "wanda", sequential=False).model
        if arm == "equal-steps":
            return self._tuned()
        model = copy.deepcopy(self.model)
        weights = covered(model)
        masks = self._masks(arm)
        if arm == "lua-sparsegpt":
            self._moved(model, weights, masks)
        masks.put_on(weights)
        return model

    def _masks(self, arm: str) -> Masks:
        values, draw = self.learnt.values, np.random.default_rng(self.seed)
        if arm == "shuffled":
            values = {n: draw.permutation(t) for n, t in values.items()}
        elif arm == "matrix-means":
            values = {n: np.full(len(t), t.mean()) for n, t in values.items()}
        elif arm == "random":
            spread = float(np.concatenate(list(values.values())).std())
            values = {n: self.sparsity + spread * draw.normal(size=len(t)) for n, t in values.items()}
        return by_thresholds(self.learnt.every, values, self.sparsity)

    def _moved(self, model: nn.Module, weights: Mapping[str, Weight], masks: Masks) -> None:
        @torch.no_grad()
        def decide(group: Sequence[Weight], grams: Grams) -> None:
            for w in group:
                moved, _ = sparsegpt.of_weight(w, grams.sums[w.name], 0, mask=masks.by_name[w.name])
                w.parameter.copy_(w.as_stored(moved))

        in_order(model, weights, self.calibration, Grams, decide, by_input=True)

    def _tuned(self) -> nn.Module:
        model = prune(self.model, self.calibration, self.task, self.sparsity, "wanda", sequential=False).model
        chosen = []
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.ndim == 1)
            chosen += [parameter] if parameter.ndim == 1 else []
        optimizer = torch.optim.AdamW(chosen, self.rate, weight_decay=0.0)
        features, labels = torch.from_numpy(self.training.features), torch.from_numpy(self.training.labels)
        steps = samples = 0
        for x, y in batches(features, labels, self.plan, self.seed, torch.device("cpu")):
            optimizer.zero_grad()
            torch.autograd.backward(self.task.loss(forward(model, x), y))
            optimizer.step()
            steps, samples = steps + 1, samples + len(x)
        self.counted["equal-steps"] = (steps, samples)
        return model.eval()


def figures(subject: Subject, model: nn.Module, held: Samples) -> dict[str, float]:
    """Metric and loss of a model on samples."""
    reached = evaluate(model, held, subject.task)
    return {"metric": reached.metric_sum / reached.count, "loss": reached.loss_sum / reached.count}
