"""Curves of counts: published goldens to the token, budgets met, and sums that are exact."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.errors import ConfigError
from dictpfl.common.law.curve import budgeted, logistic, merging

GOLDENS = {
    0.0: "160 64" + 30 * " 61",
    0.1: "160 102 99 97 95 92 90 87 84 82 79 76 73 70 67 63 60 57 54 51 48 45 43 40 37 35 32 30 28 26 24 22",
    0.2: "160 121 118 117 115 112 109 106 102 98 94 88 83 77 71 65 59 52 46 41 36 31 27 23 20 17 14 12 10 9 8 7",
    0.4: "160 126 125 125 125 124 123 122 119 117 113 107 100 90 79 67 55 43 33 25 18 13 9 7 5 4 3 3 2 2 2 2",
}
"""Counts that the authors' code makes of 32 layers, v_1 = 160 and 64 tokens a layer."""


@pytest.mark.parametrize("slope", GOLDENS)
def test_goldens(slope: float) -> None:
    assert " ".join(map(str, logistic(160, 32, 2048, slope).left)) == GOLDENS[slope]


curves = given(st.integers(3, 24), st.integers(2, 300), st.floats(0.05, 1.0), st.floats(0.0, 1.0), st.booleans())


@settings(max_examples=30, deadline=None)
@curves
def test_budget_is_met_and_counts_fall(layers: int, first: int, share: float, slope: float, merge: bool) -> None:
    check(layers, first, share, slope, merge=merge)


@pytest.mark.nightly
@settings(max_examples=1000, deadline=None)
@curves
def test_a_thousand_budgets_are_met(layers: int, first: int, share: float, slope: float, merge: bool) -> None:
    check(layers, first, share, slope, merge=merge)


def check(layers: int, first: int, share: float, slope: float, *, merge: bool) -> None:
    """Within L of the wanted sum, unless a cap binds; counts never rise from layer 1 on."""
    total = int(layers * first * share)
    course = logistic(first, layers, total, slope, merge=merge)
    assert course.left[0] == first
    assert all(1 <= now <= before for before, now in zip(course.left[1:], course.left[2:], strict=False))
    for stay, before, left in zip(course.kept[1:], course.left, course.left[1:], strict=False):
        assert left == stay + (merging(before - stay)[1] if merge else 0)
    floor, ceiling = (logistic(first, layers, bound, slope, merge=merge).total for bound in (0, first * layers))
    assert abs(course.total - min(max(total, floor), ceiling)) <= layers


@given(st.integers(-3, 400))
def test_merging_never_adds(leaving: int) -> None:
    merged, clusters = merging(leaving)
    assert 0 <= clusters <= merged <= max(leaving, 0)
    assert (clusters == 0) == (leaving <= 0)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 60), st.integers(0, 20), st.integers(0, 500), st.floats(0, 1), st.floats(-60, 60))
def test_a_budget_is_spent_exactly(
    data: st.DataObject, rounds: int, least: int, room: int, centre: float, slope: float
) -> None:
    total = data.draw(st.integers(rounds * least, rounds * (least + room)))
    counts = budgeted(rounds, total, least, least + room, centre=centre, slope=slope)
    assert len(counts) == rounds
    assert sum(counts) == total
    assert all(least <= count <= least + room for count in counts)
    ordered = sorted(counts, reverse=slope >= 0)
    assert all(
        abs(one - other) <= 1 for one, other in zip(counts, ordered, strict=True)
    )  # falling, but for what is left over


def test_a_budget_that_nobody_can_spend_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected from 20 to 200"):
        budgeted(10, 201, 2, 20, centre=0.5, slope=4.0)
