"""Gram matrices of inputs: near those of float64, whatever the inputs' width, scale and number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dictpfl.client.compress.sparse.inputs import Grams
from dictpfl.client.model.sparse.weights import covered


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_grams_are_near_those_of_float64(dtype: torch.dtype, scale: float) -> None:
    torch.manual_seed(1)
    weight = covered(nn.Sequential(nn.Linear(40, 5)), ["*"])["0.weight"]
    grams, exact = Grams(), torch.zeros(40, 40, dtype=torch.float64)
    for tokens in (1, 1024, 2500):  # less than a piece, one, and several with a rest
        x = (torch.randn(tokens, 40, dtype=torch.float64) * torch.linspace(0.1, 30, 40) * scale + scale).to(dtype)
        grams.see(weight, 0, x)
        exact += x.double().t() @ x.double()
    found = grams.sums["0.weight"][0]
    assert found.dtype == torch.float64
    error = float((found - exact).abs().max() / exact.diagonal().mean())
    assert error <= (1e-14 if dtype == torch.float64 else 2e-5)
    assert (dtype == torch.float64) == (error < 1e-12)
