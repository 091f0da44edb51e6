"""Curves of counts: how many stay at each step of a logistic curve, in all exactly a budget (AutoPrune; arXiv 2509.23931).

Counts are shared decisions, so they must be the same integers on every machine, and `math.exp` is not: its last bit differs between
platforms. `decimal` rounds exp correctly, so that a curve follows from the configuration alone and nothing of it need be stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

from dictpfl.common.errors import ConfigError

_CONTEXT = Context(prec=40)
_HALVINGS, _MOST_FACTOR = 100, 20
_DEPTH = 32
"""Layers of the models that slopes and centres are stated for; other depths have the same curve over their own."""
_SHARE = Decimal("0.75")
_MERGED = Fraction(3, 10)
_CLUSTER = 10


@dataclass(frozen=True, slots=True)
class Course:
    """Course of a count over the layers of a model.

    Attributes:
        left: tokens that leave each layer, merged ones included; the first entry: those that leave layer 0, whatever entered it.
        kept: those of them that are kept as they are, behind which the merged ones stand.
    """

    left: tuple[int, ...]
    kept: tuple[int, ...]

    @property
    def total(self) -> int:
        """Sum over the layers, which the budget is about."""
        return sum(self.left)


def merging(leaving: int) -> tuple[int, int]:
    """Say how many of so many tokens that leave are merged, and into how many: floor(0.3 m) + 1, and a tenth of these, plus 1."""
    if leaving <= 0:
        return 0, 0
    merged = min(int(leaving * _MERGED) + 1, leaving)
    return merged, min(merged // _CLUSTER + 1, merged)


@lru_cache(maxsize=256)
def logistic(
    first: int, layers: int, total: int, slope: float, *, centre: float = 14.9, most: int = 0, merge: bool = True
) -> Course:
    """Compute the course whose sum meets a total: g_l = 0.75 / (1 + exp(k (l - x0 - k))), times one factor for all layers.

    Args:
        first: tokens that leave layer 0, v_1.
        layers: layers of the model, L. `slope` and `centre` are stated for 32 and are stretched to L.
        total: sum to meet; missed by less than L where counts are coarse, and where a cap binds.
        slope: k; 0: flat.
        centre: x0.
        most: cap of the kept tokens of a layer; 0: `first`.
        merge: what leaves is merged into few, which stay.
    """
    with localcontext(_CONTEXT):
        k, stretch = Decimal(repr(slope)), Decimal(_DEPTH) / layers
        shares = [
            _SHARE / (1 + (k * (number * stretch - Decimal(repr(centre)) - k)).exp()) for number in range(1, layers)
        ]
        return _met(shares, first, total, most or first, merge=merge)


@lru_cache(maxsize=256)
def stepped(shares: tuple[float, ...], first: int, total: int, *, merge: bool = True) -> Course:
    """Compute the course of given shares, one for each layer behind layer 0, scaled to a total as `logistic` is."""
    with localcontext(_CONTEXT):
        return _met([Decimal(repr(share)) for share in shares], first, total, first, merge=merge)


def _met(shares: Sequence[Decimal], first: int, total: int, most: int, *, merge: bool) -> Course:
    low, high = Decimal(0), Decimal(_MOST_FACTOR)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _course(shares, middle, first, most, merge=merge).total < total:
            low = middle
        else:
            high = middle
    return _course(shares, high, first, most, merge=merge)


def _course(shares: Sequence[Decimal], factor: Decimal, first: int, most: int, *, merge: bool) -> Course:
    left, kept = [first], [first]
    for share in shares:
        wanted = int(((first - 1) * min(Decimal(1), factor * share)).to_integral_value(ROUND_CEILING))
        stay = max(1, min(wanted, most, left[-1]))
        clusters = merging(left[-1] - stay)[1] if merge else 0
        left.append(stay + clusters)
        kept.append(stay)
    return Course(tuple(left), tuple(kept))


@lru_cache(maxsize=64)
def budgeted(rounds: int, total: int, least: int, most: int, *, centre: float, slope: float) -> tuple[int, ...]:
    """Divide a total among rounds along a falling logistic curve, exactly: n_t = 1 / (1 + exp(k (t - t0))), scaled.

    Shares are rounded by largest remainder, ties to the earlier round; a round that meets its cap gives the rest to the others.

    Args:
        rounds: number of rounds, T.
        total: sum of all counts.
        least: least count of a round.
        most: largest count of a round.
        centre: t0 as a share of the rounds.
        slope: k times T, so that the curve's form does not depend on how many rounds there are; below 0 it rises.

    Raises:
        ConfigError: a total that no such counts have.
    """
    if not rounds * least <= total <= rounds * most:
        raise ConfigError(
            f"a budget of {total} over {rounds} rounds: expected from {rounds * least} to {rounds * most}, since a round sends "
            f"{least} to {most} of them"
            + (", for nothing can be pruned (pruning.enabled, kinds)" if least == most else "")
        )
    with localcontext(_CONTEXT):
        k, t0 = Decimal(repr(slope)) / rounds, Decimal(repr(centre)) * rounds
        shares = [1 / (1 + (k * (Decimal(number) + Decimal("0.5") - t0)).exp()) for number in range(rounds)]
        return _divided([Fraction(share) for share in shares], total, least, most)


def _divided(shares: Sequence[Fraction], total: int, least: int, most: int) -> tuple[int, ...]:
    """Scale shares to a total between two caps: those that a cap binds are fixed, the rest is scaled anew."""
    fixed: dict[int, int] = {}
    wanted: dict[int, Fraction] = {}
    while True:
        free = [number for number in range(len(shares)) if number not in fixed]
        rest, weight = total - sum(fixed.values()), sum((shares[n] for n in free), Fraction(0))
        if not free:
            break
        wanted = {n: shares[n] * rest / weight for n in free}
        over = {n: most for n in free if wanted[n] > most}
        under = {n: least for n in free if wanted[n] < least}
        if not over and not under:
            break
        # One kind at a time, that with the larger excess: fixing both at once could leave no room for the rest.
        excess = sum((wanted[n] - most for n in over), Fraction(0)) - sum(
            (least - wanted[n] for n in under), Fraction(0)
        )
        fixed |= over if excess >= 0 and over else under or over
    counts = {n: int(wanted[n]) for n in free}
    spare = rest - sum(counts.values())
    for number in sorted(free, key=lambda n: (counts[n] - wanted[n], n))[:spare]:
        counts[number] += 1
    merged = fixed | counts
    return tuple(merged[number] for number in range(len(shares)))
