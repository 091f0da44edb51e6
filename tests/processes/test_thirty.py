"""Thirty institutions as processes on one machine, and what the coordinator's memory does meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.machines import Deployment, config, deployed, until

pytestmark = [pytest.mark.deployment, pytest.mark.nightly]

FEW, MANY, ROUNDS = 6, 30, 5
TASKS = 4
"""Tasks at once: all on one machine, thirty of them would need memory that no institution's machine needs."""
COLD, WARM = 11 << 30, 18 << 30
"""Free bytes that the processes need; and with torch loaded ahead by each of them, as is usual."""
MEGABYTE = 1 << 20


def available() -> int:
    """Bytes of memory that the machine can still give."""
    facts = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in facts if line.startswith("MemAvailable")) << 10


def memory(pid: int, field_name: str) -> int:
    """Bytes by a field of /proc/PID/status; 0 once the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(field_name)), 0)


@dataclass
class Watched:
    """Resident memory of the coordinator's processes by the round that was open, in bytes."""

    app: dict[int, list[int]] = field(default_factory=dict)
    """Samples of the server app."""
    peak: int = 0
    """Its highest, by the kernel's own count."""
    link: dict[int, list[int]] = field(default_factory=dict)
    """Samples of the SuperLink."""


@contextmanager
def watching(deployment: Deployment) -> Iterator[Watched]:
    """Sample the newest task of the coordinator's SuperExec, and its SuperLink, twenty times a second."""
    found, over = Watched(), threading.Event()

    def look() -> None:
        looked, number = 0.0, 0
        while not over.wait(0.05):
            if time.monotonic() - looked > 1.0:
                looked, number = time.monotonic(), deployment.rounds()
            processes = deployment.processes(deployment.coordinator)
            tasks = deployment.tasks(deployment.coordinator)
            if len(tasks) < 2 or not processes.get("superlink"):
                continue  # only the process from which tasks start
            app = max(tasks)
            found.app.setdefault(number, []).append(memory(app, "VmRSS"))
            found.peak = max(found.peak, memory(app, "VmHWM"))
            found.link.setdefault(number, []).append(memory(processes["superlink"], "VmRSS"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def said(found: Watched, title: str) -> list[str]:
    lines = [f"{title}: resident memory by open round, MB"]
    for number in sorted(found.app):
        app, link = found.app[number], found.link[number]
        lines.append(
            f"  round {number}: server app {min(app) / MEGABYTE:6.1f} to {max(app) / MEGABYTE:6.1f}, "
            f"SuperLink {min(link) / MEGABYTE:6.1f} to {max(link) / MEGABYTE:6.1f}"
        )
    return [*lines, f"  server app's peak {found.peak / MEGABYTE:.1f}"]


def test_thirty_institutions_and_a_coordinator_whose_memory_stays_flat(tmp_path: Path, measured: list[str]) -> None:
    free = available()
    if free < COLD:
        pytest.skip(f"NOT TESTED: {MANY} institutions need {COLD >> 30} GB, free are {free >> 30} GB")
    slots = tmp_path / "slots"
    slots.mkdir()
    for number in range(TASKS):
        (slots / str(number)).touch()
    environment = {
        "DICTPFL_SLOTS": str(slots),
        "DICTPFL_AHEAD": "modules" if free >= WARM else "nothing",
        # Thirty SuperExecs that look four times a second would keep two cores busy by that alone.
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "1",
    }
    # The model is small, and sent whole, so that an upload is large enough to be seen in a process's memory; of 16 bits, so that
    # those of the first round, which few do not play, are no larger than the others.
    made = config(
        data__limit=600, model__options={"hidden": [1024, 1024]}, decomposition__enabled=False, pruning__enabled=False,
        grid__value_bits=16,
        federation__participants=MANY, federation__rounds=ROUNDS, federation__deadline_seconds=300.0,
    )  # fmt: skip
    with deployed(tmp_path, made, heartbeat=60, environment=environment) as deployment:
        deployment.start([])
        began = time.monotonic()
        for index in range(MANY):
            joins(deployment, index)
        until(lambda: online(deployment) == MANY, 300, "thirty online")
        started = time.monotonic()
        many = watched_run(deployment, measured, f"{MANY} institutions", ROUNDS)
        ended = time.monotonic()
        assert len(set(deployment.digests())) == 1
        # And once more with few, for comparison, in a new process.
        for index in range(FEW, MANY):
            deployment.nodes[index].process.terminate()
        until(lambda: online(deployment) == FEW, 120, "the others have left")
        few = watched_run(deployment, measured, f"{FEW} institutions", ROUNDS + 2)
        sums = deployment.sums()
        assert [sums[number] for number in range(len(sums))] == [MANY] * (ROUNDS + 1) + [FEW] * 3
        closed = deployment.closed()
    upload = max(round_.bytes_up // MANY for round_, _ in closed[: ROUNDS + 1])
    aggregate = max(length for _, length in closed)
    measured.append(
        f"upload {upload / MEGABYTE:.2f} MB, thirty {MANY * upload / MEGABYTE:.1f} MB, aggregate {aggregate / MEGABYTE:.2f} MB; "
        f"online after {started - began:.0f} s; {ROUNDS} rounds and a measurement in {ended - started:.0f} s, {TASKS} tasks "
        f"at once, torch loaded {'ahead' if free >= WARM else 'by each'}"
    )
    assert MANY * upload > 4 * aggregate, "too small to show anything"
    # Five times the institutions, and the peak moves by a fraction of what the others upload: replies that are ready
    # together are pulled together, and each is there two or three times until it is parsed and added.
    assert many.peak - few.peak < (MANY - FEW) * upload / 3
    # From its second round on, the process does not grow with rounds: one that kept every aggregate would have grown by
    # four of them at the end. The allocator's own steps, of an aggregate or so, are no growth.
    peaks = [max(many.app[number]) for number in sorted(many.app)]
    assert peaks[-1] - peaks[1] < 2 * aggregate, peaks
    assert peaks[-1] - peaks[2] < aggregate, peaks


def watched_run(deployment: Deployment, measured: list[str], title: str, rounds: int) -> Watched:
    """All rounds up to this many updates, and what the coordinator's processes took meanwhile; said even if it fails."""
    with watching(deployment) as found:
        run = deployment.run("--rounds", rounds)
        try:
            assert run.wait(900) == 0, run.text
        finally:
            measured += said(found, title)
    return found


def joins(deployment: Deployment, index: int) -> None:
    """Start an institution once few others are still starting: at once, all would be slow, and none would be sooner."""
    until(lambda: online(deployment) > len(deployment.nodes) - TASKS, 120, "institutions online")
    deployment.start_institution(index)


def online(deployment: Deployment) -> int:
    return sum(status == "online" for status in deployment.node_states().values())
