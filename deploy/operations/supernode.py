"""What is mended in the SuperNode of Flower 1.42: it polls in time, answers in step, and waits for no dead app."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from deploy.operations.child import HEARTBEAT, POLL


class Impatient:
    """An object store that does not wait for ever for what nobody will bring any more.

    A client app that dies while it hands over its reply leaves objects that are announced and never come. Flower's
    SuperNode asks for them again and again, and takes no other message until it is restarted. An error ends that: it logs
    it, forgets the reply, and goes on; the coordinator asks for the round again.
    """

    def __init__(self, store: Any, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._seconds, self._clock = store, seconds, clock
        self._since: float | None = None

    def get(self, object_id: str) -> bytes | None:
        """An object's bytes; empty while it is on its way.

        Raises:
            TimeoutError: nothing came for too long.
        """
        content: bytes | None = self._store.get(object_id)
        if content != b"":
            self._since = None
        elif self._since is None:
            self._since = self._clock()
        elif self._clock() - self._since > self._seconds:
            raise TimeoutError(
                f"a reply that its app announced did not come within {self._seconds:.0f} s; it is dropped"
            )
        return content

    def __getattr__(self, name: str) -> Any:
        """Everything else as it is."""
        return getattr(self._store, name)


def drop_what_never_comes() -> None:
    """Have this process's SuperNode hand its replies over by an `Impatient` store."""
    module = importlib.import_module("flwr.supernode.start_client_internal").__dict__
    push = module["_push_messages"]
    # As long as the SuperLink waits for a sign of life: an app that is alive brings its next piece sooner.
    patience = 2 * float(os.environ.get(HEARTBEAT) or 30.0)

    def push_or_drop(*, object_store: Any, **others: Any) -> None:
        push(object_store=Impatient(object_store, patience), **others)

    module["_push_messages"] = push_or_drop


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


def mend() -> None:
    """All of it, in this process."""
    set_polling()
    drop_what_never_comes()
    answer_in_step()
