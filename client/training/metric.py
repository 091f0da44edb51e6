"""Metrics, added over institutions (a door: `training.metric`, one number; `training.metrics`, several, from sums)."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.registry import Registry, require_part


class Metric(Protocol):
    """A sum over samples, so that institutions can add theirs under encryption and divide by the sample count.

    One that is no sum over samples, such as a share of pairs, says `additive = False`: then it is asked once for a whole
    split, and returns its value times the number of samples. What institutions get is the mean of their own values,
    weighted by their samples; not the value of all samples together.
    """

    name: str
    """A word for reports."""
    higher_is_better: bool
    """True where a larger value is a better model."""

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum of the metric over a batch's samples, a scalar.

        Args:
            outputs: what the model returns for the batch; for the whole split, where it is not additive.
            targets: labels of the same samples.
        """
        ...


def is_additive(part: object) -> bool:
    """Tell whether a metric or a task is a sum over samples: what does not say is."""
    return bool(getattr(part, "additive", True))


def is_pooled(part: object) -> bool:
    """Tell whether a metric is made of several sums (`dictpfl.client.training.pooled`)."""
    return hasattr(part, "sums") and hasattr(part, "figures")


METRICS: Registry[type[Metric]] = Registry(
    "metric", key="training.metric", group="dictpfl.metrics", folder="dictpfl.client.training.metrics"
)


def load_metric(name: str) -> Metric:
    """Make the metric that a name leads to.

    Raises:
        ConfigError: unknown, or one that is made of several sums and so is no single one to select a model by.
    """
    made = METRICS.load(name)
    if is_pooled(made):
        raise ConfigError(
            f"training.metric: {name!r} follows from several sums; name it in training.metrics = [{name!r}], which pools them under "
            "encryption, and leave training.metric to one that is a sum over samples"
        )
    metric = made()
    require_part(metric, f"training.metric {name!r}", {"total": 2}, ("name", "higher_is_better"))
    return metric


_UNEVEN, _CLOSE = (4, 2), 1e-3
"""Parts that a batch is divided in, and how far a sum of their values may be from the whole's, relatively: float32 adds to 1e-6."""


_REMEDY = (
    "Return a sum over the samples (their count times a mean), or name a pooled one in training.metrics (auroc, confusion, calibration, "
    "r2), or say `additive = False` in the metric: then it is asked once for each institution's whole split, and the values are averaged"
)


def require_sum(part: Any, outputs: Tensor, targets: Tensor) -> None:
    """Refuse a metric that is no sum over samples though it does not say so: its value of a batch is compared with that of its parts.

    Args:
        part: a task with `metric`, or a metric with `total`.
        outputs: what the model returns for a batch; less than two samples tell nothing.
        targets: labels of the same samples.

    Raises:
        ModelError: another value, or one that is not finite.
    """
    total = part.total if hasattr(part, "total") else part.metric
    name = getattr(part, "metric_name", getattr(part, "name", type(part).__name__))
    count = len(targets)
    for share in _UNEVEN if count > 1 else ():
        cut = max(1, count // share)
        whole = float(total(outputs, targets))
        try:
            parts = [float(total(outputs[some], targets[some])) for some in (slice(cut), slice(cut, None))]
        except (ValueError, IndexError, RuntimeError, ArithmeticError) as error:
            raise ModelError(
                f"metric {name!r} is no sum over samples: of {count} it can be computed, of the first {cut} or the others alone it "
                f"cannot ({type(error).__name__}: {error}). {_REMEDY}"
            ) from error
        if not abs(whole - sum(parts)) <= _CLOSE * max(1.0, abs(whole), *map(abs, parts)):
            raise ModelError(
                f"metric {name!r} is no sum over samples: of {count} samples it is {whole:.4f}, of the first {cut} and the other "
                f"{count - cut} it is {parts[0]:.4f} + {parts[1]:.4f} = {sum(parts):.4f}. Sums of batches, and of institutions, would "
                f"be a wrong number. {_REMEDY}"
            )
