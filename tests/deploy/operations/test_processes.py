"""Supervision: started in order, restarted with back-off, stopped with all their children, and never left behind."""

from __future__ import annotations

import errno
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dictpfl.common.errors import ProcessError
from dictpfl.deploy.operations import processes
from dictpfl.deploy.operations.coordinator import programs as coordinators_programs
from dictpfl.deploy.operations.institution import programs as institutions_programs
from dictpfl.deploy.operations.places import PROCESSES, RUN, SECRET
from dictpfl.deploy.operations.processes import FATAL, Delays, Program, Supervisor, _Running, alone
from dictpfl.deploy.operations.settings import CoordinatorSettings, NodeSettings

Code = Callable[[str], list[str]]
FOREVER = "time.sleep(600)"


def alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def facts(folder: Path) -> dict[str, dict[str, int]]:
    try:
        return json.loads((folder / RUN / PROCESSES).read_text())["programs"]
    except (OSError, ValueError):
        return {}


def test_a_program_that_dies_is_started_again(folder: Path, code: Code, supervised) -> None:
    starts = folder / "starts"
    text = f"Path({str(starts)!r}).open('a').write(f'{{time.time()}}\\n')\nif len(open({str(starts)!r}).readlines()) < 4: sys.exit(1)\n"
    program = Program("one", code(text + FOREVER), {}, delays={None: Delays(first=0.2, most=0.4)})
    seen: list[int] = []

    def three() -> bool:
        seen[:] = [facts(folder).get("one", {}).get("restarts", 0)]
        return seen == [3] and len(starts.read_text().splitlines()) == 4

    supervised([program], three)
    times = [float(line) for line in starts.read_text().splitlines()]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps[0] >= 0.2
    assert all(gap >= 0.4 for gap in gaps[1:]), "doubled up to the most"
    assert not (folder / RUN / PROCESSES).exists(), "nothing is said to run when nothing runs"


def test_a_program_whose_health_port_was_taken_is_started_again(folder: Path, code: Code, supervised) -> None:
    """Flower says so, and stays alive without doing anything."""
    starts = folder / "starts"
    text = (
        f"Path({str(starts)!r}).open('a').write('.')\n"
        f"if len(Path({str(starts)!r}).read_text()) < 2: print('Port in server address 127.0.0.1:48665 is already in use.', flush=True)\n"
    )
    program = Program("one", code(text + FOREVER), {}, delays={None: Delays(first=0.2, most=0.4)})
    supervised([program], lambda: facts(folder).get("one", {}).get("restarts", 0) == 1)


@pytest.mark.parametrize("flower_code", sorted(FATAL))
def test_what_no_restart_mends_ends_with_the_reason(folder: Path, code: Code, flower_code: int) -> None:
    text = f"print('ERROR :   Exit Code: {flower_code}\\nERROR :   no such thing', flush=True); sys.exit(1)"
    with pytest.raises(ProcessError, match=f"exit code {flower_code}.*no such thing.*one.log"):
        Supervisor([Program("one", code(text), {}), Program("two", code(FOREVER), {})], folder).run()
    assert facts(folder) == {}


def due_in(running: _Running) -> float:
    return running.due - time.monotonic()


def test_back_off_by_flowers_code(folder: Path) -> None:
    delays = {305: Delays(first=3.0, most=15.0), None: Delays()}
    running = _Running(Program("node", ["x"], {}, delays=delays), folder / "logs")
    running.since = time.monotonic()
    for flower_code, waits in ((305, [3, 6, 12, 15, 15]), (None, [1, 2, 4, 8, 16, 30, 30]), (5, [1, 2])):
        running.failures = 0
        for wait in waits:
            running.log.exit_code = flower_code
            running.restart_later(1)
            assert due_in(running) == pytest.approx(wait, abs=0.5)
    running.failures = 5
    running.since = time.monotonic() - 61
    running.restart_later(1)
    assert due_in(running) == pytest.approx(1, abs=0.5), "one that ran steadily is forgiven"
    running.log.exit_code = 602
    running.restart_later(-9)
    assert due_in(running) < 30, "a program that was killed said nothing: an older code does not count"
    running.log.close()


def test_each_waits_for_the_one_before_it(folder: Path, code: Code, supervised) -> None:
    asked = []

    def ready() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 10

    first, second = Program("first", code(FOREVER), {}, ready=ready), Program("second", code(FOREVER), {})
    while_waiting: list[bool] = []

    def both() -> bool:
        if len(asked) <= 10:
            while_waiting.append(facts(folder).get("second", {}).get("pid") is None)
        return facts(folder).get("second", {}).get("pid") is not None

    supervised([first, second], both)
    assert len(asked) > 10
    assert all(while_waiting)


def test_one_that_follows_starts_anew_with_the_one_before_it(folder: Path, code: Code, supervised) -> None:
    once = folder / "once"
    text = f"mark = Path({str(once)!r})\nif not mark.exists(): time.sleep(1); mark.touch(); sys.exit(1)\n{FOREVER}"
    delays = {None: Delays(first=0.1)}
    first = Program("first", code(text), {}, delays=delays)
    follows, stays = Program("follows", code(FOREVER), {}, follows=True), Program("stays", code(FOREVER), {})
    supervised(
        [first, follows, stays],
        lambda: {name: p["restarts"] for name, p in facts(folder).items()} == {"first": 1, "follows": 1, "stays": 0},
    )


