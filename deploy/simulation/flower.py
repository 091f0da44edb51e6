"""The same two Flower apps in Flower's simulation runtime (Ray), in a child process that leaves nothing behind.

Why not `flwr run . local`: its SuperLink listens on a fixed port without a login, so anyone on the machine may have
it run code; it detaches its helpers into sessions of their own, which outlive it; it takes twice as long; and it
hands Ray no private folder and no address. `run_simulation` of the pinned Flower starts the same runtime (the same
`Grid`, the same actors), and here it gets: a session of its own, so that everything in it can be stopped; random
ports; a token without which Ray answers nobody; its own FLWR_HOME and temporary folder.

Run as a module, this file is that child.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from dictpfl.common.errors import EngineError
from dictpfl.common.files import append_private
from dictpfl.deploy.simulation.cluster import reached, require_nodes
from dictpfl.deploy.simulation.devices import AUTO, of_cluster

POLL_SECONDS = 0.25
"""Seconds between two looks at the child, and calls of `on_poll`."""
GRACE_SECONDS = 3.0
"""Seconds that a killed process may take to vanish; one in a device driver may take forever."""
LINGER_SECONDS = 0.5
"""Seconds left to the runtime once the coordinator's app has ended, for the last log lines; then it is stopped.

Its own shutdown waits three seconds for threads, with nothing left to lose: the journal and the institutions'
memories are on disk before an exchange closes.
"""

_STARTS = 3
"""Times that Ray is started at most: it gives itself half a minute, which a busy machine may not have for it."""
_NOT_STARTED = 75
"""Exit code of a child whose Ray did not start; sysexits.h calls it a failure that another try may mend."""
_TAIL_LINES = 15
_REGISTER_SECONDS = 60.0
_LONGEST_PARENT = 28
"""In characters: the folder's own name and Ray's add up to 79, and a socket's path ends at 107."""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Places:
    """Room for institutions that train at once.

    Attributes:
        client_cpus: processors of an institution.
        client_gpus: GPUs of an institution; `AUTO`: a share of what the cluster has.
        gpus: GPUs of this machine that Ray may give away; None: all that it finds.
        cluster: address of a Ray cluster; empty: a Ray of this run's own, on this machine.
    """

    client_cpus: float = 1.0
    client_gpus: float = 0.0
    gpus: int | None = None
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class _Order:
    """Order to the child, as JSON in its one argument."""

    participants: int
    places: Places
    scratch: str
    home: str
    parent: int
    by_name: bool


