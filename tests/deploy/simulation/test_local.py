"""The in-process engine with tiny stand-ins for coordinator and institution, and every fault that it can inject."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import zipfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.supercore.task_identity import TaskIdentity

import dictpfl.client.app
import dictpfl.server.strategy
from dictpfl.client.app import institution_folder
from dictpfl.common.errors import ConfigError, DataError, DictPFLError, EngineError
from dictpfl.common.messages.protocol import Reply, Request, RoundKind, Status
from dictpfl.deploy.app.bundle import write_app
from dictpfl.deploy.simulation.local import COORDINATOR, FIRST_NODE, RUN, Fault, LocalGrid, run_local
from dictpfl.server.strategy import Patience


class FakeCoordinator:
    """Counts uploads: a round closes with at least two, and `rounds` of them finish."""

    last: ClassVar[FakeCoordinator]
    rounds: ClassVar[int] = 3
    least = 2
    deadline_seconds = 0.3

    def __init__(self, folder: Path) -> None:
        self.folder, self.round, self.released = folder, 0, False
        self.uploads: dict[int, bytes] = {}
        self.failures: list[tuple[int, str]] = []
        self.refusals: list[str] = []
        self.closed: list[dict[int, bytes]] = []

    @classmethod
    def open(cls, folder: Path) -> FakeCoordinator:
        cls.last = cls(folder)
        return cls.last

    rejected: ClassVar[dict[int, str]] = {}
    satisfied = False

    @property
    def finished(self) -> bool:
        return self.round >= self.rounds

    def welcome(self, nodes: Iterable[int]) -> list[int]:
        return sorted(nodes)

    def begin(self, nodes: Sequence[int]) -> dict[int, Request]:
        self.uploads = {}
        return {node: Request(self.round, RoundKind.UPDATE, b"f" * 32, b"k" * 32) for node in nodes}

    def receive(self, node: int, reply: Reply) -> Request | None:
        if reply.status is Status.UPLOAD:
            assert node not in self.uploads
            self.uploads[node - FIRST_NODE] = reply.blob
        else:
            self.refusals.append(reply.code)
        return None

    def failed(self, node: int, reason: str) -> None:
        self.failures.append((node - FIRST_NODE, reason))

    def close(self) -> None:
        self.closed.append(self.uploads)
        self.round += len(self.uploads) >= self.least

    def close_journal(self) -> None:
        self.released = True


class FakeInstitution:
    """Answers with its folder's name and the round; knows how often it was asked."""

    asked: ClassVar[list[tuple[str, int]]] = []
    error: ClassVar[Exception | None] = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def handle(self, request: Request) -> Reply:
        self.asked.append((self.folder.name, request.round))
        if self.error is not None and self.folder.name.endswith("1"):
            raise self.error
        blob = f"{self.folder.name}@{request.round}".encode()
        return Reply(Status.UPLOAD, request.round, request.round, blob)


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-ins where both apps look for the real ones."""
    opened = ModuleType("dictpfl.client.institution")
    vars(opened)["open_institution"] = FakeInstitution
    monkeypatch.setitem(sys.modules, "dictpfl.client.institution", opened)
    server_app = importlib.import_module("dictpfl.server.app")
    monkeypatch.setattr(server_app, "open_coordinator", FakeCoordinator.open)
    monkeypatch.setattr(FakeCoordinator, "rounds", 3)
    monkeypatch.setattr(FakeInstitution, "asked", [])
    monkeypatch.setattr(dictpfl.server.strategy, "Patience", partial(Patience, settle=0, retry=0.001, attempts=3))


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def run(folder: Path, **options: Any) -> FakeCoordinator:
    run_local(folder / "coordinator", folder / "institutions", 3, **options)
    return FakeCoordinator.last


def expected(number: int, *institutions: int) -> dict[int, bytes]:
    return {institution: f"institution-{institution:03d}@{number}".encode() for institution in institutions}


def test_runs_every_round_at_every_institution(tmp_path: Path) -> None:
    coordinator = run(tmp_path)
    assert coordinator.folder == tmp_path / "coordinator"
    assert coordinator.released
    assert coordinator.closed == [expected(number, 0, 1, 2) for number in range(3)]


def test_leaves_environment_and_identity_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICTPFL_INSTITUTIONS", "elsewhere")
    monkeypatch.delenv("DICTPFL_COORDINATOR", raising=False)
    monkeypatch.setattr(TaskIdentity, "_run_id", 77)
    run(tmp_path)
    assert os.environ["DICTPFL_INSTITUTIONS"] == "elsewhere"
    assert "DICTPFL_COORDINATOR" not in os.environ
    assert TaskIdentity.run_id == 77


def test_the_environment_comes_back_after_an_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DICTPFL_COORDINATOR", raising=False)
    with pytest.raises(EngineError, match="flower-error-2"):
        run(tmp_path, faults=lambda _partition, _message: Fault.RAISE)
    assert FakeCoordinator.last.released
    assert "DICTPFL_COORDINATOR" not in os.environ


@pytest.mark.parametrize(
    ("fault", "reason", "worked"),
    [
        (Fault.LOSE_REQUEST, "flower-error-5", False),
        (Fault.LOSE_REPLY, "flower-error-5", True),
        (Fault.DELAY_REPLY, "flower-error-5", True),
        (Fault.RAISE, "flower-error-2", False),
        (Fault.DUPLICATE_REPLY, None, True),
    ],
)
def test_faults(tmp_path: Path, fault: Fault, reason: str | None, *, worked: bool) -> None:
    def faults(partition: int, message: Message) -> Fault:
        header = message.content["request"]
        assert isinstance(header, ConfigRecord)
        return fault if partition == 1 and header["round"] == 1 else Fault.NONE

    coordinator = run(tmp_path, faults=faults)
    assert coordinator.failures == ([(1, reason)] if reason else [])
    there = (0, 2) if reason else (0, 1, 2)
    assert coordinator.closed == [expected(0, 0, 1, 2), expected(1, *there), expected(2, 0, 1, 2)]
    assert (("institution-001", 1) in FakeInstitution.asked) == worked


def test_silence_lasts_until_the_deadline(tmp_path: Path) -> None:
    coordinator = run(tmp_path, faults=lambda part, _: Fault.LOSE_REPLY if part == 2 else Fault.NONE, silent=True)
    assert coordinator.failures == [(2, "deadline")] * 3


@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError("Patient Doe"), "data"), (RuntimeError("Patient Doe"), "error")],
    ids=["ours", "another"],
)
def test_exceptions_stay_with_the_institution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    monkeypatch.setattr(FakeInstitution, "error", error)
    coordinator = run(tmp_path)
    assert coordinator.refusals == [code] * 3
    assert not coordinator.failures


def test_a_message_that_is_no_request_is_refused_by_code(identity: None) -> None:
    grid = LocalGrid(dictpfl.client.app.app, 1)
    (message_id,) = grid.push_messages([Message(RecordDict(), FIRST_NODE, "train")])
    (reply,) = grid.pull_messages([message_id])
    said = {"status": "refused", "round": 0, "position": 0, "code": "wire", "snapshot": 0}
    assert dict(reply.content["reply"]) == said


def test_whoever_watches_is_called_after_each_answer_and_at_the_end(tmp_path: Path) -> None:
    rounds: list[int] = []
    run(tmp_path, on_poll=lambda: rounds.append(FakeCoordinator.last.round))
    assert rounds == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # flwr's own use of pathspec
def test_the_app_folder_is_complete_and_the_same_everywhere(tmp_path: Path) -> None:
    one, two = write_app(tmp_path / "one"), write_app(tmp_path / "two" / "deeper")
    names = {path.relative_to(one).as_posix() for path in one.rglob("*") if path.is_file()}
    wanted = ("__init__.py", "server/app.py", "client/app.py", "common/messages/protocol.py")
    assert {"pyproject.toml", *(f"dictpfl/{name}" for name in wanted)} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("dictpfl/deploy", "tests"))]
    fab = build_fab_from_disk(one)
    assert fab == build_fab_from_disk(two)
    with zipfile.ZipFile(io.BytesIO(fab)) as bundle:
        assert names < set(bundle.namelist())


def test_the_app_folder_must_be_empty(tmp_path: Path) -> None:
    (tmp_path / "left over").touch()
    with pytest.raises(ConfigError, match="empty"):
        write_app(tmp_path)


def a_context(**config: Any) -> Context:
    return Context(RUN, FIRST_NODE, config, RecordDict(), {"institution": "from the run config"})


def test_the_institution_folder_comes_from_the_institution_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICTPFL_INSTITUTIONS", str(tmp_path))
    assert institution_folder(a_context(institution="/srv/institution")) == Path("/srv/institution")
    assert institution_folder(a_context(**{"partition-id": 12})) == tmp_path / "institution-012"
    with pytest.raises(ConfigError):
        institution_folder(a_context())
    monkeypatch.delenv("DICTPFL_INSTITUTIONS")
    with pytest.raises(ConfigError):
        institution_folder(a_context(**{"partition-id": 12}))


def test_the_coordinator_folder_comes_from_the_environment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DICTPFL_COORDINATOR", raising=False)
    app = importlib.import_module("dictpfl.server.app").app
    with pytest.raises(DictPFLError, match="DICTPFL_COORDINATOR"):
        app(
            LocalGrid(dictpfl.client.app.app, 1),
            Context(RUN, COORDINATOR, {}, RecordDict(), {"DICTPFL_COORDINATOR": "/"}),
        )
