"""Harrell's concordance index of a survival model."""

from __future__ import annotations

import torch
from torch import Tensor

from dictpfl.client.training.metric import METRICS
from dictpfl.client.training.shapes import survival

_ROWS = 1024  # of pairs that are compared at a time: 1024 x n booleans


@METRICS.register("concordance")
class Concordance:
    """Share of comparable pairs that the model puts in the right order: outputs (n, 1) or (n,), targets float (n, 2).

    Targets are (time, event). A pair is comparable where the earlier of the two had its event; of two at the same time,
    where exactly one had. Equal outputs count half (Harrell et al. 1982). Without a comparable pair it is 0.5, as of a coin.
    """

    name = "concordance"
    higher_is_better = True
    additive = False

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Concordance of a whole split times its samples, so that institutions' figures average by their samples."""
        risk, time, event = survival(outputs, targets)
        right = pairs = torch.zeros((), dtype=torch.float64, device=risk.device)
        for rows in torch.split(torch.arange(len(risk), device=risk.device), _ROWS):
            later = time.unsqueeze(0) > time[rows].unsqueeze(1)
            spared = (time.unsqueeze(0) == time[rows].unsqueeze(1)) & (event.unsqueeze(0) == 0)
            comparable = (event[rows].unsqueeze(1) > 0) & (later | spared)
            above, own = risk[rows].unsqueeze(1), risk.unsqueeze(0)
            won = (above > own).double() + 0.5 * (above == own).double()
            right, pairs = right + (won * comparable).sum(), pairs + comparable.sum()
        share = torch.where(pairs > 0, right / pairs.clamp(min=1), 0.5)
        return share * len(risk)