def run_flower(
    coordinator_folder: Path,
    institutions_folder: Path,
    participants: int,
    *,
    work: Path,
    log: Path,
    finished: Callable[[], bool],
    places: Places = Places(),
    on_poll: Callable[[], None] | None = None,
    by_name: bool = False,
) -> None:
    """Run a federation in Flower's simulation runtime until its coordinator has finished.

    `institutions_folder` holds institution-000 and so on; `work` is for Flower's own files. As many institutions train at
    once as `places` says that there is room for. In a cluster, every node must see these folders and the working directory at
    the same place. Whatever the caller can import, among it modules in the
    working directory, the institutions can import too. `by_name`: the coordinator draws whom a round asks, and is told
    which node is whose. Success is what `finished` says in the end, not an exit code;
    it must read the coordinator's folder afresh.

    Ray is started anew where it does not start, two times more. Raises `EngineError`, with the log's last lines, if Ray is
    missing, does not start, or the run ends unfinished; what `on_poll`
    raises (about four times a second), KeyboardInterrupt and SIGTERM stop everything that was started first.
    """
    if find_spec("ray") is None:
        raise EngineError("Expected Ray for the engine flower, found none: pip install 'dictpfl[simulation]'.")
    for folder in (work, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for start in range(1, _STARTS + 1):
        with _scratch(work) as scratch:
            environment = _environment(scratch, work, places)
            environment |= {
                "DICTPFL_COORDINATOR": str(coordinator_folder.absolute()),
                "DICTPFL_INSTITUTIONS": str(institutions_folder.absolute()),
            }
            order = _Order(participants, places, str(scratch), str(Path.cwd()), os.getpid(), by_name)
            code = _supervise(order, environment, log, on_poll or (lambda: None))
            if finished():
                return
            _keep_ray_logs(scratch, work)
        if code != _NOT_STARTED:
            break
        if start < _STARTS:
            _log.warning("Ray did not start within its half minute; it is started again", start=start + 1, of=_STARTS)
    found = (
        f"Ray did not start, {_STARTS} times, as on a machine that is too busy: go on with --resume when it is not, or with "
        "--engine local, which needs no Ray"
        if code == _NOT_STARTED
        else f"Flower's runtime ended (exit code {code}) before"
    )
    raise EngineError(
        f"Expected the coordinator to finish, but {found}. The log is {log}; its last lines:\n{_tail(log)}"
    )


def _environment(scratch: Path, work: Path, places: Places) -> dict[str, str]:
    # The working directory comes last: a `common` or `server` of the user's own must not hide ours.
    paths = [*(str(Path(entry).absolute()) for entry in sys.path if entry), str(Path.cwd())]
    environment = dict(os.environ)
    environment.pop("RAY_ADDRESS", None)
    if not places.cluster:  # a cluster has its own way to tell who may run code on it, and it is the user's
        token = scratch / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="ascii")
        # Ray listens on every interface, and whoever reaches it may run code: so only with this run's token.
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment |= {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONUNBUFFERED": "1",
        "FLWR_HOME": str((work / "flwr").absolute()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_COLOR_PREFIX": "0",
        # Ray never leases a GPU that was not asked for; said here, it does not warn about it.
        "PYTHONWARNINGS": ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore::FutureWarning"])),
    }
    # Ray would set the same for its workers, but the driver would take all processors.
    environment.setdefault("OMP_NUM_THREADS", str(max(1, int(places.client_cpus))))
    return environment


def _supervise(order: _Order, environment: Mapping[str, str], log: Path, on_poll: Callable[[], None]) -> int:
    """Start the child, look after it until it ends, and stop whatever is left of its session."""
    # Appended to: a run that goes on after a crash keeps the log of the one before.
    with append_private(log) as output, _sigterm_raises():
        child = subprocess.Popen(  # noqa: S603  this very module, with arguments of our own
            [sys.executable, "-P", "-m", "dictpfl.deploy.simulation.flower", json.dumps(asdict(order))],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            # Ray puts its working directory before everything else that its workers import.
            cwd=order.scratch,
            start_new_session=True,
        )
        try:
            served: float | None = None
            # Without reaping it: as long as it is a zombie, nobody else can get its number, hence its session.
            while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                on_poll()
                time.sleep(POLL_SECONDS)
                if served is None and _served(Path(order.scratch)).exists():
                    served = time.monotonic()
                if served is not None and time.monotonic() - served > LINGER_SECONDS:
                    break
        finally:
            _stop_session(child.pid)
            child.wait()
    on_poll()
    return child.returncode


def _stop_session(leader: int) -> None:
    """End every process of a session at once: what they may lose is nothing (the fourth law), and Ray dies slowly."""
    deadline = time.monotonic() + GRACE_SECONDS
    while (processes := session(leader)) and time.monotonic() < deadline:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)


def session(leader: int) -> list[int]:
    """Return the living processes of a session; zombies do not count."""
    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # The name, in parentheses, may hold spaces and parentheses itself.
                fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                if fields[0] not in "ZX" and int(fields[3]) == leader:
                    processes.append(int(entry.name))
    return processes


@contextmanager
def _scratch(work: Path) -> Iterator[Path]:
    """Make a private temporary folder, near `work` if Ray's sockets fit there, and remove it afterwards."""
    candidates = (str(work.absolute()), tempfile.gettempdir(), "/tmp")  # noqa: S108  mkdtemp makes it private
    parent = next((name for name in candidates if len(name) <= _LONGEST_PARENT), candidates[-1])
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the process by an exception, for `finally` to run; a handler set before stays."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():  # elsewhere, handlers cannot be set
        numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _served(scratch: Path) -> Path:
    return scratch / "served"


def _keep_ray_logs(scratch: Path, work: Path) -> None:
    for logs in scratch.glob("session_*_*/logs"):
        shutil.copytree(logs, work / "ray-logs", dirs_exist_ok=True, ignore_dangling_symlinks=True)


def _tail(log: Path) -> str:
    text = _ANSI.sub("", log.read_text(encoding="utf-8", errors="replace"))
    return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][-_TAIL_LINES:])


