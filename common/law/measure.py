"""Measures: vectors of counts that go with every ledger, sealed, so that institutions learn their exact sum and nobody a part of it.

What figure follows from one, an area under a curve or a share of right answers of each class, the metric that made it knows
(`dictpfl.client.training.pooled`); the law adds integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from dictpfl.common.errors import ConfigError, PackingError
from dictpfl.common.law.packing import Digits

_MOST_BITS = 52


@dataclass(frozen=True)
class Measure:
    """Agreement on one measure.

    Attributes:
        name: name of its metric.
        size: number of its integers.
        bits: integers of one institution are at most 2^bits in magnitude; larger ones are clipped.
    """

    name: str
    size: int
    bits: int

    def __post_init__(self) -> None:
        """Refuse what no institution could seal.

        Raises:
            ConfigError: no integers, or larger ones than are exact.
        """
        if self.size < 1 or not 1 <= self.bits <= _MOST_BITS:
            raise ConfigError(
                f"metric {self.name!r} wants {self.size} integers of {self.bits} bits; expected one or more of 1 to {_MOST_BITS} bits"
            )

    @property
    def largest(self) -> int:
        """Largest integer, by magnitude, that one institution sends."""
        return 1 << self.bits

    def digits(self, capacity: int, payload_bits: int) -> Digits:
        """Digits of its integers in components.

        Raises:
            ConfigError: a component does not hold the sum of so many institutions.
        """
        try:
            return Digits.holding(self.largest, capacity, payload_bits)
        except PackingError as error:
            raise ConfigError(
                f"training.metrics: {self.name!r} has integers of {self.bits} bits, whose sums over {capacity} institutions a component "
                f"of {payload_bits} bits does not hold; leave it out, or lower federation.max_participants"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Encode as JSON values."""
        return {"name": self.name, "size": self.size, "bits": self.bits}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """Decode what `to_json` made.

        Raises:
            KeyError, TypeError, ValueError, ConfigError: not of that form.
        """
        return cls(str(said["name"]), int(said["size"]), int(said["bits"]))
