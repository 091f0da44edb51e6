"""Findings of a comparison: figures of methods and baselines over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dictpfl.deploy.runs.census import read_census
from dictpfl.deploy.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd

MAJORITY, ALONE, POOLED = "majority", "alone", "pooled"
BASELINES: Mapping[str, str] = {
    MAJORITY: "the best answer that does not look at a sample",
    ALONE: "each institution trains on its own samples alone; the figure is their mean",
    POOLED: "one place has the samples of all and trains on them in clear",
}
"""Rows beside methods in a comparison that are no federation; docs/decisions/0068."""
LEVEL = 0.95
"""Confidence of intervals over seeds."""
_SUMMED = ("train", "seal", "fold", "open", "evaluate", "store", "total")


@dataclass(frozen=True)
class Row:
    """Figures of one method or baseline.

    Attributes:
        method: its name.
        seeds: of its figures, in their order.
        figures: the task's metric on the test split, one a seed; of `alone` the mean of the institutions.
        runs: all of its runs; of `alone` one an institution and seed, of `majority` none.
    """

    method: str
    seeds: tuple[int, ...]
    figures: tuple[float, ...]
    runs: tuple[Run, ...]

    @property
    def test(self) -> float:
        """Mean figure over seeds."""
        return statistics.fmean(self.figures)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Bounds of the mean over all seeds at 95 % confidence, by Student's t; None of one seed, or where a figure is no number."""
        if len(self.figures) < 2 or not all(map(math.isfinite, self.figures)):  # noqa: PLR2004 -- one figure has no spread
            return None
        from scipy.stats import t

        count = len(self.figures)
        half = float(t.ppf((1 + LEVEL) / 2, count - 1)) * statistics.stdev(self.figures) / count**0.5
        return self.test - half, self.test + half

    @property
    def samples(self) -> int:
        """Test samples of which one run's figure is the share that it names right; 0 of several runs, of another figure, or where nobody counted."""
        if len(self.runs) != 1 or self.runs[0].summary["metric"] != "accuracy":
            return 0
        census = read_census(self.runs[0].folder)
        return sum(census.test) if census else 0

    @property
    def of_samples(self) -> tuple[float, float] | None:
        """Bounds of one run's accuracy on further samples like those of the test at 95 % confidence, by Wilson (1927); None where `samples` is 0.

        It says nothing of another seed.
        """
        if not self.samples:
            return None
        from scipy.stats import binomtest

        found = binomtest(round(self.test * self.samples), self.samples).proportion_ci(LEVEL, method="wilson")
        return float(found.low), float(found.high)

    @property
    def is_federation(self) -> bool:
        """Tell whether anything was sent."""
        return self.method not in BASELINES

    def mean(self, *path: str) -> Any:
        """Mean over runs of a figure of their summaries, such as `mean("bytes", "up")`; None where nothing was sent."""
        if not self.is_federation:
            return None
        return statistics.fmean(_at(run.summary, path) for run in self.runs)

    def to_json(self, folder: Path) -> dict[str, Any]:
        """Return the row of compare.json; runs are named from the comparison's folder."""
        sent = {
            "values": {key: self.mean("values", key) for key in ("model", "shared", "sent")},
            "bytes": {key: self.mean("bytes", key) for key in ("up", "down")},
            "seconds": {key: self.mean("seconds", key) for key in _SUMMED},
        }
        return {
            "method": self.method,
            "insecure": list(self.runs[0].summary["insecure"]) if self.is_federation else [],
            "test": self.test,
            "interval": self.interval,
            "interval_of_samples": self.of_samples,
            "seeds": list(self.seeds),
            "figures": list(self.figures),
            **(sent if self.is_federation else {}),
            "runs": [
                {
                    "folder": run.folder.relative_to(folder).as_posix(), "seed": run.config.seed, "test": run.test,
                    "state_digest": run.summary["state_digest"],
                }
                for run in self.runs
            ],
        }  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Rows of a comparison, in the order that was asked for; all its runs when it is iterated.

    Attributes:
        folder: with compare.json, compare.html and a folder for each method.
        metric: name of the figure that is compared.
        participants: institutions of each federation.
        rows: one a method or baseline.
    """

    folder: Path
    metric: str
    participants: int
    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Run]:
        """Yield the runs, row by row."""
        return (run for row in self.rows for run in row.runs)

    @property
    def caution(self) -> str:
        """Sentence or two on what one seed shows of the order of rows; empty where nobody can say it."""
        known = [(row.method, row.of_samples) for row in self.rows if row.of_samples is not None]
        if not known:
            return ""
        apart = [f"{a} above {b}" for a, own in known for b, other in known if own[0] > other[1]]
        shown = f"{'; '.join(apart)}: further apart than their brackets, which another seed may undo" if apart else ""
        samples = next(row.samples for row in self.rows if row.samples)
        return (
            f"One seed: brackets hold the accuracy on further samples like these {samples} at 95 % confidence, not that of another seed. "
            f"{shown or 'No two brackets lie apart, so no difference between methods is shown'}; `--seeds 1,2,3` compares over seeds."
        )

    @property
    def baselines(self) -> dict[str, str]:
        """Meanings of its baselines, by name."""
        return {row.method: BASELINES[row.method] for row in self.rows if not row.is_federation}

    def __repr__(self) -> str:
        """Return one line: the figure of each row."""
        said = "; ".join(f"{row.method} {row.test:.4f}" for row in self.rows)
        return f"<Comparison by {self.metric}: {said}; {self.folder}>"

    @property
    def table(self) -> pd.DataFrame:
        """Rows as a pandas table: figure, interval, bytes of one institution, seconds of its training."""
        import pandas as pd

        return pd.DataFrame(
            {
                "method": row.method,
                self.metric: row.test,
                "low": math.nan if row.interval is None else row.interval[0],
                "high": math.nan if row.interval is None else row.interval[1],
                "bytes_up": row.mean("bytes", "up"),
                "bytes_down": row.mean("bytes", "down"),
                "seconds.train": row.mean("seconds", "train"),
            }
            for row in self.rows
        ).set_index("method")


def _at(summary: Mapping[str, Any], path: Sequence[str]) -> float:
    found: Any = summary
    for key in path:
        found = found[key]
    return float(found)
