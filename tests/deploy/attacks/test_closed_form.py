"""Samples that follow by linear algebra: from full gradients, from lookup tables, and not from too little."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dictpfl.common.law.dictionary import Dictionary, draw
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.deploy.attacks.published.closed_form import closed_form


def layered(x: np.ndarray, rank: int) -> tuple[Layout, dict[str, Dictionary], np.ndarray]:
    """A first linear layer of 20 outputs: its gradient db x^T, and db; as a table of this rank, or dense with rank 0."""
    random = np.random.default_rng(0)
    errors = random.normal(size=20)
    weight, d = np.outer(errors, x.reshape(-1)), random.normal(size=(20, max(1, rank)))
    if rank:
        weight = d.astype(np.float32).astype(np.float64).T @ weight
    kind = Kind.TABLE if rank else Kind.DENSE
    layout = Layout.of([("1.weight", weight.shape, kind), ("1.bias", (20,), Kind.DENSE)])
    return (
        layout,
        {"1.weight": Dictionary(d.astype(np.float32), transposed=False)},
        np.concatenate([weight.reshape(-1), errors]),
    )


@pytest.mark.parametrize("rank", [0, 1, 4])
def test_a_linear_layer_gives_one_sample_away(rank: int) -> None:
    x = np.random.default_rng(1).normal(size=(1, 8, 8))
    layout, d, gradient = layered(x, rank)
    found = closed_form(layout, d, gradient, np.ones(layout.size, dtype=bool), (1, 8, 8), 0.0)
    np.testing.assert_allclose(found, x, atol=1e-9)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rank", [1, 4, 64])
def test_a_core_gives_away_what_its_dictionary_sees(rank: int, transposed: bool) -> None:
    """Of a sample, the part in E's rows: all of it once the rank is the sample's size, nothing else before."""
    random, x = np.random.default_rng(0), np.random.default_rng(1).normal(size=(1, 8, 8))
    errors, sample = random.normal(size=64), x.reshape(-1)
    made = draw((64, 64), rank, bytes(32), "w", 0, form="core")
    made = replace(made, transposed=transposed)
    assert made.right is not None
    d, e = made.matrix.astype(np.float64), made.right.astype(np.float64)
    dense = np.outer(errors, sample)
    core = d.T @ (dense.T if transposed else dense) @ e.T
    layout = Layout.of([("1.weight", core.shape, Kind.TABLE), ("1.bias", (64,), Kind.DENSE)])
    gradient = np.concatenate([core.reshape(-1), errors])
    found = closed_form(layout, {"1.weight": made}, gradient, np.ones(layout.size, dtype=bool), (1, 8, 8), 0.0)
    assert found is not None
    view = d.T if transposed else e
    seen = (np.linalg.pinv(view) @ view @ sample).reshape(1, 8, 8)
    np.testing.assert_allclose(found, seen, atol=1e-6)
    assert np.allclose(found, x, atol=1e-6) == (np.linalg.matrix_rank(view) == 64)


def test_unknown_values_of_a_core_are_left_out() -> None:
    random, x = np.random.default_rng(0), np.random.default_rng(1).normal(size=(1, 8, 8))
    made, errors = draw((20, 64), 6, bytes(32), "w", 0, form="core"), random.normal(size=20)
    assert made.right is not None
    e = made.right.astype(np.float64)
    core = made.matrix.astype(np.float64).T @ np.outer(errors, x.reshape(-1)) @ e.T
    core[:, 2] = 1e6
    layout = Layout.of([("1.weight", core.shape, Kind.TABLE), ("1.bias", (20,), Kind.DENSE)])
    known = np.ones(layout.size, dtype=bool)
    known[layout.entries[0].span].reshape(6, 6)[:, 2] = False
    gradient = np.concatenate([core.reshape(-1), errors])
    found = closed_form(layout, {"1.weight": made}, gradient, known, (1, 8, 8), 0.25)
    rest = np.delete(e, 2, axis=0)
    nearest = 0.25 + np.linalg.pinv(rest) @ rest @ (x.reshape(-1) - 0.25)
    assert found is not None
    np.testing.assert_allclose(found.reshape(-1), nearest, atol=1e-8)


def test_only_what_is_known_is_used() -> None:
    """Unknown coordinates hold nonsense; a pixel with no known equation at all is set to the middle."""
    x = np.random.default_rng(1).normal(size=(1, 8, 8))
    layout, d, gradient = layered(x, 0)
    known = np.random.default_rng(2).random(layout.size) < 0.8
    known[layout.entries[0].span].reshape(20, 64)[:, 5] = False
    gradient = np.where(known, gradient, 1e6)
    found = closed_form(layout, d, gradient, known, (1, 8, 8), 0.25)
    assert found is not None
    assert found.reshape(-1)[5] == 0.25
    np.testing.assert_allclose(np.delete(found.reshape(-1), 5), np.delete(x.reshape(-1), 5), atol=1e-9)


@pytest.mark.parametrize(("rank", "works"), [(0, True), (4, True), (3, False)])
def test_a_transformers_positions_give_patches_away(rank: int, works: bool) -> None:
    """Four patches: a table of rank 4 has an equation for each, one of rank 3 has not."""
    random = np.random.default_rng(3)
    patches, errors = random.normal(size=(4, 16)), random.normal(size=(5, 32))
    weight, d = errors[1:].T @ patches, random.normal(size=(32, max(1, rank))).astype(np.float32)
    if rank:
        weight = d.astype(np.float64).T @ weight
    kind = Kind.TABLE if rank else Kind.DENSE
    shape = weight.shape if rank else (32, 1, 4, 4)
    layout = Layout.of([("pos_embed", (1, 5, 32), Kind.DENSE), ("patch_embed.weight", shape, kind)])
    gradient = np.concatenate([errors.reshape(-1), weight.reshape(-1)])
    found = closed_form(
        layout,
        {"patch_embed.weight": Dictionary(d, transposed=False)},
        gradient,
        np.ones(layout.size, dtype=bool),
        (1, 8, 8),
        0.0,
    )
    image = patches.reshape(2, 2, 1, 4, 4).transpose(2, 0, 3, 1, 4).reshape(1, 8, 8)
    assert found is not None
    assert np.allclose(found, image, atol=1e-8) == works


def test_another_first_layer_gives_nothing() -> None:
    layout = Layout.of([("0.weight", (8, 1, 3, 3), Kind.DENSE), ("head.bias", (10,), Kind.DENSE)])
    assert closed_form(layout, {}, np.zeros(layout.size), np.ones(layout.size, dtype=bool), (1, 8, 8), 0.0) is None
