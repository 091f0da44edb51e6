"""Real processes and SIGKILL: what lies on disk afterwards is enough to go on, and the model is the undisturbed one's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.federations import tiny
from tests.support.harness import World

pytestmark = pytest.mark.usefixtures("quiet")

INSTITUTION = """
import os, pickle, signal, sys
from pathlib import Path
import dictpfl.common.files
from dictpfl.client.institution import Institution

institution, where = Path(sys.argv[1]), sys.argv[2]
request = pickle.load(sys.stdin.buffer)
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
replace, fsync, calls = os.replace, os.fsync, []

def dying(real):
    def call(*arguments):
        calls.append(real)
        if len(calls) == 2 and where == "before":
            die()
        real(*arguments)
        if len(calls) == 2 and where == "after":
            die()
    return call

if where == "torn":
    import dictpfl.client.memory.record
    save_file = dictpfl.client.memory.record.save_file
    def torn(tensors, path, metadata=None):
        # Half of the file reaches the disk.
        save_file(tensors, path, metadata=metadata)
        os.truncate(path, os.path.getsize(path) // 2)
        die()
    dictpfl.client.memory.record.save_file = torn
else:
    os.replace = dying(replace)
Institution(institution).handle(request)
"""

COORDINATOR = """
import os, pickle, signal, sys
from pathlib import Path
from dictpfl.server.coordinator import Coordinator

folder, where, replies = Path(sys.argv[1]), sys.argv[2], pickle.load(sys.stdin.buffer)
coordinator = Coordinator.open(folder)

class Mortal:
    def __init__(self, real):
        self.real = real
        self.executemany = real.executemany
    def execute(self, sql, *arguments):
        if sql == "COMMIT" and where == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = self.real.execute(sql, *arguments)
        if sql == "COMMIT" and where == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

coordinator._journal._db = Mortal(coordinator._journal._db)
coordinator.begin(sorted(replies))
for node, reply in replies.items():
    coordinator.receive(node, reply)
coordinator.close()
"""


def killed(script: str, argument: Path, where: str, handed: object) -> None:
    """Run a process that kills itself without a chance to clean up."""
    import pickle

    result = subprocess.run(
        [sys.executable, "-P", "-c", script, str(argument), where],
        input=pickle.dumps(handed),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.found(tiny(federation__rounds=2), tmp_path_factory.mktemp("template") / "world")


@pytest.fixture(scope="module")
def undisturbed(template: World, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    world = template.copy(tmp_path_factory.mktemp("undisturbed") / "world")
    world.run()
    digest = world.digest()
    world.close()
    return digest


@pytest.fixture
def world(template: World, tmp_path: Path) -> Iterator[World]:
    made = template.copy(tmp_path / "world")
    yield made
    made.close()


@pytest.mark.parametrize("where", ["before", "after", "torn"])
def test_an_institution_is_killed_while_it_stores(where: str, world: World, undisturbed: bytes) -> None:
    """In round 1: the first file holds the applied aggregate, the second one the waiting upload."""
    world.exchange()
    request = world.coordinator.begin(world.nodes)[1]
    killed(INSTITUTION, world.home(1), where, request)
    world.run()
    assert world.digest() == undisturbed
    assert all(len(aggregate.counted) == 3 for _, aggregate in world.journal())


def test_a_killed_store_leaves_no_litter_for_ever(world: World) -> None:
    """Half-written files are as large as the memory itself; a crash loop must not fill the disk with them."""
    world.exchange()
    killed(INSTITUTION, world.home(1), "torn", world.coordinator.begin(world.nodes)[1])
    world.run()
    kept = {
        ".safetensors",
        ".sum",
        ".lock",
        ".jsonl",
    }  # state, the last sum, its lock, the record of the sums that were opened
    left = sorted(path.name for path in (world.home(1) / "memory").iterdir() if path.suffix not in kept)
    assert left == []


@pytest.mark.parametrize("where", ["before", "after"])
def test_the_coordinator_is_killed_while_it_journals(where: str, world: World, undisturbed: bytes) -> None:
    world.exchange()
    replies = {node: world.converse(node, request) for node, request in world.coordinator.begin(world.nodes).items()}
    world.close()
    killed(COORDINATOR, world.coordinator_folder, where, replies)
    assert len(world.journal()) == (1 if where == "before" else 2)
    world.run()
    assert world.digest() == undisturbed
    assert all(len(aggregate.counted) == 3 for _, aggregate in world.journal())
