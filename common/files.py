"""Files that survive a crash: written beside, synced, renamed."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import secrets
import shlex
import shutil
import stat
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dictpfl.common.errors import KeyFileError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WILD = frozenset("*?[")
_LOOK = 0.01
"""Seconds, after which who only looked at a lock (`is_locked`) has let go of it."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, which may begin with a byte-order mark as editors on Windows write it.

    Raises:
        OSError: unreadable. ValueError: no TOML, nested without end ones and numbers without end, too.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def expanded(path: str) -> Path:
    """Expand `~` in a path; that of a user who is not known here stays, as shells leave it: no such file is there, which readers say."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 -- pathlib's own raises RuntimeError of such a user


def is_pattern(path: str) -> bool:
    """Tell whether a path stands for several, as `sites/*.csv` does; what is there under just that name is one."""
    return "://" not in path and bool(_WILD & set(path)) and not expanded(path).exists()


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by these bytes; see `replace_private`."""
    replace_private(path, lambda temporary: _fill(temporary, data))


def replace_private(path: Path, write: Callable[[Path], None]) -> None:
    """Replace `path` atomically and durably by what `write` makes of an empty file; mode 0600.

    After a crash at any moment either the old or the new content is there, whole.

    Raises:
        OSError: the disk refuses; it names `path`, and the old content is there.
    """
    prefix = f".{path.name}."
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=prefix)
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
    except OSError as error:
        # Of a full disk there is no name, of others one that nobody gave.
        if error.errno is not None and (error.filename is None or prefix in str(error.filename)):
            error.filename, error.filename2 = str(path), None
        raise
    sync_folder(path.parent)


@contextmanager
def taken_back(path: Path) -> Iterator[None]:
    """Remove what the block has made at a path, file or folder, if it fails, as on a full disk: half of it would stand in the way of the next try."""
    try:
        yield
    except BaseException:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        raise


def append_private(path: Path) -> BinaryIO:
    """Open a file to read it and to append to it; one that is made has mode 0600."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "ab+")


def append_line(path: Path, line: bytes) -> None:
    """Append a line; a last one that a crash or a full disk left without its end is ended first: this one would be lost with it."""
    with append_private(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        file.write((b"" if file.read(1) in (b"", b"\n") else b"\n") + line + b"\n")


def _fill(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)


def read_private(path: Path) -> bytes:
    """Read a file that its owner alone may read.

    Raises:
        KeyFileError: missing, or readable by others.
    """
    try:
        with path.open("rb") as file:
            # The mode of the open file: the name could be redirected between a check and the reading.
            mode = os.fstat(file.fileno()).st_mode
            data = file.read()
    except OSError as error:
        raise KeyFileError(f"cannot read the key file {path}: {error.strerror}") from error
    if exposed := exposed_mode(mode):
        raise KeyFileError(
            f"{path} has mode {exposed}: others than its owner may read it, expected 0600. Run "
            f"`chmod 600 {in_shell(path)}`, and if others had access, ask the authority for a new key"
        )
    return data


def remove_leftovers(path: Path) -> None:
    """Remove what writers of `path` that were killed left beside it; only while no other can be writing."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        leftover.unlink(missing_ok=True)


def in_shell(path: Path | str) -> str:
    """Return the path as a shell takes it, for a command that a message names."""
    return shlex.quote(str(path))


def sync_folder(folder: Path) -> None:
    """Make renames and new names in a folder durable."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def owner_only(folder: Path) -> Path:
    """Return the folder, made with mode 0700 if missing, as are those above it.

    `dictpfl certificates --folder coordinator/tls` makes a coordinator's folder on its way, which other commands then
    expect to be its owner's alone.

    Raises:
        KeyFileError: the folder exists and others may enter it.
    """
    for part in (*(above for above in reversed(folder.parents) if not above.exists()), folder):
        part.mkdir(exist_ok=True, mode=0o700)
    if exposed := exposed_mode(folder.stat().st_mode):
        raise KeyFileError(f"{folder} has mode {exposed}, expected 0700. Run `chmod 700 {in_shell(folder)}`")
    return folder


def tensors_digest(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Compute SHA-256 over names, dtypes, shapes and bytes, in the order of names; 32 bytes."""
    import numpy as np  # here: processes that only keep files, and fork, load no numpy

    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.data)
    return digest.digest()


def require_private(path: Path) -> Path:
    """Return the path of a file, once it is there and only its owner may read it.

    Raises:
        KeyFileError: missing, or readable by its group or others.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise KeyFileError(f"cannot read the key file {path}: {error.strerror}") from error
    if exposed := exposed_mode(mode):
        raise KeyFileError(
            f"{path} has mode {exposed}: others than its owner may read it, expected 0600. Run `chmod 600 {in_shell(path)}`, and "
            "if others had access, replace the key"
        )
    return path


def private_files(folder: Path) -> Iterator[Path]:
    """List the files of a party that only their owner may read: keys, sealed or not, and secrets of its processes."""
    for pattern in ("*.key", "*.sealed", "*.secret"):
        yield from sorted(folder.rglob(pattern))


def secret_file(path: Path) -> Path:
    """Return the path of a SuperExec's secret, 32 random bytes in hexadecimal; the file is made if missing."""
    if not path.exists():
        write_private(path, secrets.token_hex(32).encode())
    return require_private(path)


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Wait until no other process does `what` in this folder; the system lets go when a process dies."""
    descriptor = lock(folder / f".{what}.lock")
    try:
        yield
    finally:
        os.close(descriptor)


def lock(path: Path) -> int:
    """Lock a file, made if missing, as soon as no other process holds it; return its descriptor.

    Closing the descriptor lets go, and so does the kernel however the process ends.
    """
    descriptor = _opened_for_locking(path)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def lock_if_free(path: Path) -> int | None:
    """Lock a file as `lock` does; None, as good as at once, if another process holds it."""
    descriptor = _opened_for_locking(path)
    for _ in range(2):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOOK)
        else:
            return descriptor
    os.close(descriptor)
    return None


def is_locked(path: Path) -> bool:
    """Tell whether a process holds a file's lock; a missing file is held by none, and one that may not be looked at by another user's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _opened_for_locking(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)


def exposed_mode(mode: int, refused: int = 0o077) -> str:
    """Return a file's mode as four octal digits if it has a refused bit; empty if it has none.

    Args:
        mode: `st_mode` of the file.
        refused: bits that it may not have; by default whatever lets others than the owner in.
    """
    bits = stat.S_IMODE(mode)
    return f"{bits:04o}" if bits & refused else ""
