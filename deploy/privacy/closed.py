"""Inversion without any search: samples that follow from gradients by linear algebra.

- A first layer that is linear with a bias: dW = db x^T for one sample (Phong et al. 2017).
- A vision transformer whose positions are shared: the gradient of the positions is that of every patch's embedding, and
  dW = delta^T X solves for all patches (Lu et al. 2022, "APRIL").
A lookup table's gradient is D^T dW, so that both hold for tables as long as their rank is not below the number of unknowns
in a column. Each pixel is solved from the coordinates that are known, if there are enough; for a batch of several samples
what comes out is a mixture of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.dictionary import Dictionary
from common.layout import Entry, Kind, Layout

Array = NDArray[np.float64]
_FIRM = 1e-9
"""A column whose equations are weaker than this, relative to the strongest, counts as unknown."""


def closed_form(
    layout: Layout,
    dictionaries: Mapping[str, Dictionary],
    gradient: Array,
    known: NDArray[np.bool_],
    shape: tuple[int, ...],
    middle: float,
) -> Array | None:
    """The sample that a gradient gives away, of the given shape; None for a model without such a first layer.

    Args:
        layout, dictionaries: of the shared vector.
        gradient: one victim's, float64, shape (layout.size,). `known`: which of it the attacker has.
        shape: of a sample.
        middle: what a pixel is set to that cannot be solved for.
    """
    parts = _first_layer(layout, shape)
    if parts is None:
        return None
    weight, direct = parts
    unknowns = direct.size // direct.shape[-1] if len(direct.shape) > 1 else 1
    errors = gradient[direct.span].reshape(unknowns, -1)
    have = known[direct.span].reshape(unknowns, -1)
    if len(direct.shape) > 1:
        errors, have = errors[1:], have[1:]  # the class token has no patch
    products = gradient[weight.span].reshape(weight.size // _columns(weight, shape, len(errors)), -1)
    products_known = known[weight.span].reshape(products.shape)
    left: Array = errors.T
    left_known: NDArray[np.bool_] = np.logical_and.reduce(have, axis=0)
    if weight.kind is Kind.TABLE:
        d = dictionaries[weight.name]
        if d.transposed:
            return None  # T stands on the other side: its gradient holds samples only through D
        left = d.matrix.astype(np.float64).T @ left
        left_known = np.full(len(left), bool(left_known.all()))
    solved = _solved(left, left_known, products, products_known, middle)
    return _image(solved, shape)


def _first_layer(layout: Layout, shape: tuple[int, ...]) -> tuple[Entry, Entry] | None:
    """The first weight that sees the sample, and the tensor whose gradient is that of its output."""
    by_name = {entry.name: entry for entry in layout.entries}
    positions = next((e for n, e in by_name.items() if n.endswith("pos_embed") and len(e.shape) == 3), None)  # noqa: PLR2004
    patches = next((e for n, e in by_name.items() if "patch_embed" in n and n.endswith("weight")), None)
    if positions is not None and patches is not None:
        return patches, positions
    for entry in layout.entries:
        bias = by_name.get(entry.name.removesuffix("weight") + "bias")
        wide = math.prod(shape)
        if entry.name.endswith("weight") and entry.shape[-1] == wide and len(entry.shape) == 2 and bias is not None:  # noqa: PLR2004
            return entry, bias
    return None


def _columns(weight: Entry, shape: tuple[int, ...], patches: int) -> int:
    """Inputs of the first layer: of a patch, or of the whole sample."""
    return math.prod(shape) // patches if patches > 1 else weight.shape[-1]


def _solved(
    left: Array, left_known: NDArray[np.bool_], right: Array, right_known: NDArray[np.bool_], middle: float
) -> Array:
    """X of left X = right, column by column from the rows that are known; (unknowns, columns)."""
    found = np.full((left.shape[1], right.shape[1]), middle)
    for column in range(right.shape[1]):
        rows = left_known & right_known[:, column]
        if rows.sum() < left.shape[1]:
            continue
        solution, _, rank, strengths = np.linalg.lstsq(left[rows], right[rows, column], rcond=_FIRM)
        if rank == left.shape[1] and strengths[-1] > 0:
            found[:, column] = solution
    return found


def _image(solved: Array, shape: tuple[int, ...]) -> Array:
    if len(solved) == 1:
        return solved.reshape(shape)
    channels, height, width = shape
    side = math.isqrt(solved.shape[1] // channels)
    tiles = solved.reshape(height // side, width // side, channels, side, side)
    return tiles.transpose(2, 0, 3, 1, 4).reshape(shape)
