"""Arms of a study: the same seeds, splits, steps and samples, each arm and seed a cell that resumes, and claims with verdicts.

A cell is one arm under one seed. What it gave stands in `benchmarks/.cells/`, named by the digest of all that it was made from;
`rm -r benchmarks/.cells` measures again. Cells of a study that takes hours are kept where others find them, a line each in
`benchmarks/results/NAME.jsonl`, with the settings that they were made from; one of other settings is measured again.
Steps and samples are those that training counted, not those that a setting asks for.
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
from lib.federations import CELLS, mean_and_spread, quiet
from lib.lines import Lines
from lib.machine import RESULTS, count_of, machine, markdown_table

STEPS, SAMPLES = "steps", "samples"
"""Counters that every cell has: the optimiser's steps, and samples seen over all of them."""
SETTINGS = "settings"
"""What a kept cell was made from."""
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
        kept: True where cells are results, to be committed, and not this machine's alone.
    """

    name: str
    measure: Measure
    arms: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    unequal: Mapping[str, str] = field(default_factory=dict)
    kept: bool = False

    @property
    def cells(self) -> list[tuple[str, int]]:
        """Arms and seeds, one seed after the other, so that what is broken off has whole seeds."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]

    @property
    def is_measured(self) -> bool:
        """True where every cell is there, of this or an earlier run."""
        return not self.missing

    @property
    def missing(self) -> list[tuple[str, int]]:
        """Cells that are not there, or were made from other settings."""
        return [cell for cell in self.cells if self._found(*cell) is None]

    @property
    def wanting(self) -> list[int]:
        """Seeds of which a cell is missing."""
        return list(dict.fromkeys(seed for _, seed in self.missing))

    def listed(self) -> str:
        """A line for each cell: its name, and whether it is there."""
        missing = set(self.missing)
        lines = [f"{self._name(*cell)} {'missing' if cell in missing else 'there'}" for cell in self.cells]
        return "\n".join(lines)

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
        cells = Cells(self, {cell: self._found(*cell) or {} for cell in self.cells})
        cells.require_equal()
        return cells

    def _name(self, arm: str, seed: int) -> str:
        word = arm.replace(" ", "-").replace("/", "-")
        if self.kept:
            return f"{self.name}/{word.replace(',', '')}/seed-{seed}"
        made = json.dumps([self.name, self.arms[arm], seed], sort_keys=True)
        return f"{self.name}-{word}-{seed}-{hashlib.sha256(made.encode()).hexdigest()[:16]}.json"

    @property
    def _lines(self) -> Lines:
        """Kept cells; those of studies with a common first word share a file."""
        return Lines(RESULTS / f"{self.name.partition('/')[0]}.jsonl")

    def _found(self, arm: str, seed: int) -> Figures | None:
        """Figures of a finished cell; None where there is none of these settings."""
        name = self._name(arm, seed)
        one: Figures | None = None
        if not self.kept:
            if (CELLS / name).exists():
                one = json.loads((CELLS / name).read_bytes())
            return one
        one = self._lines.get(name)
        # As JSON: what was a tuple came back as a list.
        wanted = json.loads(json.dumps(self.arms[arm]))
        return one if one is not None and one.pop(SETTINGS, None) == wanted else None

    def _measured(self, arm: str, seed: int) -> None:
        facts, began = machine(), time.process_time()
        found = self.measure(self.arms[arm], seed)
        found |= {"machine": facts, "cpu_seconds": time.process_time() - began}
        name = self._name(arm, seed)
        if self.kept:
            self._lines.put(name, {SETTINGS: dict(self.arms[arm]), **found})
            return
        CELLS.mkdir(parents=True, exist_ok=True)
        part = (CELLS / name).with_suffix(".part")
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        part.replace(CELLS / name)


def spread(values: Sequence[float], places: int = 1) -> str:
    """Mean ± sample standard deviation, as tables have it; the mean alone where there is one value."""
    mean, deviation = mean_and_spread(values)
    return f"{mean:.{places}f}" + (f" ± {deviation:.{places}f}" if len(values) > 1 else "")


def name_of(arm: str, seed: int) -> str:
    """Name of a cell in result files."""
    return f"{arm}, seed {seed}"


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

    def named(self) -> dict[str, Figures]:
        """All figures by "ARM, seed N", as result files hold them."""
        return {name_of(arm, seed): one for (arm, seed), one in self.found.items()}

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


def ahead(make: Callable[[int], Any], seeds: Sequence[int], jobs: int) -> None:
    """Make what all cells of a seed read, once, before processes that would each make it.

    Args:
        make: a function of a module; what it makes stands on disk, and is not made twice.
        seeds: of the study, those that have missing cells.
        jobs: processes at a time.
    """
    if jobs == 1 or len(seeds) == 1:
        for seed in seeds:
            make(seed)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), quiet) as pool:
        for _ in pool.map(_made, [make] * len(seeds), seeds):
            pass


def _made(make: Callable[[int], Any], seed: int) -> None:
    make(seed)  # what it returns stays here: a model would travel


def study_parser(about: str | None, quick: str, *, seeds: int = 0, cells: bool = False) -> argparse.ArgumentParser:
    """Options that the programs of studies share.

    Args:
        about: the program's docstring. `quick`: what `--quick` does.
        seeds: default of `--seeds`; 0: the study's number is fixed.
        cells: True for a study whose cells are kept: they can be listed.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    if seeds:
        told = "number of seeds, beginning with 0; the page says how many"
        parser.add_argument("--seeds", type=count_of, default=seeds, help=told)
    parser.add_argument("--jobs", type=count_of, default=1, help="processes at a time")
    if cells:
        parser.add_argument(
            "--list", action="store_true", help="the cells, and whether they are there; measures nothing"
        )
    return parser


def claims_table(claims: Sequence[Claim]) -> str:
    """Claims as a Markdown table."""
    rows = [[c.arm, c.rival, c.figure, str(c.interval), c.verdict] for c in claims]
    return markdown_table(["arm", "against", "figure", "paired difference, 95 % interval", "verdict"], rows)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
