"""Tasks start as forks of one process that has loaded what is slow; here without Flower."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dictpfl.common.ckks.keys import key_document, make_key
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.config import FederationConfig

NOTES = """
import os
from pathlib import Path
from dictpfl.deploy.operations.task import Nursery

def run(order, pin):
    Path(order["out"]).write_text(f"{os.getpid()} {os.getppid()} {os.read(0, 1)}")
    if "end" in order:
        eval(order["end"], {"os": os})

Nursery(run, None, ["json", "queue"]).serve()
"""
SPARE = """
import os, sys, time
from pathlib import Path
from dictpfl.deploy.operations.task import Nursery

folder = Path(sys.argv[1])

def prepare():
    (folder / f"prepared-{os.getpid()}").touch()
    time.sleep(float(sys.argv[2]))

def run(order, pin):
    (folder / f"ran-{os.getpid()}").touch()

Nursery(run, None, ["json"], prepare).serve()
"""
SEALS = """
import sys
from pathlib import Path
import numpy as np
from dictpfl.common.ckks.keys import parse_key
from dictpfl.common.ckks.sealing import CKKSSealer
from dictpfl.deploy.operations.task import Nursery

def run(order, pin):
    key = parse_key(Path(order["key"]).read_bytes(), Path(order["key"]))
    sealed = CKKSSealer(key).seal(np.zeros(4000, dtype=np.int64))
    Path(order["out"]).write_bytes(sealed.seed + sealed.words.tobytes())

Nursery(run, None, ["dictpfl.common.ckks.sealing"]).serve()
"""


def served(code: str, orders: list[dict[str, str]], *, joined: bool = False) -> subprocess.CompletedProcess[bytes]:
    lines = [json.dumps(order).encode() + b"\n" for order in orders]
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    for line in [b"".join(lines)] if joined else lines:
        process.stdin.write(line)
        process.stdin.flush()
    _, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(code, process.returncode, b"", errors)


def test_each_order_gets_a_process_of_its_own(tmp_path: Path) -> None:
    ends = ["os.kill(os.getpid(), 9)", "1 / 0", "(_ for _ in ()).throw(SystemExit(3))", "None"]
    orders = [{"out": str(tmp_path / str(number)), "end": end} for number, end in enumerate(ends)]
    ended = served(NOTES, orders)
    assert ended.returncode == 0, "whatever befalls a task, the others start"
    wait_for(tmp_path, len(ends))
    found = [(tmp_path / str(number)).read_text().split() for number in range(len(ends))]
    assert len({own for own, _, _ in found}) == len(ends)
    assert {stdin for _, _, stdin in found} == {"b''"}, "no task can read another's order"
    assert b"ZeroDivisionError" in ended.stderr


def test_orders_that_come_at_once(tmp_path: Path) -> None:
    served(NOTES, [{"out": str(tmp_path / str(number))} for number in range(5)], joined=True)
    wait_for(tmp_path, 5)


def wait_for(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 20
    while len([path for path in folder.iterdir() if path.stat().st_size]) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(list(folder.iterdir())) == count


class Preparing:
    """A nursery that prepares; its orders come one by one."""

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        self.folder = folder
        self.process = subprocess.Popen([sys.executable, "-c", SPARE, str(folder), str(seconds)], stdin=subprocess.PIPE)

    def order(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"{}\n")
        self.process.stdin.flush()

    def pids(self, what: str, count: int) -> list[int]:
        deadline = time.monotonic() + 20
        while True:
            found = [int(path.name.rpartition("-")[2]) for path in self.folder.glob(f"{what}-*")]
            if len(found) >= count or time.monotonic() > deadline:
                assert len(found) == count
                return found
            time.sleep(0.02)

    def end(self) -> None:
        self.process.communicate(timeout=20)
        assert self.process.returncode == 0


def lives(pid: int) -> bool:
    """Not gone, nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_one_is_prepared_and_serves_the_next_order(tmp_path: Path) -> None:
    nursery = Preparing(tmp_path)
    (first,) = nursery.pids("prepared", 1)
    nursery.order()
    assert nursery.pids("ran", 1) == [first]
    assert len(nursery.pids("prepared", 2)) == 2, "and another takes its place"
    nursery.end()


def test_orders_never_share_what_was_prepared(tmp_path: Path) -> None:
    """Three at once: one is served by the one that was prepared, the others by processes that inherited nothing."""
    nursery = Preparing(tmp_path)
    (first,) = nursery.pids("prepared", 1)
    for _ in range(3):
        nursery.order()
    ran = nursery.pids("ran", 3)
    assert ran.count(first) == 1
    assert len(set(ran)) == 3
    nursery.end()


def test_an_order_that_comes_while_one_is_preparing(tmp_path: Path) -> None:
    nursery = Preparing(tmp_path, seconds=1.0)
    (first,) = nursery.pids("prepared", 1)
    nursery.order()
    assert nursery.pids("ran", 1) == [first]
    nursery.end()


def test_one_that_was_killed_while_it_waited(tmp_path: Path) -> None:
    nursery = Preparing(tmp_path)
    (first,) = nursery.pids("prepared", 1)
    os.kill(first, signal.SIGKILL)
    while lives(first):
        time.sleep(0.01)
    nursery.order()
    assert nursery.pids("ran", 1) != [first]
    nursery.end()


def test_forks_do_not_share_randomness(tmp_path: Path) -> None:
    """Two uploads under one key with the same randomness would give their difference away."""
    key = make_key(CKKSParameters.choose(FederationConfig.of({}, {}).encryption, 3))
    path = tmp_path / "key"
    path.write_bytes(key_document(key))
    out = tmp_path / "out"
    out.mkdir()
    served(SEALS, [{"key": str(path), "out": str(out / str(number))} for number in range(3)])
    wait_for(out, 3)
    sealed = [(out / str(number)).read_bytes() for number in range(3)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        same = sum(a == b for a, b in zip(sealed[one], sealed[other], strict=True)) / len(sealed[one])
        assert same < 0.2, "ciphertexts of the same values have nothing in common but the empty byte above each word"


@pytest.mark.slow
def test_what_is_loaded_ahead_starts_no_thread() -> None:
    """A process with threads must not fork."""
    pytest.importorskip("torch")
    code = (
        "import os, importlib, sys; os.environ['OPENBLAS_NUM_THREADS'] = '1'\n"
        "from dictpfl.deploy.operations.task import _SLOW\n"
        "[importlib.import_module(name) for name in _SLOW]\n"
        "sys.exit(len(os.listdir('/proc/self/task')) - 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
