"""How tasks are ordered: one kind only, the token on no command line, and a process that starts them, replaced when it dies."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResultStatus

from dictpfl.deploy.operations import executor
from dictpfl.deploy.operations.environment import TASK_POLL
from dictpfl.deploy.operations.executor import PinnedExecutor

TOKEN = "a-token-that-nobody-may-see"  # noqa: S105  and nobody wants


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process that writes down what it was told, and with which arguments, in place of starting tasks."""
    fake = tmp_path / "task"
    fake.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "arguments = open('/proc/self/cmdline').read() + open('/proc/self/environ').read()\n"
        "for number, order in enumerate(sys.stdin):\n"
        f"    path = os.path.join({str(tmp_path)!r}, f'{{os.getpid()}}-{{number}}.json')\n"
        "    open(path, 'w').write(json.dumps(dict(order=json.loads(order), seen=arguments)))\n"
    )
    fake.chmod(0o700)
    monkeypatch.setattr(executor.sys, "executable", str(fake))
    return tmp_path


@pytest.fixture
def made() -> Iterator[list[PinnedExecutor]]:
    created: list[PinnedExecutor] = []
    yield created
    for each in created:
        each.close()
        if each._nursery is not None:
            each._nursery.wait(10)


def spec(kind: TaskType) -> ExecutionSpec:
    fields = ExecutionSpec.__dataclass_fields__
    given = {
        "task_type": kind, "runtime_api_address": "127.0.0.1:9094", "token": TOKEN, "insecure": True,
        "root_certificates_path": None, "parent_pid": 42, "runtime_dependency_install": False, "suppress_output": False,
        "task_id": 7,
    }  # fmt: skip
    return ExecutionSpec(**{name: given.get(name) for name in fields})


def told(orders: Path, count: int) -> list[dict]:
    deadline = time.monotonic() + 10
    while len(list(orders.glob("*.json"))) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    return [json.loads(path.read_text()) for path in sorted(orders.glob("*.json"))]


def test_only_one_kind_is_asked_for(made: list[PinnedExecutor]) -> None:
    everything = {TaskType.CLIENT_APP, TaskType.SERVER_APP}
    for kind, task in executor.KINDS.items():
        made.append(PinnedExecutor(kind))
        assert made[-1].get_eligible_capacity(everything) == ({task}, set())
        assert made[-1].get_eligible_capacity(everything - {task}) == (set(), set())


def test_another_kind_is_not_started(orders: Path, made: list[PinnedExecutor]) -> None:
    made.append(PinnedExecutor("clientapp"))
    result = made[0].launch(spec(TaskType.SERVER_APP))
    assert result.status is LaunchResultStatus.FAILED
    assert "only clientapp runs here" in result.message
    assert told(orders, 0) == []


def test_the_token_travels_on_standard_input(orders: Path, made: list[PinnedExecutor]) -> None:
    made.append(PinnedExecutor("clientapp"))
    assert made[0].launch(spec(TaskType.CLIENT_APP)).status is LaunchResultStatus.ACCEPTED
    (task,) = told(orders, 1)
    assert task["order"] == {
        "address": "127.0.0.1:9094", "token": TOKEN, "insecure": True, "certificates": None, "parent": 42,
    }  # fmt: skip
    assert TOKEN not in task["seen"]


@pytest.mark.parametrize("kind", sorted(executor.KINDS))
def test_one_process_starts_all_tasks_and_a_dead_one_is_replaced(
    orders: Path, made: list[PinnedExecutor], kind: str
) -> None:
    made.append(PinnedExecutor(kind))
    one, task = made[0], spec(executor.KINDS[kind])
    one.reconcile()
    first = one._nursery
    assert first is not None
    one.reconcile()
    assert one._nursery is first, "one is enough"
    assert [one.launch(task).status for _ in range(2)] == [LaunchResultStatus.ACCEPTED] * 2
    assert len(told(orders, 2)) == 2
    first.kill()
    first.wait()
    assert one.launch(task).status is LaunchResultStatus.ACCEPTED, "a fresh one took its place"
    assert len(told(orders, 3)) == 3
    assert one._nursery is not first


def test_flowers_superexec_is_given_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("flwr.supercore.superexec.run_superexec")
    monkeypatch.setitem(module.__dict__, "get_executor", module.__dict__["get_executor"])
    monkeypatch.setitem(module.__dict__, "time", module.__dict__["time"])
    monkeypatch.setenv(TASK_POLL, "0.25")
    executor.use_pinned_tasks("clientapp")
    assert isinstance(module.__dict__["get_executor"]("subprocess", insecure=True), PinnedExecutor)
