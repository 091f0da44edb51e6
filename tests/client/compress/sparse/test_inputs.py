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


def test_weights_that_read_one_input_share_its_product_and_others_do_not() -> None:
    torch.manual_seed(1)
    weights = covered(nn.Sequential(*(nn.Linear(6, 5) for _ in range(4))), ["*"])
    x, grams = torch.randn(7, 6), Grams()
    before = x.double().t() @ x.double()
    grams.see(weights["0.weight"], 0, x.detach().reshape(-1, 6))
    grams.see(weights["1.weight"], 0, x.detach().reshape(-1, 6))  # the same values in the same place
    with torch.no_grad():
        x.mul_(2.0)  # the same place, other values
    grams.see(weights["2.weight"], 0, x.detach().reshape(-1, 6))
    grams.see(weights["3.weight"], 0, x[:3])  # other rows of it
    assert torch.equal(grams.sums["0.weight"], grams.sums["1.weight"])
    torch.testing.assert_close(grams.sums["0.weight"][0], before, rtol=0, atol=1e-5)
    torch.testing.assert_close(grams.sums["2.weight"][0], 4 * before, rtol=0, atol=1e-5)
    torch.testing.assert_close(grams.sums["3.weight"][0], x[:3].double().t() @ x[:3].double(), rtol=0, atol=1e-5)
