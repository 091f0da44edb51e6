"""Partners that are found."""

from __future__ import annotations

import torch
from torch import Tensor

from dictpfl.client.training.metric import METRICS
from dictpfl.client.training.shapes import pairs

_AMONG = 32


@METRICS.register("retrieval")
class Retrieval:
    """Share of samples whose second side is the closest of 32 to their first: outputs (batch, 2, width), targets are not read.

    A split is taken in its order, 32 at a time, so that the figure does not fall because a split is large; the last few are told apart from
    as many before them. It belongs to samples together: institutions average their own values, by samples.
    """

    name = "retrieval of 32"
    higher_is_better = True
    additive = False

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002 -- the pairs are in the outputs
        """Number of samples whose partner is found; one of k that are as close counts as a k-th."""
        one, other = pairs(outputs)
        count, found = len(one), outputs.new_zeros(())
        for start in range(0, count, _AMONG):
            first = max(0, min(start, count - _AMONG))
            near = one[start : start + _AMONG] @ other[first : first + _AMONG].t()
            own = torch.arange(len(near), device=near.device)
            partner = near[own, own + start - first]
            near[own, own + start - first] = -torch.inf
            best = partner >= near.amax(dim=1)
            found = found + (best / (1 + (near == partner.unsqueeze(1)).sum(dim=1))).sum()
        return found
