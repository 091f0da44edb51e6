"""Tables of rows in an SQLite file, each row with a digest: what a disk or a copy altered, or lost, is an error that says so.

Digests find damage, no forgery: whoever may write the file may write digests, too. Columns are few and small, and read
whole; whatever is large lies apart as a blob, which its row refers to by number, length and digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dictpfl.common.documents import require_format
from dictpfl.common.errors import JournalError
from dictpfl.common.files import sync_folder

APPLICATION = 0x44504C34
"""SQLite's application id of a file of this release ("DPL4")."""
REMEDY = "restore it from backup, or move it away: the next run then says how it goes on from the institutions' state"
_KEPT_OUT = (
    "file and folder must be this account's to read and write, on a disk that has room and is not mounted read-only, and no other program may "
    "lock the file. Nothing says that the journal is damaged: mend that, and leave it where it is"
)
_OUTSIDE = {
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
}  # fmt: skip
"""SQLite's codes of what is not the file's fault."""
_UNREAD = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}  # fmt: skip
"""Codes of IOERR, which a full disk has, too, that are the file's."""
Row = tuple[Any, ...]
_REFERENCE = struct.Struct("<QQ32s")
_TYPES: Mapping[str, Callable[[Any], Any]] = {"INTEGER": int, "REAL": float, "TEXT": str, "BLOB": bytes}
_MODULUS = 2**256


