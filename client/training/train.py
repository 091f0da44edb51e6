"""Local training of a twin, and evaluation of a model (`[training]`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dictpfl.client.data.lazy import LazySamples
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.twin import Twin
from dictpfl.client.training.batches import batches
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.client.training.encoder import features_of
from dictpfl.client.training.metric import require_sum
from dictpfl.client.training.pooled import Metrics
from dictpfl.client.training.proximal import Pull
from dictpfl.client.training.shapes import joined
from dictpfl.client.training.speed import Losses, Precision, prepared
from dictpfl.client.training.task import Task, learnt, measured_whole, totals, training_loss, with_units
from dictpfl.client.training.unread import Batch, Unread, in_order
from dictpfl.common.arrays import Ints
from dictpfl.common.errors import ConfigError, DataError, LayoutError
from dictpfl.common.law.layout import Kind
from dictpfl.common.settings import Training

_MANY, _CACHED, _FEW = 512, 128, 64
"""Samples that are evaluated at a time: numbers on a GPU, numbers without one, token ids. A processor is fastest while what
lies between two layers fits its cache; docs/performance.md has the figures."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Result of a round of local training.

    Attributes:
        samples_seen: number of samples over all steps; without those of which there is nothing to learn.
        loss_sum: sum over them of the loss before each step, penalties left out; divided by `samples_seen`, the mean training loss.
        steps: number of the optimiser's steps.
    """

    samples_seen: int
    loss_sum: float
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """Result of an evaluation, as sums over samples, so that institutions can add them.

    Attributes:
        count: number of samples; without those of which there is nothing to measure.
        loss_sum: sum of the loss over them.
        metric_sum: sum of the task's metric over them.
        sums: sums of each pooled metric over them (`dictpfl.client.training.pooled`); empty where none was asked for.
    """

    count: int
    loss_sum: float
    metric_sum: float
    sums: tuple[Ints, ...] = ()


def train(
    twin: Twin,
    samples: Samples,
    training: Training,
    task: Task,
    *,
    seed: int,
    sent: NDArray[np.bool_] | None = None,
    rate: float = 1.0,
    scale: Path | None = None,
) -> Trained:
    """Train the twin in place with a fresh optimiser; the same bits for the same seed, threads and machine.

    Args:
        twin: moved to the configured device and dtype, if it is not there (`Twin.to`), and left there.
        samples: at least one. A last batch of one sample joins the batch before it; a batch of one sample that
            remains is normalised by running statistics, for it has none of its own.
        training: settings of optimiser, rates, epochs or steps.
        task: task that gives the loss.
        seed: seed of batches and dropout; torch's global random state is left as it was.
        sent: shape (layout.size,); when given, only these coordinates of tables and dense parameters change
            (`pruned = "freeze"`). Statistics and local parameters change all the same.
        rate: factor on all learning rates (`dictpfl.client.training.speed.rate`).
        scale: file in which float16's loss scale is kept from round to round; None: it begins anew.

    Raises:
        DataError: no samples.
        ConfigError: what this device or model does not have (autocast, checkpointing, augmentation).
        LayoutError: `sent` of another shape.
        ModelError: a loss that is not finite.
    """
    if not len(samples):
        raise DataError("no training samples: expected at least one; an institution without data cannot take part")
    precision = Precision(training, resolve_device(training.device), scale)
    twin.to(device=precision.home, dtype=getattr(torch, training.dtype))
    prepared_samples = float_tensors(twin, samples, training.workers)
    with precision.at_work(twin.module):
        trained = _train(twin, prepared_samples, training, task, precision, seed=seed, sent=sent, rate=rate)
    precision.keep()
    return trained


def _train(
    twin: Twin,
    samples: tuple[Tensor | Unread, Tensor],
    training: Training,
    task: Task,
    precision: Precision,
    *,
    seed: int,
    sent: NDArray[np.bool_] | None,
    rate: float,
) -> Trained:
    device = precision.device
    optimizer = make_optimizer(twin, training, rate)
    masks = None if sent is None else coordinate_masks(twin, sent)
    pull = Pull(twin, training.proximal)
    parameters = [p for _, _, p in twin.trainable()]
    norms = [m for m in twin.module.modules() if isinstance(m, _NormBase) and m.track_running_stats]
    losses, steps = Losses(device), 0
    twin.train()
    moving = [m for m in norms if m.training]
    features, labels = samples
    module = twin.module
    if not training.augment and not hasattr(task, "loss_on"):  # a teacher is asked about samples, not their features
        with precision.forward():
            known = features_of(module, features, _CACHED)
        module, features = known or (module, features)
    with seeded(seed, device), prepared(twin.module, training):
        made = (batch for batch in batches(features, labels, training, seed, device) if len(batch[0]))
        for step, group in enumerate(_grouped(made, training.accumulate)):
            optimizer.zero_grad(set_to_none=True)
            sizes = [learnt(task, y) for _, y in group]  # of a batch without a label, 0: no loss, no share of a step
            for (x, y), size in zip(group, sizes, strict=True):
                for norm in moving:
                    norm.train(len(x) > 1)
                with precision.forward():
                    outputs = forward(module, x)
                loss = training_loss(task, x, precision.output(outputs), y)
                losses.add(loss, size)
                if twin.penalty is not None:
                    loss = loss + twin.penalty()
                part = _part(loss, size, sizes)
                torch.autograd.backward(part if precision.scaler is None else precision.scaler.scale(part))
            warm(optimizer, step, training.warmup_steps)
            _step(optimizer, parameters, masks, pull, training.clip_norm, precision.scaler)
            steps += 1
    losses.read()
    return Trained(losses.seen, losses.total, steps)


@torch.no_grad()
def evaluate(
    module: nn.Module,
    samples: Samples,
    task: Task,
    *,
    batch_size: int = 0,
    device: torch.device | str | None = None,
    metrics: Metrics | None = None,
    precision: Precision | None = None,
    workers: int = 0,
) -> Measured:
    """Evaluate a module on samples; zeros when there are none. Leaves the module in evaluation mode.

    Args:
        module: a twin's module or a plain one.
        samples: may be empty.
        task: task that gives loss and metric. If one of them is not additive, both are asked once, with the outputs of all samples,
            and count times their number.
        batch_size: number of samples at a time; the sums hardly depend on it. 0: 128, or 512 on a GPU, or 64 of token
            ids.
        device: None: where the module is.
        metrics: pooled metrics to measure besides.
        precision: arithmetic, and the device to work on; the module is left at its `home`. None: the module's own.
        workers: processes that read samples which are not in memory.

    Raises:
        DataError: a sample that cannot be read, or outputs that are no numbers where there are pooled metrics; else both sums are NaN.
        ModelError: a metric that is no sum over samples and does not say so.
    """
    module.eval()
    where = device if precision is None else precision.home
    if where is not None:
        module.to(where)
    first = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    there = first.device if precision is None else precision.device
    features: Tensor | Unread
    if isinstance(samples, LazySamples):
        features = Unread(samples, first.dtype, workers)
        labels = features.labels
    else:
        features, labels = tensors_of(module, samples)
        features = features.to(there)
    labels = labels.to(there)
    with nullcontext() if precision is None else precision.at_work(module):
        return _evaluate(module, features, labels, task, batch_size, metrics, there, precision)


def _evaluate(
    module: nn.Module,
    features: Tensor | Unread,
    labels: Tensor,
    task: Task,
    batch_size: int,
    metrics: Metrics | None,
    device: torch.device,
    precision: Precision | None,
) -> Measured:
    if not batch_size:
        wide = _CACHED if device.type == "cpu" else _MANY
        batch_size = _FEW if features.dtype is torch.int64 else wide
    with _arithmetic(precision):
        module, features = features_of(module, features, batch_size) or (module, features)
    loss = metric = 0.0
    pooled = metrics or Metrics({})
    count, sums = 0, pooled.nothing
    read = _parts(features, labels, batch_size, device)
    every = with_units(task, ((_outputs(module, x, precision), y) for x, y in read))
    if len(features) and measured_whole(task):
        pairs = list(every)
        if not pairs:
            return Measured(0, 0.0, 0.0, sums)
        outputs, labels = joined([o for o, _ in pairs]), torch.cat([y for _, y in pairs])
        loss, metric = totals(task, outputs, labels, pooled)
        return Measured(len(labels), loss, metric, pooled.sums(outputs, labels))
    for outputs, y in every:
        own = totals(task, outputs, y, pooled)
        if not (count or math.isnan(own[0])):
            require_sum(task, outputs, y)
        loss, metric = loss + own[0], metric + own[1]
        sums = tuple(total + part for total, part in zip(sums, pooled.sums(outputs, y), strict=True))
        count += len(y)
    return Measured(count, loss, metric, sums)


def _parts(features: Tensor | Unread, labels: Tensor, size: int, device: torch.device) -> Iterator[Batch]:
    """Samples to measure, by the batch."""
    if isinstance(features, Unread):
        yield from in_order(features, size, device)
        return
    for x, y in zip(torch.split(features, size), torch.split(labels, size), strict=True):
        if len(x):
            yield x, y


def _arithmetic(precision: Precision | None) -> AbstractContextManager[object]:
    return nullcontext() if precision is None else precision.forward()


def _outputs(module: nn.Module, features: Tensor, precision: Precision | None) -> Tensor:
    """Outputs to measure; those of autocast as float32, and what is made of them outside of it: figures are not to be rounded."""
    with _arithmetic(precision):
        outputs = forward(module, features)
        is_narrow = outputs.dtype in (torch.bfloat16, torch.float16) and torch.is_autocast_enabled(features.device.type)
    return outputs.float() if is_narrow else outputs


def resolve_device(name: str) -> torch.device:
    """Find the device of a configuration's word; `auto` is CUDA when there is any.

    Raises:
        ConfigError: an unknown device, or one that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"training.device {name!r} cannot be used here: {error}; try `auto` or `cpu`") from error
    return device


