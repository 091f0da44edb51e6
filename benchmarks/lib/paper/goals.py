"""What this project wanted of its own tables, and what came of it: the first line of docs/paper.md."""

from __future__ import annotations

from dataclasses import dataclass

from dictpfl.client.compress.verdicts import Interval
from lib.paper.measured import Measured
from lib.paper.methods import FULL, OURS
from lib.paper.verdicts import alike, paired, rows_of


@dataclass(frozen=True)
class Goal:
    """What this project wanted of its own tables: points below plaintext at most, and a share of its bytes, %."""

    workload: str
    partition: str
    points: float
    share: float = 3.0


GOALS = (
    Goal("cifar10", "iid", 1.0), Goal("gtsrb", "iid", 1.0), Goal("ag_news", "iid", 1.0),
    Goal("cifar10", "dirichlet-0.3", 2.0), Goal("gtsrb", "dirichlet-0.3", 2.0), Goal("ag_news", "dirichlet-0.3", 2.0),
)  # fmt: skip


@dataclass(frozen=True)
class Reached:
    """What came of a goal: points above plaintext, seed by seed, and share of its bytes, %; None: not measured."""

    goal: Goal
    above: Interval | None = None
    share: float | None = None

    @property
    def met(self) -> bool | None:
        """None: not measured."""
        if self.above is None or self.share is None:
            return None
        return self.above.mean >= -self.goal.points and self.share <= self.goal.share

    @property
    def is_shown(self) -> bool:
        """Whether the interval, too, keeps the bound."""
        return (
            bool(self.met) and self.above is not None and self.above.count > 1 and self.above.low >= -self.goal.points
        )

    def __str__(self) -> str:
        """Where, and by how much."""
        where = f"{self.goal.workload} ({self.goal.partition})"
        if self.above is None:
            return where
        side = "above" if self.above.mean > 0 else "below"
        ends = (
            f"; 95 % {self.above.low:+.2f} to {self.above.high:+.2f}, {self.above.count} seeds"
            if self.above.count > 1
            else ""
        )
        return f"{where}: {abs(self.above.mean):.2f} points {side} plaintext (at most {self.goal.points:g} below{ends}), {self.share:.2f} % of its bytes (at most {self.goal.share:g})"


def reached(found: Measured) -> list[Reached]:
    """All goals, with what was measured."""
    result = []
    for goal in GOALS:
        rows = rows_of(found, FULL, OURS, workload=goal.workload, partition=goal.partition, further=True)
        above = None if rows is None else paired(rows[1], rows[0])
        if rows is None or above is None:
            result.append(Reached(goal))
            continue
        full, ours = alike(*rows)
        result.append(Reached(goal, above, 100 * ours.bytes / full.bytes))
    return result


def first_line(found: Measured) -> str:
    """What docs/paper.md begins with: goals missed, goals met, by the interval or by the mean alone, and goals that nobody has measured."""
    goals = reached(found)
    missed, met, unknown = ([one for one in goals if one.met is wanted] for wanted in (False, True, None))
    parts = []
    if missed:
        parts.append(f"**Missed**: {'; '.join(map(str, missed))}.")
    shown, by_mean = ([one for one in met if one.is_shown is wanted] for wanted in (True, False))
    if shown:
        parts.append(f"Within its bound: {'; '.join(map(str, shown))}.")
    if by_mean:
        parts.append(f"Within its bound by the mean, which so few seeds do not show: {'; '.join(map(str, by_mean))}.")
    if unknown:
        parts.append(f"Not measured yet: {', '.join(map(str, unknown))}.")
    seeds = {one.above.count for one in (*missed, *met) if one.above is not None}
    if seeds and min(seeds) < 3:
        parts.append(f"Some of these rest on {min(seeds)} seed{'s' * (min(seeds) > 1)} only.")
    return " ".join(parts)
