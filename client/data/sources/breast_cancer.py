"""Breast cancer Wisconsin (diagnostic) as it comes with scikit-learn: 569 rows of 30 numbers, two classes."""

from __future__ import annotations

import numpy as np

from dictpfl.client.data.samples import Dataset, Samples, require_options
from dictpfl.client.data.source import SOURCES
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Data


@SOURCES.register("breast_cancer")
def breast_cancer(data: Data, _seed: int) -> Dataset:
    """Read all rows, standardised by the statistics of the whole published set: it is public, so they are too.

    With `data.options.scaled = false` they are as they were measured.

    Raises:
        ConfigError: unknown options, or `scaled` of another kind.
    """
    from sklearn.datasets import load_breast_cancer

    scaled = require_options(data, ("scaled",)).get("scaled", True)
    if not isinstance(scaled, bool):
        raise ConfigError(f"data.options.scaled is {scaled!r}; expected true or false")
    bunch = load_breast_cancer()
    values = (bunch.data - bunch.data.mean(axis=0)) / bunch.data.std(axis=0) if scaled else bunch.data
    return Dataset(
        Samples(values, bunch.target.astype(np.int64)),
        2,
        name="breast_cancer",
        feature_names=tuple(str(n) for n in bunch.feature_names),
        class_names=tuple(str(n) for n in bunch.target_names),
    )
