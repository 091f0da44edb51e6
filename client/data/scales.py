"""Features on other scales, which no optimiser likes: noticed before anybody trains on them."""

from __future__ import annotations

import numpy as np

from dictpfl.client.data.lazy import LazySamples
from dictpfl.client.data.raw import Table
from dictpfl.client.data.samples import Dataset

_LARGE, _RATIO = 30.0, 100.0
"""A feature's size, and how many times the smallest feature's deviation the largest one's is, from which on it is said."""
_LOOKED_AT = 256  # rows of data that are read when they are needed


def notes_on(dataset: Dataset) -> tuple[str, ...]:
    """Say that features of a table are not scaled; nothing where they are, or where the federation prepares them."""
    values = dataset.samples.features
    if isinstance(dataset.samples, LazySamples) and dataset.feature_names:
        values = values[:_LOOKED_AT]
    is_table = bool(dataset.feature_names) and dataset.sample_shape == (len(dataset.feature_names),)
    if isinstance(dataset.samples, Table) or not is_table or values.dtype != np.float32:
        return ()
    spread, size = values.std(axis=0, dtype=np.float64), np.abs(values).mean(axis=0, dtype=np.float64)
    varying = np.flatnonzero(spread > 0)
    if not len(varying):
        return ()
    largest, widest, narrowest = (int(n) for n in (size.argmax(), spread.argmax(), varying[spread[varying].argmin()]))
    if size[largest] <= _LARGE and spread[widest] <= _RATIO * spread[narrowest]:
        return ()
    names = dataset.feature_names
    return (
        f"features are on other scales: {names[largest]!r} is {size[largest]:.3g} on average, deviations go from {spread[narrowest]:.3g} "
        f"({names[narrowest]}) to {spread[widest]:.3g} ({names[widest]}). A model learns badly from these; data.preprocessing.scale = "
        '"standard" scales them by sums of all institutions, encrypted',
    )
