"""Faults that take long to mend, and all of them in one run: nothing is lost, nothing is applied twice."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dictpfl.client.replay import replay
from dictpfl.common.ckks.opening import opener_for
from dictpfl.deploy.operations.status import of_institution
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT
from dictpfl.server.journal import Journal
from tests.support.machines import Deployment, config, deployed, until

pytestmark = [pytest.mark.deployment, pytest.mark.nightly]
MINIMUM = 3
NOT_IN_A_BACKUP = ("run", "logs", "flower")
"""What runs there and what `up` installs anew."""


def kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def set_snapshots(deployment: Deployment, every: int, kept: int = 0) -> None:
    path = deployment.coordinator / AGREEMENT
    replace(Agreement.load(path), snapshot_every=every, snapshots_kept=kept).save(path)


def back_up(institution: Path, backup: Path) -> Path:
    """A copy of an institution's folder, taken while it runs."""
    return shutil.copytree(
        institution, backup, ignore=lambda _, names: {n for n in names if n in NOT_IN_A_BACKUP or n[0] == "."}
    )


def restore(institution: Path, backup: Path) -> None:
    for path in institution.iterdir():
        if path.name not in NOT_IN_A_BACKUP:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(backup, institution, dirs_exist_ok=True)


def machine_down(deployment: Deployment, index: int) -> None:
    """All processes of an institution are gone at once."""
    institution = deployment.home(index)
    programs = [pid for name in ("supernode", "superexec") for pid in deployment.children(institution, name)]
    kill(deployment.nodes[index].process.pid, *programs)
    deployment.nodes[index].process.wait()


def everything_once(deployment: Deployment, updates: int) -> None:
    """One state everywhere: that of every journalled sum, applied once; and no round that had enough uploads is missing."""
    genesis = deployment.founded.genesis
    journal = Journal(deployment.coordinator / "journal.sqlite", genesis.federation, genesis.fingerprint)
    try:
        aggregates, kinds = list(journal.aggregates(0)), list(journal.kinds())
        refused = journal._db.execute("SELECT round, reasons FROM refusals").fetchall()
    finally:
        journal.close()
    assert [a.round for a in aggregates] == list(range(len(kinds)))
    assert kinds.count("update") == updates
    uploads = [upload for aggregate in aggregates for upload in aggregate.counted]
    assert len(uploads) == len(set(uploads)), "an upload was counted twice"
    assert min(len(aggregate.counted) for aggregate in aggregates) >= MINIMUM
    for number, reasons in refused:
        missing = len(json.loads(reasons))
        assert missing > 0, f"round {number} was asked again although nobody was missing"
    state, opener = genesis.start(), opener_for(genesis.parameters, deployment.founded.key)
    for aggregate in aggregates:
        done = replay(genesis, opener, state, aggregate, MINIMUM)
        assert not done.void
        state = done.state
    assert state.updates == updates
    assert set(deployment.digests()) == {state.digest.hex()}


def diary(deployment: Deployment, index: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (deployment.home(index) / "diary.jsonl").read_text().splitlines()]


def test_a_client_is_restarted_from_a_copy_two_rounds_old(tmp_path: Path) -> None:
    with deployed(tmp_path, config(training__steps=10)) as deployment:
        deployment.start()
        institution = deployment.home(1)
        assert deployment.run("--rounds", 2).wait(200) == 0
        backup = back_up(institution, tmp_path / "backup")
        assert deployment.run("--rounds", 4).wait(200) == 0
        deployment.nodes[1].stop()
        held = deployment.digests()[1]
        restore(institution, backup)
        assert deployment.digests()[1] != held, "the copy is older"
        deployment.start_institution(1)
        run = deployment.run("--rounds", 6)
        assert run.wait(240) == 0, run.text
        everything_once(deployment, 6)
        assert set(deployment.sums().values()) == {3}


@contextmanager
def held_up(institution: Path) -> Iterator[None]:
    """Another process of the institution is at work on its memory: a request that has arrived waits for it."""
    (lock,) = (institution / "memory").glob("*.lock")
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_one_that_is_too_slow_is_dropped_and_told_so(tmp_path: Path) -> None:
    """Its answer is made only after the round was closed without it."""
    deadline = 15.0
    made = config(federation__participants=4, federation__deadline_seconds=deadline, training__steps=10)
    with deployed(tmp_path, made) as deployment:
        deployment.start()
        assert deployment.run("--rounds", 2).wait(200) == 0
        before, slow = deployment.rounds(), 3
        with held_up(deployment.home(slow)):
            run = deployment.run("--rounds", 4)
            until(lambda: deployment.rounds() > before, 90, "the round closed without it")
            time.sleep(deadline / 2)
        assert run.wait(240) == 0, run.text
        everything_once(deployment, 4)
        assert deployment.sums()[before] == MINIMUM
        delivery = of_institution(deployment.home(slow))["delivery"]
        assert delivery["missed"] >= 1
        told = next(line for line in diary(deployment, slow) if line.get("counted") is False)
        assert told["round"] == before
        assert told["late_seconds"] > 0
        assert "raise deadline_seconds" in told["meaning"]
        assert "is not in the sum" in (deployment.home(slow) / "logs" / "superexec.log").read_text()


def test_all_faults_in_one_run(tmp_path: Path) -> None:
    """Three institutions of which every round needs all, until a fourth comes; something dies at every turn."""
    rounds = 12
    # Eight rounds of 16 bits a value are longer than a snapshot: the late one takes the shorter way.
    made = config(
        federation__participants=4, federation__min_participants=MINIMUM, federation__rounds=rounds, training__steps=400,
        grid__value_bits=16, pruning__enabled=False,
    )  # fmt: skip
    with deployed(tmp_path, made) as deployment:
        set_snapshots(deployment, every=3)
        deployment.start([0, 1, 2])
        run = deployment.run()
        backup, copied = tmp_path / "backup", 0

        def at_work(fault: Callable[[], None]) -> None:
            until(lambda: deployment.busy() is not None, 120, "an institution at work")
            fault()

        def reached(number: int) -> int:
            until(lambda: deployment.rounds() >= number, 240, f"round {number}")
            return deployment.rounds()

        def client_app() -> None:
            index = deployment.busy()
            kill(*deployment.tasks(deployment.home(0 if index is None else index)))

        def old_copy() -> None:
            machine_down(deployment, 2)
            restore(deployment.home(2), backup)
            deployment.start_institution(2)

        def coordinators_machine() -> None:
            assert deployment.up is not None
            programs = [
                pid for name in ("superlink", "superexec") for pid in deployment.children(deployment.coordinator, name)
            ]
            kill(deployment.up.process.pid, *programs)
            deployment.up.process.wait()
            deployment.start_coordinator()

        reached(1)
        at_work(client_app)
        copied = reached(2)
        back_up(deployment.home(2), backup)
        at_work(lambda: kill(deployment.processes(deployment.home(1))["supernode"]))
        reached(copied + 1)
        at_work(lambda: kill(deployment.processes(deployment.coordinator)["superlink"]))
        reached(max(8, copied + 2))
        deployment.start_institution(3)
        at_work(old_copy)
        reached(deployment.rounds() + 1)
        at_work(lambda: kill(deployment.processes(deployment.coordinator)["superexec"]))
        reached(deployment.rounds() + 1)
        at_work(coordinators_machine)
        assert run.wait(400) == 0, run.text
        assert deployment.rounds() == rounds + 1, "each closed once"
        everything_once(deployment, rounds)
        assert diary(deployment, 3)[0]["event"] == "jumped", "the late one started from a snapshot"
        assert deployment.sums()[rounds] == 4, "all were back at the end"
