"""Reasons that a party's own processes found, for `health`, `doctor` and `status`, so that none of them stands in a log alone.

Of some, the party cannot take part: `up` ended with it, or a task found it. Of others it can, and `up` looks again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dictpfl.common.errors import DictPFLError
from dictpfl.common.files import lock_if_free, write_private
from dictpfl.deploy.operations.places import LOCK, RUN

NOT_READY, OTHER_APP = "not-ready.json", "other-app.json"
"""Files in `run/`: why `up` ended, or the next task cannot open the institution; and why the last task was not run."""
_WATCHED = "watched-"


def note(folder: Path, error: Exception | None, name: str = NOT_READY) -> None:
    """Keep the reason; None: there is none any more."""
    path = folder / RUN / name
    if error is None:
        path.unlink(missing_ok=True)
        return
    code = error.code if isinstance(error, DictPFLError) else DictPFLError.code
    write_private(path, json.dumps({"code": code, "reason": str(error) or type(error).__name__}).encode())


def note_watched(folder: Path, what: str, error: Exception | None) -> None:
    """Keep why something that `up` looks at again and again failed; None: it did not."""
    note(folder, error, f"{_WATCHED}{what}.json")


def forget(folder: Path) -> None:
    """Drop all reasons of an earlier `up`."""
    for path in (*(folder / RUN).glob(f"{_WATCHED}*.json"), *(folder / RUN / name for name in (NOT_READY, OTHER_APP))):
        path.unlink(missing_ok=True)


def trouble(folder: Path) -> str:
    """Say why the party of a folder cannot take part; empty where nothing is known against it."""
    return _reason(folder / RUN / NOT_READY) or _reason(folder / RUN / OTHER_APP)


def warnings(folder: Path) -> list[str]:
    """Say what `up` tries again meanwhile, each with its reason."""
    found = {path.stem.removeprefix(_WATCHED): _reason(path) for path in (folder / RUN).glob(f"{_WATCHED}*.json")}
    return [f"{what}: failed, is tried again: {reason}" for what, reason in sorted(found.items()) if reason]


def _reason(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"{found['code']}: {found['reason']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Keep the reason for which `up` ends, so that `status` has it as long as nobody has started it again."""
    try:
        yield
    except DictPFLError as error:
        with suppress(OSError, DictPFLError):  # a full disk, or a folder that others may enter: said by `up` alone
            if (folder / RUN).is_dir() and _nobody_runs(folder):
                note(folder, error)
        raise


def _nobody_runs(folder: Path) -> bool:
    """Tell whether no other `up` runs there, to which the reason would not belong."""
    descriptor = lock_if_free(folder / RUN / LOCK)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None
