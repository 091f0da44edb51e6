"""Exact counts of what stays, held to versions that sort."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dictpfl.common.errors import ConfigError
from dictpfl.common.law.sparsity import (
    kept_count,
    largest,
    largest_in_groups,
    largest_of_each,
    margins,
    ordered,
    shares,
    shares_of_each,
)

Arrays = list[NDArray[np.int64]]


@st.composite
def several(draw: st.DrawFn) -> Arrays:
    """Up to four small matrices of few different values, so that ties abound."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4))
    top = draw(st.sampled_from([0, 1, 3, 1 << 40]))
    each = st.integers(-top, top)
    return [np.array(draw(st.lists(each, min_size=n * m, max_size=n * m))).reshape(n, m) for n, m in shapes]


def slow(values: Arrays, count: int) -> list[NDArray[np.bool_]]:
    """All entries in one sorted list."""
    places = [(w, i) for w, v in enumerate(values) for i in range(v.size)]
    best = sorted(places, key=lambda p: (-int(values[p[0]].flat[p[1]]), *p))[:count]
    marks = [np.zeros(v.shape, dtype=bool) for v in values]
    for w, i in best:
        marks[w].flat[i] = True
    return marks


def slow_of_each(values: Arrays, count: int) -> list[NDArray[np.bool_]]:
    """The first largest of each, then the best of the others."""
    firsts = {(w, int(np.argmax(v))) for w, v in enumerate(values)}
    places = [(w, i) for w, v in enumerate(values) for i in range(v.size) if (w, i) not in firsts]
    rest = sorted(places, key=lambda p: (-int(values[p[0]].flat[p[1]]), *p))[: count - len(firsts)]
    marks = [np.zeros(v.shape, dtype=bool) for v in values]
    for w, i in [*firsts, *rest]:
        marks[w].flat[i] = True
    return marks


def same(one: list[NDArray[np.bool_]], other: list[NDArray[np.bool_]]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@given(several(), st.data())
def test_the_largest_are_those_of_a_sort(values: Arrays, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, sum(v.size for v in values)))
    assert same(largest(values, count), slow(values, count))


@given(several(), st.data())
def test_no_weight_loses_all_of_its_entries(values: Arrays, data: st.DataObject) -> None:
    count = data.draw(st.integers(len(values), sum(v.size for v in values)))
    marks = largest_of_each(values, count)
    assert same(marks, slow_of_each(values, count))
    assert sum(int(m.sum()) for m in marks) == count
    assert all(m.any() for m in marks)


def test_fewer_marks_than_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="none may lose all"):
        largest_of_each([np.arange(3), np.arange(3)], 1)


@given(st.integers(1, 10**9), st.integers(1, 999))
def test_counts_follow_the_decimals(total: int, thousandths: int) -> None:
    sparsity = thousandths / 1000
    zeros = int(Decimal(total) * Decimal(thousandths) / 1000)
    if zeros:
        assert kept_count(total, sparsity) == total - zeros


def test_a_count_that_binary_fractions_get_wrong() -> None:
    assert int(0.29 * 100) == 28
    assert kept_count(100, 0.29) == 71
    for wrong in (0.0, 1.0, -0.1, 0.001):
        with pytest.raises(ConfigError):
            kept_count(100, wrong)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.data())
def test_shares_are_whole_and_nearest_to_proportion(sizes: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, sum(sizes)))
    parts = shares(sizes, count)
    assert sum(parts) == count
    total = max(1, sum(sizes))
    assert all(abs(part * total - size * count) < total for part, size in zip(parts, sizes, strict=True))
    assert all(0 <= part <= size for part, size in zip(parts, sizes, strict=True))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.data())
def test_shares_of_each_leave_nobody_without(sizes: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(len(sizes), sum(sizes)))
    parts = shares_of_each(sizes, count)
    assert sum(parts) == count
    assert all(1 <= part <= size for part, size in zip(parts, sizes, strict=True))
    if all(shares(sizes, count)):
        assert parts == shares(sizes, count)


@given(st.integers(1, 3), st.integers(1, 3), st.data())
def test_so_many_of_every_so_many(n: int, blocks: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 5))
    count = data.draw(st.integers(1, size - 1))
    m = blocks * size
    values = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n * m, max_size=n * m))).reshape(n, m)
    marks = largest_in_groups(values, count, size)
    for i in range(n):
        for j in range(0, m, size):
            assert same([marks[i, j : j + size]], slow([values[i, j : j + size]], count))


def test_rows_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="rows that divide"):
        largest_in_groups(np.zeros((2, 6), np.int64), 2, 4)


@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=20))
def test_bits_order_as_scores_do(scores: list[float]) -> None:
    array = np.array([*scores, 0.0, -0.0])
    bits = ordered(array)
    assert np.array_equal(np.sign(array[:, None] - array), np.sign(bits[:, None] - bits))
    for wrong in (np.nan, np.inf, -1.0):
        with pytest.raises(ConfigError, match="finite numbers from zero up"):
            ordered(np.array([wrong]))


@given(st.integers(1, 40), st.integers(1, 4), st.data())
def test_margins_are_exact_integers(m: int, n: int, data: st.DataObject) -> None:
    ranks = np.array(data.draw(st.lists(st.integers(1, m), min_size=n * m, max_size=n * m)), np.int32).reshape(n, m)
    cuts = np.array(data.draw(st.lists(st.floats(-3, 3), min_size=n, max_size=n)))
    found = margins(ranks, cuts)
    for i in range(n):
        for j in range(m):
            assert found[i, j] == (int(ranks[i, j]) << 20) // m - int(np.rint(cuts[i] * 2**20))
