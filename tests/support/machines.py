"""A deployment on loopback: real processes, TLS, node authentication, a proxy if nginx is there."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dictpfl.client.memory.record import Memory
from dictpfl.common.config import FederationConfig
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.operations.certificates import try_out
from dictpfl.deploy.operations.places import RUN, SECRET
from dictpfl.deploy.simulation.flower import session
from dictpfl.deploy.simulation.founding import Founded, found
from dictpfl.server.journal import Journal
from dictpfl.server.rows import ClosedRound
from tests.support import ROOT, federations

HEARTBEAT = 10
_GIVEN: set[int] = set()
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def settings(**changes: Any) -> dict[str, Any]:
    """The smallest federation, with a deadline that real processes can meet."""
    return federations.settings(**({"federation__rounds": 6, "federation__deadline_seconds": 120.0} | changes))


def config(**changes: Any) -> FederationConfig:
    return FederationConfig.of({}, settings(**changes))


def free_port() -> int:
    """A port that nobody listens on, and that nobody gets by chance before it is used.

    Below the range from which the kernel takes ports of outgoing connections: processes of a deployment make thousands.
    Each worker of pytest-xdist has a range of its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 10
    while True:
        port = random.randrange(12_000, 14_000) + 2_000 * worker
        with suppress(OSError), socket.socket() as probe:
            if port not in _GIVEN:
                probe.bind(("127.0.0.1", port))
                _GIVEN.add(port)
                return port


def until(condition: Callable[[], Any], seconds: float, what: str, pause: float = 0.1) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(pause)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


class Command:
    """A `dictpfl` command in a session of its own."""

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        environment: dict[str, str] | None = None,
        python: Path | None = None,
    ) -> None:
        """`python`: an interpreter with an installed dictpfl; None: this one, with this checkout."""
        self.log = log
        path = {"PYTHONPATH": str(ROOT)} if python is None else {}
        self.arguments = arguments
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [python or sys.executable, "-m", "dictpfl.deploy.cli", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **path, "PYTHONUNBUFFERED": "1", **(environment or {})},
                cwd=log.parent,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self, seconds: float) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.arguments} still runs after {seconds} s:\n{self.text[-3000:]}") from None

    def stop(self, seconds: float = 15) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.wait(seconds)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


