"""The end of a run says who was not told, and a model that is short of the agreed updates says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from dictpfl.client.memory.record import Memory, Record
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.state import Residual
from dictpfl.deploy.cli import app
from dictpfl.deploy.operations import running
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import open_journal


@pytest.fixture
def online(coordinator: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who is online; a run that has nothing left to do ends at once."""
    names = ["berlin", "kyoto", "oslo"]
    path = coordinator / "federation.json"
    replace(Agreement.load(path), members=tuple(names)).save(path)

    @contextmanager
    def connected(*_: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(nodes=lambda: [SimpleNamespace(name=name, status="online") for name in names])

    monkeypatch.setattr(running, "connected", connected)
    monkeypatch.setattr(running, "run", lambda *_, **__: 4)
    return names


def test_a_run_tells_who_has_not_heard_of_its_end(coordinator: Path, online: list[str]) -> None:
    command = ["run", "--folder", str(coordinator)]
    assert "4 rounds closed, all institutions told" in CliRunner().invoke(app, command).output
    online.remove("kyoto")
    said = " ".join(CliRunner().invoke(app, command).output.split())
    assert "all institutions told" not in said
    assert "4 rounds closed; NOT told, since not online: kyoto." in said
    assert '"not_told": ["kyoto"]' in CliRunner().invoke(app, [*command, "--log-json"]).output
    journal = open_journal(coordinator, Agreement.load(coordinator / "federation.json"))
    journal.exclude("kyoto", "left")
    journal.close()
    assert running.away(coordinator) == []


def test_a_run_says_whom_it_waits_for(coordinator: Path, online: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It printed that a run was started, and nothing more for as long as nobody came."""
    now = [0.0]
    monkeypatch.setattr(running.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(running, "installed", lambda *_: b"")
    agreement = replace(Agreement.load(coordinator / "federation.json"), min_participants=3)
    watch = running._Watch(coordinator, agreement, lambda *_: None)
    control: Any = SimpleNamespace(nodes=lambda: [SimpleNamespace(name=name, status="online") for name in online])
    with structlog.testing.capture_logs() as logs:
        for seconds, there in ((0, 1), (9, 1), (11, 1), (20, 1), (21, 2), (22, 3), (23, 2), (24, 2), (40, 2)):
            now[0] = 100.0 + seconds
            online[:] = ["berlin", "kyoto", "oslo"][:there]
            watch._say_who_is_missing(control)
    watch.journal.close()
    said = [(entry["online"], entry["minimum"], entry["not_online"]) for entry in logs]
    assert said == [(1, 3, ["kyoto", "oslo"]), (2, 3, ["oslo"]), (2, 3, ["oslo"])]


@pytest.mark.parametrize(("rounds", "told"), [(3, [(3, 14)]), (14, []), (15, [])])
def test_who_asks_for_further_rounds_and_names_fewer_than_are_closed_is_told(
    rounds: int, told: list[tuple[int, int]], coordinator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "installed", lambda *_: b"")
    monkeypatch.setattr(running._Watch, "to_the_end", lambda *_, **__: None)
    monkeypatch.setattr(running.Journal, "updates", lambda _: 14)
    with structlog.testing.capture_logs() as logs:
        running.run(coordinator, rounds)
    assert [(entry["asked"], entry["closed"]) for entry in logs if "asked" in entry] == told


def test_a_model_that_is_short_of_the_agreed_updates_says_so(institution: Path, tmp_path: Path) -> None:
    genesis = Genesis.load(institution)
    memory = Memory(institution / "memory", genesis.federation)
    for updates in (1, genesis.config.federation.rounds):
        shared = replace(genesis.start(), round=updates, updates=updates)
        memory.store(Record(shared, Residual(genesis.start().values * 0), bytes(32)))
        out = tmp_path / f"{updates}.safetensors"
        said = CliRunner().invoke(app, ["export", str(institution), "-o", str(out)]).output
        assert (f"1 of {genesis.config.federation.rounds} updates" in said) == (updates == 1), said
        assert ("older model than the others" in " ".join(said.split())) == (updates == 1), said
