"""DP-SGD in place of `dictpfl.client.training.train.train`: samples drawn by Poisson, gradients clipped sample by sample, noise added.

Opacus clips, adds up and steps; randomness comes from the operating system, never from the federation's seed, which
all institutions know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.twin import Twin
from dictpfl.client.privacy.chance import unpredictable
from dictpfl.client.privacy.persample import Sampled, require_private, sampled
from dictpfl.client.training.batches import batches
from dictpfl.client.training.calling import forward
from dictpfl.client.training.proximal import Pull
from dictpfl.client.training.task import Task, learnt, require_single, training_loss
from dictpfl.client.training.train import (
    Trained,
    coordinate_masks,
    float_tensors,
    make_optimizer,
    resolve_device,
    seeded,
    warm,
)
from dictpfl.client.training.unread import Batch
from dictpfl.common.errors import DataError, ModelError
from dictpfl.common.protection import Privacy
from dictpfl.common.settings import Training


@dataclass(frozen=True)
class Sampling:
    """Draws of a round: each sample is in a step with probability `rate`, in each of `steps` steps."""

    rate: float
    steps: int

    @classmethod
    def of(cls, count: int, training: Training) -> Sampling:
        """For `count` samples: batches as large in the mean, and as many steps, as without privacy."""
        batch = min(count, training.batch_size * training.accumulate)
        return cls(batch / count, training.steps or training.epochs * math.ceil(count / batch))


class _Optimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimiser with a generator of ours.

    Four draws are added and halved, as in Opacus' secure mode, against who reads the noise off its last bits
    (Holohan and Braghin 2021). torch's own CPU generator would take 32 bits of a seed.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, random: np.random.Generator, noise: float, norm: float, batch: float
    ) -> None:
        super().__init__(optimizer, noise_multiplier=noise, max_grad_norm=norm, expected_batch_size=batch)
        self._random = random

    def add_noise(self) -> None:
        """Put the sum of clipped gradients, with noise, into `grad`."""
        deviation = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            total = parameter.summed_grad
            drawn = sum(self._random.standard_normal(tuple(total.shape)) for _ in range(4)) / 2
            parameter.grad = total + torch.from_numpy(np.asarray(deviation * drawn)).to(total)


def train_privately(
    twin: Twin,
    samples: Samples,
    training: Training,
    task: Task,
    *,
    privacy: Privacy,
    noise: float,
    seed: int,
    sent: NDArray[np.bool_] | None = None,
    rate: float = 1.0,
) -> Trained:
    """Train as `dictpfl.client.training.train.train` does, but (epsilon, delta)-private for each sample.

    Args:
        twin, samples, training, task, sent, rate: see there; batches are drawn as `Sampling.of` says.
        privacy: holds `max_grad_norm`.
        noise: multiplier.
        seed: of dropout and augmentation, which privacy does not depend on.

    Raises:
        ModelError: a model or a task whose samples cannot be told apart, or a loss that is not finite.
        DataError, ConfigError, LayoutError: see there.
    """
    if not len(samples):
        raise DataError("no training samples: expected at least one; an institution without data cannot take part")
    require_single(task, 'privacy.mechanism = "example"')
    device = resolve_device(training.device)
    twin.to(device=device, dtype=getattr(torch, training.dtype))
    random = unpredictable()
    sampling = Sampling.of(len(samples), training)
    optimizer = _Optimizer(
        make_optimizer(twin, training, rate), random, noise, privacy.max_grad_norm, sampling.rate * len(samples)
    )
    pull = Pull(twin, training.proximal)
    optimizer.attach_step_hook(lambda _: pull.add())  # Opacus calls it once gradients are clipped, noised and divided
    chosen = [parameter for _, _, parameter in twin.trainable()]
    masks = coordinate_masks(twin, sent) if sent is not None else [None] * len(chosen)
    features, labels = float_tensors(twin, samples)
    drawn = [_pieces(random.random(len(samples)) < sampling.rate, training.batch_size) for _ in range(sampling.steps)]
    order = [piece for pieces in drawn for piece in pieces if len(piece)]
    seen, total = 0, 0.0
    twin.train()
    require_private(twin.module)
    with seeded(seed, device), sampled(twin.module) as watched:
        made = batches(features, labels, training, seed, device, order)
        for step, pieces in enumerate(drawn):
            warm(optimizer, step, training.warmup_steps)
            for piece in pieces:
                optimizer.zero_grad(set_to_none=True)
                # Empty, too, where no sample of a piece can be read (`data.skip_broken`).
                batch = next(made) if len(piece) else None
                if batch is not None and len(batch[0]):
                    total += _pass(twin.module, watched, batch, task, seen)
                    seen += learnt(task, batch[1])  # of a sample without a label the loss is 0
                else:
                    watched.nothing()
                for parameter, mask in zip(chosen, masks, strict=True):
                    if mask is not None:
                        # Before clipping: what is not trained must not shorten the step of what is.
                        parameter.grad_sample.mul_(mask)  # type: ignore[attr-defined]
                optimizer.signal_skip_step(do_skip=piece is not pieces[-1])
                _step(optimizer, chosen, masks)
            optimizer.zero_grad(set_to_none=True)
    return Trained(seen, total)


def _pieces(is_in: NDArray[np.bool_], most: int) -> list[Tensor]:
    """The drawn samples in parts that fit into memory; one empty part if none was drawn."""
    return list(torch.split(torch.from_numpy(np.flatnonzero(is_in)), most))


def _pass(module: nn.Module, watched: Sampled, batch: Batch, task: Task, seen: int) -> float:
    """Both passes; returns the sum of the samples' losses. A loss of each sample alone: no mean may tie them together."""
    x, y = batch
    watched.give_out(x)
    outputs = forward(module, x)
    loss = torch.stack(
        [training_loss(task, x[i : i + 1], outputs[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    ).sum()
    value = float(loss.detach())
    if not np.isfinite(value):
        raise ModelError(
            f"training diverged: the loss is {value} after {seen} samples; lower training.learning_rate or privacy.max_grad_norm"
        )
    torch.autograd.backward(loss)
    watched.collect(len(x))
    return value


def _step(optimizer: _Optimizer, parameters: Sequence[nn.Parameter], masks: Sequence[Tensor | None]) -> None:
    held = [(p, m, p.detach().clone()) for p, m in zip(parameters, masks, strict=True) if m is not None]
    optimizer.step()
    with torch.no_grad():
        for parameter, mask, before in held:
            # Noise and weight decay move coordinates that are not trained, too.
            parameter.copy_(torch.where(mask, parameter, before))
