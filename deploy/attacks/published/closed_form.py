"""Inversion without any search: samples that follow from gradients by linear algebra.

- A first layer that is linear with a bias: dW = db x^T for one sample (Phong et al. 2017).
- A vision transformer whose positions are shared: the gradient of the positions is that of every patch's embedding, and
  dW = delta^T X solves for all patches (Lu et al. 2022, "APRIL").
A lookup table's gradient is D^T dW, so that both hold for tables as long as their rank is not below the number of unknowns
in a column. A core's is D^T dW E^T: what is solved for is E x, and the sample is the one nearest to grey that E takes there. Each pixel is solved from the coordinates that are known, if there are enough; for a batch of several samples
what comes out is a mixture of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from dictpfl.common.law.dictionary import Dictionary
from dictpfl.common.law.layout import Entry, Kind, Layout
from dictpfl.deploy.attacks import cores
from dictpfl.deploy.attacks.case import Case
from dictpfl.deploy.attacks.inversion import Effort, Reconstruction
from dictpfl.deploy.attacks.inversion_run import InversionAttack
from dictpfl.deploy.attacks.registry import ATTACKS

Array = NDArray[np.float64]
_FIRM = 1e-9
"""Columns whose equations are weaker than this, relative to the strongest, count as unknown."""


@ATTACKS.register("closed-form")
class ClosedForm(InversionAttack):
    """Samples by linear algebra, where the model's first layer allows it."""

    title = "closed form"
    source = "Phong et al. 2017; Lu et al. 2022"
    largest_batch = 1

    def reconstruct(self, case: Case, _effort: Effort, _seed: int) -> Reconstruction:
        """See `InversionAttack.reconstruct`."""
        genesis, target = case.recorded.genesis, case.target()
        coordinates = case.recorded.matcher(case.number).coordinates
        middle, samples = (target.low + target.high) / 2, target.steps * target.batch
        rebuilt = []
        for observed, known in zip(target.observed.numpy(), target.known.numpy(), strict=True):
            gradient, have = np.zeros(genesis.layout.size), np.zeros(genesis.layout.size, dtype=bool)
            gradient[coordinates], have[coordinates] = observed, known
            image = closed_form(genesis.layout, genesis.dictionaries, gradient, have, target.shape, middle)
            if image is None:
                image = np.full(target.shape, middle)
            rebuilt.append(np.repeat(image[None].clip(target.low, target.high), samples, axis=0))
        labels = torch.zeros(len(target), samples, dtype=torch.int64)
        return Reconstruction(torch.from_numpy(np.stack(rebuilt)), labels, torch.zeros(len(target)))


def closed_form(
    layout: Layout,
    dictionaries: Mapping[str, Dictionary],
    gradient: Array,
    known: NDArray[np.bool_],
    shape: tuple[int, ...],
    middle: float,
) -> Array | None:
    """Solve for the sample that a gradient gives away; None for a model without such a first layer.

    Args:
        layout: of the shared vector.
        dictionaries: of its tables, by name.
        gradient: one victim's, float64, shape (layout.size,).
        known: coordinates of it that the attacker has, shape (layout.size,).
        shape: of a sample, and of the result.
        middle: value of a pixel that cannot be solved for.
    """
    parts = _first_layer(layout, dictionaries, shape)
    if parts is None:
        return None
    weight, direct = parts
    unknowns = direct.size // direct.shape[-1] if len(direct.shape) > 1 else 1
    errors = gradient[direct.span].reshape(unknowns, -1)
    have = known[direct.span].reshape(unknowns, -1)
    if len(direct.shape) > 1:
        errors, have = errors[1:], have[1:]  # the class token has no patch
    view = cores.window(dictionaries, weight.name)
    columns = _columns(weight, shape, len(errors)) if view is None else len(view)
    products = cores.rows(dictionaries, weight, gradient).reshape(weight.size // columns, -1)
    products_known = cores.rows(dictionaries, weight, known).reshape(products.shape)
    left: Array = errors.T
    left_known: NDArray[np.bool_] = np.logical_and.reduce(have, axis=0)
    if weight.kind is Kind.TABLE:
        d = dictionaries[weight.name]
        if d.transposed and d.right is None:
            return None  # T stands on the other side: its gradient holds samples only through D
        left = (d.right if d.right is not None and d.transposed else d.matrix.T).astype(np.float64) @ left
        left_known = np.full(len(left), bool(left_known.all()))
    if view is None:
        return _image(_solved(left, left_known, products, products_known, middle), shape)
    return _image(_lifted(_solved(left, left_known, products, products_known, np.nan), view, middle), shape)


def _first_layer(
    layout: Layout, dictionaries: Mapping[str, Dictionary], shape: tuple[int, ...]
) -> tuple[Entry, Entry] | None:
    """Find the first weight that sees the sample, and the tensor whose gradient is that of its output."""
    by_name = {entry.name: entry for entry in layout.entries}
    positions = next((e for n, e in by_name.items() if n.endswith("pos_embed") and len(e.shape) == 3), None)  # noqa: PLR2004
    patches = next((e for n, e in by_name.items() if "patch_embed" in n and n.endswith("weight")), None)
    if positions is not None and patches is not None:
        return patches, positions
    for entry in layout.entries:
        bias = by_name.get(entry.name.removesuffix("weight") + "bias")
        wide = math.prod(shape)
        is_matrix = entry.name.endswith("weight") and len(entry.shape) == 2  # noqa: PLR2004
        if is_matrix and bias is not None and cores.width(dictionaries, entry) == wide:
            return entry, bias
    return None


def _columns(weight: Entry, shape: tuple[int, ...], patches: int) -> int:
    """Count the first layer's inputs: of a patch, or of the whole sample."""
    return math.prod(shape) // patches if patches > 1 else weight.shape[-1]


def _solved(
    left: Array, left_known: NDArray[np.bool_], right: Array, right_known: NDArray[np.bool_], middle: float
) -> Array:
    """Solve left X = right, column by column from the rows that are known; (unknowns, columns)."""
    columns = np.full((left.shape[1], right.shape[1]), middle)
    for column in range(right.shape[1]):
        rows = left_known & right_known[:, column]
        if rows.sum() < left.shape[1]:
            continue
        solution, _, rank, strengths = np.linalg.lstsq(left[rows], right[rows, column], rcond=_FIRM)
        if rank == left.shape[1] and strengths[-1] > 0:
            columns[:, column] = solution
    return columns


def _lifted(shown: Array, view: Array, middle: float) -> Array:
    """Find the samples, (unknowns, m), nearest to grey of which `shown` (unknowns, r) is seen; NaN is not known."""
    grey = np.full(view.shape[1], middle)
    have = np.isfinite(shown)
    return np.stack([
        grey + np.linalg.pinv(view[known]) @ (row[known] - view[known] @ grey)
        for row, known in zip(shown, have, strict=True)
    ])  # fmt: skip


def _image(solved: Array, shape: tuple[int, ...]) -> Array:
    if len(solved) == 1:
        return solved.reshape(shape)
    channels, height, width = shape
    side = math.isqrt(solved.shape[1] // channels)
    tiles = solved.reshape(height // side, width // side, channels, side, side)
    return tiles.transpose(2, 0, 3, 1, 4).reshape(shape)
