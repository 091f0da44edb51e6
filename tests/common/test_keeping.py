"""Units that stay: by plain sorting, alike for everybody."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies

from dictpfl.common.errors import ConfigError
from dictpfl.common.keeping import keep, require_admissible


def slow(scores: list[float], group: list[int], count: int) -> list[int]:
    groups = max(group) + 1
    chosen: list[int] = []
    for g in range(groups):
        members = [u for u in range(len(scores)) if group[u] == g]
        members.sort(key=lambda u: (-scores[u], u))
        chosen += members[: count // groups]
    return sorted(chosen)


@given(strategies.data())
def test_as_sorting_by_hand_does(data: strategies.DataObject) -> None:
    groups, per = data.draw(strategies.integers(1, 4)), data.draw(strategies.integers(1, 6))
    kind = strategies.integers(-(2**63), 2**63 - 1) if data.draw(strategies.booleans()) else strategies.integers(-2, 2)
    scores = data.draw(strategies.lists(kind, min_size=groups * per, max_size=groups * per))
    group = data.draw(strategies.permutations([g for g in range(groups) for _ in range(per)]))
    count = groups * data.draw(strategies.integers(1, per))
    found = keep(np.array(scores, dtype=np.int64), np.array(group, dtype=np.int64), count)
    assert found.tolist() == slow(scores, list(group), count)
    assert found.dtype == np.int64


def test_floats_and_ties() -> None:
    group = np.zeros(4, np.int64)
    assert keep(np.array([0.5, 2.0, 2.0, 2.0]), group, 2).tolist() == [1, 2]
    assert keep(np.zeros(4), group, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ConfigError, match=r"ffn:1: a score is not finite"):
        keep(np.array([1.0, bad]), np.zeros(2, np.int64), 1, "ffn:1")


@pytest.mark.parametrize(("count", "units", "groups", "near"), [
    (0, 8, 1, "1"), (9, 8, 1, "8"), (3, 8, 2, "2 or 4"), (0, 8, 4, "4"), (-5, 8, 2, "2"), (7, 8, 4, "4 or 8"),
])  # fmt: skip
def test_numbers_that_cannot_stay(count: int, units: int, groups: int, near: str) -> None:
    with pytest.raises(ConfigError, match=f"nearest number is {near}$"):
        require_admissible(count, units, groups, "heads")
    require_admissible(int(near.split(maxsplit=1)[0]), units, groups, "heads")


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="scores"):
        keep(np.zeros(3), np.zeros(2, np.int64), 1)
