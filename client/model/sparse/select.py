"""Selection: from scores to masks that keep exactly so many entries (`dictpfl.common.law.sparsity`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.model.sparse.masks import Masks
from dictpfl.client.model.sparse.scores import Floats, ranks
from dictpfl.client.model.sparse.weights import Weight
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.sparsity import (
    Bools,
    kept_count,
    largest,
    largest_in_groups,
    largest_of_each,
    margins,
    ordered,
    require_possible,
    shares_of_each,
)

Scores = Mapping[str, Floats]
"""Importance of the entries of each covered weight, (n, m), in the order of the model's parameters."""


def kept_of_each(sizes: Mapping[str, int], sparsity: float) -> dict[str, int]:
    """Divide K among weights in proportion to their sizes; each keeps one at least."""
    kept = shares_of_each(list(sizes.values()), kept_count(sum(sizes.values()), sparsity))
    return dict(zip(sizes, kept, strict=True))


def zeros_of(weights: Mapping[str, Weight]) -> dict[str, int]:
    """Count the entries of each weight that are zero already."""
    return {name: int((w.matrix == 0).sum()) for name, w in weights.items()}


def require_sparsity(weights: Mapping[str, Weight], sparsity: float) -> None:
    """Refuse a sparsity that these weights cannot have, see `dictpfl.common.law.sparsity.require_possible`.

    Raises:
        ConfigError: says which they can have.
    """
    total = sum(w.size for w in weights.values())
    require_possible(total, sum(zeros_of(weights).values()), len(weights), sparsity)


def rows_alike(scores: Floats, kept: int) -> Bools:
    """Zero the same share of every row of a weight, as Wanda does: the entries of lowest rank in it.

    Where rows do not come out even, floor of their share goes in each, and the rest from the next rank, in the last rows.
    """
    return largest([ranks(scores)], kept)[0]


def rows_together(scores: Floats, kept: int) -> Bools:
    """Zero the least entries of a weight, whatever their rows."""
    return largest([ordered(scores)], kept)[0]


def by_all(scores: Scores, sparsity: float) -> Masks:
    """Zero the least entries of all weights together; each weight keeps one at least."""
    count = kept_count(sum(s.size for s in scores.values()), sparsity)
    return _of(scores, largest_of_each([ordered(s) for s in scores.values()], count))


def by_thresholds(every: Mapping[str, NDArray[np.int32]], thresholds: Mapping[str, Floats], sparsity: float) -> Masks:
    """Keep the K entries that lie furthest above the threshold of their row; each weight keeps one at least.

    Args:
        every: ranks of each weight, (n, m).
        thresholds: of each weight's rows, (n,), float64.
        sparsity: p, which says K.
    """
    count = kept_count(sum(r.size for r in every.values()), sparsity)
    return _of(every, largest_of_each([margins(r, thresholds[n]) for n, r in every.items()], count))


def neighbours(scores: Floats, pattern: tuple[int, int]) -> Bools:
    """Keep so many of so many neighbours in a row, such as 2 of 4."""
    return largest_in_groups(ordered(scores), *pattern)


def require_dividing(columns: Mapping[str, int], size: int) -> None:
    """Refuse weights whose rows do not divide into groups of a pattern.

    Raises:
        ConfigError: it names them.
    """
    if wrong := [name for name, m in columns.items() if m % size]:
        patterns = " ".join(f"--keep '{name}'" for name in wrong[:3])
        raise ConfigError(
            f"a pattern of {size} needs rows of a multiple of {size} entries, which {', '.join(wrong[:5])} do not have; "
            f"leave them whole: {patterns}"
        )


def _of(names: Mapping[str, NDArray[np.generic]], marks: Sequence[Bools]) -> Masks:
    return Masks(dict(zip(names, marks, strict=True)))
