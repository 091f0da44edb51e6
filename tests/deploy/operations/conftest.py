"""Programs that do what a test says, started as Flower's are; and a federation that was founded, to be copied."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dictpfl.deploy.operations import processes
from dictpfl.deploy.operations.places import prepare
from dictpfl.deploy.operations.processes import Program, Supervisor
from dictpfl.deploy.simulation.founding import found
from tests.support import ROOT
from tests.support.federations import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A party's folder."""
    return prepare(tmp_path / "party")


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Turns Python code into the command of a program: an entry point, like Flower's, which runs its first argument."""
    place = tmp_path / "entry-points"
    info = place / "fakeprogram-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fakeprogram\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[console_scripts]\nfake-program = fakeprogram:main\n")
    (place / "fakeprogram.py").write_text(
        "import sys, time, os, signal, subprocess\nfrom pathlib import Path\ndef main():\n    exec(sys.argv[1])\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{place}")
    return lambda text: ["fake-program", text]


@pytest.fixture
def supervised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Supervisor]:
    """Runs a supervisor until a condition holds, then stops it as an operator would, by SIGTERM."""
    monkeypatch.setattr(processes, "POLL_SECONDS", 0.02)

    def run(programs: list[Program], until: Callable[[], object], seconds: float = 20.0, **more: Any) -> Supervisor:
        supervisor = Supervisor(programs, folder, **more)
        with stopped_when(until, seconds) as outcome:
            supervisor.run()
        assert outcome, f"not within {seconds} s"
        return supervisor

    return run


@contextmanager
def stopped_when(condition: Callable[[], object], seconds: float) -> Iterator[list[bool]]:
    """SIGTERM to this process once the condition holds, or the time is over; the list says which by being full."""
    outcome: list[bool] = []
    over = threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not over.is_set():
            if condition():
                outcome.append(True)
                break
            time.sleep(0.02)
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield outcome
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A founded federation of three that encrypts nothing; copy it before changing it."""
    return found(tiny(federation__rounds=3), tmp_path_factory.mktemp("founded") / "federation").folder


@pytest.fixture
def coordinator(federation: Path, tmp_path: Path) -> Path:
    """A coordinator's folder, as the ceremony leaves it."""
    return Path(shutil.copytree(federation / "coordinator", tmp_path / "coordinator"))


@pytest.fixture
def institution(federation: Path, tmp_path: Path) -> Path:
    """An institution's folder, as the ceremony leaves it."""
    return Path(shutil.copytree(federation / "institutions" / "institution-000", tmp_path / "institution"))
