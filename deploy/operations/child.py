"""One of Flower's own programs, started so that it ends with whoever supervises it.

`python -m deploy.operations.child NAME ARGUMENT...` is `NAME ARGUMENT...`. It must stay light: it is in every process
of the coordinator.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import time
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any

PARENT, HEARTBEAT, TASK, POLL = "DICTPFL_PARENT", "DICTPFL_HEARTBEAT", "DICTPFL_TASK", "DICTPFL_POLL"
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


def set_polling() -> None:
    """Seconds between a SuperNode's looks for messages, at most; Flower has no option for it (3 s)."""
    seconds = os.environ.get(POLL)
    if seconds:
        shortened = SimpleNamespace(**{**vars(time), "sleep": lambda wanted: time.sleep(min(wanted, float(seconds)))})
        importlib.import_module("flwr.supernode.start_client_internal").__dict__["time"] = shortened


def answer_in_step() -> None:
    """Have a SuperNode send the reply to the message that it received last before it looks for another.

    Flower's sends whatever reply it finds first. Where a message came from a run that had just ended, that is the stale
    reply, and from then on every reply waits for the next message: the institution misses every round (flwr 1.42).
    """
    module = importlib.import_module("flwr.supernode.start_client_internal").__dict__
    push = module["_push_messages"]

    def push_until_answered(state: Any, **how: Any) -> None:
        with state.lock_msg_store:
            asked = [key for key, entry in state.msg_store.items() if not entry.message.metadata.reply_to_message_id]
        push(state=state, **how)
        # A message leaves the store with its reply, also with one that says that its task has died.
        while asked and asked[-1] in state.msg_store:
            push(state=state, **how)

    module["_push_messages"] = push_until_answered


def main() -> None:
    """Run the program named in the first argument."""
    end_with_parent()
    set_heartbeat()
    name = sys.argv[1]
    sys.argv = sys.argv[1:]
    if name == "flower-supernode":
        from deploy.operations import impatient

        set_polling()
        impatient.use()
        answer_in_step()
    if name == "flower-superexec":
        from deploy.operations.executor import use_pinned_tasks

        use_pinned_tasks(os.environ[TASK])
    (entry,) = entry_points(group="console_scripts", name=name)
    sys.exit(entry.load()())


if __name__ == "__main__":
    main()
