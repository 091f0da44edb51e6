"""Requests and replies as Flower records, the coordinator's side: it encodes requests and decodes replies.

Everything large is one uint8 array of raw bytes, because Flower hashes, stores and transfers every array on its
own; everything small is one `ConfigRecord`. What comes in is checked as strictly as text from a
stranger: names, types, ranges and lengths.
"""

from __future__ import annotations

import re

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from dictpfl.common.errors import CorruptError, WireError
from dictpfl.common.messages.protocol import Reply, Request, Status
from dictpfl.server.troubles import OWN_WORDS

STYPE = "ckks.bytes"
"""Name of the array's serialisation, which is none: no `np.save` header, hence no parsing and no copy."""

_CODE = re.compile(r"[a-z][a-z0-9-]{0,31}")
_LARGEST = 2**62
_FIELDS = {"status", "round", "position", "code", "snapshot"}
_DEFENCE = {"defence", "manifest"}
"""Fields of a reply that stand there only where they say something."""


def encode_request(request: Request) -> RecordDict:
    """Lay out a request as one array (snapshot, aggregates, what is said of masks) and one record of scalars."""
    aggregates = request.aggregates
    # A sum names its uploads itself, bound to its tags; what would stand beside it nobody would believe.
    counted = [() if aggregate.blob else aggregate.counted for aggregate in aggregates]
    header = ConfigRecord(
        {
            "protocol": request.protocol,
            "round": request.round,
            "kind": "" if request.kind is None else request.kind.value,
            "federation": request.federation,
            "fingerprint": request.fingerprint,
            "snapshot": len(request.snapshot),
            "wish": request.wish.value,
            "rounds": [aggregate.round for aggregate in aggregates],
            "lengths": [len(aggregate.blob) for aggregate in aggregates],
            "counts": [len(acknowledged) for acknowledged in counted],
            "counted": b"".join(upload for acknowledged in counted for upload in acknowledged),
        }
    )
    manifests = [aggregate.manifests for aggregate in aggregates]
    if request.stage or request.defence or any(manifests):
        header["stage"], header["defence"] = request.stage.value, len(request.defence)
        header["manifests"] = [len(part) for part in manifests]
    blob = b"".join([request.snapshot, *(aggregate.blob for aggregate in aggregates), *manifests, request.defence])
    array = Array(dtype="uint8", shape=(len(blob),), stype=STYPE, data=blob)
    return RecordDict({"request": header, "blobs": ArrayRecord({"blob": array})})


def decode_reply(content: RecordDict) -> Reply:
    """Read an institution's answer.

    Raises:
        WireError: another form than `dictpfl.client.messages` makes, or one of its subclasses. No text repeats what was
            in the reply, since the coordinator logs it.
    """
    if set(content) != {"reply", "blobs"}:
        raise WireError("Expected a reply of the two records 'reply' and 'blobs', found others: check versions.")
    header = content["reply"]
    if not isinstance(header, ConfigRecord) or set(header) not in (_FIELDS, _FIELDS | _DEFENCE):
        raise WireError(f"Expected the reply's header to hold {', '.join(sorted(_FIELDS))}: check versions.")
    status, code = header["status"], header["code"]
    if not isinstance(status, str) or status not in set(Status):
        raise WireError(f"Expected the reply's status to be one of {', '.join(Status)}: check versions.")
    # The code is the one free text that reaches the coordinator's log: nothing but a short word may pass.
    if not isinstance(code, str) or (code and not _CODE.fullmatch(code)):
        raise WireError("Expected the reply's code to be one short word in lower case.")
    if code.startswith(OWN_WORDS):
        raise WireError("Expected the reply's code to be an institution's own, found one of the coordinator's.")
    blob, length = _blob(content["blobs"]), _count(header, "snapshot")
    told, signed = (_count(header, name) if name in header else 0 for name in ("defence", "manifest"))
    if length + told + signed > len(blob):
        raise WireError(
            f"Expected a snapshot of {length} bytes, {told} about masks and a manifest of {signed} at the reply's end, found "
            f"{len(blob)} in all.",
            code="truncated",
        )
    manifest = len(blob) - signed
    defence = manifest - told
    end = defence - length
    return Reply(
        status=Status(status),
        round=_count(header, "round"),
        position=_count(header, "position"),
        blob=blob[:end],
        code=code,
        snapshot=blob[end:defence],
        defence=blob[defence:manifest],
        manifest=blob[manifest:],
    )


def _count(header: ConfigRecord, name: str) -> int:
    value = header[name]
    # bool is an int to isinstance, and a negative round would index journals from the end.
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise WireError(f"Expected the reply's {name} to be a whole number from 0 on.")
    return value


def _blob(record: object) -> bytes:
    if not isinstance(record, ArrayRecord) or set(record) != {"blob"}:
        raise WireError("Expected one array named 'blob' in the reply: check versions.")
    array = record["blob"]
    if array.stype != STYPE or array.dtype != "uint8" or not isinstance(array.data, bytes):
        raise WireError(f"Expected the reply's array to be uint8 of type {STYPE}: check versions.")
    if tuple(array.shape) != (len(array.data),):
        raise CorruptError("The reply's array holds another number of bytes than its shape says.")
    return array.data
