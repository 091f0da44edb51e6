"""SparseGPT: entries that go are chosen, and those that stay are moved to make up for them (arXiv 2301.00774).

For one weight W (n, m) with inputs X, all in float64:

    H = 2 X^T X + 0.01 mean(diag) I;  columns without input: H_jj = 1, W_:j = 0
    U = upper Cholesky factor of H^-1
    blocks of 128 columns: of the errors W^2 / diag(U)^2 the lowest go, all rows together; then column by column
    err = (w - q) / U_jj,  W_:,j: -= err U_j,j:  within the block, and after it for all columns behind it
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dictpfl.client.model.sparse.weights import Weight
from dictpfl.common.errors import ModelError
from dictpfl.common.law.sparsity import Bools, largest, largest_in_groups, ordered, shares

BLOCK = 128
"""Columns between two choices."""
DAMPING = 0.01


def of_weight(
    weight: Weight, grams: Tensor, zeros: int, *, pattern: tuple[int, int] | None = None, mask: Bools | None = None
) -> tuple[Tensor, Bools]:
    """`solve` for a weight whose groups of rows have inputs of their own: (n, m) and its mask.

    Args:
        weight: W.
        grams: X^T X of each group, (groups, m, m), float64.
        zeros, pattern, mask: see `solve`.
    """
    matrix, groups = weight.matrix, weight.groups
    rows = weight.shape[0] // groups
    each = shares([rows * weight.shape[1]] * groups, zeros)
    found = []
    for g in range(groups):
        part = slice(g * rows, (g + 1) * rows)
        found.append(solve(matrix[part], grams[g], each[g], pattern=pattern, mask=None if mask is None else mask[part]))
    return torch.cat([moved for moved, _ in found]), np.concatenate([stays for _, stays in found])


def solve(
    matrix: Tensor, gram: Tensor, zeros: int, *, pattern: tuple[int, int] | None = None, mask: Bools | None = None
) -> tuple[Tensor, Bools]:
    """Choose what goes from one weight, and move the rest.

    Args:
        matrix: W, (n, m); not changed.
        gram: X^T X, (m, m), float64.
        zeros: entries that go, in all.
        pattern: so many of so many neighbours stay; `zeros` is then what follows from it.
        mask: True where an entry stays, decided before; nothing is then chosen here.

    Returns:
        The weight of matrix's dtype with exact zeros, and its mask.

    Raises:
        ModelError: a Gram matrix that has no inverse even when damped.
    """
    w = matrix.double().clone()
    n, m = w.shape
    upper, dead = _factor(gram)
    w[:, dead] = 0.0
    stays = np.zeros((n, m), dtype=bool)
    left = zeros
    step = BLOCK if pattern is None else max(pattern[1], BLOCK - BLOCK % pattern[1])
    for start in range(0, m, step):
        end = min(start + step, m)
        block, u = w[:, start:end].clone(), upper[start:end, start:end]
        if mask is not None:
            here = mask[:, start:end].copy()
        elif pattern is None:
            # So many that all columns up to here have had their share: the last block ends at `zeros` exactly.
            going = zeros * end // m - (zeros - left)
            left -= going
            here = _chosen(block, u, n * (end - start) - going)
        else:
            here = np.zeros(block.shape, dtype=bool)
        errors = torch.zeros_like(block)
        for j in range(end - start):
            if pattern is not None and mask is None and j % pattern[1] == 0:
                part = slice(j, j + pattern[1])
                here[:, part] = _of_neighbours(block[:, part], u[part, part], *pattern)
            column = block[:, j]
            kept = torch.from_numpy(here[:, j]).to(column.device)
            error = torch.where(kept, 0.0, column) / u[j, j]
            block[:, j] = torch.where(kept, column, 0.0)
            if j + 1 < end - start:
                block[:, j + 1 :] -= error[:, None] * u[j, j + 1 :]
            errors[:, j] = error
        w[:, start:end] = block
        w[:, end:] -= errors @ upper[start:end, end:]
        stays[:, start:end] = here
    gone = torch.from_numpy(~stays).to(w.device)
    return w.masked_fill(gone, 0.0).to(matrix.dtype), stays


def _factor(gram: Tensor) -> tuple[Tensor, Tensor]:
    """U, and which columns have no input."""
    hessian = 2.0 * gram
    diagonal = hessian.diagonal()
    dead = diagonal == 0.0
    diagonal[dead] = 1.0  # a view
    diagonal += DAMPING * diagonal.mean()
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        return torch.linalg.cholesky(inverse, upper=True), dead
    except RuntimeError as error:
        raise ModelError(
            f"SparseGPT: the inputs' Gram matrix cannot be inverted ({error}); take more calibration samples"
        ) from error


def _chosen(block: Tensor, u: Tensor, count: int) -> Bools:
    errors = (block / u.diagonal()).square()
    return largest([ordered(errors.cpu().contiguous().numpy())], count)[0]


def _of_neighbours(part: Tensor, u: Tensor, count: int, size: int) -> Bools:
    errors = (part / u.diagonal()).square()
    return largest_in_groups(ordered(errors.cpu().contiguous().numpy()), count, size)
