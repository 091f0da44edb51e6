"""Survival: time until an event, for some samples only known to be longer than what was watched."""

from __future__ import annotations

import torch
from torch import Tensor

from dictpfl.client.training.metrics.concordance import Concordance
from dictpfl.client.training.shapes import survival
from dictpfl.client.training.task import TASKS, Measured

_ROWS = 1024  # of samples whose risk sets are laid out at a time: a whole split is measured at once, and n x n of it may not fit


@TASKS.register("cox")
class Cox(Measured):
    """Cox's partial likelihood, reported as concordance: outputs (batch, 1) or (batch,), targets float (batch, 2).

    An output is a log hazard: larger means earlier. Targets are (time, event), event 1 where it was seen and 0 where the
    sample was censored. Who is at risk with a sample is decided among the samples of its batch, so that a batch of one
    teaches nothing.
    """

    additive = False

    def __init__(self) -> None:
        super().__init__(Concordance())

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over the batch's samples of minus the log partial likelihood; censored ones count zero (Cox 1972).

        Samples of the same time are at risk together (Breslow 1974). The mean is over all samples, as FLamby's is, so that
        a batch with few events makes a small step.

        Args:
            outputs, targets: see the class.
        """
        risk, time, event = survival(outputs, targets)
        others = torch.cat([_of_all_at_risk(risk, time, some) for some in torch.split(time, _ROWS)])
        return (event * (others - risk)).mean()

    def guess(self, targets: Tensor, outputs: int) -> tuple[str, Tensor]:
        """See `dictpfl.client.training.task.Task`: the same risk for everybody, (outputs,)."""
        return "the same risk for everybody", targets.new_zeros(outputs)


def _of_all_at_risk(risk: Tensor, time: Tensor, some: Tensor) -> Tensor:
    """Log of the summed hazards of who is at risk at each of some times, (some,)."""
    at_risk = time.unsqueeze(0) >= some.unsqueeze(1)
    return torch.logsumexp(risk.unsqueeze(0).masked_fill(~at_risk, -torch.inf), dim=1)
