"""Scores of units on the samples of a skill; larger ones stay. The forms are those of Michaud et al. 2025, section 4.

Attribution is that of cuts (`dictpfl.client.compress.cutting.scores`). Magnitude and activation are other figures there, those of
Minitron-SSM: products of norms, and squares of mean magnitudes by sample, which a tally can add.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dictpfl.client.compress.cutting.axes import Axis
from dictpfl.client.compress.cutting.scores import attribution
from dictpfl.client.compress.narrow.groups import by_unit, group_norms, tensors_by_name
from dictpfl.client.compress.sparse.inputs import Real
from dictpfl.client.data.samples import Samples
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.client.training.task import Task
from dictpfl.client.training.train import evaluate
from dictpfl.common.errors import ConfigError

Floats = NDArray[np.float64]
Score = Callable[[nn.Module, Axis, Samples, Task, int], Floats]
"""Score of each unit, float64, shape (units,), from a model in evaluation mode, an axis, samples, a task and a seed."""
_AT_ONCE = 64


def score(model: nn.Module, axis: Axis, samples: Samples, task: Task, how: str, seed: int = 0) -> Floats:
    """Score the units of an axis.

    Args:
        model: plain; left in evaluation mode, its gradients cleared.
        axis: units.
        samples: samples of the skill.
        task: task that gives the loss.
        how: one of `SCORES`.
        seed: seed of `random`.

    Returns:
        Scores, float64, shape (units,).

    Raises:
        ConfigError: an unknown word.
    """
    if how not in SCORES:
        raise ConfigError(f"no score is called {how!r}; known: {', '.join(SCORES)}")
    model.eval()
    return SCORES[how](model, axis, samples, task, seed)


def _attribution(
    model: nn.Module, axis: Axis, samples: Samples, task: Task, _seed: int, *, absolute: bool = False
) -> Floats:
    return attribution(model, axis, samples, task, absolute=absolute)


def ablation(model: nn.Module, axis: Axis, samples: Samples, task: Task, _seed: int) -> Floats:
    """Measure how the loss moves when a unit goes: `| E L(theta) - E L(theta without g) |`, one pass over the samples a unit."""
    parameters, before = tensors_by_name(model), _loss(model, samples, task)
    scores = np.zeros(axis.units)
    with torch.no_grad():
        for unit in range(axis.units):
            held = {name: parameters[name].clone() for name in axis.out}
            for one in axis.slices:
                if one.tensor in axis.out:
                    parameters[one.tensor].index_fill_(one.dim, torch.from_numpy(one.index[unit]), 0.0)
            scores[unit] = abs(_loss(model, samples, task) - before)
            for name, tensor in held.items():
                parameters[name].copy_(tensor)
    return scores


def magnitude(model: nn.Module, axis: Axis, _samples: Samples, _task: Task, _seed: int) -> Floats:
    """Take the Euclidean norm of a unit's group; no data are looked at."""
    return _array(group_norms(axis, {n: p.detach().double() for n, p in tensors_by_name(model).items()}))


def activation(model: nn.Module, axis: Axis, samples: Samples, _task: Task, _seed: int) -> Floats:
    """Average the absolute activation that a unit hands to its out-projection, over samples and tokens; padding counts nothing."""
    (name,) = axis.out
    column = next(one for one in axis.slices if one.tensor == name)
    totals, counts, real = torch.zeros(axis.units, dtype=torch.float64), 0, Real()

    def watch(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal totals, counts
        flat = real.rows(inputs[0]).abs().double()
        totals += by_unit(flat.sum(dim=0), 0, torch.from_numpy(column.index)).sum(dim=1).cpu()
        counts += len(flat)

    handle = model.get_submodule(name.rpartition(".")[0]).register_forward_pre_hook(watch)
    try:
        with torch.no_grad():
            for x in torch.split(tensors_of(model, samples)[0], _AT_ONCE):
                real.of(x)
                forward(model, x)
    finally:
        handle.remove()
    return _array(totals / max(1, counts))


def at_random(_model: nn.Module, axis: Axis, _samples: Samples, _task: Task, seed: int) -> Floats:
    """Draw a score for each unit, from the seed and the axis' name: the arm that every other one must beat."""
    return np.random.default_rng([seed, zlib.crc32(axis.name.encode())]).random(axis.units)


SCORES: Mapping[str, Score] = {
    "attribution": _attribution,
    "attribution-abs": partial(_attribution, absolute=True),
    "ablation": ablation,
    "magnitude": magnitude,
    "activation": activation,
    "random": at_random,
}


def _loss(model: nn.Module, samples: Samples, task: Task) -> float:
    totals = evaluate(model, samples, task)
    return totals.loss_sum / max(1, totals.count)


def _array(tensor: Tensor) -> Floats:
    return tensor.detach().to("cpu", torch.float64).numpy()
