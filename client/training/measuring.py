"""Metrics of a federation, as its genesis has them."""

from __future__ import annotations

from dictpfl.client.training.pooled import Metrics
from dictpfl.common.errors import ConfigError
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
