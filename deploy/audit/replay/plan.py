"""Plan of a round: which values travel, in which digits and steps (section 11)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.audit.formats.digits import Digits
from dictpfl.deploy.audit.replay.agreement import Agreement, Bools, Floats
from dictpfl.deploy.audit.replay.budget import within
from dictpfl.deploy.audit.replay.ledger import code_digits, ledger_size
from dictpfl.deploy.audit.replay.noise import noise_of
from dictpfl.deploy.audit.replay.order import due
from dictpfl.deploy.audit.replay.pruning import sent
from dictpfl.deploy.audit.replay.refresh import in_use
from dictpfl.deploy.audit.replay.state import State
from dictpfl.deploy.audit.replay.tallies import Tally

_LEAST_EXPONENT, _CODE_BITS = -200, 11
_CLEAR_PAYLOAD, _CLEAR_VALUE = 32, 24
_FIRST_VALUE, _STATISTIC_VALUE, _STEP_BITS = 10, 12, 5
_LEAST_SCORE_RANGE = 4.0


@dataclass(frozen=True)
class Section:
    """Values that travel together: their places, the step of each, and their digits."""

    index: Ints
    steps: Floats
    digits: Digits

    @property
    def components(self) -> int:
        """Number of components that they take."""
        return self.digits.components(self.index.size)


@dataclass(frozen=True)
class Plan:
    """Plan of a round.

    Attributes:
        kind: kind of the round.
        mask: mask of the values that travel, bool, shape (size,).
        wide: encrypted section of statistics, whose few values take more bits.
        sealed: encrypted section of all else.
        clear: section that crosses in clear.
        units: unit of each tensor's range code, float64.
        head: components of the ledger.
        codes: digits of range codes.
        tally: tally that the round carries; None: it carries shared values.
    """

    kind: str
    mask: Bools
    wide: Section
    sealed: Section
    clear: Section
    units: Floats
    head: int
    codes: Digits
    tally: Tally | None = None

    @property
    def components(self) -> int:
        """Number of components without padding."""
        return self.head + self.wide.components + self.sealed.components

    @property
    def encrypted(self) -> list[tuple[slice, Section]]:
        """Encrypted sections, each with its place among the components."""
        between = self.head + self.wide.components
        return [(slice(self.head, between), self.wide), (slice(between, self.components), self.sealed)]


def plan(agreement: Agreement, state: State, kind: str) -> Plan:
    """Make the plan of the round that follows a state.

    Raises:
        ConfigError: pruning by a schedule that this implementation does not know.
    """
    if agreement.config["pruning"]["schedule"] not in ("constant", "logistic"):
        raise ConfigError(
            "a run whose pruning follows a schedule of a plug-in: only `constant` and `logistic` can be replayed here"
        )
    if kind == "score" and (tally := due(agreement, state)) is not None:
        return _of_tally(agreement, tally)
    mask = _travelling(agreement, state, kind)
    clear = np.zeros_like(mask)
    if kind == "update" and state.clear is not None:
        clear = mask & state.clear
    first = max(float(agreement.config["grid"]["first_range"]), _LEAST_SCORE_RANGE)
    ranges = np.full_like(state.ranges, first) if kind == "score" else state.ranges
    digits = value_digits(agreement, state, kind)
    statistics = np.zeros_like(mask)
    if kind == "update" and noise_of(agreement) is None:
        statistics = agreement.of_kinds(["statistic"])
    steps = [math.ldexp(1.0, step_exponent(r, digits.largest)) for r in ranges.tolist()]
    units = np.ldexp(np.array(steps, dtype=np.float64), digits.largest.bit_length() - _CODE_BITS)
    return Plan(
        kind,
        mask,
        _section(agreement, ranges, mask & ~clear & statistics, _wide_digits(agreement)),
        _section(agreement, ranges, mask & ~clear & ~statistics, digits),
        _section(agreement, ranges, clear, _clear_digits(agreement)),
        units,
        ledger_size(agreement),
        code_digits(agreement),
    )


def _of_tally(agreement: Agreement, tally: Tally) -> Plan:
    """Plan of a round that carries a tally, and nothing of the shared vector."""
    p, nothing = agreement.parameters, np.zeros(agreement.size, dtype=bool)
    count = Digits.most(tally.most, p.capacity, p.payload_bits).per_component
    steps = np.full(tally.size, 2.0**-tally.fraction)
    section = Section(np.arange(tally.size), steps, Digits.widest(count, p.capacity, p.payload_bits))
    wide = Section(np.arange(0), steps[:0], _wide_digits(agreement))
    clear = Section(np.arange(0), steps[:0], _clear_digits(agreement))
    units = np.zeros(len(agreement.tensors))
    return Plan("score", nothing, wide, section, clear, units, ledger_size(agreement), code_digits(agreement), tally)


def value_digits(agreement: Agreement, state: State, kind: str) -> Digits:
    """Choose the digits of a round's encrypted values."""
    p, noise = agreement.parameters, noise_of(agreement)
    if kind == "score":
        return Digits.widest(1, p.capacity, p.payload_bits)
    if noise is not None:
        return _fitting(agreement, noise.largest)
    bits = int(agreement.config["grid"]["value_bits"])
    if not state.updates:
        bits = max(bits, int(agreement.config["grid"].get("first_bits", _FIRST_VALUE)))
    return _fitting(agreement, 2 ** (bits - 1) - 1)


