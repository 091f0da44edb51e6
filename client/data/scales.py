"""Features on other scales, which no optimiser likes, or on one that sums are too coarse for: noticed before anybody trains on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.lazy import LazySamples
from dictpfl.client.data.preparing.wide import POINT
from dictpfl.client.data.raw import Table
from dictpfl.client.data.samples import Dataset

_LARGE, _RATIO = 30.0, 100.0
"""A feature's size, and how many times the smallest feature's deviation the largest one's is, from which on it is said."""
_LOOKED_AT = 256  # rows of data that are read when they are needed
_FINE = 2.0 ** (20 - POINT)
"""Largest number of a column from which on steps of 2^-60 (`dictpfl.client.data.preparing.wide`) leave six digits of it."""


def notes_on(dataset: Dataset) -> tuple[str, ...]:
    """Say that features of a table are not scaled, or, where the federation prepares them, too small for its sums; nothing where all is well."""
    values = dataset.samples.features
    if isinstance(dataset.samples, Table):
        return _too_small(values, dataset.feature_names)
    if isinstance(dataset.samples, LazySamples) and dataset.feature_names:
        values = values[:_LOOKED_AT]
    is_table = bool(dataset.feature_names) and dataset.sample_shape == (len(dataset.feature_names),)
    if not is_table or values.dtype != np.float32:
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


def _too_small(values: NDArray[np.float64], names: Sequence[str]) -> tuple[str, ...]:
    most = np.fmax.reduce(np.abs(values), axis=0, initial=0.0)
    return tuple(
        f"no number of {name!r} is beyond {size:.3g}, and sums are kept in steps of 2^-60, about 1e-18: its mean and deviation would be coarse, "
        "or 0; all institutions give it in a smaller unit"
        for name, size in zip(names, most.tolist(), strict=True)
        if 0 < size < _FINE
    )
