"""Dictionaries: the paper's decomposition, its norm and signs, and what is no matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from dictpfl.common.errors import LayoutError
from dictpfl.common.law import dictionary
from dictpfl.common.law.dictionary import Dictionary, _leading, decompose, draw, table_size
from dictpfl.deploy.ceremony import verifying


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.sampled_from(["paper", "smaller"]), st.integers(0, 99)
)
def test_the_paper_s_dictionary(n: int, m: int, rank: int, orientation: str, seed: int) -> None:
    """D = U_r S_r: its columns are orthogonal, their norms the singular values, and D D^+ W is W's best of rank r."""
    w = np.random.default_rng(seed).normal(size=(n, m))
    d = decompose(w, rank, orientation=orientation, scaling="paper")  # type: ignore[arg-type]
    assert d.transposed == (orientation == "smaller" and n < m)
    a = w.T if d.transposed else w
    r = min(rank, n, m)
    assert d.matrix.shape == (a.shape[0], r)
    assert d.matrix.dtype == np.float32
    s = np.linalg.svd(a, compute_uv=False)
    gram = d.matrix.astype(float).T @ d.matrix.astype(float)
    assert np.allclose(gram, np.diag(s[:r] ** 2), atol=1e-4 * s[0] ** 2)
    projected = d.matrix @ np.linalg.pinv(d.matrix.astype(float)) @ a
    assert np.linalg.norm(a - projected) <= np.linalg.norm(s[r:]) + 1e-3 * s[0]
    table = np.random.default_rng(seed).normal(size=d.table_shape((n, m)))
    change = d.change(table)
    assert change.shape == (n, m)
    for i in range(n):
        for j in range(m):
            row, column = (j, i) if d.transposed else (i, j)
            truth = sum(float(d.matrix[row, k]) * table[k, column] for k in range(r))
            assert change[i, j] == pytest.approx(truth, rel=1e-9, abs=1e-9)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8), st.integers(0, 99))
def test_normalised_to_the_square_root_of_the_rows(n: int, m: int, rank: int, seed: int) -> None:
    d = decompose(np.random.default_rng(seed).normal(size=(n, m)) * 1e-3, rank)
    assert np.linalg.norm(d.matrix) == pytest.approx(np.sqrt(n), rel=1e-5)


