"""Pairs that belong together."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor

from dictpfl.client.training.metrics.retrieval import Retrieval
from dictpfl.client.training.shapes import pairs
from dictpfl.client.training.task import TASKS, Measured
from dictpfl.common.errors import ConfigError


@TASKS.register("contrastive")
class Contrastive(Measured):
    """Symmetric InfoNCE within a batch, reported as retrieval: outputs (batch, 2, width), the two sides of each sample; targets are not read.

    The other samples of a batch are what a pair is told apart from (van den Oord 2018; both directions, as Radford 2021), so the loss is
    no sum over samples: larger batches are harder, and what needs the gradient of one sample is refused. An institution's batches hold
    its own samples only: nobody is told apart from another institution's.

    Args:
        temperature: that cosines are divided by.

    Raises:
        ConfigError: not above 0.
    """

    additive = False

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__(Retrieval())
        if not temperature > 0:
            raise ConfigError(f"training.task_options: temperature is {temperature}; expected a number above 0")
        self._temperature = temperature

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002 -- the pairs are in the outputs
        """Mean over samples and both directions of minus the log share of the partner among all of the batch."""
        one, other = pairs(outputs)
        closeness = one @ other.t() / self._temperature
        own = torch.arange(len(closeness), device=closeness.device)
        return (F.cross_entropy(closeness, own) + F.cross_entropy(closeness.t(), own)) / 2

    def guess(self, targets: Tensor, outputs: int) -> tuple[str, Tensor]:
        """See `dictpfl.client.training.task.Task`: the same for everybody, (2, outputs)."""
        return "the same for everybody", torch.ones(2, outputs, device=targets.device)
