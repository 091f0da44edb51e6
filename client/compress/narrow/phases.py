"""One skill out of a general model: a phase on its samples, the cut, and recovery, in one of several ways."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dictpfl.client.compress.cutting.axes import Axis, Ints
from dictpfl.client.compress.cutting.cut import cut
from dictpfl.client.compress.narrow.groups import Lasso
from dictpfl.client.compress.narrow.scoring import SCORES, score
from dictpfl.client.compress.narrow.teaching import taught
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.gates import SUFFIX, Gates, outgoing_norms
from dictpfl.client.model.rules import head_of
from dictpfl.client.model.twin import Twin, make_dictionaries
from dictpfl.client.training.task import Task
from dictpfl.client.training.train import Trained, train
from dictpfl.common.errors import ConfigError
from dictpfl.common.keeping import keep, require_admissible
from dictpfl.common.settings import Decomposition, Training

GATES, LASSO, SCRATCH, DISTIL, UNCUT = "gates", "lasso", "scratch", "distil", "uncut"
WAYS = (GATES, LASSO, *SCORES, SCRATCH, DISTIL, UNCUT)
"""Words for how a skill is taken out; the last three are there to compare with."""
_SCORED = 480
"""Samples that scores are taken on, at most."""
_CLOSED = 0.05
"""Size below which a gate, 1 at the start, counts as closed: Adam holds one that is drawn to 0 within its rate of it."""


@dataclass(frozen=True)
class Narrowing:
    """Way to take a skill out.

    Attributes:
        way: one of `WAYS`.
        keep: share of each axis' units that stays, below 1; or their number.
        steps: optimiser steps on the skill before the cut, under the penalty where the way has one.
        recover: steps after it.
        penalty: factor of the penalty of gates or group lasso.
        rate: learning rate of gates.
        tables: rank of tables that are trained beside gates and head; 0: none.
        seed: of batches, and of what is drawn.
    """

    way: str = GATES
    keep: float = 0.25
    steps: int = 300
    recover: int = 300
    penalty: float = 1e-2
    rate: float = 1e-2
    tables: int = 0
    seed: int = 1


@dataclass(frozen=True)
class Narrowed:
    """Narrow model, and what it took.

    Attributes:
        right_after: the model right after the cut, plain, in evaluation mode.
        model: the model after recovery.
        kept: units that stayed, by axis; empty of a way that chooses none.
        steps: optimiser steps in all, as counted.
        samples: samples seen in all, as counted.
        closed: names of the axes all of whose gates closed; empty of a way without gates.
    """

    right_after: nn.Module
    model: nn.Module
    kept: Mapping[str, Ints]
    steps: int
    samples: int
    closed: tuple[str, ...] = ()


def narrow(
    model: nn.Module, axes: Mapping[str, Axis], samples: Samples, task: Task, training: Training, how: Narrowing
) -> Narrowed:
    """Take a skill out of a general model. Every way takes the same number of steps on the same samples.

    Args:
        model: general, plain; not changed.
        axes: of that model, those that are cut.
        samples: of the skill alone.
        task: task that gives the loss.
        training: optimiser, rates, batches; its `epochs` and `steps` are not used.
        how: the way.

    Raises:
        ConfigError: an unknown way, no axis, or a share or count that cannot be (`count_of`).
        DataError, ModelError: see `dictpfl.client.training.train.train`.
    """
    if how.way not in WAYS:
        raise ConfigError(f"no way of narrowing is called {how.way!r}; known: {', '.join(WAYS)}")
    if not axes:
        raise ConfigError("no axis to cut: expected at least one, such as the neurons of a feed-forward block")
    counts = {name: count_of(how.keep, axis) for name, axis in axes.items()}
    before = training.model_copy(update={"steps": how.steps})
    after = training.model_copy(update={"steps": how.recover})
    if how.way == GATES:
        tuned, kept, done, closed = _gated(model, axes, counts, samples, task, before, how)
    else:
        (tuned, kept, done), closed = _chosen(model, axes, counts, samples, task, before, how), ()
    small = cut(tuned, kept).eval() if kept else tuned
    if how.way in (SCRATCH, DISTIL):
        if how.way == DISTIL:
            samples, task = taught(model, samples)
        small, first = trained(_fresh(cut(model, _first(axes, counts)), how.seed), samples, task, before, how.seed)
        done = [first]
    recovered, last = trained(small, samples, task, after, how.seed + 1)
    every = [*done, last]
    return Narrowed(
        copy.deepcopy(small).eval(),
        recovered,
        kept,
        sum(t.steps for t in every),
        sum(t.samples_seen for t in every),
        closed,
    )


def count_of(share: float, axis: Axis) -> int:
    """Count the units that stay: a share below 1, rounded to whole groups and at least one in each; or a number.

    Raises:
        ConfigError: neither a share above 0 and below 1 nor a whole number, or a number of units that cannot stay.
    """
    if not 0 < share < 1 and not (math.isfinite(share) and share >= 1 and share == int(share)):
        raise ConfigError(
            f"keep is {share:g}: expected a share of each layer's units above 0 and below 1, such as 0.25, or a whole number of them, such as 48"
        )
    if share < 1:
        return axis.groups * max(1, round(share * axis.units / axis.groups))
    require_admissible(int(share), axis.units, axis.groups, axis.name)
    return int(share)


def one_stays(share: float, axes: Mapping[str, Axis]) -> str:
    """Say of which axes a share would leave no unit, so that one stays, in each group; empty where there is no such axis."""
    names = [name for name, axis in axes.items() if share < 1 and not round(share * axis.units / axis.groups)]
    if not names:
        return ""
    groups = " of each group" if any(axes[name].groups > 1 for name in names) else ""
    return (
        f"keep = {share:g} is less than a unit of {', '.join(names)}; at least one unit{groups} stays in every layer."
    )


def all_closed(gates: Mapping[str, NDArray[np.float64]]) -> tuple[str, ...]:
    """Name the axes whose gates have all closed, as under too strong a penalty; the units that stay let nearly nothing through there."""
    return tuple(name for name, values in gates.items() if np.abs(values).max(initial=0.0) < _CLOSED)


def closed_words(closed: Sequence[str]) -> str:
    """Say which axes' gates have all closed; empty where none."""
    if not closed:
        return ""
    return (
        f"All gates of {', '.join(closed)} closed: at least one unit stays in every layer, but those lead to almost nothing before recovery. "
        "A lower penalty leaves the skill open."
    )


