"""Breast cancer Wisconsin (diagnostic) as it comes with scikit-learn: 569 rows of 30 numbers, two classes."""

from __future__ import annotations

import numpy as np

from dictpfl.client.data.samples import Dataset, Samples, require_options
from dictpfl.client.data.source import SOURCES
from dictpfl.common.settings import Data


@SOURCES.register("breast_cancer")
def breast_cancer(data: Data, _seed: int) -> Dataset:
    """Read all rows, standardised by the statistics of the whole published set: it is public, so they are too."""
    from sklearn.datasets import load_breast_cancer

    require_options(data, ())
    bunch = load_breast_cancer()
    scaled = (bunch.data - bunch.data.mean(axis=0)) / bunch.data.std(axis=0)
    return Dataset(
        Samples(scaled, bunch.target.astype(np.int64)),
        2,
        name="breast_cancer",
        feature_names=tuple(str(n) for n in bunch.feature_names),
        class_names=tuple(str(n) for n in bunch.target_names),
    )
