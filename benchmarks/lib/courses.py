"""Simulated federations as courses: accuracy by round beside the bytes that had crossed by then; for tables against bytes.

Bytes are those that the product itself records of each round, an upload and a sum of one institution: header, tags and all.
Values are sealed as the settings say, so nothing here knows how a ciphertext is made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from lib.federations import CELLS
from lib.machine import count_of

if TYPE_CHECKING:
    from dictpfl.deploy.runs.run import Run

SMOOTHED = 3
"""Rounds over which accuracies are averaged: a single good round is chance."""


@dataclass(frozen=True)
class Asked:
    """What the command line asked for: which cases, on which seeds, on how many processes; `quick` writes nothing."""

    cases: Sequence[str]
    seeds: Sequence[int]
    jobs: int
    quick: bool


def asked(about: str, cases: Sequence[str], small: Sequence[str]) -> Asked:
    """Read the command line: the small cases on two seeds, all on three with `--full`, or what is named.

    Cases that are not measured anew keep their figures, with the machine and date of their own.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--full", action="store_true", help="all cases, three seeds")
    parser.add_argument("--quick", action="store_true", help="four rounds, one seed; writes nothing")
    parser.add_argument("--cases", default="", help=f"separated by semicolons: {'; '.join(cases)}")
    parser.add_argument("--seeds", type=count_of, default=0, help="so many, from 1 on")
    parser.add_argument("--jobs", type=count_of, default=2, help="processes, one thread each")
    found = parser.parse_args()
    named = cases_named(parser, found.cases, cases)
    seeds = found.seeds or (1 if found.quick else 3 if found.full else 2)
    return Asked(named or list(cases if found.full else small), range(1, seeds + 1), found.jobs, found.quick)


def cases_named(parser: argparse.ArgumentParser, text: str, known: Sequence[str]) -> list[str]:
    """Names of cases in an option, separated by semicolons; an unknown one ends the program, and says which are known."""
    named = [name.strip() for name in text.split(";") if name.strip()]
    if unknown := set(named) - set(known):
        parser.error(f"unknown cases: {', '.join(sorted(unknown))}; known: {'; '.join(known)}")
    return named


@dataclass(frozen=True)
class Course:
    """One federation: a name for progress, and dotted settings over the project's defaults."""

    name: str
    settings: Mapping[str, Any]


def measure(course: Course) -> dict[str, Any]:
    """What a course gave; one that was measured before is read from its file in `benchmarks/.cells`."""
    text = json.dumps([course.name, course.settings], sort_keys=True).encode()
    path = CELLS / f"course-{hashlib.sha256(text).hexdigest()[:16]}.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found
    found = _simulated(course)
    CELLS.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found) + "\n", encoding="utf-8")
    part.replace(path)
    return found


def _simulated(course: Course) -> dict[str, Any]:
    """Simulate on the local engine."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    import structlog

    from dictpfl.common.config import FederationConfig
    from dictpfl.deploy.simulation.simulate import simulate
    from lib.machine import ROOT
    from lib.simulated import UNPADDED

    os.chdir(ROOT)  # data are named from there
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.disable(logging.WARNING)
    config = FederationConfig.of({}, {**UNPADDED, **course.settings})
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="course-") as folder:
        run = simulate(config, Path(folder) / "run", engine="local")
    return {"name": course.name, "seed": config.seed, **by_round(run), "seconds": time.monotonic() - began}


def by_round(run: Run) -> dict[str, Any]:
    """Percent on the test and validation splits, bytes of one institution up and down, and values sent, by update round."""
    updates = [record for record in run.records if record.kind == "update"]
    return {
        "accuracy": [100 * float(record.test or 0.0) for record in updates],
        "validation": [100 * float(record.validation or 0.0) for record in run.records[1:]],
        "bytes": [record.bytes_up + record.bytes_down for record in updates],
        "sent": [record.sent for record in updates],
        "refreshed": [record.update for record in updates if record.refreshed],
        "values": dict(run.summary["values"]),
    }


def measure_all(courses: Sequence[Course], jobs: int) -> list[dict[str, Any]]:
    """Results in the order of the courses, on so many processes of one thread each; whole seeds one after the other.

    Whatever is interrupted loses the courses that were running and no other; `rm -r benchmarks/.cells` measures anew.
    """
    done: dict[int, dict[str, Any]] = {}
    order = sorted(enumerate(courses), key=lambda pair: int(pair[1].settings["seed"]))
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(measure, course): index for index, course in order}
        for future in as_completed(waiting):
            found = done[waiting[future]] = future.result()
            print(f"{len(done)}/{len(courses)} {found['name']}, seed {found['seed']}: {last(found):.2f} %, "
                  f"{found['seconds']:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
    return [done[index] for index in range(len(courses))]


def last(found: Mapping[str, Any]) -> float:
    """Accuracy at the end, in percent: mean of the last three rounds."""
    return statistics.fmean(found["accuracy"][-SMOOTHED:])


def smoothed(found: Mapping[str, Any]) -> list[float]:
    """Mean of the last three rounds at each round."""
    accuracy = found["accuracy"]
    return [statistics.fmean(accuracy[max(0, i - SMOOTHED + 1) : i + 1]) for i in range(len(accuracy))]


def at_bytes(found: Mapping[str, Any], budget: float) -> float | None:
    """Smoothed accuracy in the last round that the budget of bytes pays for; None where it pays for none."""
    spent, reached = 0.0, None
    for accuracy, cost in zip(smoothed(found), found["bytes"], strict=True):
        spent += cost
        if spent > budget:
            break
        reached = accuracy
    return reached


def averaged(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean over seeds of one setting: accuracy by round and at the end, bytes in all, curves against bytes."""
    ends = [last(found) for found in results]
    return {
        "accuracy": statistics.fmean(ends),
        "spread": statistics.stdev(ends) if len(ends) > 1 else 0.0,
        "seeds": {str(found["seed"]): end for found, end in zip(results, ends, strict=True)},
        "bytes": statistics.fmean(sum(found["bytes"]) for found in results),
        "curve": [statistics.fmean(values) for values in zip(*(smoothed(found) for found in results), strict=True)],
        "spent": [statistics.fmean(values) for values in zip(*(_summed(f["bytes"]) for f in results), strict=True)],
        "share": 100 * statistics.fmean(sum(f["sent"]) / (f["values"]["model"] * len(f["sent"])) for f in results),
    }


def against_bytes(ax: Axes) -> None:
    """Axes of accuracy against kilobytes."""
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(plain)
    ax.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "235" else ""))
    ax.tick_params(axis="x", which="both", labelsize=8)
    ax.set_xlabel("kB, up and down, one institution")
    ax.set_ylabel("test accuracy, %, mean of three rounds")


def _summed(costs: Sequence[float]) -> list[float]:
    total, found = 0.0, []
    for cost in costs:
        total += cost
        found.append(total)
    return found
