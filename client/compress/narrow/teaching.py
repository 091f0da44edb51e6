"""Distillation of a classifier into a small one at home: the teacher's outputs are computed once, and stand in place of labels.

For the arm `distil` only. Distillation of any task, with a teacher that runs beside, is `training.task = "distillation"`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dictpfl.client.data.samples import Samples
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.common.errors import ConfigError

TEMPERATURE, WEIGHT = 4.0, 0.9
"""T of both softmax, and weight of the teacher against the labels (Hinton, Vinyals, Dean 2015)."""
_AT_ONCE = 64


class Taught:
    """Loss `weight T^2 KL(teacher || student) + (1 - weight) cross-entropy`; targets are the teacher's outputs, then the label."""

    metric_name = "accuracy"
    higher_is_better = True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Task.loss`."""
        teacher, labels = targets[:, :-1], targets[:, -1].long()
        soft = functional.kl_div(
            functional.log_softmax(outputs / TEMPERATURE, dim=1),
            functional.log_softmax(teacher / TEMPERATURE, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return WEIGHT * TEMPERATURE**2 * soft + (1 - WEIGHT) * functional.cross_entropy(outputs, labels)

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Task.metric`."""
        return (outputs.argmax(dim=1) == targets[:, -1].long()).sum()


@torch.no_grad()
def taught(teacher: nn.Module, samples: Samples) -> tuple[Samples, Taught]:
    """Put a teacher's outputs beside the labels.

    Args:
        teacher: plain classifier; left in evaluation mode.
        samples: with one class each.

    Returns:
        The same samples with float32 labels (samples, outputs + 1), and the task that reads them.

    Raises:
        ConfigError: labels that are no classes.
    """
    if samples.labels.ndim != 1 or samples.labels.dtype != np.int64:
        raise ConfigError(
            "distil needs one class a sample; a language model or a regression is distilled by `dictpfl distil`"
        )
    teacher.eval()
    said = [forward(teacher, x).float().cpu() for x in torch.split(tensors_of(teacher, samples)[0], _AT_ONCE)]
    labels = torch.from_numpy(samples.labels).float()[:, None]
    return Samples(samples.features, torch.cat([torch.cat(said), labels], dim=1).numpy()), Taught()
