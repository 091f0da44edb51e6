"""A SuperNode that does not wait for ever for a reply whose app has died while it handed it over."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from typing import Any

from deploy.operations.child import HEARTBEAT


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


def use() -> None:
    """Have this process's SuperNode hand its replies over by an `Impatient` store."""
    module = importlib.import_module("flwr.supernode.start_client_internal").__dict__
    push = module["_push_messages"]
    # As long as the SuperLink waits for a sign of life: an app that is alive brings its next piece sooner.
    patience = 2 * float(os.environ.get(HEARTBEAT) or 30.0)

    def push_or_drop(*, object_store: Any, **others: Any) -> None:
        push(object_store=Impatient(object_store, patience), **others)

    module["_push_messages"] = push_or_drop
