"""Local training of a twin, and measuring a model (`[training]`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from client.batches import forward, tensors_of
from client.data import Samples
from client.loading import Batch, batches
from client.speed import Precision, prepared
from client.tasks import Task
from client.twin import Twin
from common.errors import ConfigError, DataError, LayoutError, ModelError
from common.layout import Kind
from common.settings import Training

_MANY, _CACHED, _FEW = 512, 128, 64
"""Samples that are measured at a time: of numbers, of numbers without a GPU, of token ids. A processor is fastest while what
lies between two layers fits its cache; docs/performance.md has the figures."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a round of local training saw."""

    samples_seen: int
    """Samples over all steps."""
    loss_sum: float
    """Sum over them of the loss before each step; over `samples_seen` it is the mean training loss."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Sums over samples, so that institutions can add them."""

    count: int
    loss_sum: float
    metric_sum: float


def train(
    twin: Twin,
    samples: Samples,
    training: Training,
    task: Task,
    *,
    seed: int,
    sent: NDArray[np.bool_] | None = None,
    rate: float = 1.0,
) -> Trained:
    """Train the twin in place with a fresh optimiser; the same bits for the same seed, threads and machine.

    Args:
        twin: moved to the configured device and dtype, if it is not there (`Twin.to`), and left there.
        samples: at least one. A last batch of one sample joins the batch before it; a batch of one sample that
            remains is normalised by running statistics, for it has none of its own.
        training: optimiser, rates, epochs or steps.
        task: the loss.
        seed: of batches and dropout; torch's global random state is left as it was.
        sent: shape (layout.size,); when given, only these coordinates of tables and dense parameters change
            (`pruned = "freeze"`, FINDINGS). Statistics and local parameters change all the same.
        rate: factor on all learning rates (`client.speed.rate`).

    Raises:
        DataError: no samples.
        ConfigError: what this device or model does not have (autocast, checkpointing, augmentation).
        LayoutError: `sent` of another shape.
        ModelError: a loss that is not finite.
    """
    if not len(samples):
        raise DataError("no training samples: expected at least one; an institution without data cannot take part")
    device = resolve_device(training.device)
    twin.to(device=device, dtype=getattr(torch, training.dtype))
    precision = Precision(training, device)
    optimizer = make_optimizer(twin, training, rate)
    masks = None if sent is None else coordinate_masks(twin, sent)
    parameters = [p for _, _, p in twin.trainable()]
    norms = [m for m in twin.module.modules() if isinstance(m, _NormBase) and m.track_running_stats]
    seen, total = 0, 0.0
    twin.train()
    moving = [m for m in norms if m.training]
    features, labels = float_tensors(twin, samples)
    with seeded(seed, device), prepared(twin.module, training):
        for step, group in enumerate(_grouped(batches(features, labels, training, seed, device), training.accumulate)):
            optimizer.zero_grad(set_to_none=True)
            for x, y in group:
                for norm in moving:
                    norm.train(len(x) > 1)
                with precision.forward():
                    outputs = forward(twin.module, x)
                loss = task.loss(precision.output(outputs), y)
                value = float(loss.detach())
                if not np.isfinite(value):
                    raise ModelError(
                        f"training diverged: the loss is {value} after {seen} samples; "
                        "lower training.learning_rate, or set training.clip_norm"
                    )
                part = loss if len(group) == 1 else loss / len(group)
                torch.autograd.backward(part if precision.scaler is None else precision.scaler.scale(part))
                seen, total = seen + len(x), total + value * len(x)
            warm(optimizer, step, training.warmup_steps)
            _step(optimizer, parameters, masks, training.clip_norm, precision.scaler)
    return Trained(seen, total)


