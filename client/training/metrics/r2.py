"""Errors of a regression: squared, absolute, and the share of the variance that is explained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from dictpfl.client.training.metric import METRICS
from dictpfl.client.training.pooled import COUNT_BITS, fixed, numbers
from dictpfl.client.training.shapes import alike
from dictpfl.common.arrays import Ints
from dictpfl.common.errors import ConfigError

_REACH, _FRACTION = 14, 16
"""In units, targets up to 2^7 and their squares up to 2^14, in steps of 2^-16."""
_LEAST = 100 * 2.0 ** -(_FRACTION + 1)
"""Variance of targets, in units squared, below which steps could move R2 by more than 0.01."""


@METRICS.register("r2")
class R2:
    """R2, mean squared and mean absolute error, over all institutions' samples; means over targets where there are several.

    The mean of the targets is that of all institutions together, as scikit-learn's of the pooled data would be. Numbers travel in
    `unit`s: choose it so that targets are a few units large. A target or an error beyond 128 units is clipped, and counted (`clipped`);
    of targets that deviate by less than 0.03 units there is no R2, since steps of 2^-16 would make it.
    """

    bits = COUNT_BITS + _REACH + _FRACTION

    def __init__(self, outputs: int, unit: float = 1.0) -> None:
        """Choose the unit.

        Raises:
            ConfigError: no positive one.
        """
        if not unit > 0:
            raise ConfigError(
                f"training.metric_options.r2: unit is {unit}; expected a positive number, as large as a usual target"
            )
        self._targets, self._unit, self.size = outputs, unit, 4 * outputs + 2

    def sums(self, outputs: Tensor, targets: Tensor) -> Ints:
        """See `dictpfl.client.training.pooled.Pooled.sums`: y, y^2, (y - f)^2, |y - f| by target; samples, clipped ones."""
        found, wanted = (part.double() / self._unit for part in alike(outputs, targets))
        most = 2.0 ** (_REACH / 2)
        errors = found - wanted
        clipped = int(((errors.abs() > most) | (wanted.abs() > most)).any(dim=1).sum())
        # Squares are those of rounded targets, as their sum is: else a spread would be left of targets that are all one.
        errors, wanted = (
            errors.clamp(-most, most),
            fixed(wanted.clamp(-most, most), _FRACTION).double() / 2.0**_FRACTION,
        )
        sums = [numbers(fixed(part, _FRACTION).sum(dim=0)) for part in (wanted, wanted**2, errors**2, errors.abs())]
        return np.concatenate([*sums, np.array([len(wanted), clipped], dtype=np.int64)])

    def figures(self, sums: Ints) -> Mapping[str, Any]:
        """See `dictpfl.client.training.pooled.Pooled.figures`."""
        count, clipped = (int(v) for v in sums[-2:])
        if not count:
            return dict.fromkeys(("r2", "squared error", "root mean squared error", "absolute error", "clipped"))
        y, squares, squared, absolute = np.asarray(sums[:-2], dtype=np.float64).reshape(4, self._targets) / 2**_FRACTION
        spread = squares - y * y / count
        known = spread > _LEAST * count
        mean_squared = float(squared.mean() / count) * self._unit**2
        return {
            "r2": float((1 - squared[known] / spread[known]).mean()) if known.any() else None,
            "squared error": mean_squared,
            "root mean squared error": mean_squared**0.5,
            "absolute error": float(absolute.mean() / count) * self._unit,
            "mean of targets": (y / count * self._unit).tolist(),
            "clipped": clipped,
        }
