"""Reason why a party cannot take part, for `health`, `doctor` and `status`: its `up` ended with it, or an institution's next task found it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dictpfl.common.errors import DictPFLError
from dictpfl.common.files import lock_if_free, write_private
from dictpfl.deploy.operations.places import LOCK, RUN

NOT_READY = "not-ready.json"


def note(folder: Path, error: Exception | None) -> None:
    """Keep the reason; None: there is none any more."""
    path = folder / RUN / NOT_READY
    if error is None:
        path.unlink(missing_ok=True)
        return
    code = error.code if isinstance(error, DictPFLError) else DictPFLError.code
    write_private(path, json.dumps({"code": code, "reason": str(error) or type(error).__name__}).encode())


def trouble(folder: Path) -> str:
    """Say why the party of a folder cannot take part; empty where nothing is known against it."""
    try:
        found = json.loads((folder / RUN / NOT_READY).read_text(encoding="utf-8"))
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
