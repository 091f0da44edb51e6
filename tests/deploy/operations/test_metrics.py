"""Metrics: the coordinator's are on a list of what it may know, an institution's add up, and only loopback is served."""

from __future__ import annotations

import json
import os
import re
import socket
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

from dictpfl.common.errors import ProcessError
from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.deploy.operations import health, metrics
from dictpfl.deploy.operations.certificates import try_out, validity
from dictpfl.deploy.operations.metrics import CoordinatorMetrics, Diary, InstitutionMetrics, served
from dictpfl.deploy.operations.places import PROCESSES, RUN, prepare
from dictpfl.deploy.operations.settings import CoordinatorSettings, NodeSettings
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import open_journal
from dictpfl.server.journal import Journal
from dictpfl.server.rows import ClosedRound

ALLOWED = {
    "dictpfl_bytes_down_total": set(),
    "dictpfl_bytes_up_total": set(),
    "dictpfl_certificate_expiry_timestamp_seconds": {"file"},
    "dictpfl_disk_free_bytes": set(),
    "dictpfl_institution_last_seen_timestamp_seconds": {"institution"},
    "dictpfl_institution_online": {"institution"},
    "dictpfl_institutions_excluded": set(),
    "dictpfl_operator_needed": set(),
    "dictpfl_rounds_asked_again_total": set(),
    "dictpfl_phase_seconds_total": {"phase"},
    "dictpfl_process_restarts_total": {"program"},
    "dictpfl_process_up": {"program"},
    "dictpfl_readable": set(),
    "dictpfl_round_contributors": set(),
    "dictpfl_round_ended_timestamp_seconds": set(),
    "dictpfl_round_seconds": set(),
    "dictpfl_rounds_closed_total": {"kind"},
    "dictpfl_rounds_overdue": set(),
    "dictpfl_rounds_void_total": set(),
    "dictpfl_rounds_wanted": set(),
    "dictpfl_sums_refused_total": set(),
    "dictpfl_superlink_up": set(),
    "dictpfl_uploads_counted_total": set(),
    "dictpfl_uploads_left_out_total": set(),
}
"""What the coordinator publishes, with its labels. Whoever adds to it answers for it: no value, count of samples or
metric of a model is ever among them."""
AT_INSTITUTION = {
    "dictpfl_bytes_down_total", "dictpfl_bytes_up_total", "dictpfl_certificate_expiry_timestamp_seconds",
    "dictpfl_coordinator_reached_timestamp_seconds", "dictpfl_disk_free_bytes", "dictpfl_last_active_timestamp_seconds", "dictpfl_locked", "dictpfl_phase_seconds_total",
    "dictpfl_process_restarts_total", "dictpfl_process_up", "dictpfl_refused_sums", "dictpfl_round",
    "dictpfl_rounds_applied_total", "dictpfl_rounds_void_total", "dictpfl_uploads_total",
}  # fmt: skip
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


def scraped(collector: object) -> dict[str, dict[str, float]]:
    """Values by name and labels."""
    registry = CollectorRegistry()
    registry.register(collector)
    found: dict[str, dict[str, float]] = {}
    for line in generate_latest(registry).decode().splitlines():
        if match := _SAMPLE.match(line):
            found.setdefault(match[1], {})[match[2] or ""] = float(match[3])
    return found


def ran(folder: Path) -> Path:
    """A coordinator's folder after two rounds, under a supervisor that restarted a program twice."""
    prepare(folder)
    limits = Agreement.load(folder / "federation.json").uploads
    journal = Journal(folder / "journal.sqlite", limits.federation, limits.fingerprint)
    for number, kind in enumerate((RoundKind.UPDATE, RoundKind.MEASURE)):
        counted = tuple(bytes([number, i]) * 8 for i in range(3 - number))
        closed = ClosedRound(number, kind, 100.0 + number, 104.0 + number, 0.5, 3000, 7, {"42": "late"})
        journal.record(closed, Aggregate(number, b"sum" * 100, counted))
    journal.close()
    try_out(folder / "tls", [])
    programs = {
        "superlink": {"pid": 12, "restarts": 2, "health": 1},
        "superexec": {"pid": None, "restarts": 0, "health": 1},
    }
    (folder / RUN / PROCESSES).write_text(json.dumps({"supervisor": 11, "programs": programs}))
    return folder


