"""Digits against what is to be expected: Benford's law for first and second ones, evenness for last ones.

A test points to numbers worth a look. It never proves that anybody made them up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.digits import ORDERS, Histogram

Floats = NDArray[np.float64]
LEAST = 300
"""Fewest numbers of which a test is made."""
LEVEL = 0.01
"""Level of all tests of a histogram together."""
_STRIPPED = 0.02  # share of last digits 0 below which they were left out in writing
NIGRINI: Mapping[str, float] = {"close": 0.006, "acceptable": 0.012, "marginal": 0.015}
"""Bounds of the mean absolute deviation of first digits, by the word for what is within them (Nigrini 2012)."""
FIRST: Floats = np.log10(1 + 1 / np.arange(1, 10))
"""P(d) = log10(1 + 1/d) of the first digits 1 to 9."""
SECOND: Floats = np.array([np.log10(1 + 1 / (10 * np.arange(1, 10) + d)).sum() for d in range(10)])
"""P(d) = sum over k of log10(1 + 1/(10 k + d)) of the second digits 0 to 9."""
EVEN: Floats = np.full(10, 0.1)


@dataclass(frozen=True)
class Fit:
    """One test of fit.

    Attributes:
        what: `first`, `second` or `last`.
        law: word for what is expected.
        count: numbers whose digit it is.
        shares: of the digits, from 1 or from 0 on; empty of no numbers.
        expected: shares by the law.
        statistic, freedom, p: chi-square, its degrees of freedom, and its probability under the law; NaN where no test was made.
        deviation: mean absolute deviation of the shares.
        chance: deviation that is to be expected of so many numbers that follow the law, about.
        conformity: Nigrini's word for the deviation of first digits, `close`, `acceptable`, `marginal` or `none`; None of other digits, and where no test was
            made. It takes no account of how many numbers there are, and decides nothing.
        verdict: sentence for readers.
        flagged: True where the digits are not those of the law, at 1 % over all tests of the histogram.
    """

    what: str
    law: str
    count: int
    shares: list[float]
    expected: list[float]
    statistic: float
    freedom: int
    p: float
    deviation: float
    chance: float
    conformity: str | None
    verdict: str
    flagged: bool

    def to_json(self) -> dict[str, Any]:
        """Encode as JSON values; what was not tested is None."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}


def fits(found: Histogram) -> list[Fit]:
    """Hold first, second and last digits against their laws, by Holm's correction at 1 % over the tests that were made."""
    applies = bool(found.part("first").sum())
    narrow = f"Benford does not apply: no column spans {ORDERS} orders of magnitude"
    asked = [
        ("first", "Benford", FIRST, "" if applies else narrow),
        ("second", "Benford", SECOND, "" if applies else narrow),
        ("last", "even", EVEN, ""),
    ]
    asked[2] = _without_stripped_zeros(found, asked[2])
    raw = {
        what: _tested(found.part(what), law)
        for what, _, law, why in asked
        if not why and found.part(what).sum() >= LEAST
    }
    ordered = sorted(raw, key=lambda what: raw[what][1])
    flagged: set[str] = set()
    for rank, what in enumerate(ordered):
        if raw[what][1] > LEVEL / (len(ordered) - rank):
            break
        flagged.add(what)
    return [
        _fit(what, name, found, law, why, raw.get(what), is_flagged=what in flagged) for what, name, law, why in asked
    ]


def _without_stripped_zeros(found: Histogram, asked: tuple[str, str, Floats, str]) -> tuple[str, str, Floats, str]:
    """Expect no 0 at the end where programs have left it out of 1.50, which no hand does."""
    counts = found.part("last")
    if counts[0] >= _STRIPPED * counts.sum():
        return asked
    return asked[0], "even, zeros left out", np.concatenate([[0.0], np.full(9, 1 / 9)]), ""


def _tested(counts: NDArray[np.int64], law: Floats) -> tuple[float, float]:
    from scipy import stats

    there = law > 0
    counts, law = counts[there], law[there]
    result = stats.chisquare(counts, law / law.sum() * counts.sum())
    return float(result.statistic), float(result.pvalue)


def _fit(
    what: str, name: str, found: Histogram, law: Floats, why: str, raw: tuple[float, float] | None, *, is_flagged: bool
) -> Fit:
    counts = found.part(what)
    count = int(counts.sum())
    shares = (counts / count).tolist() if count else []
    deviation = float(np.abs(counts / count - law).mean()) if count else math.nan
    chance = float(np.sqrt(2 / math.pi * law * (1 - law) / count).mean()) if count else math.nan
    conformity = _conformity(deviation) if what == "first" and raw is not None else None
    statistic, p = raw or (math.nan, math.nan)
    if why:
        verdict = why
    elif raw is None:
        verdict = f"{count} digits: no test, it takes {LEAST}"
    elif is_flagged:
        verdict = f"points to {_fault(what, counts)}: {what} digits are not {'those of Benford' if name == 'Benford' else 'even'}"
    else:
        verdict = "nothing to be seen"
    if conformity is not None:
        verdict += _by_nigrini(conformity, deviation, chance)
    return Fit(
        what, name, count, shares, law.tolist(), statistic, int((law > 0).sum()) - 1, p, deviation, chance, conformity, verdict, is_flagged
    )  # fmt: skip


def _conformity(deviation: float) -> str:
    return next((word for word, bound in NIGRINI.items() if deviation <= bound), "none")


def _by_nigrini(conformity: str, deviation: float, chance: float) -> str:
    """Part of a sentence; where chance alone leaves the first bound behind, it says so."""
    bounds = list(NIGRINI.values())
    word = "no conformity" if conformity == "none" else f"{conformity} conformity"
    bound = f"above {bounds[-1]}" if conformity == "none" else f"up to {NIGRINI[conformity]}"
    few = f"; of so few numbers chance alone makes {chance:.4f}" if chance > bounds[0] else ""
    return f"; {word} by Nigrini's bounds (mean deviation {deviation:.4f}, {bound}{few})"


def _fault(what: str, counts: NDArray[np.int64]) -> str:
    most = int(counts.argmax()) + (what == "first")
    if what == "last":
        return (
            f"rounding or a preference for the digit {most}" if most in (0, 5) else f"a preference for the digit {most}"
        )
    return f"truncated, mixed or invented columns (most often {most})"