@torch.no_grad()
def evaluate(
    module: nn.Module, samples: Samples, task: Task, *, batch_size: int = 0, device: torch.device | str | None = None
) -> Measured:
    """Loss and metric of a module over samples, summed; zeros when there are none. Leaves it in evaluation mode.

    Args:
        module: a twin's or a plain one.
        samples: may be empty.
        task: loss and metric.
        batch_size: samples at a time; the sums hardly depend on it. 0: 128, or 512 on a GPU, or 64 of token ids.
        device: None: where the module is.
    """
    module.eval()
    if device is not None:
        module.to(device)
    features, labels = tensors_of(module, samples)
    if not batch_size:
        wide = _CACHED if features.device.type == "cpu" else _MANY
        batch_size = _FEW if samples.features.dtype == np.int64 else wide
    loss = metric = 0.0
    for x, y in zip(torch.split(features, batch_size), torch.split(labels, batch_size), strict=True):
        if len(x):
            outputs = forward(module, x)
            loss += float(task.loss(outputs, y)) * len(x)
            metric += float(task.metric(outputs, y))
    return Measured(len(samples), loss, metric)


def resolve_device(name: str) -> torch.device:
    """The device of a configuration's word; `auto` is CUDA when there is any.

    Raises:
        ConfigError: unknown, or not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"training.device {name!r} cannot be used here: {error}; try `auto` or `cpu`") from error
    return device


def float_tensors(twin: Twin, samples: Samples) -> tuple[Tensor, Tensor]:
    """Features and labels on the CPU; floats in the module's dtype."""
    own = next((p.dtype for p in twin.module.parameters() if p.is_floating_point()), torch.float32)
    found = torch.tensor(samples.features), torch.tensor(samples.labels)
    features, labels = (t.to(own) if t.is_floating_point() else t for t in found)
    return features, labels


def _grouped(every: Iterator[Batch], count: int) -> Iterator[list[Batch]]:
    """Batches whose gradients are added before a step."""
    while group := list(islice(every, count)):
        yield group


def warm(optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
    """Raise the rates over the first steps of a round: a fresh Adam's first ones are the largest."""
    if step > steps or not steps:
        return
    for group in optimizer.param_groups:
        full = group.setdefault("full_lr", group["lr"])
        group["lr"] = full * min(1.0, (step + 1) / (steps + 1))


def make_optimizer(twin: Twin, training: Training, rate: float) -> torch.optim.Optimizer:
    """A fresh optimiser of what a twin trains; `rate` multiplies the rates of tables and of dense parameters."""
    dense_rate = training.dense_learning_rate or training.learning_rate
    by_rate: dict[float, list[nn.Parameter]] = {}
    for name, kind, parameter in twin.trainable():
        chosen = training.learning_rate if kind is Kind.TABLE else dense_rate
        if training.head_learning_rate and name in twin.head:
            chosen = training.head_learning_rate
        by_rate.setdefault(chosen * rate, []).append(parameter)
    groups = [{"params": parameters, "lr": rate} for rate, parameters in by_rate.items()]
    decay = training.weight_decay
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=training.momentum, weight_decay=decay)
    kind_of = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind_of(groups, weight_decay=decay)


def coordinate_masks(twin: Twin, sent: NDArray[np.bool_]) -> list[Tensor | None]:
    """A mask for each trainable parameter; None for local ones."""
    if sent.shape != (twin.layout.size,):
        raise LayoutError(f"`sent` has shape {sent.shape}, the layout says ({twin.layout.size},)")
    entries = {e.name: e for e in twin.layout.entries}
    masks: list[Tensor | None] = []
    for name, _, parameter in twin.trainable():
        entry = entries.get(name)
        masks.append(
            None if entry is None else torch.tensor(sent[entry.span].reshape(entry.shape), device=parameter.device)
        )
    return masks


def _step(
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    masks: list[Tensor | None] | None,
    clip: float,
    scaler: torch.amp.GradScaler | None,
) -> None:
    if scaler is not None:
        scaler.unscale_(optimizer)
    if masks is None:
        if clip:
            nn.utils.clip_grad_norm_(parameters, clip)
        _advance(optimizer, scaler)
        return
    held = [(p, m, p.detach().clone()) for p, m in zip(parameters, masks, strict=True) if m is not None]
    for parameter, mask, _ in held:
        if parameter.grad is not None:
            # Before clipping: what is not trained must not shorten the step of what is.
            parameter.grad.mul_(mask)
    if clip:
        nn.utils.clip_grad_norm_(parameters, clip)
    _advance(optimizer, scaler)
    with torch.no_grad():
        for parameter, mask, before in held:
            # Weight decay moves coordinates without a gradient too.
            parameter.copy_(torch.where(mask, parameter, before))


def _advance(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators inside; outside they are as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
