"""The custody log: who made, received and rotated what, and when. Append-only, chained, signed.

One JSON line an entry. Each carries the SHA-256 of the line before it and the party's Ed25519 signature, so an entry that
is altered, removed or moved breaks the chain, and only the party itself could write another one. What a chain cannot
show is that its end is missing: so its length and last digest stand, signed, in `custody.head`, of which others should
keep a copy.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dictpfl.common.errors import CustodyError, IdentityError
from dictpfl.common.files import locked, sync_folder, write_private
from dictpfl.deploy.ceremony.identity import PUBLIC, PublicIdentity, Signer, canonical

LOG, HEAD = "custody.jsonl", "custody.head"
_ENTRY, _HEAD = b"dictpfl custody entry 1\n", b"dictpfl custody head 1\n"
_FIRST = "0" * 64


@dataclass(frozen=True)
class Checked:
    """A log that holds: `entries` in order, `head` digest of the last line, and the `party` that signed all."""

    party: PublicIdentity
    entries: tuple[dict[str, Any], ...]
    head: str


def record(folder: Path, party: Signer, event: str, **facts: Any) -> None:
    """Append an entry; durable before this returns. Nothing secret may stand in `facts`.

    Raises:
        CustodyError: the log was altered; nothing is appended to it.
    """
    Recorder(folder, party).record(event, **facts)


class Recorder:
    """Appends to a party's log. What it has verified, and nobody has touched since, it does not verify again."""

    def __init__(self, folder: Path, party: Signer) -> None:
        self._folder, self._party = folder, party
        self._stamp: tuple[int, ...] = ()
        self._count, self._last = 0, _FIRST

    def record(self, event: str, **facts: Any) -> None:
        """Append an entry, as `record`."""
        path = self._folder / LOG
        with locked(self._folder, "custody"):
            _drop_unfinished(path)
            if self.touched:
                self._look()
            entry: dict[str, Any] = {
                "number": self._count,
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "event": event,
                "facts": facts,
                "previous": self._last,
            }
            if not self._count:
                entry["party"] = self._party.public.facts()
            entry["signature"] = self._party.sign(_ENTRY + canonical(entry)).hex()
            line = canonical(entry)
            _append(path, line + b"\n")
            head: dict[str, Any] = {"entries": self._count + 1, "head": _digest(line)}
            head["signature"] = self._party.sign(_HEAD + canonical(head)).hex()
            write_private(self._folder / HEAD, canonical(head) + b"\n")
            self._count, self._last, self._stamp = self._count + 1, _digest(line), self._stamped()

    @property
    def touched(self) -> bool:
        """Tells whether the log is another than this recorder left it, or nothing was recorded by it yet."""
        return not self._count or self._stamped() != self._stamp

    def _look(self) -> None:
        path = self._folder / LOG
        head = _head_beside(path)
        if head and not path.exists():
            raise CustodyError(
                f"{path} is missing, and {head} counts its entries; restore it from backup, or move {HEAD} away to begin another log",
                code="custody-cut",
            )
        found = verify_log(path, self._party.public, head=head) if path.exists() else None
        if found and len(found.entries) > 1 and not (self._folder / HEAD).exists():
            raise CustodyError(
                f"{self._folder / HEAD} is missing, so the log's end cannot be trusted; restore it from backup",
                code="custody-cut",
            )
        self._count, self._last = (len(found.entries), found.head) if found else (0, _FIRST)

    def _stamped(self) -> tuple[int, ...]:
        try:
            found = [(self._folder / name).stat() for name in (LOG, HEAD)]
        except OSError:
            return ()
        return tuple(number for stat in found for number in (stat.st_ino, stat.st_size, stat.st_mtime_ns))


def verify(place: Path, *, head: Path | None = None, identity: Path | None = None) -> list[Checked]:
    """Check a log, or every log in a folder.

    Args:
        place: a file, or a folder that is searched.
        head: a signed head kept elsewhere, looked at beside the one that lies with the log.
        identity: the party's `identity.pub`; the one beside the log, or the log's own first entry, by default.

    Raises:
        CustodyError: altered, or signed by another party. CustodyError (custody-cut): entries are missing at the end.
    """
    logs = sorted(place.rglob(LOG)) if place.is_dir() else [place]
    if not logs:
        raise CustodyError(f"{place} holds no {LOG}; name the folder of the party whose log it is")
    checked = []
    for log in logs:
        beside = identity or (log.parent / PUBLIC if (log.parent / PUBLIC).exists() else None)
        party = PublicIdentity.load(beside) if beside else None
        lying = _head_beside(log)
        if log.exists() and head is None and lying is None:
            raise CustodyError(
                f"{log.with_name(HEAD)} is missing, so the log's end cannot be checked; restore it, or give one that was kept elsewhere "
                "(--head)",
                code="custody-cut",
            )
        found = verify_log(log, party, head=head or lying)
        # One kept elsewhere may be older than the one here, and knows nothing of an end that was cut off since.
        checked.append(verify_log(log, found.party, head=lying) if head and lying else found)
    return checked


