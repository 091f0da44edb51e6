"""What is there of the cells, read for tables: figures of all seeds that were measured with today's settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

from dictpfl.common.errors import DictPFLError
from lib.federations import mean_and_spread
from lib.paper import catalogue, institutions
from lib.paper.arms import ARMS, Point
from lib.paper.cells import Cell, Store
from lib.paper.methods import METHODS, tuned_as
from lib.paper.rates import Tuned, tuned
from lib.paper.twins import stored
from lib.paper.workloads import LARGE, WORKLOADS

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """Figures of one setting over the seeds that were measured.

    Attributes:
        runs: by seed. `rate`: the tuned one, if any, and whether it is `at_edge` of its grid.
    """

    runs: Mapping[int, Figures]
    rate: float | None = None
    at_edge: bool = False

    @cached_property
    def accuracy(self) -> float:
        """Mean of the seeds, %."""
        return mean_and_spread([run["accuracy"] for run in self.runs.values()])[0]

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the seeds, points."""
        return mean_and_spread([run["accuracy"] for run in self.runs.values()])[1]

    @cached_property
    def up(self) -> float:
        """Bytes of one institution over all rounds, mean of the seeds."""
        return mean_and_spread([run["bytes"]["up"] for run in self.runs.values()])[0]

    @cached_property
    def down(self) -> float:
        """The same, received."""
        return mean_and_spread([run["bytes"]["down"] for run in self.runs.values()])[0]

    @property
    def bytes(self) -> float:
        """Up and down."""
        return self.up + self.down

    @property
    def first(self) -> Figures:
        """Figures of the first seed."""
        return next(iter(self.runs.values()))

    @property
    def quickest(self) -> Figures:
        """Figures of the run that trained in the least time: what else a machine does can only add to it."""
        return min(self.runs.values(), key=lambda run: run.get("seconds", {}).get("train", inf))

    def mean(self, *keys: str) -> float | None:
        """Mean over the seeds of a figure that lies under these keys; None where the runs do not have it."""
        found = []
        for run in self.runs.values():
            value: Any = run
            for key in keys:
                value = value.get(key) if isinstance(value, Mapping) else None
            if value is None:
                return None
            found.append(float(value))
        return mean_and_spread(found)[0]


class Measured:
    """Reads a store; what was measured with other settings than today's is not there."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rates: dict[tuple[str, str], Tuned] = {}
        self.facts: list[Mapping[str, Any]] = []

    @property
    def results(self) -> Path:
        """Where other benchmarks' results stand beside these cells."""
        return self._store.folder.parent

    def rate(self, workload: str, method: str) -> Tuned:
        """What is known of a method's rate."""
        key = (workload, tuned_as(method))
        if key not in self._rates:
            self._rates[key] = tuned(*key, self._store)
        return self._rates[key]

    def figures(self, cell: Cell) -> Figures | None:
        """A cell's figures, and where they were `measured`; None: they were not, or its settings cannot be made yet."""
        try:
            rate = self.rate(*cell.tuned).rate if cell.tuned else None
            found = None if cell.tuned and rate is None else stored(cell, rate, self._store)
        except DictPFLError:
            return None
        if found is None:
            return None
        self.facts.append(found["measured"])
        return {**found["figures"], "measured": found["measured"]}

    def row(self, workload: str, partition: str, method: str, *, further: bool = False) -> Row | None:
        """A line of an accuracy table, or what was measured of a method with the workload's further seeds; None: no seed was measured."""
        chosen, at = METHODS[method], WORKLOADS[workload]
        seeds = (*at.seeds, *at.further) if further else at.seeds
        runs = self._seeds(
            [(seed, catalogue.accuracy(workload, partition, chosen.training or method, seed)) for seed in seeds]
        )
        if chosen.training:
            own = self.figures(catalogue.counted(workload, method))
            runs = (
                {} if own is None else {seed: composed(run, own, chosen.rescored_every) for seed, run in runs.items()}
            )
        known = self.rate(workload, method)
        return Row(runs, known.rate, at_edge=known.at_edge) if runs else None

    def timed(self, methods: Iterable[str], *, drawn: bool = False) -> dict[str, Figures]:
        """Runs of the large workload with seconds that may stand side by side: of rounds that had the machine to themselves, on one processor.

        Args:
            methods: those that were not run, or not timed on the processor that timed most of them, are left out.
            drawn: runs that were measured after every round alone.
        """
        found: dict[str, dict[str, Figures]] = {}
        for method in methods:
            row, own = self.row(LARGE, WORKLOADS[LARGE].partitions[0], method), self.figures(catalogue.timed(method))
            runs = [run for run in row.runs.values() if not (drawn and None in run["accuracy_by_round"])] if row else []
            if own is not None and runs:
                here = found.setdefault(own["measured"]["processor"], {})
                here[method] = {**runs[0], "median_seconds": own["median_seconds"], "measured": own["measured"]}
        return max((found[processor] for processor in sorted(found)), key=len, default={})

    def arm(self, arm: str) -> dict[str, Row]:
        """Points of an arm that were measured, by label."""
        found = {}
        for point in ARMS[arm].points:
            if runs := self._point(arm, point):
                found[point.label] = Row(runs)
        return found

    def _point(self, arm: str, point: Point) -> dict[int, Figures]:
        return self._seeds([(seed, catalogue.arm(arm, point, seed)) for seed in ARMS[arm].seeds])

    def institutions(self, arm: str, count: int) -> Row | None:
        """One number of institutions by one arm."""
        if count == institutions.COUNTS[0] and arm in ("few-samples", "few-steps"):
            arm = "dictpfl"
        runs = self._seeds([(seed, institutions.cell(arm, count, seed)) for seed in institutions.SEEDS])
        return Row(runs) if runs else None

    def _seeds(self, cells: Sequence[tuple[int, Cell]]) -> dict[int, Figures]:
        found = {seed: self.figures(cell) for seed, cell in cells}
        return {seed: figures for seed, figures in found.items() if figures is not None}


def composed(run: Figures, own: Figures, every: int) -> dict[str, Any]:
    """A run's training with another method's encryption and bytes, from a score round and two update rounds of that method.

    Args:
        run: gives accuracy, rounds and seconds of training.
        own: of `bytes/...`: the first update round has wider values than those after it, which are all alike without pruning.
        every: rounds between two score rounds; 0: one score round.
    """
    rounds = run["rounds"]
    scores = [one for one in own["others"] if one["kind"] == "score"][:1] * (-(-rounds // every) if every else 1)
    closing = [one for one in own["others"] if one["kind"] != "score"]
    by_round = {way: [own[f"{way}_by_round"][0], *[own[f"{way}_by_round"][1]] * (rounds - 1)] for way in ("up", "down")}
    others = [*scores, *closing]
    ours = {phase: own["median_seconds"][phase] for phase in ("store", "seal", "fold", "open")}
    return {
        **run,
        "processors": [one["measured"]["processor"] for one in (run, own) if "measured" in one],
        "rescored_every": every,
        "up_by_round": by_round["up"],
        "down_by_round": by_round["down"],
        "others": others,
        "bytes": {way: sum(by_round[way]) + sum(one[way] for one in others) for way in ("up", "down")},
        "values": {**run["values"], "sent": (rounds + len(scores)) * run["values"]["shared"]},
        "median_seconds": {**run["median_seconds"], **ours},
        "seconds": {**run["seconds"], **{phase: (rounds + len(scores)) * seconds for phase, seconds in ours.items()}},
        "peak_bytes": own["peak_bytes"],
    }
