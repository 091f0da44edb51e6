"""Scores of blocks without gradients, by which zeros are divided: heavy tails of spectra (AlphaPruning), outliers (OWL).

Both are rivals of scores by influence: the higher a block's score, the more of it is pruned
(`dictpfl.client.compress.influence.shares.sparsity_by_layer`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from dictpfl.client.compress.sparse.inputs import Squares
from dictpfl.client.model.sparse.scores import wanda
from dictpfl.client.model.sparse.weights import Weight

BY_WEIGHTS = ("alpha", "owl")
"""Ways to divide zeros that need no gradients."""
OUTLIER = 5.0
"""Factor of a block's mean importance from which on an entry is an outlier (OWL's M)."""
OWL_SPREAD = 0.08
"""Distance from the wanted share at most (OWL's lambda)."""


def tail_exponents(weights: Mapping[str, Weight]) -> dict[str, float]:
    """Hill's estimate of the tail exponent of each block's spectra (AlphaPruning, arXiv 2410.10912): mean over the block's weights.

    alpha = 1 + k / sum_{i <= k} ln(ev_{n-i+1} / ev_{n-k}), of the n eigenvalues ev of W^T W, ascending, with k = n/2. A light tail, a high alpha,
    says that a block learnt little.

    Args:
        weights: covered, by name, in the order of the model.
    """
    found: dict[str, list[float]] = {}
    for weight in weights.values():
        found.setdefault(weight.block, []).append(_hill(weight))
    return {block: float(np.mean(values)) for block, values in found.items()}


def without_outliers(weights: Mapping[str, Weight], squares: Squares) -> dict[str, float]:
    """Share of each block's entries whose importance by Wanda is below `OUTLIER` times the block's mean (OWL, arXiv 2310.05175).

    Args:
        weights: covered, by name, in the order of the model.
        squares: their inputs, from the dense model.
    """
    scores: dict[str, list[np.ndarray]] = {}
    for weight in weights.values():
        scores.setdefault(weight.block, []).append(wanda(weight, squares.norms(weight.name)).ravel())
    found = {}
    for block, parts in scores.items():
        together = np.concatenate(parts)
        found[block] = 1.0 - float((together > OUTLIER * together.mean()).mean())
    return found


def _hill(weight: Weight) -> float:
    """Tail exponent of one weight; eigenvalues of 0, which say nothing of a tail, are left out."""
    values = torch.linalg.svdvals(weight.matrix.detach().double().cpu()).square().numpy()  # falling
    values = values[values > values[0] * np.finfo(np.float32).eps ** 2] if len(values) else values
    k = len(values) // 2
    if k == 0:
        return 1.0
    spread = float(np.log(values[:k] / values[k]).sum())
    return 1.0 + k / spread if spread > 0.0 else float(k + 1)
