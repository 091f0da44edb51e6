"""The engine on Ray: it finishes, it reports, it blinds the coordinator, and it leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dictpfl.common.errors import EngineError
from dictpfl.deploy.app.bundle import write_app
from dictpfl.deploy.simulation.flower import Places, run_flower
from tests.support import ROOT

pytest.importorskip("ray")

ROUNDS = 3
NO_GPU = Places()
TWO_GPUS = Places(client_gpus=1.0, gpus=2)
"""Ray is told of two, whatever there is: it hands out numbers, and looks at nothing."""

COORDINATOR = """
import json, os, sys
from pathlib import Path
from dictpfl.common.messages.protocol import Request, RoundKind

class Coordinator:
    least, deadline_seconds = 3, 60.0

    def __init__(self, folder):
        self.state, self.uploads = folder / "state.json", {}
        self.round, self.seen = 0, []

    @classmethod
    def open(cls, folder):
        if (folder / "broken").exists():
            raise RuntimeError("the journal is on fire")
        return cls(folder)

    rejected: dict = {}
    satisfied = False

    @property
    def finished(self):
        return self.round >= ROUNDS and not (self.state.parent / "endless").exists()

    def welcome(self, nodes):
        return sorted(nodes)

    def begin(self, nodes):
        self.uploads = {}
        return {node: Request(self.round, RoundKind.UPDATE, b"f" * 32, b"k" * 32) for node in nodes}

    def receive(self, node, reply):
        self.uploads[node] = reply.blob.decode()

    def failed(self, node, reason):
        pass

    def close_journal(self):
        pass

    def close(self):
        if len(self.uploads) < self.least:
            return
        self.round += 1
        self.seen.append(sorted(self.uploads.values()))
        loaded = [name for name in ("torch", "dictpfl.common.ckks.opening", "dictpfl.client.institution") if name in sys.modules]
        # Written beside and renamed: the process may be killed in the middle, and others read meanwhile.
        beside = self.state.with_suffix(".new")
        beside.write_text(json.dumps({"seen": self.seen, "finished": self.finished, "loaded": loaded}))
        beside.replace(self.state)
""".replace("ROUNDS", str(ROUNDS))

INSTITUTION = """
import os
import time
import users_own_module
from dictpfl.common.messages.protocol import Reply, Status

class Institution:
    def __init__(self, folder):
        self.folder = folder

    def handle(self, request):
        print("institution at work:", self.folder.name)
        with (self.folder.parent.parent / "cards").open("a") as file:
            file.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
        if (self.folder.parent.parent / "slow").exists():
            time.sleep(0.5)
        blob = f"{self.folder.name} {os.environ['OMP_NUM_THREADS']} {users_own_module.answer}"
        return Reply(Status.UPLOAD, request.round, request.round, blob.encode())

open_institution = Institution
"""

SCRIPT = """
import signal, sys
# A shell that starts its jobs in the background has them ignore SIGINT; a person's terminal does not.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from dictpfl.deploy.simulation.flower import run_flower
base = Path(sys.argv[1])
run_flower(base, base, 3, work=base / "work", log=base / "log", finished=lambda: False)
"""


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an app folder with tiny stand-ins for the coordinator and the institution."""
    app = write_app(tmp_path_factory.mktemp("stubs") / "app")
    (app / "dictpfl/server/coordinator.py").write_text(COORDINATOR)
    (app / "dictpfl/server/recording.py").write_text(
        "from dictpfl.server.coordinator import Coordinator\nopen_coordinator = Coordinator.open\n"
    )
    (app / "dictpfl/client/institution.py").write_text(INSTITUTION)
    (app / "dictpfl/deploy").symlink_to(ROOT / "deploy")  # what starts the runtime is the real one
    return app


