"""Chained file: lines are appended durably, each with a digest of all before it, so that damage is noticed.

A process that is killed while it writes leaves part of a line, which nobody has acted upon: it is cut off. Anything else
that is not as it was written is damage, and never taken for an empty file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dictpfl.common.errors import MemoryFileError
from dictpfl.common.files import sync_folder

_LINE = re.compile(rb"([0-9]{6}) ([0-9a-f]{32}) (.+)")
_HEAD = 40
"""Bytes before a line's text: its length in six digits, a space, half a SHA-256 in hexadecimal, a space."""


class Chain:
    """Chained file of JSON objects; whoever reads or appends holds a lock that keeps other processes out."""

    def __init__(self, path: Path, start: bytes, use: str) -> None:
        """Set up; nothing is read yet.

        Args:
            path: of the file; mode 0600.
            start: bytes that the first line's digest begins with; a file that began with others is damaged.
            use: use of the file, for messages, such as "it says which sums were opened".
        """
        self._path, self._start, self._use = path, start, use
        self._forget()

    def _forget(self) -> None:
        self._last, self._inode, self._end, self._size, self._lines = self._start, 0, 0, 0, 0

    def news(self) -> tuple[bool, list[dict[str, Any]]]:
        """Read objects appended since the last call, and whether the file is another one, so that all of it is new.

        Raises:
            MemoryFileError: damaged, gone, or the disk refuses.
        """
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                anew = status.st_ino != self._inode or status.st_size < self._end
                if anew:
                    self._forget()
                self._inode, self._size = status.st_ino, status.st_size
                if self._size == self._end:
                    return anew, []
                file.seek(self._end)
                data = file.read(self._size - self._end)
                # A process may have been killed between writing and syncing: what is relied on is durable first.
                os.fsync(file.fileno())
        except FileNotFoundError as error:
            if self._lines:
                raise MemoryFileError(f"{self._path} is gone: {self._use}; restore it from backup") from error
            return False, []
        except OSError as error:
            raise MemoryFileError(f"cannot read {self._path}: {error.strerror}; nothing was opened") from error
        return anew, self._taken(data)

    def _taken(self, data: bytes) -> list[dict[str, Any]]:
        *lines, tail = data.split(b"\n")
        documents = [self._checked(line) for line in lines]
        if not _torn(tail):
            raise self.damaged(f"line {self._lines + 1} does not end where it says")
        return documents

    def _checked(self, line: bytes) -> dict[str, Any]:
        match = _LINE.fullmatch(line)
        if not match or int(match[1]) != len(match[3]) or match[2] != (check := self._check(match[3])):
            raise self.damaged(f"line {self._lines + 1} of it is not as it was written")
        self._last, self._end, self._lines = check, self._end + len(line) + 1, self._lines + 1
        document: dict[str, Any] = json.loads(match[3])
        return document

    def _check(self, text: bytes) -> bytes:
        return hashlib.sha256(self._last + text).hexdigest()[:32].encode()

    def damaged(self, why: str) -> MemoryFileError:
        """Make the error that says what is wrong with the file, what it is for, and what to do."""
        return MemoryFileError(f"{self._path} is damaged ({why}): {self._use}; restore it from backup")

    def append(self, document: Mapping[str, Any]) -> None:
        """Append an object durably; all of the file was read before.

        Raises:
            MemoryFileError: the disk refuses, or another process writes; the file is as before.
        """
        text = json.dumps(document, separators=(",", ":")).encode()
        check = self._check(text)
        line = b"%06d %b %b\n" % (len(text), check, text)
        try:
            self._write(line)
        except OSError as error:
            raise MemoryFileError(f"cannot write {self._path}: {error.strerror}; nothing was opened") from error
        self._last, self._end, self._lines = check, self._end + len(line), self._lines + 1
        self._size = self._end

    def _write(self, line: bytes) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            status = os.fstat(descriptor)
            if self._lines and (status.st_ino, status.st_size) != (self._inode, self._size):
                raise MemoryFileError(f"{self._path} was changed by another process meanwhile; nothing was opened")
            try:
                os.ftruncate(descriptor, self._end)  # part of a line that a killed process left
                _fill(descriptor, line, self._end)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, self._end)
                raise
            self._inode = status.st_ino
        finally:
            os.close(descriptor)
        if not self._lines:
            sync_folder(self._path.parent)


def _fill(descriptor: int, line: bytes, offset: int) -> None:
    if os.pwrite(descriptor, line, offset) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)


def _torn(tail: bytes) -> bool:
    """Tell whether bytes behind the last line's end may be part of a line whose writing was cut short.

    A file system may have made room, read as zeros, for what did not reach the disk. A whole line whose end alone was
    altered is longer than that.
    """
    tail = tail.rstrip(b"\0")
    head = tail[:6]
    if len(tail) <= len(head):
        return not head.strip(b"0123456789")
    return head.isdigit() and len(tail) <= _HEAD + int(head)
