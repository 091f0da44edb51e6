"""One of Flower's own programs, started so that it ends with whoever supervises it.

`python -m dictpfl.deploy.operations.child NAME ARGUMENT...` is `NAME ARGUMENT...`. It must stay light: it is in every process
of the coordinator.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import traceback
from importlib.metadata import entry_points

from dictpfl.deploy.operations.environment import HEARTBEAT, PARENT, TASK

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Be killed when the supervisor is, however that ends; Flower's programs do not look."""
    parent = int(os.environ[PARENT])
    # SIGKILL: what a killed process may lose is nothing (the fourth law), and a graceful end may take long.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def set_heartbeat() -> None:
    """Seconds between signs of life; after twice as long without one, Flower gives a node or a task up.

    Flower has no option for it (30 s); all its modules read it from one place when they are imported.
    """
    seconds = os.environ.get(HEARTBEAT)
    if seconds:
        importlib.import_module("flwr.common.constant").__dict__["HEARTBEAT_DEFAULT_INTERVAL"] = float(seconds)


def main() -> None:
    """Run the program named in the first argument."""
    end_with_parent()
    set_heartbeat()
    name = sys.argv[1]
    sys.argv = sys.argv[1:]
    if name in {"flower-supernode", "flower-superlink"}:
        importlib.import_module(f"dictpfl.deploy.operations.{name.removeprefix('flower-')}").mend()
    if name == "flower-superexec":
        from dictpfl.deploy.operations.executor import use_pinned_tasks

        use_pinned_tasks(os.environ[TASK])
    (entry,) = entry_points(group="console_scripts", name=name)
    try:
        ended = entry.load()()
    except Exception:  # noqa: BLE001 -- whatever it is, this process is of no use any more
        # Threads that Flower does not stop keep a process alive that does nothing: its supervisor must see it end, to start it anew.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.exit(ended)


if __name__ == "__main__":
    main()