def float_tensors(twin: Twin, samples: Samples, workers: int = 0) -> tuple[Tensor | Unread, Tensor]:
    """Copy features and labels to CPU tensors; floats in the module's dtype. Features that are not in memory stay where they are."""
    own = next((p.dtype for p in twin.module.parameters() if p.is_floating_point()), torch.float32)
    if isinstance(samples, LazySamples):
        unread = Unread(samples, own, workers)
        return unread, unread.labels
    tensors = torch.tensor(samples.features), torch.tensor(samples.labels)
    features, labels = (t.to(own) if t.is_floating_point() else t for t in tensors)
    return features, labels


def _grouped(every: Iterator[Batch], count: int) -> Iterator[list[Batch]]:
    """Group batches whose gradients are added before a step."""
    while group := list(islice(every, count)):
        yield group


def _part(loss: Tensor, size: int, sizes: list[int]) -> Tensor:
    """Return what a batch adds to the loss of a step: its mean loss by its share of the step's samples."""
    if len(set(sizes)) == 1:
        return loss if len(sizes) == 1 else loss / len(sizes)
    return loss * (size / sum(sizes))


def warm(optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
    """Raise the rates over the first steps of a round: the first steps of a fresh Adam are the largest."""
    if step > steps or not steps:
        return
    for group in optimizer.param_groups:
        full = group.setdefault("full_lr", group["lr"])
        group["lr"] = full * min(1.0, (step + 1) / (steps + 1))


def make_optimizer(twin: Twin, training: Training, rate: float) -> torch.optim.Optimizer:
    """Make a fresh optimiser of a twin's parameters; `rate` multiplies the rates of tables and of dense parameters."""
    dense_rate = training.dense_learning_rate or training.learning_rate
    by_rate: dict[float, list[nn.Parameter]] = {}
    for name, kind, parameter in twin.trainable():
        chosen = training.learning_rate if kind is Kind.TABLE else dense_rate
        if kind is Kind.GATE and twin.gates is not None:
            chosen = twin.gates.gates.rate
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
    """Make a mask for each trainable parameter, in its shape; None for local ones.

    Raises:
        LayoutError: `sent` of another shape than (size,).
    """
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
    pull: Pull,
    clip: float,
    scaler: torch.amp.GradScaler | None,
) -> None:
    if scaler is not None:
        scaler.unscale_(optimizer)
    pull.add()
    if masks is None:
        if clip:
            nn.utils.clip_grad_norm_(parameters, clip)
        _advance(optimizer, scaler)
        return
    held = [(p, m, p.detach().clone()) for p, m in zip(parameters, masks, strict=True) if m is not None]
    for parameter, mask, _ in held:
        if parameter.grad is not None:
            # Masked before clipping: gradients of coordinates that stay fixed must not shorten the step of the others.
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
