"""Room on the disk of a party's folder: said where an operator looks, before and after it is gone."""

from __future__ import annotations

import shutil
from pathlib import Path

from dictpfl.deploy.units import human_bytes

LEAST_BYTES = 100_000_000
"""Free bytes under which a party counts as out of room: a round writes a journal's row or a memory file, and logs go on."""


def free(folder: Path) -> int | None:
    """Free bytes on the folder's disk, for this account; None: not known."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def trouble(folder: Path) -> str:
    """Say that the disk is full or nearly; empty while there is room."""
    left = free(folder)
    if left is None or left >= LEAST_BYTES:
        return ""
    return (
        f"{human_bytes(left)} are free on the disk of {folder}, less than {human_bytes(LEAST_BYTES)}: what cannot be written stops rounds, "
        "and nothing that was written is lost. Make room; what has stopped goes on by itself, or with the next `dictpfl run`"
    )
