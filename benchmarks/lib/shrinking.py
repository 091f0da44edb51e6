"""What benchmarks of cutting measure on the hybrid subject: loss by domain, speed, and what a few steps of distillation win back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from dictpfl.client.compress.cutting.activations import sums
from dictpfl.client.compress.cutting.axes import axes_of
from dictpfl.client.compress.distil import distil
from dictpfl.client.training.calling import logits
from dictpfl.client.training.task import load_task
from dictpfl.client.training.train import evaluate
from lib import hybrid

TASK, DISTILLED, RATE = "causal-lm", 80, 1e-3


def figures(model: nn.Module, when: str, part: str = "test") -> dict[str, Any]:
    """Loss on each domain's unseen texts, and their mean; in nats a token."""
    task = load_task(TASK)
    losses = {}
    for domain, parts in hybrid.tokens().items():
        found = evaluate(model, parts[part], task)
        losses[domain] = found.loss_sum / found.count
    return {f"{when} {domain}": loss for domain, loss in losses.items()} | {when: fmean(losses.values())}


@torch.no_grad()
def speed(parent: nn.Module, small: nn.Module) -> dict[str, float]:
    """CPU seconds of a forward pass of 4 sequences, parent over small one; alternating, the least of seven each."""
    ids = torch.from_numpy(hybrid.both("test").features[:4])
    taken: dict[str, list[float]] = {"parent": [], "small": []}
    for _ in range(7):
        for name, model in (("parent", parent), ("small", small)):
            began = time.process_time()
            model.eval()(ids)
            taken[name].append(time.process_time() - began)
    return {"faster": min(taken["parent"]) / min(taken["small"])}


class Remembered(nn.Module):
    """A teacher that is asked once about a batch: arms of one seed ask about the same ones, in the same order.

    It holds what it said, for the hybrid of 2,048 words 17 MB a batch of 2,048 tokens; answers are the same to the last bit.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self._said: dict[bytes, Tensor] = {}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits of the model, (batch, tokens, words)."""
        asked = input_ids.numpy().tobytes() + attention_mask.numpy().tobytes()
        if asked not in self._said:
            self._said[asked] = logits(self.model(input_ids=input_ids, attention_mask=attention_mask))
        return self._said[asked]


@lru_cache(maxsize=1)
def teacher(seed: int) -> Remembered:
    """The subject of a seed, as a teacher of this process's arms."""
    return Remembered(hybrid.subject(seed))


@lru_cache(maxsize=1)
def calibrated(seed: int) -> Mapping[str, list[Any]]:
    """Sums of squares of the subject's activations over both domains' calibration sequences, for all arms of this process."""
    parent = hybrid.subject(seed)
    axes = [axis for axis in axes_of(parent).values() if axis.kind != "block"]
    return sums(parent, axes, hybrid.both("calibration"))


def taught(small: nn.Module, seed: int, weight: float = 1.0) -> dict[str, Any]:
    """Distil a model for a few steps (`weight` 0: train it by labels); its loss, and steps and samples as the optimiser counted them."""
    training = hybrid.TRAINING.model_copy(update={"steps": DISTILLED, "learning_rate": RATE, "warmup_steps": 10})
    named = teacher(seed) if weight else None
    done, seen = distil(small, named, hybrid.both("train"), training, weight=weight, seed=seed)
    return {**figures(done.eval(), "taught"), "steps": seen.steps, "samples": seen.samples_seen}
