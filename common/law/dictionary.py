"""Dictionaries D of decomposed weights, made once at genesis and then frozen.

This is DePE, Decompose-for-Partial-Encrypt (arXiv 2510.21086, section 4.1): a weight is W0 + D T, and only its lookup
table T is trained and shared. With a second dictionary E on the other side it is W0 + D C E, and the table is the core C
of r x r values, whatever the weight's size (LoRA-XS, arXiv 2405.17604; federated: Fed-SB, arXiv 2502.15436).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.errors import LayoutError
from dictpfl.common.law.seeds import signs

Orientation = Literal["paper", "smaller"]
Scaling = Literal["normalised", "paper"]
Form = Literal["table", "core"]

_LEFT_OUT = 2
"""The smaller side must be as many times the rank for the fast route to pay."""
_SAFE = 1e-4
"""Smallest singular value for it, as a share of the largest: directions are then off by 1e-8 at most, less than float32 keeps."""
_LARGE = 1024
"""Smaller side from which Lanczos finds the few vectors that are wanted. Below, all of them are had in a fraction of a second."""
_FEW = 16
"""And the smaller side must be as many times the rank."""
_CONVERGED = 1e-12
"""Residual of an eigenpair at which Lanczos stops, as a share of its value: a vector is then off by this over its relative gap."""
_LOOK = 1e-3
"""Residual at which the look for an eigenvector that was passed over stops."""


@dataclass(frozen=True, slots=True)
class Dictionary:
    """Dictionary D of one weight W (n x m), alone or with a second one, E, on the other side.

    Attributes:
        matrix: D, float32, shape (n, r), or (m, r) if transposed.
        transposed: False: T is (r, m) and the weight's change is D T; True: T is (r, n) and the change is (D T)^T.
        right: E, float32, shape (r, m), or (r, n) if transposed: the table is then a core C, (r, r), and T is C E.
            None: the table is T itself.
    """

    matrix: NDArray[np.float32]
    transposed: bool
    right: NDArray[np.float32] | None = None

    @property
    def rank(self) -> int:
        """Rank r: columns of D, rows of T."""
        return int(self.matrix.shape[1])

    @property
    def form(self) -> Form:
        """`core` where there is an E."""
        return "table" if self.right is None else "core"

    @property
    def is_finite(self) -> bool:
        """Tells whether all of D, and of E, is finite."""
        return bool(np.isfinite(self.matrix).all() and (self.right is None or np.isfinite(self.right).all()))

    def table_shape(self, weight_shape: tuple[int, int]) -> tuple[int, int]:
        """Shape of the lookup table T, or of the core C, of a weight of this shape."""
        n, m = weight_shape
        return (self.rank, self.rank if self.right is not None else n if self.transposed else m)

    def weight_shape(self, table_shape: tuple[int, ...]) -> tuple[int, int]:
        """Compute (n, m) of the weight from the shape of its table: the inverse of `table_shape`."""
        rows, columns = self.matrix.shape[0], table_shape[1] if self.right is None else self.right.shape[1]
        return (columns, rows) if self.transposed else (rows, columns)

    def padded(self, rank: int) -> Dictionary:
        """Return a copy with zeros up to a rank: what they multiply of the table gets no gradient and changes nothing."""
        more = max(0, rank - self.rank)
        right = None if self.right is None else np.pad(self.right, ((0, more), (0, 0)))
        return replace(self, matrix=np.pad(self.matrix, ((0, 0), (0, more))), right=right)

    def factors(self, table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute `up` (n, r) and `down` (r, m), float64, whose product is the weight's change that a table stands for."""
        d, t = self.matrix.astype(np.float64), self._wide(table)
        return (t.T, d.T) if self.transposed else (d, t)

    def change(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the weight's change, float64, shape (n, m), that a table stands for."""
        product = self.matrix.astype(np.float64) @ self._wide(table)
        return product.T if self.transposed else product

    def _wide(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        return table if self.right is None else table @ self.right.astype(np.float64)


def table_size(shape: tuple[int, int], rank: int, *, orientation: Orientation = "paper", form: Form = "table") -> int:
    """Count the values that are trained and shared for a weight (n x m): r m of a table T, r n if transposed, r r of a core C.

    The rank counts as at most min(n, m), which is what `decompose` makes of it.
    """
    n, m = shape
    r = min(rank, n, m)
    return r * (r if form == "core" else n if is_transposed(shape, orientation) else m)


def is_transposed(shape: tuple[int, int], orientation: Orientation) -> bool:
    """Tell whether T stands on the rows' side: only for `smaller`, and only when there are fewer rows than columns."""
    n, m = shape
    return orientation == "smaller" and n < m


def decompose(
    weight: NDArray[np.float64],
    rank: int,
    *,
    orientation: Orientation = "paper",
    scaling: Scaling = "normalised",
    form: Form = "table",
    weighted: bool = True,
    seed: bytes = b"",
    name: str = "",
) -> Dictionary:
    """Make the dictionary D = U_r S_r of the truncated SVD of a weight, with r at most the matrix's own rank, and E = V_r^T.

    The sign of each singular vector is chosen so that its largest component (the first one, when
    several are as large) is positive. A zero matrix has no directions: it gets a drawn dictionary.

    Args:
        weight: W0, shape (n, m).
        rank: wanted r.
        orientation: `paper`, or `smaller` to put T on the smaller side.
        scaling: `paper` keeps U_r S_r; `normalised` rescales it to Frobenius norm sqrt(rows), and E, if there is one, to
            sqrt(columns).
        form: `core` makes E too.
        weighted: False leaves the singular values out: D = U_r, all directions alike.
        seed: agreed seed that the dictionary of a zero matrix is drawn from, 32 bytes.
        name: name of the weight, the context of that draw.

    Raises:
        LayoutError: not a matrix, not finite, or rank below one.
    """
    if weight.ndim != 2 or weight.size == 0 or not np.isfinite(weight).all():  # noqa: PLR2004 -- a matrix
        raise LayoutError(f"weight {name!r} of shape {weight.shape}: expected a finite matrix")
    if rank < 1:
        raise LayoutError(f"rank {rank} of weight {name!r}: expected at least 1")
    shape = (int(weight.shape[0]), int(weight.shape[1]))
    transposed = is_transposed(shape, orientation)
    u, s, v = _leading(np.asarray(weight.T if transposed else weight, dtype=np.float64), rank)
    own = int((s > s[0] * max(shape) * np.finfo(np.float64).eps).sum())
    if own == 0:
        return draw(shape, rank, seed, name, 0, orientation=orientation, form=form)
    r = min(rank, own)
    d = u[:, :r] * (s[:r] if weighted else 1.0)
    turned = np.sign(d[np.abs(u[:, :r]).argmax(axis=0), np.arange(r)])
    right = np.ascontiguousarray(_scaled(v[:r].T * turned, scaling).T) if form == "core" else None
    return Dictionary(_scaled(d * turned, scaling), transposed, right)


def _leading(a: NDArray[np.float64], r: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Compute the k = min(r, n, m) largest singular values (k,), by falling value, between left (n, k) and right (k, m) vectors.

    From the eigenvectors of the smaller Gram matrix, one more multiplication by a aᵀ, and the SVD of what is left: r
    rows. Squaring loses values under the square root of the machine's precision, so where one of those wanted is near
    that (a matrix of low rank, above all), and where little would be left out, the full SVD decides. The eigenvectors of a
    large Gram matrix are Lanczos' (docs/decisions/0038).
    """
    k, smaller = min(r, *a.shape), min(a.shape)
    largest = float(np.abs(a).max())
    if largest > 0.0 and _LEFT_OUT * k <= smaller:
        b = a / largest  # squares neither overflow nor vanish
        u = _eigenvectors(b @ b.T, k) if a.shape[0] == smaller else b @ _eigenvectors(b.T @ b, k)
        q, _ = np.linalg.qr(b @ (b.T @ u))
        x, s, v = np.linalg.svd(q.T @ b, full_matrices=False)
        if s[-1] > _SAFE * s[0]:
            return q @ x, s * largest, v
    u, s, v = np.linalg.svd(a, full_matrices=False)
    return u[:, :k], s[:k], v[:k]


def _eigenvectors(gram: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Compute the eigenvectors (n, k) of the k largest eigenvalues of a Gram matrix (n, n), by falling value."""
    few = len(gram) >= _LARGE and _FEW * k <= len(gram)
    found = _lanczos(gram, k) if few else None
    vectors: NDArray[np.float64] = np.linalg.eigh(gram)[1][:, : -k - 1 : -1] if found is None else found
    return vectors


def _lanczos(gram: NDArray[np.float64], k: int) -> NDArray[np.float64] | None:
    """Compute them by Lanczos (ARPACK) from an agreed start; None where it fails, or passes one of them over.

    One start vector meets one vector of each eigenspace, and others through rounding alone. So what is left without
    the ones that were found is looked at from another start: nothing in it may be larger than the least of them.
    """
    from scipy.linalg.blas import dsymv  # here: small models, and whoever only reads dictionaries, load no SciPy
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    n = len(gram)
    start, other = (np.asarray(signs(bytes(32), "lanczos", turn, count=n), dtype=np.float64) for turn in (0, 1))
    # A symmetric product reads half of the matrix, and reading it is what takes the time.
    whole = LinearOperator((n, n), matvec=lambda x: dsymv(1.0, gram.T, x), dtype=np.float64)
    try:
        rising, found = eigsh(whole, k, v0=start, tol=_CONVERGED, ncv=4 * k + 20)
        values: NDArray[np.float64] = rising[::-1]
        vectors: NDArray[np.float64] = found[:, ::-1]

        def without(x: NDArray[np.float64]) -> NDArray[np.float64]:
            flat = x.reshape(-1)
            return np.asarray(dsymv(1.0, gram.T, flat) - vectors @ (values * (vectors.T @ flat)))

        left = LinearOperator((n, n), matvec=without, dtype=np.float64)
        (passed,) = eigsh(left, 1, v0=other, tol=_LOOK, which="LA", return_eigenvectors=False)
    except ArpackError:
        return None
    return None if passed > values[-1] * (1.0 + _CONVERGED * n) else vectors


def draw(
    shape: tuple[int, int],
    rank: int,
    seed: bytes,
    name: str,
    refresh: int,
    *,
    orientation: Orientation = "paper",
    form: Form = "table",
) -> Dictionary:
    """Draw a dictionary of random signs / sqrt(r) from the shared stream, the same on every platform.

    Rows of D, and columns of E, have norm 1, as with `normalised` scaling.

    Args:
        shape: (n, m) of the weight.
        rank: wanted r; at most min(n, m) is made.
        seed: agreed seed, 32 bytes.
        name: name of the weight.
        refresh: number of refreshes of the federation so far, so that no two draws are alike.
        orientation: as for `decompose`.
        form: as for `decompose`.
    """
    transposed = is_transposed(shape, orientation)
    rows, columns = (shape[1], shape[0]) if transposed else shape
    r = min(rank, *shape)
    matrix = signs(seed, "dictionary", name, refresh, count=rows * r).reshape(rows, r) / np.sqrt(r)
    right = None
    if form == "core":
        drawn = signs(seed, "dictionary", name, refresh, "right", count=r * columns).reshape(r, columns) / np.sqrt(r)
        right = drawn.astype(np.float32)
    return Dictionary(matrix.astype(np.float32), transposed, right)


def _scaled(d: NDArray[np.float64], scaling: Scaling) -> NDArray[np.float32]:
    if scaling == "normalised":
        d = d * (np.sqrt(d.shape[0]) / np.linalg.norm(d))
    return d.astype(np.float32)
