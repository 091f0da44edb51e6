"""A federation of real processes over TLS: it agrees with the simulation, and survives what kills its processes.

One deployment serves most tests, in order: each adds a round to it and breaks something meanwhile.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harness import NGINX, ROOT, Command, Deployment, config, deployed, free_port, until

from client.data import Samples
from client.memory import Memory
from client.site import KEY, TRAIN
from common.errors import BundleError, CertificateError, KeyFileError
from common.keys import load_key
from deploy.engines.local import run_local
from deploy.founding import Founded, found
from deploy.operations.certificates import try_out
from deploy.operations.institution import require_trusted
from deploy.simulation import simulate
from server.agreement import Agreement

pytestmark = pytest.mark.deployment

ROUNDS = 6
PLANTED = 1234.567890123
"""A feature value of every training sample's first coordinate at institution 0: it must never leave."""
needs_nginx = pytest.mark.skipif(
    NGINX is None, reason="NO PROXY TESTED: nginx is not installed (apt-get install nginx-light)"
)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("deployment"), config(training__steps=40)) as made:
        made.start()
        yield made


class Twin:
    """The same federation played by the local engine, for the digest that the deployment must reach."""

    def __init__(self, folder: Path) -> None:
        self.founded: Founded = found(config(training__steps=40), folder)
        self._agreement = self.founded.coordinator / "federation.json"

    def digest(self, rounds: int) -> str:
        replace(Agreement.load(self._agreement), rounds=rounds).save(self._agreement)
        run_local(self.founded.coordinator, self.founded.sites, 3)
        record = Memory(self.founded.site(0) / "memory", self.founded.genesis.federation).recall()
        assert record is not None
        return record.shared.digest.hex()


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    return Twin(tmp_path_factory.mktemp("twin") / "federation")


def test_six_rounds_equal_the_simulation(deployment: Deployment, twin: Twin, tmp_path: Path) -> None:
    run = deployment.run("--rounds", ROUNDS)
    simulated = simulate(config(training__steps=40), tmp_path / "run", engine="local").summary["state_digest"]
    assert run.wait(240) == 0, run.text
    assert set(deployment.digests()) == {simulated} == {twin.digest(ROUNDS)}
    assert run.text.count('"event": "round"') == ROUNDS + 1


def killed(deployment: Deployment, twin: Twin, rounds: int, fault: Callable[[], None], seconds: float = 200) -> Command:
    """Another round, with something killed once it is open."""
    before = deployment.rounds()
    run = deployment.run("--rounds", rounds)
    until(lambda: busy(deployment), 90, "an institution at work")
    fault()
    assert run.wait(seconds) == 0, run.text
    assert deployment.rounds() == before + 2, "the update and the measurement, each closed once"
    assert set(deployment.digests()) == {twin.digest(rounds)}
    return run


def busy(deployment: Deployment) -> int | None:
    """An institution that is at work on a request right now: its memory is locked."""
    for index in range(deployment.participants):
        for lock in (deployment.site(index) / "memory").glob("*.lock"):
            with lock.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return index + 1
    return None


def kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_superlink_is_killed(deployment: Deployment, twin: Twin) -> None:
    killed(deployment, twin, 7, lambda: kill(deployment.processes(deployment.coordinator)["superlink"]))


def test_superexec_of_the_coordinator_is_killed(deployment: Deployment, twin: Twin) -> None:
    killed(deployment, twin, 8, lambda: kill(deployment.processes(deployment.coordinator)["superexec"]))


def test_client_app_is_killed_in_the_middle_of_training(deployment: Deployment, twin: Twin) -> None:
    def fault() -> None:
        index = (busy(deployment) or 1) - 1
        kill(*deployment.tasks(deployment.site(index)))

    killed(deployment, twin, 9, fault)


def test_supernode_is_killed(deployment: Deployment, twin: Twin) -> None:
    killed(deployment, twin, 10, lambda: kill(deployment.processes(deployment.site(1))["supernode"]))


def test_the_coordinators_machine_goes_down(deployment: Deployment, twin: Twin) -> None:
    def fault() -> None:
        assert deployment.up is not None
        programs = [p for name in ("superlink", "superexec") for p in deployment.children(deployment.coordinator, name)]
        kill(deployment.up.process.pid, *programs)
        deployment.up.process.wait()
        deployment.start_coordinator()

    killed(deployment, twin, 11, fault)


def test_an_institution_that_arrives_at_round_four(tmp_path: Path) -> None:
    made = config(federation__participants=4, federation__min_participants=3, federation__rounds=6)
    with deployed(tmp_path, made) as four:
        four.start([0, 1, 2])
        run = four.run()
        until(lambda: four.rounds() >= 3, 120, "three rounds closed")
        four.start_institution(3)
        assert run.wait(200) == 0, run.text
        contributors = [int(line.rpartition(":")[2].strip(" }")) for line in run.text.splitlines() if '"round":' in line]
        assert contributors[0] == 3, "it began without"
        assert len(set(four.digests())) == 1
