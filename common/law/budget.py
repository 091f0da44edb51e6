"""Rank of each table: decided once, at genesis, by an allocator (a door: `decomposition.allocator`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.facts import Facts
from dictpfl.common.registry import Registry, require_part


class BudgetAllocator(Protocol):
    """Decides the rank of every covered weight, once, at genesis; institutions take ranks from the dictionaries."""

    def ranks(self, facts: Facts, rank: int) -> Mapping[str, int]:
        """Rank for each weight of `facts.shapes`.

        Args:
            facts: shapes and spectra of W0.
            rank: the configured rank.
        """
        ...


ALLOCATORS: Registry[type[BudgetAllocator]] = Registry(
    "allocator", key="decomposition.allocator", group="dictpfl.allocators", folder="dictpfl.common.law.allocators"
)


def allocator(name: str) -> BudgetAllocator:
    """Make the allocator that a name leads to.

    Raises:
        ConfigError: unknown, or no allocator.
    """
    made = ALLOCATORS.load(name)()
    require_part(made, f"decomposition.allocator {name!r}", {"ranks": 2})
    return made


_BITS = 62
_SCORE_BITS = 16
_MOST_STEPS = 1 << 31
_NEVER = np.iinfo(np.int64).max >> 1


def spend(weights: Sequence[int], sizes: Sequence[Sequence[int]], budget: int) -> list[int]:
    """Choose a size for each table so that their sum is the budget, exactly, and each is as near as can be to its share by weight.

    Minimises sum_l x_l^2 / w_l over sum_l x_l = budget, of which x_l = budget w_l / sum w is the solution where every size is to be
    had. Integers decide: the same choice everywhere, and a larger weight never gets a smaller size.

    Args:
        weights: w, whole numbers from 1 up, one a table.
        sizes: sizes that each table may have, smallest first, distinct.
        budget: their wanted sum.

    Returns:
        Index of each table's size.

    Raises:
        ConfigError: no choice has this sum, or there are too many to look through.
    """
    unit = math.gcd(budget, *(size for each in sizes for size in each))
    total = budget // unit
    steps = len(weights) * max(map(len, sizes)) * (total + 1)
    bits = _BITS - 2 * total.bit_length() - len(weights).bit_length()
    if steps > _MOST_STEPS or bits < 1:
        raise ConfigError(
            f"{len(weights)} tables and a budget of {budget:,} values in steps of {unit}: too many ways to divide it; lower the rank or "
            "decomposition.rank_max"
        )
    # A whole number for 1 / w, so that costs are exact: it never grows with w.
    inverse = [(1 << bits) // _scaled(weight, max(weights), bits) for weight in weights]
    best: Ints = np.full(total + 1, _NEVER, dtype=np.int64)
    best[0] = 0
    chosen = []
    for each, factor in zip(sizes, inverse, strict=True):
        best, choice = _next(best, [size // unit for size in each], factor)
        chosen.append(choice)
    if best[total] >= _NEVER:
        raise ConfigError(
            f"no ranks between the smallest and the largest make {budget:,} values; raise decomposition.rank_max"
        )
    found, left = [], total
    for each, choice in zip(reversed(sizes), reversed(chosen), strict=True):
        index = int(choice[left])
        found.append(index)
        left -= each[index] // unit
    return found[::-1]


def _scaled(weight: int, largest: int, bits: int) -> int:
    """A weight with so many bits less that 1 / w in whole numbers tells weights apart."""
    excess = max(0, largest.bit_length() - min(_SCORE_BITS, bits))
    return max(1, weight >> excess)


def _next(best: Ints, sizes: Sequence[int], factor: int) -> tuple[Ints, Ints]:
    """Least cost of every sum with one table more, and the index of its size; the smallest of equal ones."""
    after: Ints = np.full(len(best), _NEVER, dtype=np.int64)
    choice = np.zeros(len(best), dtype=np.int64)
    for index, size in enumerate(sizes):
        if size >= len(best):
            break
        costs = best[: len(best) - size] + (size * size * factor)
        is_less = costs < after[size:]
        after[size:][is_less] = costs[is_less]
        choice[size:][is_less] = index
    return after, choice


def ranks_by(scores: Mapping[str, int], facts: Facts, rank: int) -> dict[str, int]:
    """Divide what tables of one rank would cost among weights, in proportion to a score beside their size; the sum stays exactly.

    Equal scores give everybody the one rank. A weight for which a table of that rank does not pay keeps it, and is then trained dense,
    as with `uniform`; so does one that no score can be of, where there is none.

    Args:
        scores: whole numbers from 0 up, of every weight but those.
        facts: shapes, and the ranks that are admitted: `least` to `most`, at most where a table still pays.
        rank: the configured one.

    Raises:
        ConfigError: see `spend`, a rank that is not admitted, or one table alone.
    """
    most = facts.most or 2 * rank
    if not 1 <= facts.least <= rank <= most:
        raise ConfigError(
            f"decomposition.rank is {rank}, rank_min {facts.least} and rank_max {most}: expected 1 <= rank_min <= rank <= rank_max"
        )
    ranks = dict.fromkeys(facts.shapes, rank)
    able = {name: _admitted(facts, name, facts.least, most) for name in sorted(facts.shapes)}
    able = {n: each for n, each in able.items() if rank in each and (n in scores or n not in facts.unscored)}
    if missing := [name for name in able if name not in scores]:
        raise ConfigError(
            f"decomposition.scores says nothing of {', '.join(missing[:5])}; it is of {', '.join(list(scores)[:5])}: name scores of this model"
        )
    if len(able) == 1:
        raise ConfigError(
            f"{next(iter(able))} alone can have a table: there is nothing to divide by scores; leave decomposition.allocator at 'uniform'"
        )
    if not able or not any(scores[name] for name in able):
        return ranks
    uniform = {name: facts.values(name, rank) for name in able}
    weights = [max(1, scores[name] * uniform[name]) for name in able]
    sizes = [[facts.values(name, r) for r in admitted] for name, admitted in able.items()]
    indices = spend(weights, sizes, sum(uniform.values()))
    return ranks | {name: admitted[i] for (name, admitted), i in zip(able.items(), indices, strict=True)}


def _admitted(facts: Facts, name: str, least: int, most: int) -> list[int]:
    """Ranks between the two at which sending a table costs less than sending the weight."""
    rows, columns = facts.shapes[name]
    return [r for r in range(least, min(most, rows, columns) + 1) if facts.values(name, r) < rows * columns]


def whole_scores(scores: Mapping[str, float], what: str) -> dict[str, int]:
    """Scores as whole numbers, up to 2^16, in proportion.

    Args:
        scores: from 0 up, finite; at least one name.
        what: allocator that asks, for the message.

    Raises:
        ConfigError: none, or such as are negative or not finite.
    """
    if not scores:
        raise ConfigError(
            f"decomposition.allocator: {what!r} divides by scores; name their file by decomposition.scores (`dictpfl audit layers` "
            "writes it)"
        )
    if not all(math.isfinite(s) and s >= 0 for s in scores.values()):
        raise ConfigError(f"decomposition.scores: expected finite numbers from 0 up, found {dict(scores)}")
    largest = max(scores.values())
    return {name: round(s / largest * (1 << _SCORE_BITS)) if largest else 0 for name, s in scores.items()}
