"""Exact counts of what stays: pure integers, so that everybody who knows the scores keeps the same entries.

A weight is looked at as its matrix (n, m): n rows are outputs, m columns inputs. *Zeros* are the entries that go. Whatever is
compared is an integer, and ties go to the entry that comes first: by weight, row and column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.errors import ConfigError

Bools = NDArray[np.bool_]
MARGIN_BITS = 20
"""Binary places of a margin."""
_FAR = 1 << 30


def kept_count(total: int, sparsity: float) -> int:
    """Count the entries that stay: K = N - floor(p N), with p as it is written in decimals, not as binary rounds it.

    Args:
        total: N, entries of all covered weights.
        sparsity: p, 0 < p < 1.

    Raises:
        ConfigError: p out of range, or nothing would go or stay.
    """
    if not 0.0 < sparsity < 1.0:
        raise ConfigError(f"sparsity is {sparsity:g}; expected a share above 0 and below 1")
    zeros = math.floor(Fraction(repr(float(sparsity))) * total)
    if zeros == 0:
        raise ConfigError(f"a sparsity of {sparsity:g} zeroes none of {total} entries; raise it")
    return total - zeros


def shares(sizes: Sequence[int], count: int) -> tuple[int, ...]:
    """Divide a count in proportion to sizes: whole numbers that sum to it, largest remainders first, ties by index.

    Raises:
        ConfigError: more than all of it, or a negative count.
    """
    total = sum(sizes)
    if not 0 <= count <= total:
        raise ConfigError(f"{count} of {total} entries; expected between none and all of them")
    floors = [size * count // total for size in sizes] if total else [0 for _ in sizes]
    order = sorted(range(len(sizes)), key=lambda i: (-(sizes[i] * count - floors[i] * total), i))
    for i in order[: count - sum(floors)]:
        floors[i] += 1
    return tuple(floors)


def shares_of_each(sizes: Sequence[int], count: int) -> tuple[int, ...]:
    """Divide as `shares` does, but leave nobody without any.

    Raises:
        ConfigError: fewer than there are sizes.
    """
    _require_enough(len(sizes), count)
    parts = shares(sizes, count)
    if all(parts):
        return parts
    return tuple(1 + part for part in shares([size - 1 for size in sizes], count - len(sizes)))


def capped(parts: Mapping[str, int], most: Mapping[str, int]) -> dict[str, int]:
    """Cut parts that are too large, and give what is left over to the others, in proportion to their room.

    Args:
        parts: whole numbers.
        most: of each, the largest that it may be; in sum at least the parts'.
    """
    cut = {name: min(part, most[name]) for name, part in parts.items()}
    room = [most[name] - part for name, part in cut.items()]
    more = shares(room, sum(parts.values()) - sum(cut.values()))
    return {name: part + extra for (name, part), extra in zip(cut.items(), more, strict=True)}


def require_possible(total: int, zeros: int, weights: int, sparsity: float) -> None:
    """Refuse a sparsity that leaves some weight without an entry, or that zeros of the dense model have reached already.

    Args:
        total: N, entries of all covered weights.
        zeros: those that are zero already.
        weights: how many there are; each keeps one entry at least.
        sparsity: p.

    Raises:
        ConfigError: says which sparsities there are.
    """
    count = kept_count(total, sparsity)
    if count < weights:
        raise ConfigError(
            f"a sparsity of {sparsity:g} leaves {count} entries to {weights} weights, and each keeps one at least; expected at most "
            f"{_downwards((total - weights) / total)}, or fewer covered weights"
        )
    if zeros > total - count:
        raise ConfigError(
            f"{zeros} of {total} covered entries are zero already, a share of {zeros / total:.4g}, and a sparsity of {sparsity:g} would have "
            "fewer; expected more than what is there, or weights that are zero in part left uncovered"
        )


def _downwards(share: float) -> str:
    return f"{math.floor(share * 10**6) / 10**6:.6g}"


def largest(values: Sequence[NDArray[np.integer]], count: int) -> list[Bools]:
    """Mark the `count` largest entries of several arrays together; ties go to the first.

    Args:
        values: integers, any shapes.
        count: of entries to mark.

    Raises:
        ConfigError: more entries than there are, or a negative count.
    """
    total = sum(v.size for v in values)
    if not 0 <= count <= total:
        raise ConfigError(f"{count} of {total} entries are to stay; expected between none and all of them")
    if count == 0:
        return [np.zeros(v.shape, dtype=bool) for v in values]
    bound = _threshold(values, count)
    above = [v > bound for v in values]
    left = count - sum(int(np.count_nonzero(a)) for a in above)
    for v, marks in zip(values, above, strict=True):
        if not left:
            break
        equal = np.flatnonzero(v == bound)[:left]
        marks.reshape(-1)[equal] = True
        left -= len(equal)
    return above


def largest_of_each(values: Sequence[NDArray[np.integer]], count: int) -> list[Bools]:
    """Mark as `largest` does, but leave no array without a mark: the largest entry of each comes first.

    Raises:
        ConfigError: fewer marks than arrays.
    """
    _require_enough(len(values), count)
    marks = largest(values, count)
    if all(m.any() for m in marks):
        return marks
    firsts = [int(np.argmax(v)) for v in values]
    least = min(int(v.min()) for v in values)
    rest = [np.array(v, dtype=np.int64) for v in values]
    for v, first in zip(rest, firsts, strict=True):
        v.reshape(-1)[first] = least - 1  # counted already, and below all others
    marks = largest(rest, count - len(values))
    for m, first in zip(marks, firsts, strict=True):
        m.reshape(-1)[first] = True
    return marks


def largest_in_groups(values: NDArray[np.integer], count: int, size: int) -> Bools:
    """Mark the `count` largest of every `size` neighbours in a row (2 of 4, say); ties go to the first.

    Args:
        values: (n, m), m a multiple of `size`.
        count, size: 0 < count < size.

    Raises:
        ConfigError: rows that do not divide, or a count out of range.
    """
    n, m = values.shape
    if not 0 < count < size or m % size:
        raise ConfigError(
            f"{count} of every {size} entries in rows of {m}: expected fewer than {size}, and rows that divide"
        )
    groups = values.reshape(n, m // size, size)
    # Stable, and from the largest down: those that come first win ties.
    order = np.argsort(-groups, axis=2, kind="stable")
    marks = np.zeros(groups.shape, dtype=bool)
    np.put_along_axis(marks, order[:, :, :count], True, axis=2)
    return marks.reshape(n, m)


def ordered(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Turn scores into integers of the same order, equal where scores are equal: their bits.

    Args:
        scores: float64, finite, none below zero.

    Raises:
        ConfigError: a score that is negative or not finite.
    """
    if not (np.isfinite(scores).all() and (scores >= 0.0).all()):
        raise ConfigError(
            "scores are compared as integers: expected finite numbers from zero up; check weights and samples"
        )
    return (np.ascontiguousarray(scores, dtype=np.float64) + 0.0).view(np.int64)  # -0 becomes 0