class Deployment:
    """One coordinator and its institutions."""

    heartbeat: float = HEARTBEAT
    """Seconds; more where many processes share a machine."""
    environment: Mapping[str, str] = {}
    """Of the institutions' processes."""
    python: Path | None = None
    """Interpreter of the coordinator's commands; None: this one."""

    def __init__(self, folder: Path, made: Founded, *, proxy: bool = NGINX is not None) -> None:
        self.folder, self.founded = folder, made
        self.coordinator, self.participants = made.coordinator, made.genesis.config.federation.participants
        self.port, self.listen = free_port(), free_port() if proxy else 0
        self.proxied = proxy
        self.logs = folder / "outputs"
        self.logs.mkdir()
        self.up: Command | None = None
        self.nodes: dict[int, Command] = {}
        self._ports = {index: free_port() for index in range(self.participants)}
        self._nginx: subprocess.Popen[bytes] | None = None
        try_out(self.coordinator / "tls", [])
        self._admit()

    def _admit(self) -> None:
        from dictpfl.deploy.operations.institution import enrol

        nodes = self.coordinator / "nodes"
        nodes.mkdir(mode=0o700)
        for index in range(self.participants):
            shutil.copy(enrol(self.home(index)), nodes / f"institution-{index:03d}.pub")
            shutil.copy(self.coordinator / "tls" / "ca.pem", self.home(index) / "ca.pem")

    def home(self, index: int) -> Path:
        return self.founded.home(index)

    @property
    def address(self) -> str:
        """Where institutions connect."""
        return f"127.0.0.1:{self.listen or self.port}"

    # starting and stopping

    def start_coordinator(self, **environment: str) -> None:
        self.up = Command(
            [
                "coordinator",
                "up",
                "--folder",
                self.coordinator,
                "--port",
                self.port,
                "--heartbeat",
                self.heartbeat,
                "--log-json",
            ],
            self.logs / "coordinator.log",
            environment,
            self.python,
        )
        if self.proxied and self._nginx is None:
            self.start_proxy()

    def start_proxy(self) -> None:
        from dictpfl.deploy.operations.proxy import write_proxy
        from dictpfl.deploy.operations.settings import CoordinatorSettings

        CoordinatorSettings.updated(self.coordinator, port=self.port)
        written = write_proxy(self.coordinator, f"127.0.0.1:{self.listen}")
        assert NGINX is not None
        with (self.logs / "nginx.log").open("ab") as output:
            self._nginx = subprocess.Popen(
                [NGINX, "-p", str(self.coordinator / "run"), "-c", str(written), "-g", "daemon off;"],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_institution(self, index: int, **environment: str) -> None:
        self.nodes[index] = Command(
            [
                *("institution", "up", "--folder", self.home(index), "--coordinator", self.address),
                *("--port", self._ports[index], "--heartbeat", self.heartbeat, "--log-json"),
            ],
            self.logs / f"{self.home(index).name}.log",
            {**self.environment, **environment},
        )

    def start(self, institutions: Sequence[int] | None = None) -> None:
        self.start_coordinator()
        until(self.ready, 60, "coordinator ready")
        for index in range(self.participants) if institutions is None else institutions:
            self.start_institution(index)

    def ready(self) -> bool:
        assert self.up is not None
        assert self.up.process.poll() is None, self.up.text
        return "superexec" in self.processes(self.coordinator)

    def run(self, *more: Any, log: str = "run.log") -> Command:
        return Command(["run", "--folder", self.coordinator, "--log-json", *more], self.logs / log, python=self.python)

    def stop(self) -> None:
        leaders = []
        for command in [*self.nodes.values(), *([self.up] if self.up else [])]:
            if command.process.poll() is None:
                command.process.terminate()
            leaders.append(command)
        for command in leaders:
            command.wait(20)
        if self._nginx is not None:
            self._nginx.terminate()
            try:
                self._nginx.wait(5)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(self._nginx.pid, signal.SIGKILL)
            self._nginx = None

    # looking

    @staticmethod
    def processes(folder: Path) -> dict[str, int]:
        """Process ids of the programs that a supervisor runs."""
        try:
            programs = json.loads((folder / "run" / "processes.json").read_text())["programs"]
        except (OSError, ValueError):
            return {}
        return {name: facts["pid"] for name, facts in programs.items() if facts["pid"]}

    def children(self, folder: Path, program: str) -> list[int]:
        """Process ids of a program and of what it started (it leads a session)."""
        leader = self.processes(folder).get(program)
        return session(leader) if leader else []

    def tasks(self, folder: Path) -> list[int]:
        leader = self.processes(folder).get("superexec")
        return [pid for pid in session(leader) if pid != leader] if leader else []

    def forks(self, folder: Path) -> list[int]:
        """Process ids of the tasks themselves, without the process from which they start."""
        tasks = self.tasks(folder)
        return [pid for pid in tasks if _parent(pid) in tasks]

    def busy(self) -> int | None:
        """The number of an institution that is at work on a request right now."""
        return next((index for index in range(self.participants) if self.is_busy(index)), None)

    def is_busy(self, index: Any) -> bool:
        """Whether an institution is at work on a request: its memory is locked."""
        for lock in (self.home(index) / "memory").glob("*.lock"):
            with lock.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
        return False

    def rounds(self) -> int:
        """Closed rounds."""
        if not (self.coordinator / "journal.sqlite").exists():
            return 0
        with self.journal() as journal:
            return journal.next_round

    def sums(self) -> dict[int, int]:
        """Uploads in each closed round's sum."""
        with self.journal() as journal:
            return {number: count for number, (count, _) in journal.contributors().items()}

    def closed(self) -> list[tuple[ClosedRound, int]]:
        """What the coordinator knows of each closed round, and its sum's length in bytes."""
        with self.journal() as journal:
            lengths = journal.contributors()
            return [(round_, lengths[round_.round][1]) for round_ in journal.rounds()]

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """The coordinator's journal."""
        genesis = self.founded.genesis
        journal = Journal(self.coordinator / "journal.sqlite", genesis.federation, genesis.fingerprint)
        try:
            yield journal
        finally:
            journal.close()

    @property
    def superlink(self) -> tuple[str, Path, Path]:
        """Address of the control interface, the authority of its certificate, and the file with its secret."""
        return f"127.0.0.1:{self.port}", self.coordinator / "tls" / "ca.pem", self.coordinator / RUN / SECRET

    def node_states(self) -> dict[str, str]:
        """Status of each node that the SuperLink knows."""
        from dictpfl.deploy.operations.control import connected

        with connected(*self.superlink) as control:
            return {node.name: node.status for node in control.nodes()}

    def online(self, names: Sequence[str], seconds: float = 120) -> None:
        """Wait until these nodes are connected: a run begins as soon as the fewest are."""

        def all_online() -> bool:
            states = self.node_states()
            return all(states.get(name) == "online" for name in names)

        until(all_online, seconds, f"{', '.join(names)} online")

    def proxy_processes(self) -> list[int]:
        return session(self._nginx.pid) if self._nginx is not None else []

    def digests(self) -> list[str]:
        found_digests = []
        for index in range(self.participants):
            genesis = Genesis.load(self.home(index))
            record = Memory(self.home(index) / "memory", genesis.federation).recall()
            assert record is not None
            found_digests.append(record.shared.digest.hex())
        return found_digests


def _parent(pid: int) -> int:
    """0 once the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@contextmanager
def deployed(
    folder: Path,
    made: FederationConfig,
    *,
    proxy: bool = NGINX is not None,
    heartbeat: float = HEARTBEAT,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Deployment]:
    """A deployment that leaves no process behind."""
    deployment = Deployment(folder, found(made, folder / "federation"), proxy=proxy)
    deployment.heartbeat, deployment.environment = heartbeat, environment or {}
    try:
        yield deployment
    finally:
        deployment.stop()
