"""Lines of the report: what was checked, how often, and how it went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

OK, FAILED, UNTOLD = "ok", "FAILED", "cannot tell"


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        what: statement that was checked.
        count: number of things that it was checked on.
        verdict: `ok`, `FAILED`, or `cannot tell` where the run is too short, or has nothing of the kind.
        detail: figures, bounds, or what failed first.
    """

    what: str
    count: int
    verdict: str
    detail: str = ""

    @classmethod
    def every(cls, what: str, count: int, faults: Sequence[str], detail: str = "") -> Check:
        """Make the line of a statement that must hold for each thing; `faults`: what was wrong."""
        if faults:
            return cls(what, count, FAILED, f"{len(faults)} wrong; first: {faults[0]}")
        return cls(what, count, OK if count else UNTOLD, detail)

    @classmethod
    def within(cls, what: str, count: int, measured: float, bounds: tuple[float, float], rate: float) -> Check:
        """Make the line of a statistic; `rate`: probability that a run without fault is outside of the bounds."""
        low, high = bounds
        detail = f"{measured:.6g}, expected {low:.6g} to {high:.6g} (false alarms: {rate:.0e})"
        return cls(what, count, OK if low <= measured <= high else FAILED, detail)

    @property
    def failed(self) -> bool:
        """Tell whether the run is at fault."""
        return self.verdict == FAILED

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)
