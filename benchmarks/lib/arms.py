"""Arms of a study: the same seeds, splits, steps and samples, each arm and seed a cell that resumes, and claims with verdicts.

A cell is one arm under one seed. What it gave stands in `benchmarks/.cells/`, named by the digest of all that it was made from;
`rm -r benchmarks/.cells` measures anew. Steps and samples are those that training counted, not those that a setting asks for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from dictpfl.client.compress.verdicts import Interval, compared
from lib.federations import CELLS, quiet
from lib.machine import machine, markdown_table

STEPS, SAMPLES = "steps", "samples"
"""Counters that every cell has: the optimiser's steps, and samples seen over all of them."""
Figures = dict[str, Any]
Measure = Callable[[Mapping[str, Any], int], Figures]
"""Measures the settings of an arm under a seed; a function of a module, since other processes call it by name."""


@dataclass(frozen=True)
class Study:
    """Arms that are compared.

    Attributes:
        name: name of the study, part of its files' names.
        measure: makes a cell's figures; `steps` and `samples` are among them.
        arms: settings of each arm, JSON values.
        seeds: seeds that each arm has.
        unequal: arms that need not have the others' steps and samples, with the reason.
    """

    name: str
    measure: Measure
    arms: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    unequal: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_measured(self) -> bool:
        """True where every cell is there, of this or an earlier run."""
        return not self.missing

    @property
    def wanted(self) -> list[tuple[str, int]]:
        """Every cell, arm and seed; seed by seed, so that what is broken off has whole seeds."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]

    @property
    def missing(self) -> list[tuple[str, int]]:
        """Cells that were not measured yet."""
        return [cell for cell in self.wanted if not self._path(*cell).exists()]

    def run(self, jobs: int = 1) -> Cells:
        """Measure what has no cell yet, on so many processes, and require equal counters.

        Raises:
            AssertionError: arms of unequal steps or samples.
        """
        missing = self.missing
        if jobs == 1:
            for done, cell in enumerate(missing, 1):
                self._measured(*cell)
                _say(f"{done}/{len(missing)} {self.name}: {cell[0]}, seed {cell[1]}")
        elif missing:
            with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), quiet) as pool:
                waiting = {pool.submit(self._measured, *cell): cell for cell in missing}
                for done, future in enumerate(as_completed(waiting), 1):
                    future.result()
                    _say(f"{done}/{len(missing)} {self.name}: {waiting[future][0]}, seed {waiting[future][1]}")
        cells = Cells(self, {cell: json.loads(self._path(*cell).read_bytes()) for cell in self.wanted})
        cells.require_equal()
        return cells

    def _path(self, arm: str, seed: int) -> Any:
        made = json.dumps([self.name, self.arms[arm], seed], sort_keys=True)
        digest = hashlib.sha256(made.encode()).hexdigest()[:16]
        return CELLS / f"{self.name}-{arm.replace(' ', '-').replace('/', '-')}-{seed}-{digest}.json"

    def _measured(self, arm: str, seed: int) -> None:
        facts, began = machine(), time.process_time()
        found = self.measure(self.arms[arm], seed)
        found |= {"machine": facts, "cpu_seconds": time.process_time() - began}
        CELLS.mkdir(exist_ok=True)
        part = self._path(arm, seed).with_suffix(".part")
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        part.replace(self._path(arm, seed))


@dataclass(frozen=True)
class Cells:
    """Figures of a study, by arm and seed."""

    study: Study
    found: Mapping[tuple[str, int], Figures]

    def require_equal(self) -> None:
        """Refuse arms that were given more, or other, training than the rest.

        Raises:
            AssertionError: names the counters by arm.
        """
        for counter in (STEPS, SAMPLES):
            for seed in self.study.seeds:
                counted = {a: self.found[a, seed][counter] for a in self.study.arms if a not in self.study.unequal}
                assert len(set(counted.values())) <= 1, f"{self.study.name}, seed {seed}: unequal {counter}: {counted}"

    def of(self, arm: str, figure: str) -> list[Any]:
        """List an arm's figure seed by seed.

        Raises:
            KeyError: a cell without it: a number is missing.
        """
        return [self.found[arm, seed][figure] for seed in self.study.seeds]

    def claim(self, figure: str, arm: str, rival: str, *, higher: bool = True) -> Claim:
        """Compare two arms, paired by seed."""
        return Claim(figure, arm, rival, compared(self.of(arm, figure), self.of(rival, figure), higher=higher))

    def claims(self, figure: str, rival: str, *, higher: bool = True) -> list[Claim]:
        """Compare every other arm with one."""
        return [self.claim(figure, arm, rival, higher=higher) for arm in self.study.arms if arm != rival]

    def measured(self) -> Mapping[str, Any]:
        """Facts of the machine of the newest cell."""
        newest: Mapping[str, Any] = max(
            (one["machine"] for one in self.found.values()), key=lambda facts: facts["date"]
        )
        return newest


@dataclass(frozen=True)
class Claim:
    """One comparison, and the word for it.

    Attributes:
        figure: what was measured. `arm`: whose claim it is. `rival`: what it is compared with.
        interval: of the paired differences; above 0 is better.
    """

    figure: str
    arm: str
    rival: str
    interval: Interval

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no difference shown`."""
        return self.interval.verdict

    def __str__(self) -> str:
        """One line with the difference, its interval and the verdict."""
        return f"{self.figure}: {self.arm} against {self.rival}: {self.interval}, {self.interval.count} seeds: {self.verdict}"

    def to_json(self) -> dict[str, Any]:
        """Encode as JSON values; ends of an interval of one seed are None, since they are infinite."""
        i = self.interval
        ends = [None, None] if i.count == 1 else [i.low, i.high]
        return {"figure": self.figure, "arm": self.arm, "rival": self.rival, "mean": i.mean, "low": ends[0], "high": ends[1],
                "seeds": i.count, "verdict": self.verdict}  # fmt: skip


def study_parser(about: str | None, quick: str, *, seeds: int = 0) -> argparse.ArgumentParser:
    """Options that the programs of studies share.

    Args:
        about: the program's docstring. `quick`: what `--quick` does.
        seeds: default of `--seeds`; 0: the study's number is fixed.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    if seeds:
        told = "number of seeds, beginning with 0; the page says how many"
        parser.add_argument("--seeds", type=int, default=seeds, help=told)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    return parser


def claims_table(claims: Sequence[Claim]) -> str:
    """Claims as a Markdown table."""
    rows = [[c.arm, c.rival, c.figure, str(c.interval), c.verdict] for c in claims]
    return markdown_table(["arm", "against", "figure", "paired difference, 95 % interval", "verdict"], rows)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
