"""Units that stay: a pure function of scores, so that everybody who has the same scores decides alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.errors import ConfigError

Ints = NDArray[np.int64]


def require_admissible(count: int, units: int, groups: int, what: str) -> None:
    """Refuse a number of units that cannot stay.

    Args:
        count: that shall stay.
        units: that there are.
        groups: in each of which the same number stays.
        what: is counted; for the message.

    Raises:
        ConfigError: 0, more than there are, or not the same number for every group; names the nearest ones that can be.
    """
    if 0 < count <= units and count % groups == 0:
        return
    low, high = max(groups, min(count, units) // groups * groups), min(units, -(-max(count, 1) // groups) * groups)
    near = f"{low}" if low == high else f"{low} or {high}"
    parts = f", the same number in each of {groups} groups" if groups > 1 else ""
    raise ConfigError(f"{what}: {count} of {units} units cannot stay{parts}; the nearest number is {near}")


def keep(scores: NDArray[Any], group: Ints, count: int, what: str = "units") -> Ints:
    """The units that stay: in every group those of the largest scores, ties by index.

    Args:
        scores: (units,), integers or floats; larger is kept.
        group: int64 (units,), numbers from 0 on.
        count: of all that stay; the same number in every group.
        what: is counted; for messages.

    Returns:
        int64 (count,), ascending.

    Raises:
        ConfigError: see `require_admissible`, or a score that is not a number.
    """
    if scores.shape != group.shape:
        raise ConfigError(f"{what}: expected {group.shape} scores, found {scores.shape}")
    if scores.dtype.kind == "f" and not np.isfinite(scores).all():
        raise ConfigError(f"{what}: a score is not finite; check the model and the samples that it was scored on")
    groups = int(group.max()) + 1 if group.size else 1
    require_admissible(count, scores.size, groups, what)
    chosen = []
    for number in range(groups):
        members = np.flatnonzero(group == number)
        # Two keys, the last the first: descending scores without negating the smallest integer.
        order = np.argsort(scores[members][::-1], kind="stable")[::-1]
        chosen.append(members[len(members) - 1 - order][: count // groups])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
