"""How a SuperExec starts tasks here: one kind only, never anything but the agreed app, and no token in `ps`.

Flower's own executor starts whatever kind of task its server asks for (apps, agents, connectors), from whatever bundle
the server sends, with the task's token on the command line.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult

KINDS = {"clientapp": TaskType.CLIENT_APP, "serverapp": TaskType.SERVER_APP}


class PinnedExecutor:
    """Starts `deploy.operations.task` for one kind of task; fulfils Flower's `Executor` protocol."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._children: list[subprocess.Popen[bytes]] = []
        self._spare: subprocess.Popen[bytes] | None = None

    def get_eligible_capacity(
        self, supported_task_types: set[TaskType], **_options: object
    ) -> tuple[set[TaskType], set[str]]:
        """Ask for tasks of our kind only: others are not even fetched."""
        return {KINDS[self._kind]} & supported_task_types, set()

    def wait_for_capacity(self, *_args: object, **_options: object) -> None:
        """There is no limit to wait for."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start a task in a process of its own; the token travels through its standard input."""
        if spec.task_type is not KINDS[self._kind]:
            return LaunchResult.failed(f"only {self._kind} runs here, refused {spec.task_type}")
        order = {
            "address": spec.runtime_api_address,
            "token": spec.token,
            "insecure": spec.insecure,
            "certificates": spec.root_certificates_path,
            "parent": spec.parent_pid,
        }
        child, self._spare = self._spare or self._started(), None
        if not self._ordered(child, order):
            child = self._started()
            if not self._ordered(child, order):
                return LaunchResult.failed("the task's process ended before it began")
        self._children.append(child)
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Reap tasks that have ended; keep a process at hand that has imported torch, while nothing else runs."""
        self._children = [child for child in self._children if child.poll() is None]
        if self._kind == "clientapp" and not self._children and (self._spare is None or self._spare.poll() is not None):
            self._spare = self._started()

    def close(self) -> None:
        """Let the spare end; tasks watch this process and end with it."""
        if self._spare is not None and self._spare.stdin is not None:
            self._spare.stdin.close()

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603  our own module
            [sys.executable, "-m", "deploy.operations.task", self._kind], stdin=subprocess.PIPE
        )

    @staticmethod
    def _ordered(child: subprocess.Popen[bytes], order: dict[str, object]) -> bool:
        assert child.stdin is not None  # noqa: S101  it was asked for
        try:
            with child.stdin as channel:
                channel.write(json.dumps(order).encode())
        except OSError:
            return False
        return child.poll() is None


def use_pinned_tasks(kind: str) -> None:
    """Have Flower's SuperExec, in this process, start tasks our way."""
    # Not `from ... import`: the package's attribute of that name is a function.
    module = importlib.import_module("flwr.supercore.superexec.run_superexec")
    module.__dict__["get_executor"] = lambda *_args, **_options: PinnedExecutor(kind)
