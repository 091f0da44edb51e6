"""What `status` says of a coordinator and an institution whose processes do not run."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dictpfl
from dictpfl.common.errors import ConfigError, KeyFileError, ProcessError
from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.deploy.app import pinned
from dictpfl.deploy.app.bundle import build
from dictpfl.deploy.cli import app
from dictpfl.deploy.operations import coordinator as coordinators
from dictpfl.deploy.operations import readiness
from dictpfl.deploy.operations.certificates import try_out
from dictpfl.deploy.operations.control import Node, RunState
from dictpfl.deploy.operations.environment import INSTITUTION
from dictpfl.deploy.operations.places import PROCESSES, prepare
from dictpfl.deploy.operations.processes import alone
from dictpfl.deploy.operations.settings import CoordinatorSettings
from dictpfl.deploy.operations.status import _node, of_coordinator, of_institution
from dictpfl.deploy.operations.task import Pin, open_ahead
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import open_journal
from dictpfl.server.journal import Journal
from dictpfl.server.rows import ClosedRound
from dictpfl.server.troubles import news
from tests.support.machines import until


def test_a_coordinator_before_its_first_round(coordinator: Path) -> None:
    found = of_coordinator(coordinator)
    assert found["rounds"] == []
    assert found["nodes"] is None
    assert found["processes"] == {}
    assert found["certificate_days_left"] is None
    assert found["insecurities"]
    assert not (coordinator / "journal.sqlite").exists(), "looking makes none"


def test_a_coordinator_with_rounds(coordinator: Path) -> None:
    limits = Agreement.load(coordinator / "federation.json").uploads
    journal = Journal(coordinator / "journal.sqlite", limits.federation, limits.fingerprint)
    closed = ClosedRound(0, RoundKind.UPDATE, 100.0, 103.0, 0.25, 999, 7, {"42": "late"})
    journal.record(closed, Aggregate(0, b"s" * 10, (b"a" * 16, b"b" * 16)))
    journal.close()
    try_out(coordinator / "tls", [], days=10)
    found = of_coordinator(coordinator)
    assert found["rounds"] == [
        {
            "round": 0, "kind": "update", "contributors": 2, "senders": [], "void": "", "ciphertexts": 7, "bytes_up": 999, "bytes_down": 10,
            "seconds": 3.0, "fold_seconds": 0.25, "ended": 103.0, "rejected": {"42": "late"}, "vain": [],
        }
    ]  # fmt: skip
    assert found["certificate_days_left"] == pytest.approx(10, abs=0.2)


def test_a_round_that_is_asked_for_again_and_again_is_shown_with_its_reasons(coordinator: Path) -> None:
    agreement = Agreement.load(coordinator / "federation.json")
    journal = open_journal(coordinator, agreement)
    journal.name_nodes({42: "oslo"})
    assert of_coordinator(coordinator)["asked_again"] is None
    journal.refuse(0, 86_400.0, {"42": "late", "43": "data"})
    assert news(journal) == []  # once happens
    journal.refuse(0, 86_500.0, {"42": "data", "43": "deadline"})
    (said,) = news(journal)
    found = of_coordinator(coordinator)
    assert found["asked_again"] == {
        "round": 0, "times": 2, "at": 86_500.0, "reasons": {"oslo": "data", "43": "deadline"}, "text": said,
    }  # fmt: skip
    assert "round 0 was asked for 2 times without enough uploads, lately 43: deadline, oslo: data" in said
    shown = CliRunner().invoke(app, ["status", "--folder", str(coordinator)]).output
    assert "oslo: data" in " ".join(shown.split())
    closed = ClosedRound(0, RoundKind.UPDATE, 100.0, 103.0, 0.25, 999, 7, {})
    journal.record(closed, Aggregate(0, b"s" * 10, (b"a" * 16, b"b" * 16)))
    assert news(journal) == []
    assert of_coordinator(coordinator)["times_asked_again"] == 2
    journal.close()
    # Of a closed round, too: what mended itself is still explained.
    assert of_coordinator(coordinator)["rounds"][0]["vain"] == ["43: data, oslo: late", "43: deadline, oslo: data"]
    shown = CliRunner().invoke(app, ["status", "--folder", str(coordinator)], env={"COLUMNS": "300"}).output
    assert "asked again (2), since 43: deadline, oslo: data" in " ".join(shown.split())


@pytest.mark.parametrize("who", ["coordinator", "institution"])
def test_a_party_that_is_not_up_says_so_and_why_up_ended(who: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(who)
    prepare(folder)
    told = of_coordinator if who == "coordinator" else of_institution
    assert (told(folder)["down"], told(folder)["not_ready"]) == (["`up` is not running in this folder"], "")
    with pytest.raises(KeyFileError), readiness.kept(folder):
        raise KeyFileError("node.key is damaged; restore it")
    shown = CliRunner().invoke(app, ["status", "--folder", str(folder)], env={"COLUMNS": "300"}).output
    assert "key-file: node.key is damaged; restore it" in shown
    assert "DOWN: `up` is not running in this folder" in shown


def test_a_second_up_that_is_refused_does_not_speak_for_the_first(institution: Path) -> None:
    prepare(institution)
    with alone(institution / "run"), pytest.raises(ProcessError), readiness.kept(institution):
        raise ProcessError("another `up` runs")
    assert of_institution(institution)["not_ready"] == ""


def refused(coordinator: Path, voids: int = 1) -> Path:
    """A journal with void rounds, and a round after them whose sum was refused."""
    agreement = Agreement.load(coordinator / "federation.json")
    journal = open_journal(coordinator, agreement)
    for number in range(voids + 1):
        closed = ClosedRound(number, RoundKind.UPDATE, 100.0, 103.0, 0.25, 999, 7, {}, ("berlin", "oslo"))
        journal.record(closed, Aggregate(number, b"s" * 10, (b"a" * 16, b"b" * 16)))
        if number < voids:
            journal.void(number, 104.0, ["berlin", "oslo"])
    journal.dispute(voids, 86_400.0, ["berlin"])
    journal.exclude("oslo", "asked to")
    journal.close()
    return coordinator


def test_what_did_not_go_well_is_said(coordinator: Path) -> None:
    found = of_coordinator(refused(coordinator))
    void = (
        "round 0 is void: one of the uploads of berlin, oslo held nonsense or bore a wrong tag, or the sum was altered"
    )
    assert [r["void"].startswith(void) for r in found["rounds"]] == [True, False]
    assert [(one["round"], one["told"]) for one in found["refused"]] == [(1, ("berlin",))]
    assert [(one["name"], one["reason"]) for one in found["excluded"]] == [("oslo", "asked to")]
    assert found["trouble"] == ""
    said = " ".join(CliRunner().invoke(app, ["status", "--folder", str(coordinator)]).output.split())
    assert void in said
    assert "1 of 3 update rounds" in said
    assert "01-02 00:00:00 UTC: the sum of round 1 was refused by berlin; in it were uploads of berlin, oslo" in said
    assert "oslo is excluded since" in said
    assert "UTC: asked to" in said
    assert "STOPPED" not in said


def test_where_rounds_cannot_go_on_that_stands_first(coordinator: Path) -> None:
    said = " ".join(CliRunner().invoke(app, ["status", "--folder", str(refused(coordinator, 3))]).output.split())
    assert "STOPPED: rounds 0 to 2 are void" in said
    assert "dictpfl institution unlock" in said


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (None, "1 of 3 update rounds are closed, and nobody runs them; `dictpfl run --folder"),
        (RunState(7, "running", "", ""), ""),
        (RunState(7, "finished", "stopped", ""), "nobody runs them since the last run ended (stopped); `dictpfl run"),
        (RunState(7, "finished", "failed", "app bundle refused"), "since the last run ended (failed, app bundle refused)"),
    ],
)  # fmt: skip
def test_that_nobody_runs_rounds_is_said(
    last: RunState | None, said: str, coordinator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing told of it: `up` logged that a run had ended, and a healthy coordinator waited for ever."""
    agreement = Agreement.load(coordinator / "federation.json")
    journal = open_journal(coordinator, agreement)
    closed = ClosedRound(0, RoundKind.UPDATE, 100.0, 103.0, 0.25, 999, 7, {})
    journal.record(closed, Aggregate(0, b"s" * 10, (b"a" * 16,)))
    monkeypatch.setattr("dictpfl.deploy.operations.status._asked", lambda *_: ([], last))

    def shown() -> str:
        printed = CliRunner().invoke(app, ["status", "--folder", str(coordinator)], env={"COLUMNS": "300"}).output
        return " ".join(printed.split())

    assert said in shown()
    assert ("NO RUN" in shown()) == bool(said)
    assert "OVERDUE" not in shown()
    at = time.time() - 3 * agreement.deadline_seconds
    os.utime(coordinator / "federation.json", (at, at))
    assert "OVERDUE: no round has closed for two deadlines" in shown()
    journal.stop(1, 104.0)
    journal.settle(1, 104.0)
    journal.close()
    assert not {"NO RUN", "OVERDUE"} & set(re.findall("NO RUN|OVERDUE", shown())), "ended early is ended"