def drop_unfinished(folder: Path) -> None:
    """Drop what a crash or a full disk left of an entry at the end of a party's log, as the next `record` would."""
    with locked(folder, "custody"):
        _drop_unfinished(folder / LOG)


def verify_log(path: Path, party: PublicIdentity | None, *, head: Path | None) -> Checked:
    """Check one log; see `verify`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CustodyError(f"cannot read {path}: {error.strerror}") from error
    if not data.endswith(b"\n"):
        raise CustodyError(f"{path} ends in the middle of an entry; it was cut off", code="custody-cut")
    entries: list[dict[str, Any]] = []
    digests = [_FIRST]
    for line in data[:-1].split(b"\n"):
        entry = _parsed(line, f"{path}, line {len(entries) + 1}")
        if not entries:
            party = _party(entry, party, path)
        _require(entry, len(entries), digests[-1], party, f"{path}, line {len(entries) + 1}")
        entries.append(entry)
        digests.append(_digest(line))
    if party is None:
        raise CustodyError(f"{path} is empty")
    if head is not None:
        _require_head(head, digests, party, path)
    return Checked(party, tuple(entries), digests[-1])


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        if not isinstance(entry, dict) or canonical(entry) != line:
            raise ValueError(where)  # noqa: TRY301 -- one message for all
    except (ValueError, RecursionError) as error:
        raise CustodyError(f"{where}: not an entry; the log was altered") from error
    return entry


def _party(first: dict[str, Any], expected: PublicIdentity | None, path: Path) -> PublicIdentity:
    try:
        party = PublicIdentity.of(first.get("party"), str(path))
    except IdentityError as error:
        raise CustodyError(f"{path}: the first entry does not name its party; the log was altered") from error
    if expected is not None and party != expected:
        raise CustodyError(
            f"{path} is the log of {party.name} ({party.fingerprint.hex()[:12]}), expected that of {expected.name} "
            f"({expected.fingerprint.hex()[:12]})"
        )
    return party


def _require(entry: dict[str, Any], number: int, previous: str, party: PublicIdentity | None, where: str) -> None:
    if entry.get("number") != number or entry.get("previous") != previous:
        raise CustodyError(f"{where}: does not follow the line before it; an entry was altered, removed or moved")
    unsigned = {name: value for name, value in entry.items() if name != "signature"}
    if party is None or not party.verify(_signature(entry), _ENTRY + canonical(unsigned)):
        raise CustodyError(f"{where}: the signature does not fit; the entry was altered or written by somebody else")
    texts = isinstance(entry.get("event"), str) and isinstance(entry.get("at"), str)
    if not texts or not isinstance(entry.get("facts"), dict):
        raise CustodyError(
            f"{where}: its own party signed it, and it is not of the form of an entry: event, at and facts"
        )


def _require_head(path: Path, digests: list[str], party: PublicIdentity, log: Path) -> None:
    try:
        document = _parsed(path.read_bytes().rstrip(b"\n"), str(path))
        count, digest = int(document["entries"]), str(document["head"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise CustodyError(f"cannot use the signed head {path} ({type(error).__name__})") from error
    unsigned = {name: value for name, value in document.items() if name != "signature"}
    if not party.verify(_signature(document), _HEAD + canonical(unsigned)):
        raise CustodyError(f"{path}: the signature does not fit; the head was altered or is another party's")
    if count >= len(digests):
        raise CustodyError(
            f"{log} has {len(digests) - 1} entries, its signed head counts {count}; the end was cut off",
            code="custody-cut",
        )
    if digests[count] != digest:
        raise CustodyError(f"{log}: entry {count} is not the one of the signed head; the log was written anew")


def _signature(document: dict[str, Any]) -> bytes:
    try:
        return bytes.fromhex(document["signature"])
    except (KeyError, ValueError, TypeError):
        return b""


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _head_beside(log: Path) -> Path | None:
    head = log.with_name(HEAD)
    return head if head.exists() else None


def _append(path: Path, line: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        raise CustodyError(f"cannot write {path}: {error.strerror}; nothing else was done") from error


def _drop_unfinished(path: Path) -> None:
    """Drop what a crash left of an entry that was never acknowledged; the signed head does not count it."""
    if path.exists() and not (data := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
        if not path.stat().st_size:
            path.unlink()
