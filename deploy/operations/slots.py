"""Slots: a limit on tasks at once where several institutions share a machine, as in a trial; elsewhere there is none.

A slot is a file that a running task holds locked; the kernel lets go of it however the task ends. The standard library only:
a task takes `dictpfl.common` from the agreed app, so nothing may have imported it before.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SLOTS = "DICTPFL_SLOTS"
"""Environment variable with a folder; each file in it is a slot. Unset: no limit."""
_RETRY_SECONDS = 0.2


def is_free() -> bool:
    """Tell whether a task could start now."""
    folder = os.environ.get(SLOTS)
    if not folder:
        return True
    for path in _files(folder):
        descriptor = _taken(path)
        if descriptor is not None:
            os.close(descriptor)
            return True
    return False


@contextmanager
def taken() -> Iterator[None]:
    """Hold a slot, waiting for it: another institution may have been quicker since `is_free`."""
    folder = os.environ.get(SLOTS)
    descriptor = _wait(folder) if folder else None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _wait(folder: str) -> int:
    while True:
        for path in _files(folder):
            descriptor = _taken(path)
            if descriptor is not None:
                return descriptor
        time.sleep(_RETRY_SECONDS)


def _files(folder: str) -> list[Path]:
    return sorted(Path(folder).iterdir())


def _taken(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