def _watch(order: _Order) -> None:
    # A parent that was killed stops nothing, and Ray's agents outlive Ray: so the session ends itself.
    while os.getppid() == order.parent:
        time.sleep(POLL_SECONDS)
    for process in session(os.getsid(0)):
        if process != os.getpid():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    shutil.rmtree(order.scratch, ignore_errors=True)
    os._exit(1)


def _child(order: _Order) -> None:
    threading.Thread(target=_watch, args=(order,), daemon=True).start()
    # None of these is for whoever only wants `run_flower`.
    import ray
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp
    from flwr.server.superlink.fleet.vce.backend.backend import BackendConfig
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    from dictpfl.client.app import INSTITUTIONS
    from dictpfl.client.app import app as client_app
    from dictpfl.server.app import FOLDER
    from dictpfl.server.app import app as server_app

    serving, training = ServerApp(), ClientApp()

    @serving.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            if order.by_name:
                from dictpfl.deploy.simulation.naming import name_nodes

                nodes = _in_order(grid, order.participants)
                name_nodes(Path(os.environ[FOLDER]), Path(os.environ[INSTITUTIONS]), nodes)
            server_app(grid, context)
        except Exception:
            # Here, because Flower says so only at the end of its shutdown, which is not waited for.
            traceback.print_exc()
            raise
        finally:
            _served(Path(order.scratch)).touch()

    @training.train()
    def train(message: Message, context: Context) -> Message:
        # Where the caller was: a path in a user's own module may be relative.
        os.chdir(order.home)
        return client_app(message, context)

    places = order.places
    if places.cluster:
        client_gpus = _join(order)
    else:
        # One actor for each `client_cpus`: no more than there are institutions, and one even on a small machine.
        processors = min(len(os.sched_getaffinity(0)), math.ceil(order.participants * places.client_cpus))
        # Flower takes a Ray that is there already; its own start would use an environment for workers, half a second each.
        try:
            ray.init(
                address="local",
                num_cpus=max(processors, math.ceil(places.client_cpus)),
                num_gpus=places.gpus,
                include_dashboard=False,
                log_to_driver=True,
                _temp_dir=order.scratch,
            )
        except Exception:  # noqa: BLE001  whatever it was, another try may mend it
            traceback.print_exc()
            sys.exit(_NOT_STARTED)
        client_gpus = places.client_gpus
    # Flower hands these to Ray as the actors' options; without restarts, it goes on giving work to an actor that is
    # dead. The message that the actor died over is answered with an error, and the coordinator asks again.
    resources = {"num_cpus": places.client_cpus, "num_gpus": client_gpus, "max_restarts": -1}
    backend: BackendConfig = {"client_resources": {**resources}}
    run_simulation(serving, training, order.participants, backend_config=backend)


def _join(order: _Order) -> float:
    """Join a cluster, once its nodes can work on the run's files; return the GPUs of an institution."""
    import ray

    from dictpfl.client.app import INSTITUTIONS
    from dictpfl.server.app import FOLDER

    reached(order.places.cluster)
    # Nodes were started by others, from an environment of their own.
    told = (
        "PYTHONPATH",
        "PYTHONWARNINGS",
        "OMP_NUM_THREADS",
        "FLWR_HOME",
        "FLWR_TELEMETRY_ENABLED",
        INSTITUTIONS,
        FOLDER,
    )
    given = {name: os.environ[name] for name in told if name in os.environ}
    ray.init(address=order.places.cluster, log_to_driver=True, runtime_env={"env_vars": given})
    nodes = require_nodes(order.home, Path(os.environ[INSTITUTIONS]))
    share_of = order.places.client_gpus
    return of_cluster(nodes, order.participants, order.places.client_cpus) if share_of == AUTO else share_of


def _in_order(grid: Any, participants: int) -> list[int]:
    """Wait until all nodes have registered; return them in the order of their partitions.

    The pinned runtime registers them one after another, and says nowhere else in the coordinator's process which is which.
    """
    deadline = time.monotonic() + _REGISTER_SECONDS
    while len(nodes := list(grid.state.nodes)) < participants:
        if time.monotonic() > deadline:
            raise EngineError(
                f"Expected {participants} nodes in Flower's runtime within {_REGISTER_SECONDS:g} s, found {len(nodes)}."
            )
        time.sleep(POLL_SECONDS / 10)
    return nodes


if __name__ == "__main__":
    said = json.loads(sys.argv[1])
    _child(_Order(**{**said, "places": Places(**said["places"])}))