def kept_by_gates(axis: Axis, gates: NDArray[np.float64], norms: NDArray[np.float32], count: int) -> Ints:
    """Choose the units with the largest `|g_u| ||out_u||`, elementwise in float64, ties by index: the same on every machine."""
    return keep(np.abs(gates) * norms.astype(np.float64), axis.group, count)


def _chosen(
    model: nn.Module,
    axes: Mapping[str, Axis],
    counts: Mapping[str, int],
    samples: Samples,
    task: Task,
    training: Training,
    how: Narrowing,
) -> tuple[nn.Module, dict[str, Ints], list[Trained]]:
    """Train on the skill and choose; the tuned model, the units that stay by axis, and what was counted."""
    if how.way in (SCRATCH, DISTIL):
        return model, {}, []
    axis_list = tuple(axes.values()) if how.way == LASSO else ()
    tuned, done = trained(model, samples, task, training, how.seed, axis_list, how.penalty)
    if how.way == UNCUT:
        return tuned, {}, [done]
    few = samples.take(np.random.default_rng(how.seed).permutation(len(samples))[:_SCORED])
    word = "magnitude" if how.way == LASSO else how.way
    scores = {name: score(tuned, axis, few, task, word, how.seed) for name, axis in axes.items()}
    return tuned, {name: keep(scores[name], axis.group, counts[name]) for name, axis in axes.items()}, [done]


def _gated(
    model: nn.Module,
    axes: Mapping[str, Axis],
    counts: Mapping[str, int],
    samples: Samples,
    task: Task,
    training: Training,
    how: Narrowing,
) -> tuple[nn.Module, dict[str, Ints], list[Trained], tuple[str, ...]]:
    outs = {name: axis.out[0] for name, axis in axes.items()}
    norms = outgoing_norms(model, list(outs.values()))
    twin = _twin(model, Gates(norms, how.penalty, how.rate), how)
    done = train(twin, samples, training, task, seed=how.seed) if training.steps else Trained(0, 0.0)
    values = twin.layout.unflatten(twin.read())
    gates = {name: values[out + SUFFIX] for name, out in outs.items()}
    kept = {name: kept_by_gates(axis, gates[name], norms[outs[name]], counts[name]) for name, axis in axes.items()}
    return _home(twin, model), kept, [done], all_closed(gates)


def _twin(model: nn.Module, gates: Gates, how: Narrowing) -> Twin:
    """Gates in front of frozen weights; the head is trained beside them, as in a federation."""
    if not how.tables:
        return Twin(model, Decomposition(enabled=False, frozen=["*"], dense=sorted(head_of(model))), {}, gates)
    settings = Decomposition(rank=how.tables, biases=False, norms=False, positions=False, tokens=False)
    return Twin(model, settings, make_dictionaries(model, settings, how.seed.to_bytes(32, "little")), gates)


def trained(
    model: nn.Module,
    samples: Samples,
    task: Task,
    training: Training,
    seed: int,
    axes: tuple[Axis, ...] = (),
    penalty: float = 0.0,
) -> tuple[nn.Module, Trained]:
    """Train every parameter of a copy for `training.steps`, under the group lasso of axes if there are any; 0: none."""
    if not training.steps:
        return copy.deepcopy(model).eval(), Trained(0, 0.0)
    twin = Twin(model, Decomposition(enabled=False), {})
    if axes:
        twin.penalty = Lasso(twin.module, axes, penalty)
    done = train(twin, samples, training, task, seed=seed)
    return _home(twin, model), done


def _home(twin: Twin, model: nn.Module) -> nn.Module:
    return twin.merge().to("cpu", next(model.parameters()).dtype).eval()


def _first(axes: Mapping[str, Axis], counts: Mapping[str, int]) -> dict[str, Ints]:
    """Name the first units of each group: for shapes only, whose weights are drawn anew."""
    return {name: keep(np.zeros(axis.units), axis.group, counts[name]) for name, axis in axes.items()}


def _fresh(model: nn.Module, seed: int) -> nn.Module:
    """Draw all weights of a model anew, as its library does at the start.

    Raises:
        ConfigError: a module with weights of its own that does not say how they are drawn.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hasattr(model, "config") and hasattr(model, "save_pretrained"):
            return type(model)(model.config)
        of_timm = type(model).__module__.startswith("timm.") and hasattr(model, "init_weights")
        for name, part in model.named_modules():
            if not list(part.parameters(recurse=False)) or (of_timm and part is model):
                continue
            if not hasattr(part, "reset_parameters"):
                raise ConfigError(
                    f"{name or type(model).__name__} does not say how its weights are drawn (reset_parameters); `scratch` cannot start"
                )
            part.reset_parameters()
        if of_timm:
            model.init_weights()  # type: ignore[operator] # tokens and positions, which hang on the model itself
    return model
