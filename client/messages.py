"""Requests and replies as Flower records, at the institution: it decodes requests and encodes replies.

The counterpart of `dictpfl.server.messages`, which says why the layout is what it is; the two sides never import each
other, and `tests/server/test_messages.py` holds them together.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, pairwise

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from dictpfl.common.errors import CorruptError, WireError
from dictpfl.common.messages.protocol import PROTOCOL, Aggregate, Reply, Request, RoundKind, Stage, Wish

STYPE = "ckks.bytes"
"""Name of the array's serialisation: raw bytes."""

UPLOAD_ID = 16
"""Bytes of an upload id."""

_FIELDS = {
    "protocol", "round", "kind", "federation", "fingerprint", "snapshot", "wish", "rounds", "lengths", "counts", "counted",
}  # fmt: skip
_DEFENCE = {"stage", "defence", "manifests"}
"""Fields that are left out where they would be empty."""
_LARGEST = 2**62


def encode_reply(reply: Reply) -> RecordDict:
    """Lay out a reply as one array (upload, snapshot, note on masks, manifest) and one record of scalars."""
    header = ConfigRecord(
        {
            "status": reply.status.value,
            "round": reply.round,
            "position": reply.position,
            "code": reply.code,
            "snapshot": len(reply.snapshot),
        }
    )
    if reply.defence or reply.manifest:
        header["defence"], header["manifest"] = len(reply.defence), len(reply.manifest)
    rest = reply.snapshot + reply.defence + reply.manifest
    data = reply.blob + rest if rest else reply.blob
    array = Array(dtype="uint8", shape=(len(data),), stype=STYPE, data=data)
    return RecordDict({"reply": header, "blobs": ArrayRecord({"blob": array})})


def decode_request(content: RecordDict) -> Request:
    """Read a message of the coordinator.

    Raises:
        WireError (version): another protocol.
        WireError (truncated), WireError (oversized): lengths that do not add up.
        WireError: anything else that is not of the agreed form.
    """
    if set(content) != {"request", "blobs"}:
        raise WireError(f"Expected a request of two records, request and blobs; found {sorted(content)}.")
    header = content["request"]
    if not isinstance(header, ConfigRecord):
        raise WireError("Expected the request's header to be a ConfigRecord.")
    # The version is compared first: another protocol may have other fields.
    if header.get("protocol") != PROTOCOL:
        raise WireError(
            f"Expected protocol {PROTOCOL}, found {header.get('protocol')!r}: update both sides.", code="version"
        )
    if set(header) not in (_FIELDS, _FIELDS | _DEFENCE):
        raise WireError(f"Expected the request's fields {sorted(_FIELDS)}, found {sorted(header)}.")
    blob, length = _blob(content["blobs"]), _count(header["snapshot"], "snapshot")
    blob, defence = _cut(blob, _count(header.get("defence", 0), "defence"))
    signed = _counts(header.get("manifests", []), "manifests")
    blob, manifests = _cut(blob, sum(signed))
    if len(blob) < length:
        raise WireError(f"Expected a snapshot of {length} bytes, found {len(blob)}.", code="truncated")
    return Request(
        round=_count(header["round"], "round"),
        kind=_kind(header["kind"]),
        federation=_bytes(header["federation"], "federation"),
        fingerprint=_bytes(header["fingerprint"], "fingerprint"),
        snapshot=blob[:length],
        wish=_wish(header["wish"]),
        stage=_stage(header.get("stage", "")),
        defence=defence,
        aggregates=_with(_aggregates(header, blob[length:] if length else blob), signed, manifests),
    )


