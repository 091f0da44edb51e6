"""Zeros by block from scores: the authors' published shares, and exact counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dictpfl.client.compress.influence.shares import arranged, kept_by_shares, sparsity_by_layer
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.sparsity import kept_count

RAW = (
    "0 .6873 .6239 .7973 .6273 .5928 .7172 .8668 .8004 .9685 .8682 .9335 1 .8886 .9465 .8204 .9136 .9278 .8381 .9114 .6531 .8611 .9333 "
    ".9411 .936 .9045 .9212 .7918 .7849 .8254 .7898 .8395"
)
PUBLISHED = (
    ".2894 .4353 .4867 .4801 .4563 .4655 .4677 .4978 .5165 .5221 .5301 .5358 .5355 .5329 .5239 .5211 .5206 .5252 .5154 .4995 .4967 .5066 "
    ".5186 .5375 .5366 .5283 .5157 .5061 .4974 .4942 .4972 .5078"
)
"""Mistral-7B, 50 %: scores and shares of the authors' release."""


def test_published_scores_give_the_published_shares() -> None:
    raw, published = ([float(word) for word in text.split()] for text in (RAW, PUBLISHED))
    names = [str(i) for i in range(len(raw))]
    found = sparsity_by_layer(dict(zip(names, raw, strict=True)), dict.fromkeys(names, 1000), 0.5, 0.3)
    np.testing.assert_allclose(list(found.values()), published, atol=1e-4)


blocks = st.lists(st.tuples(st.floats(0, 1e6), st.integers(40, 4000)), min_size=2, max_size=12)


@given(blocks, st.sampled_from([0.1, 0.5, 0.6, 0.7, 0.9]), st.floats(0, 0.9))
def test_zeros_are_exactly_so_many(given_blocks: list[tuple[float, int]], sparsity: float, spread: float) -> None:
    scores = {str(i): s for i, (s, _) in enumerate(given_blocks)}
    sizes = {str(i): size for i, (_, size) in enumerate(given_blocks)}
    shares = sparsity_by_layer(scores, sizes, sparsity, spread)
    assert all(0 <= share <= 0.99 for share in shares.values())
    kept = kept_by_shares(shares, sizes, sparsity)
    assert sum(kept.values()) == kept_count(sum(sizes.values()), sparsity)
    assert all(1 <= kept[name] <= size for name, size in sizes.items())
    if len(scores) < 7:
        order = sorted(scores, key=scores.__getitem__)
        assert all(shares[a] <= shares[b] + 1e-9 for a, b in itertools.pairwise(order)), "a higher score is pruned more"


def test_arms_hold_the_same_scores() -> None:
    both = {"influence": {"a": 1.0, "b": 5.0, "c": 2.0}, "gradient": {"a": 3.0, "b": 2.0, "c": 1.0}}
    assert arranged("layerif", both) == both["influence"]
    assert arranged("reversed", both) == {"a": 5.0, "b": 1.0, "c": 4.0}
    assert arranged("gradient", both) == both["gradient"]
    draws = {tuple(arranged("random", both, seed).values()) for seed in range(20)}
    assert len(draws) > 2
    assert all(sorted(draw) == [1.0, 2.0, 5.0] for draw in draws)


def test_influence_alone_serves_the_ways_that_need_no_gradients() -> None:
    both = {"influence": {"a": 1.0, "b": 5.0}, "gradient": {"a": 3.0, "b": 2.0}}
    for way in ("layerif", "reversed", "random"):
        assert arranged(way, both["influence"]) == arranged(way, both)
    for way, scores, found in (
        ("gradient", both["influence"], "'gradient' by block; they hold a, b"),
        ("gradient", {"influence": both["influence"]}, "'gradient' by block; they hold influence"),
        ("layerif", {"gradient": both["gradient"]}, "'influence' by block; they hold gradient"),
        ("layerif", {"a": "high"}, "'influence' by block; they hold a"),
        ("layerif", {}, "they hold nothing"),
    ):
        with pytest.raises(ConfigError, match=f'{found}. Expected {{"influence": '):
            arranged(way, scores)


def test_what_cannot_be_divided_is_refused() -> None:
    for scores, sizes, words in (
        ({"a": 1.0}, {"a": 9}, "single block"),
        ({"a": 1.0, "b": 1.0}, {"a": 9, "c": 9}, "scores of this model"),
    ):
        with pytest.raises(ConfigError, match=words):
            sparsity_by_layer(scores, sizes, 0.5)
    with pytest.raises(ConfigError, match="finite"):
        sparsity_by_layer({"a": np.nan, "b": 1.0}, {"a": 9, "b": 9}, 0.5)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("count", [2, 6, 7, 12, 30])
def test_equal_scores_divide_evenly(count: int, value: float) -> None:
    """What a filter leaves of equal numbers differs by rounding, which decides nothing."""
    names = [str(i) for i in range(count)]
    found = sparsity_by_layer(dict.fromkeys(names, value), dict.fromkeys(names, 1000), 0.5)
    np.testing.assert_allclose(list(found.values()), 0.5, atol=1e-9)
