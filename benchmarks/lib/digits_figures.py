"""Figures of `digits.py` from its cells, and the sentences that they allow: no sentence is typed in beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.compress.verdicts import BETTER, Interval
from dictpfl.deploy.numbers.fit import FIRST
from dictpfl.deploy.numbers.measures import correlation, effect, normalised, only_fluent, owners, shares
from dictpfl.deploy.numbers.reading import Places

SHOTS, TOLD = (0, 2, 5), 2
"""Numbers of examples in front of a question, and that of all other figures."""
SHARES = (0.0001, 0.001, 0.01)
MAIN = f"{SHARES[1]:g}"
"""The share of neurons of which all ten digits have random draws."""
DIGIT = 1
NONE, NORM = "nothing silenced", "longest output vectors"
RESAMPLES, SHUFFLES = 1000, 10_000
Floats = NDArray[np.float64]
Cell = Mapping[str, Any]


def silenced_name(digit: int) -> str:
    """Name the variant without a digit's most selective neurons."""
    return f"digit {digit}"


def random_name(draw: int, digit: int) -> str:
    """Name a draw of as many neurons of the same layers as a digit's."""
    return f"random {draw} for {digit}"


def stored(places: Places) -> dict[str, Any]:
    """Encode places as JSON values, a character a digit (`places_of` reads them)."""
    return {
        "question": places.question.tolist(), "place": places.place.tolist(), "truth": _word(places.truth),
        "fluent": _word(places.fluent), "chosen": {name: _word(digits) for name, digits in places.chosen.items()},
    }  # fmt: skip


def _word(values: Any) -> str:
    return "".join(str(int(value)) for value in values)


def places_of(one: Mapping[str, Any]) -> Places:
    """Read places as a cell holds them."""
    chosen = {name: _digits(word) for name, word in one["chosen"].items()}
    question, place = (np.array(one[name], dtype=np.int64) for name in ("question", "place"))
    fluent = _digits(one["fluent"]).astype(bool)
    return Places(question, place, _digits(one["truth"]), chosen, fluent, np.zeros((0, 0)))


def _digits(word: str) -> NDArray[np.int64]:
    return np.array([int(letter) for letter in word], dtype=np.int64)


class Silencing:
    """What one share of neurons did, at places where a digit is written; all kinds together, resampled by question.

    Args:
        every: places of each kind of questions, with the variant `NONE`.
        draws: of random neurons.
        seed: of resampling.

    The baseline is the pass in which nothing is silenced, in the same batch as the others: passes of other shapes round otherwise.
    """

    def __init__(self, every: Sequence[Places], draws: int, seed: int) -> None:
        self.whole, self.draws = list(every), draws
        self.every = [
            Places(p.question, p.place, p.truth, {**p.chosen, "plain": p.chosen[NONE]}, p.fluent, p.activations)
            for p in only_fluent(every)
        ]
        owner = owners(self.every)
        self.questions = int(owner.max()) + 1
        self._owner = owner
        even = np.full(self.questions, 1 / self.questions)
        drawn = np.random.default_rng(seed).multinomial(self.questions, even, size=RESAMPLES)
        self._weights = np.concatenate([np.ones((1, self.questions)), drawn])  # the first row: as they are
        self.plain = shares(self.every, seed, NONE)

    @cached_property
    def effects(self) -> dict[str, dict[str, Any]]:
        """What each variant did (see `dictpfl.deploy.numbers.measures.effect`)."""
        return {name: effect(self.every, name, self.plain) for name in self.every[0].chosen}

    @property
    def table(self) -> list[list[float]]:
        """Change of each digit's share (columns) without each digit's neurons (rows)."""
        return [self.effects[silenced_name(d)]["change"] for d in range(10)]

    @property
    def diagonal(self) -> float:
        """Mean change of the own digit."""
        return float(np.mean([self.table[d][d] for d in range(10)]))

    def random_diagonals(self) -> list[float]:
        """Mean change of the own digit of each draw: ten sets of random neurons, one beside each digit's."""
        return [
            float(np.mean([self.effects[random_name(n, d)]["change"][d] for d in range(10)])) for n in range(self.draws)
        ]

    def net(self, digits: Sequence[int] = range(10)) -> int:
        """Digits mended less broken, over the sets of some digits."""
        return sum(self._net(silenced_name(d)) for d in digits)

    def random_nets(self, digits: Sequence[int] = range(10)) -> list[int]:
        """Digits mended less broken of each draw."""
        return [sum(self._net(random_name(n, d)) for d in digits) for n in range(self.draws)]

    def _net(self, name: str) -> int:
        return int(self.effects[name]["mended"]) - int(self.effects[name]["broken"])

    def moved(self) -> int:
        """Places at which the empty set says other than the plain pass: none, unless passes of other sizes were compared (rounding)."""
        return sum(int((p.chosen[NONE] != p.chosen["plain"])[p.fluent].sum()) for p in self.whole)

    def interval(self, figure: str, arm: str, rivals: Sequence[str], digit: int = DIGIT) -> Interval:
        """Compare a variant with the mean of others, by resampling questions; above 0 is better.

        Args:
            figure: `own share` and `distance` (lower is better) or `accuracy`.
            arm: variant.
            rivals: variants.
            digit: whose share.
        """
        sign = 1.0 if figure == "accuracy" else -1.0
        rival = np.mean([self._resampled(figure, name, digit) for name in rivals], axis=0)
        values = 100 * sign * (self._resampled(figure, arm, digit) - rival) + 0.0  # no -0
        low, high = np.quantile(values[1:], [0.025, 0.975])
        return Interval(float(values[0]), float(low), float(high), self.questions)

    def _resampled(self, figure: str, name: str, digit: int) -> Floats:
        chosen = np.concatenate([p.chosen[name] for p in self.every])
        table = np.zeros((self.questions, 10))
        np.add.at(table, (self._owner, chosen), 1)
        counts = self._weights @ table
        found = counts / counts.sum(axis=1, keepdims=True)
        if figure == "own share":
            return np.asarray(found[:, digit])
        if figure == "distance":
            return np.asarray(np.maximum(found - 0.1, 0).sum(axis=1))
        right = np.zeros(self.questions)
        np.add.at(right, self._owner, chosen == np.concatenate([p.truth for p in self.every]))
        return np.asarray(self._weights @ right / counts.sum(axis=1))


