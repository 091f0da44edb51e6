"""Solvers of influence against what the formulas say of vectors, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from dictpfl.client.compress.influence.solvers import influence


def direct(g: np.ndarray, v: np.ndarray, solver: str) -> np.ndarray:
    """I with H formed, or DataInf's sum of single inverses, vector by vector; damping 0.1."""
    n, p = g.shape
    strength = 0.1 * np.mean([np.mean(row**2) for row in g])
    if solver == "exact":
        hessian = sum(np.outer(row, row) for row in g) / n + strength * np.eye(p)
        return np.array([-row @ np.linalg.solve(hessian, v) for row in g])
    moved = sum((v - (row @ v) / (strength + row @ row) * row) / strength for row in g) / n
    return np.array([-row @ moved for row in g])


@pytest.mark.parametrize(("solver", "near"), [("exact", 1e-8), ("datainf", 1e-10)])
@pytest.mark.parametrize("shape", [(9, 4), (6, 30), (1, 5)])
def test_inner_products_are_all_that_a_solver_needs(shape: tuple[int, int], solver: str, near: float) -> None:
    """From K and a alone, as from the vectors: more samples than entries, fewer, and a single one."""
    random = np.random.default_rng(sum(shape))
    g = random.normal(size=shape) * 10.0 ** random.integers(-3, 3, (shape[0], 1))
    v = random.normal(size=shape[1])
    expected = direct(g, v, solver)
    found = influence(g @ g.T, g @ v, shape[1], solver=solver)
    np.testing.assert_allclose(found, expected, rtol=near, atol=near * np.abs(expected).max())
