"""Runs cells in processes of their own, in order, and whatever tuning they wait for before them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lib.machine import ROOT
from lib.paper.cells import Cell, Store
from lib.paper.rates import tuned
from lib.paper.twins import measured_as, stored

PROGRAM = ROOT / "benchmarks" / "paper.py"


@dataclass(frozen=True)
class Ready:
    """A cell that can run, with the rate that it takes; None: its own."""

    cell: Cell
    rate: float | None


@dataclass
class Progress:
    """What a batch of cells has come to.

    Attributes:
        failed: names of cells that ended with an error, with its last line. `done`: names of those that were measured.
    """

    failed: dict[str, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)


def matching(cells: Iterable[Cell], globs: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Cells whose name fits one of the globs (none: all) and whose seed is wanted (none: all); those that tune or count have their own."""
    return [
        cell
        for cell in cells
        if (not globs or any(fnmatchcase(cell.name, glob) for glob in globs))
        and (not seeds or cell.tunes or cell.settings["seed"] in seeds)
    ]


def rate_of(cell: Cell, store: Store) -> tuple[float | None, tuple[Cell, ...]]:
    """The rate that the cell takes, and the tuning cells that are missing to know it."""
    if cell.tuned is None:
        return None, ()
    known = tuned(*cell.tuned, store)
    return known.rate, known.missing


def state(cell: Cell, store: Store) -> str:
    """`done`, `done as NAME` (the same computation), `measure`, `measure anew` (settings changed), `tune first`, or `no data`."""
    rate, missing = rate_of(cell, store)
    if not missing and (found := stored(cell, rate, store)) is not None:
        return "done" if found["cell"] == cell.name else f"done as {found['cell']}"
    if cell.needs and not (ROOT / cell.needs).exists():
        return "no data"
    if missing:
        return "tune first"
    return "measure" if store.read(cell.name) is None else "measure anew"


Rates = Callable[[Cell], "tuple[float | None, tuple[Cell, ...]]"]


def upcoming(
    cells: Sequence[Cell], store: Store, rates: Rates, busy: Mapping[str, Any], left_out: Mapping[str, str]
) -> Ready | None:
    """The first cell that can run now: a cell whose rate is known, or a tuning cell that an earlier one waits for.

    A computation that several cells have runs under one name.
    """
    for cell in cells:
        one = measured_as(cell)
        if one.name in busy or one.name in left_out:
            continue
        rate, missing = rates(cell)
        if missing:
            waiting = [one for one in missing if one.name not in busy and one.name not in left_out]
            if waiting:
                return Ready(waiting[0], None)
            continue
        if stored(cell, rate, store) is None:
            return Ready(one, rate)
    return None


Start = Callable[[Ready, Path, Path], "subprocess.Popen[bytes]"]


def started(ready: Ready, log: Path, into: Path) -> subprocess.Popen[bytes]:
    """A process that measures one cell; what it says goes into the log."""
    command = [sys.executable, str(PROGRAM), "--cell", ready.cell.name, "--into", str(into)]
    if ready.rate is not None:
        command += ["--rate", repr(ready.rate)]
    return logged(command, log)


def logged(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in the repository's root; what it says goes into the log."""
    with log.open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)


def work(
    cells: Sequence[Cell], store: Store, jobs: int, logs: Path, *, rates: Rates | None = None, start: Start = started
) -> Progress:
    """Measure all cells that are not there yet, `jobs` at a time; one that fails is told, and the others go on.

    Args:
        cells: in their order. `store`: where results go. `jobs`: processes.
        logs: folder for what the processes say.
        rates: how a cell's rate is known; None: from the tuning cells of the store.
        start: what makes a process.

    Raises:
        ConfigError: a result that stands there is damaged; what runs is stopped.
    """
    rates = rates or (lambda cell: rate_of(cell, store))
    progress, cells = Progress(), list(cells)
    running: dict[str, tuple[subprocess.Popen[bytes], Ready, Path, float]] = {}
    try:
        ended = True
        while True:
            cells = [cell for cell in cells if cell.name not in progress.done]
            while (
                ended  # else nothing has become ready, and to look reads hundreds of files
                and len(running) < jobs
                and not any(ready.cell.alone for _, ready, _, _ in running.values())
                and (ready := upcoming(cells, store, rates, running, progress.failed)) is not None
            ):
                if running and ready.cell.alone:
                    break  # it waits until the others have ended
                if problem := _problem(ready):
                    progress.failed[ready.cell.name] = problem
                    _say(ready.cell.name, f"left out: {problem}")
                    continue
                log = logs / f"{ready.cell.name.replace('/', '-')}.log"
                running[ready.cell.name] = (start(ready, log, store.folder), ready, log, time.monotonic())
            if not running:
                return progress
            ended = False
            for name, (process, ready, log, began) in list(running.items()):
                if process.poll() is None:
                    continue
                ended = True
                del running[name]
                seconds = time.monotonic() - began
                if process.returncode == 0 and store.result(ready.cell, ready.rate) is not None:
                    progress.done.append(name)
                    _say(name, f"{_told(store.result(ready.cell, ready.rate))}, {seconds:.0f} s")
                else:
                    progress.failed[name] = _last(log) or f"exit status {process.returncode}"
                    _say(name, f"FAILED after {seconds:.0f} s: {progress.failed[name]}")
            time.sleep(0.2)
    finally:  # a damaged result ends it while others run
        for process, *_ in running.values():
            process.kill()


def _problem(ready: Ready) -> str:
    cell = ready.cell
    if cell.needs and not (ROOT / cell.needs).exists():
        return f"{cell.needs} is missing; run python experiments/fetch.py"
    return ""


def _told(figures: Mapping[str, Any] | None) -> str:
    figures = figures or {}
    if "accuracy" in figures:
        return f"test {figures['accuracy']:.2f} %"
    if "validation" in figures:
        return "diverged" if figures.get("diverged") else f"validation {figures['validation']:.2f} %"
    return f"loss {figures['loss']:.4f}"


def _last(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _say(name: str, what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {name}: {what}", file=sys.stderr, flush=True)
