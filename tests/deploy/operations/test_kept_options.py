"""Options of `up`: kept before its programs start, which read them, and not where it is refused."""

from __future__ import annotations

import shutil
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from dictpfl.common.errors import AppBundleError, ProcessError
from dictpfl.deploy.app.pinned import FAB
from dictpfl.deploy.operations import coordinator as coordinators
from dictpfl.deploy.operations import institution as institutions
from dictpfl.deploy.operations import processes
from dictpfl.deploy.operations.certificates import try_out
from dictpfl.deploy.operations.institution import enrol
from dictpfl.deploy.operations.places import FLOWER, RUN, prepare
from dictpfl.deploy.operations.processes import Program, alone
from dictpfl.deploy.operations.settings import CoordinatorSettings, NodeSettings
from tests.deploy.operations.conftest import stopped_when
from tests.support.machines import free_port

AWAY = "127.0.0.1:1"
"""Address of a coordinator that nobody reaches."""


@pytest.fixture(params=["coordinator", "institution"])
def party(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ModuleType, Path, Path]:
    """A party that could start: what starts it, its folder, its settings, which say a port."""
    folder: Path = request.getfixturevalue(request.param)
    if request.param == "coordinator":
        try_out(folder / "tls", [])
        CoordinatorSettings.updated(folder, port=free_port())
        return coordinators, folder, folder / CoordinatorSettings.FILE
    enrol(folder)
    try_out(tmp_path / "tls", [])
    shutil.copy(tmp_path / "tls" / "ca.pem", folder / "ca.pem")
    NodeSettings.updated(folder, coordinator=AWAY, port=free_port())
    return institutions, folder, folder / NodeSettings.FILE


def test_a_wrong_bundle_leaves_the_settings_as_they_were(party: tuple[ModuleType, Path, Path]) -> None:
    side, folder, path = party
    before = path.read_bytes()
    with pytest.raises(AppBundleError):
        side.up(folder, bundle="abc", port=free_port())
    assert path.read_bytes() == before


def test_a_second_up_leaves_the_settings_of_the_first(party: tuple[ModuleType, Path, Path]) -> None:
    side, folder, path = party
    before = path.read_bytes()
    with alone(prepare(folder) / RUN), pytest.raises(ProcessError, match="another `up` runs"):
        side.up(folder, port=free_port(), heartbeat=20.0)
    assert path.read_bytes() == before


def test_a_second_up_leaves_the_app_of_the_first(party: tuple[ModuleType, Path, Path]) -> None:
    """It unpacked the app anew below tasks that ran, and said no more than that the port of metrics is taken."""
    side, folder, _ = party
    with (
        socket.create_server(("127.0.0.1", 0)) as metrics,
        alone(prepare(folder) / RUN),
        pytest.raises(ProcessError, match="another `up` runs"),
    ):
        side.up(folder, metrics_port=metrics.getsockname()[1])
    assert not (folder / FLOWER / FAB).exists()


def test_a_port_that_is_taken_is_not_kept(
    party: tuple[ModuleType, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PORT_SECONDS", 0.0)
    side, folder, path = party
    before = path.read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ProcessError, match="is in use"):
        side.up(folder, port=taken.getsockname()[1])
    assert path.read_bytes() == before


def test_programs_find_what_was_given(
    party: tuple[ModuleType, Path, Path],
    tmp_path: Path,
    code: Callable[[str], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    side, folder, path = party
    seen = tmp_path / "seen"
    look = f"import shutil; shutil.copy({str(path)!r}, {str(seen)!r}); time.sleep(60)"
    monkeypatch.setattr(side, "programs", lambda *_, **__: [Program("looks", code(look), {}, ready=lambda: False)])
    monkeypatch.setattr(processes, "POLL_SECONDS", 0.02)
    port = free_port()
    with stopped_when(lambda: seen.exists() and seen.stat().st_size, 30) as outcome:
        side.up(folder, port=port, heartbeat=20.0)
    assert outcome
    found = tomllib.loads(seen.read_text())
    assert (found["port"], found["heartbeat"]) == (port, 20.0)
    assert tomllib.loads(path.read_text()) == found
