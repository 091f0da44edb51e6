"""Record that an institution must not lose, in one file: shared state, residual, local tensors, pending upload.

Each change replaces the file atomically and durably, so that a process killed at any moment finds the
state before the change or the state after it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dictpfl.client.memory.mapping import MappedFile
from dictpfl.common.documents import require_format
from dictpfl.common.errors import MemoryFileError
from dictpfl.common.files import lock, owner_only, remove_leftovers, replace_private, tensors_digest, write_private
from dictpfl.common.law.pruning import Bools
from dictpfl.common.law.state import Residual, SharedState
from dictpfl.common.law.stored import put_together, taken_apart
from dictpfl.common.messages.protocol import Aggregate, RoundKind

MAPPED = 1 << 26
"""Bytes of an institution's own from which they are mapped from the file, not kept in memory."""
_RESIDUALS = ("residual", "pending/counted", "pending/missed")
_LOCAL = "local/"
_BESIDE = ("defence", "manifest")
_FORMAT = "dictpfl-memory-1"


@dataclass(frozen=True)
class Pending:
    """Pending upload: stored before it was sent, until an aggregate tells whether it was counted.

    Attributes:
        round: number of its round.
        upload_id: 16 bytes.
        blob: upload as sent; the same request gets the same reply.
        counted: residual if the upload is in the sum.
        missed: residual if it is not.
        seconds: time that making it took, for this institution's own log; 0: not known.
        defence: note on its masks, sent beside it (`dictpfl.common.messages.protocol.Reply`).
        manifest: its signed manifest, sent beside it.
        earlier: kinds of the uploads that were made for the same round before, and given up for it.
    """

    round: int
    upload_id: bytes
    blob: bytes
    counted: Residual
    missed: Residual
    seconds: float = 0.0
    defence: bytes = b""
    manifest: bytes = b""
    earlier: tuple[RoundKind, ...] = ()

    @property
    def sent_bytes(self) -> int:
        """Bytes that leave the institution: the upload, and what goes beside it."""
        return len(self.blob) + len(self.defence) + len(self.manifest)


@dataclass(frozen=True)
class Record:
    """Record of an institution at one moment.

    Attributes:
        shared: shared state.
        residual: change that was trained but not delivered.
        secret: 32 bytes of this institution alone (`dictpfl.client.defences.pairs`), which mark its uploads so that it knows them
            again.
        local: tensors that are trained and never sent, by name.
        pending: upload that waits for its sum; None: there is none.
        void: number of the last round that was void here, to be told as long as the next one is asked for; -1: none.
        tag: keyed digest of the shared state, as uploads and snapshots bear it; empty: not computed yet. Kept so that the operator can
            read it without the key.
    """

    shared: SharedState
    residual: Residual
    secret: bytes
    local: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    pending: Pending | None = None
    void: int = -1
    tag: bytes = b""

    @property
    def nbytes(self) -> int:
        """Bytes of all that is this institution's own, shared state not counted."""
        parts = [self.residual.values, *self.local.values()]
        if self.pending is not None:
            parts += [self.pending.counted.values, self.pending.missed.values]
        return sum(part.nbytes for part in parts) + (len(self.pending.blob) if self.pending is not None else 0)

    def mark(self, number: int) -> bytes:
        """First 8 bytes of the id of every upload of this institution for a round; random-looking to everybody else."""
        return hmac.digest(self.secret, b"upload" + number.to_bytes(8, "little"), "sha256")[:8]

    def is_in(self, counted: Collection[bytes], number: int) -> bool:
        """Tell whether an upload of this institution for round `number` is among `counted`, remembered or not."""
        return any(upload.startswith(self.mark(number)) for upload in counted)

    def settled(self, number: int, counted: Collection[bytes], mask: Bools) -> Residual:
        """Compute the residual once round `number` is known to hold the uploads `counted`.

        An upload of this institution that is in the sum, but not in this record, was made after the backup that the
        record was restored from: the part that it delivered is dropped from the residual.

        Args:
            number: number of the round.
            counted: ids of the uploads in the sum that are in this institution's name.
            mask: mask of the coordinates that the round sent, bool, shape (size,).
        """
        ours = self.pending if self.pending is not None and self.pending.round == number else None
        if ours is not None and ours.upload_id in counted:
            return ours.counted
        owed = ours.missed if ours is not None else self.residual
        if self.is_in(counted, number):
            return Residual(np.where(mask, 0.0, owed.values))
        return owed


