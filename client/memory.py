"""What an institution must not lose, in one file: shared state, residual, local tensors, pending upload.

Each change replaces the file atomically and durably, so that a process killed at any moment finds the
state before the change or the state after it.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from client.snapshot import put_together, taken_apart
from common.errors import MemoryFileError
from common.files import remove_leftovers, replace_private
from common.genesis import tensors_digest
from common.keys import owner_only
from common.masking import Bools
from common.state import Residual, SharedState

_BESIDE = ("defence", "manifest")
_FORMAT = "dictpfl-memory-1"


@dataclass(frozen=True)
class Pending:
    """An upload that was stored before it was sent, until an aggregate tells whether it was counted.

    Attributes:
        round: it was made for. `upload_id`: 16 bytes.
        blob: as sent; the same request gets the same reply.
        counted: residual if the upload is in the sum. `missed`: residual if it is not.
        seconds: that it took to make, for this institution's own log; 0: not known.
        defence, manifest: what is sent beside it (`common.protocol.Reply`).
    """

    round: int
    upload_id: bytes
    blob: bytes
    counted: Residual
    missed: Residual
    seconds: float = 0.0
    defence: bytes = b""
    manifest: bytes = b""


@dataclass(frozen=True)
class Record:
    """An institution's state at one moment."""

    shared: SharedState
    residual: Residual
    secret: bytes
    """32 random bytes of this institution alone: what marks its uploads, so that it knows them again."""
    local: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    pending: Pending | None = None

    def mark(self, number: int) -> bytes:
        """The first 8 bytes of every upload of this institution for a round; random-looking to everybody else."""
        return hmac.digest(self.secret, b"upload" + number.to_bytes(8, "little"), "sha256")[:8]

    def is_in(self, counted: Collection[bytes], number: int) -> bool:
        """Whether an upload of this institution for round `number` is among them, remembered or not."""
        return any(upload.startswith(self.mark(number)) for upload in counted)

    def settled(self, number: int, counted: Collection[bytes], mask: Bools) -> Residual:
        """The residual once round `number` is known to hold the uploads `counted`; `mask`: what it sent.

        An upload of this institution that is in the sum but that this record does not remember was made after
        the record was saved, and restored from backup since: what it delivered is not owed any more.
        """
        ours = self.pending if self.pending is not None and self.pending.round == number else None
        if ours is not None and ours.upload_id in counted:
            return ours.counted
        owed = ours.missed if ours is not None else self.residual
        if self.is_in(counted, number):
            return Residual(np.where(mask, 0.0, owed.values))
        return owed


class Memory:
    """The file of one institution in one federation."""

    def __init__(self, folder: Path, federation: bytes) -> None:
        """`folder` is made if missing, mode 0700; the file in it is named by federation id.

        Raises:
            KeyFileError: others may enter the folder.
        """
        owner_only(folder)
        self.path = folder / f"{federation.hex()[:32]}.safetensors"
        self._federation = federation

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of the same institution out: a message that timed out may still be at work.

        Raises:
            MemoryFileError: the folder or the disk refuses.
        """
        try:
            owner_only(self.path.parent)
            descriptor = os.open(self.path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise MemoryFileError(f"cannot lock {self.path.parent}: {error.strerror}; nothing is lost") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            remove_leftovers(self.path)
            yield
        finally:
            os.close(descriptor)

    def stamp(self) -> tuple[int, int, int]:
        """Changes whenever the file does; zeros without one."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return (0, 0, 0)
        return (status.st_ino, status.st_mtime_ns, status.st_size)

    def store(self, record: Record) -> None:
        """Replace the file.

        Raises:
            MemoryFileError: the disk refuses; the old file is still whole.
        """
        pending = record.pending
        tensors, facts = taken_apart(record.shared)
        tensors["residual"] = record.residual.values
        tensors |= {f"local/{name}": value for name, value in record.local.items()}
        facts["secret"] = record.secret.hex()
        if pending is not None:
            tensors["pending/blob"] = np.frombuffer(pending.blob, dtype=np.uint8)
            tensors["pending/counted"] = pending.counted.values
            tensors["pending/missed"] = pending.missed.values
            for name in _BESIDE:
                if data := getattr(pending, name):
                    tensors[f"pending/{name}"] = np.frombuffer(data, dtype=np.uint8)
            facts |= {"pending_round": pending.round, "upload_id": pending.upload_id.hex()}
            facts["pending_seconds"] = pending.seconds
        facts |= {"format": _FORMAT, "federation": self._federation.hex()}
        facts["digest"] = _digest(facts, tensors)
        try:
            metadata = {"facts": json.dumps(facts)}
            replace_private(self.path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
        except (OSError, SafetensorError) as error:
            raise MemoryFileError(
                f"cannot write {self.path}: {error}; nothing is lost, the round is repeated once there is room"
            ) from error

    def recall(self) -> Record | None:
        """The last record, or None where there is none yet.

        Raises:
            MemoryFileError: damaged, or of another federation.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="numpy") as file:
                facts = json.loads(file.metadata()["facts"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a mapping
            if facts.pop("digest") != _digest(facts, tensors):
                raise MemoryFileError(self._damaged("its digest does not match"))
            if facts["federation"] != self._federation.hex() or facts["format"] != _FORMAT:
                raise MemoryFileError(f"{self.path} belongs to another federation or release; it was not touched")
            return _record(facts, tensors)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise MemoryFileError(self._damaged(f"{type(error).__name__}: {error}")) from error

    def _damaged(self, why: str) -> str:
        return (
            f"{self.path} is damaged ({why}). Restore it from backup; or remove it, and the institution catches up by "
            "replay, without what it had trained but not delivered"
        )


def _digest(facts: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over everything in the file: a fact that flips could deliver an upload twice."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(tensors_digest(tensors) + text).hexdigest()


def _record(facts: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Record:
    shared = put_together(tensors, facts)
    pending = None
    if "pending_round" in facts:
        pending = Pending(
            facts["pending_round"],
            bytes.fromhex(facts["upload_id"]),
            tensors["pending/blob"].tobytes(),
            Residual(tensors["pending/counted"]),
            Residual(tensors["pending/missed"]),
            float(facts.get("pending_seconds", 0.0)),
            *(tensors[f"pending/{name}"].tobytes() if f"pending/{name}" in tensors else b"" for name in _BESIDE),
        )
    local = {name.removeprefix("local/"): v for name, v in tensors.items() if name.startswith("local/")}
    return Record(shared, Residual(tensors["residual"]), bytes.fromhex(facts["secret"]), local, pending)
