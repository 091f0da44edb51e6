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
    u, s, _ = np.linalg.svd(weight.T if transposed else weight, full_matrices=False)
    own = int((s > s[0] * max(shape) * np.finfo(np.float64).eps).sum())
    if own == 0:
        return draw(shape, rank, seed, name, 0, orientation=orientation)
    r = min(rank, own)
    d = u[:, :r] * s[:r]
    d *= np.sign(d[np.abs(u[:, :r]).argmax(axis=0), np.arange(r)])
    return Dictionary(_scaled(d, scaling), transposed)


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