def digest_of(table: str, values: Sequence[Any]) -> bytes:
    """Compute SHA-256 over a table's name and all columns of a row, types and lengths included; 32 bytes."""
    digest = hashlib.sha256()
    for value in (table, *values):
        data = value if isinstance(value, bytes) else (value.hex() if isinstance(value, float) else str(value)).encode()
        digest.update(type(value).__name__[:1].encode() + len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def _remedy(error: Exception) -> str:
    """Say what to do: whoever moves away a journal that only could not be opened, as on a disk that is full or mounted read-only, loses it."""
    code = getattr(error, "sqlite_errorcode", 0)
    outside = isinstance(error, OSError) or (code & 0xFF in _OUTSIDE and code not in _UNREAD)
    return _KEPT_OUT if outside else REMEDY


def _journal(application: int) -> str:
    """Name the format of a journal by SQLite's application id."""
    return f"dictpfl-journal-{chr(application & 0xFF)}"


def length_of(reference: bytes) -> int:
    """Bytes of the blob that a reference stands for, though it may be dropped; 0 for none."""
    return int(_REFERENCE.unpack(reference)[1]) if reference else 0


def is_kept(reference: bytes) -> bool:
    """Tell whether a reference stands for a blob that is still in the file."""
    return bool(reference) and _REFERENCE.unpack(reference)[0] > 0


def dropped(reference: bytes) -> bytes:
    """Reference to what `reference` stood for, once it is dropped: its length stays."""
    _, length, digest = _REFERENCE.unpack(reference)
    return _REFERENCE.pack(0, length, digest)


class Tables:
    """File with tables, whose rows are checked whenever they are read.

    Every write goes through `_insert`, `_delete`, `_keep_blob` and `_drop_blob`, every read through `_rows` and `_blob`. Heads (for each
    table the number of its rows, and the sum of their digests) tell when a row is missing, or is there that should not be.
    """

    def __init__(self, path: Path, tables: Mapping[str, str], *, whole: bool = True) -> None:
        """Open or create.

        Args:
            path: of the file.
            tables: columns of each table, as SQL: names and types; the first is the primary key.
            whole: have SQLite look through the whole file; without it only what is read is checked.

        Raises:
            JournalError: damaged, or of another release.
        """
        self._path = path
        self._columns = {table: [part.split() for part in columns.split(",")] for table, columns in tables.items()}
        self._cache: dict[str, list[Row]] = {}
        self._version = -1
        try:
            if not path.exists():
                self._create(tables)
            if not path.stat().st_size:
                raise self._damaged("it is empty")
            uri = f"{path.resolve().as_uri()}?mode=rw"
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"{path} is no readable journal ({error}); {_remedy(error)}") from error
        try:
            self._require_sound(whole=whole)
        except BaseException:
            self._db.close()
            raise

    def _create(self, tables: Mapping[str, str]) -> None:
        """Make the file aside, then give it its name: under that, there is never half a journal, nor an empty one."""
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")  # mode 0600
        os.close(descriptor)
        try:
            database = sqlite3.connect(name, isolation_level=None)
            try:
                schema = {**tables, "heads": "id INTEGER, facts TEXT", "blobs": "id INTEGER, data BLOB"}
                database.execute("BEGIN")
                for table, columns in schema.items():
                    key, *others = [f"{column.strip()} NOT NULL" for column in columns.split(",")]
                    # Before all that is long: SQLite walks through a row's pages to what comes after.
                    declared = ", ".join([f"{key} PRIMARY KEY", "digest BLOB NOT NULL", *others])
                    database.execute(f"CREATE TABLE {table} ({declared}) STRICT")
                facts = json.dumps({table: [0, "0"] for table in tables})
                database.execute("INSERT INTO heads VALUES (1, ?, ?)", (digest_of("heads", (1, facts)), facts))
                database.execute(f"PRAGMA application_id = {APPLICATION}")
                database.execute("COMMIT")
            finally:
                database.close()
            with suppress(FileExistsError):  # another process was first
                os.link(name, self._path)
            sync_folder(self._path.parent)
        finally:
            Path(name).unlink()

    def _require_sound(self, *, whole: bool) -> None:
        ((application,),) = self._read("PRAGMA application_id")
        if not application and self._read("SELECT 1 FROM sqlite_master WHERE name = 'rounds'"):
            raise JournalError(
                f"{self._path} is a journal of protocol 3 or older, which cannot go on under protocol 4: let that federation "
                "end with the release that began it, and choose another folder for a new one"
            )
        if application >> 8 == APPLICATION >> 8 and application != APPLICATION:
            require_format(_journal(application), _journal(APPLICATION), self._path, JournalError)
        if application != APPLICATION:
            raise self._damaged(f"its first page names application {application:#x}, expected {APPLICATION:#x}")
        if whole:
            ((verdict, *_), *_) = self._read("PRAGMA integrity_check(1)")
            if verdict != "ok":
                raise self._damaged(str(verdict))
        self._read("PRAGMA journal_mode=WAL")
        self._read("PRAGMA synchronous=FULL")

    def _damaged(self, why: str) -> JournalError:
        return JournalError(f"{self._path} is damaged: {why}; {REMEDY}")

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._cache.clear()
                if self._db.in_transaction:
                    with suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise JournalError(
                f"cannot write {self._path}: {error}; the round stays open and is asked again"
            ) from error

    def _read(self, query: str, *values: object) -> list[Row]:
        try:
            return self._db.execute(query, values).fetchall()
        except (sqlite3.Error, UnicodeError, OverflowError, MemoryError) as error:
            raise JournalError(f"cannot read {self._path}: {error}; {_remedy(error)}") from error

    def _rows(self, table: str) -> Sequence[Row]:
        """Read all rows of a table, in the order of their keys.

        Raises:
            JournalError: one is damaged or missing.
        """
        ((version,),) = self._read("PRAGMA data_version")
        if version != self._version:  # another connection has written
            self._cache.clear()
            self._version = version
        if table not in self._cache:
            with self._one_state():
                rows = self._checked(table)
                total = sum(int.from_bytes(row[1], "little") for row in rows) % _MODULUS
                if self._heads()[table] != [len(rows), f"{total:x}"]:
                    raise self._damaged(f"rows of table {table!r} are missing, or are there twice")
            self._cache[table] = [(row[0], *row[2:]) for row in rows]
        return self._cache[table]

    @contextmanager
    def _one_state(self) -> Iterator[None]:
        """See rows and heads as one transaction left them, whatever others write meanwhile."""
        self._read("SAVEPOINT look")
        try:
            yield
        finally:
            self._read("RELEASE look")

    def _checked(self, table: str, *, where: str = "", value: int = 0) -> list[Row]:
        """Read rows with their digests, and compare them with these: all rows, or those `where` something is `value`."""
        key = "id" if table in {"heads", "blobs"} else self._columns[table][0][0]
        query = f"SELECT * FROM {table} {where} ORDER BY {key}"  # noqa: S608  our own words
        rows = self._read(query, value) if where else self._read(query)
        for row in rows:
            if digest_of(table, (row[0], *row[2:])) != row[1]:
                raise self._damaged(f"a row of table {table!r} is not what was written")
        return rows

    def _heads(self) -> dict[str, list[Any]]:
        rows = self._checked("heads")
        if len(rows) != 1:
            raise self._damaged("the count of its rows is missing")
        return dict(json.loads(rows[0][2]))

    def _add_to_head(self, table: str, rows: int, digest: bytes) -> None:
        """Note that a row came (1) or went (-1); only inside of `_transaction`."""
        heads = self._heads()
        count, total = heads[table]
        heads[table] = [count + rows, f"{(int(total, 16) + rows * int.from_bytes(digest, 'little')) % _MODULUS:x}"]
        facts = json.dumps(heads)
        self._db.execute("UPDATE heads SET digest = ?, facts = ?", (digest_of("heads", (1, facts)), facts))
        self._cache.pop(table, None)

    def _insert(self, table: str, *values: Any) -> None:
        """Write a row with its digest; only inside of `_transaction`."""
        typed = [_TYPES[kind](value) for value, (_, kind) in zip(values, self._columns[table], strict=True)]
        digest = digest_of(table, typed)
        marks = ", ".join("?" * (len(typed) + 1))
        self._db.execute(f"INSERT INTO {table} VALUES ({marks})", (typed[0], digest, *typed[1:]))  # noqa: S608
        self._add_to_head(table, 1, digest)

    def _delete(self, table: str, key: Any) -> None:
        """Take the row with this primary key out, if there is one; only inside of `_transaction`."""
        column = self._columns[table][0][0]
        rows = self._read(f"SELECT digest FROM {table} WHERE {column} = ?", key)  # noqa: S608  our own words
        self._db.execute(f"DELETE FROM {table} WHERE {column} = ?", (key,))  # noqa: S608
        for (digest,) in rows:
            self._add_to_head(table, -1, digest)

    def _note(self, table: str, key: Any, *facts: Any) -> None:
        """Write a row about something once, in a transaction of its own; another one about the same changes nothing."""
        if self._noted(table, key):
            return
        with self._transaction():
            if not self._noted(table, key):  # another process may have been first
                self._insert(table, key, *facts)

    def _noted(self, table: str, key: Any) -> bool:
        """Tell whether there is a row with this primary key."""
        return any(row[0] == key for row in self._rows(table))

    def _replace(self, table: str, key: Any, *facts: Any) -> None:
        """Write a row in place of the one with the same primary key; only inside of `_transaction`."""
        self._delete(table, key)
        self._insert(table, key, *facts)

    def _keep_blob(self, data: bytes) -> bytes:
        """Write a blob, and return the reference that a row keeps, empty for no bytes; only inside of `_transaction`."""
        if not data:
            return b""
        ((last,),) = self._read("SELECT COALESCE(MAX(id), 0) FROM blobs")
        digest = digest_of("blobs", (last + 1, bytes(data)))
        self._db.execute("INSERT INTO blobs VALUES (?, ?, ?)", (last + 1, digest, bytes(data)))
        return _REFERENCE.pack(last + 1, len(data), digest)

    def _blob(self, reference: bytes) -> bytes:
        """Read the blob that a row refers to; an empty reference stands for no bytes.

        Raises:
            JournalError: it is damaged or missing.
        """
        if not reference:
            return b""
        number, _, digest = _REFERENCE.unpack(reference)
        rows = self._checked("blobs", where="WHERE id = ?", value=number)
        if len(rows) != 1 or rows[0][1] != digest:
            raise self._damaged(f"blob {number} is missing, or is another one")
        return bytes(rows[0][2])

    def _drop_blob(self, reference: bytes) -> None:
        """Delete what a reference stands for; only inside of `_transaction`."""
        if is_kept(reference):
            self._db.execute("DELETE FROM blobs WHERE id = ?", (_REFERENCE.unpack(reference)[0],))
