"""The probe: exit code 0 only if every program of a party serves."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from unittest import mock

import grpc
import pytest
from grpc_health.v1 import health as grpc_health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from typer.testing import CliRunner

from dictpfl.common.errors import ConfigError, DataError
from dictpfl.deploy.cli import app
from dictpfl.deploy.doctor import checks
from dictpfl.deploy.operations import disk, health, readiness
from dictpfl.deploy.operations.checks import deployment_checks
from dictpfl.deploy.operations.places import LAST_CONTACT, PROCESSES, RUN
from dictpfl.deploy.operations.processes import Program, alone
from dictpfl.deploy.operations.supernode import Contact

Served = Callable[[int], int]


@pytest.fixture
def served() -> Iterator[Callable[[int], int]]:
    """A health server with a status; returns its port."""
    servers = []

    def start(status: int) -> int:
        server = grpc.server(futures.ThreadPoolExecutor(2))
        servicer = grpc_health.HealthServicer()
        servicer.set("", status)
        add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return port

    yield start
    for server in servers:
        server.stop(None).wait()


def note(folder: Path, **programs: int | None) -> None:
    facts = {name: {"pid": 1 if port else None, "restarts": 2, "health": port} for name, port in programs.items()}
    (folder / RUN / PROCESSES).write_text(json.dumps({"supervisor": 1, "programs": facts}))


def probe(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dictpfl.deploy.cli", "health", "--folder", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_all_serve(folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    # An operator's proxy for the web must not be asked for loopback.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    note(folder, superlink=served(HealthCheckResponse.SERVING), superexec=served(HealthCheckResponse.SERVING))
    done = probe(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("serves; restarts 2") == 2
    assert [check.ok for check in deployment_checks(folder)] == [True, True]


def test_one_that_does_not_is_enough(folder: Path, served: Served) -> None:
    up, ill = served(HealthCheckResponse.SERVING), served(HealthCheckResponse.NOT_SERVING)
    for programs in ({"a": up, "b": ill}, {"a": up, "b": health.free_port()}, {"a": up, "b": None}):
        note(folder, **programs)
        assert [program.serves for program in health.of(folder)] == [True, False]
        assert [check.ok for check in deployment_checks(folder)] == [True, False]
    done = probe(folder)
    assert done.returncode == 1
    assert "logs/b.log" in done.stdout


def test_a_supernode_that_reaches_nobody_does_not_serve(folder: Path, served: Served) -> None:
    note(folder, supernode=served(HealthCheckResponse.SERVING), superexec=served(HealthCheckResponse.SERVING))
    contact = folder / RUN / LAST_CONTACT
    assert [program.serves for program in health.of(folder)] == [False, True]
    contact.touch()
    assert [program.serves for program in health.of(folder)] == [True, True]
    assert health.last_contact(folder) == pytest.approx(time.time(), abs=60)
    earlier = time.time() - health.CUT_OFF_SECONDS - 10
    os.utime(contact, (earlier, earlier))
    done = probe(folder)
    assert done.returncode == 1
    assert "has not reached the coordinator for 10" in done.stdout
    Contact(contact).lost(ssl.SSLCertVerificationError("certificate has expired"))
    assert "(SSLCertVerificationError: ('certificate has expired',)); it keeps trying" in health.down(folder)[0]
    Contact(contact).lost(OSError("no route"))
    assert "(OSError: no route); it keeps trying" in health.down(folder)[0], "not in its log alone"
    assert "logs/supernode.log" in done.stdout


def test_an_institution_that_cannot_take_part_is_ill_before_it_is_asked(folder: Path, served: Served) -> None:
    note(folder, superexec=served(HealthCheckResponse.SERVING))
    assert [program.serves for program in health.of(folder)] == [True]
    readiness.note(folder, DataError("train.npz does not fit"))
    done = probe(folder)
    assert done.returncode == 1
    assert "institution: cannot take part: data: train.npz does not fit" in " ".join(done.stdout.split())
    assert [check.ok for check in deployment_checks(folder)] == [True, False]
    readiness.note(folder, None)
    readiness.note(folder, None)
    assert probe(folder).returncode == 0


def test_a_full_disk_is_said_wherever_an_operator_looks(
    folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(folder, superexec=served(HealthCheckResponse.SERVING))
    assert [program.serves for program in health.of(folder)] == [True]
    usage = shutil.disk_usage(folder)._replace(free=disk.LEAST_BYTES - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    (_, full) = health.of(folder)
    assert (full.program, full.serves) == ("disk", False)
    assert "Make room" in full.found
    assert [check.ok for check in deployment_checks(folder)] == [True, False]
    (folder / RUN / PROCESSES).unlink()
    assert [(check.name, check.ok) for check in deployment_checks(folder)] == [("processes", None), ("disk", False)]


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "{}",
        "[]",
        "3",
        '{"programs": []}',
        '{"programs": {"a": 1}}',
        '{"programs": {"a": {"health": "x"}}}',
    ],
)
def test_nothing_runs(folder: Path, text: str | None) -> None:
    if text is not None:
        (folder / RUN / PROCESSES).write_text(text)
    done = probe(folder)
    assert done.returncode == 1
    assert "not running" in done.stdout
    assert [check.ok for check in deployment_checks(folder)] == [None]


def test_what_may_not_be_looked_at_is_not_said_to_be_down(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A monitor of another account, or with another folder's name, was told that `up` does not run."""
    missing = CliRunner().invoke(app, ["health", "--folder", str(tmp_path / "institutoin")])
    assert isinstance(missing.exception, ConfigError)
    monkeypatch.setattr(Path, "read_text", mock.Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(PermissionError):
        health.of(folder)


def test_a_program_is_given_a_port_that_the_probe_finds(folder: Path, supervised, code) -> None:
    """End to end with a program of our own that serves as Flower's do."""
    program = code(
        "from flwr.supercore.grpc_health import run_health_server_grpc_no_tls as serve\n"
        "serve(sys.argv[sys.argv.index('--health-server-address') + 1]).wait_for_termination()"
    )
    seen: list[list[bool]] = []

    def serving() -> bool:
        seen.append([program.serves for program in health.of(folder)])
        return seen[-1] == [True]

    supervised([Program("one", program, {})], serving)
    assert health.of(folder) == []
    assert not (folder / RUN / PROCESSES).exists()


def test_a_program_that_is_down_says_why_it_ended(folder: Path) -> None:
    facts = {"pid": None, "restarts": 2, "health": 1, "why": "this machine's clock is 600 s ahead of the coordinator's"}
    (folder / RUN / PROCESSES).write_text(json.dumps({"supervisor": 1, "programs": {"supernode": facts}}))
    with alone(folder / RUN):
        (said,) = health.down(folder)
    assert (
        "supernode: down, starts again soon: this machine's clock is 600 s ahead of the coordinator's; restarts 2"
        in said
    )


def test_an_up_that_was_killed_is_said_to_be_and_not_one_whose_programs_fail(folder: Path) -> None:
    """Their process ids stay in the file, and a program that is down is started again by nobody."""
    note(folder, superlink=health.free_port(), superexec=None)
    with alone(folder / RUN):
        failing = health.down(folder)
    assert [text.partition(";")[0] for text in failing] == [
        "superlink: process 1 does not serve",
        "superexec: down, starts again soon",
    ]
    dead = "`up` (process 1) was killed, and its programs with it: start `up` again; see logs/"
    assert health.down(folder) == [f"superlink: {dead}superlink.log", f"superexec: {dead}superexec.log"]


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("3.9.25", False),
        ("3.10.0", False),
        ("3.11.0rc1", True),
        ("3.13.5", True),
        ("3.14.0", None),
        ("3.15.0", False),
        ("3.100.0", False),
    ],
)
def test_the_doctor_knows_the_versions_of_python_that_this_package_names(
    version: str, fits: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.python_version", lambda: version)
    monkeypatch.setattr("platform.python_version_tuple", lambda: tuple(version.split(".")))
    check = next(checks())
    assert (check.name, check.ok) == ("python", fits)
    assert version in check.found
    assert ("no test of dictpfl has run on it" in check.found) is (fits is None)


@pytest.mark.parametrize(("allowed", "found"), [(os.R_OK | os.X_OK, ["folder", "processes"]), (0, ["folder"])])
def test_the_doctor_sees_a_folder_that_up_cannot_write_into(
    allowed: int, found: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One mounted read-only, and another account's, of which the doctor found nothing wrong, or nothing at all."""
    monkeypatch.setattr(os, "access", lambda _path, asked: asked & ~allowed == 0)
    checked = list(deployment_checks(folder))
    assert [check.name for check in checked] == found
    assert checked[0].ok is False


def test_the_doctor_finds_no_folder(tmp_path: Path) -> None:
    """A name that was mistyped is not a party in good health."""
    (check,) = deployment_checks(tmp_path / "institutoin")
    assert check.ok is False
    assert check.found.endswith("institutoin: expected a party's folder, found none")


def test_the_doctor_finds_nothing_of_a_party(tmp_path: Path) -> None:
    """The folder above, or a bundle's, is not a party in good health either."""
    (tmp_path / "institution").mkdir()
    (check,) = deployment_checks(tmp_path)
    assert check.ok is False
    assert check.found.endswith(f"{tmp_path.name}: expected a party's folder, found nothing of a party in it")