SPECTRA = {
    "separated": lambda k, rng: 2.0 ** -np.arange(k),
    "repeated": lambda k, rng: np.repeat([3.0, 2.0, 1.0], -(-k // 3))[:k],
    "zero": lambda k, rng: np.where(np.arange(k) < 2, 5.0 - np.arange(k), 0.0),
    "tiny": lambda k, rng: 10.0 ** -(3.0 * np.arange(k)),
    "flat": lambda k, rng: np.ones(k),
    "any": lambda k, rng: np.sort(rng.random(k))[::-1],
}


@given(
    st.integers(1, 24),
    st.integers(1, 24),
    st.integers(1, 8),
    st.sampled_from(sorted(SPECTRA)),
    st.sampled_from([1e-160, 1e-3, 1.0, 1e160]),
    st.integers(0, 99),
)
def test_leading_directions_are_those_of_the_full_svd(
    n: int, m: int, rank: int, spectrum: str, scale: float, seed: int
) -> None:
    """Wide, tall, one row, low rank: the same singular values, orthonormal directions, and each its own value's."""
    rng, k = np.random.default_rng(seed), min(n, m)
    left, right = (np.linalg.qr(rng.normal(size=(size, size)))[0][:, :k] for size in (n, m))
    a = (left * SPECTRA[spectrum](k, rng)) @ right.T * scale
    u, s, v = _leading(a, rank)
    r = min(rank, k)
    full, truth, across = np.linalg.svd(a, full_matrices=False)
    assert (u.shape, s.shape, v.shape) == ((n, r), (r,), (r, m))
    assert np.abs(s - truth[:r]).max() <= 1e-13 * truth[0]
    assert np.abs(u.T @ u - np.eye(r)).max() <= 1e-13
    assert np.abs(np.linalg.norm(u.T @ (a / scale), axis=1) - s / scale).max() <= 1e-12 * truth[0] / scale
    gaps = np.abs(np.subtract.outer(truth[:r], truth)) + np.where(np.eye(r, k) > 0, np.inf, 0.0)
    apart = gaps.min(axis=1) > 1e-3 * truth[0]
    assert np.abs(np.abs((u * full[:, :r]).sum(axis=0)) - 1)[apart].max(initial=0.0) <= 1e-12
    assert np.abs(v @ v.T - np.eye(r)).max() <= 1e-13
    assert np.abs(np.abs((v * across[:r]).sum(axis=1)) - 1)[apart].max(initial=0.0) <= 1e-12
    assert np.abs((u.T @ (a / scale)) - (s / scale)[:, None] * v)[apart].max(initial=0.0) <= 1e-12 * truth[0] / scale


def test_a_wide_matrix_takes_the_fast_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the few rows that are wanted are given to the SVD; near the end of what squares resolve, the whole matrix is."""
    seen: list[tuple[int, ...]] = []
    svd = np.linalg.svd

    def watched(a: np.ndarray, **options: bool) -> tuple[np.ndarray, ...]:
        seen.append(a.shape)
        return svd(a, **options)

    monkeypatch.setattr(np.linalg, "svd", watched)
    a = np.random.default_rng(0).normal(size=(30, 40))
    _leading(a, 4)
    assert seen == [(4, 40)]
    _leading(np.outer(a[:, 0], a[0]) + 1e-9 * a, 4)
    assert seen == [(4, 40), (4, 40), (30, 40)]


@pytest.fixture(scope="module")
def turns() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two orthogonal matrices of a size from which Lanczos is used, lowered so that tests are quick."""
    rng = np.random.default_rng(3)
    left, right = (np.linalg.qr(rng.normal(size=(size, size)))[0][:, :192] for size in (192, 256))
    return left, right


NEAR = {
    "falling": 1.0 / np.arange(1, 193),
    "pairs": np.r_[3.0, 3.0, 2.9, 2.9, 2.8, 2.8, np.linspace(2.0, 1.0, 186)],
    "nearly": np.r_[3.0, 3.0 - 1e-9, 2.9, 2.9 - 1e-13, 2.8, 2.7, np.linspace(2.0, 1.0, 186)],
    "many": np.r_[np.full(6, 3.0), np.linspace(2.0, 1.0, 186)],
}


@pytest.mark.parametrize("spectrum", sorted(NEAR))
def test_lanczos_and_the_full_route_agree_as_members_check_it(
    spectrum: str, turns: tuple[NDArray[np.float64], NDArray[np.float64]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies close, a member that goes the one way accepts what an authority made the other way; signs are equal."""
    weight = (turns[0] * NEAR[spectrum]) @ turns[1].T
    full = decompose(weight, 6)
    monkeypatch.setattr(dictionary, "_LARGE", 64)
    monkeypatch.setattr(np.linalg, "eigh", None if spectrum == "falling" else np.linalg.eigh)
    few = decompose(weight, 6)
    # Rows in another order are added up in another order, as on more threads; and Lanczos begins elsewhere.
    order = np.random.default_rng(0).permutation(192)
    moved = decompose(weight[order], 6)
    back = replace(moved, matrix=moved.matrix[np.argsort(order)])
    for other in (few, back):
        verifying._require_same("w", other, full, weight)
        verifying._require_same("w", full, other, weight)
    if spectrum == "falling":
        assert np.abs(few.matrix - full.matrix).max() <= 2.0**-22 * np.abs(full.matrix).max()
        assert np.abs(back.matrix - full.matrix).max() <= 2.0**-22 * np.abs(full.matrix).max()


def test_a_vector_that_lanczos_passes_over_is_missed(
    turns: tuple[NDArray[np.float64], NDArray[np.float64]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six true eigenpairs, but not the third: what is left is looked at, and the full route decides."""
    gram = (turns[0] * NEAR["falling"] ** 2) @ turns[0].T
    assert (found := dictionary._lanczos(gram, 6)) is not None
    assert np.abs(np.abs((found * turns[0][:, :6]).sum(axis=0)) - 1.0).max() < 1e-12
    eigsh = scipy.sparse.linalg.eigsh

    def without_the_third(operator: LinearOperator, k: int, **options: Any) -> Any:
        if k == 1:
            return eigsh(operator, k, **options)
        kept = [6, 5, 4, 3, 1, 0]
        return NEAR["falling"][kept] ** 2, turns[0][:, kept]

    monkeypatch.setattr(scipy.sparse.linalg, "eigsh", without_the_third)
    assert dictionary._lanczos(gram, 6) is None


def test_signs_are_fixed() -> None:
    w = np.random.default_rng(0).normal(size=(7, 5))
    d = decompose(w, 3, scaling="paper").matrix
    assert (d[np.abs(d).argmax(axis=0), range(3)] > 0).all()
    assert np.allclose(d, decompose(-w, 3, scaling="paper").matrix, atol=1e-5)


def test_rank_is_at_most_the_matrix_s_own() -> None:
    w = np.outer(np.arange(1.0, 7), np.arange(1.0, 5))
    assert decompose(w, 4).rank == 1


def test_a_zero_matrix_gets_a_drawn_dictionary() -> None:
    d = decompose(np.zeros((6, 4)), 3, seed=b"s", name="w")
    assert (d.matrix == draw((6, 4), 3, b"s", "w", 0).matrix).all()
    assert np.allclose(np.linalg.norm(d.matrix, axis=1), 1)


def test_draws_differ_by_name_seed_and_refresh() -> None:
    draws = [draw((40, 9), 4, *args) for args in ((b"s", "w", 0), (b"s", "w", 1), (b"s", "v", 0), (b"t", "w", 0))]
    assert len({d.matrix.tobytes() for d in draws}) == 4
    assert draw((3, 40), 4, b"s", "w", 0, orientation="smaller").table_shape((3, 40)) == (3, 3)


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((0, 2)), np.full((2, 2), np.nan), np.full((2, 2), np.inf)])
def test_no_matrix(bad: np.ndarray) -> None:
    with pytest.raises(LayoutError, match="finite matrix"):
        decompose(bad, 2)
    with pytest.raises(LayoutError, match="at least 1"):
        decompose(np.eye(2), 0)


def test_table_shapes() -> None:
    d = Dictionary(np.zeros((7, 2), np.float32), transposed=False)
    assert (d.rank, d.table_shape((7, 5))) == (2, (2, 5))
    assert Dictionary(np.zeros((5, 2), np.float32), transposed=True).table_shape((7, 5)) == (2, 7)


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.sampled_from(["paper", "smaller"]), st.integers(0, 99)
)
def test_two_sides(n: int, m: int, rank: int, orientation: str, seed: int) -> None:
    """D is that of a table, E = V_r^T belongs to it, C = 1 is W's best of rank r, and the change is D C E entry by entry."""
    w = np.random.default_rng(seed).normal(size=(n, m))
    d = decompose(w, rank, orientation=orientation, scaling="paper", form="core")  # type: ignore[arg-type]
    alone = decompose(w, rank, orientation=orientation, scaling="paper")  # type: ignore[arg-type]
    r = min(rank, n, m)
    assert d.matrix.tobytes() == alone.matrix.tobytes()
    assert (d.transposed, d.form, alone.form) == (alone.transposed, "core", "table")
    assert d.right is not None
    assert d.right.dtype == np.float32
    assert d.right.flags.c_contiguous
    assert np.allclose(d.right.astype(float) @ d.right.astype(float).T, np.eye(r), atol=1e-5)
    s = np.linalg.svd(w, compute_uv=False)
    assert np.linalg.norm(w - d.change(np.eye(r))) <= np.linalg.norm(s[r:]) + 1e-5 * s[0]
    core = np.random.default_rng(seed).normal(size=d.table_shape((n, m)))
    assert core.shape == (r, r)
    assert d.weight_shape(core.shape) == alone.weight_shape(alone.table_shape((n, m))) == (n, m)
    change, (up, down) = d.change(core), d.factors(core)
    np.testing.assert_allclose(up @ down, change, rtol=1e-9, atol=1e-12)
    for i in range(n):
        for j in range(m):
            row, column = (j, i) if d.transposed else (i, j)
            pairs = ((k, e) for k in range(r) for e in range(r))
            truth = sum(float(d.matrix[row, k]) * core[k, e] * float(d.right[e, column]) for k, e in pairs)
            assert change[i, j] == pytest.approx(truth, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("orientation", ["paper", "smaller"])
def test_both_sides_are_normalised(orientation: str) -> None:
    w = np.random.default_rng(0).normal(size=(8, 20)) * 1e-3
    d = decompose(w, 3, orientation=orientation, form="core")  # type: ignore[arg-type]
    assert d.right is not None
    rows, columns = (20, 8) if orientation == "smaller" else (8, 20)
    assert np.linalg.norm(d.matrix) == pytest.approx(np.sqrt(rows), rel=1e-5)
    assert np.linalg.norm(d.right) == pytest.approx(np.sqrt(columns), rel=1e-5)
    gram = d.right.astype(float) @ d.right.astype(float).T
    assert np.allclose(gram, columns / 3 * np.eye(3), atol=1e-4)


def test_directions_without_their_values() -> None:
    w = np.random.default_rng(0).normal(size=(7, 5)) * 1e-4
    plain = decompose(w, 3, scaling="paper", weighted=False, form="core")
    full = decompose(w, 3, scaling="paper", form="core")
    assert np.allclose(plain.matrix.T @ plain.matrix, np.eye(3), atol=1e-6)
    assert np.allclose(full.matrix / np.linalg.norm(full.matrix, axis=0), plain.matrix, atol=1e-6)
    assert full.right is not None
    assert plain.right is not None
    assert (full.right == plain.right).all()
    norms = np.linalg.norm(decompose(w, 3, weighted=False).matrix, axis=0)
    assert np.allclose(norms, np.sqrt(7 / 3), atol=1e-5)


def test_a_drawn_dictionary_of_two_sides() -> None:
    d = decompose(np.zeros((6, 4)), 3, form="core", seed=b"s", name="w")
    drawn = draw((6, 4), 3, b"s", "w", 0, form="core")
    assert d.right is not None
    assert drawn.right is not None
    assert (d.matrix == drawn.matrix).all()
    assert (d.right == drawn.right).all()
    assert (drawn.matrix == draw((6, 4), 3, b"s", "w", 0).matrix).all()
    assert np.allclose(np.linalg.norm(d.right, axis=0), 1)
    wide = draw((40, 40), 8, b"s", "w", 0, form="core")
    assert wide.right is not None
    assert (np.sign(wide.matrix) != np.sign(wide.right.T)).any()


def test_padding_a_dictionary_of_two_sides() -> None:
    d = decompose(np.random.default_rng(0).normal(size=(6, 5)), 2, form="core")
    more = d.padded(4)
    assert more.table_shape((6, 5)) == (4, 4)
    core = np.random.default_rng(1).normal(size=(4, 4))
    np.testing.assert_array_equal(more.change(core), d.change(core[:2, :2]))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.sampled_from(["paper", "smaller"]))
def test_size_of_a_table(n: int, m: int, rank: int, orientation: str) -> None:
    w = np.random.default_rng(0).normal(size=(n, m))
    for form in ("table", "core"):
        made = decompose(w, rank, orientation=orientation, form=form)  # type: ignore[arg-type]
        size = int(np.prod(made.table_shape((n, m))))
        assert table_size((n, m), rank, orientation=orientation, form=form) == size  # type: ignore[arg-type]
