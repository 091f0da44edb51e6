"""Agreement of ordered classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from dictpfl.client.training.metric import METRICS
from dictpfl.client.training.pooled import COUNT_BITS, numbers, ratio
from dictpfl.client.training.shapes import require_numbers, units
from dictpfl.common.arrays import Ints


@METRICS.register("kappa")
class Kappa:
    """Cohen's kappa with quadratic weights (Cohen 1968), and the mean distance in classes: outputs (batch, classes), ordered classes.

    Both follow from seven sums, whatever the number of classes.
    """

    size, bits = 7, COUNT_BITS + 24

    def __init__(self, outputs: int) -> None:
        """Take the number of classes, up to 4,096."""

    def sums(self, outputs: Tensor, targets: Tensor) -> Ints:
        """See `dictpfl.client.training.pooled.Pooled.sums`: t, t^2, s, s^2, (t - s)^2, |t - s| of labels t and said s; units."""
        outputs, there = units(outputs, targets)
        require_numbers(outputs)
        said = outputs.argmax(dim=1)
        sums = [
            numbers(part.sum()) for part in (there, there**2, said, said**2, (there - said) ** 2, (there - said).abs())
        ]
        return np.concatenate([*sums, [len(there)]])

    def figures(self, sums: Ints) -> Mapping[str, Any]:
        """See `dictpfl.client.training.pooled.Pooled.figures`."""
        t, t2, s, s2, squared, apart, count = (float(v) for v in sums)
        by_chance = t2 + s2 - 2 * t * s / count if count else 0.0
        return {
            "quadratic kappa": 1 - squared / by_chance if by_chance > 0 else None,
            "classes apart": ratio(apart, count),
        }