def test_the_coordinators_numbers(coordinator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(coordinator)
    nodes = [
        {"node": 42, "name": "clinic-a", "status": "online", "seconds_since_seen": 5.0},
        {"node": 43, "name": "", "status": "offline", "seconds_since_seen": None},
    ]
    monkeypatch.setattr("dictpfl.deploy.operations.status._asked", lambda *_: (nodes, None))
    found = scraped(CoordinatorMetrics(coordinator, CoordinatorSettings()))
    assert found["dictpfl_rounds_closed_total"] == {'kind="update"': 1, 'kind="score"': 0, 'kind="measure"': 1}
    assert found["dictpfl_rounds_wanted"] == {"": 3}
    assert found["dictpfl_round_contributors"] == {"": 2}
    assert found["dictpfl_uploads_counted_total"] == {"": 5}
    assert found["dictpfl_uploads_left_out_total"] == {"": 2}
    assert found["dictpfl_bytes_up_total"] == {"": 6000}
    assert found["dictpfl_bytes_down_total"] == {"": 600}
    assert found["dictpfl_phase_seconds_total"] == {'phase="round"': 8, 'phase="fold"': 1}
    assert found["dictpfl_process_restarts_total"] == {'program="superlink"': 2, 'program="superexec"': 0}
    assert found["dictpfl_process_up"] == {'program="superlink"': 1, 'program="superexec"': 0}
    assert found["dictpfl_institution_online"] == {'institution="clinic-a"': 1, 'institution="43"': 0}
    (seen,) = found["dictpfl_institution_last_seen_timestamp_seconds"].values()
    assert abs(time.time() - 5 - seen) < 5
    ends = validity(coordinator / "tls" / "server.pem").ends.timestamp()
    assert found["dictpfl_certificate_expiry_timestamp_seconds"]['file="server.pem"'] == ends
    assert set(found["dictpfl_certificate_expiry_timestamp_seconds"]) == {'file="server.pem"', 'file="ca.pem"'}


def test_refused_sums_void_rounds_and_exclusions_are_counted(coordinator: Path) -> None:
    ran(coordinator)
    journal = open_journal(coordinator, Agreement.load(coordinator / "federation.json"))
    collector = CoordinatorMetrics(coordinator, CoordinatorSettings())
    names = (
        "dictpfl_sums_refused_total", "dictpfl_rounds_void_total", "dictpfl_institutions_excluded",
        "dictpfl_operator_needed",
    )  # fmt: skip
    found = scraped(collector)
    assert [found[name][""] for name in names] == [0, 0, 0, 0]
    journal.exclude("a", "")
    for number in range(2):
        journal.dispute(number, 3.0, ["a"])
    for number in range(3):
        if number == 2:
            journal.record(
                ClosedRound(2, RoundKind.UPDATE, 1.0, 2.0, 0.5, 3, 7, {}), Aggregate(2, b"sum", (b"u" * 16,))
            )
        journal.void(number, 3.0, ["a"])
    journal.close()
    found = scraped(collector)
    assert [found[name][""] for name in names] == [2, 3, 1, 1]


def test_who_was_struck_off_or_excluded_is_not_away_for_good(
    coordinator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alarm of an institution that is not online would never end; a new node of the same name is told once."""
    ran(coordinator)
    names = {42: ("berlin", "offline"), 43: ("oslo", "unregistered"), 44: ("kyoto", "offline"), 45: ("oslo", "online")}
    names |= {46: ("turin", "unregistered")}
    nodes = [{"node": n, "name": name, "status": at, "seconds_since_seen": 5.0} for n, (name, at) in names.items()]
    monkeypatch.setattr("dictpfl.deploy.operations.status._asked", lambda *_: (nodes, None))
    journal = open_journal(coordinator, Agreement.load(coordinator / "federation.json"))
    journal.exclude("kyoto", "left")
    journal.close()
    found = scraped(CoordinatorMetrics(coordinator, CoordinatorSettings()))
    assert found["dictpfl_institution_online"] == {'institution="berlin"': 0, 'institution="oslo"': 1}
    assert set(found["dictpfl_institution_last_seen_timestamp_seconds"]) == set(found["dictpfl_institution_online"])


def test_rounds_that_nobody_runs_are_overdue_after_two_deadlines(coordinator: Path) -> None:
    ran(coordinator)
    agreement, path = Agreement.load(coordinator / "federation.json"), coordinator / "federation.json"
    collector = CoordinatorMetrics(coordinator, CoordinatorSettings())

    def overdue(deadlines: float) -> float:
        """At so many deadlines after the rounds were agreed on; the last one closed long before."""
        at = time.time() - deadlines * agreement.deadline_seconds
        os.utime(path, (at, at))
        return scraped(collector)["dictpfl_rounds_overdue"][""]

    assert (overdue(1.9), overdue(2.1)) == (0, 1)
    journal = open_journal(coordinator, agreement)
    late = ClosedRound(2, RoundKind.UPDATE, 100.0, time.time() - agreement.deadline_seconds, 0.5, 3000, 7, {})
    journal.record(late, Aggregate(2, b"sum", (b"u" * 16,)))
    assert overdue(9.0) == 0, "one closed within two deadlines"
    last = ClosedRound(3, RoundKind.UPDATE, 100.0, 101.0, 0.5, 3000, 7, {})
    journal.record(last, Aggregate(3, b"sum", (b"v" * 16,)))
    later = time.time() + 9 * agreement.deadline_seconds
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("time.time", lambda: later)
        assert scraped(collector)["dictpfl_rounds_overdue"] == {"": 1}, "the last message was not sent out"
        journal.settle(4, 102.0)
        assert scraped(collector)["dictpfl_rounds_overdue"] == {"": 0}, "all is done"
    journal.close()


def test_the_coordinator_publishes_what_is_on_the_list_and_nothing_else(
    coordinator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(coordinator)
    nodes = [{"node": 42, "name": "a", "status": "online", "seconds_since_seen": 5.0}]
    monkeypatch.setattr("dictpfl.deploy.operations.status._asked", lambda *_: (nodes, None))
    found = scraped(CoordinatorMetrics(coordinator, CoordinatorSettings()))
    labels = {
        name: {part.partition("=")[0] for text in by for part in text.split(",") if part} for name, by in found.items()
    }
    assert labels == ALLOWED
    assert not [name for name in ALLOWED if re.search("loss|accuracy|metric|sample|value|norm|digest", name)]


@pytest.mark.parametrize("damage", ["journal.sqlite", "federation.json"])
def test_a_scrape_outlives_a_damaged_folder(coordinator: Path, damage: str) -> None:
    (ran(coordinator) / damage).write_bytes(b"damaged" * 1000)
    found = scraped(CoordinatorMetrics(coordinator, CoordinatorSettings()))
    assert found["dictpfl_readable"] == {"": 0}
    assert found["dictpfl_process_up"]
    assert set(found) < set(ALLOWED)


def line(event: str, number: int, size: int, **seconds: float) -> str:
    facts = {"metric": 0.9, "loss": 0.123456}
    return (
        json.dumps({"event": event, "round": number, "bytes": size, "seconds": seconds, "at": 50.0 + number, **facts})
        + "\n"
    )


def test_an_institutions_numbers_and_none_of_its_model(institution: Path) -> None:
    prepare(institution)
    try_out(institution / "tls", [])
    (institution / "tls" / "ca.pem").rename(institution / "ca.pem")
    diary = institution / "diary.jsonl"
    diary.write_text(line("uploaded", 0, 100, train=2.0, seal=0.5) + "damaged\n" + line("applied", 0, 30, open=1.0))
    collector = InstitutionMetrics(institution, NodeSettings(coordinator="a:1"))
    found = scraped(collector)
    assert set(found) <= AT_INSTITUTION
    assert found["dictpfl_bytes_up_total"] == {"": 100}
    assert found["dictpfl_bytes_down_total"] == {"": 30}
    assert found["dictpfl_phase_seconds_total"] == {'phase="train"': 2, 'phase="seal"': 0.5, 'phase="open"': 1}
    with diary.open("a") as file:
        file.write(line("uploaded", 1, 100, train=1.0)[:-9])
    assert scraped(collector)["dictpfl_uploads_total"] == {"": 1}, "a line that is being written waits"
    with diary.open("a") as file:
        file.write(line("uploaded", 1, 100, train=1.0)[-9:])
    found = scraped(collector)
    assert found["dictpfl_uploads_total"] == {"": 2}
    assert found["dictpfl_round"] == {"": 1}
    assert found["dictpfl_last_active_timestamp_seconds"] == {"": 51}
    assert not any(value in (0.9, 0.123456) for by in found.values() for value in by.values())


def test_a_diary_from_a_backup_is_counted_anew(tmp_path: Path) -> None:
    diary = Diary(tmp_path / "diary.jsonl")
    diary.read()
    assert diary.events == {}
    (tmp_path / "diary.jsonl").write_text(line("uploaded", 0, 1) + line("applied", 0, 1))
    diary.read()
    (tmp_path / "diary.jsonl").write_text(line("uploaded", 0, 1))
    diary.read()
    assert diary.events == {"uploaded": 1}


def test_served_on_loopback_only_and_gone_afterwards(coordinator: Path) -> None:
    port = health.free_port()
    collector = CoordinatorMetrics(ran(coordinator), CoordinatorSettings())
    with served(port, collector):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert b"dictpfl_rounds_closed_total" in answer.read()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", port), timeout=2)
        with pytest.raises(ProcessError, match="metrics_port"), served(port, collector):
            pass
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=2)


def test_none_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CoordinatorSettings().metrics_port == NodeSettings(coordinator="a:1").metrics_port == 0
    monkeypatch.setattr(metrics, "start_http_server", lambda *_, **__: pytest.fail("started"))
    with served(0, CoordinatorMetrics(Path("/nowhere"), CoordinatorSettings())) as port:
        assert port == 0
