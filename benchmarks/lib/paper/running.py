"""Runs one cell in this process, which should have begun for it alone: its peak memory is then that of the federation."""

from __future__ import annotations

import logging
import os
import resource
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dictpfl.client.training.task import task_of
from dictpfl.common.errors import EngineError, ModelError
from lib import federations
from lib.batchhe_run import adaptive_batch
from lib.fedavg import fedavg
from lib.machine import ROOT
from lib.paper.alone import Alone
from lib.paper.cells import Cell, Store, facts
from lib.simulated import PHASES

if TYPE_CHECKING:
    from dictpfl.deploy.runs.run import Run

_FLOAT32 = 4
LAST = 3
"""Measurements at the end over which a tuning cell's validation figure is averaged."""
DIVERGED: Mapping[str, Any] = {"validation": 0.0, "validation_loss": 1e9, "diverged": True}
"""Of a rate with which training does not stay finite: worse than any other."""


def run(cell: Cell, rate: float | None, store: Store) -> dict[str, Any]:
    """Simulate a cell and keep what came out.

    Args:
        cell: what to run. `rate`: learning rate that tuning chose; None: its own.
        store: where the result goes.

    Raises:
        DictPFLError: the federation could not be founded, or an institution gave up; nothing is kept. A cell of a
            rate's grid keeps that the rate diverged.
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.chdir(ROOT)  # experiments name their data from here
    quiet()
    begun = facts()
    changes = cell.at(rate)
    try:
        measure = _packed if cell.decimals else _alone if cell.in_process else _simulated
        with Alone() if cell.alone else nullcontext():
            figures = measure(cell, changes)
    except (EngineError, ModelError):
        # Rounds that count bytes or time have a tiny rate, which does not diverge: something is wrong.
        if not cell.tunes or cell.alone or cell.name.startswith("bytes/"):
            raise
        figures = dict(DIVERGED)
    figures["peak_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store.write(cell, figures, rate, begun)
    return figures


def quiet() -> None:
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.disable(logging.WARNING)


def _alone(cell: Cell, changes: Mapping[str, Any]) -> dict[str, Any]:
    config = cell.config(**changes)
    done = fedavg(config, tests=not cell.tunes, every_round=True, test_last=not cell.drawn)
    course, rounds, each = done["course"], done["rounds"], _FLOAT32 * done["values"]["shared"]
    seconds = {"train": course["train"], "evaluate": course["evaluate"][:rounds]}
    common = {
        "rounds": rounds,
        "participants": config.federation.participants,
        "seconds": {phase: sum(seconds.get(phase, [])) for phase in PHASES},
        "median_seconds": {phase: round(statistics.median(seconds.get(phase, [0.0])), 6) for phase in PHASES},
        "values": done["values"],
        "bytes": {"up": rounds * each, "down": rounds * each},
        **{f"{way}_by_round": [each] * rounds for way in ("up", "down")},
        "sent_by_round": [done["values"]["shared"]] * rounds,
        "others": [],
    }
    if cell.tunes:
        return {
            "validation": _mean(course["validation"][-LAST:]),
            "validation_loss": _mean(course["validation_loss"][-LAST:]),
            **common,
        }
    return {
        "metric": task_of(config.measuring).metric_name,
        "accuracy": course["test"][-1],
        "accuracy_by_round": [None] * (rounds - len(course["test"]))
        + [round(accuracy, 4) for accuracy in course["test"]],
        "loss": course["test_loss"][-1],
        "validation": course["validation"][-1],
        **({"test_by_group": done["test_by_group"]} if done["test_by_group"] else {}),
        **common,
        "state_digest": "",
    }


def _packed(cell: Cell, changes: Mapping[str, Any]) -> dict[str, Any]:
    config = cell.config(**changes)
    found = adaptive_batch(config, decimals=cell.decimals, tests=not cell.tunes)
    return {"metric": task_of(config.measuring).metric_name, **found, "participants": config.federation.participants}


def _simulated(cell: Cell, changes: Mapping[str, Any]) -> dict[str, Any]:
    from dictpfl.deploy.simulation.simulate import simulate

    founded: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="cell-") as name:
        folder, all_changes = Path(name), dict(changes)
        if cell.lora is not None:
            (folder / "w0").mkdir()
            begins = federations.Cell("cell", cell.federation(), cell.experiment, start=cell.settings)
            all_changes |= federations.weights_of(begins, folder / "w0")
        config = cell.config(**all_changes)
        every = 1 if cell.drawn else config.federation.rounds
        done = simulate(config, folder / "run", engine="local", on_founded=founded.append, test_every=every)
        figures = tuning_figures(done) if cell.tunes else figures_of(done)
        if cell.traced:
            from lib.paper.traces import trace

            figures["trace"] = trace(founded[0])
        return figures


def tuning_figures(done: Run) -> dict[str, Any]:
    """What may decide a rate: nothing from the test split. Bytes and values tell nothing of it."""
    measured = [record for record in done.records if record.validation is not None][-LAST:]
    return {
        "validation": 100 * _mean([record.validation for record in measured]),
        "validation_loss": _mean([record.validation_loss for record in measured]),
        **traffic(done),
    }


def figures_of(done: Run) -> dict[str, Any]:
    """All that tables and pictures need of a run; a number a round at most, null where the test split was not measured."""
    updates = [record for record in done.records if record.kind == "update"]
    accuracies = [None if record.test is None else 100 * record.test for record in updates]
    by_group = done.summary.get("test_by_group")
    return {
        "metric": done.summary["metric"],
        "accuracy": accuracies[-1],
        "accuracy_by_round": [accuracy and round(accuracy, 4) for accuracy in accuracies],
        "loss": updates[-1].test_loss,
        "validation": 100 * _mean([done.records[-1].validation]),
        **({"test_by_group": by_group} if by_group else {}),
        **traffic(done),
        "state_digest": done.summary["state_digest"],
    }


def traffic(done: Run) -> dict[str, Any]:
    updates = [record for record in done.records if record.kind == "update"]
    others = [record for record in done.records if record.kind != "update"]
    return {
        "rounds": len(updates),
        "participants": done.config.federation.participants,
        "seconds": {phase: float(seconds) for phase, seconds in done.summary["seconds"].items()},
        "median_seconds": {
            phase: round(statistics.median(record.seconds.get(phase, 0.0) for record in updates), 6) for phase in PHASES
        },
        "values": dict(done.summary["values"]),
        "bytes": {"up": sum(r.bytes_up for r in done.records), "down": sum(r.bytes_down for r in done.records)},
        "up_by_round": [record.bytes_up for record in updates],
        "down_by_round": [record.bytes_down for record in updates],
        "sent_by_round": [record.sent for record in updates],
        "others": [{"kind": record.kind, "up": record.bytes_up, "down": record.bytes_down} for record in others],
    }


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else 0.0
