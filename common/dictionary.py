"""DePE, Decompose-for-Partial-Encrypt (PAPER section 4.1): frozen dictionaries D, made once at genesis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import LayoutError
from common.seeds import signs

Orientation = Literal["paper", "smaller"]
Scaling = Literal["normalised", "paper"]

_LEFT_OUT = 2
"""The smaller side must be as many times the rank for the fast route to pay."""
_SAFE = 1e-4
"""Smallest singular value for it, as a share of the largest: directions are then off by 1e-8 at most, less than float32 keeps."""


@dataclass(frozen=True, slots=True)
class Dictionary:
    """D of one weight W (n x m), float32.

    `transposed` False: D is (n, r), T is (r, m) and the weight's change is D T.
    `transposed` True: D is (m, r), T is (r, n) and the change is (D T)^T.
    """

    matrix: NDArray[np.float32]
    transposed: bool

    @property
    def rank(self) -> int:
        """R."""
        return int(self.matrix.shape[1])

    def table_shape(self, weight_shape: tuple[int, int]) -> tuple[int, int]:
        """Shape of T."""
        n, m = weight_shape
        return (self.rank, n if self.transposed else m)

    def padded(self, rank: int) -> Dictionary:
        """With columns of zeros up to a rank: the rows of T that they meet get no gradient and change nothing."""
        return replace(self, matrix=np.pad(self.matrix, ((0, 0), (0, max(0, rank - self.rank)))))

    def change(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """The weight's change, (n, m), that a table stands for."""
        product = self.matrix.astype(np.float64) @ table
        return product.T if self.transposed else product


def is_transposed(shape: tuple[int, int], orientation: Orientation) -> bool:
    """Whether T stands on the rows' side: only for `smaller`, and only when there are fewer rows than columns."""
    n, m = shape
    return orientation == "smaller" and n < m


def decompose(
    weight: NDArray[np.float64],
    rank: int,
    *,
    orientation: Orientation = "paper",
    scaling: Scaling = "normalised",
    seed: bytes = b"",
    name: str = "",
) -> Dictionary:
    """D = U_r S_r of the truncated SVD, with r at most the matrix's own rank.

    The sign of each singular vector is chosen so that its largest component (the first one, when
    several are as large) is positive. A zero matrix has no directions: it gets a drawn dictionary.

    Args:
        weight: W0, shape (n, m).
        rank: r wanted.
        orientation: `paper`, or `smaller` to put T on the smaller side.
        scaling: `paper` keeps U_r S_r; `normalised` rescales it to Frobenius norm sqrt(rows).
        seed: of the drawn dictionary, for a zero matrix.
        name: of the weight, the context of that draw.

    Raises:
        LayoutError: not a matrix, not finite, or rank below one.
    """
    if weight.ndim != 2 or weight.size == 0 or not np.isfinite(weight).all():  # noqa: PLR2004 -- a matrix
        raise LayoutError(f"weight {name!r} of shape {weight.shape}: expected a finite matrix")
    if rank < 1:
        raise LayoutError(f"rank {rank} of weight {name!r}: expected at least 1")
    shape = (int(weight.shape[0]), int(weight.shape[1]))
    transposed = is_transposed(shape, orientation)
    u, s = _leading(np.asarray(weight.T if transposed else weight, dtype=np.float64), rank)
    own = int((s > s[0] * max(shape) * np.finfo(np.float64).eps).sum())
    if own == 0:
        return draw(shape, rank, seed, name, 0, orientation=orientation)
    r = min(rank, own)
    d = u[:, :r] * s[:r]
    d *= np.sign(d[np.abs(u[:, :r]).argmax(axis=0), np.arange(r)])
    return Dictionary(_scaled(d, scaling), transposed)


def _leading(a: NDArray[np.float64], r: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Left singular vectors (n, k) and singular values (k,) of the k largest, k = min(r, n, m), by falling value.

    From the eigenvectors of the smaller Gram matrix, one more multiplication by a aᵀ, and the SVD of what is left: r rows.
    Squaring loses values under the square root of the machine's precision, so where one of those wanted is near that
    (a matrix of low rank, above all), and where little would be left out, the full SVD decides.
    """
    k, smaller = min(r, *a.shape), min(a.shape)
    largest = float(np.abs(a).max())
    if largest > 0.0 and _LEFT_OUT * k <= smaller:
        b = a / largest  # squares neither overflow nor vanish
        if a.shape[0] == smaller:
            u = np.linalg.eigh(b @ b.T)[1][:, : -k - 1 : -1]
        else:
            u = b @ np.linalg.eigh(b.T @ b)[1][:, : -k - 1 : -1]
        q, _ = np.linalg.qr(b @ (b.T @ u))
        x, s, _ = np.linalg.svd(q.T @ b, full_matrices=False)
        if s[-1] > _SAFE * s[0]:
            return q @ x, s * largest
    u, s, _ = np.linalg.svd(a, full_matrices=False)
    return u[:, :k], s[:k]


def draw(
    shape: tuple[int, int],
    rank: int,
    seed: bytes,
    name: str,
    refresh: int,
    *,
    orientation: Orientation = "paper",
) -> Dictionary:
    """A dictionary of random signs / sqrt(r) from the shared stream, the same on every platform.

    `refresh` counts refreshes of the federation and separates their draws. Rows have norm 1, as
    with `normalised` scaling (FINDINGS, dynamic dictionary).
    """
    transposed = is_transposed(shape, orientation)
    rows = shape[1] if transposed else shape[0]
    r = min(rank, *shape)
    matrix = signs(seed, "dictionary", name, refresh, count=rows * r).reshape(rows, r) / np.sqrt(r)
    return Dictionary(matrix.astype(np.float32), transposed)


def _scaled(d: NDArray[np.float64], scaling: Scaling) -> NDArray[np.float32]:
    if scaling == "normalised":
        d = d * (np.sqrt(d.shape[0]) / np.linalg.norm(d))
    return d.astype(np.float32)
