"""Relearning audit: how fast a dropped skill comes back, between a model that never lost it and one that never had it.

What is left of a dropped skill is not what the model answers (a narrow head answers nothing) but how little it takes to bring it
back. *Ceiling* is the full model, *floor* the same small architecture trained from scratch on the kept skill alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dictpfl.client.compress.narrow.heads import head_layer, with_fresh_head
from dictpfl.client.compress.narrow.phases import trained
from dictpfl.client.compress.verdicts import Interval, interval
from dictpfl.client.data.samples import PADDING, Samples
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.client.training.task import Task
from dictpfl.client.training.train import evaluate
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Training

NEVER, THERE, UNCLEAR = "as if never learnt", "still there", "unclear"
_LITTLE, _MUCH = 0.2, 0.5
LEAST_GAP = 5.0
"""Points between ceiling and floor below which a residual is not stated: there is nothing to tell apart."""
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Residual:
    """Share of a dropped skill that is left.

    Attributes:
        interval: of (arm - floor) / (ceiling - floor) over seeds; None: not stated.
        gap: mean of ceiling - floor, in the figure's unit.
        reason: why it is not stated; empty where it is.
    """

    interval: Interval | None
    gap: float
    reason: str = ""

    @property
    def verdict(self) -> str:
        """Say what the interval shows."""
        if self.interval is None:
            return self.reason
        return NEVER if self.interval.high < _LITTLE else THERE if self.interval.low > _MUCH else UNCLEAR


def residual(
    arm: Sequence[float], ceiling: Sequence[float], floor: Sequence[float], least: float = LEAST_GAP
) -> Residual:
    """Place an arm between floor and ceiling, seed by seed; all differences are divided by the mean gap.

    One seed whose gap is small would outweigh all others if each were divided by its own.

    Args:
        arm, ceiling, floor: figures of the same seeds, larger is better.
        least: gap below which no figure is stated.

    Raises:
        ConfigError: other numbers of seeds, or none.
    """
    if not len(arm) == len(ceiling) == len(floor):
        raise ConfigError(f"{len(arm)}, {len(ceiling)} and {len(floor)} figures; expected the same seeds in each")
    interval(arm)  # refuses figures that are missing
    gap = fmean(ceiling) - fmean(floor)
    if not gap >= least:
        return Residual(
            None,
            gap,
            f"no figure: the model that was not cut and one that never learnt it are {gap:.1f} apart; below {least:g} nothing can be told",
        )
    return Residual(interval([(a - f) / gap for a, f in zip(arm, floor, strict=True)]), gap)


def relearnt(
    model: nn.Module,
    train: Samples,
    test: Samples,
    task: Task,
    training: Training,
    steps: Sequence[int],
    *,
    seed: int,
    fresh_head: bool = False,
) -> dict[int, float]:
    """Train copies of a model on a dropped skill, and measure it: figure by number of steps.

    Args:
        model: plain; not changed.
        train: samples of the dropped skill to learn from.
        test: others, to measure on.
        task: loss and metric; the figure is the metric in percent, turned round where a smaller one is better.
        training: optimiser, rates and batches.
        steps: numbers of optimiser steps.
        seed: of batches, and of a fresh head.
        fresh_head: draw the head's weights anew first. Training on the kept skill pushes the rows of dropped classes down; with
            the head as it is, much of what the steps do is to bring them up again, whatever the rest of the model knows.

    Raises:
        ConfigError: a fresh head where there is none.
    """
    start = with_fresh_head(model, seed) if fresh_head else model
    return {
        count: figure(
            trained(start, train, task, training.model_copy(update={"steps": count}), seed)[0], test, task
        )
        for count in steps
    }  # fmt: skip


def figure(model: nn.Module, samples: Samples, task: Task) -> float:
    """Measure the task's metric in percent, larger is better; NaN without samples."""
    totals = evaluate(model, samples, task)
    if not totals.count:
        return math.nan
    return (100.0 if task.higher_is_better else -100.0) * totals.metric_sum / totals.count


def probed(model: nn.Module, train: Samples, test: Samples) -> float:
    """Measure what a linear classifier reads of the dropped classes in the inputs of the head: percent of `test`.

    Raises:
        ConfigError: a model without a head, or labels that are no classes.
        DataError: samples of one class alone to learn from.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if train.labels.ndim != 1 or train.labels.dtype != np.int64:
        raise ConfigError("a linear probe needs one class a sample; these labels are none")
    if (found := np.unique(train.labels)).size < 2:  # noqa: PLR2004 -- classes to tell apart
        raise DataError(
            f"a linear probe tells classes apart, and the {len(train)} samples to learn from are of class {', '.join(map(str, found)) or '-'} "
            "alone; give samples of two classes or more"
        )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000))
    classifier.fit(_inside(model, train), train.labels)
    return 100.0 * float(classifier.score(_inside(model, test), test.labels))


def _inside(model: nn.Module, samples: Samples) -> NDArray[np.float64]:
    """Collect the inputs of the head, float64, shape (samples, values); of one that reads every token, that of a text's last, which answers."""
    caught: list[Tensor] = []
    handle = model.get_submodule(head_layer(model)).register_forward_pre_hook(
        lambda _, inputs: caught.append(inputs[0].detach())
    )
    found = []
    try:
        model.eval()
        with torch.no_grad():
            for x in torch.split(tensors_of(model, samples)[0], _AT_ONCE):
                forward(model, x)
                read = caught.pop()
                if x.dtype == torch.int64 and read.dim() == x.dim() + 1:
                    places = (x != PADDING) * torch.arange(x.shape[1], device=x.device)
                    read = read[torch.arange(len(x), device=x.device), places.argmax(dim=1)]
                found.append(read.flatten(1).double().cpu())
    finally:
        handle.remove()
    return torch.cat(found).numpy()


def verdicts(
    arms: Mapping[str, Sequence[Mapping[int, float]]], ceiling: str, floor: str, least: float = LEAST_GAP
) -> dict[str, dict[int, Residual]]:
    """Judge every arm at each number of steps.

    Args:
        arms: by name, for each seed the figures by number of steps; ceiling and floor are among them.
        ceiling: name of the arm that has the skill.
        floor: name of the arm that never had it.
        least: see `residual`.
    """
    counts = list(arms[ceiling][0])

    def at(name: str, count: int) -> list[float]:
        return [one[count] for one in arms[name]]

    return {
        name: {count: residual(at(name, count), at(ceiling, count), at(floor, count), least) for count in counts}
        for name in arms
        if name not in (ceiling, floor)
    }