class Memory:
    """Memory file of one institution in one federation."""

    def __init__(self, folder: Path, federation: bytes) -> None:
        """Make `folder` if missing, mode 0700; the file in it is named by federation id.

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
            descriptor = lock(self.path.with_suffix(".lock"))
        except OSError as error:
            raise MemoryFileError(f"cannot lock {self.path.parent}: {error.strerror}; nothing is lost") from error
        try:
            remove_leftovers(self.path)
            remove_leftovers(self._sum)
            yield
        finally:
            os.close(descriptor)

    def stamp(self) -> tuple[int, int, int]:
        """Stamp that changes whenever the file does; zeros without a file."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return (0, 0, 0)
        return (status.st_ino, status.st_mtime_ns, status.st_size)

    def store(self, record: Record) -> Record:
        """Replace the file; return the record, of which residuals that are large are mapped from the file now.

        Raises:
            MemoryFileError: the disk refuses; the old file is still whole.
        """
        pending = record.pending
        tensors, facts = taken_apart(record.shared)
        tensors["residual"] = record.residual.values
        tensors |= {f"{_LOCAL}{name}": value for name, value in record.local.items()}
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
            if pending.earlier:
                facts["pending_earlier"] = [str(kind) for kind in pending.earlier]
        if record.void >= 0:
            facts["void"] = record.void
        if record.tag:
            facts["tag"] = record.tag.hex()
        facts |= {"format": _FORMAT, "federation": self._federation.hex()}
        facts["digest"] = _digest(facts, tensors)
        try:
            metadata = {"facts": json.dumps(facts)}
            replace_private(self.path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
        except (OSError, SafetensorError) as error:
            raise MemoryFileError(
                f"cannot write {self.path}: {error}; nothing is lost, the round is repeated once there is room"
            ) from error
        return self._mapped(record) if record.nbytes >= MAPPED else record

    def _mapped(self, record: Record) -> Record:
        """Take the residuals from the file, which holds the same."""
        file, pending = MappedFile(self.path), record.pending
        if pending is not None:
            counted, missed = (Residual(file.array(name)) for name in _RESIDUALS[1:])
            pending = replace(pending, counted=counted, missed=missed)
        return replace(record, residual=Residual(file.array(_RESIDUALS[0])), pending=pending)

    def recall(self) -> Record | None:
        """Read the last record; None where there is none yet.

        Raises:
            MemoryFileError: damaged, or of another federation.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="numpy") as file:
                facts = json.loads(file.metadata()["facts"])
                require_format(facts["format"], _FORMAT, self.path, MemoryFileError)
                mapped = MappedFile(self.path) if self.path.stat().st_size >= MAPPED else None
                tensors = {
                    name: file.get_tensor(name) if mapped is None or name.startswith(_LOCAL) else mapped.array(name)
                    for name in file.keys()  # noqa: SIM118 -- not a mapping
                }
            if facts.pop("digest") != _digest(facts, tensors):
                raise MemoryFileError(self._damaged("its digest does not match"))
            if facts["federation"] != self._federation.hex():
                raise MemoryFileError(f"{self.path} belongs to another federation; it was not touched")
            if mapped is not None:
                mapped.let_go()  # all was read for the digest
                # Shared state is others' too, who go on with it when this file is replaced.
                tensors = {name: value if name in _RESIDUALS else np.array(value) for name, value in tensors.items()}
            return _record(facts, tensors)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise MemoryFileError(self._damaged(f"{type(error).__name__}: {error}")) from error

    def keep_sum(self, aggregate: Aggregate, state: SharedState) -> None:
        """Write the sum that led to a state, before that is stored: who lacks it alone gets it from here if the coordinator lost its journal.

        Raises:
            MemoryFileError: the disk refuses; the sum before it is still there.
        """
        signed = aggregate.manifests
        data = b"".join([_led_to(state), len(signed).to_bytes(8, "little"), signed, aggregate.blob])
        try:
            write_private(self._sum, hashlib.sha256(data).digest() + data)
        except OSError as error:
            raise MemoryFileError(
                f"cannot write {self._sum}: {error.strerror}; nothing is lost, the round is repeated once there is room"
            ) from error

    def last_sum(self, state: SharedState) -> Aggregate | None:
        """Read the sum that led to a state; None where another one is here, or none that is as it was written."""
        try:
            data = self._sum.read_bytes()
        except OSError:
            return None
        check, rest = data[:32], data[32:]
        if hashlib.sha256(rest).digest() != check or rest[:32] != _led_to(state):
            return None
        end = 40 + int.from_bytes(rest[32:40], "little")
        return Aggregate(state.round - 1, rest[end:], manifests=rest[40:end])

    @property
    def _sum(self) -> Path:
        return self.path.with_suffix(".sum")

    def _damaged(self, why: str) -> str:
        return (
            f"{self.path} is damaged ({why}). Restore it from backup; or remove it, and the institution catches up by "
            "replay, without what it had trained but not delivered"
        )


def _led_to(state: SharedState) -> bytes:
    """Name a state and the sums that led to it, 32 bytes, without a key."""
    return hashlib.sha256(state.digest + state.acknowledged).digest()


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
            **{name: tensors[f"pending/{name}"].tobytes() for name in _BESIDE if f"pending/{name}" in tensors},
            earlier=tuple(RoundKind(kind) for kind in facts.get("pending_earlier", ())),
        )
    local = {name.removeprefix(_LOCAL): v for name, v in tensors.items() if name.startswith(_LOCAL)}
    secret, void, tag = bytes.fromhex(facts["secret"]), int(facts.get("void", -1)), bytes.fromhex(facts.get("tag", ""))
    return Record(shared, Residual(tensors["residual"]), secret, local, pending, void, tag)
