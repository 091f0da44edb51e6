"""Mutual information between rows that ask and tokens that are asked: how much a question selects (arXiv 2509.23931)."""

from __future__ import annotations

import torch
from torch import Tensor

_FLOOR = 1e-6


def information(attention: Tensor, *, normalised: bool = False) -> Tensor:
    """Sum over heads the mutual information of rows and columns, in bits where rows sum to 1: (B, H, R, V) to (B,), float32 at least.

        p(x, y) = A[x, y] / R,   p(x) = 1 / R,   p(y) = sum_x p(x, y)
        MI = sum p(x, y) log2(max(p(x, y) / (p(x) p(y) + 1e-6), 1e-6))

    One row has none, by definition.

    Args:
        attention: as it is: rows need not sum to 1, since other keys take a part.
        normalised: divide rows by their sum first.
    """
    a = attention if attention.dtype == torch.float64 else attention.float()
    rows = a.shape[-2]
    if rows < 2:  # noqa: PLR2004 -- one row selects nothing that another does not
        return a.new_zeros(len(a))
    if normalised:
        a = a / a.sum(dim=-1, keepdim=True).clamp(min=_FLOOR)
    p = a / rows
    ratio = p / (p.sum(dim=-2, keepdim=True) / rows + _FLOOR)
    return (p * torch.log2(ratio.clamp(min=_FLOOR))).sum(dim=(-3, -2, -1))
