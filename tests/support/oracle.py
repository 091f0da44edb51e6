"""The slow, obvious version of a round: plain Python integers, Fractions and loops, one coordinate at a time.

Written from arXiv 2510.21086, sections 4.1 and 4.2, and docs/explanation/{paper,design}.md (a round, as algebra); it imports
nothing of what it judges. Floats appear only where the shared state is a float by agreement (values, ranges),
and there in one operation at a time, as IEEE 754 defines it.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from fractions import Fraction

STATISTIC_BITS = 12
STATISTIC_RANGE = 4.0
LARGEST_CODE = 4095
CLEAR_BITS = 32


# -- randomness ------------------------------------------------------------------------------------------


def stream(length: int, seed: bytes, *context: bytes | str | int) -> bytes:
    """SHAKE-256 over length-prefixed parts."""
    text = b"dictpfl-v1"
    for part in (seed, *context):
        data = part if isinstance(part, bytes) else str(part).encode()
        text += len(data).to_bytes(8, "little") + data
    return hashlib.shake_256(text).digest(length)


# -- grid ------------------------------------------------------------------------------------------------


def step_exponent(reach: float, largest: int) -> int:
    """Smallest E >= -200 with largest * 2^E >= reach, by search over exact fractions."""
    e = -200
    while largest * Fraction(2) ** e < Fraction(reach):
        e += 1
    return e


def quantised(value: float, step: Fraction, largest: int) -> tuple[int, Fraction]:
    """round-half-even(v / step) clipped, and exactly what it leaves behind."""
    q = max(-largest, min(largest, round(Fraction(value) / step)))
    return q, Fraction(value) - q * step


# -- packing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlainDigits:
    """R values a digit of a sum, so many digits a component, largest magnitude of one participant."""

    radix: int
    per_component: int
    largest: int


def digits(per_component: int, capacity: int, payload: int) -> PlainDigits:
    """So many digits, each of the most values that a component of `payload` bits has room for; by bisection."""
    low, high = 0, 2**payload
    while high - low > 1:
        middle = (low + high) // 2
        fits = (2 * capacity * middle + 1) ** per_component <= 2**payload - 1
        low, high = (middle, high) if fits else (low, middle)
    return PlainDigits(2 * capacity * low + 1, per_component, low)


def holding(largest: int, capacity: int, payload: int) -> PlainDigits | None:
    """As many digits as fit while each holds sums of K values up to `largest`; None: not one."""
    count = 0
    while (2 * capacity * largest + 1) ** (count + 1) <= 2**payload - 1:
        count += 1
    return digits(count, capacity, payload) if count else None


def fitted(value_bits: int, capacity: int, payload: int) -> PlainDigits | None:
    """As many digits as fit while each holds K values of `value_bits` bits; None: not one."""
    return holding(2 ** (value_bits - 1) - 1, capacity, payload)


def packed(values: list[int], d: PlainDigits) -> list[int]:
    """Value i is digit i // n of component i mod n."""
    n = -(-len(values) // d.per_component)
    out = [0] * n
    for i, value in enumerate(values):
        out[i % n] += value * d.radix ** (i // n)
    return out


def unpacked(components: list[int], count: int, d: PlainDigits) -> list[int]:
    """Balanced digits from the lowest up, with carry."""
    n, half = len(components), d.radix // 2
    out = [0] * (n * d.per_component)
    for c, value in enumerate(components):
        rest = value
        for place in range(d.per_component):
            digit = rest
            if place < d.per_component - 1:
                digit = (rest + half) % d.radix - half
            out[place * n + c] = digit
            rest = (rest - digit) // d.radix
    return out[:count]


# -- masks -----------------------------------------------------------------------------------------------


def least(magnitudes: list[Fraction], s: float) -> list[bool]:
    """The floor(s n) smallest, ties by index."""
    count = math.floor(Fraction(str(s)) * len(magnitudes))
    order = sorted(range(len(magnitudes)), key=lambda i: (magnitudes[i], i))
    chosen = set(order[:count])
    return [i in chosen for i in range(len(magnitudes))]


def threshold(beta: float, e: int) -> int:
    """floor(beta^e 2^32); beyond the smallest positive one, and beyond e = 255, that one."""
    ratio = Fraction(str(beta))
    while e > 255 or math.floor(ratio**e * 2**32) == 0:
        e -= 1
    return math.floor(ratio**e * 2**32)


def top_exponent(beta: float) -> int:
    """The largest e whose probability is positive on 32 bits, at most 255."""
    e = 0
    while e < 255 and math.floor(Fraction(str(beta)) ** (e + 1) * 2**32) > 0:
        e += 1
    return e


# -- rules: exact numbers, rounded once after each operation, as IEEE 754 defines it ----------------------


def plus(a: float, b: float) -> float:
    return float(Fraction(a) + Fraction(b))


def times(a: float, b: float) -> float:
    return float(Fraction(a) * Fraction(b))


def root(a: float) -> float:
    """Of a number of 53 bits no root is so near the middle of two such numbers that 60 digits could not tell."""
    with localcontext() as context:
        context.prec = 60
        return float(Decimal(a).sqrt())


def by_rule(a: Agreed, m: float, v: float, d: float) -> tuple[float, float, float]:
    """Change of one value, m and v after it (Reddi et al. 2021, algorithm 2; momentum as in Hsu et al. 2019)."""
    if a.rule == "average":
        return times(a.rate, d), m, v
    if a.rule == "momentum":
        m = plus(times(a.beta1, m), d)
        return times(a.rate, m), m, v
    m = plus(times(a.beta1, m), times(plus(1.0, -a.beta1), d))
    square = times(d, d)
    share = times(plus(1.0, -a.beta2), square)
    if a.rule == "adagrad":
        v = plus(v, square)
    elif a.rule == "adam":
        v = plus(times(a.beta2, v), share)
    else:
        sign = (v > square) - (v < square)
        v = plus(v, -sign * share)
    return float(Fraction(times(a.rate, m)) / Fraction(plus(root(v), a.tau_of_rule))), m, v


# -- a federation ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreed:
    """What the oracle is told: tensors as (kind, size), and plain settings."""

    tensors: list[tuple[str, int]]
    enabled: bool
    s: float
    tau: int
    beta: float
    pruned: str
    decay: float
    scope: str
    kinds: tuple[str, ...]
    value_bits: int
    headroom: float
    first_range: float
    seed: bytes
    federation: bytes
    capacity: int
    payload: int
    cap: int
    sealed_share: float
    sensitivity: str
    refresh_every: int
    refresh_when: str
    refresh_stall: float
    refresh_history: str
    refresh_ranks: tuple[int, ...]
    rule: str = "average"
    rate: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau_of_rule: float = 1e-3
    threshold: str = "sent"
    quantile: str = "smallest"
    window: str = "restart"
    reactivation: bool = True
    first_bits: int = 10


@dataclass
class Sent:
    """What one institution hands over, unpacked, and what it keeps."""

    q: dict[int, int]
    codes: list[int]
    residual: list[float]


@dataclass
class Federation:
    """Shared state of the oracle."""

    a: Agreed
    x: list[float]
    round: int = 0
    updates: int = 0
    idle: list[int] = field(default_factory=list)
    e: list[int] = field(default_factory=list)
    ranges: list[float] = field(default_factory=list)
    clear: list[bool] | None = None
    rescored: int = 0
    records: list[dict[int, list[float]]] = field(default_factory=list)
    """By refresh, T of each table that was chosen, by its number among all tensors."""

    def __post_init__(self) -> None:
        self.tables = [t for t, (kind, _) in enumerate(self.a.tensors) if kind == "table"]
        self.largest, self.age = dict.fromkeys(self.tables, 0.0), dict.fromkeys(self.tables, 0)
        self.idle, self.e = [0] * self.size, [0] * self.size
        self.m, self.v = [0.0] * self.size, [0.0] * self.size
        first = self.a.first_range
        self.ranges = [max(first, STATISTIC_RANGE) if kind == "statistic" else first for kind, _ in self.a.tensors]
        self.tensor = [t for t, (_, n) in enumerate(self.a.tensors) for _ in range(n)]
        self.kind = [self.a.tensors[t][0] for t in self.tensor]
        if self.a.sealed_share == 0.0:
            self.clear = [True] * self.size
        elif self.a.sealed_share < 1.0 and self.a.sensitivity == "magnitude":
            self.clear = self._least_important([abs(Fraction(v)) for v in self.x])

    @property
    def size(self) -> int:
        return len(self.x)

    def _least_important(self, scores: list[Fraction]) -> list[bool]:
        low = least(scores, float(1 - Fraction(str(self.a.sealed_share))))
        return [flag and kind != "statistic" for flag, kind in zip(low, self.kind, strict=True)]

    def prunable(self, i: int) -> bool:
        return self.a.enabled and self.kind[i] in self.a.kinds

    def begin(self, kind: str) -> None:
        """Mask, digits and steps of the round."""
        a = self.a
        self.kind_of_round = kind
        self.mask = [kind != "measure"] * self.size
        if kind == "update":
            pruned = [i for i in range(self.size) if self.prunable(i) and self.idle[i] >= a.tau]
            raw = stream(4 * len(pruned), a.seed, "reactivation", a.federation, self.round)
            for n, i in enumerate(pruned):
                draw = int.from_bytes(raw[4 * n : 4 * n + 4], "little")
                self.mask[i] = a.reactivation and draw < threshold(a.beta, self.e[i])
            for t in self.tables if a.refresh_ranks else []:
                times = sum(t in record for record in self.records)
                rank = a.refresh_ranks[min(times, len(a.refresh_ranks) - 1)]
                for row, i in enumerate(self._of(t)):
                    self.mask[i] = self.mask[i] and row < rank
        ranges = self.ranges
        if kind == "score":
            self.digits, ranges = digits(1, a.capacity, a.payload), [max(a.first_range, 4.0)] * len(a.tensors)
        elif self.updates == 0:
            self.digits = fitted(max(a.first_bits, a.value_bits), a.capacity, a.payload)
        else:
            self.digits = fitted(a.value_bits, a.capacity, a.payload)
        bits = min(24, CLEAR_BITS - a.capacity.bit_length() - 1)
        self.clear_digits = fitted(bits, a.capacity, CLEAR_BITS)
        self.in_clear = [
            kind == "update" and self.clear is not None and self.clear[i] and self.mask[i] for i in range(self.size)
        ]
        self.wide_digits = fitted(max(STATISTIC_BITS, a.value_bits), a.capacity, a.payload)
        self.wide_steps = [Fraction(2) ** step_exponent(r, self.wide_digits.largest) for r in ranges]
        self.steps = [Fraction(2) ** step_exponent(r, self.digits.largest) for r in ranges]
        self.unit = Fraction(2) ** (self.digits.largest.bit_length() - 11)
        self.clear_steps = [Fraction(2) ** step_exponent(r, self.clear_digits.largest) for r in ranges]

    def step(self, i: int) -> Fraction:
        if self.in_clear[i]:
            return self.clear_steps[self.tensor[i]]
        return (self.wide_steps if self.is_wide(i) else self.steps)[self.tensor[i]]

    def is_wide(self, i: int) -> bool:
        """Statistics take more bits in every update."""
        return self.kind[i] == "statistic" and self.kind_of_round == "update"

    def seal(self, u: list[float]) -> Sent:
        """Quantise one institution's weighted update."""
        a = self.a
        q: dict[int, int] = {}
        codes = [0] * len(a.tensors)
        residual = [0.0] * self.size
        bound = holding(LARGEST_CODE, a.capacity, a.payload).largest
        for i in range(self.size):
            if not self.mask[i]:
                residual[i] = 0.0 if a.pruned == "discard" or self.kind[i] == "statistic" else u[i] * a.decay
                continue
            sealed = self.wide_digits if self.is_wide(i) else self.digits
            largest = (self.clear_digits if self.in_clear[i] else sealed).largest
            q[i], rest = quantised(u[i], self.step(i), largest)
            residual[i] = 0.0 if self.kind[i] == "statistic" else float(rest)
            code = math.ceil(abs(Fraction(u[i])) / (self.steps[self.tensor[i]] * self.unit))
            codes[self.tensor[i]] = min(bound, max(codes[self.tensor[i]], code))
        return Sent(q, codes, residual)

    def finish(self, sent: list[Sent], samples: int) -> None:
        """Add up, apply, and move masks and ranges on."""
        a = self.a
        total = {i: self.step(i) * sum(one.q[i] for one in sent) for i in range(self.size) if self.mask[i]}
        self.round += 1
        if self.kind_of_round == "measure":
            return
        if self.kind_of_round == "score":
            self.clear = self._least_important([abs(total[i]) for i in range(self.size)])
            self.rescored = self.updates
            return
        self._advance(total)
        before = self.x
        self.x = list(self.x)
        for i, summed in total.items():
            d = float(summed) * (a.cap / samples)
            if self.kind[i] != "statistic":
                d, self.m[i], self.v[i] = by_rule(a, self.m[i], self.v[i], d)
            self.x[i] += d
        for t in range(len(a.tensors)):
            codes = sum(one.codes[t] for one in sent)
            if codes > 0:
                headroom = max(a.headroom, 2.0) if a.tensors[t][0] == "statistic" else a.headroom
                self.ranges[t] = float(codes) * (float(self.steps[t] * self.unit) * headroom) / len(sent)
        self.updates += 1
        due = self._due([v - w for v, w in zip(self.x, before, strict=True)])
        if due:
            self.records.append({t: [self.x[i] for i in self._of(t)] for t in due})
        for t in due:
            for i in self._of(t):
                self.x[i], self.m[i], self.v[i] = 0.0, 0.0, 0.0
                if a.refresh_history == "forget":
                    self.idle[i], self.e[i] = 0, 0

    def _of(self, t: int) -> list[int]:
        return [i for i in range(self.size) if self.tensor[i] == t]

    def _due(self, update: list[float]) -> list[int]:
        """Tables, each a column of numbers, that are refreshed after this round."""
        a = self.a
        if not a.refresh_every:
            return []
        if a.refresh_when == "fixed":
            return self.tables if self.updates % a.refresh_every == 0 else []
        sent = {t: [abs(update[i]) for i in self._of(t) if self.mask[i]] for t in self.tables}
        sums = {t: math.fsum(moved) for t, moved in sent.items()}
        counts = {t: len(moved) for t, moved in sent.items()}
        if a.refresh_when == "stall":
            sums, counts = dict.fromkeys(sums, math.fsum(sums.values())), dict.fromkeys(counts, sum(counts.values()))
        due = []
        for t in self.tables:
            mean = sums[t] / counts[t] if counts[t] else 0.0
            self.largest[t], self.age[t] = max(self.largest[t], mean), self.age[t] + 1
            if counts[t] and self.age[t] >= a.refresh_every and mean < a.refresh_stall * self.largest[t]:
                self.largest[t], self.age[t] = 0.0, 0
                due.append(t)
        return due

    def _advance(self, total: dict[int, Fraction]) -> None:
        judged = [i for i in total if self.prunable(i)]
        if not judged:
            return
        counted = judged if self.a.threshold == "sent" else [i for i in range(self.size) if self.prunable(i)]
        groups = (
            [counted]
            if self.a.scope == "global"
            else [[i for i in counted if self.tensor[i] == t] for t in range(len(self.a.tensors))]
        )
        share = self.a.s if self.a.quantile == "smallest" else float(1 - Fraction(str(self.a.s)))
        for group in groups:
            low = least([abs(total.get(i, Fraction(0))) for i in group], share)
            for i, below in zip(group, low, strict=True):
                if i in total:
                    self._judge(i, below)

    def _judge(self, i: int, below: bool) -> None:
        """TIP for an active coordinate, HRC for a pruned one that was sent."""
        if self.a.window == "literal":
            if below:
                self.idle[i] = min(self.idle[i] + 1, self.a.tau)
                if self.idle[i] == self.a.tau:
                    self.e[i] = min(self.e[i] + 1, top_exponent(self.a.beta))
            else:
                self.idle[i], self.e[i] = 0, max(self.e[i] - 1, 0)
            return
        if self.idle[i] < self.a.tau:
            self.idle[i] = self.idle[i] + 1 if below else 0
            self.e[i] = 1 if self.idle[i] == self.a.tau else 0
        elif below:
            self.e[i] = min(self.e[i] + 1, top_exponent(self.a.beta))
        else:
            self.e[i] = max(self.e[i] - 1, 0)
            if self.e[i] == 0:
                self.idle[i] = 0

    def owed(self, residual: list[float], refreshes_before: int) -> list[float]:
        """A residual after this round's refreshes, if there were any: nothing of their tables."""
        gone = {t for record in self.records[refreshes_before:] for t in record}
        return [0.0 if t in gone else v for v, t in zip(residual, self.tensor, strict=True)]
