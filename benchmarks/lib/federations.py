"""Simulated federations as cells: each runs once, in a process of its own, and what it gave stands in a file of its own.

A cell is a checked configuration; its file is named by the digest of what differs from the defaults in it, in
`benchmarks/.cells/` (ignored by git, not needed for anything else). Whatever is interrupted loses the cells that were
running and no other. `rm -r benchmarks/.cells` measures anew, as is right after a change of a default or of what trains.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import EngineError, ModelError
from lib.fedavg import fedavg
from lib.machine import ROOT, machine
from lib.simulated import UNPADDED

CELLS = ROOT / "benchmarks" / ".cells"
LAST = 3
"""Rounds at the end over which accuracies are averaged, unless a cell says otherwise."""
W0 = "W0 of the federation named by `start`"
"""In `model.options.weights`: replaced by the file with those weights when the cell runs."""

_DIVERGED: Mapping[str, Any] = {"validation": 0.0, "validation_loss": 1e9, "diverged": True}


@dataclass(frozen=True)
class Cell:
    """One federation to simulate.

    Attributes:
        label: of progress and of the cell's file; words and hyphens.
        settings: dotted, over the project's defaults or over `experiment`.
        experiment: a file of `experiments/`, without suffix; empty: none.
        start: settings of another federation, whose W0 this one starts from; see `W0`.
        tunes: chooses a rate: nothing that was measured on the test split comes back.
        keep: folder that the run is left in; empty: nowhere.
        in_process: `lib.fedavg` runs it, in clear, and measures after the last round only.
        tests_last: the test split is measured after the last round only, as it is there; a large one takes longer than training.
    """

    label: str
    settings: Mapping[str, Any]
    experiment: str = ""
    start: Mapping[str, Any] | None = None
    tunes: bool = False
    keep: str = ""
    in_process: bool = False
    tests_last: bool = False

    def config(self, **changes: Any) -> FederationConfig:
        """The checked configuration."""
        chosen = {**UNPADDED, **self.settings, **changes}
        if self.experiment:
            return FederationConfig.load(ROOT / "experiments" / f"{self.experiment}.toml", chosen)
        return FederationConfig.of({}, chosen)

    @property
    def path(self) -> Path:
        """Where its result stands."""
        # What differs from the defaults: a setting that is new and not used makes no other federation.
        chosen = self.config().model_dump(mode="json", exclude_defaults=True)
        named = json.dumps([chosen, self.start, self.tunes, self.in_process], sort_keys=True)
        digest = hashlib.sha256(named.encode()).hexdigest()[:16]
        return CELLS / f"{self.label}-{digest}.json"


def measure(cell: Cell) -> dict[str, Any]:
    """Simulate, and say what came out; a cell that has a file is read, not run."""
    if cell.path.exists():
        found: dict[str, Any] = json.loads(cell.path.read_bytes())
        return found
    if cell.keep:
        shutil.rmtree(cell.keep, ignore_errors=True)  # of a run that was stopped
    facts, began, cpu = machine(), time.monotonic(), time.process_time()
    try:
        run = fedavg(cell.config(), tests=not cell.tunes) if cell.in_process else _simulated(cell)
        found = run | {"machine": facts}
    except (EngineError, ModelError):
        if not cell.tunes:
            raise
        # An institution refuses a loss that is not finite: this rate is too high.
        found = {
            "seed": cell.config().seed,
            "rate": cell.config().training.learning_rate,
            "machine": facts,
            **_DIVERGED,
        }
    found |= {"wall_seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
    CELLS.mkdir(exist_ok=True)
    part = cell.path.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    part.replace(cell.path)
    return found


def quiet() -> None:
    """Of a worker: no logs between its results, and the folder from which experiments name their data."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.chdir(ROOT)
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.disable(logging.WARNING)


def _simulated(cell: Cell) -> dict[str, Any]:
    from dictpfl.deploy.simulation.simulate import simulate

    with tempfile.TemporaryDirectory(prefix="cell-") as name:
        folder = Path(name)
        changes = {} if cell.start is None else weights_of(cell, folder)
        config, place = cell.config(**changes), Path(cell.keep) if cell.keep else folder / "run"
        run = simulate(config, place, engine="local", test_every=config.federation.rounds if cell.tests_last else 1)
    updates = [record for record in run.records if record.kind == "update"]
    measured = [r for r in updates if r.validation is not None][-LAST:]
    found: dict[str, Any] = {
        "seed": run.config.seed,
        "rate": run.config.training.learning_rate,
        "validation": 100 * statistics.fmean(r.validation or 0.0 for r in measured) if measured else 0.0,
        "validation_loss": statistics.fmean(r.validation_loss or 0.0 for r in measured) if measured else 0.0,
        "seconds": dict(run.summary["seconds"]),
    }
    if cell.tunes:
        return found
    history = [100 * record.test for record in updates if record.test is not None]
    values, rounds = dict(run.summary["values"]), int(run.summary["rounds"])
    sent = {"up": sum(r.bytes_up for r in run.records), "down": sum(r.bytes_down for r in run.records)}
    return (
        found
        | {
            "accuracy": statistics.fmean(history[-LAST:]),
            "final": history[-1],
            "history": history,
            "bytes_by_round": [record.bytes_up + record.bytes_down for record in updates],
            "values": values,
            "rounds": rounds,
            "share": 100 * values["sent"] / (values["model"] * rounds),
            "bytes": sent,
            "state_digest": run.summary["state_digest"],
        }
        | _by_institution(run.summary)
    )


def weights_of(cell: Cell, folder: Path) -> dict[str, Any]:
    """The file with the W0 of the federation that `cell.start` names, as a change of settings."""
    from dictpfl.client.folder import GENESIS_WEIGHTS
    from dictpfl.deploy.simulation.founding import found

    assert cell.start is not None
    (folder / "start").mkdir()
    founded = found(Cell(cell.label, cell.start, cell.experiment).config(), folder / "start")
    options = {**cell.config().model.options, "weights": str(founded.home(0) / GENESIS_WEIGHTS)}
    return {"model.options": options}


def _by_institution(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Every institution's own test figure after the last round, %, where the data name it."""
    groups = summary["test_by_group"]
    if not groups:
        return {}
    by_group = {name: 100 * group["figure"] for name, group in groups.items()}
    return {"by_group": by_group, "mean_of_groups": 100 * summary["test_mean_of_groups"]}


def measure_all(cells: Sequence[Cell], jobs: int) -> list[dict[str, Any]]:
    """Results in the order of the cells; those that are not there yet run on `jobs` processes, one thread each."""
    missing = {cell.path: cell for cell in cells if not cell.path.exists()}
    if missing:
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), quiet) as pool:
            waiting = {pool.submit(measure, cell): cell for cell in missing.values()}
            for done, future in enumerate(as_completed(waiting), 1):
                _report(waiting[future], future.result(), f"{done}/{len(missing)}")
    return [measure(cell) for cell in cells]


def _report(cell: Cell, found: Mapping[str, Any], counted: str) -> None:
    what = f"test {found['accuracy']:.2f} %" if "accuracy" in found else f"validation {found['validation']:.2f} %"
    print(f"{counted} {cell.label}: rate {found['rate']:g}, seed {found['seed']}: {what}, "
          f"{found['wall_seconds']:.0f} s", file=sys.stderr, flush=True)  # fmt: skip


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and sample standard deviation; 0 for a single one."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
