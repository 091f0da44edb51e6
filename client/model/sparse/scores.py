"""Importance of the entries of a weight's matrix (n, m), from 0 up, float64; the larger, the sooner an entry stays."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dictpfl.client.model.sparse.weights import Weight
from dictpfl.common.errors import ModelError

Floats = NDArray[np.float64]


def magnitude(weight: Weight) -> Floats:
    """|W_ij|, (n, m)."""
    return _checked(weight, np.abs(_matrix(weight)))


def wanda(weight: Weight, norms: Floats) -> Floats:
    """|W_ij| ||X_:j||_2, (n, m) (Wanda, arXiv 2306.11695).

    Args:
        weight: W.
        norms: ||X_:j||_2 over all calibration tokens, (groups, m): each group of rows has inputs of its own.
    """
    n, m = weight.shape
    each = np.abs(_matrix(weight)).reshape(weight.groups, n // weight.groups, m)
    return _checked(weight, (each * norms[:, None, :]).reshape(n, m))


def ranks(scores: Floats) -> NDArray[np.int32]:
    """Rank of each entry in its row, r_ij = #{k : S_ik <= S_ij}, from 1 to m; equal scores count as all of them do.

    r_ij / m is the empirical distribution function of the row, so that a threshold on it is a sparsity. A score of zero has rank 0:
    an entry that is zero already, or whose input is silent, goes before all others, however many there are.

    Args:
        scores: S, (n, m), finite.
    """
    s = torch.from_numpy(np.ascontiguousarray(scores))
    found = torch.searchsorted(s.sort(dim=1).values, s, right=True, out_int32=True).masked_fill_(s == 0.0, 0)
    result: NDArray[np.int32] = found.numpy()
    return result


def _matrix(weight: Weight) -> Floats:
    matrix: Floats = weight.matrix.double().cpu().contiguous().numpy()
    return matrix


def _checked(weight: Weight, scores: Floats) -> Floats:
    if not np.isfinite(scores).all():
        raise ModelError(
            f"the importance of {weight.name} is not finite: check the weights, and samples that make activations overflow"
        )
    return scores
