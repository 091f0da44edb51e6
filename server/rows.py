"""Tables of the journal, and their rows as objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dictpfl.common.messages.protocol import RoundKind

_ROUND = (
    "round INTEGER, kind TEXT, started REAL, ended REAL, fold_seconds REAL, bytes_up INTEGER, ciphertexts INTEGER, "
    "rejected TEXT, senders TEXT"
)
TABLES: Mapping[str, str] = {
    "federation": "number INTEGER, id BLOB, fingerprint BLOB",
    "epochs": "number INTEGER, first_round INTEGER, fingerprint BLOB, at REAL",
    "rounds": f"{_ROUND}, counted TEXT, content BLOB, aggregate BLOB, manifests BLOB",
    "masked": f"{_ROUND}, attempt INTEGER, uploads TEXT, aggregate BLOB, manifests BLOB",
    "disputed": "round INTEGER, at REAL, told TEXT",
    "voids": "round INTEGER, at REAL, told TEXT",
    "refusals": "number INTEGER, round INTEGER, at REAL, reasons TEXT",
    "settled": "round INTEGER, at REAL",
    "stopped": "round INTEGER, at REAL",
    "attempts": "round INTEGER, next INTEGER",
    "snapshots": "round INTEGER, updates INTEGER, at REAL, data BLOB",
    "restarts": "round INTEGER, updates INTEGER, at REAL",
    "nodes": "node TEXT, name TEXT",
    "bindings": "node TEXT, epoch INTEGER, member INTEGER, at REAL",
    "excluded": "name TEXT, reason TEXT, at REAL",
}
"""Columns by table; `aggregate`, `manifests` and `data` are references to blobs, or empty (`dictpfl.server.tables`)."""


@dataclass(frozen=True, slots=True)
class ClosedRound:
    """Facts that the coordinator knows of a round: times in seconds since the Unix epoch, sizes in bytes."""

    round: int
    kind: RoundKind
    started: float
    ended: float
    fold_seconds: float
    bytes_up: int
    ciphertexts: int
    rejected: Mapping[str, str]
    """Reason by node, for uploads that are not in the sum."""
    senders: tuple[str, ...] = ()
    """Names of those whose uploads are in the sum, as far as the coordinator knows names."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Round whose sum institutions refused, or passed over as void."""

    round: int
    at: float
    """Time at which it was noted, in seconds since the Unix epoch."""
    told: tuple[str, ...]
    """Names of those who said so."""
    senders: tuple[str, ...]
    """Names of those whose uploads are in the sum."""


@dataclass(frozen=True, slots=True)
class AskedAgain:
    """Round that is open, and was asked for in vain."""

    round: int
    times: int
    at: float
    """Time of the last, in seconds since the Unix epoch."""
    reasons: Mapping[str, str]
    """Reason of the last by institution, or by node where no name is known, for those without a usable answer."""


@dataclass(frozen=True, slots=True)
class Excluded:
    """Institution that is not asked, and whose uploads are refused."""

    name: str
    reason: str
    at: float
    """Time of the exclusion, in seconds since the Unix epoch."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Sealed snapshot of the state before `round`, with `updates` update rounds in it."""

    round: int
    updates: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Masked:
    """Sum whose uploads are final and whose own masks are still on."""

    closed: ClosedRound
    attempt: int
    uploads: str
    """Upload ids and notes by member, as JSON: with them the masks come off."""
    blob: bytes
    manifests: bytes = b""


def row_of(closed: ClosedRound) -> tuple[Any, ...]:
    """Lay out a round as the first columns of its table."""
    return (
        closed.round,
        str(closed.kind),
        closed.started,
        closed.ended,
        closed.fold_seconds,
        closed.bytes_up,
        closed.ciphertexts,
        json.dumps(dict(closed.rejected)),
        json.dumps(closed.senders),
    )


COUNTED, CONTENT, AGGREGATE, MANIFESTS = range(_ROUND.count(",") + 1, _ROUND.count(",") + 5)
"""Places of columns in a row of `rounds`, after those that `row_of` lays out."""


def closed_of(row: Sequence[Any]) -> ClosedRound:
    """Read the first columns of a round's table."""
    number, kind, started, ended, fold, up, ciphertexts, rejected, senders = row[:COUNTED]
    return ClosedRound(
        number, RoundKind(kind), started, ended, fold, up, ciphertexts, json.loads(rejected), names_of(senders)
    )


def names_of(text: str) -> tuple[str, ...]:
    """Read a list of names."""
    return tuple(json.loads(text))


def counted_text(uploads: Sequence[bytes]) -> str:
    """Write upload ids down in their order.

    Raises:
        ValueError: one is there twice.
    """
    if len(set(uploads)) < len(uploads):
        raise ValueError("an upload is in a sum twice")
    return json.dumps([upload.hex() for upload in uploads])


def counted_of(text: str) -> tuple[bytes, ...]:
    """Read what `counted_text` wrote."""
    return tuple(bytes.fromhex(upload) for upload in json.loads(text))
