"""Calibration: whether probabilities are what they say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dictpfl.client.training.metric import METRICS
from dictpfl.client.training.pooled import COUNT_BITS, bins_of, fixed, numbers, ratio
from dictpfl.client.training.shapes import are_labels, chances
from dictpfl.common.arrays import Ints

_FRACTION = 16


@METRICS.register("calibration")
class Calibration:
    """Expected calibration error (Guo et al. 2017), Brier score, and the mean confidence in each bin beside the share that is right.

    Of classes the probability is that of the class that is said, and the Brier score is the squared distance to the label (Brier 1950:
    0 to 2); of two classes that of class 1 alone (0 to 1), as scikit-learn's. Of labels each one's own probability counts.
    """

    bits = COUNT_BITS + _FRACTION

    def __init__(self, outputs: int, bins: int = 15) -> None:
        """Choose the number of bins, all equally wide.

        Raises:
            ConfigError: none, or too many.
        """
        self._bins = bins_of("calibration", bins, 1)
        self._two, self.size = outputs == 2, 3 * bins + 2  # noqa: PLR2004 -- two classes

    def sums(self, outputs: Tensor, targets: Tensor) -> Ints:
        """See `dictpfl.client.training.pooled.Pooled.sums`: units, right ones and confidence by bin; squares, and their number."""
        chance, there = chances(outputs, targets)
        squares = (chance - there) ** 2
        if are_labels(outputs, targets):
            confidence, right, squared = chance.reshape(-1), there.reshape(-1), squares.reshape(-1)
        else:
            confidence, said = chance.max(dim=1)
            right = there.gather(1, said.unsqueeze(1)).squeeze(1)
            squared = squares[:, 1] if self._two else squares.sum(dim=1)
        bins = (confidence * self._bins).long().clamp(0, self._bins - 1)
        sums = torch.zeros((3, self._bins), dtype=torch.int64, device=bins.device)
        for row, values in zip(sums, (torch.ones_like(bins), right.long(), fixed(confidence, _FRACTION)), strict=True):
            row.index_add_(0, bins, values)
        total = [int(fixed(squared, _FRACTION).sum()), len(squared)]
        return np.concatenate([numbers(sums), np.array(total, dtype=np.int64)])

    def figures(self, sums: Ints) -> Mapping[str, Any]:
        """See `dictpfl.client.training.pooled.Pooled.figures`."""
        *by_bin, squared, count = np.asarray(sums, dtype=np.float64)
        units, right, confidence = np.array(by_bin).reshape(3, self._bins)
        confidence = confidence / 2**_FRACTION
        return {
            "calibration error": ratio(float(np.abs(confidence - right).sum()), count),
            "brier": ratio(squared / 2**_FRACTION, count),
            "confidence by bin": [ratio(float(c), float(n)) for c, n in zip(confidence, units, strict=True)],
            "right by bin": [ratio(float(r), float(n)) for r, n in zip(right, units, strict=True)],
        }
