"""Ranks by scores of layers, at the cost of uniform ones: LayerIF (arXiv 2505.23811), and the arms that it is compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from dictpfl.common.law.budget import ALLOCATORS, ranks_by, whole_scores
from dictpfl.common.law.facts import Facts
from dictpfl.common.law.seeds import small_seed


@ALLOCATORS.register("layerif")
class LayerIFAllocator:
    """Gives weights of blocks that single samples move far (`decomposition.scores`) a larger rank, others a smaller one."""

    def ranks(self, facts: Facts, rank: int) -> Mapping[str, int]:
        """See `BudgetAllocator.ranks`."""
        return ranks_by(whole_scores(facts.scores, "layerif"), facts, rank)


@ALLOCATORS.register("reversed")
class ReversedAllocator:
    """Does the opposite: a score S counts as max + min - S."""

    def ranks(self, facts: Facts, rank: int) -> Mapping[str, int]:
        """See `BudgetAllocator.ranks`."""
        scores = whole_scores(facts.scores, "reversed")
        ends = max(scores.values()) + min(scores.values())
        return ranks_by({name: ends - s for name, s in scores.items()}, facts, rank)


@ALLOCATORS.register("random")
class RandomAllocator:
    """Deals the same scores out to other weights, in an order that the scores themselves draw."""

    def ranks(self, facts: Facts, rank: int) -> Mapping[str, int]:
        """See `BudgetAllocator.ranks`."""
        scores = whole_scores(facts.scores, "random")
        names = sorted(scores)
        text = " ".join(f"{name} {scores[name]}" for name in names)
        seed = small_seed(hashlib.sha256(text.encode()).digest(), "allocator")
        order = np.random.default_rng(seed).permutation(len(names))
        return ranks_by({name: scores[names[i]] for name, i in zip(names, order.tolist(), strict=True)}, facts, rank)


@ALLOCATORS.register("gradient")
class GradientAllocator:
    """Divides by the mean gradient norm of each block, which no validation sample is needed for."""

    def ranks(self, facts: Facts, rank: int) -> Mapping[str, int]:
        """See `BudgetAllocator.ranks`."""
        return ranks_by(whole_scores(facts.gradients, "gradient"), facts, rank)