def margins(ranks: NDArray[np.int32], thresholds: NDArray[np.float64]) -> NDArray[np.int32]:
    """Distance of each entry's score from its row's threshold, in units of 2^-20; the larger, the sooner it stays.

    a_ij = floor(2^20 r_ij / m) - round(2^20 t_i), where r_ij / m is the score (`dictpfl.client.model.sparse.scores.ranks`). An entry of
    rank 0, which has no importance, lies below all others, whatever its row's threshold is.

    Args:
        ranks: r, (n, m), from 0 to m.
        thresholds: t, (n,), float64, finite; those beyond 1024 count as 1024.
    """
    place = np.rint(np.ldexp(thresholds, MARGIN_BITS))
    place = np.clip(place, -_FAR, _FAR).astype(np.int64)
    scores = (ranks.astype(np.int64) << MARGIN_BITS) // ranks.shape[1]
    found: NDArray[np.int32] = (scores - place[:, None]).astype(np.int32)
    found[ranks == 0] = np.iinfo(np.int32).min
    return found


def _require_enough(weights: int, count: int) -> None:
    if count < weights:
        raise ConfigError(
            f"{count} entries are to stay in {weights} weights, and none may lose all of its; lower the sparsity, or cover "
            "fewer weights"
        )


def _threshold(values: Sequence[NDArray[np.integer]], count: int) -> int:
    """The largest integer that at least `count` entries reach; found by halving, so that nothing is copied or sorted."""
    sizes = [v for v in values if v.size]
    low, high = min(int(v.min()) for v in sizes), max(int(v.max()) for v in sizes)
    while low < high:
        middle = low + (high - low + 1) // 2
        if sum(int(np.count_nonzero(v >= middle)) for v in sizes) >= count:
            low = middle
        else:
            high = middle - 1
    return low
