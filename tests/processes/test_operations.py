"""What an operator looks at while real processes run: health checks, doctor, metrics, logs, status."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dictpfl.common.files import write_private
from dictpfl.server.agreement import Agreement
from tests.support import ROOT
from tests.support.machines import Deployment, config, deployed, free_port, until

pytestmark = pytest.mark.deployment
_NAME = re.compile(r"^(dictpfl_\w+?)(?:\{| )", re.MULTILINE)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Three institutions that have finished two rounds, with metrics on."""
    with deployed(tmp_path_factory.mktemp("operations"), config()) as made:
        for folder in (made.coordinator, made.home(0)):
            name = "coordinator.toml" if folder == made.coordinator else "node.toml"
            kept = (folder / name).read_text() if (folder / name).exists() else f'coordinator = "{made.address}"\n'
            kept = "" if folder == made.coordinator else kept
            write_private(folder / name, f"{kept}metrics_port = {free_port()}\n".encode())
        made.start()
        run = made.run("--rounds", 2)
        assert run.wait(240) == 0, run.text
        yield made


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dictpfl.deploy.cli", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def metrics(folder: Path) -> str:
    (settings,) = [folder / name for name in ("coordinator.toml", "node.toml") if (folder / name).exists()]
    port = re.search(r"metrics_port = (\d+)", settings.read_text())
    assert port is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics", timeout=20) as answer:
        return str(answer.read().decode())


def test_flowers_own_health_checks_answer(deployment: Deployment) -> None:
    for folder, programs in (
        (deployment.coordinator, ("superlink", "superexec")),
        (deployment.home(0), ("supernode", "superexec")),
    ):
        done = command("health", "--folder", folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert all(re.search(rf"^{program}: process \d+ serves", done.stdout, re.MULTILINE) for program in programs)
        looked = command("doctor", "--folder", folder)
        assert looked.returncode == 0, looked.stdout
        assert looked.stdout.count("serves; restarts 0") == 2


def test_metrics_tell_rounds_and_traffic_and_nothing_of_the_model(deployment: Deployment) -> None:
    found = metrics(deployment.coordinator)
    assert 'dictpfl_rounds_closed_total{kind="update"} 2.0' in found
    assert "dictpfl_round_contributors 3.0" in found
    assert "dictpfl_superlink_up 1.0" in found
    assert found.count('dictpfl_institution_online{institution="institution-00') == 3
    assert float(re.search(r"(?m)^dictpfl_bytes_up_total (\S+)", found)[1]) > 0  # type: ignore[index]
    assert not re.search("loss|accuracy|metric_|sample", "".join(_NAME.findall(found)))
    own = metrics(deployment.home(0))
    assert 'dictpfl_phase_seconds_total{phase="train"}' in own
    assert float(re.search(r"(?m)^dictpfl_uploads_total (\S+)", own)[1]) >= 3  # type: ignore[index]
    assert not re.search("loss|accuracy", "".join(_NAME.findall(own)))


def test_every_line_of_every_log_is_json(deployment: Deployment) -> None:
    logs = [
        deployment.logs / "coordinator.log",
        *deployment.logs.glob("institution-*.log"),
        deployment.logs / "run.log",
    ]
    apps = [folder / "logs" / "superexec.log" for folder in (deployment.coordinator, deployment.home(0))]
    nodes = [deployment.coordinator / "logs" / "superlink.log", deployment.home(0) / "logs" / "supernode.log"]
    for path in [*logs, *apps, *nodes]:
        lines = [line for line in path.read_text().splitlines() if line]
        assert lines, path
        wrong = []
        for line in lines:
            try:
                assert "event" in json.loads(line)
            except (ValueError, AssertionError):
                wrong.append(line)
        assert wrong == [], path
    events = {json.loads(line)["event"] for line in apps[0].read_text().splitlines() if line}
    assert {"round opens", "round closed"} <= events, "the server app's own events, with their fields"


def test_status_leaves_the_settings_alone(deployment: Deployment) -> None:
    path = deployment.coordinator / "coordinator.toml"
    before = path.read_bytes(), path.stat().st_mtime_ns
    done = command("status", "--folder", deployment.coordinator)
    assert done.returncode == 0
    assert "2 of 2 update rounds" in done.stdout
    assert not re.search("NO RUN|OVERDUE|WARNING", done.stdout)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_rounds_that_nobody_runs_are_seen(deployment: Deployment) -> None:
    path = deployment.coordinator / "federation.json"
    before = path.read_bytes()
    replace(Agreement.load(path), rounds=3).save(path)
    try:
        said = " ".join(command("status", "--folder", deployment.coordinator).stdout.split())
    finally:
        write_private(path, before)
    assert "NO RUN: 2 of 3 update rounds are closed, and nobody runs them since the last run ended (completed" in said
    assert "dictpfl_rounds_overdue 0.0" in metrics(deployment.coordinator)


def test_a_restart_is_seen(deployment: Deployment) -> None:
    os.kill(deployment.processes(deployment.home(0))["superexec"], signal.SIGKILL)
    until(lambda: 'restarts_total{program="superexec"} 1.0' in metrics(deployment.home(0)), 30, "the restart")
    until(lambda: command("health", "--folder", deployment.home(0)).returncode == 0, 60, "healthy again")


def test_what_is_stopped_is_not_healthy(deployment: Deployment) -> None:
    deployment.nodes[0].stop()
    done = command("health", "--folder", deployment.home(0))
    assert done.returncode == 1
    assert "not running" in done.stdout
    with pytest.raises(OSError, match="refused"):
        metrics(deployment.home(0))
