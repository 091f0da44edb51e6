"""Cells in a file of JSON lines: one cell a line, sorted by key, so that a cell that is measured again changes one line.

A line is `{"key": KEY, "value": VALUE}`. Floats keep their bits. A file is replaced as a whole, under a lock: two processes
that write at once lose nothing, and a process that is killed leaves the old file or the new one.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dictpfl.common.errors import ConfigError
from dictpfl.common.files import write_private

_AGAIN = "take it back from git, or remove that line and measure its cell again"
_Stamp = tuple[int, int, int]
_CACHE: dict[Path, tuple[_Stamp, Mapping[str, str]]] = {}
"""Lines of each file as it was when it was last read: a study asks for its cells one by one."""


@dataclass(frozen=True)
class Lines:
    """Values by key, in a file.

    Attributes:
        path: the file; a missing one has no values.
    """

    path: Path

    def keys(self) -> list[str]:
        """All keys, sorted."""
        return list(self._read())

    def get(self, key: str) -> Any:
        """The value of a key; None where there is none.

        Raises:
            ConfigError: the file is damaged.
        """
        line = self._read().get(key)
        return None if line is None else json.loads(line)["value"]

    def put(self, key: str, value: Any) -> None:
        """Keep a value, in place of the one that the key had."""
        line = json.dumps({"key": key, "value": value}, ensure_ascii=False)
        with self._locked():
            self._write({**self._read(), key: line})

    def drop(self, key: str) -> None:
        """Remove a key and its value."""
        with self._locked():
            self._write({name: line for name, line in self._read().items() if name != key})

    def _read(self) -> Mapping[str, str]:
        try:
            with self.path.open("rb") as file:
                facts = os.fstat(file.fileno())
                stamp = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
                known = _CACHE.get(self.path)
                if known and known[0] == stamp:
                    return known[1]
                text = file.read().decode()
        except FileNotFoundError:
            return {}
        *whole, _ = text.split("\n")  # what follows the last newline is a line that was not finished
        lines = {self._key(number, line): line for number, line in enumerate(whole, 1)}
        _CACHE[self.path] = stamp, lines
        return lines

    def _key(self, number: int, line: str) -> str:
        try:
            found = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{self.path}, line {number} is damaged ({error}); {_AGAIN}") from error
        if not isinstance(found, dict) or set(found) != {"key", "value"} or not isinstance(found["key"], str):
            raise ConfigError(f"{self.path}, line {number} is damaged: expected an object with key and value; {_AGAIN}")
        return str(found["key"])

    def _write(self, lines: Mapping[str, str]) -> None:
        write_private(self.path, "".join(lines[key] + "\n" for key in sorted(lines)).encode())
        self.path.chmod(0o644)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the folder, which leaves no file behind."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
