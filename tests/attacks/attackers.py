"""Attackers with a coordinator's means: they hold uploads, send sums, and read codes. No key, no seed, no record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from math import ceil, erf, sqrt

import numpy as np

from tests.attacks.protocol3 import LEDGER, PAYLOAD_BITS, SCALE_BITS, TOLERANCE
from tests.attacks.ring import DEGREE, DEVIATION, PRIME, WIDEST, Ints, centred, divided, drawn

CROSSED = frozenset({"noise", "guard"})
"""Codes of a value that is too far from an integer, and of a guard that is not zero."""
BEYOND = "opening"
"""Code of a value beyond the payload."""
UNKNOWN = 9
"""Stands for a coefficient of the key that the attacker learned nothing about."""
_LARGEST_SUM = 2**18
"""More than any sum of a ledger's fields that the attacks meet."""

Ask = Callable[[int, int, int], str]
"""`ask(shift, at, amount)`: sends a sum with the constant `shift` added to its second polynomial and `amount` to
coefficient `at` of its first; returns the code of the answer. The sum is made such that it is refused in any case."""


@dataclass
class Interrogation:
    """Messages to one institution, counted.

    Attributes:
        ask: way to the institution.
        most: most messages that the attacker sends.
        codes: answers by code.
    """

    ask: Ask
    most: int = 20_000
    codes: dict[str, int] = field(default_factory=dict)

    def __call__(self, shift: int, at: int, amount: int) -> str:
        if self.messages >= self.most:
            raise Exhausted
        code = self.ask(shift, at, amount)
        self.codes[code] = self.codes.get(code, 0) + 1
        return code

    @property
    def messages(self) -> int:
        return sum(self.codes.values())

    @property
    def refused(self) -> int:
        """Messages that were answered with a code, which is how an institution refuses."""
        return sum(count for code, count in self.codes.items() if code)


class Exhausted(Exception):  # noqa: N818 -- no error: the attacker stops here
    """The attacker has sent as many messages as it wanted to."""


def key_by_shift(ask: Interrogation) -> Ints:
    """F1, sums with both polynomials: c1 + t moves every noise by t s_j, and c0 + d crosses the tolerance where both agree.

    One upload's noise is 21 at most, so t = d = tolerance - 21 is decided every time: t + d - 21 is beyond the tolerance
    of 64, and neither t + 21 nor d + 21 is. Returns what was learned of the key, `UNKNOWN` where nothing was.
    """
    step = TOLERANCE - WIDEST
    learned = np.full(DEGREE, UNKNOWN)
    try:
        tells = _tells(ask)
        for at in _rounds(DEGREE, tells=tells):
            plus = ask(step, at, step) in CROSSED
            minus = not plus and ask(step, at, -step) in CROSSED
            if tells:
                learned[at] = int(plus) - int(minus)
    except Exhausted:
        pass
    return learned


def _tells(ask: Interrogation) -> bool:
    """Whether answers tell a sum that is crossed from one that is not."""
    return [ask(0, 0, amount) in CROSSED for amount in (0, 2 * TOLERANCE - 1)] == [False, True]


def _rounds(count: int, *, tells: bool) -> Iterator[int]:
    """Coefficients in turn; again and again where answers told nothing, until the attacker is exhausted."""
    yield from range(count)
    while not tells:
        yield from range(count)


def noise_of(ask: Interrogation, uploads: int) -> Ints:
    """F1, seeded sums: the noise of every coefficient, by how much has to be added until the tolerance is crossed.

    Returns integers, `LEDGER` first ones with the ledger's integers in them; nothing where answers tell nothing.
    """
    try:
        tells = _tells(ask)
        noise = np.zeros(DEGREE, np.int64)
        for at in _rounds(DEGREE, tells=tells):
            low, high = -WIDEST * uploads, WIDEST * uploads
            while low < high:
                middle = _split(low, high, uploads)
                # Above `middle` it is, if what is missing from there to the tolerance is enough to cross it.
                low, high = (middle + 1, high) if ask(0, at, TOLERANCE - middle) in CROSSED else (low, middle)
            noise[at] = low
        for at in range(LEDGER):  # which integer it is: by how much has to be added until it leaves the payload
            low, high = 0, _LARGEST_SUM
            while low < high:
                middle = (low + high) // 2
                beyond = (2 ** (PAYLOAD_BITS - 1) - middle) << SCALE_BITS
                low, high = (middle + 1, high) if ask(0, at, beyond) == BEYOND else (low, middle)
            noise[at] += low << SCALE_BITS
    except Exhausted:
        return np.zeros(0, np.int64)
    return noise


@cache
def _split(low: int, high: int, uploads: int) -> int:
    """Where to halve what is left of the noise's distribution: near to the fewest messages on average."""

    def below(value: int) -> float:
        return 0.5 * (1 + erf((value + 0.5) / (DEVIATION * sqrt(2 * uploads))))

    target = (below(low - 1) + below(high)) / 2
    inside = [value for value in range(low, high) if below(value) >= target]
    return inside[0] if inside else ceil((low + high) / 2) - 1


def key_by_noise(first: Ints, seeds: list[bytes], noise: Ints) -> Ints:
    """The key from c0 + c1 s = noise, which is known to the last bit: s = (noise - c0) / c1."""
    if not noise.size:
        return np.full(DEGREE, UNKNOWN)
    second = sum((drawn(seed) for seed in seeds), np.zeros(DEGREE, np.int64)) % PRIME
    return divided((noise - centred(first)) % PRIME, second)
