"""The layout of the shared vector: offsets, kinds, what does not fit, and what its digest covers."""

from __future__ import annotations

import numpy as np
import pytest

from dictpfl.common.errors import LayoutError
from dictpfl.common.law.layout import Kind, Layout

ABC = Layout.of([("a", (2, 3), Kind.TABLE), ("b", (4,), Kind.DENSE), ("c", (1, 1, 2), Kind.STATISTIC)])


def test_offsets_and_kinds() -> None:
    assert [(e.offset, e.size) for e in ABC.entries] == [(0, 6), (6, 4), (10, 2)]
    assert ABC.tensor_of.tolist() == [0] * 6 + [1] * 4 + [2] * 2
    assert np.flatnonzero(ABC.coordinates(Kind.DENSE, Kind.STATISTIC)).tolist() == list(range(6, 12))
    assert not ABC.coordinates().any()


def test_flatten_and_back() -> None:
    vector = np.arange(12.0)
    assert (ABC.flatten(ABC.unflatten(vector)) == vector).all()
    assert ABC.unflatten(vector)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert Layout.from_json(ABC.to_json()) == ABC


def test_what_does_not_fit_is_refused() -> None:
    good = ABC.unflatten(np.zeros(12))
    with pytest.raises(LayoutError, match="missing"):
        ABC.flatten({"a": good["a"]})
    with pytest.raises(LayoutError, match="shape"):
        ABC.flatten({**good, "b": np.zeros(5)})
    with pytest.raises(LayoutError):
        ABC.unflatten(np.zeros(11))
    with pytest.raises(LayoutError, match="positive"):
        Layout.of([("a", (0,), Kind.TABLE)])
    with pytest.raises(LayoutError, match="unique"):
        Layout.of([("a", (1,), Kind.TABLE)] * 2)


def test_digest_covers_names_shapes_kinds_and_order() -> None:
    base = [("a", (2, 3), Kind.TABLE), ("b", (4,), Kind.DENSE)]
    others = [
        [("x", (2, 3), Kind.TABLE), base[1]], [("a", (3, 2), Kind.TABLE), base[1]], [("a", (2, 3), Kind.DENSE), base[1]],
        base[::-1], base[:1],
    ]  # fmt: skip
    assert len({Layout.of(tensors).digest for tensors in [base, *others]}) == 6


def test_an_empty_layout() -> None:
    empty = Layout.of([])
    assert empty.size == 0
    assert empty.coordinates(Kind.TABLE).size == 0
    assert empty.flatten({}).size == 0
    assert empty.tensor_of.size == 0
