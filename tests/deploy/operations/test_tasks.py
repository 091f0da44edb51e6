"""Tasks start as forks of one process that has loaded what is slow; here without Flower."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.config import FederationConfig
from common.keys import key_document, make_key
from common.parameters import CKKSParameters

NOTES = """
import os
from pathlib import Path
from deploy.operations.task import Nursery

def run(order, pin):
    Path(order["out"]).write_text(f"{os.getpid()} {os.getppid()} {os.read(0, 1)}")
    if "end" in order:
        eval(order["end"], {"os": os})

Nursery(run, None, ["json", "queue"]).serve()
"""
SEALS = """
import sys
from pathlib import Path
import numpy as np
from common.keys import parse_key
from common.sealing import CKKSSealer
from deploy.operations.task import Nursery

def run(order, pin):
    key = parse_key(Path(order["key"]).read_bytes(), Path(order["key"]))
    Path(order["out"]).write_bytes(b"".join(CKKSSealer(key).seal(np.zeros(1, dtype=np.int64))))

Nursery(run, None, ["common.sealing"]).serve()
"""

AHEAD = """
import os, sys, types
from pathlib import Path
from deploy.operations.task import Nursery

class Opened:
    def prepare(self):
        Path(sys.argv[1], "opened").open("a").write(f"{os.getpid()}\\n")
        eval(sys.argv[2])

fake = types.ModuleType("client.institution")
fake.open_institution = lambda folder: Opened()
sys.modules["client.institution"] = fake

def run(order, pin):
    Path(order["out"]).write_text(f"{os.getpid()}")

Nursery(run, None, ["json"], Path(sys.argv[1])).serve()
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
        assert same < 0.2, "ciphertexts of the same value have nothing in common but their frame"


def test_what_is_loaded_ahead_starts_no_thread() -> None:
    """A process with threads must not fork."""
    pytest.importorskip("torch")
    code = (
        "import os, importlib, sys; os.environ['OPENBLAS_NUM_THREADS'] = '1'\n"
        "from deploy.operations.task import _SLOW\n"
        "[importlib.import_module(name) for name in _SLOW]\n"
        "sys.exit(len(os.listdir('/proc/self/task')) - 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("then", ["None", "1 / 0", "os.kill(os.getpid(), 9)"])
def test_the_next_task_finds_its_institution_open(tmp_path: Path, then: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", AHEAD, str(tmp_path), then], stdin=subprocess.PIPE)
    assert process.stdin is not None
    opened = tmp_path / "opened"
    for number in range(3):
        until(lambda number=number: opened.exists() and len(opened.read_text().splitlines()) > number)
        if "kill" in then:
            time.sleep(0.3)  # an order that it took with it would be lost, as with any task that is killed
        out = tmp_path / str(number)
        process.stdin.write(json.dumps({"out": str(out)}).encode() + b"\n")
        process.stdin.flush()
        until(lambda out=out: out.exists() and out.read_text())
        if "kill" not in then:
            assert out.read_text() in opened.read_text().splitlines()
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    last = int(opened.read_text().splitlines()[-1])
    until(lambda: not Path(f"/proc/{last}").exists())  # one that no order came for ends as well


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.02)
