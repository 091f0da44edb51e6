"""Directions in which a loss falls: gradients of weights over public samples, for dictionaries made of them (`decomposition.basis`).

As LoRA-GA (arXiv 2407.05000) and LoRA-SB (arXiv 2411.19557) begin, from samples that everybody may see.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.client.training.task import Task
from dictpfl.common.errors import ModelError

_BATCH = 32
"""Samples of one backward pass."""


def gradients(model: nn.Module, samples: Samples, task: Task) -> nn.Module:
    """Make a copy of a model whose every parameter is the gradient of the mean loss with respect to it; zero where there is none.

    In evaluation mode, on the CPU: nothing is drawn, and normalisation uses running statistics.

    Args:
        model: with W0; unchanged.
        samples: at least one.
        task: whose loss.

    Raises:
        ModelError: no samples, or a gradient that is not finite.
    """
    if not len(samples):
        raise ModelError("dictionaries of gradients need at least one public sample; raise data.public_share")
    found = copy.deepcopy(model).cpu().eval()
    found.requires_grad_(True)
    found.zero_grad(set_to_none=True)
    features, labels = tensors_of(found, samples)
    for x, y in zip(torch.split(features, _BATCH), torch.split(labels, _BATCH), strict=True):
        # A task's loss is a batch's mean.
        (task.loss(forward(found, x), y) * (len(x) / len(samples))).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            if not bool(torch.isfinite(gradient).all()):
                raise ModelError(
                    f"the gradient of {name!r} over public samples is not finite; check W0 and the samples"
                )
            parameter.copy_(gradient)
            parameter.grad = None
    return found
