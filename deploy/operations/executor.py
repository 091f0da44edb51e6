"""Start of tasks by a SuperExec: one kind only, never anything but the agreed app, and no token in `ps`.

Flower's own executor starts whatever kind of task its server asks for (apps, agents, connectors), from whatever bundle
the server sends, with the task's token on the command line.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace

from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult

from dictpfl.deploy.operations import slots
from dictpfl.deploy.operations.environment import TASK_POLL
from dictpfl.deploy.operations.pace import Pace

LOOK_SECONDS = 0.05
"""Seconds between two looks for a task just after one began: it is short where rounds are, and its like may follow."""
KINDS = {"clientapp": TaskType.CLIENT_APP, "serverapp": TaskType.SERVER_APP}


class PinnedExecutor:
    """Has `dictpfl.deploy.operations.task` start tasks of one kind; fulfils Flower's `Executor` protocol."""

    def __init__(self, kind: str, started: Callable[[], None] = lambda: None) -> None:
        """Start tasks of a kind, and tell `started` of each."""
        self._kind, self._started = kind, started
        self._nursery: subprocess.Popen[bytes] | None = None

    def get_eligible_capacity(
        self, supported_task_types: set[TaskType], **_options: object
    ) -> tuple[set[TaskType], set[str]]:
        """Ask for tasks of our kind only, and only when one may start: others are not even fetched."""
        return ({KINDS[self._kind]} & supported_task_types if slots.is_free() else set()), set()

    def wait_for_capacity(self, *_args: object, **_options: object) -> None:
        """Do nothing: there is no limit to wait for."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start a task in a process of its own; the token travels through a pipe."""
        if spec.task_type is not KINDS[self._kind]:
            return LaunchResult.failed(f"only {self._kind} runs here, refused {spec.task_type}")
        order = {
            "address": spec.runtime_api_address,
            "token": spec.token,
            "insecure": spec.insecure,
            "certificates": spec.root_certificates_path,
            "parent": spec.parent_pid,
        }
        # Twice: one that was killed a moment ago is noticed by the pipe only.
        if self._ordered(order) or self._ordered(order):
            self._started()
            return LaunchResult.accepted()
        return LaunchResult.failed("the process that starts tasks ended before it began")

    def reconcile(self) -> None:
        """Keep the process at hand from which tasks start: at an institution it has loaded torch before one comes."""
        if self._nursery is None or self._nursery.poll() is not None:
            self.close()
            self._nursery = subprocess.Popen(  # noqa: S603  our own module
                [sys.executable, "-m", "dictpfl.deploy.operations.task", self._kind], stdin=subprocess.PIPE
            )

    def close(self) -> None:
        """Let it end; tasks watch this process and end with it."""
        if self._nursery is not None and self._nursery.stdin is not None:
            with suppress(BrokenPipeError):  # what a dead one was not told
                self._nursery.stdin.close()

    def _ordered(self, order: dict[str, object]) -> bool:
        self.reconcile()
        assert self._nursery is not None  # noqa: S101  just started
        assert self._nursery.stdin is not None  # noqa: S101  it was asked for
        try:
            self._nursery.stdin.write(json.dumps(order).encode() + b"\n")
            self._nursery.stdin.flush()
        except OSError:
            self._nursery.kill()
            self._nursery.wait()
            return False
        return self._nursery.poll() is None


def use_pinned_tasks(kind: str) -> None:
    """Have Flower's SuperExec, in this process, start tasks our way."""
    # Not `from ... import`: the package's attribute of that name is a function.
    module = importlib.import_module("flwr.supercore.superexec.run_superexec")
    pace = Pace(LOOK_SECONDS, float(os.environ[TASK_POLL]))
    module.__dict__["get_executor"] = lambda *_args, **_options: PinnedExecutor(kind, pace.stirred)
    # Its loop sleeps for as long as Flower's setting says; nothing else in that module does.
    module.__dict__["time"] = SimpleNamespace(**{**vars(time), "sleep": lambda _wanted: time.sleep(pace.pause())})
