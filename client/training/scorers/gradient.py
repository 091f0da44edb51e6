"""FedML-HE's sensitivity map: which coordinates an attacker could learn most from (Jin et al. 2023).

FedML-HE, arXiv 2303.10837, section on selective parameter encryption: the sensitivity of a parameter w is the
mean over samples of |d/dy (d loss / d w)|, how much its gradient would tell about the true output y.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.twin import Twin
from dictpfl.client.training.calling import arguments, logits, tensors_of
from dictpfl.client.training.scorer import SCORERS
from dictpfl.client.training.task import Task, require_single
from dictpfl.common.errors import DataError
from dictpfl.common.law.layout import Kind

_VALUES = 1 << 24  # of per-sample gradients held at a time


@SCORERS.register("gradient")
def sensitivity(twin: Twin, samples: Samples, task: Task, *, limit: int = 64) -> NDArray[np.float64]:
    """Mean absolute per-sample gradient of the loss, for each shared coordinate.

    With cross-entropy and the label as a one-hot real vector, d/dy of d loss / d w at the true label is
    -d log p_y / d w, which is the sample's own gradient; so it is taken for every task.

    Args:
        twin: left in evaluation mode, its values unchanged; BatchNorm uses running statistics.
        samples: the first `limit` of them are used.
        task: the loss.
        limit: most samples.

    Returns:
        Shape (layout.size,), not negative; zeros for running statistics.

    Raises:
        DataError: no samples.
        ModelError: a task whose loss says nothing of one sample.
    """
    require_single(task, 'scores.measure = "gradient"')
    if not len(samples):
        raise DataError("a sensitivity map needs at least one sample")
    twin.eval()
    features, labels = tensors_of(twin.module, samples.take(np.arange(min(limit, len(samples)))))
    names = {id(p): n for n, p in twin.module.named_parameters()}
    own = {entry: names[id(p)] for entry, _, p in twin.trainable()}
    shared = {own[e.name]: e for e in twin.layout.entries if e.kind is not Kind.STATISTIC}
    every = {n: p.detach() for n, p in twin.module.named_parameters()}
    parameters = {n: p for n, p in every.items() if n in shared}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        positional, named = arguments(twin.module, x.unsqueeze(0))
        outputs = logits(functional_call(twin.module, every | values, positional, named))
        return task.loss(outputs, y.unsqueeze(0))

    step = max(1, _VALUES // max(1, twin.layout.size))
    sums = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in parameters.items()}
    # The unfused kernel is needed: vmap cannot vectorise fused attention over samples.
    with sdpa_kernel(SDPBackend.MATH):
        for x, y in zip(torch.split(features, step), torch.split(labels, step), strict=True):
            for name, gradient in _summed(grad(loss), parameters, x, y).items():
                sums[name] += gradient
    tensors = {e.name: np.zeros(e.shape) for e in twin.layout.entries}
    tensors |= {e.name: (sums[n] / len(features)).cpu().numpy() for n, e in shared.items()}
    return twin.layout.flatten(tensors)


def _summed(
    gradient: Callable[..., dict[str, Tensor]], parameters: dict[str, Tensor], x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """Sum over samples of the absolute gradients, float64."""
    try:
        each = vmap(gradient, in_dims=(None, 0, 0))(parameters, x, y)
        return {n: g.abs().double().sum(dim=0) for n, g in each.items()}
    except RuntimeError:
        # Not everything can be vectorised: data-dependent control flow, random functions, some kernels.
        total = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in parameters.items()}
        for one, label in zip(x, y, strict=True):
            for n, g in gradient(parameters, one, label).items():
                total[n] += g.abs().double()
        return total
