"""Something looked at again and again beside a supervisor, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import structlog

from dictpfl.common.errors import DictPFLError

LOOK_SECONDS = 2.0
_log = structlog.get_logger(__name__)


@contextmanager
def watched(
    look: Callable[[], object], what: str, tell: Callable[[str, Exception | None], object] = lambda *_: None
) -> Iterator[None]:
    """Call `look` every few seconds while the block runs, and once more at its end.

    What goes wrong is logged and tried again: a supervisor does not stop for it. The same reason is said once. `tell` is told of it, too,
    and of None once it is over.
    """
    stop, said = threading.Event(), [""]

    def try_to_look() -> None:
        try:
            look()
        except (DictPFLError, OSError) as error:  # a full disk, too
            if str(error) != said[0]:
                code = error.code if isinstance(error, DictPFLError) else "system"
                _log.error(f"{what}: failed, is tried again", code=code, reason=str(error))
                told(error)
            said[0] = str(error)
        else:
            if said[0]:
                told(None)
            said[0] = ""

    def told(error: Exception | None) -> None:
        with suppress(OSError, DictPFLError):  # a full disk, of which `status` tells in any case
            tell(what, error)

    def keep_looking() -> None:
        while not stop.wait(LOOK_SECONDS):
            try_to_look()

    thread = threading.Thread(target=keep_looking, name=what, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        try_to_look()
        told(None)  # nothing is tried again any more
