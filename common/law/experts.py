"""Experts by layer from scores (LayerIF's first use, arXiv 2505.23811): a pure division, of which nothing here makes a mixture."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from dictpfl.common.errors import ConfigError


def experts_by_layer(scores: Mapping[str, float], total: int, beta: float = 3.0) -> dict[str, int]:
    """Divide a number of experts among layers: the lower a score, the more; each has one, and the worst no more.

    With v_l = max S - S_l, a layer gets 1 + floor((T - L) v_l^beta / sum v^beta), and what remains goes to the largest fractional parts, ties
    to the earlier layer. Equal scores divide evenly.

    Args:
        scores: S of each layer, in the order of the model.
        total: T, at least one a layer; exactly so many are given.
        beta: 1: in proportion; larger: fewer layers get most.

    Raises:
        ConfigError: fewer experts than layers, or numbers that are not finite.
    """
    values = np.array(list(scores.values()), dtype=np.float64)
    is_whole = isinstance(total, int) and total >= len(values) >= 1
    if not is_whole or not np.isfinite(values).all() or not 0.0 < beta < math.inf:
        raise ConfigError(
            f"{total} experts, beta {beta:g} and scores {dict(scores)}: expected finite scores, at least one expert a layer as a whole "
            "number, and beta above 0"
        )
    values /= 2  # exactly the same shares, and the difference of two huge scores is finite
    good = values.max() - values
    # Over the best one, so that a high power neither overflows nor leaves nothing.
    weight = (good / good.max()) ** beta if good.max() > 0 else np.ones(len(values))
    wanted = (total - len(values)) * weight / weight.sum()
    given = np.floor(wanted).astype(np.int64)
    order = np.argsort(given - wanted, kind="stable")[: total - len(values) - int(given.sum())]
    given[order] += 1
    return dict(zip(scores, (1 + given).tolist(), strict=True))
