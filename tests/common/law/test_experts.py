"""Experts by layer: the published division obeys the rule, and whatever the scores, exactly so many are given."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dictpfl
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.experts import experts_by_layer

PUBLISHED = "1 8 6 8 7 6 10 6 11 9 8 9 7 8 7 3 7 6 5 2 6 5 2 1 1 3 1 2 1 1 2 1"
"""Experts of Mistral-7B by layer for CommonsenseQA, T = 160, as published; their scores are not."""


def test_the_published_division_obeys_the_rule() -> None:
    """Scores that give the published numbers exactly are their inverse: v = (s - 1)^(1 / beta), with nothing left to deal out."""
    published = [int(word) for word in PUBLISHED.split()]
    assert sum(published) == 160
    scores = {str(i): -float((s - 1 + 1e-9) ** (1 / 3)) for i, s in enumerate(published)}
    assert list(dictpfl.experts_by_layer(scores, 160).values()) == published


def test_by_hand() -> None:
    """9 are divided as 2 to 1; of what is left over, the earlier of equal ones has it."""
    assert experts_by_layer({"a": 0.0, "b": 1.0, "c": 0.5}, 12, beta=1.0) == {"a": 7, "b": 1, "c": 4}
    assert experts_by_layer({"a": 0.0, "b": 1.0, "c": 0.5}, 12, beta=3.0) == {"a": 9, "b": 1, "c": 2}
    assert experts_by_layer({"a": 2.0, "b": 2.0, "c": 2.0}, 5) == {"a": 2, "b": 2, "c": 1}


@given(
    st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20), st.integers(0, 300), st.sampled_from([0.5, 1, 2.5, 3, 4])
)
def test_exactly_so_many(values: list[float], more: int, beta: float) -> None:
    scores = {str(i): value for i, value in enumerate(values)}
    found = experts_by_layer(scores, len(values) + more, beta)
    assert sum(found.values()) == len(values) + more
    assert min(found.values()) >= 1
    order = sorted(scores, key=scores.__getitem__)
    assert all(found[a] >= found[b] - 1 for a, b in itertools.pairwise(order)), "the lower a score, the more"
    if max(values) > min(values):
        assert found[order[-1]] == 1, "the worst has one"


def test_what_cannot_be_divided_is_refused() -> None:
    for scores, total, beta in (
        ({"a": 1.0, "b": 2.0}, 1, 3.0),
        ({"a": np.inf}, 3, 3.0),
        ({}, 3, 3.0),
        ({"a": 1.0}, 3, 0.0),
        ({"a": 1.0, "b": 2.0}, 5.5, 3.0),
    ):
        with pytest.raises(ConfigError, match="at least one expert a layer"):
            experts_by_layer(scores, total, beta)  # type: ignore[arg-type] # one is a fraction


def test_huge_scores_divide_as_others_do() -> None:
    assert experts_by_layer({"a": -1e308, "b": 1e308, "c": 0.0}, 12, beta=1.0) == {"a": 7, "b": 1, "c": 4}
