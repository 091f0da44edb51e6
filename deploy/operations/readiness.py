"""Reason why an institution cannot take part, which its next task found before it was asked: for `health`, `doctor` and `status`."""

from __future__ import annotations

import json
from pathlib import Path

from dictpfl.common.errors import DictPFLError
from dictpfl.common.files import write_private
from dictpfl.deploy.operations.places import RUN

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
    """Say why the institution of a folder cannot take part; empty where nothing is known against it."""
    try:
        found = json.loads((folder / RUN / NOT_READY).read_text(encoding="utf-8"))
        return f"{found['code']}: {found['reason']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
