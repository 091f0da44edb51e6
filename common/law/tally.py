"""Tallies: vectors of institutions' own numbers whose exact sum all of them learn, and nobody a part of (docs/decisions/0043).

A tally has a layout of its own, agreed on in genesis, so that its size never depends on data. What follows from one is a pure integer
function of its sums: ranks, comparisons, ties by index. No float decides anything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import ConfigError, PackingError, VoidError
from dictpfl.common.law.layout import Layout
from dictpfl.common.law.packing import Digits

When = Literal["opening", "closing"]
Weight = Literal["samples", "none"]
_MOST_BITS = 52
"""Most bits of an integer of a tally, sign left out: float64 holds all of them, and no component more."""
MOMENTS, QUANTILES = "columns", "quantiles"
"""Tallies that columns are prepared by."""
_SIGNED = "sum"
"""Entry of these tallies that may be negative; the others are counts, and sums of squares."""


@dataclass(frozen=True)
class Tally:
    """Agreement on one tally.

    Attributes:
        name: name of its source.
        layout: names, shapes and offsets of its entries.
        bound: values are at most 2^bound in magnitude.
        fraction: values are multiples of 2^-fraction.
        when: `opening`, before the first update, or `closing`, after the last.
        weight: `samples`: an institution's vector counts as much as its updates do; `none`: as it is.
        decides: name of the decision that its sum leads to (`scores.decision`), which is then all that is kept; "": the sum is kept.
    """

    name: str
    layout: Layout
    bound: int
    fraction: int
    when: When
    weight: Weight = "samples"
    decides: str = ""

    def __post_init__(self) -> None:
        """Refuse what no institution could seal.

        Raises:
            ConfigError: no entries, or numbers that no component holds.
        """
        if not self.layout.size:
            raise ConfigError(f"tally {self.name!r} has no entries, so that there is nothing to add; leave it out")
        if self.when not in get_args(When) or self.weight not in get_args(Weight):
            raise ConfigError(
                f"tally {self.name!r} is of {self.when!r} and weighted by {self.weight!r}; expected one of {get_args(When)} and one of "
                f"{get_args(Weight)}"
            )
        if not 0 <= self.bound + self.fraction <= _MOST_BITS:
            raise ConfigError(
                f"tally {self.name!r} has values up to 2^{self.bound} in steps of 2^-{self.fraction}; expected bound + fraction from 0 "
                f"to {_MOST_BITS}"
            )

    @property
    def largest(self) -> int:
        """Largest integer, by magnitude, that one institution sends: 2^(bound + fraction)."""
        return 1 << (self.bound + self.fraction)

    def digits(self, capacity: int, payload_bits: int) -> Digits:
        """Digits of its integers in components.

        Raises:
            ConfigError: a component does not hold the sum of so many institutions.
        """
        if self.decides:  # scores are as wide as there is room, whatever their range
            return Digits.single(capacity, payload_bits)
        try:
            return Digits.holding(self.largest, capacity, payload_bits)
        except PackingError as error:
            needed = self.bound + self.fraction + 1 + math.ceil(math.log2(capacity))
            raise ConfigError(
                f"tally {self.name!r} needs {needed} bits or more for sums of {capacity} institutions (bound {self.bound}, fraction "
                f"{self.fraction}), a component has {payload_bits}; lower the bound or the fraction of its source, or "
                "federation.max_participants"
            ) from error

    def quantised(self, values: NDArray[np.float64], weight: float = 1.0) -> Ints:
        """Round w v to the tally's steps and clip it: clip(rint(ldexp(w v, fraction)), +-2^(bound + fraction)).

        Args:
            values: v, float64 and finite, shape (layout.size,).
            weight: w, at most 1.
        """
        scaled = np.rint(np.ldexp(weight * values, self.fraction))
        clipped: Ints = np.clip(scaled, -self.largest, self.largest).astype(np.int64)
        return clipped

    def to_json(self) -> dict[str, Any]:
        """Encode as JSON values; `decides` is not in it, since no such tally is written down."""
        return {
            "name": self.name, "when": self.when, "weight": self.weight, "bound": self.bound, "fraction": self.fraction,
            "layout": self.layout.to_json(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Self:
        """Decode what `to_json` made.

        Raises:
            KeyError, TypeError, ValueError, ConfigError: not of that form.
        """
        return cls(
            str(said["name"]), Layout.from_json(said["layout"]), int(said["bound"]), int(said["fraction"]), said["when"], said["weight"]
        )  # fmt: skip


@dataclass(frozen=True)
class Tallied:
    """Opened sums of a tally, a part of shared state.

    Attributes:
        name: name of the tally.
        when: `opening` or `closing`.
        participants: number of institutions in the sums.
        samples: training samples of these institutions, each institution's at most the agreed cap.
        sums: sums of their integers, int64, shape (layout.size,), in steps of 2^-fraction.
    """

    name: str
    when: str
    participants: int
    samples: int
    sums: Ints

    def facts(self) -> list[str | int]:
        """List all but the sums, as JSON values."""
        return [self.name, self.when, self.participants, self.samples]

    def fits(self, tally: Tally) -> bool:
        """Check name, form and range against the agreement on it."""
        return (
            (self.name, self.when) == (tally.name, tally.when)
            and self.sums.dtype == np.int64
            and self.sums.shape == (tally.layout.size,)
            and min(self.participants, self.samples) >= 1
            and _magnitude(self.sums) <= self.participants * tally.largest
        )


def digested(tallied: Sequence[Tallied]) -> bytes:
    """Text of opened tallies in the digest of shared state, their sums left out; empty without any."""
    if not tallied:
        return b""
    return b"tallies " + json.dumps([one.facts() for one in tallied], separators=(",", ":")).encode() + b" "


def require_within(tally: Tally, sums: Ints, participants: int) -> None:
    """Refuse sums that no institutions following the protocol can have made.

    Raises:
        VoidError: beyond what so many may send, or counts below zero, from which nothing could be prepared at any institution.
    """
    largest = _magnitude(sums)
    if largest > participants * tally.largest:
        raise VoidError(
            f"a sum of tally {tally.name!r} is {largest}, {participants} institutions send at most {participants * tally.largest}; an "
            "upload does not follow the protocol"
        )
    for entry in tally.layout.entries:
        if tally.name in (MOMENTS, QUANTILES) and entry.name != _SIGNED and (least := int(sums[entry.span].min())) < 0:
            raise VoidError(
                f"tally {tally.name!r} counts {least} in {entry.name!r}, expected 0 or more; an upload does not follow the protocol"
            )


def _magnitude(values: Ints) -> int:
    """Largest magnitude, as a Python integer: that of -2^63 is no int64."""
    return max(int(values.max()), -int(values.min()))
