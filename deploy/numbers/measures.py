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


def beside_truth(every: Sequence[Places], seed: int, name: str = "plain") -> dict[str, Any]:
    """Shares as `shares` gives them, for characters that are not right equally often: the first ones of tokens, which are seldom 0.

    Args:
        every: places of each kind of questions.
        seed: of the resampling.
        name: variant.

    Returns:
        What `shares` returns, `distance` being how far they are above the truth's own; and `excess`, shares less those of the truth, in one
        resampling of questions with ends `excess_low` and `excess_high`; `chance`, how many places would be right if what is written knew
        nothing of the truth but the place: at each, the sum over characters of both shares' product.
    """
    found = shares(every, seed, name)
    truth, chosen = (np.concatenate(parts) for parts in zip(*((p.truth, p.chosen[name]) for p in every), strict=True))
    owner = owners(every)
    written, right = (_resampled(values, owner, seed) for values in (chosen, truth))
    low, high = np.quantile(written - right, [0.025, 0.975], axis=0)
    excess = np.array(found["shares"]) - np.array(found["truth"])
    return found | {
        "distance": distance(np.array(found["shares"]), np.array(found["truth"])),
        "excess": excess.tolist(),
        "excess_low": low.tolist(),
        "excess_high": high.tolist(),
        "chance": _chance(np.concatenate([p.place for p in every]), truth, chosen),
    }


def _chance(place: NDArray[np.int64], truth: NDArray[np.int64], chosen: NDArray[np.int64]) -> float:
    """Share of places at which two characters agree that are drawn apart, each from its own ones at the same place of an answer."""
    agreed = 0.0
    for number in np.unique(place):
        here = place == number
        both = [normalised(np.bincount(values[here], minlength=10)) for values in (truth, chosen)]
        agreed += float(here.mean() * (both[0] @ both[1]))
    return agreed


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


def effect(
    every: Sequence[Places], name: str, plain: Mapping[str, Any], expected: Floats | float = 0.1
) -> dict[str, Any]:
    """Compare a variant with the untouched model, whose shares are `plain`; `expected` are those that nothing is away from."""
    truth, before, after = (
        np.concatenate(parts)
        for parts in zip(*((p.truth, p.chosen["plain"], p.chosen[name]) for p in every), strict=True)
    )
    found = normalised(np.bincount(after, minlength=10))
    return {
        "shares": found.tolist(),
        "change": [a - b for a, b in zip(found.tolist(), plain["shares"], strict=True)],
        "accuracy": float((truth == after).mean()),
        "distance": distance(found, expected),
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


def distance(found: Floats, expected: Floats | float = 0.1) -> float:
    """Sum of what shares have above a tenth, or above those that are expected: 0 where all digits come as often as that."""
    return float(np.maximum(found - expected, 0).sum())


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


def leading(heads: Sequence[Sequence[int]], truth: Sequence[Sequence[int]], seed: int) -> dict[str, Any]:
    """Shares of the first characters of the tokens that answers begin with, with 95 % intervals over questions.

    Args:
        heads: first characters, by answer; none of an answer that is no number.
        truth: those of the true answers.
        seed: of the resampling.
    """
    owner = np.repeat(np.arange(len(heads)), [len(one) for one in heads])
    chosen = np.array([digit for one in heads for digit in one], dtype=np.int64)
    right = np.array([digit for one in truth for digit in one], dtype=np.int64)
    told = normalised(np.bincount(right, minlength=10)).tolist()
    if not len(chosen):  # no answer is a number
        return {"tokens": 0, "truth": told, "shares": [0.0] * 10, "low": [0.0] * 10, "high": [0.0] * 10}
    low, high, found = _interval(chosen, owner, seed, len(heads))
    return {
        "tokens": len(chosen),
        "truth": told,
        "shares": found.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }


def _interval(
    chosen: NDArray[np.int64], owner: NDArray[np.int64], seed: int, count: int = 0
) -> tuple[Floats, Floats, Floats]:
    low, high = np.quantile(_resampled(chosen, owner, seed, count), [0.025, 0.975], axis=0)
    return low, high, normalised(np.bincount(chosen, minlength=10))


def _resampled(chosen: NDArray[np.int64], owner: NDArray[np.int64], seed: int, count: int = 0) -> Floats:
    """Shares of each resampling of questions, float64 (resamples, 10)."""
    table = np.zeros((count or int(owner.max()) + 1, 10))
    np.add.at(table, (owner, chosen), 1)
    draw = np.random.default_rng(seed)
    return np.stack(
        [normalised(table[draw.integers(0, len(table), len(table))].sum(axis=0)) for _ in range(_RESAMPLES)]
    )
