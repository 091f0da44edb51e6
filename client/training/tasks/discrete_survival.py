"""Survival in intervals: how likely the event is in each, of those that it has spared so far."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor

from dictpfl.client.training.metrics.concordance import Concordance
from dictpfl.client.training.shapes import times
from dictpfl.client.training.task import TASKS, Measured
from dictpfl.common.errors import ConfigError, ModelError


@TASKS.register("discrete-survival")
class DiscreteSurvival(Measured):
    """Likelihood of discrete hazards, reported as concordance: outputs (batch, intervals), targets float (batch, 2) of time and event.

    An output is the log odds of the event in its interval, if it did not come before (Gensheimer, Narasimhan 2019). The loss is a sum
    over samples, other than Cox's, so that differential privacy of samples works, and a batch of one teaches as well as any. A sample
    that was censored counts for the intervals that it lived through. Concordance is no such sum: each institution's own is averaged.

    Args:
        edges: ends of the intervals, rising, in the unit of the times; what lies behind the last one is survival of all. Agreed by all,
            from public knowledge.

    Raises:
        ConfigError: none, or not rising.
    """

    def __init__(self, edges: Sequence[float] = ()) -> None:
        super().__init__(Concordance())
        self._edges = tuple(map(float, edges))
        if not self._edges or self._edges[0] <= 0 or sorted(set(self._edges)) != list(self._edges):
            raise ConfigError(
                f"training.task_options: edges are {list(edges)}; discrete-survival needs the ends of its intervals, rising from above 0, "
                "for instance edges = [365, 730, 1460] for times in days"
            )

    def wanted_outputs(self, found: int) -> int:
        """See `dictpfl.client.training.task.Task`: one an interval; tables with an event say 1."""
        return len(self._edges) if found == 1 else found

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over samples of minus the log likelihood."""
        outputs, time, event = self._read(outputs, targets)
        ends = torch.tensor(self._edges, dtype=time.dtype, device=time.device)
        time = time.contiguous()
        place = torch.searchsorted(ends, time)  # the interval that the time lies in, its end included
        through = torch.searchsorted(ends, time, right=True)  # who is censored at an end has lived through the interval
        numbers, dead = torch.arange(len(ends), device=time.device), event.unsqueeze(1) > 0
        lived = numbers < torch.where(dead, place.unsqueeze(1), through.unsqueeze(1))
        died = (numbers == place.unsqueeze(1)) & dead
        return (F.softplus(outputs) * lived + F.softplus(-outputs) * died).sum(dim=1).mean()

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Concordance times samples, of the expected number of intervals lived through, the smaller the riskier."""
        outputs, _, _ = self._read(outputs, targets)
        return self._metric.total(-torch.cumsum(F.logsigmoid(-outputs.double()), dim=1).exp().sum(dim=1), targets)

    def guess(self, targets: Tensor, outputs: int) -> tuple[str, Tensor]:
        """See `dictpfl.client.training.task.Task`: the same for everybody, (outputs,)."""
        return "the same for everybody", targets.new_zeros(outputs)

    def _read(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        time, event = times(targets)
        if outputs.ndim != 2 or outputs.shape[1] != len(self._edges):  # noqa: PLR2004 -- batch, intervals
            raise ModelError(
                f"discrete-survival: outputs {tuple(outputs.shape)}, expected one for each of {len(self._edges)} intervals "
                "(training.task_options.edges)"
            )
        return outputs, time, event