def _aggregates(header: ConfigRecord, blob: bytes) -> tuple[Aggregate, ...]:
    rounds, lengths, counts = (_counts(header[name], name) for name in ("rounds", "lengths", "counts"))
    if not len(rounds) == len(lengths) == len(counts):
        raise WireError(f"Found {len(rounds)} rounds, {len(lengths)} lengths, {len(counts)} counts; they must agree.")
    counted = header["counted"]
    if not isinstance(counted, bytes) or len(counted) != UPLOAD_ID * sum(counts):
        raise WireError(f"Expected {sum(counts)} upload ids of {UPLOAD_ID} bytes each.")
    if len(blob) < sum(lengths):
        raise WireError(f"Expected {sum(lengths)} bytes of aggregates, found {len(blob)}.", code="truncated")
    if len(blob) > sum(lengths):
        raise WireError(f"Expected {sum(lengths)} bytes of aggregates, found {len(blob)}.", code="oversized")
    uploads = [counted[start : start + UPLOAD_ID] for start in range(0, len(counted), UPLOAD_ID)]
    blobs = [blob[start:stop] for start, stop in pairwise(accumulate(lengths, initial=0))]
    ids = [tuple(uploads[start:stop]) for start, stop in pairwise(accumulate(counts, initial=0))]
    return tuple(Aggregate(*parts) for parts in zip(rounds, blobs, ids, strict=True))


def _kind(value: object) -> RoundKind | None:
    if value == "":
        return None
    if not isinstance(value, str) or value not in set(RoundKind):
        raise WireError(f"Expected the request's kind to be one of {', '.join(RoundKind)} or empty, found {value!r}.")
    return RoundKind(value)


def _with(aggregates: tuple[Aggregate, ...], lengths: list[int], data: bytes) -> tuple[Aggregate, ...]:
    """Give each aggregate its manifests, which stand back to back in `data`."""
    if not lengths:
        return aggregates
    if len(lengths) != len(aggregates):
        raise WireError(f"Found {len(aggregates)} aggregates and {len(lengths)} lengths of manifests; they must agree.")
    parts = [data[start:stop] for start, stop in pairwise(accumulate(lengths, initial=0))]
    return tuple(replace(one, manifests=part) for one, part in zip(aggregates, parts, strict=True))


def _cut(blob: bytes, length: int) -> tuple[bytes, bytes]:
    """Split off the last `length` bytes."""
    if not length:
        return blob, b""
    if len(blob) < length:
        raise WireError(
            f"Expected {length} bytes of manifests and about masks at the request's end, found {len(blob)} in all.",
            code="truncated",
        )
    return blob[:-length], blob[-length:]


def _stage(value: object) -> Stage:
    if not isinstance(value, str) or value not in set(Stage):
        raise WireError(f"Expected the request's stage to be one of {', '.join(Stage)} or empty.")
    return Stage(value)


def _wish(value: object) -> Wish:
    if not isinstance(value, str) or value not in set(Wish):
        raise WireError(f"Expected the request's wish to be one of {', '.join(Wish)} or empty.")
    return Wish(value)


def _count(value: object, name: str) -> int:
    # isinstance takes a bool for an int, and a negative length would slice from the end.
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise WireError(f"Expected the request's {name} to be whole numbers from 0 on.")
    return value


def _counts(value: object, name: str) -> list[int]:
    if not isinstance(value, list):
        raise WireError(f"Expected the request's {name} to be a list.")
    return [_count(item, name) for item in value]


def _bytes(value: object, name: str) -> bytes:
    if not isinstance(value, bytes):
        raise WireError(f"Expected the request's {name} to be bytes.")
    return value


def _blob(record: object) -> bytes:
    if not isinstance(record, ArrayRecord) or set(record) != {"blob"}:
        raise WireError("Expected one array named 'blob' in the request.")
    array = record["blob"]
    if array.stype != STYPE or array.dtype != "uint8" or not isinstance(array.data, bytes):
        raise WireError(f"Expected the request's array to be uint8 of type {STYPE}.")
    if tuple(array.shape) != (len(array.data),):
        raise CorruptError("The request's array holds another number of bytes than its shape says.")
    return array.data
