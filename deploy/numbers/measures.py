"""Measure places of digits: shares with intervals over questions, first errors, and what became of both without some neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.errors import ModelError
from dictpfl.deploy.numbers.reading import Places

_RESAMPLES = 1000
Floats = NDArray[np.float64]


def shares(every: Sequence[Places], seed: int, name: str = "plain") -> dict[str, Any]:
    """Shares of digits at all places, with 95 % intervals by resampling questions, and how many places are right.

    Args:
        every: places of each kind of questions.
        seed: of the resampling.
        name: variant.
    """
    truth, chosen = (np.concatenate(parts) for parts in zip(*((p.truth, p.chosen[name]) for p in every), strict=True))
    owner = owners(every)
    low, high, found = _interval(chosen, owner, seed)
    return {
        "places": len(truth),
        "truth": normalised(np.bincount(truth, minlength=10)).tolist(),
        "shares": found.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "accuracy": float((truth == chosen).mean()),
        "distance": distance(found),
    }


def first_errors(every: Sequence[Places], seed: int) -> dict[str, Any]:
    """Shares of the model's digit where an answer of its first differs from the truth, with 95 % intervals over questions."""
    digits: list[int] = []
    for places in every:
        seen: set[int] = set()
        for question, truth, chosen in zip(
            places.question.tolist(), places.truth.tolist(), places.chosen["plain"].tolist(), strict=True
        ):
            if question not in seen and truth != chosen:
                seen.add(question)
                digits.append(chosen)
    if not digits:  # every answer is right
        return {"count": 0, "shares": [0.0] * 10, "low": [0.0] * 10, "high": [0.0] * 10}
    low, high, found = _interval(np.array(digits, dtype=np.int64), np.arange(len(digits)), seed)
    return {"count": len(digits), "shares": found.tolist(), "low": low.tolist(), "high": high.tolist()}


def effect(every: Sequence[Places], name: str, plain: Mapping[str, Any]) -> dict[str, Any]:
    """Compare a variant with the untouched model, whose shares are `plain`."""
    truth, before, after = (
        np.concatenate(parts)
        for parts in zip(*((p.truth, p.chosen["plain"], p.chosen[name]) for p in every), strict=True)
    )
    found = normalised(np.bincount(after, minlength=10))
    return {
        "shares": found.tolist(),
        "change": [a - b for a, b in zip(found.tolist(), plain["shares"], strict=True)],
        "accuracy": float((truth == after).mean()),
        "distance": distance(found),
        "mended": int(((before != truth) & (after == truth)).sum()),
        "broken": int(((before == truth) & (after != truth)).sum()),
    }


def only_fluent(every: Sequence[Places]) -> list[Places]:
    """Places where a digit would be written: nothing is silenced elsewhere.

    Raises:
        ModelError: there is none.
    """
    found = [
        Places(
            p.question[p.fluent], p.place[p.fluent], p.truth[p.fluent], {k: v[p.fluent] for k, v in p.chosen.items()}, p.fluent[p.fluent], p.activations
        )
        for p in every
        if p.fluent.any()
    ]  # fmt: skip
    if not found:
        raise ModelError(
            "the model would write a digit at no place of any answer: without neurons it has nothing to change; leave --neurons out"
        )
    return found


def distance(found: Floats) -> float:
    """Sum of what shares have above a tenth: 0 where all digits come equally often."""
    return float(np.maximum(found - 0.1, 0).sum())


def normalised(counts: Any) -> Floats:
    """Counts as shares; zeros of no counts."""
    found: Floats = np.asarray(counts, dtype=np.float64) / max(1.0, float(np.sum(counts)))
    return found


def correlation(one: Any, other: Any, *, ranks: bool = False) -> float | None:
    """Pearson's correlation, or Spearman's of ranks; None where one of them is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    if ranks:
        from scipy import stats

        return float(stats.spearmanr(one, other).statistic)
    return float(np.corrcoef(one, other)[0, 1])


def owners(every: Sequence[Places]) -> NDArray[np.int64]:
    """Number of the question of each place, over all kinds."""
    offsets = np.cumsum([0, *(int(p.question.max()) + 1 for p in every)])
    return np.concatenate([p.question + offset for p, offset in zip(every, offsets[:-1], strict=True)])


def _interval(chosen: NDArray[np.int64], owner: NDArray[np.int64], seed: int) -> tuple[Floats, Floats, Floats]:
    table = np.zeros((int(owner.max()) + 1, 10))
    np.add.at(table, (owner, chosen), 1)
    draw = np.random.default_rng(seed)
    resampled = np.stack(
        [normalised(table[draw.integers(0, len(table), len(table))].sum(axis=0)) for _ in range(_RESAMPLES)]
    )
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    return low, high, normalised(table.sum(axis=0))
