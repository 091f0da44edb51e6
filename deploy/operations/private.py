"""Files that nobody else may read: made so, and refused where they are not."""

from __future__ import annotations

import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from common.errors import KeyFileError
from common.files import write_private


def require_private(path: Path) -> Path:
    """The file, if it is there and only its owner may read it.

    Raises:
        KeyFileError: missing, or group or others may read it.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise KeyFileError(f"cannot read the key file {path}: {error.strerror}") from error
    if mode & 0o077:
        raise KeyFileError(
            f"{path} has mode {mode:04o}: others than its owner may read it, expected 0600. Run `chmod 600 {path}`, and "
            "if others had access, replace the key"
        )
    return path


def private_files(folder: Path) -> Iterator[Path]:
    """Files of a party that only their owner may read: keys, sealed or not, and what its processes prove themselves with."""
    for pattern in ("*.key", "*.sealed", "*.secret"):
        yield from sorted(folder.rglob(pattern))


def secret_file(path: Path) -> Path:
    """A file with 32 random bytes in hexadecimal, made if missing: what a SuperExec proves itself with."""
    if not path.exists():
        write_private(path, secrets.token_hex(32).encode())
    return require_private(path)
