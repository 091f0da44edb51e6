"""Inputs of a layer as its core shows them: the gradient of C holds E x for an input x, in place of x itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.law.dictionary import Dictionary
from dictpfl.common.law.layout import Entry

Array = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)


def window(dictionaries: Mapping[str, Dictionary], name: str) -> Array | None:
    """Find the matrix (r, m) by which a core's gradient sees its layer's inputs; None for what is no core, and sees them whole.

    E, or D^T of a core that stands the other way round.
    """
    d = dictionaries.get(name)
    if d is None or d.right is None:
        return None
    return (d.matrix.T if d.transposed else d.right).astype(np.float64)


def rows(dictionaries: Mapping[str, Dictionary], entry: Entry, vector: NDArray[Scalar]) -> NDArray[Scalar]:
    """Take one tensor out of a shared vector, as rows that are made of its layer's inputs, as far as they show: (rows, m or r)."""
    values: NDArray[Scalar] = vector[entry.span].reshape(entry.shape)
    d = dictionaries.get(entry.name)
    return values.T if d is not None and d.right is not None and d.transposed else values


def seen(dictionaries: Mapping[str, Dictionary], name: str, inputs: Array) -> Array:
    """Project inputs (..., m) to what a core shows of them, (..., r); as they are for what is no core."""
    view = window(dictionaries, name)
    return inputs if view is None else inputs @ view.T


def width(dictionaries: Mapping[str, Dictionary], entry: Entry) -> int:
    """Count the values of one input of the layer that a tensor belongs to."""
    view = window(dictionaries, entry.name)
    return entry.shape[-1] if view is None else view.shape[1]
