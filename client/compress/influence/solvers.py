"""Influence from inner products of gradients: DataInf's closed form and the exact damped inverse, from the same two arrays.

With g_i the gradient of training sample i (of p entries), v the sum of the validation samples' gradients, K_ik = g_i . g_k,
a_i = g_i . v, H = (1/n) sum_i g_i g_i^T + lambda 1 and lambda = damping * mean squared gradient entry, the influence of sample k is
I_k = -g_k^T H^-1 v: how much more weight on it would raise the validation loss.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.errors import ConfigError

Floats = NDArray[np.float64]
Solver = Literal["exact", "datainf", "none"]
Part = Literal["positive", "negative", "absolute"]
MOST = 1000
"""Most training samples: the exact solver inverts a matrix of so many rows."""


def influence(gram: Floats, products: Floats, entries: int, *, solver: str = "exact", damping: float = 0.1) -> Floats:
    """Compute I_k of each training sample, float64 (n,); zeros where all gradients are zero.

    | solver | I |
    |---|---|
    | `exact` | -n (n lambda 1 + K)^-1 a, the damped inverse by Woodbury |
    | `datainf` | -(1/lambda) (a_k - (1/n) sum_i a_i K_ik / (lambda + K_ii)), the inverses of single samples averaged |
    | `none` | -a_k, as if H were 1 |

    Args:
        gram: K, (n, n).
        products: a, (n,).
        entries: p, entries of one gradient.
        solver: see above.
        damping: of lambda; above 0.

    Raises:
        ConfigError: an unknown solver, or a damping that is not above 0.
    """
    require_solver(solver, damping)
    n, squares = len(gram), np.diag(gram)
    strength = damping * float(squares.mean()) / entries
    if strength <= 0.0:
        return np.zeros(n)
    if solver == "none":
        return -products
    if solver == "datainf":
        return -(products - (products / (strength + squares)) @ gram / n) / strength
    solved = np.linalg.solve(gram + n * strength * np.eye(n), products)
    return (-n * solved).astype(np.float64, copy=False)


def score(values: Floats, *, part: str = "positive", top: float = 0.25) -> float:
    """Sum up the influence of a layer's training samples: S, from 0 up; the higher, the less well is the layer trained.

    Args:
        values: I, (n,).
        part: which of them: those above 0, those below, or all, by magnitude.
        top: share of these that count, the largest; at least one.

    Raises:
        ConfigError: an unknown part, or a share out of range.
    """
    require_part(part, top)
    signed = {"positive": values, "negative": -values, "absolute": np.abs(values)}[part]
    chosen = np.sort(signed[signed > 0])[::-1]
    return math.fsum(chosen[: math.ceil(Fraction(str(top)) * len(chosen))].tolist())


def require_solver(solver: str, damping: float) -> None:
    """Refuse words and numbers that `influence` does not take.

    Raises:
        ConfigError: it says what is expected.
    """
    if solver not in get_args(Solver):
        raise ConfigError(f"solver is {solver!r}; expected one of {', '.join(get_args(Solver))}")
    if not (math.isfinite(damping) and damping > 0.0):
        raise ConfigError(f"damping is {damping:g}; expected a finite number above 0, such as 0.1")


def require_part(part: str, top: float) -> None:
    """Refuse words and numbers that `score` does not take.

    Raises:
        ConfigError: it says what is expected.
    """
    if part not in get_args(Part):
        raise ConfigError(f"part is {part!r}; expected one of {', '.join(get_args(Part))}")
    if not 0.0 < top <= 1.0:
        raise ConfigError(f"top is {top:g}; expected a share above 0, at most 1")
