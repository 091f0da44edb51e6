"""Verifying that a genesis follows from W0 and its seed, so that an authority can plant no dictionary of its own.

Rows of a table's gradient are `D^T` times the weight's gradient: whoever chooses D freely chooses what an institution's
update shows of its samples (an imprint). So members make the dictionaries again and accept no others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load
from torch import nn

from dictpfl.client.compress.narrow.federating import gate_norms
from dictpfl.client.model.build import build_model, take_weights
from dictpfl.client.model.rules import fixed_ranks
from dictpfl.client.model.sparse.twin import ThresholdTwin
from dictpfl.client.model.twin import Twin, make_dictionaries, weight_matrices
from dictpfl.client.training.workbench import twin_of
from dictpfl.common.errors import BundleError
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.dictionary import Dictionary

Floats = NDArray[np.float64]

_ROUNDED = 2.0**-22
"""Share of a column's norm by which two honest ones differ at most: each of its float32 values is rounded once on either
machine (2^-24 of it), and the quick route to singular vectors errs by 1e-8; twice that. Float32 training rounds each step
of a table by as much, so an imprint of this size is lost before anything is sent."""
_SUMMED = 2.0**-20
"""Share of a norm by which two honest ones differ at most: each is rounded to float32 once, sums before that are of doubles."""
_MOST = 2.0**-16
"""Largest share allowed where singular values lie close and vectors turn with the last bits: half a step of the widest values
that uploads carry (16 bits). What a planted direction adds to a row of a table is smaller than what the honest one does by
this share, and so below what is sent of that row."""
_NO_END = (
    ". Singular values of this weight lie so close to those of {columns}, and beyond the rank, that another platform makes another "
    "dictionary: join on a machine like the authority's, or ask it to begin with another rank, or a W0 that has none as close"
)


def require_follows(genesis: Genesis, weights: bytes) -> None:
    """Make values, layout and dictionaries from W0 and the seed, and refuse a genesis that has others.

    A dictionary is an SVD's, whose last bits differ between platforms: each column must be the own one up to its sign
    (which turns the sign of a table's row, no more), within `_ROUNDED`; where W0's singular values lie closer than an SVD
    can tell apart that well, within its error bound, at most `_MOST`. All else must be equal bit for bit.

    Args:
        genesis: as a bundle brought it.
        weights: W0, safetensors, already known to be the one that genesis names.

    Raises:
        BundleError (imprint): something else than follows from W0.
        ConfigError, ModelError: the model cannot be built here.
    """
    model = _model(genesis, weights)
    settings = genesis.config.decomposition
    norms = gate_norms(model, genesis.config.narrow)
    if not _same_norms(norms, genesis.gates):
        raise _refusal("the norms behind gates", "those of W0", "others")
    twin = twin_of(genesis, model)
    if twin.layout.digest != genesis.layout.digest:
        raise _refusal("the layout of shared tensors", "the model's", "another one")
    if not np.array_equal(twin.read(), genesis.values):
        raise _refusal("the shared values before round 0", "those of W0", f"{_unequal(twin, genesis)} others")
    if isinstance(twin, ThresholdTwin):
        if genesis.dictionaries:
            raise _refusal("the dictionaries", "none: thresholds alone are trained", f"{len(genesis.dictionaries)}")
        return
    ranks = fixed_ranks(model, settings) or {name: d.rank for name, d in genesis.dictionaries.items()}
    own = make_dictionaries(model, settings, genesis.seed, ranks)
    matrices = weight_matrices(model, settings, genesis.dictionaries)
    for name, given in genesis.dictionaries.items():
        _require_same(name, given, own[name], matrices[name])


def _same_norms(own: Mapping[str, NDArray[np.float32]], given: Mapping[str, NDArray[np.float32]]) -> bool:
    """Compare norms up to what a sum's order changes."""
    return own.keys() == given.keys() and all(
        own[name].shape == given[name].shape and np.allclose(own[name], given[name], rtol=_SUMMED, atol=0.0)
        for name in own
    )


def _model(genesis: Genesis, weights: bytes) -> nn.Module:
    # `model.weights` is a path of the authority's machine; what it led to came along.
    described = genesis.config.model.model_copy(update={"weights": ""})
    model = build_model(described, genesis.sample_shape, genesis.outputs, genesis.config.seed)
    take_weights(model, load(weights), "the bundle")
    return model


def _require_same(name: str, given: Dictionary, own: Dictionary, weight: Floats) -> None:
    expected, brought = _described(own), _described(given)
    if brought != expected:
        raise _refusal(f"the dictionary of {name!r}", f"one of shape, side and form {expected}", f"{brought}")
    _require_same_columns(f"the dictionary of {name!r}", given.matrix, own.matrix, weight)
    if given.right is not None and own.right is not None:
        _require_same_columns(f"the right dictionary of {name!r}", given.right.T, own.right.T, weight)


def _described(d: Dictionary) -> tuple[object, ...]:
    right = () if d.right is None else (d.right.shape, str(d.right.dtype))
    return d.matrix.shape, str(d.matrix.dtype), "on the columns' side" if d.transposed else "on the rows' side", *right


def _require_same_columns(what: str, given: NDArray[np.float32], own: NDArray[np.float32], weight: Floats) -> None:
    if not weight.any():  # drawn, the same bits everywhere
        if not np.array_equal(given, own):
            raise _refusal(what, "the one drawn from the seed", "another one")
        return
    off = _off(given.astype(np.float64), own.astype(np.float64))
    if (off <= _ROUNDED).all():
        return
    values: Floats = np.linalg.svd(weight, compute_uv=False).astype(np.float64, copy=False)
    directions = int(own.any(axis=0).sum())
    if off[directions:].any():  # what ranks are padded by
        raise _refusal(what, f"zeros from column {directions} on", "others")
    error = max(weight.shape) * np.finfo(np.float64).eps * float(values[0])
    for first, end in _inseparable(values, error):
        if first >= directions:
            break
        inside, is_cut, is_one = slice(first, min(end, directions)), end > directions, end == first + 1
        bound = _MOST if is_cut else _bound(values, first, end, error)
        worst = float(off[inside].max()) if is_cut or is_one else _turned(given[:, inside], own[:, inside])
        if worst <= bound:
            continue
        columns = f"column {first}" if is_one else f"columns {first} to {inside.stop - 1}"
        told = _NO_END.format(columns=columns) if is_cut else ""
        of = "" if is_cut or is_one else "the space of "
        raise _refusal(
            what, f"{columns} within {bound:.1e} of {of}what W0 gives", f"{columns} off by {worst:.1e}{told}"
        )


def _off(given: Floats, own: Floats) -> Floats:
    """Compute how far each column is from the own one, up to its sign, as a share of the own one's norm; shape (r,)."""
    signs = np.where((given * own).sum(axis=0) < 0.0, -1.0, 1.0)
    distances, norms = np.linalg.norm(given * signs - own, axis=0), np.linalg.norm(own, axis=0)
    # A padded column has no norm, and must be zero.
    shares: Floats = np.divide(distances, norms, out=np.where(distances == 0.0, 0.0, np.inf), where=norms > 0.0)
    return np.where(np.isfinite(shares), shares, np.inf)


def _turned(given: NDArray[np.float32], own: NDArray[np.float32]) -> float:
    """Compute how far columns are from the own ones turned in their space, as a share of the largest norm.

    They must lie in that space, and their products with each other must be those of the own ones.
    """
    brought, made = given.astype(np.float64), own.astype(np.float64)
    if not np.isfinite(brought).all():
        return math.inf
    space = np.linalg.qr(made)[0]
    norm = float(np.linalg.norm(made, axis=0).max())
    outside = np.linalg.norm(brought - space @ (space.T @ brought), axis=0).max() / norm
    askew = np.abs(brought.T @ brought - made.T @ made).max() / norm**2
    return float(max(outside, askew / 2.0))


def _inseparable(values: Floats, error: float) -> list[tuple[int, int]]:
    """Part falling singular values where an SVD can tell them apart: [first, end) of each part, in order."""
    cuts = np.flatnonzero(-np.diff(values) > 2.0 * error / (_MOST - _ROUNDED)) + 1
    bounds = [0, *cuts.tolist(), values.size]
    return list(pairwise(bounds))


def _bound(values: Floats, first: int, end: int, error: float) -> float:
    """Bound how far two platforms' singular vectors, or spaces of them, may lie apart, as a share of their norms.

    Those of a matrix that is off by E turn by at most about norm(E) / gap, gap to the nearest other singular value
    (Wedin 1972); a stable SVD is exact for an E of max(n, m) roundings of the largest one, which is `error`.
    """
    above = values[first - 1] - values[first] if first else math.inf
    below = values[end - 1] - values[end] if end < values.size else math.inf
    return min(_ROUNDED + 2.0 * error / float(min(above, below)), _MOST)


def _unequal(twin: Twin, genesis: Genesis) -> int:
    return int((twin.read() != genesis.values).sum())


def _refusal(what: str, expected: str, met: str) -> BundleError:
    return BundleError(
        f"{what} does not follow from W0 and the seed: expected {expected}, found {met}; nothing was installed. A dictionary that "
        "was planted can show an institution's samples (an imprint). Call the other members, not only the authority, and "
        "compare; if model code or torch differ from the authority's, use its versions",
        code="imprint",
    )
