"""Metrics of a federation, as its genesis has them, and means of what was measured."""

from __future__ import annotations

from dictpfl.client.training.pooled import Metrics
from dictpfl.client.training.train import Measured
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.genesis import Genesis


def agreed_metrics(genesis: Genesis) -> Metrics:
    """Make the metrics of a federation.

    Raises:
        ConfigError: code here gives one another form than the authority's did.
    """
    metrics = Metrics.of(genesis.config.measuring, genesis.outputs)
    if metrics.measures != genesis.measures:
        wrong = [one.name for one, agreed in zip(metrics.measures, genesis.measures, strict=False) if one != agreed]
        raise ConfigError(
            f"training.metrics: {', '.join(wrong) or 'some'} have another form here than genesis says; code or releases differ from the "
            "authority's"
        )
    return metrics


def means(measured: Measured) -> tuple[float, float]:
    """Compute mean loss and metric.

    Raises:
        DataError: of no sample.
    """
    if not measured.count:
        raise DataError(
            "nothing is measured: none of these samples can be read (data.skip_broken = false says why), or no token of any has a label; "
            "expected at least one that can, with something to learn"
        )
    return measured.loss_sum / measured.count, measured.metric_sum / measured.count
