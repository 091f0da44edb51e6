"""Tasks of several institutions on one machine take turns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from flwr.supercore.constant import TaskType

from dictpfl.deploy.operations import slots
from dictpfl.deploy.operations.executor import PinnedExecutor

HOLDS = "import sys\nfrom dictpfl.deploy.operations import slots\nwith slots.taken(): print('in', flush=True); sys.stdin.read()"


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("0", "1"):
        (tmp_path / name).touch()
    monkeypatch.setenv(slots.SLOTS, str(tmp_path))
    return tmp_path


def holding() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"in\n"
    return process


def ended(process: subprocess.Popen[bytes], *, killed: bool = False) -> None:
    if killed:
        process.kill()
    process.communicate()


def test_without_the_variable_there_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(slots.SLOTS, raising=False)
    assert slots.is_free()
    with slots.taken():
        assert slots.is_free()


def test_a_task_is_fetched_only_when_it_may_start(two: Path) -> None:
    one, executor = {TaskType.CLIENT_APP}, PinnedExecutor("clientapp")
    first = holding()
    assert executor.get_eligible_capacity(one) == (one, set())
    second = holding()
    assert not slots.is_free()
    assert executor.get_eligible_capacity(one) == (set(), set())
    ended(first)
    assert executor.get_eligible_capacity(one) == (one, set())
    ended(second)


def test_one_that_is_killed_gives_its_slot_back(two: Path) -> None:
    holders = [holding(), holding()]
    assert not slots.is_free()
    ended(holders[0], killed=True)
    assert slots.is_free()
    ended(holders[1], killed=True)


def test_one_that_comes_too_late_waits(two: Path) -> None:
    first, second = holding(), holding()
    third = subprocess.Popen([sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        third.wait(1.0)
    ended(first)
    assert third.stdout is not None
    assert third.stdout.readline() == b"in\n"
    ended(second)
    ended(third)