def test_told_which_programs_were_started(folder: Path, code: Code, supervised) -> None:
    told: list[frozenset[str]] = []
    b = Program("b", code(FOREVER), {}, delays={None: Delays(first=0.1)})

    def twice() -> bool:
        if len(told) == 1 and facts(folder)["b"]["restarts"] == 0:
            os.kill(facts(folder)["b"]["pid"], 9)
            time.sleep(0.3)
        return len(told) == 2

    supervised([Program("a", code(FOREVER), {}), b], twice, once_ready=told.append)
    assert told == [{"a", "b"}, {"b"}]


def test_all_that_a_program_started_ends_with_it(folder: Path, code: Code, supervised) -> None:
    child = folder / "child"
    spawn = f"p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); Path({str(child)!r}).write_text(str(p.pid)); {FOREVER}"
    pids: list[int] = []

    def running() -> bool:
        if child.exists() and child.read_text():
            pids[:] = [int(child.read_text()), facts(folder)["one"]["pid"]]
        return bool(pids) and all(alive(pid) for pid in pids)

    supervised([Program("one", code(spawn), {})], running)
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def test_one_that_does_not_listen_is_killed(folder: Path, code: Code, supervised, monkeypatch) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)
    deaf, pids = folder / "deaf", []
    text = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); Path({str(deaf)!r}).touch(); {FOREVER}"

    def running() -> bool:
        pids[:] = [facts(folder).get("one", {}).get("pid")]
        return deaf.exists()

    began = time.monotonic()
    supervised([Program("one", code(text), {})], running)
    assert time.monotonic() - began < 15
    assert not alive(pids[0])


def test_nothing_outlives_a_supervisor_that_is_killed(folder: Path, code: Code) -> None:
    script = (
        "import sys; from pathlib import Path; from dictpfl.deploy.operations.processes import Program, Supervisor\n"
        f"Supervisor([Program('one', ['fake-program', {FOREVER!r}], {{}})], Path({str(folder)!r})).run()"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 20
    while not facts(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = facts(folder)["one"]["pid"]
    time.sleep(0.5)  # until the program has asked to end with its parent
    supervisor.kill()
    supervisor.wait()
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_one_supervisor_a_folder(folder: Path) -> None:
    with alone(folder / RUN), pytest.raises(ProcessError, match="another `up` runs in"):
        Supervisor([], folder).run()
    with alone(folder / RUN):
        pass


def test_no_secret_on_a_command_line(coordinator: Path, institution: Path) -> None:
    """Every program's arguments and environment, against the bytes of every secret file."""
    for folder, made in (
        (coordinator, lambda: coordinators_programs(coordinator, CoordinatorSettings(bundle="00"))),
        (institution, lambda: institutions_programs(institution, NodeSettings(coordinator="a:1", bundle="00"))),
    ):
        (folder / RUN).mkdir(mode=0o700)
        listed = made()
        secret = (folder / RUN / SECRET).read_text()
        assert len(secret) == 64
        for program in listed:
            text = " ".join([*program.command, *program.environment.values()])
            assert secret not in text
            assert str(folder / RUN / SECRET) in text, "the file's name, not what is in it"
            assert "127.0.0.1" in text
            assert "0.0.0.0" not in text  # noqa: S104  that it is not


def test_a_port_that_is_taken_is_named(folder: Path, code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PORT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ProcessError, match=rf"port {port} on 127.0.0.1 is in use.*ss -ltnp.*--port"):
            Supervisor([Program("one", code(FOREVER), {})], folder, ports=[port]).run()
    assert facts(folder) == {}
    processes.require_free(port, 1.0)


def test_a_port_that_is_let_go_in_time_is_waited_for() -> None:
    other = socket.create_server(("127.0.0.1", 0))
    later = threading.Timer(0.3, other.close)
    later.start()
    processes.require_free(other.getsockname()[1], 10.0)
    later.join()


def test_a_full_disk_ends_no_supervisor(
    folder: Path,
    code: Callable[[str], list[str]],
    supervised: Callable[..., Supervisor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither its own notes nor what follows a start: both are made up for once there is room."""
    full, refused, told = [True], [], []
    write = processes.write_private

    def refuse(*_: object) -> None:
        refused.append(1)
        full[0] = len(refused) < 4
        raise OSError(errno.ENOSPC, "No space left on device")

    def once_ready(started: frozenset[str]) -> None:
        if full[0]:
            refuse()
        told.append(started)

    monkeypatch.setattr(processes, "write_private", lambda *given: refuse() if full[0] else write(*given))
    monkeypatch.setattr(processes, "FULL_SECONDS", 0.05)
    monkeypatch.setattr(processes.disk, "trouble", lambda _: "0 B are free")
    program = Program("one", code("time.sleep(60)"), {})
    supervised([program], lambda: bool(told) and bool(facts(folder)), once_ready=once_ready)
    assert told == [frozenset({"one"})]
    assert len(refused) >= 4


def test_another_error_of_the_system_does(
    code: Callable[[str], list[str]], supervised: Callable[..., Supervisor]
) -> None:
    def once_ready(_: frozenset[str]) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        supervised([Program("one", code("time.sleep(60)"), {})], lambda: False, once_ready=once_ready)
