"""Files that survive a crash: written beside, synced, renamed."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by these bytes; see `replace_private`."""
    replace_private(path, lambda temporary: _fill(temporary, data))


def replace_private(path: Path, write: Callable[[Path], None]) -> None:
    """Replace `path` atomically and durably by what `write` makes of an empty file; mode 0600.

    After a crash at any moment either the old or the new content is there, whole.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o600)  # a library may have made the file anew
        _sync(temporary, os.O_RDONLY)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _fill(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)


def remove_leftovers(path: Path) -> None:
    """Remove what writers of `path` that were killed left beside it; only while no other can be writing."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        leftover.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in a folder durable."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
