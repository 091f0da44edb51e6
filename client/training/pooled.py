"""Metrics from sums: several at once, of which all institutions open the exact total and nobody a part (`training.metrics`).

A confusion matrix, a histogram of scores, a sum of squared errors add up over samples, however these are divided; sensitivity, an area
under a curve or R2 follow from the total. So the figure is that of all validation samples together, not a mean of institutions' figures.
Sums go with every ledger, sealed (`dictpfl.common.law.measure`, docs/decisions/0049).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from dictpfl.client.training.metric import METRICS, Metric, is_additive, is_pooled
from dictpfl.client.training.shapes import no_numbers
from dictpfl.common.arrays import Ints
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.law.measure import Measure
from dictpfl.common.registry import require_bindable
from dictpfl.common.settings import Training

COUNT_BITS = 30
"""An institution may count 2^30 units, samples or tokens or pixels, about a billion."""
_LIMB_BITS = 30
"""Sums wider than this travel as several integers of so many bits: a component of any federation holds one."""
_PER_UNIT, _FRACTION = 12, 16
_MOST_BINS = 65_536
"""All of them travel, with every upload."""


class Pooled(Protocol):
    """A metric from integer sums; its class takes the number of the model's outputs, and `training.metric_options.NAME`.

    Law: `sums` of a batch is the sum of `sums` of its parts. Round sample by sample (`fixed`), never a batch's total.
    """

    size: int
    """Number of its integers."""
    bits: int
    """Sums of one institution are at most 2^bits in magnitude; 60 at most."""

    def sums(self, outputs: Tensor, targets: Tensor) -> Ints:
        """Sums over a batch's samples, int64, shape (size,)."""
        ...

    def figures(self, sums: Ints) -> Mapping[str, Any]:
        """Figures that follow from sums over all samples: numbers, None where there is none, and lists of them (one a class)."""
        ...


def fixed(values: Tensor, fraction: int) -> Tensor:
    """Round to multiples of 2^-fraction, as int64 multiples of it.

    Raises:
        DataError: values that are not finite.
    """
    if not bool(torch.isfinite(values).all()):
        raise no_numbers()
    return torch.round(values.double() * 2.0**fraction).long()


def bins_of(metric: str, bins: int, least: int) -> int:
    """Check how many bins a metric is to count in.

    Raises:
        ConfigError: fewer than `least`, or too many.
    """
    if not least <= bins <= _MOST_BINS:
        raise ConfigError(
            f"training.metric_options.{metric}: bins is {bins}; expected {least} or more, and {_MOST_BINS:,} at most"
        )
    return bins


def numbers(tensor: Tensor) -> Ints:
    """An integer tensor as int64, flattened."""
    found: Ints = tensor.detach().reshape(-1).long().cpu().numpy()
    return found


def ratio(part: float, whole: float) -> float | None:
    """Quotient; None of nothing."""
    return float(part / whole) if whole else None


class Summed:
    """A plain metric, which is a sum over samples, among pooled ones; its values are rounded to 2^-16 a batch.

    Args:
        metric: with `total`, additive.
    """

    size, bits = 2, COUNT_BITS + _PER_UNIT + _FRACTION

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def sums(self, outputs: Tensor, targets: Tensor) -> Ints:
        """See `Pooled.sums`."""
        total = fixed(torch.as_tensor(self._metric.total(outputs, targets)), _FRACTION)
        return np.array([int(total), len(targets)], dtype=np.int64)

    def figures(self, sums: Ints) -> Mapping[str, Any]:
        """See `Pooled.figures`."""
        return {self._metric.name: ratio(float(sums[0]) / 2**_FRACTION, int(sums[1]))}


