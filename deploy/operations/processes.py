"""Supervision of Flower's own processes: started in order, restarted with back-off, stopped with all their children.

Each program gets a session of its own, so that what it started can be ended with it; `dictpfl.deploy.operations.child` sees to
it that none outlives the supervisor.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import structlog

from dictpfl.common.errors import JournalError, ProcessError
from dictpfl.common.files import lock_if_free, write_private
from dictpfl.deploy.operations import disk
from dictpfl.deploy.operations.environment import PARENT
from dictpfl.deploy.operations.health import free_port
from dictpfl.deploy.operations.log_format import wants_json
from dictpfl.deploy.operations.logs import ProgramLog
from dictpfl.deploy.operations.places import LOCK, LOOPBACK, PROCESSES

POLL_SECONDS = 0.1
GRACE_SECONDS = 8.0
"""Seconds from SIGTERM to SIGKILL; Flower forces its own exit after five."""
FATAL = {104, 105, 302, 303, 304, 400, 401, 402, 600, 602, 603, 604, 605, 606}
"""Flower's exit codes that no restart mends: arguments, keys, certificates, versions."""
_STEADY_SECONDS = 60.0
PORT_SECONDS = 5.0
"""Seconds to wait for a port that is taken."""
FULL_SECONDS = 5.0
"""Seconds until what a full disk refused is tried again."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Delays:
    """Seconds before a restart: the first, doubling up to the most."""

    first: float = 1.0
    most: float = 30.0


@dataclass(frozen=True)
class Program:
    """One of Flower's programs.

    Attributes:
        name: for logs.
        command: program and arguments, nothing secret.
        environment: added to the supervisor's.
        ready: asked until it is true before the next program starts.
        delays: by Flower's exit code; None: any other end.
        follows: starts anew whenever the program before it does: what it was told by that one is void.
        advice: what an operator should do, by Flower's exit code.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], bool] = lambda: True
    delays: Mapping[int | None, Delays] | None = None
    follows: bool = False
    advice: Mapping[int, str] = field(default_factory=dict)


