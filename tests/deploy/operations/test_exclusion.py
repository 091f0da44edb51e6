"""`dictpfl coordinator exclude` and `readmit`, and what the deployment tells the journal of names."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from dictpfl.common.errors import EngineError
from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.deploy.ceremony.custody import verify
from dictpfl.deploy.ceremony.nodes import make_node_key
from dictpfl.deploy.cli import app
from dictpfl.deploy.operations import coordinator as operations
from dictpfl.deploy.operations.control import Node, RunState
from dictpfl.deploy.operations.coordinator import admit_nodes
from dictpfl.deploy.operations.places import NODES
from dictpfl.deploy.operations.running import _Watch
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, Coordinator, open_journal
from dictpfl.server.journal import Journal
from dictpfl.server.rows import ClosedRound


@pytest.fixture
def coordinator(coordinator: Path) -> Path:
    """A coordinator's folder that knows its members."""
    agreement = replace(Agreement.load(coordinator / AGREEMENT), members=("berlin", "kyoto", "oslo"))
    agreement.save(coordinator / AGREEMENT)
    return coordinator


def journal_of(folder: Path) -> Journal:
    return open_journal(folder, Agreement.load(folder / AGREEMENT))


def said(*arguments: Any) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["coordinator", *map(str, arguments)])
    return done.exit_code, " ".join(f"{done.output} {done.exception or ''}".split())


def excluded(folder: Path) -> dict[str, str]:
    journal = journal_of(folder)
    try:
        return {one.name: one.reason for one in journal.excluded()}
    finally:
        journal.close()


def test_exclude_and_readmit(coordinator: Path) -> None:
    code, text = said("exclude", "oslo", "--reason", "sends nonsense", "--folder", coordinator)
    assert code == 0, text
    assert "oslo is excluded; excluded are oslo" in text
    assert "2 institutions are left, at least 3 must be in a sum" in text
    assert excluded(coordinator) == {"oslo": "sends nonsense"}
    code, text = said("readmit", "oslo", "--folder", coordinator)
    assert code == 0, text
    assert excluded(coordinator) == {}
    (log,) = verify(coordinator)
    assert [(entry["event"], entry["facts"]) for entry in log.entries] == [
        ("institution excluded", {"institution": "oslo", "reason": "sends nonsense"}),
        ("institution readmitted", {"institution": "oslo"}),
    ]


def test_a_key_that_is_none_is_not_admitted(coordinator: Path, tmp_path: Path) -> None:
    """Also where no SuperLink is there to refuse it: with such a file the next one would not start."""
    private, public = make_node_key()
    (tmp_path / "node.pub").write_text(public)
    code, text = said("admit", "oslo", tmp_path / "node.pub", "--folder", coordinator)
    assert code == 0, text
    kept = coordinator / NODES / "oslo.pub"
    for content in (private, b"", b"vm\n", b'{"format": "dictpfl-identity-1"}'):
        (tmp_path / "other").write_bytes(content)
        code, text = said("admit", "oslo", tmp_path / "other", "--folder", coordinator)
        assert code != 0
        assert "other is no public key of a node" in text
        assert kept.read_text() == public


def test_nobody_is_admitted_in_another_folder(institution: Path, tmp_path: Path) -> None:
    (tmp_path / "node.pub").write_text(make_node_key()[1])
    for folder, reason in (
        (tmp_path / "typo", "is no party's folder yet"),
        (institution, "is an institution's folder"),
    ):
        code, text = said("admit", "oslo", tmp_path / "node.pub", "--folder", folder)
        assert code != 0
        assert reason in text
        assert not (folder / NODES).exists()


@pytest.mark.parametrize(
    "command",
    ["run", "run --drain", "coordinator exclude oslo", "coordinator readmit oslo", "coordinator dismiss oslo"],
)
def test_a_wrong_folder_is_named_before_a_file_is_missed(command: str, institution: Path, tmp_path: Path) -> None:
    for folder, reason in (
        (tmp_path / "typo", "is no party's folder yet"),
        (institution, "is an institution's folder, expected a coordinator's"),
    ):
        done = CliRunner().invoke(app, [*command.split(), "--folder", str(folder)])
        text = f"{done.output} {done.exception or ''}"
        assert done.exit_code != 0
        assert reason in text
        assert "Errno" not in text


