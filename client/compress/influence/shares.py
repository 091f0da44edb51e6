"""Shares of zeros by block from scores (LayerIF's second use): the higher a block's score, the more of it is pruned.

|S| is mapped to [0, 1], smoothed over neighbouring blocks by a Savitzky-Golay filter (window 7, order 3, ends fitted), mapped to
[1 - spread, 1 + spread], and scaled by one factor, so that the blocks' zeros together are the wanted ones. Window and order reproduce the
authors' published smoothed scores of Mistral-7B; their text does not give them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import structlog

from dictpfl.client.compress.influence.layers import Layers
from dictpfl.client.compress.influence.solvers import Floats
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.sparsity import kept_count, shares

_log = structlog.get_logger(__name__)
_WINDOW, _ORDER = 7, 3
_MOST = 0.99
_ROUNDING = 1e-9
BY_SCORES = ("layerif", "reversed", "random", "gradient")
"""Ways to divide zeros by scores: as the paper does; S as max + min - S; S dealt out to other blocks; gradient norms in place of S."""


_BOTH = '{"influence": {block: score}, "gradient": {block: mean norm}}'


def arranged(
    way: str, layers: Layers | Mapping[str, Mapping[str, float]] | Mapping[str, float], seed: int = 1
) -> dict[str, float]:
    """Scores by which `way` divides zeros.

    Args:
        way: of `BY_SCORES`.
        layers: measured here, or both scores by name, `influence` and `gradient`; or the influence of each block alone, where `way` needs
            no gradients.
        seed: of `random`.

    Raises:
        ConfigError: scores of another form, or without those that `way` needs.
    """
    found = _scores("gradient" if way == "gradient" else "influence", layers)
    if way == "reversed":
        ends = max(found.values()) + min(found.values())
        return {name: ends - value for name, value in found.items()}
    if way == "random":
        order = np.random.default_rng(seed).permutation(len(found)).tolist()
        values = list(found.values())
        return {name: values[i] for name, i in zip(found, order, strict=True)}
    return found


def _scores(kind: str, layers: Layers | Mapping[str, Any]) -> dict[str, float]:
    if isinstance(layers, Layers):
        return layers.scores if kind == "influence" else layers.gradients
    alone = kind == "influence" and not any(isinstance(value, Mapping) for value in layers.values())
    found = layers if alone else layers.get(kind)
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Real) for value in found.values()):
        raise ConfigError(
            f"scores have no numbers of {kind!r} by block; they hold {', '.join(list(layers)[:5]) or 'nothing'}. Expected {_BOTH}, or what "
            "`dictpfl.layer_influence` returns"
        )
    return dict(found)


def sparsity_by_layer(
    scores: Mapping[str, float], sizes: Mapping[str, int], sparsity: float, spread: float = 0.3, *, smooth: bool = True
) -> dict[str, float]:
    """Share of each block that becomes zero, at most 0.99.

    Args:
        scores: of each block, in the order of the model.
        sizes: entries of each block.
        sparsity: share of all entries that becomes zero.
        spread: e, half the width of shares around it before they are scaled.
        smooth: over neighbouring blocks, as the paper does.

    Raises:
        ConfigError: numbers out of range, other blocks, or one block alone.
    """
    if list(scores) != list(sizes):
        raise ConfigError(
            f"scores are of {', '.join(list(scores)[:5])}, blocks are {', '.join(list(sizes)[:5])}: name scores of this model"
        )
    if len(scores) < 2:  # noqa: PLR2004 -- nothing to divide
        raise ConfigError("a single block takes all zeros; divide them by --allocate uniform")
    if not (0.0 < sparsity < 1.0 and 0.0 <= spread < 1.0):
        raise ConfigError(
            f"sparsity is {sparsity:g} and spread {spread:g}; expected above 0 and below 1, and from 0 to below 1"
        )
    values = np.abs(np.array(list(scores.values()), dtype=np.float64))
    if not np.isfinite(values).all():
        raise ConfigError(f"scores of layers must be finite, found {dict(scores)}")
    amount = np.array(list(sizes.values()), dtype=np.float64)
    mapped = _between(_smooth(_between(values)) if smooth else values)
    wanted = _scaled(1.0 - spread + 2.0 * spread * mapped, amount, sparsity)
    return dict(zip(scores, wanted.tolist(), strict=True))


def kept_by_shares(wanted: Mapping[str, float], sizes: Mapping[str, int], sparsity: float) -> dict[str, int]:
    """Entries of each weight that stay, K in all, from its block's share of zeros.

    Args:
        wanted: share of zeros of each weight.
        sizes: its entries.
        sparsity: p, which says K exactly.
    """
    total = sum(sizes.values())
    zeros = total - kept_count(total, sparsity)
    # Whole numbers in proportion to the wanted zeros, which sum to the count; no weight gives more than it has but one.
    asked = {name: max(1, math.floor(wanted[name] * size)) for name, size in sizes.items()}
    given = dict(
        zip(sizes, _exactly([asked[n] for n in sizes], [size - 1 for size in sizes.values()], zeros), strict=True)
    )
    return {name: size - given[name] for name, size in sizes.items()}


def _exactly(asked: list[int], most: list[int], count: int) -> list[int]:
    """Change what is asked for as little as can be, so that it sums to the count: in proportion to the room that each has."""
    found = [min(one, limit) for one, limit in zip(asked, most, strict=True)]
    missing = count - sum(found)
    room = [limit - one for one, limit in zip(found, most, strict=True)] if missing > 0 else found
    if abs(missing) > sum(room):
        raise ConfigError(
            f"{count} zeros do not fit into these weights, of which each keeps one entry; lower the sparsity"
        )
    step = 1 if missing > 0 else -1
    return [one + step * more for one, more in zip(found, shares(room, abs(missing)), strict=True)]


def _between(values: Floats) -> Floats:
    """Map to [0, 1]; all equal: a half. What smoothing leaves of equal values differs by rounding, which is no order."""
    low, high = values.min(), values.max()
    is_flat = high - low <= _ROUNDING * max(abs(low), abs(high))
    return np.full_like(values, 0.5) if is_flat else (values - low) / (high - low)


def _smooth(values: Floats) -> Floats:
    """Savitzky-Golay filter of window 7 and order 3: the cubic fitted around each; at the ends, to the first and last seven."""
    n = len(values)
    if n < _WINDOW:
        _log.info("shares of zeros are not smoothed", blocks=n, least=_WINDOW)
        return values
    places = np.arange(_WINDOW)
    out = np.empty(n)
    for i in range(n):
        start = min(max(0, i - _WINDOW // 2), n - _WINDOW)
        fitted = np.polynomial.Polynomial.fit(places, values[start : start + _WINDOW], _ORDER)
        out[i] = fitted(i - start)
    return out


def _scaled(relative: Floats, amount: Floats, sparsity: float) -> Floats:
    """Scale by one factor to the wanted total; what would be beyond 0.99 stays there, and the rest is scaled more."""
    total, full = sparsity * amount.sum(), np.zeros(len(relative), dtype=bool)
    while True:
        left = total - _MOST * amount[full].sum()
        factor = left / (relative * amount)[~full].sum() if not full.all() else 0.0
        shares_now = np.where(full, _MOST, factor * relative)
        beyond = (shares_now > _MOST) & ~full
        if not beyond.any() or full.all():
            return np.minimum(shares_now, _MOST)
        full |= beyond