@pytest.fixture
def home(tmp_path: Path, stubs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder to run in, with a user's module in the working directory and the stand-ins before all others."""
    monkeypatch.syspath_prepend(stubs)
    user = tmp_path / "user"
    (user / "common").mkdir(parents=True)
    (user / "common/__init__.py").write_text("raise RuntimeError('a package of the user hid one of ours')")
    (user / "users_own_module.py").write_text("answer = 42")
    monkeypatch.chdir(user)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


def run(base: Path, on_poll: Callable[[], None] | None = None, places: Places = NO_GPU) -> None:
    base.mkdir(exist_ok=True)
    state = base / "state.json"

    def finished() -> bool:
        return state.exists() and bool(json.loads(state.read_text())["finished"])

    run_flower(
        base, base / "institutions", 3, work=base / "work", log=base / "log", finished=finished, on_poll=on_poll, places=places
    )  # fmt: skip


def processes() -> dict[int, tuple[int, str]]:
    """Return all living processes: parent, and when started (so that a number given again is told apart)."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            found[int(entry.name)] = (int(fields[1]), fields[19])
    return found


class Family:
    """All descendants of a process that were ever seen; of this one without those that other tests began."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.seen: dict[int, str] = {}
        self.scratch: set[Path] = set()
        self.others: set[int] = self.members() - {root} if root == os.getpid() else set()

    def members(self, others: Collection[int] = ()) -> set[int]:
        everybody, family = processes(), {self.root}
        while more := {pid for pid, (parent, _) in everybody.items() if parent in family} - family - {*others}:
            family |= more
        return family

    def look(self) -> None:
        everybody, family = processes(), self.members(self.others)
        for pid in family - {self.root}:
            with suppress(OSError):
                folder = Path(f"/proc/{pid}/cwd").readlink()
                self.scratch |= {folder} if folder.name.startswith("ray-") else set()
        self.seen |= {pid: everybody[pid][1] for pid in family - {self.root} if pid in everybody}

    def folders(self) -> list[Path]:
        """Return the runtime's temporary folders that are left."""
        return [folder for folder in self.scratch if folder.exists()]

    def alive(self) -> list[int]:
        everybody = processes()
        return [pid for pid, started in self.seen.items() if everybody.get(pid, (0, ""))[1] == started]


def await_(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def test_a_run_finishes_and_leaves_nothing(home: Path) -> None:
    family = Family(os.getpid())
    base = home / "run"
    run(base, family.look)
    state = json.loads((base / "state.json").read_text())
    assert state["seen"] == [[f"institution-{institution:03d} 1 42" for institution in range(3)]] * ROUNDS
    assert state["loaded"] == [], "the coordinator's process must stay blind, in simulation too"
    assert "institution at work: institution-002" in (base / "log").read_text()
    assert len(family.seen) > 5
    assert family.alive() == []
    assert list((base / "work").glob("ray-*")) == []


@pytest.mark.slow
def test_two_runs_at_once(home: Path) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(run, (home / "one", home / "two"), (None, None), (NO_GPU, TWO_GPUS)))
    for name in ("one", "two"):
        assert json.loads((home / name / "state.json").read_text())["finished"]
    cards = {name: set((home / name / "cards").read_text().split()) for name in ("one", "two")}
    assert cards["one"] <= {"None"}, "an institution without a share saw a GPU"
    assert set() < cards["two"] <= {"0", "1"}, "each institution sees the one card that it got"


def test_a_failure_names_the_log_and_its_last_lines(home: Path) -> None:
    base = home / "run"
    base.mkdir()
    (base / "broken").touch()
    family = Family(os.getpid())
    with pytest.raises(EngineError, match="the journal is on fire") as caught:
        run(base, family.look)
    assert str(base / "log") in str(caught.value)
    assert family.alive() == []


STARTS_LATE = """
import sys
from pathlib import Path

if "dictpfl.deploy.simulation.flower" in sys.orig_argv:
    import ray

    start, tried = ray.init, Path(__file__).parent / "tried"

    def init(*given, **named):
        with tried.open("a") as file:
            file.write("x")
        if tried.stat().st_size <= LATE:
            raise Exception("The current node timed out during startup.")
        return start(*given, **named)

    ray.init = init
"""


def starts_late(folder: Path, times: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let Ray fail to start so many times; return the file that has a letter for each start."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(STARTS_LATE.replace("LATE", str(times)))
    monkeypatch.syspath_prepend(folder)
    return folder / "tried"


@pytest.mark.slow
def test_a_ray_that_starts_late_is_started_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = starts_late(home / "late", 2, monkeypatch)
    with capture_logs() as told:
        run(home / "run")
    assert tried.read_text() == "xxx"
    assert [entry["start"] for entry in told if "started again" in entry["event"]] == [2, 3]
    assert json.loads((home / "run" / "state.json").read_text())["finished"]


@pytest.mark.slow
def test_a_ray_that_never_starts_is_told_with_what_helps(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = starts_late(home / "late", 9, monkeypatch)
    with pytest.raises(EngineError, match=r"(?s)did not start, 3 times.*--engine local.*timed out during startup"):
        run(home / "run")
    assert tried.read_text() == "xxx"


@pytest.mark.slow
def test_an_exception_while_polling_stops_everything(home: Path) -> None:
    base, family = home / "run", Family(os.getpid())
    base.mkdir()
    (base / "endless").touch()

    def poll() -> None:
        family.look()
        if (base / "state.json").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(base, poll)
    assert len(family.seen) > 5
    assert family.alive() == []


def named(family: Family, name: str) -> list[int]:
    found = []
    for pid in family.alive():
        with suppress(OSError):
            if name in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(pid)
    return found


@pytest.mark.slow
def test_an_institution_whose_process_is_killed_comes_back(home: Path) -> None:
    base, family = home / "run", Family(os.getpid())
    base.mkdir()
    (base / "slow").touch()
    killed: list[int] = []

    def poll() -> None:
        family.look()
        actors = named(family, "ClientAppActor")
        if actors and (base / "state.json").exists() and not killed:
            killed.append(actors[0])
            os.kill(killed[0], signal.SIGKILL)

    run(base, poll)
    assert len(killed) == 1
    assert "flower-error-0" in (base / "log").read_text()
    assert json.loads((base / "state.json").read_text())["finished"]


@pytest.mark.slow
def test_a_runtime_that_is_killed_is_reported_and_cleared_away(home: Path) -> None:
    base, family = home / "run", Family(os.getpid())
    base.mkdir()
    (base / "endless").touch()

    def poll() -> None:
        family.look()
        if (base / "state.json").exists():
            for pid in named(family, "dictpfl.deploy.simulation.flower"):
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(EngineError, match="exit code -9"):
        run(base, poll)
    assert family.alive() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_caller_stops_everything(home: Path, stubs: Path, number: signal.Signals) -> None:
    base = home / "run"
    base.mkdir()
    (base / "endless").touch()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(stubs), str(ROOT)])}
    caller = subprocess.Popen([sys.executable, "-P", "-c", SCRIPT, str(base)], env=environment)
    family = Family(caller.pid)
    try:
        assert await_((base / "state.json").exists, 60)
        family.look()
        assert len(family.seen) > 5
        assert len(family.folders()) == 1
        caller.send_signal(number)
        assert caller.wait(timeout=15) != 0
        assert await_(lambda: family.alive() == [], 15)
        assert await_(lambda: not family.folders(), 5)
    finally:
        caller.kill()
        caller.wait()