def test_names_of_nobody(coordinator: Path) -> None:
    code, text = said("exclude", "madrid", "--folder", coordinator)
    assert code != 0
    assert "'madrid' is no member and no admitted node; known are ['berlin', 'kyoto', 'oslo']" in text
    code, text = said("readmit", "oslo", "--folder", coordinator)
    assert code != 0
    assert "'oslo' is not excluded" in text
    assert excluded(coordinator) == {}


class FakeControl:
    """A SuperLink that has registered some nodes."""

    def __init__(self, *nodes: Node) -> None:
        self._nodes = nodes

    def dismiss_others(self, _kept: object, spared: Sequence[str] = ()) -> list[str]:
        self.spared = list(spared)
        return []

    def admit(self, _key: Path) -> None:
        return None

    def nodes(self) -> list[Node]:
        return list(self._nodes)


LARGE = 2**64 - 3
"""A node's number as Flower draws them: more than SQLite's integers hold."""


def admitted_under(folder: Path, *names: str) -> None:
    (folder / NODES).mkdir(exist_ok=True)
    for name in names:
        (folder / NODES / f"{name}.pub").write_text("a key")


def test_who_is_up_is_excluded_by_the_key_that_was_admitted(coordinator: Path) -> None:
    """No upload is needed: the SuperLink knows each node by its key, and the operator admitted that under a name."""
    admitted_under(coordinator, "berlin", "oslo")
    control = FakeControl(
        *(Node(n, name, "online", 0.0, "") for n, name in ((5, "berlin"), (LARGE, "oslo"), (7, "old")))
    )
    assert admit_nodes(control, coordinator) == ([], [])  # type: ignore[arg-type]
    running = Coordinator.open(coordinator)
    assert sorted(running.begin([5, 7, LARGE])) == [5, 7, LARGE]
    said("exclude", "oslo", "--folder", coordinator)
    assert sorted(running.begin([5, 7, LARGE])) == [5, 7], "a run that is on sees it at its next exchange"
    running.close_journal()


def test_a_member_whose_file_is_missing_is_not_struck_off(coordinator: Path) -> None:
    """A file that was not restored is not a decision, and would cost an institution its place."""
    admitted_under(coordinator, "berlin", "oslo")
    control = FakeControl(*(Node(n, name, "online", 0.0, "") for n, name in ((5, "berlin"), (6, "kyoto"), (7, "oslo"))))
    with capture_logs() as logs:
        admit_nodes(control, coordinator)  # type: ignore[arg-type]
    assert control.spared == ["kyoto"]
    assert any("no nodes/NAME.pub of kyoto" in str(line["event"]) for line in logs)
    said("exclude", "kyoto", "--folder", coordinator)
    running = Coordinator.open(coordinator)
    assert sorted(running.begin([5, 6, 7])) == [5, 7], "and its name is known all the same"
    running.close_journal()


def test_names_are_brought_up_to_date_first(coordinator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def connected(*_: object) -> Any:
        yield FakeControl(Node(9, "lagos", "online", 0.0, ""))

    admitted_under(coordinator, "lagos")
    monkeypatch.setattr(operations, "connected", connected)
    operations.exclude(coordinator, "lagos")
    running = Coordinator.open(coordinator)
    assert sorted(running.begin([8, 9])) == [8]
    running.close_journal()


def test_a_run_that_asking_again_does_not_mend_is_not_started_again(coordinator: Path) -> None:
    journal = journal_of(coordinator)
    for number in range(3):
        closed = ClosedRound(number, RoundKind.UPDATE, 1.0, 2.0, 0.1, 9, 1, {}, ("berlin", "kyoto", "oslo"))
        journal.record(closed, Aggregate(number, b"sum", (b"u" * 16,)))
        journal.void(number, 3.0, ["berlin", "kyoto", "oslo"])
    watch = SimpleNamespace(journal=journal)
    with pytest.raises(EngineError, match=r"rounds 0 to 2 are void.*dictpfl coordinator exclude NAME"):
        _Watch._endure(watch, RunState(1, "finished", "failed", ""), 1)  # type: ignore[arg-type]
    journal.close()
