"""Files that survive a crash: written beside, synced, renamed."""

from __future__ import annotations

import glob
import os
import stat
import tempfile
from pathlib import Path

from common.errors import KeyFileError


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` atomically and durably; mode 0600.

    After a crash at any moment either the old or the new content is there, whole.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read_private(path: Path) -> bytes:
    """The content of a file that its owner alone may read.

    Raises:
        KeyFileError: missing, or readable by others.
    """
    try:
        with path.open("rb") as file:
            # Of the open file: a name could be pointed elsewhere between a look and a read.
            mode = os.fstat(file.fileno()).st_mode
            data = file.read()
    except OSError as error:
        raise KeyFileError(f"cannot read the key file {path}: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise KeyFileError(
            f"{path} has mode {stat.S_IMODE(mode):04o}: others than its owner may read it, expected 0600. Run "
            f"`chmod 600 {path}`, and if others had access, ask the authority for a new key"
        )
    return data


def remove_leftovers(path: Path) -> None:
    """Remove what writers of `path` that were killed left beside it; only while no other can be writing."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        leftover.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
