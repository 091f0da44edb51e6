"""Disks and databases that fail, for parties of one process."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import dictpfl.common.files

if TYPE_CHECKING:
    from tests.support.harness import World


class Killed(BaseException):
    """The process died here: nothing that catches errors may catch this."""


class MortalDatabase:
    """A connection that dies before or after a statement; afterwards nothing is executed any more."""

    def __init__(self, real: sqlite3.Connection, *, before: str = "", after: str = "") -> None:
        self._real, self._before, self._after, self._dead = real, before, after, False

    def execute(self, sql: str, *arguments: Any) -> Any:
        return self._mortal(self._real.execute, sql, *arguments)

    def executemany(self, sql: str, *arguments: Any) -> Any:
        return self._mortal(self._real.executemany, sql, *arguments)

    @property
    def in_transaction(self) -> bool:
        return not self._dead and self._real.in_transaction

    def _mortal(self, run: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        if self._dead or (self._before and sql.startswith(self._before)):
            self._dead = True
            raise Killed
        result = run(sql, *arguments)
        if self._after and sql.startswith(self._after):
            self._dead = True
            raise Killed
        return result

    def close(self) -> None:
        self._real.close()


@contextmanager
def small_files(most: int) -> Iterator[None]:
    """No room: no file of this process grows beyond so many bytes, whichever library writes it."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


@contextmanager
def full_disk(target: object = dictpfl.common.files, name: str = "replace_private") -> Iterator[None]:
    """No room: every write of this kind fails."""

    def refuse(*_arguments: Any, **_options: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with mock.patch.object(target, name, refuse):
        yield


class FullDatabase:
    """A connection that finds no room for rounds."""

    def __init__(self, real: sqlite3.Connection) -> None:
        self._real = real
        self.executemany = real.executemany

    @property
    def in_transaction(self) -> bool:
        return self._real.in_transaction

    def execute(self, sql: str, *arguments: Any) -> Any:
        if sql.startswith("INSERT"):
            raise sqlite3.OperationalError("database or disk is full")
        return self._real.execute(sql, *arguments)


@contextmanager
def journal_full(world: World) -> Iterator[None]:
    """SQLite finds no room in the journal (tests/server/test_journal.py fills a real one)."""
    journal = world.coordinator._journal
    real = journal._db
    journal._db = FullDatabase(real)  # type: ignore[assignment]
    try:
        yield
    finally:
        journal._db = real
