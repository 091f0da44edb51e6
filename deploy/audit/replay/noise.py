"""Noise of whole institutions' privacy: its grid and its law (section 12)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dictpfl.deploy.audit.replay.agreement import Agreement


@dataclass(frozen=True)
class Noise:
    """Noise that each institution adds to its integers.

    Attributes:
        exponent: the grid's step is 2 to this power.
        length: L2 norm of an update in steps, at most.
        variance: variance of one institution's noise, in steps squared.
    """

    exponent: int
    length: float
    variance: float

    @property
    def largest(self) -> int:
        """Largest magnitude that an institution packs."""
        return math.floor(self.length) + math.ceil(math.sqrt(2.0 * self.variance * 50.0) + 50.0 / 3.0)


def noise_of(agreement: Agreement) -> Noise | None:
    """Read the mechanism off the configuration; None where it adds none."""
    privacy = agreement.config["privacy"]
    if privacy["mechanism"] != "institution":
        return None
    norm, multiplier = float(privacy["max_update_norm"]), float(privacy["noise_multiplier"])
    honest = int(agreement.config["federation"]["min_participants"]) - int(privacy["curious"])
    exponent = math.frexp(norm * multiplier / 16.0)[1] - 1
    length = norm / math.ldexp(1.0, exponent)
    return Noise(exponent, length, (multiplier * length) ** 2 / honest)
