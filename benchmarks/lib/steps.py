"""Training steps of a model and of a cheaper one, timed in turn."""

from __future__ import annotations

import time
from statistics import median

import torch
from torch import Tensor, nn


def paired_steps(full: nn.Module, reduced: nn.Module, inputs: Tensor, labels: Tensor, repeats: int) -> dict[str, float]:
    """Seconds of processor time of a step of each, on one thread; the first turn warms up and is left out.

    Args:
        inputs: of one batch, as both models take them.
        labels: int64 (batch,).

    Returns:
        `full` and `reduced`, medians; `ratio`, the median of reduced over full by turn, so that what slows a whole turn drops out.
    """
    models = {"full": full, "reduced": reduced}
    optimisers = {name: torch.optim.SGD(model.parameters(), lr=1e-4) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(repeats + 1):
        for name, model in models.items():
            began = time.thread_time()
            optimisers[name].zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimisers[name].step()
            if turn:
                seconds[name].append(time.thread_time() - began)
    ratio = median(r / f for f, r in zip(seconds["full"], seconds["reduced"], strict=True))
    return {name: median(spent) for name, spent in seconds.items()} | {"ratio": ratio}
