"""What `status` says of a coordinator and an institution whose processes do not run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.errors import ConfigError
from common.protocol import Aggregate, RoundKind
from deploy.cli import app
from deploy.operations.certificates import try_out
from deploy.operations.control import Node
from deploy.operations.settings import CoordinatorSettings
from deploy.operations.status import _node, of_coordinator, of_institution
from server.agreement import Agreement
from server.journal import ClosedRound, Journal


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
            "round": 0, "kind": "update", "contributors": 2, "ciphertexts": 7, "bytes_up": 999, "bytes_down": 10,
            "seconds": 3.0, "fold_seconds": 0.25, "ended": 103.0, "rejected": {"42": "late"},
        }
    ]  # fmt: skip
    assert found["certificate_days_left"] == pytest.approx(10, abs=0.2)


def test_when_a_node_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    settings = CoordinatorSettings(heartbeat=10.0)
    assert _node(Node(1, "a", "online", 1015.0, ""), settings)["seconds_since_seen"] == 5.0
    assert _node(Node(1, "a", "online", 1025.0, ""), settings)["seconds_since_seen"] == 0.0
    assert _node(Node(1, "a", "registered", 0.0, ""), settings)["seconds_since_seen"] is None


def test_an_institution_before_its_first_round(site: Path) -> None:
    found = of_institution(site)
    assert (found["round"], found["updates"], found["state_digest"], found["diary"]) == (0, 0, None, [])
    lines = [json.dumps({"event": "uploaded", "round": number}) for number in range(20)]
    (site / "diary.jsonl").write_text("\n".join([*lines, '{"event": "upl']))
    assert [entry["round"] for entry in of_institution(site)["diary"]] == list(range(9, 20)), (
        "the last ones that are whole"
    )


def test_another_folder(tmp_path: Path) -> None:
    for look in (of_coordinator, of_institution):
        with pytest.raises(ConfigError):
            look(tmp_path)


@pytest.mark.parametrize("option", ["--folder", "--site"])
def test_whose_folder_it_is_is_seen(option: str, coordinator: Path, site: Path) -> None:
    for folder, key in ((coordinator, "rounds_wanted"), (site, "state_digest")):
        done = CliRunner().invoke(app, ["status", option, str(folder), "--json"])
        assert done.exit_code == 0, (done.output, done.exception)
        assert key in json.loads(done.output)