@dataclass(frozen=True)
class Metrics:
    """Metrics of a configuration, measured together.

    Attributes:
        parts: each metric by its name in the configuration, in its order.
    """

    parts: Mapping[str, Pooled]

    @classmethod
    def of(cls, training: Training, outputs: int) -> Metrics:
        """Make the metrics of a configuration for a model with so many outputs.

        Raises:
            ConfigError: unknown, options that a metric does not take or that no metric is there for, or one that no sum gives.
        """
        if idle := sorted(training.metric_options.keys() - set(training.metrics)):
            raise ConfigError(
                f"training.metric_options has {', '.join(idle)}, which training.metrics does not name; add it there, or drop it"
            )
        return cls({name: _made(name, outputs, training.metric_options.get(name, {})) for name in training.metrics})

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Measures, one a metric, that institutions agree on."""
        return tuple(
            Measure(name, part.size * _limbs(part), min(part.bits, _LIMB_BITS)) for name, part in self.parts.items()
        )

    def sums(self, outputs: Tensor, targets: Tensor) -> tuple[Ints, ...]:
        """Sums of each metric over a batch.

        Raises:
            ModelError: of another shape or type than the metric says.
        """
        made = []
        for name, part in self.parts.items():
            try:
                found = np.asarray(part.sums(outputs, targets))
            except ModelError as error:
                raise ModelError(
                    f"training.metrics: {name!r} does not go with this task and these labels ({error}); leave it out"
                ) from error
            if found.shape != (part.size,) or found.dtype != np.int64:
                raise ModelError(
                    f"metric {name!r} returned {found.dtype} of shape {found.shape}, expected int64 of shape ({part.size},)"
                )
            made.append(found)
        return tuple(made)

    @property
    def nothing(self) -> tuple[Ints, ...]:
        """Sums over no samples."""
        return tuple(np.zeros(part.size, dtype=np.int64) for part in self.parts.values())

    def sealed(self, sums: Sequence[Ints]) -> tuple[Ints, ...]:
        """Integers of the measures: sums, wide ones in limbs of 30 bits, the lowest first.

        Raises:
            ModelError: sums beyond what the metric says; nothing is sealed.
        """
        return tuple(_split(name, part, total) for (name, part), total in zip(self.parts.items(), sums, strict=True))

    def figures(self, sums: Sequence[Ints]) -> dict[str, dict[str, Any]]:
        """Figures of each metric, by its name, from sums over samples."""
        return {name: dict(part.figures(total)) for (name, part), total in zip(self.parts.items(), sums, strict=True)}

    def opened(self, measures: Sequence[Ints]) -> dict[str, dict[str, Any]]:
        """Figures of each metric from opened measures; empty without any."""
        if not measures:
            return {}
        return self.figures([_joined(part, limbs) for part, limbs in zip(self.parts.values(), measures, strict=True)])


def scalars(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The single numbers among figures, by their own name: what a line of history has room for."""
    found = {}
    for metric, own in figures.items():
        for name, value in own.items():
            if isinstance(value, int | float):
                found[name if name not in found else f"{metric} {name}"] = float(value)
    return found


def _made(name: str, outputs: int, options: Mapping[str, Any]) -> Pooled:
    made: Any = METRICS.load(name)
    if is_pooled(made):
        require_bindable(made, {"outputs": outputs, **options}, f"training.metric_options.{name}")
        return cast("Pooled", made(outputs, **options))
    require_bindable(made, options, f"training.metric_options.{name}")
    metric = made(**options)
    if not is_additive(metric):
        raise ConfigError(
            f"training.metrics: {name!r} is no sum over samples (additive = False), so that no total can be opened of it; name it in "
            "training.metric: there each institution's own value is averaged, weighted by its samples"
        )
    return Summed(metric)


def _limbs(part: Pooled) -> int:
    return -(-part.bits // _LIMB_BITS)


def _split(name: str, part: Pooled, sums: Ints) -> Ints:
    if (largest := int(np.abs(sums).max(initial=0))) > 1 << part.bits:
        raise ModelError(
            f"metric {name!r} has a sum of {largest}, more than its {part.bits} bits; measure fewer validation samples, or leave it out"
        )
    limbs, rest = [], sums.copy()
    for _ in range(_limbs(part) - 1):
        limbs.append(rest & ((1 << _LIMB_BITS) - 1))
        rest = rest >> _LIMB_BITS
    return np.concatenate([*limbs, rest])


def _joined(part: Pooled, integers: Ints) -> Ints:
    """Sums out of limbs, as Python integers where they are wider than int64."""
    limbs = integers.reshape(_limbs(part), part.size)
    total = sum(limb.astype(object) << (_LIMB_BITS * place) for place, limb in enumerate(limbs))
    return np.array(total, dtype=object) if part.bits > _LIMB_BITS else limbs[0]
