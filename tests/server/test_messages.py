"""Requests and replies as Flower carries them, in both directions, and what is refused of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

import dictpfl.client.messages
import dictpfl.server.messages
from dictpfl.client.messages import decode_request, encode_reply
from dictpfl.common.errors import WireError
from dictpfl.common.messages.protocol import VOID, Aggregate, Reply, Request, RoundKind, Status, Wish
from dictpfl.server.messages import decode_reply, encode_request


def a_request(number: int = 0, kind: RoundKind | None = RoundKind.UPDATE, *aggregates: Aggregate) -> Request:
    return Request(number, kind, b"f" * 32, b"k" * 32, aggregates)


def over_the_wire(content: RecordDict) -> RecordDict:
    """Take a record apart and put it together again as Flower does on the way."""
    objects = get_all_nested_objects(content)
    parts = {name: part.deflate() for name, part in objects.items()}
    whole = inflate_object_from_contents(content.object_id, parts)
    assert isinstance(whole, RecordDict)
    return whole


@pytest.mark.parametrize(
    "request_",
    [
        a_request(0),
        a_request(7, None, Aggregate(5, b"\0\1\2"), Aggregate(6, b"", (b"a" * 16, b"b" * 16))),
        a_request(7, RoundKind.SCORE, Aggregate(2**40, bytes(6_000_000), ())),
        replace(a_request(7, None, Aggregate(5, b"", (b"a" * 16,)), Aggregate(6, b"x", ())), snapshot=b"state"),
        replace(a_request(7), wish=Wish.WHOLE),
    ],
    ids=["no aggregate", "two", "more than one chunk", "a snapshot", "a wish"],
)
def test_requests_survive_the_way(request_: Request) -> None:
    assert decode_request(over_the_wire(encode_request(request_))) == request_


def test_what_would_stand_beside_a_sum_is_not_sent() -> None:
    """A sum names its uploads itself, bound to its tags."""
    request_ = a_request(7, None, Aggregate(5, b"\0\1\2", (b"a" * 16, b"b" * 16)))
    (aggregate,) = decode_request(over_the_wire(encode_request(request_))).aggregates
    assert aggregate == Aggregate(5, b"\0\1\2")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(Status.UPLOAD, 3, 3, bytes(range(256))),
        Reply(Status.BEHIND, 3, 1),
        Reply(Status.REFUSED, 0, 0, code="wrong-federation"),
        Reply(Status.UPLOAD, 3, 3, b"upload", code=VOID),
        Reply(Status.UPLOAD, 3, 3, b"upload", snapshot=b"state"),
        Reply(Status.SETTLED, 3, 3, snapshot=b"state"),
    ],
    ids=str,
)
def test_replies_survive_the_way(reply: Reply) -> None:
    assert decode_reply(over_the_wire(encode_reply(reply))) == reply


def test_both_sides_name_the_bytes_the_same() -> None:
    assert dictpfl.client.messages.STYPE == dictpfl.server.messages.STYPE


def test_bytes_are_carried_without_a_copy() -> None:
    blob = bytes(1000)
    content = encode_reply(Reply(Status.UPLOAD, 0, 0, blob))
    assert decode_reply(content).blob is blob


def blobs(data: bytes = b"", **changes: Any) -> ArrayRecord:
    fields = {"dtype": "uint8", "shape": (len(data),), "stype": "ckks.bytes", "data": data} | changes
    return ArrayRecord({"blob": Array(**fields)})


BAD_BLOBS = [
    blobs(dtype="float32"),
    blobs(stype="numpy.ndarray"),
    blobs(shape=(3,)),
    blobs(shape=()),
    ArrayRecord(),
    ConfigRecord(),
]


@pytest.mark.parametrize("bad", BAD_BLOBS, ids=range(len(BAD_BLOBS)))
def test_strange_arrays_are_refused(bad: ArrayRecord | ConfigRecord) -> None:
    for content, decode in (
        (encode_request(a_request()), decode_request),
        (encode_reply(Reply(Status.SETTLED, 0, 0)), decode_reply),
    ):
        content["blobs"] = bad
        with pytest.raises(WireError):
            decode(content)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("protocol", 1, (WireError, "version")),
        ("protocol", "2", (WireError, "version")),
        ("round", -1, (WireError, "wire")),
        ("round", 1.0, (WireError, "wire")),
        ("round", True, (WireError, "wire")),
        ("kind", "gossip", (WireError, "wire")),
        ("kind", 3, (WireError, "wire")),
        ("federation", "f" * 32, (WireError, "wire")),
        ("lengths", [4], (WireError, "oversized")),
        ("lengths", [6], (WireError, "truncated")),
        ("lengths", [-5], (WireError, "wire")),
        ("lengths", [5, 0], (WireError, "wire")),
        ("lengths", 5, (WireError, "wire")),
        ("rounds", ["0"], (WireError, "wire")),
        ("counts", [2], (WireError, "wire")),
        ("counted", [b"a" * 16], (WireError, "wire")),
        ("counted", b"a" * 15, (WireError, "wire")),
        ("snapshot", 6, (WireError, "truncated")),
        ("snapshot", 5, (WireError, "truncated")),
        ("snapshot", -1, (WireError, "wire")),
        ("snapshot", b"state", (WireError, "wire")),
        ("wish", "all", (WireError, "wire")),
        ("wish", 1, (WireError, "wire")),
        ("extra", 1, (WireError, "wire")),
        ("round", None, (WireError, "wire")),
    ],
)
def test_strange_requests_are_refused(name: str, value: Any, error: tuple[type[WireError], str]) -> None:
    kind, code = error
    content = encode_request(a_request(1, RoundKind.UPDATE, Aggregate(0, b"12345", (b"a" * 16,))))
    header = content["request"]
    assert isinstance(header, ConfigRecord)
    if value is None:
        del header[name]
    else:
        header[name] = value
    with pytest.raises(kind, check=lambda e: e.code == code):
        decode_request(content)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "fine"),
        ("status", 1),
        ("round", -1),
        ("round", True),
        ("position", 2.0),
        ("code", "Patient Doe, 42"),
        ("code", "x" * 40),
        ("code", b"wire"),
        ("code", "unconfirmed-9"),
        ("code", "unconfirmed-x"),
        ("code", "excluded"),
        ("code", "wrong-member"),
        ("code", "deadline"),
        ("code", "not-needed"),
        ("code", "not-sent"),
        ("code", "ahead-of-journal"),
        ("code", "rounds-not-kept"),
        ("code", "flower-error-3"),
        ("snapshot", 1),
        ("snapshot", -1),
        ("snapshot", b"Doe"),
        ("extra", 1),
        ("round", None),
    ],
)
def test_strange_replies_are_refused_without_repeating_them(name: str, value: Any) -> None:
    content = encode_reply(Reply(Status.SETTLED, 0, 0))
    header = content["reply"]
    assert isinstance(header, ConfigRecord)
    if value is None:
        del header[name]
    else:
        header[name] = value
    with pytest.raises(WireError) as caught:
        decode_reply(content)
    assert "Doe" not in str(caught.value)


def test_records_with_other_names_are_refused() -> None:
    with pytest.raises(WireError):
        decode_request(RecordDict())
    with pytest.raises(WireError):
        decode_reply(RecordDict({"reply": ArrayRecord(), "blobs": blobs()}))
    with pytest.raises(WireError):
        decode_request(RecordDict({"request": ArrayRecord(), "blobs": blobs()}))
    with pytest.raises(WireError):
        decode_reply(RecordDict())