def test_what_up_tries_again_is_not_in_its_log_alone(coordinator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new certificate that does not fit, put there while `up` runs: the old one is served on until it ends."""
    monkeypatch.setattr("dictpfl.deploy.operations.watching.LOOK_SECONDS", 0.01)
    try_out(coordinator / "tls", [])
    good = (coordinator / "tls" / "server.pem").read_bytes()

    class Meanwhile:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def run(self) -> None:
            def warned() -> str:
                printed = CliRunner().invoke(app, ["status", "--folder", str(coordinator)], env={"COLUMNS": "300"})
                return "".join(line for line in printed.output.splitlines() if line.startswith("WARNING"))

            assert warned() == ""
            try_out(coordinator.parent / "other", [])
            shutil.copy(coordinator.parent / "other" / "server.pem", coordinator / "tls" / "server.pem")
            until(lambda: "WARNING: certificate: failed, is tried again: certificate: " in warned(), 20, "the warning")
            (coordinator / "tls" / "server.pem").write_bytes(good)
            until(lambda: not warned(), 20, "no warning any more")

    monkeypatch.setattr("dictpfl.deploy.operations.coordinator.Supervisor", Meanwhile)
    coordinators.up(coordinator)
    assert of_coordinator(coordinator)["warnings"] == []


def test_an_institution_that_forgot_the_release_says_so_itself(
    institution: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tasks refuse the coordinator's app; the code `bundle` was seen at the coordinator, the reason in a log alone."""
    prepare(institution)
    monkeypatch.setattr(dictpfl, "__path__", [*dictpfl.__path__])
    monkeypatch.setenv(INSTITUTION, str(institution))
    ours = build()
    pinned.install(institution / "flower", ours)
    (institution / "run" / PROCESSES).write_text('{"supervisor": 1, "programs": {"superexec": {"pid": 1}}}')

    def task(content: bytes) -> None:
        pin = Pin(institution / "flower", pinned.sha256_of(ours))
        pin.check_or_refuse(content)
        pin.client_app()
        open_ahead()  # the next task, which has nothing against it yet

    reason = "bundle: app bundle refused: the one that the coordinator sends is"
    task(ours)
    assert of_institution(institution)["not_ready"] == ""
    task(b"the app of the release that all others installed")
    shown = CliRunner().invoke(app, ["status", "--folder", str(institution)], env={"COLUMNS": "300"}).output
    assert f"CANNOT TAKE PART: {reason}" in shown
    probed = CliRunner().invoke(app, ["health", "--folder", str(institution)], env={"COLUMNS": "300"})
    assert f"institution: cannot take part: {reason}" in probed.output
    assert probed.exit_code == 1
    task(ours)
    assert of_institution(institution)["not_ready"] == ""


def test_when_a_node_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    settings = CoordinatorSettings(heartbeat=10.0)
    assert _node(Node(1, "a", "online", 1015.0, ""), settings)["seconds_since_seen"] == 5.0
    assert _node(Node(1, "a", "online", 1025.0, ""), settings)["seconds_since_seen"] == 0.0
    assert _node(Node(1, "a", "registered", 0.0, ""), settings)["seconds_since_seen"] is None


def test_an_institution_before_its_first_round(institution: Path) -> None:
    found = of_institution(institution)
    assert (found["round"], found["updates"], found["state_digest"], found["diary"]) == (0, 0, None, [])
    lines = [json.dumps({"event": "uploaded", "round": number}) for number in range(20)]
    (institution / "diary.jsonl").write_text("\n".join([*lines, '{"event": "upl']))
    assert [entry["round"] for entry in of_institution(institution)["diary"]] == list(range(8, 20)), (
        "the last ones that are whole"
    )


def test_an_institution_whose_last_request_was_refused_says_why(institution: Path) -> None:
    diary, reason = institution / "diary.jsonl", "round 9 was opened already, as another sum"
    lines = [{"event": "applied", "round": 8, "at": 1.0}, {"event": "failed", "round": 9, "at": 2.0, "reason": reason}]
    diary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    printed = CliRunner().invoke(app, ["status", "--folder", str(institution)], env={"COLUMNS": "200"}).stdout
    assert f"NOT ANSWERED: round 9: {reason}" in printed
    with diary.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"event": "applied", "round": 9, "at": 3.0}) + "\n")
    assert of_institution(institution)["not_answered"] == ""


def test_another_folder(tmp_path: Path) -> None:
    for look in (of_coordinator, of_institution):
        with pytest.raises(ConfigError):
            look(tmp_path)


@pytest.mark.parametrize("option", ["--folder", "--institution"])
def test_whose_folder_it_is_is_seen(option: str, coordinator: Path, institution: Path) -> None:
    for folder, key in ((coordinator, "rounds_wanted"), (institution, "state_digest")):
        done = CliRunner().invoke(app, ["status", option, str(folder), "--json"])
        assert done.exit_code == 0, (done.output, done.exception)
        assert key in json.loads(done.output)