def padded_components(agreement: Agreement, made: Plan) -> int:
    """Number of components that an upload has in all, padding included (`encryption.pad_to`)."""
    padding = agreement.config["encryption"]["pad_to"]
    if made.kind != "update" or padding == "none":
        return made.components
    if padding == "full":
        others = agreement.size - made.wide.index.size
        return made.head + made.wide.components + made.sealed.digits.components(others)
    step = 1 << max(0, (made.components - 1).bit_length() - _STEP_BITS)
    return -(-made.components // step) * step


def step_exponent(extent: float, largest: int) -> int:
    """Find the smallest E of at least -200 with 2^E >= extent / largest, the quotient in float64."""
    if extent <= 0:
        return _LEAST_EXPONENT
    mantissa, exponent = math.frexp(extent / largest)
    return max(_LEAST_EXPONENT, exponent - (mantissa == 0.5))  # noqa: PLR2004 -- a power of two exactly


def _travelling(agreement: Agreement, state: State, kind: str) -> Bools:
    if kind == "score":
        return np.ones(agreement.size, dtype=bool)
    if kind == "measure":
        return np.zeros(agreement.size, dtype=bool)
    return within(agreement, state, sent(agreement, state) & in_use(agreement, state))


def _fitting(agreement: Agreement, largest: int) -> Digits:
    """Choose as many digits as hold such values, and then make them as wide as they can be."""
    p = agreement.parameters
    count = Digits.most(largest, p.capacity, p.payload_bits).per_component
    return Digits.widest(count, p.capacity, p.payload_bits)


def _wide_digits(agreement: Agreement) -> Digits:
    bits = max(_STATISTIC_VALUE, int(agreement.config["grid"]["value_bits"]))
    return _fitting(agreement, 2 ** (bits - 1) - 1)


def _clear_digits(agreement: Agreement) -> Digits:
    k = agreement.parameters.capacity
    largest = 2 ** (min(_CLEAR_VALUE, _CLEAR_PAYLOAD - k.bit_length() - 1) - 1) - 1
    return Digits.widest(Digits.most(largest, k, _CLEAR_PAYLOAD).per_component, k, _CLEAR_PAYLOAD)


def _section(agreement: Agreement, ranges: Floats, mask: Bools, digits: Digits) -> Section:
    index = np.flatnonzero(mask)
    steps = np.array([math.ldexp(1.0, step_exponent(r, digits.largest)) for r in ranges.tolist()], dtype=np.float64)
    return Section(index, steps[agreement.tensor_of[index]], digits)
