"""Density peaks of tokens: which of them stand for the others (Rodriguez and Laio 2014, as FastVID and AutoPrune use it)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dictpfl.client.model.tokens.seam import best

_FEW = 4  # of up to so many smallest values, passes over all are quicker than topk on a processor
_OUT = 1e38  # past every distance, and a float32 still: no product with it is NaN
_ROUNDING = 1e-12  # of two tokens' squares together; a float32 that differs in its last digit moves more


@torch.no_grad()
def distances(hidden: Tensor) -> Tensor:
    """Distance of any two tokens over sqrt(D), float32: (..., T, D) to (..., T, T)."""
    # In float64 the products of far tokens leave enough digits of what lies between them, and cost a sixth of `torch.cdist`, which
    # takes differences. Equal tokens have equal products up to rounding: what is below it is no distance, so that ties stay ties.
    wide = hidden.double()
    squares = wide @ wide.mT
    size = squares.diagonal(dim1=-2, dim2=-1).clone()
    squares = squares.mul_(-2).add_(size.unsqueeze(-1)).add_(size.unsqueeze(-2)).float()
    least = size.float().mul_(_ROUNDING)
    squares.masked_fill_(squares <= least.unsqueeze(-1) + least.unsqueeze(-2), 0.0)
    return squares.sqrt_().div_(math.sqrt(hidden.shape[-1]))


@torch.no_grad()
def peaks(apart: Tensor, real: Tensor, count: int, nearest: int) -> Tensor:
    """Number the tokens of the largest rho delta, best first, ties by index: (..., count) int64.

        rho_i = exp(-mean of the `nearest` smallest D_ij^2, the token itself among them)
        delta_i = min {D_ij : rho_j > rho_i}, of equal rho the earlier token counts as denser; for the densest: the largest D

    Args:
        apart: distances, (..., T, T).
        real: mask of the tokens that count, (..., T) bool; others come last.
        count: at most T.
        nearest: capped at T.
    """
    # Masks are added rather than filled in: entries chosen by a mask without a pattern cost a processor twenty times a sum.
    out = torch.zeros_like(apart[..., 0]).masked_fill_(~real, torch.inf)
    far = apart + out.unsqueeze(-1) + out.unsqueeze(-2)
    close = _smallest(far, min(nearest, apart.shape[-1]))
    counted = torch.isfinite(close)
    mean = close.masked_fill(~counted, 0.0).square().sum(-1) / counted.sum(-1).clamp(min=1)
    rho = torch.exp(-mean).masked_fill(~real, 0.0)
    place = torch.empty_like(rho, dtype=torch.int32)  # by falling rho
    order = rho.argsort(dim=-1, descending=True, stable=True)
    place.scatter_(-1, order, torch.arange(rho.shape[-1], dtype=torch.int32, device=rho.device).expand_as(order))
    no_denser = place.unsqueeze(-2) >= place.unsqueeze(-1)  # (i, j) where rho_j is no larger than rho_i
    delta = far.add_(no_denser.to(far.dtype).mul_(_OUT)).amin(dim=-1)
    counts = real.to(apart.dtype)
    widest = (apart * counts.unsqueeze(-1)).mul_(counts.unsqueeze(-2)).amax(dim=(-2, -1), keepdim=True).squeeze(-1)
    delta = torch.where(delta >= _OUT, widest, delta)
    return best((rho * delta).masked_fill_(~real, -1.0), count)


def _smallest(values: Tensor, count: int) -> Tensor:
    """So many smallest values of each row, rising: (..., T) to (..., count)."""
    if count > _FEW:
        return values.topk(count, dim=-1, largest=False).values
    rest, found = values.clone(), []
    for _ in range(count):
        least = rest.min(dim=-1, keepdim=True)
        found.append(least.values)
        rest.scatter_(-1, least.indices, torch.inf)
    return torch.cat(found, dim=-1)
