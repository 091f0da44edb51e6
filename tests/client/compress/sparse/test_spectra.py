"""Zeros divided by tails of spectra and by outliers: slow formulas, shares, exact counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from dictpfl.client.compress.sparse.inputs import Squares, calibrate
from dictpfl.client.compress.sparse.prune import prune
from dictpfl.client.compress.sparse.spectra import tail_exponents, without_outliers
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.sparse.weights import covered
from dictpfl.client.training.task import load_task
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.sparsity import kept_count

pytestmark = pytest.mark.usefixtures("quiet")
CLASSES = load_task("classification")


def mlp() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def points() -> Samples:
    draw = np.random.default_rng(2)
    return Samples(draw.normal(size=(30, 12)).astype(np.float32), draw.integers(0, 3, 30))


def test_the_tail_exponent_is_that_of_the_formula() -> None:
    model = mlp()
    found = tail_exponents(covered(model))
    assert list(found) == ["0", "2", "4"]
    for block, exponent in found.items():
        weight = model.get_submodule(block).weight.detach().double()
        ev = np.sort(
            np.linalg.eigvalsh((weight @ weight.T if len(weight) < weight.shape[1] else weight.T @ weight).numpy())
        )
        n, k = len(ev), len(ev) // 2
        slow = 1 + k / sum(math.log(ev[n - i] / ev[n - k - 1]) for i in range(1, k + 1))
        assert exponent == pytest.approx(slow, rel=1e-9)


def test_a_heavier_tail_has_a_lower_exponent() -> None:
    model = mlp()
    with torch.no_grad():
        u, s, v = torch.linalg.svd(model[2].weight, full_matrices=False)
        model[2].weight.copy_(u @ torch.diag(s**3) @ v)
        model[4].weight.zero_()
    found, before = tail_exponents(covered(model)), tail_exponents(covered(mlp()))
    assert found["2"] < before["2"]
    assert found["0"] == before["0"]
    assert found["4"] == 1.0, "a weight of zeros has no tail"


def test_outliers_are_counted_against_the_mean_of_their_block() -> None:
    model, samples = mlp(), points()
    with torch.no_grad():
        model[2].weight[:, :3] *= 40  # columns whose entries stand out
    weights, squares = covered(model), Squares()
    calibrate(model, weights, samples, squares.see)
    found = without_outliers(weights, squares)
    x = torch.from_numpy(samples.features)
    inputs = {"0": x, "2": model[:2](x), "4": model[:4](x)}
    for block, share in found.items():
        score = model.get_submodule(block).weight.detach().double().abs() * inputs[block].detach().double().norm(dim=0)
        assert share == pytest.approx(1 - float((score > 5 * score.mean()).double().mean()), abs=1e-12)
    assert found["2"] < min(found["0"], found["4"])


@pytest.mark.parametrize("method", ["wanda", "magnitude", "sparsegpt"])
@pytest.mark.parametrize("allocate", ["alpha", "owl"])
def test_zeros_are_exactly_so_many_and_more_where_the_score_is_higher(method: str, allocate: str) -> None:
    model, samples = mlp(), points()
    with torch.no_grad():
        model[2].weight[:, :3] *= 40
    made = prune(model, samples, CLASSES, 0.6, method, allocate=allocate)
    total = sum(w.size for w in made.weights.values())
    assert made.masks.kept == kept_count(total, 0.6)
    zeros = {block: 1 - kept / size for block, (kept, size) in made.kept_by_block().items()}
    if allocate == "alpha":
        scores = tail_exponents(covered(model))
    else:
        squares = Squares()
        calibrate(model, covered(model), samples, squares.see)
        scores = without_outliers(covered(model), squares)
        assert max(zeros.values()) - min(zeros.values()) <= 0.161, "0.08 on either side, and rounding to entries"
    assert max(zeros, key=zeros.__getitem__) == max(scores, key=scores.__getitem__)
    assert min(zeros, key=zeros.__getitem__) == min(scores, key=scores.__getitem__)


def test_patterns_and_single_blocks_are_refused() -> None:
    for allocate in ("alpha", "owl"):
        with pytest.raises(ConfigError, match="a pattern keeps the same share"):
            prune(mlp(), points(), CLASSES, method="wanda", pattern=(2, 4), allocate=allocate)
        with pytest.raises(ConfigError, match="learns what goes"):
            prune(mlp(), points(), CLASSES, method="lua", allocate=allocate)
        with pytest.raises(ConfigError, match="--allocate uniform"):
            prune(mlp(), points(), CLASSES, method="wanda", cover=["2.weight"], allocate=allocate)
