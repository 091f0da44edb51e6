"""`dictpfl app write`: stock Flower programs run the app, simulated and with three SuperNodes, and end in the simulation's digest."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dictpfl.deploy.operations.status import of_institution
from dictpfl.deploy.runs.run import Run
from tests.support.federations import as_toml
from tests.support.machines import free_port, until

pytestmark = pytest.mark.deployment
BIN = Path(sys.executable).parent
OWN = '''
from torch import nn


def network(sample_shape, outputs):
    """A model of the user's own, in the working directory."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, outputs))
'''


def typed(*words: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(BIN / words[0]), *words[1:]], cwd=cwd, env=clean(cwd) | environment, capture_output=True, text=True, timeout=500, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def clean(home: Path) -> dict[str, str]:
    """The environment of somebody who set nothing but what README of the app says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DICTPFL_", "PYTHON"))}
    return kept | {
        "FLWR_HOME": str(home / "flwr"), "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1", "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


@contextmanager
def running(*words: str, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program of Flower's in a session of its own, which ends with the block and all that it started."""
    with (cwd / f"{words[0]}.log").open("ab") as log:
        process = subprocess.Popen(
            [str(BIN / words[0]), *words[1:]], cwd=cwd, env=clean(cwd), stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        for stop in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, stop)
            except ProcessLookupError:
                break
            time.sleep(2)
        process.wait(timeout=20)


def known(place: Path, port: int) -> None:
    """Tell `flwr` of a SuperLink, as $FLWR_HOME/config.toml does."""
    (place / "flwr").mkdir(exist_ok=True)
    (place / "flwr" / "config.toml").write_text(f'[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a configuration and a model of one's own, and the digest that the simulation ends in."""
    place = tmp_path_factory.mktemp("newcomer")
    (place / "mynet.py").write_text(OWN)
    (place / "mine.toml").write_text(
        as_toml(name="My Net", federation__rounds=2, model__source="mynet:network", model__options={})
    )
    typed("dictpfl", "simulate", "mine.toml", "--engine", "local", "--out", "run", cwd=place)
    return place, str(Run.load(place / "run").summary["state_digest"])


def ended(homes: Path, digest: str) -> bool:
    """All three institutions are in the state that the simulation ended in."""
    found = [of_institution(homes / f"institution-{index:03d}")["state_digest"] for index in range(3)]
    return found == [digest] * 3


@pytest.mark.nightly
def test_simulated(simulated: tuple[Path, str], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    place, digest = simulated
    typed("dictpfl", "app", "write", str(tmp_path / "app"), "--config", "mine.toml", cwd=place)
    port = free_port()
    known(tmp_path, port)
    with running(
        "flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port), cwd=tmp_path
    ):
        listening(port)
        said = typed(
            "flwr", "run", "app", "here", "--stream", "--federation-config", "num-supernodes=3 client-resources-num-cpus=1", cwd=tmp_path
        )  # fmt: skip
        until(
            lambda: ended(tmp_path / "app" / "parties" / "institutions", digest),
            240,
            f"the simulation ended otherwise: {said[-2000:]}",
        )


def test_three_supernodes(simulated: tuple[Path, str], tmp_path: Path) -> None:
    place, digest = simulated
    typed("dictpfl", "app", "write", str(tmp_path / "app"), "--config", "mine.toml", cwd=place)
    # Institutions elsewhere: each SuperNode names its own folder, and the one beside the code is not there.
    homes = tmp_path / "elsewhere"
    shutil.move(tmp_path / "app" / "parties" / "institutions", homes)
    port = free_port()
    known(tmp_path, port)
    with running("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port), cwd=tmp_path):
        listening(port)
        node = ("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port")
        configs = [f'institution="{homes}/institution-{index:03d}"' for index in range(3)]
        with (
            running(*node, str(free_port()), "--node-config", configs[0], cwd=tmp_path),
            running(*node, str(free_port()), "--node-config", configs[1], cwd=tmp_path),
            running(*node, str(free_port()), "--node-config", configs[2], cwd=tmp_path),
        ):
            said = typed("flwr", "run", "app", "here", "--stream", cwd=tmp_path)
            until(lambda: ended(homes, digest), 240, f"the deployment ended otherwise: {said[-2000:]}")


def listening(port: int) -> None:
    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(answers, 60, "the SuperLink does not listen")