def restricted(places: Places) -> tuple[int, int]:
    """Digits mended by restricting the choice to digits, nothing silenced, and places where the model would write something else.

    None can break: where it would write a digit, the restriction changes nothing.
    """
    other = ~places.fluent
    return int((places.chosen["plain"] == places.truth)[other].sum()), int(other.sum())


@dataclass(frozen=True)
class Facts:
    """What the three sentences of the null clauses stand on.

    Attributes:
        count: neurons silenced for a digit.
        diagonal, low: mean change of the own digit, and the 5th percentile of random draws; shares.
        net, high: digits mended less broken, all ten sets together, and the 95th percentile of random draws.
        before, after: distance to even shares without and with digit 1's neurons silenced; shares.
        nearer: how much nearer to even that is, in points, with its interval.
    """

    count: int
    diagonal: float
    low: float
    net: int
    high: float
    before: float
    after: float
    nearer: Interval

    @classmethod
    def of(cls, found: Silencing, count: int) -> Facts:
        """Take them from the share of neurons that has draws for every digit."""
        after = found.effects[silenced_name(DIGIT)]["distance"]
        return cls(
            count, found.diagonal, float(np.quantile(found.random_diagonals(), 0.05)), found.net(),
            float(np.quantile(found.random_nets(), 0.95)), found.plain["distance"], after,
            found.interval("distance", silenced_name(DIGIT), [NONE]),
        )  # fmt: skip

    @property
    def carries(self) -> bool:
        """True where "these neurons carry the preference" may be written."""
        return self.diagonal < min(0.0, self.low)

    @property
    def corrects(self) -> bool:
        """True where "suppressing them corrects answers" may be written."""
        return self.net > max(0.0, self.high)

    @property
    def debiases(self) -> bool:
        """True where "debiases" may be written."""
        return self.nearer.verdict == BETTER


def sentences(facts: Facts) -> list[str]:
    """Say what the figures allow, one sentence a clause."""
    carries = (
        "These neurons carry the preference" if facts.carries else "Not shown: that these neurons carry the preference"
    )
    corrects = (
        "Suppressing them corrects answers" if facts.corrects else "Not shown: that suppressing them corrects answers"
    )
    debiases = "Suppressing digit 1 debiases" if facts.debiases else "Suppressing digit 1 was not shown to debias"
    return [
        f"**{carries}.** Without the {facts.count} neurons most selective for a digit its share changes by {100 * facts.diagonal:+.2f} points, mean "
        f"of ten digits; the 5th percentile of random draws is {100 * facts.low:+.2f}.",
        f"**{corrects}.** Digits mended less broken, the ten sets together: {facts.net:+d}; the 95th percentile of random draws is "
        f"{facts.high:+.0f}.",
        f"**{debiases}.** Distance to even shares {100 * facts.before:.1f} before, {100 * facts.after:.1f} after; nearer by {facts.nearer} points: "
        f"{facts.nearer.verdict}.",
        "Whatever holds, silencing stays experimental and no option of `export` offers it. The audit is what is claimed.",
    ]


def correlations(
    profile: Sequence[float], corpus: Mapping[str, Sequence[int]], seed: int
) -> dict[str, dict[str, float | None]]:
    """Hold a profile by digit against Benford's law and a corpus: Pearson, Spearman, and the share of shuffled digits with as high a Spearman."""
    rivals = {
        "Benford, first digits": FIRST,
        "corpus, first digits": normalised(corpus["first"]),
        "corpus, all digits": normalised(corpus["all"]),
    }
    found = {}
    for name, law in rivals.items():
        own = np.array(profile)[10 - len(law) :]
        ranked = correlation(own, law, ranks=True)
        draw, beaten = np.random.default_rng(seed), None
        if ranked is not None:
            one, other = own.argsort().argsort(), np.asarray(law).argsort().argsort()
            shuffled = [draw.permutation(one) @ other for _ in range(SHUFFLES)]
            beaten = float(np.mean(np.array(shuffled) >= one @ other))
        found[name] = {"pearson": correlation(own, law), "spearman": ranked, "shuffled": beaten}
    return found