class _Running:
    """A program with its process, if it has one."""

    def __init__(self, program: Program, logs: Path) -> None:
        self.program = program
        self.log = ProgramLog(logs / f"{program.name}.log", as_json=wants_json(program.environment))
        self.process: subprocess.Popen[bytes] | None = None
        self.due = time.monotonic()
        self.since = 0.0
        self.failures = 0
        self.restarts = -1
        self.health = 0
        self.why = ""

    def start(self) -> None:
        self.restarts += 1
        self.since = time.monotonic()
        self.health = free_port()  # a new one each time: somebody else may have the last one by now
        self.process = subprocess.Popen(  # noqa: S603  our own module, with arguments that we made
            [
                *(sys.executable, "-m", "dictpfl.deploy.operations.child", *self.program.command),
                *("--health-server-address", f"{LOOPBACK}:{self.health}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self.program.environment, PARENT: str(os.getpid())},
            start_new_session=True,
        )
        self.log.follow(self.process)
        _log.info("started", program=self.program.name, pid=self.process.pid, restarts=self.restarts)

    def facts(self) -> dict[str, int | str | None]:
        """Process id (None: down), restarts so far, the port of its health server, and why it ended last, if that is known."""
        return {
            "pid": self.process.pid if self.process else None,
            "restarts": max(0, self.restarts),
            "health": self.health,
            "why": self.why,
        }

    def ended(self) -> int | None:
        """Return the exit status, once the process is gone; what it started is gone then, too."""
        if self.process is None or self.process.returncode is not None:
            return None if self.process is None else self.process.returncode
        if self.log.port_taken:
            self.end_group()  # between `free_port` and its use somebody else took it; it starts again with another one
        # Before reaping: as long as it is a zombie, nobody else gets its number, hence its group.
        if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        self.end_group()
        return self.process.wait()

    def end_group(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def restart_later(self, status: int) -> None:
        """Note when to start again.

        Raises:
            ProcessError: Flower says that it cannot work like this.
        """
        code = self.log.exit_code if status > 0 else None
        if code in FATAL:
            raise ProcessError(
                f"{self.program.name} ended with Flower's exit code {code}, which a restart does not mend: "
                f"{self.log.reason}. See {self.log.path}"
            )
        if time.monotonic() - self.since > _STEADY_SECONDS:
            self.failures = 0
        table = self.program.delays or {}
        delays = table.get(code, table.get(None, Delays()))
        wait = min(delays.first * 2**self.failures, delays.most)
        self.failures += 1
        self.due, self.process = time.monotonic() + wait, None
        self.why = self.program.advice.get(code or 0, self.log.reason if code else "")
        _log.warning(
            "ended, starts again", program=self.program.name, status=status, flower_code=code, seconds=wait,
            reason=self.log.reason, advice=self.program.advice.get(code or 0, f"see {self.log.path}"),
        )  # fmt: skip


class Supervisor:
    """Keeps programs running until it is told to stop."""

    def __init__(
        self,
        programs: Sequence[Program],
        folder: Path,
        *,
        about_to_start: Callable[[], object] = lambda: None,
        once_ready: Callable[[frozenset[str]], None] = lambda _: None,
        ports: Sequence[int] = (),
    ) -> None:
        """Make it; nothing starts before `run`.

        Args:
            programs: in the order in which they start.
            folder: with `run/` and `logs/`.
            about_to_start: called once, when nothing stands in the way and before the first program starts.
            once_ready: called with the names of the programs that were (re)started, whenever all are ready (again).
            ports: on loopback, that the programs will listen at.
        """
        self._all = [_Running(program, folder / "logs") for program in programs]
        self._run = folder / "run"
        self._about_to_start, self._once_ready, self._ports = about_to_start, once_ready, ports
        self._started: set[str] = set()
        self._stop = self._untold = False
        self._again = 0.0

    def run(self) -> None:
        """Supervise until SIGTERM or SIGINT.

        Raises:
            ProcessError: a program cannot work as configured, another supervisor runs in this folder, or a port is taken.
        """
        with self._logs(), alone(self._run), self._signals():
            try:
                for port in self._ports:
                    require_free(port)
                self._about_to_start()
                while not self._stop:
                    self._step()
                    time.sleep(POLL_SECONDS)
            finally:
                self._end()

    def _step(self) -> None:
        for running in self._all:
            status = running.ended()
            if status is not None:
                running.restart_later(status)
                self._take_along(running)
                self._write_status()
            if running.process is None and time.monotonic() >= running.due:
                running.start()
                self._started.add(running.program.name)
                self._write_status()
            if running.process is None or not running.program.ready():
                return
        if time.monotonic() < self._again:
            return
        if self._untold:
            self._write_status()
        if self._started:
            started = frozenset(self._started)
            _log.info("ready", programs=sorted(started))
            if self._done(lambda: self._once_ready(started)):
                self._started.clear()

    def _done(self, writing: Callable[[], object]) -> bool:
        """Do what writes; where the disk is full that is said and tried again, since programs that run need not end for it."""
        try:
            writing()
        except (OSError, JournalError) as error:
            if not (full := disk.trouble(self._run)):
                raise
            self._again = time.monotonic() + FULL_SECONDS
            _log.error(full, reason=str(error))
            return False
        return True

    def _take_along(self, ended: _Running) -> None:
        following = self._all[self._all.index(ended) + 1 :]
        for running in following:
            if running.program.follows and running.process is not None:
                running.end_group()
                running.process.wait()
                running.process, running.due = None, ended.due

    def _write_status(self) -> None:
        facts = {r.program.name: r.facts() for r in self._all}
        told = json.dumps({"supervisor": os.getpid(), "programs": facts}).encode()
        self._untold = not self._done(lambda: write_private(self._run / PROCESSES, told))

    def _end(self) -> None:
        _log.info("stopping")
        for running in reversed(self._all):
            if running.process is not None:
                with suppress(ProcessLookupError):
                    running.process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        while None in [r.ended() for r in self._all if r.process is not None] and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        for running in self._all:
            running.end_group()
            if running.process is not None:
                running.process.wait()
        (self._run / PROCESSES).unlink(missing_ok=True)
        _log.info("stopped")

    @contextmanager
    def _logs(self) -> Iterator[None]:
        try:
            yield
        finally:
            for running in self._all:
                running.log.close()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(_number: int, _frame: FrameType | None) -> None:
            self._stop = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def require_free(port: int, seconds: float | None = None) -> None:
    """Wait for a port on loopback that a program of before still holds, a moment after it was killed.

    Args:
        port: to listen at.
        seconds: to wait at most; None: `PORT_SECONDS`.

    Raises:
        ProcessError: somebody else listens there.
    """
    deadline = time.monotonic() + (PORT_SECONDS if seconds is None else seconds)
    while True:
        with socket.socket() as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # what ended there lingers, and is in nobody's way
            try:
                probe.bind((LOOPBACK, port))
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ProcessError(
                        f"port {port} on {LOOPBACK} is in use by another program ({error.strerror}): `ss -ltnp 'sport = :{port}'` names "
                        "it. Stop that one (another party's `up`?), or give this one another port with --port"
                    ) from error
            else:
                return
        time.sleep(POLL_SECONDS)


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Hold the folder's lock, which the kernel releases however this process ends.

    Raises:
        ProcessError: somebody else holds it.
    """
    descriptor = lock_if_free(run / LOCK)
    if descriptor is None:
        raise ProcessError(f"another `up` runs in {run.parent}; stop that one first")
    try:
        yield
    finally:
        os.close(descriptor)


def require_alone(run: Path) -> None:
    """Refuse a folder in which another supervisor runs before the app that its tasks come from is written anew.

    Raises:
        ProcessError: one does.
    """
    with alone(run):
        pass
