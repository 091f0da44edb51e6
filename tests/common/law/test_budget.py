"""Allocators and schedules by name: built in, a user's own, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.errors import ConfigError
from dictpfl.common.law.budget import allocator, spend
from dictpfl.common.law.facts import Facts
from dictpfl.common.law.schedule import schedule
from dictpfl.common.rounds import Pruning


def test_seams_by_name() -> None:
    assert allocator("uniform").ranks(Facts({"a": (3, 4), "b": (5, 6)}), 2) == {"a": 2, "b": 2}
    by_path = allocator("dictpfl.common.law.allocators.uniform:UniformAllocator")
    assert by_path.ranks(Facts({"a": (1, 1)}), 7) == {"a": 7}
    assert schedule("constant").at(Facts({}, updates=9), Pruning()) == Pruning()
    for name, words in (
        ("unknown", "known: .*uniform"),
        ("no.such:thing", "cannot load"),
        ("dictpfl.common.law.budget:none", "cannot load"),
    ):
        with pytest.raises(ConfigError, match=words):
            allocator(name)


choices = st.lists(st.tuples(st.integers(1, 1 << 20), st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=8)


@settings(max_examples=500, deadline=None)
@given(choices, st.data())
def test_a_budget_is_spent_exactly_and_larger_scores_never_get_less(
    said: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    weights = [w for w, _, _ in said]
    sizes = [[columns * r for r in range(1, most + 1)] for _, columns, most in said]
    budget = sum(data.draw(st.sampled_from(each)) for each in sizes)
    found = spend(weights, sizes, budget)
    spent = [each[i] for each, i in zip(sizes, found, strict=True)]
    assert sum(spent) == budget
    which = data.draw(st.integers(0, len(said) - 1))
    # Others stay as they are: the largest weight sets the scale in which weights are compared.
    most = max(weights)
    raised = [min(most, w * 3) if i == which else w for i, w in enumerate(weights)]
    assert sizes[which][spend(raised, sizes, budget)[which]] >= spent[which]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 5)), min_size=1, max_size=4), st.data())
def test_the_division_is_the_nearest_of_all(said: list[tuple[int, int]], data: st.DataObject) -> None:
    sizes = [[columns * r for r in range(1, 5)] for _, columns in said]
    weights = [w for w, _ in said]
    budget = sum(data.draw(st.sampled_from(each)) for each in sizes)

    def cost(spent: Sequence[int]) -> float:
        return sum(x * x / w for x, w in zip(spent, weights, strict=True))

    best = min(cost(spent) for spent in itertools.product(*sizes) if sum(spent) == budget)
    found = [each[i] for each, i in zip(sizes, spend(weights, sizes, budget), strict=True)]
    assert cost(found) <= best * (1 + 1e-6)


SHAPES = {"a": (30, 8), "b": (30, 16), "c": (12, 24), "small": (2, 2)}


def facts(scores: Mapping[str, float], **changes: Any) -> Facts:
    return Facts(SHAPES, scores=scores, **changes)


def cost_of(ranks: Mapping[str, int]) -> int:
    return sum(r * SHAPES[name][1] for name, r in ranks.items())


def test_ranks_follow_scores_at_the_cost_of_uniform_ones() -> None:
    equal = allocator("layerif").ranks(facts(dict.fromkeys(SHAPES, 1.0)), 3)
    assert equal == dict.fromkeys(SHAPES, 3), "equal scores are uniform ranks"
    scores = {"a": 0.6, "b": 0.3, "c": 0.1, "small": 0.0}
    found = {
        name: allocator(name).ranks(facts(scores, gradients={**scores, "a": 0.0}), 3)
        for name in ("layerif", "reversed", "random", "gradient")
    }
    assert {cost_of(ranks) for ranks in found.values()} == {cost_of(equal)}
    assert found["layerif"]["a"] > found["layerif"]["c"]
    assert found["reversed"]["a"] < found["reversed"]["c"]
    assert found["gradient"]["a"] < 3
    assert allocator("layerif").ranks(facts(dict(reversed(scores.items()))), 3) == found["layerif"], (
        "whatever the order of names"
    )
    assert all(1 <= r <= 6 for ranks in found.values() for r in ranks.values())
    bounded = allocator("layerif").ranks(facts(scores, most=4, least=2), 3)
    assert {2 <= r <= 4 for r in bounded.values()} == {True}
    assert cost_of(bounded) == cost_of(equal)
    assert allocator("layerif").ranks(facts(dict.fromkeys(SHAPES, 0.0)), 3) == equal, "scores that say nothing"


layers = st.lists(st.tuples(st.floats(0, 1e6), st.integers(2, 40), st.integers(2, 40)), min_size=2, max_size=7)


@settings(max_examples=500, deadline=None)
@given(layers, st.integers(1, 4), st.integers(0, 3), st.integers(0, 4), st.randoms(use_true_random=False))
def test_any_scores_and_shapes_spend_what_uniform_ranks_do(
    said: list[tuple[float, int, int]], rank: int, below: int, above: int, order: Any
) -> None:
    """Within least and most, and whatever the order in which scores and shapes come."""
    shapes = {f"w{i}": (rows, columns) for i, (_, rows, columns) in enumerate(said)}
    scores = {f"w{i}": score for i, (score, _, _) in enumerate(said)}
    least, most = max(1, rank - below), rank + above
    made = Facts(shapes, scores=scores, least=least, most=most)
    uniform = sum(made.values(name, rank) for name in shapes)
    able = [n for n, (a, b) in shapes.items() if rank <= min(a, b) and made.values(n, rank) < a * b]
    if len(able) == 1:
        with pytest.raises(ConfigError, match=rf"{able[0]} alone can have a table"):
            allocator("layerif").ranks(made, rank)
        return
    for name in ("layerif", "reversed"):
        found = allocator(name).ranks(made, rank)
        assert sum(made.values(one, r) for one, r in found.items()) == uniform
        assert all(least <= r <= most for r in found.values())
        turned = list(shapes)
        order.shuffle(turned)
        again = Facts(
            {n: shapes[n] for n in turned}, scores={n: scores[n] for n in reversed(turned)}, least=least, most=most
        )
        assert allocator(name).ranks(again, rank) == found


def test_a_weight_that_no_score_can_be_of_keeps_its_rank() -> None:
    """An embedding is in no map; where one is, it counts as others do."""
    scores = {"a": 0.6, "b": 0.3, "small": 0.0}
    apart = facts(scores, unscored={"c"})
    found = allocator("layerif").ranks(apart, 3)
    assert found["c"] == 3
    assert found["a"] > 3
    assert cost_of(found) == cost_of(dict.fromkeys(SHAPES, 3))
    known = scores | {"c": 0.1}
    assert allocator("layerif").ranks(facts(known, unscored={"c"}), 3) == allocator("layerif").ranks(facts(known), 3)


def test_scores_that_cannot_be_divided_by_are_refused() -> None:
    for made, words in (
        (facts({}), "audit layers"),
        (facts({"a": -1.0}), "from 0 up"),
        (facts({"a": 1.0}), "nothing of b, c"),
        (facts({"a": 1.0}, least=4), "rank_min"),
    ):
        with pytest.raises(ConfigError, match=words):
            allocator("layerif").ranks(made, 3)
    alone = Facts({"a": (30, 8), "small": (2, 2)}, scores={"a": 1.0, "small": 0.5}, gradients={"a": 1.0, "small": 0.5})
    for name in ("layerif", "reversed", "random", "gradient"):
        with pytest.raises(ConfigError, match="a alone can have a table: there is nothing to divide"):
            allocator(name).ranks(alone, 3)
    assert allocator("uniform").ranks(alone, 3) == {"a": 3, "small": 3}
    with pytest.raises(ConfigError, match="no ranks between"):
        spend([1, 1], [[2, 4], [2, 4]], 10)
